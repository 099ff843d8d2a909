//! Inputs, outputs, logs and checkpoints in any object store.
//!
//! A name is written once: who writes it anew writes the same bytes. What was read is checked against the
//! [`BlobRef`] that names it, so a damaged blob is an error and never wrong data.

mod local;
#[cfg(test)]
mod tests;
mod writer;

use std::{ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path,
};
use workrs_core::{hash::ContentHash, id::Timestamp, job::BlobRef};

pub use self::writer::BlobWriter;

const DELETES_AT_ONCE: usize = 8;

/// Blobs below one root.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Where the blobs are files of this machine.
    root: Option<PathBuf>,
}

/// Why a blob was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The store says that there is no such blob.
    #[error("blob {0} does not exist")]
    Missing(String),
    /// The blob does not hold the bytes that it must hold.
    #[error("blob {0} is damaged: its bytes are not those that were written")]
    Mismatch(String),
    /// No space is left, or a quota is used up.
    #[error("the blob store is full: {0}")]
    Full(String),
    /// The store cannot be asked, or refused; trying again may help.
    #[error("the blob store is unavailable: {0}")]
    Unavailable(String),
    /// The URL of the store cannot be used.
    #[error("{0}")]
    InvalidUrl(String),
}

impl Blobs {
    /// Opens a store: `file:///absolute/folder`, taken literally and created for its owner only, or `memory:`.
    pub fn open(url: &str) -> Result<Self, BlobError> {
        if url == "memory:" {
            return Ok(Self::new(Arc::new(InMemory::new())));
        }
        let Some(path) = url.strip_prefix("file://").filter(|path| path.starts_with('/')) else {
            return Err(BlobError::InvalidUrl(format!(
                "{url:?} is not a supported blob store: use file:///absolute/folder or memory:"
            )));
        };
        let unusable = |error: &dyn std::fmt::Display| BlobError::InvalidUrl(format!("{path} cannot be used: {error}"));
        local::create(path.as_ref()).map_err(|error| unusable(&error))?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(|error| unusable(&error))?;
        let store = store.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self { store: Arc::new(store), root: Some(PathBuf::from(path)) })
    }

    /// Blobs in `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, root: None }
    }

    /// Writes a blob; it is durable once this has returned.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<BlobRef, BlobError> {
        let blob = BlobRef { name: name.to_owned(), hash: ContentHash::of(&bytes), len: bytes.len() as u64 };
        self.store.put(&path(name)?, bytes.into()).await.map_err(|error| convert(name, &error))?;
        Ok(blob)
    }

    /// Begins a blob of any size. It becomes visible, as a whole and durable, when the writer is finished.
    pub fn writer(&self, name: &str) -> BlobWriter {
        BlobWriter::new(Arc::clone(&self.store), name)
    }

    /// Reads a blob whole, verified.
    pub async fn get(&self, blob: &BlobRef) -> Result<Bytes, BlobError> {
        let bytes = self.get_unverified(&blob.name).await?;
        let matches = bytes.len() as u64 == blob.len && ContentHash::of(&bytes) == blob.hash;
        if matches { Ok(bytes) } else { Err(BlobError::Mismatch(blob.name.clone())) }
    }

    /// Reads whatever stands under a name; without a hash nothing tells whether it is what was written.
    pub async fn get_unverified(&self, name: &str) -> Result<Bytes, BlobError> {
        let result = self.store.get(&path(name)?).await.map_err(|error| convert(name, &error))?;
        result.bytes().await.map_err(|error| convert(name, &error))
    }

    /// Reads a blob piece by piece. The bytes are known to be right only at the end: the last item is an error if
    /// they were not.
    pub async fn stream(&self, blob: &BlobRef) -> Result<BoxStream<'static, Result<Bytes, BlobError>>, BlobError> {
        let name = blob.name.clone();
        let result = self.store.get(&path(&name)?).await.map_err(|error| convert(&name, &error))?;
        let pieces = result.into_stream().map_err(move |error| convert(&name, &error)).boxed();
        let verify = Verify { blob: blob.clone(), pieces, hasher: blake3::Hasher::new(), len: 0, done: false };
        Ok(futures::stream::unfold(verify, |mut verify| async { verify.next().await.map(|item| (item, verify)) })
            .boxed())
    }

    /// Reads a part of a blob, which must have all of it.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, BlobError> {
        let location = path(name)?;
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let read = async { self.store.get_opts(&location, options).await?.bytes().await };
        let error = match read.await {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start => return Ok(bytes),
            Ok(_) => return Err(BlobError::Mismatch(name.to_owned())),
            Err(error) => convert(name, &error),
        };
        // Stores have no common error for a range beyond the end: a blob that was cut off must not look like a
        // store that is out of reach.
        match error {
            BlobError::Unavailable(_) => match self.store.head(&location).await {
                Ok(meta) if meta.size < range.end => Err(BlobError::Mismatch(name.to_owned())),
                _ => Err(error),
            },
            error => Err(error),
        }
    }

    /// Names that begin with `prefix` and their lengths, sorted by name.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, BlobError> {
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..end]);
        let folder = (!folder.is_empty()).then(|| path(folder)).transpose()?;
        let metas = self.store.list(folder.as_ref()).map_ok(|meta| (String::from(meta.location), meta.size));
        let mut blobs: Vec<_> = metas.try_collect().await.map_err(|error| convert(prefix, &error))?;
        blobs.retain(|(name, _)| name.starts_with(prefix));
        blobs.sort();
        Ok(blobs)
    }

    /// Names that begin with `prefix`, which ends in a slash, and when they were written by the store's clock.
    pub async fn list_modified(&self, prefix: &str) -> Result<Vec<(String, Timestamp)>, BlobError> {
        let folder = path(prefix.trim_end_matches('/'))?;
        let millis =
            |meta: &object_store::ObjectMeta| u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        let metas = self.store.list(Some(&folder));
        let metas = metas.map_ok(|meta| (Timestamp::from_millis(millis(&meta)), String::from(meta.location)));
        metas.map_ok(|(at, name)| (name, at)).try_collect().await.map_err(|error| convert(prefix, &error))
    }

    /// Deletes a blob; that there is none is no error.
    pub async fn delete(&self, name: &str) -> Result<(), BlobError> {
        match self.store.delete(&path(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(convert(name, &error)),
        }
    }

    /// Deletes all blobs whose names begin with `prefix`.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<(), BlobError> {
        let names = futures::stream::iter(self.list(prefix).await?);
        let delete = |(name, _): (String, u64)| async move { self.delete(&name).await };
        names.map(delete).buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await?;
        self.sweep_unfinished(prefix, |_| false).await
    }

    /// Deletes what writers that died left of unfinished blobs with names below `prefix`, but for names that `keep`
    /// holds back. An object store that is not a local folder has rules of its own for that.
    pub(crate) async fn sweep_unfinished(
        &self,
        prefix: &str,
        keep: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), BlobError> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let prefix = prefix.to_owned();
        let swept = tokio::task::spawn_blocking(move || local::sweep_unfinished(&root, &prefix, keep)).await;
        let swept = swept.map_err(|error| BlobError::Unavailable(error.to_string()))?;
        swept.map_err(|error| BlobError::Unavailable(error.to_string()))
    }
}

/// A stream of pieces, and what they came to so far.
struct Verify {
    blob: BlobRef,
    pieces: BoxStream<'static, Result<Bytes, BlobError>>,
    hasher: blake3::Hasher,
    len: u64,
    done: bool,
}

impl Verify {
    async fn next(&mut self) -> Option<Result<Bytes, BlobError>> {
        if self.done {
            return None;
        }
        match self.pieces.next().await {
            Some(Ok(bytes)) => {
                self.len += bytes.len() as u64;
                self.hasher.update(&bytes);
                if self.len > self.blob.len { Some(self.mismatch()) } else { Some(Ok(bytes)) }
            }
            Some(Err(error)) => {
                self.done = true;
                Some(Err(error))
            }
            None => {
                let hash = ContentHash::from_bytes(*self.hasher.finalize().as_bytes());
                self.done = true;
                let matches = self.len == self.blob.len && hash == self.blob.hash;
                (!matches).then(|| self.mismatch())
            }
        }
    }

    fn mismatch(&mut self) -> Result<Bytes, BlobError> {
        self.done = true;
        Err(BlobError::Mismatch(self.blob.name.clone()))
    }
}

/// A name as the object store takes it; it never differs from the name.
fn path(name: &str) -> Result<Path, BlobError> {
    let path = Path::parse(name).map_err(|error| BlobError::Unavailable(error.to_string()))?;
    if path.as_ref() == name { Ok(path) } else { Err(BlobError::Unavailable(format!("{name:?} is not a blob name"))) }
}

fn convert(name: &str, error: &object_store::Error) -> BlobError {
    if matches!(error, object_store::Error::NotFound { .. }) {
        return BlobError::Missing(name.to_owned());
    }
    let text = error.to_string();
    if is_full(error) { BlobError::Full(text) } else { BlobError::Unavailable(text) }
}

/// Whether an error comes down to a disk or a quota that is full.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            if matches!(io.kind(), StorageFull | QuotaExceeded) {
                return true;
            }
            // An I/O error that wraps another error hides it from `source`.
            if io.get_ref().is_some_and(|inner| is_full(inner)) {
                return true;
            }
        }
        cause = error.source();
    }
    false
}
