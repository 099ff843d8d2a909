//! Gives the jobs of dead processes back to the queue: as soon as a process's key goes, and by a look at all of them at start
//! and once a minute (by one node for all, see [`super::group`]).

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use workrs_core::{
    id::{Incarnation, JobId},
    job::{JobRecord, decide},
    keys,
    placement::{self, COURTESY},
};
use workrs_store::{
    fresh,
    records::{RecordError, guarded},
    state::{StateError, list_keys},
};

use super::{Shared, faults, members::Departed};
use crate::metrics;

/// Jobs of a dead process that are given back at once.
const AT_ONCE: usize = 16;
/// As many nodes give back the jobs of a dead process at once, if need be one after the other. Should all of them have died,
/// too, the group's next round does it: if every node looked, the death of many would cost the square of their number.
const REAPERS: usize = 8;

pub(super) async fn run(shared: Arc<Shared>, mut departed: mpsc::UnboundedReceiver<Departed>) {
    while let Some(process) = departed.recv().await {
        // Its own key is on its way back, and with it its jobs.
        if process.incarnation == shared.incarnation {
            continue;
        }
        let rank = rank(&shared, &process);
        // What a former process of this node left is this node's to give back, too.
        if rank >= REAPERS && process.node != shared.config.id {
            continue;
        }
        let reaper = Arc::clone(&shared);
        // One after the other would let those who died last wait for the courtesy of the first.
        shared.spawn(async move {
            tokio::time::sleep(COURTESY.saturating_mul(u32::try_from(rank).unwrap_or(u32::MAX))).await;
            if let Err(error) = give_back(&reaper, &process).await {
                tracing::warn!(node = %process.node, %error, "cannot give back all jobs of a dead node, a later look will");
            }
        });
    }
}

/// How many live nodes are to give back the jobs of a dead process before this one.
fn rank(shared: &Shared, process: &Departed) -> usize {
    let members = shared.members.now();
    let me = placement::name_hash(shared.config.id.as_str());
    let thing = placement::name_hash(process.incarnation.as_str());
    placement::rank(thing, me, members.iter().map(|member| member.hash))
}

/// Gives back all jobs of a process, unless its key is there again, and counts its death.
pub(super) async fn give_back(shared: &Shared, process: &Departed) -> Result<(), StateError> {
    let jobs = shared.running_under(&process.incarnation).await?;
    give_back_jobs(shared, jobs).await?;
    let key = keys::node(&process.node, &process.incarnation);
    if shared.records.store().get(&key).await?.is_none() {
        faults::died(shared, process).await?;
    }
    Ok(())
}

async fn give_back_jobs(shared: &Shared, jobs: Vec<JobId>) -> Result<(), StateError> {
    let reaped = futures::stream::iter(jobs).map(|job| async move {
        match reap(shared, &job).await {
            Ok(()) | Err(RecordError::GuardFailed | RecordError::Illegal(_) | RecordError::NotFound) => Ok(()),
            Err(RecordError::Unavailable(reason)) => Err(StateError::Unavailable(reason)),
            Err(error) => {
                tracing::error!(%job, %error, "cannot give the job of a dead node back to the queue");
                Ok(())
            }
        }
    });
    reaped.buffer_unordered(AT_ONCE).try_collect().await
}

/// Gives back the jobs of all processes that have no key.
pub(super) async fn give_back_all(shared: &Shared) -> Result<(), StateError> {
    // Running first, then live: whoever claims in between is seen to live.
    let running = list_keys(&**shared.records.store(), keys::RUNNING).await?;
    if running.is_empty() {
        return Ok(());
    }
    let live: BTreeSet<Incarnation> = list_keys(&**shared.records.store(), keys::NODES)
        .await?
        .iter()
        .filter_map(|key| keys::incarnation_of(key))
        .collect();
    let is_orphan = |key: &String| keys::incarnation_of(key).is_some_and(|process| !live.contains(&process));
    let orphans = running.iter().filter(|key| is_orphan(key)).filter_map(|key| keys::job_of_index(key));
    give_back_jobs(shared, orphans.collect()).await
}

/// One reaper wins: the node's key must be absent and the record unchanged.
async fn reap(shared: &Shared, job: &JobId) -> Result<(), RecordError> {
    let at = fresh::now();
    let choose = |record: &JobRecord| decide::reap(record, at).map(guarded);
    if let Some(record) = shared.records.decide(job, choose, &fresh::operation()).await? {
        let node = record.attempts.last().map(|attempt| attempt.node.as_str()).unwrap_or_default();
        metrics::REAPS.add(1);
        tracing::info!(%job, dead = node, "gave the job of a dead node back to the queue");
    }
    Ok(())
}

impl Shared {
    /// The jobs whose records say that this process runs them.
    pub(super) async fn running_under(&self, process: &Incarnation) -> Result<Vec<JobId>, StateError> {
        let keys = list_keys(&**self.records.store(), &keys::running(process)).await?;
        Ok(keys.iter().filter_map(|key| keys::job_of_index(key)).collect())
    }
}
