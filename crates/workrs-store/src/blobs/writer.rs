//! Blobs of any size, written in bounded memory.

use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, buffered::BufWriter};
use tokio::io::AsyncWriteExt;
use workrs_core::{hash::ContentHash, job::BlobRef};

use super::{BlobError, convert, path};

/// Size of the parts that are uploaded; object stores want at least 5 MiB. A smaller blob is one PUT.
const PART_BYTES: usize = 8 << 20;
/// Parts under way at once: with the one that fills up, memory is bounded by three parts.
const PARTS_AT_ONCE: usize = 2;

/// Writes one blob. Dropped or aborted before it is finished, it leaves no visible blob.
pub struct BlobWriter {
    writer: Result<BufWriter, BlobError>,
    name: String,
    hasher: blake3::Hasher,
    len: u64,
}

impl BlobWriter {
    pub(super) fn new(store: Arc<dyn ObjectStore>, name: &str) -> Self {
        let writer = path(name)
            .map(|path| BufWriter::with_capacity(store, path, PART_BYTES).with_max_concurrency(PARTS_AT_ONCE));
        Self { writer, name: name.to_owned(), hasher: blake3::Hasher::new(), len: 0 }
    }

    /// Appends bytes; waits while too many are under way. After an error the writer is of no further use.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&bytes);
        self.len += bytes.len() as u64;
        let writer = self.writer.as_mut().map_err(|error| error.clone())?;
        writer.put(bytes).await.map_err(|error| convert(&self.name, &error))
    }

    /// Makes the blob visible; it is durable once this has returned.
    pub async fn finish(self) -> Result<BlobRef, BlobError> {
        let mut writer = self.writer?;
        writer.shutdown().await.map_err(|error| convert_io(&self.name, error))?;
        let hash = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
        Ok(BlobRef { name: self.name, hash, len: self.len })
    }

    /// Gives up, and frees what the store holds already.
    pub async fn abort(self) -> Result<(), BlobError> {
        self.writer?.abort().await.map_err(|error| convert(&self.name, &error))
    }
}

fn convert_io(name: &str, error: std::io::Error) -> BlobError {
    let source = Box::new(error);
    convert(name, &object_store::Error::Generic { store: "blobs", source })
}
