//! Removes blobs that nobody needs: of finished jobs, and of submits that were never acknowledged.

use std::{collections::BTreeMap, time::Duration};

use workrs_core::{
    id::{JobId, Timestamp},
    job::{JobEvent, JobRecord},
    keys::{self, BlobNames},
};
use workrs_store::{
    blobs::{BlobError, Blobs},
    fresh,
    records::{RecordError, Records},
};

use super::Shared;

const PAGE: usize = 500;
/// A part of an upload that nothing was added to for so long was given up.
const UPLOAD_WITHIN: Duration = Duration::from_secs(60 * 60);
/// Blobs without a record are left alone until they are this old: their submit may still be under way.
const UNCLAIMED_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Removes checkpoints and inputs of a job that ended for good, and notes that; outputs and log stay. What cannot be removed
/// now is removed by the group's next round.
pub(crate) async fn clean(records: &Records, blobs: &Blobs, record: &JobRecord) {
    if !record.needs_cleaning() {
        return;
    }
    let cleaned = async {
        clean_blobs(blobs, record).await?;
        records.apply(&record.id, &JobEvent::Cleaned, &[], &fresh::operation()).await?;
        Ok::<_, anyhow::Error>(())
    };
    if let Err(error) = cleaned.await {
        tracing::warn!(job = %record.id, %error, "cannot remove yet what the finished job no longer needs");
    }
}

async fn clean_blobs(blobs: &Blobs, record: &JobRecord) -> Result<(), BlobError> {
    let names = BlobNames(&record.id);
    blobs.delete_prefix(&names.checkpoints()).await?;
    // Somebody may repeat the submit at this moment: what they write is not taken from under them, and goes with the answer.
    let inputs = names.all_inputs();
    let found = blobs.list(&inputs).await?;
    blobs.delete_all(found.iter().map(|(name, _)| name.as_str())).await?;
    blobs.sweep_abandoned(&inputs, UPLOAD_WITHIN).await
}

/// Removes what finished jobs no longer need, as the node that finished them may have died before it did, and the jobs whose
/// time to be kept is over.
pub(super) async fn tidy_up(shared: &Shared) -> anyhow::Result<()> {
    clean_left_over(shared).await?;
    archive(shared, fresh::now()).await?;
    if let Some(keep) = shared.config.keep_finished {
        expire(shared, fresh::now(), keep).await?;
    }
    Ok(())
}

/// Removes the blobs of finished jobs, and notes that they are gone.
async fn clean_left_over(shared: &Shared) -> anyhow::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let page = shared.records.store().list(keys::CLEANUP, after.as_deref(), PAGE).await?;
        for id in page.entries.iter().filter_map(|entry| keys::job_of_index(&entry.key)) {
            if let Some(Some(record)) = unless_damaged(&id, shared.records.get(&id).await)? {
                clean(&shared.records, &shared.blobs, &record).await;
            }
        }
        after = page.entries.last().map(|entry| entry.key.clone());
        if !page.more {
            return Ok(());
        }
    }
}

/// Moves the records of jobs that finished some time ago into blobs.
async fn archive(shared: &Shared, now: Timestamp) -> anyhow::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let page = finished_before(shared, keys::FINISHED, after, now, shared.config.archive_after).await?;
        for id in &page.jobs {
            match unless_damaged(id, shared.records.archive(id, &fresh::operation()).await) {
                Ok(_) | Err(RecordError::Illegal(_) | RecordError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(last) = page.more_after else { return Ok(()) };
        after = Some(last);
    }
}

/// Deletes jobs that finished longer than `keep` ago: record, outputs and log.
async fn expire(shared: &Shared, now: Timestamp, keep: Duration) -> anyhow::Result<()> {
    for prefix in [keys::ARCHIVED, keys::FINISHED] {
        let mut after: Option<String> = None;
        loop {
            let page = finished_before(shared, prefix, after, now, keep).await?;
            for id in &page.jobs {
                delete(shared, id).await?;
            }
            let Some(last) = page.more_after else { break };
            after = Some(last);
        }
    }
    Ok(())
}

/// What came of an operation on a record, unless that is damaged: one that is does not keep others from being looked after.
fn unless_damaged<T>(id: &JobId, result: Result<T, RecordError>) -> Result<Option<T>, RecordError> {
    match result {
        Err(RecordError::Damaged(reason)) => {
            tracing::error!(job = %id, reason, "its record is damaged and left alone");
            Ok(None)
        }
        result => result.map(Some),
    }
}

/// Some of the jobs that ended some time ago.
struct Page {
    jobs: Vec<JobId>,
    /// Where to go on; `None` at the end.
    more_after: Option<String>,
}

/// Jobs below an index by time of end that ended longer than `time` ago, the oldest first.
async fn finished_before(
    shared: &Shared,
    prefix: &str,
    after: Option<String>,
    now: Timestamp,
    time: Duration,
) -> anyhow::Result<Page> {
    let page = shared.records.store().list(prefix, after.as_deref(), PAGE).await?;
    let is_due = |key: &&str| keys::finished_at(key).is_some_and(|at| now.since(at) > time);
    let due: Vec<_> = page.entries.iter().map(|entry| entry.key.as_str()).take_while(is_due).collect();
    let goes_on = page.more && due.len() == page.entries.len();
    Ok(Page {
        jobs: due.iter().filter_map(|key| keys::job_of_index(key)).collect(),
        more_after: due.last().filter(|_| goes_on).map(|key| (*key).to_owned()),
    })
}

async fn delete(shared: &Shared, id: &JobId) -> anyhow::Result<()> {
    match unless_damaged(id, delete_job(&shared.records, &shared.blobs, id).await) {
        Ok(Some(())) => tracing::info!(job = %id, "deleted a job that finished long ago"),
        // Damaged, run on, or deleted by another node.
        Ok(None) | Err(RecordError::Illegal(_) | RecordError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Deletes a job that has ended. The record goes first, so that none names what is gone. Blobs that come later are of a new
/// job with the same id, and those that a crash or a store that does not answer leaves here are found by the sweep.
pub(crate) async fn delete_job(records: &Records, blobs: &Blobs, id: &JobId) -> Result<(), RecordError> {
    let unavailable = |error: BlobError| RecordError::Unavailable(error.to_string());
    let names = blobs.list(&BlobNames(id).prefix()).await.map_err(unavailable)?;
    records.delete(id).await?;
    if let Err(error) = blobs.delete_all(names.iter().map(|(name, _)| name.as_str())).await {
        tracing::warn!(job = %id, %error, "cannot remove yet what a deleted job left in the blobs");
    }
    Ok(())
}

/// What a job has in blobs.
#[derive(Default)]
struct Found {
    newest: Timestamp,
    has_temporary: bool,
}

/// Removes what belongs to no job and is older than a week, and what late writers left of finished jobs.
pub(super) async fn sweep(shared: &Shared, now: Timestamp) -> anyhow::Result<()> {
    // Listed first, read afterwards: a record that comes in between saves its blobs.
    let mut jobs: BTreeMap<JobId, Found> = BTreeMap::new();
    for (name, modified) in shared.blobs.list_modified("jobs/").await? {
        let mut parts = name.split('/').skip(1);
        let (Some(id), Some(kind)) = (parts.next(), parts.next()) else { continue };
        let Ok(id) = JobId::new(id) else { continue };
        let found = jobs.entry(id).or_default();
        found.newest = found.newest.max(modified);
        found.has_temporary |= matches!(kind, "checkpoints" | "inputs");
    }
    for (job, found) in jobs {
        let is_old = now.since(found.newest) > UNCLAIMED_AFTER;
        if !found.has_temporary && !is_old {
            continue;
        }
        let Some(record) = unless_damaged(&job, shared.records.get(&job).await)? else { continue };
        match record {
            Some(record) if found.has_temporary && record.is_finished() && record.cleaned => {
                clean_blobs(&shared.blobs, &record).await?;
            }
            None if is_old => {
                tracing::info!(%job, "removing blobs of a submit that was never acknowledged");
                shared.blobs.delete_prefix(&BlobNames(&job).prefix()).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
