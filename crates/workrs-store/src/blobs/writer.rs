//! Blobs of any size, written in bounded memory.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, buffered::BufWriter};
use tokio::{io::AsyncWriteExt, runtime::Handle};
use workrs_core::{hash::ContentHash, job::BlobRef};

use super::{
    BlobError, BlobKey, convert, path,
    seal::{Seal, Sealer},
    sealed_path,
};

/// Size of the parts that are uploaded; object stores want at least 5 MiB. A smaller blob is one PUT.
pub(super) const PART_BYTES: usize = 8 << 20;
/// Parts under way at once: with the one that fills up, memory is bounded by three parts.
const PARTS_AT_ONCE: usize = 2;
/// Bytes that are sealed before they are handed on.
const SEAL_BYTES: usize = 1 << 20;

/// Writes one blob. Dropped or aborted before it is finished, it leaves no visible blob.
pub struct BlobWriter {
    writer: Result<(Upload, Option<Sealer>), BlobError>,
    name: String,
    hasher: blake3::Hasher,
    len: u64,
}

impl BlobWriter {
    pub(super) fn new(store: Arc<dyn ObjectStore>, name: &str, key: Option<&BlobKey>, part_bytes: usize) -> Self {
        let begin = || {
            let sealer = key.map(|key| Ok(Sealer::new(Seal::new(key, name)?))).transpose()?;
            let path = if sealer.is_some() { sealed_path(name)? } else { path(name)? };
            let writer = BufWriter::with_capacity(store, path, part_bytes).with_max_concurrency(PARTS_AT_ONCE);
            Ok((Upload(Some(writer)), sealer))
        };
        Self { writer: begin(), name: name.to_owned(), hasher: blake3::Hasher::new(), len: 0 }
    }

    /// Appends bytes; waits while too many are under way. After an error the writer is of no further use.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&bytes);
        self.len += bytes.len() as u64;
        let (writer, sealer) = self.writer.as_mut().map_err(|error| error.clone())?;
        let Some(sealer) = sealer else { return put(writer, &self.name, bytes).await };
        for piece in bytes.chunks(SEAL_BYTES) {
            put(writer, &self.name, sealer.push(piece)?.into()).await?;
        }
        Ok(())
    }

    /// Makes the blob visible; it is durable once this has returned.
    pub async fn finish(self) -> Result<BlobRef, BlobError> {
        let (mut writer, sealer) = self.writer?;
        if let Some(sealer) = sealer {
            put(&mut writer, &self.name, sealer.finish()?.into()).await?;
        }
        // From here on it cleans up after itself.
        let mut writer = writer.0.take().ok_or_else(ended)?;
        writer.shutdown().await.map_err(|error| convert_io(&self.name, error))?;
        let hash = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
        Ok(BlobRef { name: self.name, hash, len: self.len })
    }

    /// Gives up, and frees what the store holds already.
    pub async fn abort(self) -> Result<(), BlobError> {
        let (mut writer, _) = self.writer?;
        let mut writer = writer.0.take().ok_or_else(ended)?;
        writer.abort().await.map_err(|error| convert(&self.name, &error))
    }
}

/// What was not finished is given up, so that the store does not keep its parts for ever.
struct Upload(Option<BufWriter>);

impl Drop for Upload {
    fn drop(&mut self) {
        if let (Some(mut writer), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = writer.abort().await {
                    tracing::debug!(%error, "the parts of an unfinished blob stay until the store's own rules end them");
                }
            });
        }
    }
}

async fn put(writer: &mut Upload, name: &str, bytes: Bytes) -> Result<(), BlobError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let writer = writer.0.as_mut().ok_or_else(ended)?;
    writer.put(bytes).await.map_err(|error| convert(name, &error))
}

fn ended() -> BlobError {
    BlobError::Unavailable("the writer has ended".to_owned())
}

fn convert_io(name: &str, error: std::io::Error) -> BlobError {
    let source = Box::new(error);
    convert(name, &object_store::Error::Generic { store: "blobs", source })
}
