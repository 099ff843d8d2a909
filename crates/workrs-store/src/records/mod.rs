//! Job records and their index keys in a state store.
//!
//! Every change is conditional on the revision that it was computed from; record and index keys change in one
//! transaction. A write whose answer was lost is settled before the function returns (module `settle`), however long
//! that takes: a caller that cannot wait drops the future and re-reads later.
//!
//! The record of a job that ended some time ago can be moved into a blob (module `archive`); who reads it does not notice.

mod archive;
mod settle;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use workrs_core::{
    id::{JobId, OperationId, Owner},
    job::{IllegalEvent, JobEvent, JobRecord, decide::Decision},
    keys,
};

pub use self::settle::{Verdict, judge};
use self::{
    archive::Body,
    settle::{Effect, Pause, Settled},
};
use crate::{
    blobs::Blobs,
    envelope::{Envelope, InvalidEnvelope},
    state::{Change, Condition, Entry, Revision, StateError, StateStore, Transaction, Watch},
};

/// Records of a list that are read from blobs at once.
const READS_AT_ONCE: usize = 16;

/// The job records of a group.
#[derive(Clone)]
pub struct Records {
    store: Arc<dyn StateStore>,
    /// Where records of jobs that ended some time ago lie.
    archive: Option<Blobs>,
}

/// What a submit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// The job is new and queued.
    New(JobRecord),
    /// The same job was submitted before; this is how it stands.
    Existing(JobRecord),
}

/// Why a record was not read or changed. Unless the text says otherwise, nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There is no such job.
    #[error("there is no such job")]
    NotFound,
    /// Another job has this id.
    #[error("another job has this id")]
    IdTaken,
    /// The event does not fit the record.
    #[error(transparent)]
    Illegal(#[from] IllegalEvent),
    /// A condition that the caller gave does not hold.
    #[error("a condition of the change no longer holds")]
    GuardFailed,
    /// The store cannot be asked; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// What stands in the store is not what was written.
    #[error("{0}")]
    Damaged(String),
}

impl From<StateError> for RecordError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Damaged(_) => Self::Damaged(error.to_string()),
            error => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<InvalidEnvelope> for RecordError {
    fn from(error: InvalidEnvelope) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A record as this process knows it from its last read or change: the next change can be made of it without reading it
/// again, as it is committed only if the record still stands so.
#[derive(Debug, Clone, PartialEq)]
pub struct Known(Stored);

impl Known {
    /// Without what a change needs beside it.
    pub fn into_record(self) -> JobRecord {
        self.0.into_record()
    }
}

impl Deref for Known {
    type Target = JobRecord;

    fn deref(&self) -> &JobRecord {
        self.0.record()
    }
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq)]
struct Stored {
    envelope: Envelope<JobRecord>,
    revision: Revision,
    /// The index keys that stand with it.
    index: BTreeMap<String, serde_json::Value>,
}

impl Stored {
    fn record(&self) -> &JobRecord {
        &self.envelope.body
    }

    fn into_record(self) -> JobRecord {
        self.envelope.body
    }
}

impl Records {
    /// The records in `store`.
    pub fn new(store: Arc<dyn StateStore>) -> Self {
        Self { store, archive: None }
    }

    /// The same records; those of jobs that ended some time ago may lie in `blobs`.
    #[must_use]
    pub fn with_archive(self, blobs: Blobs) -> Self {
        Self { archive: Some(blobs), ..self }
    }

    /// Where they stand.
    pub fn store(&self) -> &Arc<dyn StateStore> {
        &self.store
    }

    /// Creates a job. The same id, owner and spec are the same job; anything else under a known id is
    /// [`RecordError::IdTaken`]. Once this has returned `Ok`, the job is durable.
    pub async fn submit(&self, record: JobRecord, operation: &OperationId) -> Result<Submitted, RecordError> {
        Box::pin(self.submit_if(record, &[], operation)).await
    }

    /// The same, but a job that is new is created only while all `guards` hold.
    pub async fn submit_if(
        &self,
        record: JobRecord,
        guards: &[Condition],
        operation: &OperationId,
    ) -> Result<Submitted, RecordError> {
        let key = keys::job(&record.id);
        let envelope = Envelope::new(record.owner.as_str(), record.clone(), operation.clone());
        let mut changes = index_changes(&BTreeMap::new(), &keys::index_keys(&record));
        changes.push(Change::Put(key.clone(), envelope.encode(&key), None));
        loop {
            let transaction = Transaction { conditions: guards.to_vec(), changes: changes.clone() };
            match self.commit_settled(&key, None, transaction, Effect::Written(operation)).await? {
                Settled::Applied(_) => return Ok(Submitted::New(record)),
                Settled::Found(stored) => {
                    return Ok(Submitted::New(stored.map_or(record, Stored::into_record)));
                }
                Settled::Lost => {}
            }
            // Absent: a guard does not hold, or somebody deleted it in between.
            let Some(known) = self.read(&key).await?.map(Stored::into_record) else {
                self.check_guards(guards).await?;
                continue;
            };
            let same = known.owner == record.owner && known.spec_hash == record.spec_hash;
            return if same { Ok(Submitted::Existing(known)) } else { Err(RecordError::IdTaken) };
        }
    }

    /// How a job stands.
    pub async fn get(&self, id: &JobId) -> Result<Option<JobRecord>, RecordError> {
        Ok(self.read(&keys::job(id)).await?.map(Stored::into_record))
    }

    /// How a job stands, and a watch of what happens to it from then on. The watch also tells of other jobs whose ids begin
    /// with this one's.
    pub async fn watch(&self, id: &JobId) -> Result<(Option<JobRecord>, Watch), RecordError> {
        let key = keys::job(id);
        let page = self.store.list(&key, None, 1).await?;
        let record = match page.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => Some(self.decode(entry).await?.into_record()),
            None => None,
        };
        Ok((record, self.store.watch(&key, page.revision).await?))
    }

    /// A watch of what happens to a job from the moment on from which it is known; see [`watch`](Self::watch).
    pub async fn watch_from(&self, known: &Known) -> Result<Watch, RecordError> {
        Ok(self.store.watch(&keys::job(&known.id), known.0.revision).await?)
    }

    /// The record in an entry that a watch told of.
    pub async fn told(&self, entry: &Entry) -> Result<JobRecord, RecordError> {
        Ok(self.decode(entry).await?.into_record())
    }

    /// Applies an event to a job, and gives the record as it stands then. An event that the record already reflects
    /// writes nothing and does not look at `guards`. Otherwise the change happens only while all guards hold.
    ///
    /// `operation` names this change: a new one for each event, the same one only to repeat the same event.
    pub async fn apply(
        &self,
        id: &JobId,
        event: &JobEvent,
        guards: &[Condition],
        operation: &OperationId,
    ) -> Result<JobRecord, RecordError> {
        let decide = |_: &JobRecord| Some((event.clone(), guards.to_vec()));
        self.decide(id, decide, operation).await?.ok_or(RecordError::NotFound)
    }

    /// Applies the event that `decide` makes of the record as it stands, while the conditions hold that it gives with it;
    /// it is asked anew when the record has changed meanwhile. `None`: it wants no event, and nothing was written.
    ///
    /// `operation` names this change, as in [`apply`](Self::apply).
    pub async fn decide(
        &self,
        id: &JobId,
        decide: impl Fn(&JobRecord) -> Option<(JobEvent, Vec<Condition>)>,
        operation: &OperationId,
    ) -> Result<Option<JobRecord>, RecordError> {
        Ok(self.change(id, None, decide, operation).await?.map(Known::into_record))
    }

    /// The same, and gives what the next change can be made of. If the record is known from the last one, it is read only
    /// if it has changed since, or if nothing would be written.
    pub async fn change(
        &self,
        id: &JobId,
        known: Option<&Known>,
        decide: impl Fn(&JobRecord) -> Option<(JobEvent, Vec<Condition>)>,
        operation: &OperationId,
    ) -> Result<Option<Known>, RecordError> {
        self.change_with(id, known, decide, &[], operation).await
    }

    /// The same; `besides` is changed in the same transaction. It must touch no key of a job.
    pub async fn change_with(
        &self,
        id: &JobId,
        known: Option<&Known>,
        decide: impl Fn(&JobRecord) -> Option<(JobEvent, Vec<Condition>)>,
        besides: &[Change],
        operation: &OperationId,
    ) -> Result<Option<Known>, RecordError> {
        let key = keys::job(id);
        let mut pause = Pause::new();
        let mut before = None;
        let mut remembered = known.cloned();
        loop {
            // What is only remembered decides nothing but what to try.
            let (stored, is_read) = match remembered.take() {
                Some(Known(stored)) => (stored, false),
                None => (self.read(&key).await?.ok_or(RecordError::NotFound)?, true),
            };
            let (guards, next) = match decide(stored.record()) {
                Some((event, guards)) => match stored.record().apply(&event) {
                    Ok(next) if next != *stored.record() => (guards, next),
                    _ if !is_read => continue,
                    Ok(_) => return Ok(Some(Known(stored))),
                    Err(illegal) => return Err(illegal.into()),
                },
                None if !is_read => continue,
                None => return Ok(None),
            };
            // The conflict had another cause than a changed record, and the guards hold again: no hurry.
            if before.replace(stored.revision) == Some(stored.revision) {
                pause.wait().await;
            }
            let envelope = stored.envelope.succeeded_by(next, operation.clone());
            let index = keys::index_keys(&envelope.body);
            let mut changes = index_changes(&stored.index, &index);
            changes.push(Change::Put(key.clone(), envelope.encode(&key), None));
            changes.extend_from_slice(besides);
            let transaction = Transaction { conditions: guards.clone(), changes };
            let effect = Effect::Written(operation);
            match self.commit_settled(&key, Some(stored.revision), transaction, effect).await? {
                Settled::Applied(revision) => return Ok(Some(Known(Stored { envelope, revision, index }))),
                Settled::Found(stored) => return Ok(stored.map(Known)),
                Settled::Lost => self.check_guards(&guards).await?,
            }
        }
    }

    /// Deletes the record of a finished job with its index keys. Its blobs are the caller's to delete.
    pub async fn delete(&self, id: &JobId) -> Result<(), RecordError> {
        let key = keys::job(id);
        loop {
            let stored = self.read(&key).await?.ok_or(RecordError::NotFound)?;
            let record = stored.record();
            if !record.is_finished() {
                return Err(IllegalEvent::WrongState { state: record.state.name(), event: "deleted" }.into());
            }
            let mut changes = index_changes(&stored.index, &BTreeMap::new());
            changes.push(Change::Delete(key.clone()));
            let transaction = Transaction { conditions: Vec::new(), changes };
            match self.commit_settled(&key, Some(stored.revision), transaction, Effect::Deleted).await? {
                Settled::Applied(_) | Settled::Found(_) => return Ok(()),
                Settled::Lost => {}
            }
        }
    }

    /// At most `limit` records behind `after`, in the order of their ids, and whether there are more.
    pub async fn list(&self, after: Option<&JobId>, limit: usize) -> Result<(Vec<JobRecord>, bool), RecordError> {
        let after = after.map(keys::job);
        let page = self.store.list(keys::JOBS, after.as_deref(), limit).await?;
        let (entries, more) = (page.entries, page.more);
        let records =
            stream::iter(entries).map(|entry| async move { self.decode(&entry).await.map(Stored::into_record) });
        Ok((records.buffered(READS_AT_ONCE).try_collect().await?, more))
    }

    /// The same of one owner's jobs alone, whatever others have.
    pub async fn list_of(
        &self,
        owner: &Owner,
        after: Option<&JobId>,
        limit: usize,
    ) -> Result<(Vec<JobRecord>, bool), RecordError> {
        let after = after.map(|id| keys::owned_job(owner, id));
        let page = self.store.list(&keys::owned(owner), after.as_deref(), limit).await?;
        let ids: Vec<_> = page.entries.iter().filter_map(|entry| keys::job_of_index(&entry.key)).collect();
        let records = stream::iter(ids).map(|id| async move { self.get(&id).await });
        let records: Vec<_> = records.buffered(READS_AT_ONCE).try_collect().await?;
        // One that was deleted meanwhile is left out.
        Ok((records.into_iter().flatten().collect(), page.more))
    }

    async fn read(&self, key: &str) -> Result<Option<Stored>, RecordError> {
        let Some(entry) = self.store.get(key).await? else { return Ok(None) };
        Ok(Some(self.decode(&entry).await?))
    }

    /// The record that an entry holds or leads to.
    async fn decode(&self, entry: &Entry) -> Result<Stored, RecordError> {
        let envelope = Envelope::<Body>::decode(&entry.key, &entry.value)?;
        let (record, index) = match &envelope.body {
            Body::Record(record) => ((**record).clone(), keys::index_keys(record)),
            Body::Archived(archived) => (self.unarchived(archived).await?, archived.index_keys()),
        };
        if keys::job(&record.id) != entry.key {
            return Err(RecordError::Damaged(format!("the record at {:?} is of job {}", entry.key, record.id)));
        }
        let Envelope { version, operations, owner, unknown, .. } = envelope;
        let envelope = Envelope { version, operations, owner, body: record, unknown };
        Ok(Stored { envelope, revision: entry.revision, index })
    }

    async fn check_guards(&self, guards: &[Condition]) -> Result<(), RecordError> {
        for guard in guards {
            let (Condition::Absent(key) | Condition::Present(key) | Condition::Unchanged(key, _)) = guard;
            let revision = self.store.get(key).await?.map(|entry| entry.revision);
            let holds = match guard {
                Condition::Absent(_) => revision.is_none(),
                Condition::Present(_) => revision.is_some(),
                Condition::Unchanged(_, expected) => revision == Some(*expected),
            };
            if !holds {
                return Err(RecordError::GuardFailed);
            }
        }
        Ok(())
    }
}

/// A decision as [`Records::decide`] takes it.
pub fn guarded(decision: Decision) -> (JobEvent, Vec<Condition>) {
    let guards = decision.guards.iter().map(Condition::from).collect();
    (decision.event, guards)
}

/// What has to change for the index keys `before` to become those `after`.
fn index_changes(
    before: &BTreeMap<String, serde_json::Value>,
    after: &BTreeMap<String, serde_json::Value>,
) -> Vec<Change> {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| Change::Delete(key.clone()));
    let new = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
    let new = new.map(|(key, value)| Change::Put(key.clone(), Bytes::from(value.to_string()), None));
    gone.chain(new).collect()
}
