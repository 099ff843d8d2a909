//! The contract of a state store: a small, ordered, durable map with conditional transactions, watches and leases.
//!
//! Values are opaque bytes, keys are UTF-8 and sorted by their bytes. Every committed transaction that changes
//! something gets a revision, greater than all before it. A backend implements [`StateStore`] and lists itself in [`crate::conformance`].

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use workrs_core::job::decide::Guard;

/// The number of a committed transaction; 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Names a lease of one store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A value and when it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// What stands there.
    pub value: Bytes,
    /// The transaction that wrote it.
    pub revision: Revision,
}

/// Entries in key order, all as of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Up to as many as were asked for.
    pub entries: Vec<Entry>,
    /// Whether there are more behind the last.
    pub more: bool,
    /// The newest revision when this was read: watch from here to miss nothing.
    pub revision: Revision,
}

/// What was written below a prefix since a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Those that stand there and were written since, in key order. What was deleted since is not among them.
    pub entries: Vec<Entry>,
    /// How many entries stand there in all.
    pub total: usize,
    /// The newest revision when this was read, or when reading it began.
    pub revision: Revision,
}

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing stands at the key.
    Absent(String),
    /// Something stands at the key.
    Present(String),
    /// What stands at the key was written by this transaction, also if it wrote the same bytes as stood there before.
    Unchanged(String, Revision),
}

impl From<&Guard> for Condition {
    fn from(guard: &Guard) -> Self {
        if guard.wants_key() { Self::Present(guard.key()) } else { Self::Absent(guard.key()) }
    }
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a value; with a lease the key goes when the lease ends.
    Put(String, Bytes, Option<LeaseId>),
    /// Removes a key; nothing happens if it is absent.
    Delete(String),
}

/// Changes that happen together if all conditions hold, or not at all. One that changes a key twice is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold.
    pub conditions: Vec<Condition>,
    /// All happen.
    pub changes: Vec<Change>,
}

/// Something that happened to a watched key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// A value was written.
    Put(Entry),
    /// The key is gone: deleted, or its lease ended.
    Deleted {
        /// Which key.
        key: String,
        /// By which transaction.
        revision: Revision,
    },
    /// Events were missed and cannot be had any more, and the watch ends: list again, then watch from there.
    Compacted,
}

/// A running watch; dropping it ends it. The stream also ends when the store is closed.
pub type Watch = mpsc::Receiver<WatchEvent>;

/// Why an operation gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A condition did not hold: nothing was written.
    #[error("a condition of the transaction did not hold")]
    Conflict,
    /// The store could not be asked, or refused: nothing was written. Trying again may help.
    #[error("the state store is unavailable: {0}")]
    Unavailable(String),
    /// The transaction may have been applied, or may yet be: re-read before acting, and until it is settled
    /// delete nothing and start no other operation on its keys.
    #[error("the outcome of the transaction is unknown: {0}")]
    Unknown(String),
    /// The lease of a put is gone: nothing was written.
    #[error("the lease ended")]
    LeaseEnded,
    /// What stands there cannot be what was written: bit rot, or somebody else's data.
    #[error("the state store is damaged: {0}")]
    Damaged(String),
}

/// How full a store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// What it takes, history that was not forgotten yet included.
    pub used_bytes: u64,
    /// Where it stops to take writes; `None` means at the end of its disk.
    pub quota_bytes: Option<u64>,
    /// Why it takes no writes, or will soon take none.
    pub alarm: Option<String>,
}

/// A small, ordered, durable map.
///
/// Crash contract: once [`commit`](Self::commit) has returned `Ok`, the transaction survives kill -9 and power
/// loss. Reads are linearizable: they reflect every commit that was acknowledged before they began.
#[async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// What stands at `key`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StateError>;

    /// Entries whose keys begin with `prefix` and lie behind `after`, at most `limit`, in key order.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, StateError>;

    /// Entries whose keys begin with `prefix` and that were written behind revision `since`, and how many there are in all.
    /// Whoever knows what stood there at `since` sees by that number whether anything was deleted.
    async fn list_written(&self, prefix: &str, since: Revision) -> Result<Written, StateError> {
        list_written_by_pages(self, prefix, since).await
    }

    /// Applies all changes of a transaction if all its conditions hold, and gives its revision. One that changes
    /// nothing, such as deleting what is absent, gives the newest revision. If the future is dropped, the
    /// transaction may be applied all the same.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StateError>;

    /// Everything that happens behind revision `from` to keys that begin with `prefix`, in order, nothing twice.
    /// A watcher that falls far behind is ended with [`WatchEvent::Compacted`]; nobody waits for it.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StateError>;

    /// A new lease. It lives until it is revoked, or is not renewed for `ttl`; on one machine's store, until the
    /// process ends, however long it takes.
    async fn grant_lease(&self, ttl: std::time::Duration) -> Result<LeaseId, StateError>;

    /// Renews a lease for its full time; [`StateError::LeaseEnded`] if it is gone.
    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StateError>;

    /// Whether a lease ends by itself when it is not renewed in time.
    fn leases_end_by_time(&self) -> bool;

    /// Ends a lease and with it its keys. A lease that is gone already is no error.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StateError>;

    /// How full the store is.
    async fn usage(&self) -> Result<Usage, StateError>;

    /// Forgets what was overwritten or deleted before revision `before`: a watch from an earlier revision may then be
    /// told [`WatchEvent::Compacted`]. What stands now is not touched. A store that refuses writes because it is full
    /// takes them again if this made room. To ask twice, or for what is forgotten already, is no error.
    async fn compact(&self, before: Revision) -> Result<(), StateError>;
}

/// [`StateStore::list_written`] for a store that can only list all.
pub(crate) async fn list_written_by_pages<S: StateStore + ?Sized>(
    store: &S,
    prefix: &str,
    since: Revision,
) -> Result<Written, StateError> {
    const PAGE: usize = 2_000;
    let mut written = Written { entries: Vec::new(), total: 0, revision: Revision(0) };
    let mut after = None;
    loop {
        let mut page = store.list(prefix, after.as_deref(), PAGE).await?;
        if after.is_none() {
            written.revision = page.revision;
        }
        written.total += page.entries.len();
        after = page.entries.last().map(|entry| entry.key.clone());
        page.entries.retain(|entry| entry.revision > since);
        written.entries.append(&mut page.entries);
        if !page.more {
            return Ok(written);
        }
    }
}

/// All keys that begin with `prefix`, in their order.
pub async fn list_keys(store: &dyn StateStore, prefix: &str) -> Result<Vec<String>, StateError> {
    const PAGE: usize = 500;
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = store.list(prefix, all.last().map(String::as_str), PAGE).await?;
        all.extend(page.entries.into_iter().map(|entry| entry.key));
        if !page.more {
            return Ok(all);
        }
    }
}
