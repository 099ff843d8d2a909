//! All jobs of the group at a glance, newest first: what lists are filtered, sorted and counted by, without reading the
//! records of thousands. It is made of the keys of owners, queue, running and ended jobs when somebody asks; after that only
//! what was written since is read, or all again if jobs were deleted. Nobody watches anything for it, and a node that nobody
//! asks does nothing.

mod cursor;
mod filter;
mod snapshot;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use tokio::{sync::Mutex, time::Instant};
use workrs_core::{
    id::{JobId, NodeId, Owner, Timestamp},
    index::OutcomeKind,
    job::{JobRecord, JobState},
    keys,
};
use workrs_store::records::{RecordError, Records};

use self::snapshot::Snapshot;
pub use self::{
    cursor::{Cursor, InvalidCursor},
    filter::{Counts, Filter, Order, Page, StateKind, UnknownState},
};

/// How old the answer to [`JobIndex::recent`] may be.
const RECENT: Duration = Duration::from_secs(1);
/// Records of a page that are read at once.
const READS_AT_ONCE: usize = 16;

/// What a list shows of a job without its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: JobId,
    /// Who handed it over.
    pub owner: Owner,
    /// What people call it.
    pub name: String,
    /// When it was acknowledged.
    pub submitted_at: Timestamp,
    /// Where it stands.
    pub standing: Standing,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a node.
    Queued,
    /// A node holds it.
    Running {
        /// Which.
        node: NodeId,
    },
    /// It has ended.
    Finished {
        /// When.
        at: Timestamp,
        /// How.
        outcome: OutcomeKind,
    },
}

impl Row {
    /// What a list shows of the job that `record` is of.
    pub fn of(record: &JobRecord) -> Self {
        let standing = match &record.state {
            JobState::Queued { .. } => Standing::Queued,
            JobState::Running { holder, .. } => Standing::Running { node: holder.node.clone() },
            JobState::Finished { at, outcome, .. } => Standing::Finished { at: *at, outcome: outcome.into() },
        };
        Self {
            id: record.id.clone(),
            owner: record.owner.clone(),
            name: record.spec.name.clone(),
            submitted_at: record.submitted_at,
            standing,
        }
    }
}

/// All jobs of the group at a glance.
pub struct JobIndex {
    records: Records,
    known: Mutex<Option<Arc<Snapshot>>>,
}

impl fmt::Debug for JobIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobIndex").finish_non_exhaustive()
    }
}

impl JobIndex {
    /// Of the jobs in `records`; nothing is read before somebody asks.
    pub fn new(records: Records) -> Self {
        Self { records, known: Mutex::new(None) }
    }

    /// The jobs that `filter` lets through, of `owner` only or of all: a page of them, and how many there are. It reflects
    /// every change that was acknowledged before it was asked.
    pub async fn query(&self, filter: &Filter, owner: Option<&Owner>) -> Result<Page, RecordError> {
        Ok(self.snapshot(Instant::now()).await?.page(filter, owner))
    }

    /// The same, but it may have been so a second ago: for what asks again and again.
    pub async fn recent(&self, filter: &Filter, owner: Option<&Owner>) -> Result<Page, RecordError> {
        let now = Instant::now();
        Ok(self.snapshot(now.checked_sub(RECENT).unwrap_or(now)).await?.page(filter, owner))
    }

    /// The records of `rows`, in their order. Those of jobs that were deleted meanwhile, or are
    /// damaged, are left out.
    pub async fn read(&self, rows: &[Row]) -> Result<Vec<JobRecord>, RecordError> {
        let mut found = Vec::with_capacity(rows.len());
        let ids: Vec<JobId> = rows.iter().map(|row| row.id.clone()).collect();
        let records = &self.records;
        let mut reads = stream::iter(ids)
            .map(|id| async move {
                let read = records.get(&id).await;
                (id, read)
            })
            .buffered(READS_AT_ONCE);
        while let Some((id, read)) = reads.next().await {
            match read {
                Ok(record) => found.extend(record),
                // One that is damaged does not hide the others.
                Err(RecordError::Damaged(reason)) => {
                    tracing::error!(job = %id, reason, "its record is damaged and left out of the list");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// How it stands, newer than `not_before`. Who asks while it is read waits for that, or for the next time.
    async fn snapshot(&self, not_before: Instant) -> Result<Arc<Snapshot>, RecordError> {
        let mut known = self.known.lock().await;
        if let Some(snapshot) = known.as_ref().filter(|snapshot| snapshot.began > not_before) {
            return Ok(Arc::clone(snapshot));
        }
        let began = Instant::now();
        if let Some(snapshot) = known.as_mut() {
            // The store's newest revision, whatever key is asked for.
            let newest = self.records.store().list(keys::GROUP_ID, None, 1).await?.revision;
            if newest == snapshot.revision {
                Arc::make_mut(snapshot).began = began;
                return Ok(Arc::clone(snapshot));
            }
            // A store that was set back, as by restoring a backup, does not tell by its revisions what is new.
            if newest > snapshot.revision
                && let Some(changes) = snapshot.changes(&self.records, began).await?
            {
                Arc::make_mut(snapshot).apply(changes);
                return Ok(Arc::clone(snapshot));
            }
        }
        let snapshot = Arc::new(Snapshot::take(&self.records, known.as_deref(), began).await?);
        *known = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }
}
