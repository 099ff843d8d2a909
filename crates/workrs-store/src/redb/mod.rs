//! One machine's state in a file, on [redb](https://docs.rs/redb).
//!
//! - Commits are durable when they return; concurrent ones share a sync (module `writer`).
//! - Watches are served from memory (module `hub`), since only this process writes the file.
//! - A lease lives as long as the process that has the file open: opening it deletes what stood under leases.
//!
//! Everything that touches the disk runs in `spawn_blocking`, so a paused clock stands still meanwhile.

mod disk;
mod hub;
mod value;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use redb::{ReadTransaction, backends::InMemoryBackend};

pub use self::disk::OpenError;
use self::{
    disk::{Disk, ENTRIES, META, Opener, REVISION},
    writer::{Request, Writer, lock},
};
use crate::state::{Entry, LeaseId, Page, Revision, StateError, StateStore, Transaction, Usage, Watch};

/// A state store in one file, or in memory for tests.
pub struct RedbStore {
    writer: Arc<Writer>,
    path: Option<PathBuf>,
}

impl RedbStore {
    /// Opens or creates a state file, which others of this machine cannot read (mode 0600). It stays locked until
    /// the store is dropped and its last operation has ended; see [`RedbStore::close`].
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let (path, path_kept) = (path.to_owned(), path.to_owned());
        let opener: Opener = Box::new(move || {
            create(&path).map_err(|error| OpenError::Unusable(format!("{}: {error}", path.display())))?;
            Ok(disk::builder().create(&path)?)
        });
        let opened = tokio::task::spawn_blocking(move || Self::open_with(opener, Some(path_kept))).await;
        // redb panics on some kinds of damage.
        opened.unwrap_or_else(|error| Err(OpenError::Damaged(error.to_string())))
    }

    /// A store that ends with its process, for tests.
    pub fn in_memory() -> Self {
        let opener: Opener = Box::new(|| Ok(disk::builder().create_with_backend(InMemoryBackend::new())?));
        Self::open_with(opener, None).expect("memory can always be opened")
    }

    fn open_with(opener: Opener, path: Option<PathBuf>) -> Result<Self, OpenError> {
        let (disk, revision) = Disk::open(opener)?;
        Ok(Self { writer: Arc::new(Writer::new(disk, revision)), path })
    }

    /// Waits for running operations, then releases the file: after it, the file can be opened again.
    pub async fn close(self) {
        while Arc::strong_count(&self.writer) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<Result<T, StateError>, redb::Error> + Send + 'static,
    ) -> Result<T, StateError> {
        let writer = Arc::clone(&self.writer);
        let done = tokio::task::spawn_blocking(move || {
            let transaction = writer.disk.begin_read()?;
            let result = read(&transaction);
            drop(transaction);
            result.unwrap_or_else(|error| Err(writer.disk.failed(error)))
        });
        done.await.unwrap_or_else(|error| Err(join_error(&error)))
    }
}

#[async_trait]
impl StateStore for RedbStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError> {
        let key = key.to_owned();
        self.read(move |transaction| {
            let stored = transaction.open_table(ENTRIES)?.get(key.as_str())?;
            Ok(stored.map(|stored| value::decode(&key, stored.value())).transpose())
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StateError> {
        let prefix = prefix.to_owned();
        let after = after.map(str::to_owned);
        self.read(move |transaction| list(transaction, &prefix, after.as_deref(), limit)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Revision, StateError> {
        self.writer.submit(Request::Commit(transaction)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StateError> {
        Ok(lock(&self.writer.hub).watch(prefix, from))
    }

    async fn grant_lease(&self, _ttl: Duration) -> Result<LeaseId, StateError> {
        let lease = LeaseId(rand::random());
        lock(&self.writer.leases).insert(lease);
        Ok(lease)
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        if lock(&self.writer.leases).contains(&lease) { Ok(()) } else { Err(StateError::LeaseEnded) }
    }

    fn leases_end_by_time(&self) -> bool {
        false
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StateError> {
        self.writer.submit(Request::Revoke(lease)).await.map(drop)
    }

    async fn usage(&self) -> Result<Usage, StateError> {
        let used_bytes = self.path.as_ref().and_then(|path| path.metadata().ok()).map_or(0, |file| file.len());
        Ok(Usage { used_bytes, quota_bytes: None, alarm: None })
    }

    /// The file has no history; what watches may ask for is bounded by itself.
    async fn compact(&self, _before: Revision) -> Result<(), StateError> {
        Ok(())
    }
}

fn list(
    transaction: &ReadTransaction,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Result<Page, StateError>, redb::Error> {
    let meta = transaction.open_table(META)?;
    let revision = Revision(meta.get(REVISION)?.map_or(0, |revision| revision.value()));
    let table = transaction.open_table(ENTRIES)?;
    let start = after.map_or(prefix, |after| after.max(prefix));
    let mut page = Page { entries: Vec::new(), more: false, revision };
    for item in table.range(start..)? {
        let (key, stored) = item?;
        let key = key.value();
        if !key.starts_with(prefix) {
            break;
        }
        if after.is_some_and(|after| key <= after) {
            continue;
        }
        if page.entries.len() == limit {
            page.more = true;
            break;
        }
        match value::decode(key, stored.value()) {
            Ok(entry) => page.entries.push(entry),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(page))
}

/// Makes sure that the file is there, for its owner only, and that its name survives a power cut.
fn create(path: &Path) -> std::io::Result<()> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

fn join_error(error: &tokio::task::JoinError) -> StateError {
    if error.is_panic() {
        StateError::Damaged("reading the state file panicked".to_owned())
    } else {
        StateError::Unavailable("the process is shutting down".to_owned())
    }
}
