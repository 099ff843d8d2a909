//! Removes blobs that nobody needs: of finished jobs, and of submits that were never acknowledged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use workrs_core::{
    id::{JobId, Timestamp},
    job::{JobRecord, JobState, Outcome},
    keys::BlobNames,
};
use workrs_store::{blobs::Blobs, fresh, records::RecordError};

use super::Shared;

const PAGE: usize = 500;
const MIN_PAUSE: Duration = Duration::from_secs(1);
const SWEEP_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// Blobs without a record are left alone until they are this old: their submit may still be under way.
const UNCLAIMED_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Removes checkpoints and inputs of a job that ended for good; outputs and log stay.
pub(crate) async fn clean_finished(blobs: &Blobs, record: &JobRecord) {
    let JobState::Finished { outcome, .. } = &record.state else { return };
    if *outcome == Outcome::Lost {
        return;
    }
    let names = BlobNames(&record.id);
    for prefix in [names.checkpoints(), names.all_inputs()] {
        if let Err(error) = blobs.delete_prefix(&prefix).await {
            tracing::warn!(job = %record.id, %error, "cannot remove what the finished job no longer needs");
        }
    }
}

/// At start and once a day, removes what finished jobs no longer need, as the node that finished them may have
/// died before it did, and what belongs to no job and is older than a week.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let now = fresh::now();
        if let Err(error) = sweep(&shared, now).await {
            tracing::warn!(%error, "cannot look for blobs that nobody needs");
        }
        if let Some(keep) = shared.config.keep_finished
            && let Err(error) = expire(&shared, now, keep).await
        {
            tracing::warn!(%error, "cannot look for finished jobs whose time is over");
        }
        // Short times to keep are for those who mean it.
        let pause = shared.config.keep_finished.map_or(SWEEP_EVERY, |keep| (keep / 8).clamp(MIN_PAUSE, SWEEP_EVERY));
        tokio::time::sleep(pause).await;
    }
}

/// Deletes jobs that finished longer than `keep` ago: record, outputs and log.
async fn expire(shared: &Shared, now: Timestamp, keep: Duration) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let (records, more) = shared.records.list(after.as_ref(), PAGE).await?;
        after = records.last().map(|record| record.id.clone());
        for record in records {
            if matches!(record.state, JobState::Finished { at, .. } if now.since(at) > keep) {
                delete(shared, &record.id).await?;
            }
        }
        if !more {
            return Ok(());
        }
    }
}

/// The record goes first, so that none names what is gone. Blobs that come later are of a new job with the same id, and
/// those that a crash leaves here are found by the sweep.
async fn delete(shared: &Shared, id: &JobId) -> anyhow::Result<()> {
    let blobs = shared.blobs.list(&BlobNames(id).prefix()).await?;
    match shared.records.delete(id).await {
        Ok(()) => {}
        // Run on, or deleted by another node.
        Err(RecordError::Illegal(_) | RecordError::NotFound) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    for (name, _) in blobs {
        shared.blobs.delete(&name).await?;
    }
    tracing::info!(job = %id, "deleted a job that finished long ago");
    Ok(())
}

/// What a job has in blobs.
#[derive(Default)]
struct Found {
    newest: Timestamp,
    has_temporary: bool,
}

async fn sweep(shared: &Shared, now: Timestamp) -> anyhow::Result<()> {
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
        match shared.records.get(&job).await? {
            Some(record) if found.has_temporary => clean_finished(&shared.blobs, &record).await,
            None if is_old => {
                tracing::info!(%job, "removing blobs of a submit that was never acknowledged");
                shared.blobs.delete_prefix(&BlobNames(&job).prefix()).await?;
            }
            _ => {}
        }
    }
    Ok(())
}
