//! One reading of the keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures::{StreamExt, TryStreamExt, stream};
use tokio::time::Instant;
use workrs_core::{
    id::{JobId, Owner, Timestamp},
    index::{EndNote, JobNote, RunNote, read},
    keys,
};
use workrs_store::{
    records::{RecordError, Records},
    state::{Entry, Revision, StateError, StateStore, Written},
};

use super::{Cursor, Row, Standing};

/// Records that are read at once.
const READS_AT_ONCE: usize = 16;

/// All jobs as they stood.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    /// When the reading began: it reflects what was acknowledged before.
    pub(super) began: Instant,
    /// The store's newest revision then.
    pub(super) revision: Revision,
    /// The oldest first.
    pub(super) rows: BTreeMap<Cursor, Row>,
    /// Of each of them.
    submitted: HashMap<JobId, Timestamp>,
    /// How many keys of owners there were.
    owners: usize,
}

/// What makes a snapshot a newer one.
pub(super) struct Changes {
    began: Instant,
    revision: Revision,
    owners: usize,
    /// Rows in place of those of the same jobs.
    rows: Vec<Row>,
    /// Jobs that are in no list any more.
    gone: BTreeSet<JobId>,
}

/// The index entries that were written since a revision.
struct News {
    owners: Written,
    standings: HashMap<JobId, Found>,
}

/// What news tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All that there is.
    All,
    /// What was written since a snapshot.
    Since,
}

/// What the keys say of where a job stands.
#[derive(Debug, Clone)]
enum Found {
    Known(Standing),
    /// The entry is of an earlier version, and says only when the job ended, if it did.
    Ended(Option<Timestamp>),
}

impl News {
    async fn read(store: &dyn StateStore, since: Revision) -> Result<Self, StateError> {
        // The owners' keys come first, so that no job that comes meanwhile lacks one. A job that moves on meanwhile is found
        // twice, where the later one counts, or not at all, which its reader has to expect.
        let owners = store.list_written(keys::OWNERS, since).await?;
        let mut standings = HashMap::new();
        for prefix in [keys::QUEUE, keys::RUNNING, keys::FINISHED, keys::ARCHIVED] {
            for entry in store.list_written(prefix, since).await?.entries {
                if let Some(job) = keys::job_of_index(&entry.key) {
                    standings.insert(job, Found::of(prefix, &entry));
                }
            }
        }
        Ok(Self { owners, standings })
    }

    /// The rows that the news make, with the help of those that were known before. Records are read where that is not enough.
    async fn changes(
        self,
        records: &Records,
        known: Option<&Snapshot>,
        extent: Extent,
        began: Instant,
    ) -> Result<Changes, RecordError> {
        let Self { owners, mut standings } = self;
        let mut rows = Vec::with_capacity(owners.entries.len());
        let mut unclear = Vec::new();
        let mut add = |id: JobId, owner: Owner, note: Option<JobNote>, found: Option<Found>| {
            let known = known.and_then(|known| known.row(&id));
            let note = note.or_else(|| known.map(Row::note));
            let standing = match (found, extent) {
                (Some(found), _) => found.standing(known),
                (None, Extent::Since) => known.map(|row| row.standing.clone()),
                // It was between two keys.
                (None, Extent::All) => None,
            };
            match (note, standing) {
                (Some(JobNote { name, submitted_at, .. }), Some(standing)) => {
                    rows.push(Row { id, owner, name, submitted_at, standing });
                }
                _ => unclear.push(id),
            }
        };
        for entry in &owners.entries {
            if let (Some(id), Some(owner)) = (keys::job_of_index(&entry.key), keys::owner_of(&entry.key)) {
                let found = standings.remove(&id);
                add(id, owner, read(&entry.value), found);
            }
        }
        // Those whose owners' keys are older. What is left has none yet, and is found the next time.
        let older = known.filter(|_| extent == Extent::Since);
        for (id, found) in standings {
            if let Some(row) = older.and_then(|known| known.row(&id)) {
                add(id, row.owner.clone(), None, Some(found));
            }
        }
        let mut gone: BTreeSet<JobId> = unclear.iter().cloned().collect();
        for row in read_records(records, unclear).await? {
            gone.remove(&row.id);
            rows.push(row);
        }
        Ok(Changes { began, revision: owners.revision, owners: owners.total, rows, gone })
    }
}

impl Snapshot {
    /// Reads all index keys; and the records of the jobs of which they do not say enough and `previous` does not help.
    pub(super) async fn take(records: &Records, previous: Option<&Self>, began: Instant) -> Result<Self, RecordError> {
        let news = News::read(&**records.store(), Revision(0)).await?;
        let (rows, submitted) = (BTreeMap::new(), HashMap::new());
        let mut snapshot = Self { began, revision: Revision(0), rows, submitted, owners: 0 };
        snapshot.apply(news.changes(records, previous, Extent::All, began).await?);
        Ok(snapshot)
    }

    /// Reads what was written since; nothing comes of that if jobs were deleted meanwhile.
    pub(super) async fn changes(&self, records: &Records, began: Instant) -> Result<Option<Changes>, RecordError> {
        let news = News::read(&**records.store(), self.revision).await?;
        let ids = news.owners.entries.iter().filter_map(|entry| keys::job_of_index(&entry.key));
        let added = ids.filter(|id| !self.submitted.contains_key(id)).count();
        if news.owners.total != self.owners + added {
            return Ok(None);
        }
        news.changes(records, Some(self), Extent::Since, began).await.map(Some)
    }

    pub(super) fn apply(&mut self, changes: Changes) {
        let Changes { began, revision, owners, rows, gone } = changes;
        (self.began, self.revision, self.owners) = (began, revision, owners);
        for id in rows.iter().map(|row| &row.id).chain(&gone) {
            if let Some(submitted_at) = self.submitted.remove(id) {
                self.rows.remove(&Cursor { submitted_at, id: id.clone() });
            }
        }
        for row in rows {
            self.submitted.insert(row.id.clone(), row.submitted_at);
            self.rows.insert(row.cursor(), row);
        }
    }

    fn row(&self, id: &JobId) -> Option<&Row> {
        let submitted_at = *self.submitted.get(id)?;
        self.rows.get(&Cursor { submitted_at, id: id.clone() })
    }

    /// Whose jobs are looked at: of one owner, or of all.
    pub(super) fn is_of(row: &Row, owner: Option<&Owner>) -> bool {
        owner.is_none_or(|owner| row.owner == *owner)
    }
}

impl Row {
    fn note(&self) -> JobNote {
        JobNote { name: self.name.clone(), submitted_at: self.submitted_at, stored_bytes: None }
    }
}

impl Found {
    fn of(prefix: &str, entry: &Entry) -> Self {
        let standing = match prefix {
            keys::QUEUE => Some(Standing::Queued),
            keys::RUNNING => read(&entry.value).map(|RunNote { node }| Standing::Running { node }),
            _ => keys::finished_at(&entry.key)
                .zip(read(&entry.value))
                .map(|(at, EndNote { outcome })| Standing::Finished { at, outcome }),
        };
        standing.map_or_else(|| Self::Ended(keys::finished_at(&entry.key)), Self::Known)
    }

    /// Where the job stands, also by what was read of its record before: how a job ended does not change.
    fn standing(self, known: Option<&Row>) -> Option<Standing> {
        match (self, known.map(|row| &row.standing)) {
            (Self::Known(standing), _) => Some(standing),
            (Self::Ended(Some(ended)), Some(standing @ Standing::Finished { at, .. })) if *at == ended => {
                Some(standing.clone())
            }
            _ => None,
        }
    }
}

/// The rows of jobs by their records, but for those that are gone by now, or damaged.
async fn read_records(records: &Records, ids: Vec<JobId>) -> Result<Vec<Row>, RecordError> {
    let read = stream::iter(ids).map(|id| async move {
        match records.get(&id).await {
            Err(RecordError::Damaged(reason)) => {
                tracing::error!(job = %id, reason, "its record is damaged and left out of lists");
                Ok(None)
            }
            read => read.map(|record| record.map(|record| Row::of(&record))),
        }
    });
    read.buffer_unordered(READS_AT_ONCE).try_filter_map(|row| async { Ok(row) }).try_collect().await
}
