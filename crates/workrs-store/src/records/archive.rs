//! Records of jobs that ended some time ago lie in blobs; at their keys stands where, in some 500 bytes whatever their length.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use workrs_core::{
    hash::ContentHash,
    id::{JobId, OperationId, Owner, Timestamp},
    job::{BlobRef, IllegalEvent, JobRecord, JobState, Outcome},
    keys::{self, BlobNames},
};

use super::{Effect, RecordError, Records, Settled, index_changes};
use crate::{
    blobs::{BlobError, Blobs},
    state::{Change, Transaction},
};

/// What stands at a job's key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Body {
    /// Where the record lies.
    Archived(Archived),
    /// The record.
    Record(Box<JobRecord>),
}

/// Where a record lies, and what has to be known without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Archived {
    /// The record as JSON.
    #[serde(rename = "archived")]
    blob: BlobRef,
    id: JobId,
    owner: Owner,
    spec_hash: ContentHash,
    finished_at: Timestamp,
}

impl Archived {
    /// The keys that stand with it. Their values are known only to whoever has the record; they matter when they are written.
    pub(super) fn index_keys(&self) -> BTreeMap<String, serde_json::Value> {
        keys::archived_index_keys(&self.id, &self.owner, self.finished_at, None)
    }
}

impl Records {
    /// Moves the record of a finished job into a blob. One that still needs its checkpoints or has blobs to be tidied up is
    /// left where it is.
    pub async fn archive(&self, id: &JobId, operation: &OperationId) -> Result<(), RecordError> {
        let blobs = self.archive_blobs()?;
        let key = keys::job(id);
        let stored = self.read(&key).await?.ok_or(RecordError::NotFound)?;
        let record = stored.record();
        let JobState::Finished { at, outcome, .. } = &record.state else {
            return Err(IllegalEvent::WrongState { state: record.state.name(), event: "archived" }.into());
        };
        if *outcome == Outcome::Lost
            || record.needs_cleaning()
            || !stored.index.keys().any(|k| k.starts_with(keys::FINISHED))
        {
            return Ok(());
        }
        let json = serde_json::to_vec(record).map_err(|error| RecordError::Damaged(error.to_string()))?;
        let name = BlobNames(id).record(operation);
        let archived = Archived {
            blob: blobs.put(&name, json.into()).await.map_err(failed)?,
            id: id.clone(),
            owner: record.owner.clone(),
            spec_hash: record.spec_hash,
            finished_at: *at,
        };
        let index = keys::archived_index_keys(id, &record.owner, *at, Some(record));
        let mut changes = index_changes(&stored.index, &index);
        let envelope = stored.envelope.succeeded_by(Body::Archived(archived), operation.clone());
        changes.push(Change::Put(key.clone(), envelope.encode(&key), None));
        let transaction = Transaction { conditions: Vec::new(), changes };
        match self.commit_settled(&key, Some(stored.revision), transaction, Effect::Written(operation)).await? {
            Settled::Applied(_) | Settled::Found(_) => Ok(()),
            // Somebody else archived or deleted it: the blob is nobody's.
            Settled::Lost => blobs.delete(&name).await.map_err(failed),
        }
    }

    pub(super) async fn unarchived(&self, archived: &Archived) -> Result<JobRecord, RecordError> {
        let json = self.archive_blobs()?.get(&archived.blob).await.map_err(failed)?;
        let record = serde_json::from_slice(&json);
        record.map_err(|error| RecordError::Damaged(format!("{}: {error}", archived.blob.name)))
    }

    fn archive_blobs(&self) -> Result<&Blobs, RecordError> {
        let nowhere = || RecordError::Unavailable("records of jobs that ended some time ago lie in blobs".to_owned());
        self.archive.as_ref().ok_or_else(nowhere)
    }
}

fn failed(error: BlobError) -> RecordError {
    match error {
        BlobError::Missing(_) | BlobError::Mismatch(_) => RecordError::Damaged(error.to_string()),
        error => RecordError::Unavailable(error.to_string()),
    }
}
