//! Removes blobs that nobody needs: of finished jobs, and of submits that were never acknowledged.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use workrs_core::{
    id::{JobId, Timestamp},
    job::{JobRecord, JobState, Outcome},
    keys::BlobNames,
};
use workrs_store::{
    blobs::{BlobError, Blobs},
    fresh,
};

use super::Shared;

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

/// Once a day, removes what belongs to no job and is older than a week.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if let Err(error) = sweep(&shared, fresh::now()).await {
            tracing::warn!(%error, "cannot look for blobs without a job");
        }
    }
}

async fn sweep(shared: &Shared, now: Timestamp) -> anyhow::Result<()> {
    // Listed first, read afterwards: a record that comes in between saves its blobs.
    let mut newest: BTreeMap<JobId, Timestamp> = BTreeMap::new();
    for (name, modified) in shared.blobs.list_modified("jobs/").await? {
        if let Some(job) = name.split('/').nth(1).and_then(|id| JobId::new(id).ok()) {
            let entry = newest.entry(job).or_insert(modified);
            *entry = modified.max(*entry);
        }
    }
    for (job, modified) in newest {
        if now.since(modified) > UNCLAIMED_AFTER && shared.records.get(&job).await?.is_none() {
            tracing::info!(%job, "removing blobs of a submit that was never acknowledged");
            remove(&shared.blobs, &job).await?;
        }
    }
    Ok(())
}

async fn remove(blobs: &Blobs, job: &JobId) -> Result<(), BlobError> {
    blobs.delete_prefix(&BlobNames(job).prefix()).await
}
