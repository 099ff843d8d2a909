//! Membership: the node's key under its lease, and the comparison of records with what runs here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};
use workrs_core::{
    fit::Offer,
    id::{Incarnation, NodeId, Timestamp},
    job::{JobRecord, decide},
    keys,
    placement::Traits,
    spec::Network,
};
use workrs_engine::boottime;
use workrs_store::{
    fresh,
    records::{RecordError, Records, guarded},
    state::{Change, Condition, Entry, LeaseId, StateError, Transaction},
};

use super::{Order, Shared, StartError, group, members::Departed};
use crate::{metrics, tls::Fingerprint};

/// How often the records are compared with what runs here.
const RECONCILE_EVERY: Duration = Duration::from_secs(60);
/// Nodes are listed in pages of this many.
const PAGE: usize = 500;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a node tells the group about itself, in the value of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its name.
    pub name: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Tells its data folder from those of all other nodes, over restarts.
    #[serde(default)]
    pub host: String,
    /// Where its API can be reached.
    pub address: String,
    /// The certificate that it shows there, and no other; `None` if the address is one of plain HTTP, or of a proxy whose
    /// certificate others judge as usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<Fingerprint>,
    /// The version of Workrs that it runs.
    pub version: String,
    /// The newest form of the group's data that it can read and write.
    #[serde(default = "group::first_version")]
    pub supports: u32,
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
    /// What of its network it lets jobs use.
    #[serde(default, skip_serializing_if = "Network::is_none")]
    pub network: Network,
    /// What runs the jobs.
    pub engine: String,
    /// The newest form of captures that its engine can restore; 0 in what older versions say.
    #[serde(default)]
    pub format: u32,
    /// The oldest one.
    #[serde(default)]
    pub oldest_format: u32,
    /// Whether it can run jobs in images.
    #[serde(default)]
    pub images: bool,
    /// The processor architecture.
    #[serde(default)]
    pub arch: String,
    /// The kernel's release.
    #[serde(default)]
    pub kernel: String,
    /// The version of CRIU; empty if it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub criu: String,
    /// What its processor can do beyond the base of its architecture, as the kernel names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_features: Vec<String>,
    /// Whether it takes no jobs and gives back those that it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Whether it has a fault when an admin asks for one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drills: bool,
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
                nodes.push(Self::read(entry)?);
            }
            after = page.entries.last().map(|entry| entry.key.clone());
            if !page.more {
                return Ok(nodes);
            }
        }
    }

    /// Whether it runs jobs, and is to get more.
    pub fn takes_jobs(&self) -> bool {
        self.cannot_run.is_none() && !self.draining
    }

    /// What decides which jobs it can run and resume.
    pub(super) fn traits(&self) -> Traits {
        let offer = Offer {
            engine: self.engine.clone(),
            formats: (self.oldest_format, self.format),
            arch: self.arch.clone(),
            cpu_features: self.cpu_features.clone(),
            kernel: self.kernel.clone(),
            criu: self.criu.clone(),
            cannot_dump: self.cannot_dump.clone(),
        };
        let (incarnation, labels) = (self.incarnation.clone(), self.labels.clone());
        Traits { incarnation, labels, network: self.network, images: self.images, offer }
    }

    fn read(entry: &Entry) -> Result<Self, StateError> {
        serde_json::from_slice(&entry.value).map_err(|error| StateError::Damaged(format!("{}: {error}", entry.key)))
    }

    fn of(shared: &Shared) -> Self {
        let offer = &shared.traits.offer;
        let not_asked_to = (!shared.config.roles.run).then(|| "it was started without the role to run jobs".to_owned());
        Self {
            name: shared.config.id.clone(),
            incarnation: shared.incarnation.clone(),
            host: shared.config.host.clone(),
            address: shared.config.address.clone(),
            tls_fingerprint: shared.config.tls_fingerprint.as_ref().map(|fingerprint| *fingerprint.borrow()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            supports: group::VERSION,
            started_at: shared.started_at,
            cpus_milli: shared.config.cpus_milli,
            memory_bytes: shared.config.memory_bytes,
            disk_bytes: shared.disk_bytes,
            labels: shared.traits.labels.clone(),
            network: shared.traits.network,
            engine: offer.engine.clone(),
            format: offer.formats.1,
            oldest_format: offer.formats.0,
            images: shared.traits.images,
            arch: offer.arch.clone(),
            kernel: offer.kernel.clone(),
            criu: offer.criu.clone(),
            cpu_features: offer.cpu_features.clone(),
            draining: shared.is_drained(),
            drills: shared.config.allow_drills,
            cannot_run: not_asked_to.or_else(|| shared.capabilities.run.clone().err()),
            cannot_dump: offer.cannot_dump.clone(),
            unknown: BTreeMap::new(),
        }
    }
}

/// Ends the membership of former processes of this node, and makes sure that no other node has its name.
///
/// Gives the former processes. Their jobs no longer run: what they left was ended before.
pub(super) async fn succeed(shared: &Shared) -> Result<Vec<Departed>, StartError> {
    let store = shared.records.store();
    let mut departed = Vec::new();
    // A key of a namesake that died goes with its lease, which a change of the store's leader may lengthen.
    let patience = Instant::now() + shared.config.lease * 4;
    // One that lives may lose its lease when machine or store are busy, and takes it again at once.
    let mut seen: Option<Instant> = None;
    loop {
        let page = store.list(&keys::processes(&shared.config.id), None, PAGE).await.map_err(StartError::Join)?;
        let mut namesake = None;
        for entry in &page.entries {
            let known = NodeInfo::read(entry).map_err(StartError::Join)?;
            if known.host != shared.config.host {
                namesake = Some(known);
                continue;
            }
            let conditions = vec![Condition::Unchanged(entry.key.clone(), entry.revision)];
            let changes = vec![Change::Delete(entry.key.clone())];
            match store.commit(Transaction { conditions, changes }).await {
                Ok(_) | Err(StateError::Conflict | StateError::Unknown(_)) => {}
                Err(error) => return Err(StartError::Join(error)),
            }
            departed.push(Departed { node: known.name, incarnation: known.incarnation });
        }
        match namesake {
            None if seen.is_none_or(|seen| seen.elapsed() >= shared.config.lease) => return Ok(departed),
            None => {}
            Some(known) if Instant::now() >= patience => return Err(name_taken(known)),
            Some(_) => seen = Some(Instant::now()),
        }
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}

fn name_taken(by: NodeInfo) -> StartError {
    StartError::NameTaken { name: by.name, address: by.address }
}

/// Other nodes of this one's name.
async fn namesakes(shared: &Shared) -> Result<Vec<NodeInfo>, StateError> {
    let page = shared.records.store().list(&keys::processes(&shared.config.id), None, PAGE).await?;
    let nodes = page.entries.iter().map(NodeInfo::read).collect::<Result<Vec<_>, _>>()?;
    Ok(nodes.into_iter().filter(|known| known.host != shared.config.host).collect())
}

/// Joins for the first time. Another node may take the name at the same moment: the one that was started later gives way.
pub(super) async fn enter(shared: &Shared) -> Result<(), StartError> {
    let lease = join(shared).await.map_err(StartError::Join)?;
    shared.lease.send_replace(lease);
    let age = |node: &NodeInfo| (node.started_at, node.incarnation.clone());
    let here = (shared.started_at, shared.incarnation.clone());
    let elder = namesakes(shared).await.map_err(StartError::Join)?.into_iter().find(|other| age(other) < here);
    let Some(elder) = elder else { return Ok(()) };
    shared.records.store().revoke_lease(lease).await.map_err(StartError::Join)?;
    Err(name_taken(elder))
}

/// Puts the node's key under a new lease. Tries until the answer is definite.
pub(super) async fn join(shared: &Shared) -> Result<LeaseId, StateError> {
    let store = shared.records.store();
    let mut pause = FIRST_PAUSE;
    loop {
        let asked = boottime::now();
        let lease = store.grant_lease(shared.config.lease).await?;
        let key = shared.node_key();
        let put = Transaction {
            conditions: vec![Condition::Absent(key.clone())],
            changes: vec![Change::Put(key, encode(&NodeInfo::of(shared))?, Some(lease))],
        };
        match store.commit(put).await {
            Ok(_) => {
                shared.has_joined(asked);
                return Ok(lease);
            }
            // Our own write may have been applied: its lease is the one to end before a fresh try.
            Err(StateError::Unknown(_) | StateError::Conflict | StateError::LeaseEnded) => {
                store.revoke_lease(lease).await?;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Writes the node's key anew, as what it says of itself has changed. If its lease has ended, the next one says it.
pub(super) async fn say_anew(shared: &Shared) -> Result<(), StateError> {
    let lease = *shared.lease.borrow();
    let key = shared.node_key();
    let mut pause = FIRST_PAUSE;
    loop {
        let put = Transaction {
            conditions: vec![Condition::Present(key.clone())],
            changes: vec![Change::Put(key.clone(), encode(&NodeInfo::of(shared))?, Some(lease))],
        };
        match shared.records.store().commit(put).await {
            Ok(_) | Err(StateError::Conflict | StateError::LeaseEnded) => return Ok(()),
            // To write it twice does no harm.
            Err(StateError::Unknown(_)) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Says anew what certificate the node shows whenever that changes.
pub(super) async fn follow_certificate(shared: Arc<Shared>) {
    let Some(mut fingerprint) = shared.config.tls_fingerprint.clone() else { return };
    while fingerprint.changed().await.is_ok() {
        while let Err(error) = say_anew(&shared).await {
            tracing::warn!(%error, "cannot tell the group which certificate this node shows, will try on");
            tokio::time::sleep(LONGEST_PAUSE).await;
        }
    }
}

fn encode(info: &NodeInfo) -> Result<bytes::Bytes, StateError> {
    serde_json::to_vec(info).map(Into::into).map_err(|error| StateError::Damaged(error.to_string()))
}

/// Renews the lease three times in its span. After a lost one the key is put back before anything else.
pub(super) async fn keep(shared: Arc<Shared>) {
    let third = shared.config.lease / 3;
    let mut pause = third;
    loop {
        let _ = tokio::time::timeout(pause, shared.lease_lost.notified()).await;
        let lease = *shared.lease.borrow();
        let asked = boottime::now();
        let renewal = tokio::time::timeout(shared.config.lease, shared.records.store().renew_lease(lease)).await;
        pause = third;
        match renewal.unwrap_or_else(|_| Err(StateError::Unavailable("it does not answer".to_owned()))) {
            Ok(()) => {
                metrics::LEASE_RENEWALS.add_to(&["ok"], 1);
                metrics::LEASE_RENEWED_AT.set_now();
                if shared.has_renewed(asked) {
                    shared.reconcile.notify_one();
                }
            }
            Err(StateError::LeaseEnded) => match join(&shared).await {
                Ok(fresh) => {
                    metrics::LEASE_RENEWALS.add_to(&["ended"], 1);
                    tracing::warn!("the lease had ended; joined the group again");
                    warn_of_namesakes(&shared).await;
                    shared.lease.send_replace(fresh);
                    shared.reconcile.notify_one();
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot join the group again, will try on");
                    pause = third.min(LONGEST_PAUSE);
                }
            },
            Err(error) => {
                metrics::LEASE_RENEWALS.add_to(&["failed"], 1);
                tracing::warn!(%error, "cannot renew the lease, will try on");
                pause = third.min(LONGEST_PAUSE);
            }
        }
    }
}

/// While the lease was over, the node's name was free. Jobs are told apart by processes, so both nodes go on.
async fn warn_of_namesakes(shared: &Shared) {
    for NodeInfo { address, .. } in namesakes(shared).await.unwrap_or_default() {
        tracing::warn!(address, "another node has this one's name now; give one of the two another --name");
    }
}

/// Compares the records under this process's name with what it runs, every minute and on demand.
pub(super) async fn reconcile(shared: Arc<Shared>) {
    loop {
        let _ = tokio::time::timeout(RECONCILE_EVERY, shared.reconcile.notified()).await;
        if let Err(error) = reconcile_once(&shared).await {
            tracing::warn!(%error, "cannot compare the records with what runs here");
            tokio::time::sleep(LONGEST_PAUSE).await;
            shared.reconcile.notify_one();
        }
    }
}

async fn reconcile_once(shared: &Shared) -> anyhow::Result<()> {
    // What runs here but is no longer ours must end.
    let held: Vec<_> = shared.jobs().iter().map(|(id, slot)| (id.clone(), slot.epoch, slot.entry.network)).collect();
    for (id, epoch, network) in held {
        let read_at = boottime::now();
        let record = shared.records.get(&id).await?;
        let holder = record.as_ref().and_then(|record| record.holder());
        let can_be_seen = network != Network::None;
        let must_end = decide::is_overtaken(record.as_ref(), epoch)
            || can_be_seen && record.as_ref().is_some_and(|record| decide::is_given_back(record, epoch));
        if must_end {
            // The slot may be another claim's by now.
            if shared.jobs().get(&id).is_some_and(|slot| slot.epoch == epoch) {
                shared.order(&id, Order::Abandon);
            }
        } else if can_be_seen && holder == Some(&shared.holder(epoch)) {
            shared.engine.is_ours(&id, &epoch.to_string(), read_at);
        }
    }
    // What is ours but does not run here goes back to the queue.
    for id in shared.running_under(&shared.incarnation).await? {
        if shared.jobs().contains_key(&id) {
            continue;
        }
        let at = fresh::now();
        let choose = |record: &JobRecord| {
            let is_held = shared.jobs().contains_key(&id);
            decide::disown(record, &shared.incarnation, at).filter(|_| !is_held).map(guarded)
        };
        match shared.records.decide(&id, choose, &fresh::operation()).await {
            Ok(_) | Err(RecordError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The lease, for those who write under it.
pub(super) fn channel() -> watch::Sender<LeaseId> {
    watch::Sender::new(LeaseId(0))
}
