//! The database file: its tables, how it is opened, and how it is opened again after its disk failed.
//!
//! redb refuses everything after the first failed write or sync, such as on a full disk, until the file is opened
//! anew. [`Disk`] does that at the next operation, so that a store heals once its disk has space again.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
};

use crate::state::{Revision, StateError};

/// Key to encoded value, see [`super::value`].
pub(super) const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
/// Which keys stand under which lease.
pub(super) const LEASED: TableDefinition<'_, &str, i64> = TableDefinition::new("leased");
/// [`REVISION`] and [`FORMAT`].
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The newest revision.
pub(super) const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;
/// Memory that redb may use for pages; its own default is 1 GiB.
const CACHE_BYTES: usize = 64 << 20;

/// Why a state file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle of this one, has it open.
    #[error("the state file is in use by another process")]
    Locked,
    /// It is not a state file, or no longer one.
    #[error("the state file is damaged: {0}")]
    Damaged(String),
    /// A newer version wrote it.
    #[error("the state file has format {0}, this version reads {FORMAT_VERSION}")]
    Version(u64),
    /// The file system refused.
    #[error("the state file cannot be used: {0}")]
    Unusable(String),
}

/// Opens the database, the same one each time.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, OpenError> + Send + Sync>;

pub(super) struct Disk {
    opener: Opener,
    state: RwLock<State>,
}

struct State {
    /// `None` after a failure, until it could be opened again.
    database: Option<Database>,
    /// The newest revision known to be committed.
    committed: Revision,
    /// Where a commit whose outcome is not known would lead.
    attempted: Revision,
}

impl Disk {
    /// Opens the database and deletes what stood under the leases of the process before. Gives the newest revision.
    pub(super) fn open(opener: Opener) -> Result<(Self, Revision), OpenError> {
        let database = opener()?;
        let revision = prepare(&database).map_err(open_error)??;
        let state = State { database: Some(database), committed: revision, attempted: revision };
        Ok((Self { opener, state: RwLock::new(state) }, revision))
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, StateError> {
        self.reopen_if_closed()?;
        let begun = self.state().database.as_ref().ok_or_else(closed)?.begin_read();
        begun.map_err(|error| self.failed(error.into()))
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, StateError> {
        self.reopen_if_closed()?;
        let begun = self.state().database.as_ref().ok_or_else(closed)?.begin_write();
        begun.map_err(|error| self.failed(error.into()))
    }

    /// Commits what leads to `revision`, durably.
    pub(super) fn commit(&self, transaction: WriteTransaction, revision: Revision) -> Result<(), StateError> {
        self.state_mut().attempted = revision;
        match transaction.commit() {
            Ok(()) => {
                self.state_mut().committed = revision;
                Ok(())
            }
            Err(error) => {
                let cause = error.to_string();
                self.close();
                match self.reopen_if_closed() {
                    Ok(()) if self.state().committed < revision => Err(StateError::Unavailable(cause)),
                    _ => Err(StateError::Unknown(cause)),
                }
            }
        }
    }

    /// What an error of redb means to the caller. After a failure of the disk the next operation opens the file
    /// anew; no transaction may be open any more.
    pub(super) fn failed(&self, error: redb::Error) -> StateError {
        match error {
            redb::Error::Corrupted(text) => StateError::Damaged(text),
            error => {
                self.close();
                StateError::Unavailable(error.to_string())
            }
        }
    }

    /// Closes the file after a failure.
    pub(super) fn close(&self) {
        self.state_mut().database = None;
    }

    fn reopen_if_closed(&self) -> Result<(), StateError> {
        if self.state().database.is_some() {
            return Ok(());
        }
        let mut state = self.state_mut();
        if state.database.is_some() {
            return Ok(());
        }
        let unavailable = |error: OpenError| StateError::Unavailable(error.to_string());
        let database = (self.opener)().map_err(unavailable)?;
        let revision = read_revision(&database).map_err(open_error).map_err(unavailable)?;
        // Anything else means that another process had the file in between: our leases and watches are void.
        if revision != state.committed && revision != state.attempted {
            return Err(StateError::Damaged("the state file was changed by another process".to_owned()));
        }
        state.committed = revision;
        state.database = Some(database);
        Ok(())
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How every database is opened: nothing in it is trusted that a checksum does not cover.
pub(super) fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Makes the tables, and ends all leases of the process before.
fn prepare(database: &Database) -> Result<Result<Revision, OpenError>, redb::Error> {
    let transaction = database.begin_write()?;
    let mut changed = false;
    let revision = {
        let mut meta = transaction.open_table(META)?;
        let format = meta.get(FORMAT)?.map(|format| format.value());
        match format {
            Some(FORMAT_VERSION) => {}
            Some(other) => return Ok(Err(OpenError::Version(other))),
            None => {
                meta.insert(FORMAT, FORMAT_VERSION)?;
                changed = true;
            }
        }
        let mut revision = meta.get(REVISION)?.map_or(0, |revision| revision.value());
        let mut entries = transaction.open_table(ENTRIES)?;
        let mut leased = transaction.open_table(LEASED)?;
        let keys: Vec<String> =
            leased.iter()?.map(|item| item.map(|(key, _)| key.value().to_owned())).collect::<Result<_, _>>()?;
        for key in &keys {
            entries.remove(key.as_str())?;
            leased.remove(key.as_str())?;
        }
        if !keys.is_empty() {
            revision += 1;
            meta.insert(REVISION, revision)?;
            changed = true;
        }
        Revision(revision)
    };
    if changed {
        transaction.commit()?;
    }
    Ok(Ok(revision))
}

fn read_revision(database: &Database) -> Result<Revision, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(Revision(meta.get(REVISION)?.map_or(0, |revision| revision.value())))
}

fn open_error(error: redb::Error) -> OpenError {
    match error {
        redb::Error::Corrupted(text) => OpenError::Damaged(text),
        error @ (redb::Error::TableTypeMismatch { .. } | redb::Error::TableIsMultimap(_)) => {
            OpenError::Damaged(error.to_string())
        }
        error => OpenError::Unusable(error.to_string()),
    }
}

impl From<DatabaseError> for OpenError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::Locked,
            DatabaseError::Storage(StorageError::Io(io)) if io.kind() != std::io::ErrorKind::InvalidData => {
                Self::Unusable(io.to_string())
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}

fn closed() -> StateError {
    StateError::Unavailable("the state file is closed after a failure of its disk".to_owned())
}
