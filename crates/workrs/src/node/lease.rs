//! Membership: the node's key under its lease, and the comparison of records with what runs here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use workrs_core::{
    id::{Incarnation, NodeId, Timestamp},
    job::JobEvent,
    keys,
};
use workrs_store::{
    fresh,
    records::Records,
    state::{Change, Condition, LeaseId, StateError, Transaction},
};

use super::{Order, Shared};

/// How often the records are compared with what runs here.
const RECONCILE_EVERY: Duration = Duration::from_secs(60);
/// Nodes are listed in pages of this many.
const PAGE: usize = 500;

/// What a node tells the group about itself, in the value of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Where its API can be reached.
    pub address: String,
    /// The version of Workrs that it runs.
    pub version: String,
    /// Since when.
    pub started_at: Timestamp,
    /// Processor time for jobs, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory for jobs.
    pub memory_bytes: u64,
    /// Space for job disks; a job takes twice its disk.
    pub disk_bytes: u64,
    /// What jobs may ask for.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What runs the jobs.
    pub engine: String,
    /// Why it runs no jobs, if it runs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_run: Option<String>,
    /// Why it cannot checkpoint memory, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_dump: Option<String>,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl NodeInfo {
    /// All live nodes.
    pub async fn list(records: &Records) -> Result<Vec<Self>, StateError> {
        let mut nodes = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = records.store().list(keys::NODES, after.as_deref(), PAGE).await?;
            for entry in &page.entries {
                let info = serde_json::from_slice(&entry.value)
                    .map_err(|error| StateError::Damaged(format!("{}: {error}", entry.key)))?;
                nodes.push(info);
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                return Ok(nodes);
            }
        }
    }
}

fn info(shared: &Shared) -> NodeInfo {
    NodeInfo {
        name: shared.config.id.clone(),
        incarnation: shared.incarnation.clone(),
        address: shared.config.address.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: fresh::now(),
        cpus_milli: shared.config.cpus_milli,
        memory_bytes: shared.config.memory_bytes,
        disk_bytes: shared.disk_bytes,
        labels: shared.config.labels.clone(),
        engine: shared.engine.name().to_owned(),
        cannot_run: shared.capabilities.run.clone().err(),
        cannot_dump: shared.capabilities.dump.clone().err(),
        unknown: BTreeMap::new(),
    }
}

/// Puts the node's key under a new lease. Tries until the answer is definite.
pub(super) async fn join(shared: &Shared) -> Result<LeaseId, StateError> {
    let store = shared.records.store();
    let value = serde_json::to_vec(&info(shared)).map_err(|error| StateError::Damaged(error.to_string()))?;
    let mut pause = Duration::from_millis(50);
    loop {
        let lease = store.grant_lease(shared.config.lease).await?;
        let key = shared.node_key();
        let put = Transaction {
            conditions: vec![Condition::Absent(key.clone())],
            changes: vec![Change::Put(key, value.clone().into(), Some(lease))],
        };
        match store.commit(put).await {
            Ok(_) => return Ok(lease),
            // Our own write may have been applied: its lease is the one to end before a fresh try.
            Err(StateError::Unknown(_) | StateError::Conflict | StateError::LeaseEnded) => {
                store.revoke_lease(lease).await?;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Renews the lease three times in its span. After a lost one the key is put back before anything else.
pub(super) async fn keep(shared: Arc<Shared>, lease: watch::Sender<LeaseId>) {
    loop {
        tokio::time::sleep(shared.config.lease / 3).await;
        let current = *lease.borrow();
        match shared.records.store().renew_lease(current).await {
            Ok(()) => {}
            Err(StateError::LeaseEnded) => match join(&shared).await {
                Ok(fresh) => {
                    tracing::warn!("the lease had ended; joined the group again");
                    lease.send_replace(fresh);
                    shared.reconcile.notify_one();
                }
                Err(error) => tracing::warn!(%error, "cannot join the group again, will try on"),
            },
            Err(error) => tracing::warn!(%error, "cannot renew the lease, will try on"),
        }
    }
}

/// Compares the records under this process's name with what it runs, every minute and on demand.
pub(super) async fn reconcile(shared: Arc<Shared>) {
    loop {
        let _ = tokio::time::timeout(RECONCILE_EVERY, shared.reconcile.notified()).await;
        if let Err(error) = reconcile_once(&shared).await {
            tracing::warn!(%error, "cannot compare the records with what runs here");
            tokio::time::sleep(Duration::from_secs(1)).await;
            shared.reconcile.notify_one();
        }
    }
}

async fn reconcile_once(shared: &Shared) -> anyhow::Result<()> {
    // What runs here but is no longer ours must end.
    let held: Vec<_> = shared.jobs().iter().map(|(id, slot)| (id.clone(), slot.epoch)).collect();
    for (id, epoch) in held {
        let record = shared.records.get(&id).await?;
        let is_ours = record.is_some_and(|record| record.epoch <= epoch);
        if !is_ours {
            shared.order(&id, Order::Abandon);
        }
    }
    // What is ours but does not run here goes back to the queue.
    let page = shared.records.store().list(&keys::running(&shared.incarnation), None, PAGE).await?;
    for id in page.entries.iter().filter_map(|entry| keys::job_of_index(&entry.key)) {
        if shared.jobs().contains_key(&id) {
            continue;
        }
        let Some(record) = shared.records.get(&id).await? else { continue };
        let Some(holder) = record.holder().filter(|holder| holder.incarnation == shared.incarnation) else { continue };
        if shared.jobs().contains_key(&id) {
            continue;
        }
        let reason = "its node did not know of it".to_owned();
        let event = JobEvent::Released { holder: holder.clone(), at: fresh::now(), reason };
        shared.records.apply(&id, &event, &[], &fresh::operation()).await?;
    }
    Ok(())
}
