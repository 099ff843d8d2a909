//! Inputs, outputs, logs and checkpoints in any object store.
//!
//! A name is written once: who writes it anew writes the same bytes. What was read is checked against the
//! [`BlobRef`] that names it, so a damaged blob is an error and never wrong data.
//!
//! With a key, whatever is written is sealed (`seal.rs` tells its form), and plain blobs from before stay readable.
//! Names, lengths and hashes are those of the plaintext everywhere in this interface.
//!
//! A blob is called missing only if the store that says so is the right one: see [`Blobs::with_marker`].

#[cfg(feature = "s3")]
mod credentials;
mod headers;
mod key;
mod local;
mod read;
#[cfg(feature = "s3")]
mod s3;
mod seal;
#[cfg(test)]
mod tests;
mod writer;

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path};
use workrs_core::{hash::ContentHash, id::Timestamp, job::BlobRef};

#[cfg(feature = "s3")]
use self::s3::is_unanswered;
use self::{headers::Headers, seal::Seal};
pub use self::{
    key::{BlobKey, InvalidKey, KeyId},
    writer::BlobWriter,
};

/// From here on it is worth another thread to seal or open bytes.
const OFF_THREAD_BYTES: usize = 1 << 20;

/// Blobs below one root.
#[derive(Clone, Debug)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Where the blobs are files of this machine.
    root: Option<PathBuf>,
    keyed: Option<Arc<Keyed>>,
    marker: Option<Arc<Marker>>,
}

/// A blob by which the right store is known.
#[derive(Debug)]
struct Marker {
    name: String,
    content: Bytes,
}

/// What it takes to read and write sealed blobs.
#[derive(Debug)]
struct Keyed {
    key: BlobKey,
    headers: Headers,
}

/// Why a blob was not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob: proof, if the store is known by a marker.
    #[error("blob {0} does not exist")]
    Missing(String),
    /// The blob does not hold the bytes that it must hold.
    #[error("blob {0} is damaged: its bytes are not those that were written")]
    Mismatch(String),
    /// No space is left, or a quota is used up.
    #[error("the blob store is full: {0}")]
    Full(String),
    /// The store cannot be asked, or refused, or the blob is sealed with a key that is not here; this says nothing
    /// about the blob, and trying again may help.
    #[error("the blob store is unavailable: {0}")]
    Unavailable(String),
    /// The URL of the store cannot be used.
    #[error("{0}")]
    InvalidUrl(String),
}

impl Blobs {
    /// Opens a store: a folder, a bucket, or memory.
    ///
    /// - `file:///absolute/folder`, taken literally and created for its owner only.
    /// - `s3://BUCKET/PREFIX` in any S3, with these parameters after a `?`, separated by `&`:
    ///   - `endpoint=http://host:3900` (or https): the server, by its bucket's path; else `AWS_ENDPOINT_URL`, else AWS.
    ///   - `region=garage`; else `AWS_REGION`, else `us-east-1`.
    ///   - `virtual-host=true`: the bucket's name stands in the host's name, not in the path.
    ///   - `credentials=/file` and `profile=name`: a file like `~/.aws/credentials`, and its section. Without it
    ///     `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`, then `AWS_SHARED_CREDENTIALS_FILE`,
    ///     then `~/.aws/credentials`.
    ///
    ///   The bucket has to exist. It should have a rule that ends unfinished multipart uploads after some days: those
    ///   that a writer leaves when it is killed are not listed, but take space.
    /// - `memory:`
    ///
    /// A bucket is not asked yet; its first use tells whether it can be used.
    pub fn open(url: &str) -> Result<Self, BlobError> {
        if url == "memory:" {
            return Ok(Self::new(Arc::new(InMemory::new())));
        }
        if url.starts_with("s3://") {
            return open_s3(url);
        }
        let Some(path) = url.strip_prefix("file://").filter(|path| path.starts_with('/')) else {
            return Err(BlobError::InvalidUrl(format!(
                "{url:?} is not a supported blob store: use file:///absolute/folder, s3://BUCKET/PREFIX or memory:"
            )));
        };
        let unusable = |error: &dyn std::fmt::Display| BlobError::InvalidUrl(format!("{path} cannot be used: {error}"));
        local::create(path.as_ref()).map_err(|error| unusable(&error))?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(|error| unusable(&error))?;
        let store = store.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self { root: Some(PathBuf::from(path)), ..Self::new(Arc::new(store)) })
    }

    /// Blobs in `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, root: None, keyed: None, marker: None }
    }

    /// The same blobs, but reached through what `wrap` makes of their store, such as a wrapper that measures it.
    #[must_use]
    pub fn through(self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        Self { store: wrap(self.store), ..self }
    }

    /// The same blobs, but what is written from now on is sealed with `key`, and what was sealed with it can be read.
    #[must_use]
    pub fn with_key(self, key: BlobKey) -> Self {
        Self { keyed: Some(Arc::new(Keyed { key, headers: Headers::default() })), ..self }
    }

    /// The same blobs, of which the blob `name` is known to hold `content` for as long as they exist. From now on a blob
    /// is called missing, and a listing is empty, only if that one can be read: a wiped bucket, another server at the
    /// same address or a folder that is not mounted has no blob either, but that proves nothing.
    #[must_use]
    pub fn with_marker(self, name: &str, content: Bytes) -> Self {
        Self { marker: Some(Arc::new(Marker { name: name.to_owned(), content })), ..self }
    }

    /// Writes a blob; it is durable once this has returned.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<BlobRef, BlobError> {
        let blob = BlobRef { name: name.to_owned(), hash: ContentHash::of(&bytes), len: bytes.len() as u64 };
        let (location, payload) = match &self.keyed {
            Some(keyed) => {
                let seal = Seal::new(&keyed.key, name)?;
                let sealed = off_thread(bytes.len(), move || seal.seal_all(&bytes)).await?;
                (sealed_path(name)?, sealed.into())
            }
            None => (path(name)?, bytes.into()),
        };
        self.store.put(&location, payload).await.map_err(|error| convert(name, &error))?;
        Ok(blob)
    }

    /// Begins a blob of any size. It becomes visible, as a whole and durable, when the writer is finished.
    pub fn writer(&self, name: &str) -> BlobWriter {
        self.writer_of_parts(name, writer::PART_BYTES)
    }

    fn writer_of_parts(&self, name: &str, part_bytes: usize) -> BlobWriter {
        let key = self.keyed.as_ref().map(|keyed| &keyed.key);
        BlobWriter::new(Arc::clone(&self.store), name, key, part_bytes)
    }

    /// Names that begin with `prefix` and the lengths of their plaintexts, sorted by name.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, BlobError> {
        let stored = self.list_stored(prefix).await?;
        let mut blobs: Vec<_> = stored.into_iter().map(|(stored, len)| plain(stored, len)).collect();
        blobs.sort();
        blobs.dedup_by(|later, earlier| later.0 == earlier.0);
        Ok(blobs)
    }

    /// Names that begin with `prefix`, which ends in a slash, and when they were written by the store's clock.
    pub async fn list_modified(&self, prefix: &str) -> Result<Vec<(String, Timestamp)>, BlobError> {
        let folder = stored_path(prefix.trim_end_matches('/'))?;
        let millis =
            |meta: &object_store::ObjectMeta| u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        let metas = self.store.list(Some(&folder));
        let metas = metas.map_ok(|meta| {
            let at = Timestamp::from_millis(millis(&meta));
            (plain(String::from(meta.location), meta.size).0, at)
        });
        metas.try_collect().await.map_err(|error| convert(prefix, &error))
    }

    /// Stored names of blobs whose names begin with `prefix`, and their stored lengths.
    async fn list_stored(&self, prefix: &str) -> Result<Vec<(String, u64)>, BlobError> {
        let folder = prefix.rfind('/').map_or("", |end| &prefix[..end]);
        let folder = (!folder.is_empty()).then(|| stored_path(folder)).transpose()?;
        let metas = self.store.list(folder.as_ref()).map_ok(|meta| (String::from(meta.location), meta.size));
        let mut stored: Vec<_> = metas.try_collect().await.map_err(|error| convert(prefix, &error))?;
        stored.retain(|(stored, _)| plain_name(stored).starts_with(prefix));
        if stored.is_empty() {
            self.see_marker(prefix).await?;
        }
        Ok(stored)
    }

    /// Deletes a blob; that there is none is no error.
    pub async fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.delete_all([name]).await
    }

    /// Deletes blobs, in any order and with few requests; that there is no such blob is no error.
    pub async fn delete_all<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<(), BlobError> {
        // Without a key there may be sealed blobs too, and with one there may be plain ones.
        let stored = names.into_iter().flat_map(|name| [sealed_path(name), path(name)]);
        self.delete_stored(stored.collect::<Result<_, _>>()?).await
    }

    async fn delete_stored(&self, stored: Vec<Path>) -> Result<(), BlobError> {
        let stored = futures::stream::iter(stored.into_iter().map(Ok)).boxed();
        let results: Vec<_> = self.store.delete_stream(stored).collect().await;
        for result in results {
            match result.map_err(|error| convert("to be deleted", &error)) {
                Ok(_) | Err(BlobError::Missing(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Deletes all blobs whose names begin with `prefix`.
    pub async fn delete_prefix(&self, prefix: &str) -> Result<(), BlobError> {
        let stored = self.list_stored(prefix).await?;
        let stored = stored.iter().map(|(stored, _)| stored_path(stored));
        self.delete_stored(stored.collect::<Result<_, _>>()?).await?;
        self.sweep_unfinished(prefix, |_| false).await
    }

    /// Deletes what writers that died left of unfinished blobs with names below `prefix`, but for names that `keep`
    /// holds back. An object store that is not a local folder has rules of its own for that.
    pub(crate) async fn sweep_unfinished(
        &self,
        prefix: &str,
        keep: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), BlobError> {
        self.sweep_unfinished_for(prefix, Duration::ZERO, keep).await
    }

    /// Deletes what writers that died left of unfinished blobs with names below `prefix`, if nothing was added to it for
    /// `time`. An object store that is not a local folder has rules of its own for that.
    pub async fn sweep_abandoned(&self, prefix: &str, time: Duration) -> Result<(), BlobError> {
        self.sweep_unfinished_for(prefix, time, |_| false).await
    }

    async fn sweep_unfinished_for(
        &self,
        prefix: &str,
        time: Duration,
        keep: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<(), BlobError> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let prefix = prefix.to_owned();
        let swept = tokio::task::spawn_blocking(move || local::sweep_unfinished(&root, &prefix, time, keep)).await;
        let swept = swept.map_err(|error| BlobError::Unavailable(error.to_string()))?;
        swept.map_err(|error| BlobError::Unavailable(error.to_string()))
    }
}

#[cfg(feature = "s3")]
fn open_s3(url: &str) -> Result<Blobs, BlobError> {
    s3::open(url).map(Blobs::new)
}

#[cfg(not(feature = "s3"))]
fn open_s3(_: &str) -> Result<Blobs, BlobError> {
    let text = "this program was built without S3: build it with the feature s3, or use file:///absolute/folder";
    Err(BlobError::InvalidUrl(text.to_owned()))
}

/// Where a plain blob is stored: under its name, which no sealed blob can have.
fn path(name: &str) -> Result<Path, BlobError> {
    if name.ends_with(seal::SUFFIX) { Err(not_a_name(name)) } else { stored_path(name) }
}

/// Where a sealed blob is stored.
fn sealed_path(name: &str) -> Result<Path, BlobError> {
    path(name)?;
    stored_path(&format!("{name}{}", seal::SUFFIX))
}

/// A stored name as the object store takes it; it never differs from the name.
fn stored_path(name: &str) -> Result<Path, BlobError> {
    let path = Path::parse(name).map_err(|error| BlobError::Unavailable(error.to_string()))?;
    if path.as_ref() == name { Ok(path) } else { Err(not_a_name(name)) }
}

fn not_a_name(name: &str) -> BlobError {
    BlobError::Unavailable(format!("{name:?} is not a blob name"))
}

/// The name of the blob that is stored under this one.
fn plain_name(stored: &str) -> &str {
    stored.strip_suffix(seal::SUFFIX).unwrap_or(stored)
}

/// Name and length of the plaintext of what is stored under this name with this length.
fn plain(stored: String, len: u64) -> (String, u64) {
    match stored.strip_suffix(seal::SUFFIX) {
        Some(name) => (name.to_owned(), seal::plain_len(len)),
        None => (stored, len),
    }
}

/// Seals or opens `len` bytes where it holds nobody up.
async fn off_thread<T: Send + 'static>(
    len: usize,
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    if len < OFF_THREAD_BYTES {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(BlobError::Unavailable(error.to_string())))
}

fn convert(name: &str, error: &object_store::Error) -> BlobError {
    #[cfg(feature = "s3")]
    if let Some(diagnosed) = s3::diagnose(name, error) {
        return diagnosed;
    }
    if matches!(error, object_store::Error::NotFound { .. }) {
        return BlobError::Missing(name.to_owned());
    }
    let text = error.to_string();
    if is_full(error) { BlobError::Full(text) } else { BlobError::Unavailable(text) }
}

#[cfg(not(feature = "s3"))]
fn is_unanswered(_: &object_store::Error) -> bool {
    false
}

/// Whether an error comes down to a disk or a quota that is full.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    let mut kinds = causes(error).filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.any(|kind| matches!(kind, StorageFull | QuotaExceeded))
}

/// An error, what caused it, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        // An I/O error that wraps another error hides it from `source`.
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), |error| cause(*error))
}
