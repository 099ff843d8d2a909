//! Gives the jobs of dead processes back to the queue: at start, every minute, and whenever a node's key goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use workrs_core::{
    id::{JobId, NodeId},
    job::JobEvent,
    keys,
    placement::courtesy,
};
use workrs_store::{
    fresh,
    records::RecordError,
    state::{Condition, StateError, Watch, WatchEvent},
};

use super::Shared;

const SCAN_EVERY: Duration = Duration::from_secs(60);
const PAGE: usize = 500;

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        // Watch first, then scan: a key that goes in between is seen by either.
        let watch = watch_nodes(&shared).await;
        let scanned = match scan(&shared).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "cannot look for jobs of dead nodes");
                Err(error)
            }
        };
        let pause = if scanned.is_ok() && watch.is_ok() { SCAN_EVERY } else { Duration::from_secs(1) };
        match watch {
            Ok(watch) => {
                let _ = tokio::time::timeout(pause, a_node_goes(watch)).await;
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}

async fn watch_nodes(shared: &Shared) -> Result<Watch, StateError> {
    let page = shared.records.store().list(keys::NODES, None, 1).await?;
    shared.records.store().watch(keys::NODES, page.revision).await
}

async fn a_node_goes(mut watch: Watch) {
    while let Some(event) = watch.recv().await {
        if matches!(event, WatchEvent::Deleted { .. } | WatchEvent::Compacted) {
            return;
        }
    }
}

async fn scan(shared: &Shared) -> Result<(), StateError> {
    let live = list(shared, keys::NODES).await?;
    let incarnations: BTreeSet<_> = live.iter().filter_map(|key| keys::incarnation_of(key)).collect();
    let nodes: Vec<NodeId> = live.iter().filter_map(|key| NodeId::new(key.split('/').nth(1)?).ok()).collect();
    let mut orphans: BTreeMap<JobId, Duration> = BTreeMap::new();
    for key in list(shared, keys::RUNNING).await? {
        if let (Some(incarnation), Some(job)) = (keys::incarnation_of(&key), keys::job_of_index(&key))
            && !incarnations.contains(&incarnation)
        {
            let wait = courtesy(&job, &shared.config.id, &nodes);
            orphans.insert(job, wait);
        }
    }
    for (job, wait) in orphans {
        tokio::time::sleep(wait).await;
        match reap(shared, &job).await {
            Ok(()) | Err(RecordError::GuardFailed | RecordError::Illegal(_) | RecordError::NotFound) => {}
            Err(RecordError::Unavailable(reason)) => return Err(StateError::Unavailable(reason)),
            Err(error) => tracing::error!(%job, %error, "cannot give the job of a dead node back to the queue"),
        }
    }
    Ok(())
}

/// One reaper wins: the node's key must be absent and the record unchanged.
async fn reap(shared: &Shared, job: &JobId) -> Result<(), RecordError> {
    let Some(record) = shared.records.get(job).await? else { return Ok(()) };
    let Some(holder) = record.holder() else { return Ok(()) };
    let reason = format!("node {} died", holder.node);
    let event = JobEvent::NodeLost { holder: holder.clone(), at: fresh::now(), reason };
    let guard = Condition::Absent(keys::node(&holder.node, &holder.incarnation));
    let node = holder.node.clone();
    shared.records.apply(job, &event, &[guard], &fresh::operation()).await?;
    tracing::info!(%job, %node, "gave the job of a dead node back to the queue");
    Ok(())
}

async fn list(shared: &Shared, prefix: &str) -> Result<Vec<String>, StateError> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let page = shared.records.store().list(prefix, all.last().map(String::as_str), PAGE).await?;
        all.extend(page.entries.into_iter().map(|entry| entry.key));
        if !page.more {
            return Ok(all);
        }
    }
}
