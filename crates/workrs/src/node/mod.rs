//! A node: claims jobs, runs and checkpoints them, renews its lease, and reaps what dead nodes left.
//!
//! The loops share [`Shared`] and meet the rest of the group only in the state store:
//! - [`lease`]: joins the group, stays in it, and compares what it runs with what the records say.
//! - [`claim`]: takes queued jobs that fit.
//! - [`run`]: one task a job, from the claim to the finish; [`checkpoint`] is its part that saves the job.
//! - [`faults`]: counts how often nodes die, which [`planning`] turns into the time of the next checkpoint.
//! - [`reap`]: gives the jobs of dead processes back to the queue.
//!
//! A task that holds a job commits only under its holder (node, process, epoch); once that is no longer the
//! record's, it stops the job and touches nothing.

mod bring_up;
mod checkpoint;
mod claim;
mod clock;
mod faults;
mod files;
mod finish;
mod inputs;
mod interruption;
mod lease;
mod lineage;
mod outputs;
mod planning;
mod quota;
mod reap;
mod run;
mod staging;
mod sweep;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use workrs_core::{
    id::{Epoch, Incarnation, JobId, NodeId},
    job::Holder,
    keys::{self, QueueEntry},
    placement::Capacity,
};
use workrs_engine::{Capabilities, Engine};
use workrs_store::{blobs::Blobs, checkpoints::Checkpoints, fresh, records::Records};

pub(crate) use self::sweep::clean_finished;
pub use self::{
    files::{ARCHIVE_NAME, FileEntry, FileIndex, INDEX_NAME, InvalidPath, check_path, folder_of},
    inputs::read_index,
    lease::NodeInfo,
    quota::CheckpointQuota,
};
use self::{planning::Estimates, quota::CheckpointUsage, staging::Staging};
use crate::joblog::LiveLogs;

/// What a node needs to know about itself.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name.
    pub id: NodeId,
    /// Where its API can be reached.
    pub address: String,
    /// Processor time that it gives to jobs, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory that it gives to jobs.
    pub memory_bytes: u64,
    /// What jobs may ask for by `--constraint`.
    pub labels: BTreeMap<String, String>,
    /// How long the group waits for a sign of life.
    pub lease: Duration,
    /// The longest log that is kept of a job.
    pub log_limit_bytes: u64,
    /// How long a job waits for a node that fits its checkpoint before it is started clean.
    pub unfit_wait: Duration,
    /// Where attempts keep their logs and captures.
    pub work_dir: PathBuf,
    /// A folder on a file system in memory, for captures that fit there. Its size is not in `memory_bytes`.
    pub memory_dir: Option<PathBuf>,
    /// How much checkpoint data jobs may have.
    pub checkpoint_quota: CheckpointQuota,
    /// The mean time between a node's faults that is assumed before any was seen.
    pub prior_mtbf: Duration,
    /// How long outputs, log and record of a finished job stay; `None` means for ever.
    pub keep_finished: Option<Duration>,
}

/// The parts that a node is made of.
pub struct NodeParts {
    /// The group's jobs.
    pub records: Records,
    /// The group's blobs.
    pub blobs: Blobs,
    /// What runs the jobs.
    pub engine: Arc<dyn Engine>,
}

/// The longest that a dump may take: a minute, and a second for each 50 MB that the job may have in memory. A dump
/// that is cut off costs the job's work since its newest checkpoint, so this is generous.
fn capture_deadline(memory_bytes: u64) -> Duration {
    Duration::from_secs(60 + memory_bytes / 50_000_000)
}

/// What the loops of a node share.
pub(crate) struct Shared {
    config: NodeConfig,
    incarnation: Incarnation,
    records: Records,
    blobs: Blobs,
    checkpoints: Checkpoints,
    engine: Arc<dyn Engine>,
    capabilities: Capabilities,
    disk_bytes: u64,
    live_logs: LiveLogs,
    jobs: Mutex<HashMap<JobId, Slot>>,
    cooldowns: Mutex<HashMap<JobId, Cooldown>>,
    /// Dumps on a node run one after another.
    dumps: Semaphore,
    staging: Staging,
    usage: CheckpointUsage,
    estimates: Estimates,
    /// Signals that capacity or a cooldown changed.
    freed: Notify,
    /// Signals that the records should be compared with what runs here.
    reconcile: Notify,
    draining: AtomicBool,
    /// Jobs that were given back while the node stops.
    left: Mutex<StopReport>,
    tasks: TaskTracker,
    /// Ends every task at once, as if the process had died.
    ended: CancellationToken,
}

/// A job that this node holds, or is about to claim.
struct Slot {
    entry: QueueEntry,
    epoch: Epoch,
    order: watch::Sender<Order>,
    /// Since when there is work that no checkpoint holds.
    unsaved_since: Arc<Mutex<Instant>>,
}

/// What the node wants of a job's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Run it.
    Run,
    /// Checkpoint it, give it back and end.
    Save,
    /// Give it back at its newest checkpoint and end at once.
    Release,
    /// It is no longer ours: end it and commit nothing.
    Abandon,
}

/// A job that this node leaves alone for a while.
struct Cooldown {
    until: Instant,
    tries: u32,
    /// Since when no checkpoint of it fits this node.
    unfit_since: Option<Instant>,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What a former process left could not be ended.
    #[error("cannot end what a former process of this node left running: {0}")]
    Sweep(workrs_engine::EngineError),
    /// The group cannot be joined.
    #[error("cannot join the group: {0}")]
    Join(workrs_store::state::StateError),
    /// The work folder cannot be used.
    #[error("cannot use {path}: {error}")]
    WorkDir {
        /// Which folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// A node whose loops run in the background.
pub struct RunningNode {
    shared: Arc<Shared>,
    lease: tokio::sync::watch::Receiver<workrs_store::state::LeaseId>,
}

/// What became of the jobs of a node that stopped.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct StopReport {
    /// Given back with a checkpoint of their very last state.
    pub saved: Vec<JobId>,
    /// Given back at an older checkpoint, or at none: the work since then is done again.
    pub released: Vec<JobId>,
}

/// Ends what a former process left, joins the group and starts all loops.
pub async fn start(config: NodeConfig, parts: NodeParts) -> Result<RunningNode, StartError> {
    let NodeParts { records, blobs, engine } = parts;
    let leftovers = engine.sweep().await.map_err(StartError::Sweep)?;
    if !leftovers.is_empty() {
        tracing::info!(containers = ?leftovers, "ended what a former process left running");
    }
    empty_folder(&config.work_dir).map_err(|error| StartError::WorkDir { path: config.work_dir.clone(), error })?;
    let capabilities = engine.capabilities().await;
    let disk_bytes = engine.disk_capacity().await;
    let shared = Arc::new(Shared {
        incarnation: fresh::incarnation(),
        checkpoints: Checkpoints::new(blobs.clone()),
        live_logs: LiveLogs::default(),
        jobs: Mutex::default(),
        cooldowns: Mutex::default(),
        dumps: Semaphore::new(1),
        staging: Staging { memory: config.memory_dir.clone(), disk: config.work_dir.clone() },
        usage: CheckpointUsage::new(config.checkpoint_quota),
        estimates: Estimates::new(config.prior_mtbf),
        freed: Notify::new(),
        reconcile: Notify::new(),
        draining: AtomicBool::new(false),
        left: Mutex::default(),
        tasks: TaskTracker::new(),
        ended: CancellationToken::new(),
        config,
        records,
        blobs,
        engine,
        capabilities,
        disk_bytes,
    });
    let lease = lease::join(&shared).await.map_err(StartError::Join)?;
    let (lease_sender, lease_receiver) = watch::channel(lease);
    shared.spawn(lease::keep(Arc::clone(&shared), lease_sender));
    shared.spawn(lease::reconcile(Arc::clone(&shared)));
    shared.spawn(faults::watch(Arc::clone(&shared)));
    shared.spawn(reap::run(Arc::clone(&shared)));
    shared.spawn(sweep::run(Arc::clone(&shared)));
    if shared.capabilities.run.is_ok() {
        shared.spawn(claim::run(Arc::clone(&shared)));
    }
    Ok(RunningNode { shared, lease: lease_receiver })
}

/// Makes the folder, or removes what a former process left in it.
fn empty_folder(folder: &std::path::Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
    }
    Ok(())
}

impl RunningNode {
    /// What this host can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    /// The logs of the jobs that run here.
    pub fn live_logs(&self) -> LiveLogs {
        self.shared.live_logs.clone()
    }

    /// How many jobs this node holds.
    pub fn job_count(&self) -> usize {
        self.shared.jobs().len()
    }

    /// This process.
    pub fn incarnation(&self) -> &Incarnation {
        &self.shared.incarnation
    }

    /// Stops claiming, checkpoints every job, those with most work at risk first, and gives them back. What is
    /// not saved when `timeout` is over is given back at its newest checkpoint.
    pub async fn stop(self, timeout: Duration) -> StopReport {
        let shared = &self.shared;
        shared.draining.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + timeout;
        let unsaved_since = |slot: &Slot| *slot.unsaved_since.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held: Vec<_> = shared.jobs().iter().map(|(id, slot)| (unsaved_since(slot), id.clone())).collect();
        held.sort();
        // Dumps take turns in this order; while one job is dumped, those before it are uploaded.
        for (_, id) in &held {
            shared.order(id, Order::Save);
        }
        let all_gone = || async {
            for (_, id) in &held {
                shared.gone(id).await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, all_gone()).await;
        for (_, id) in &held {
            shared.order(id, Order::Release);
        }
        // Ending a container and committing its release needs no more than moments; what hangs is reaped.
        let _ = tokio::time::timeout(Duration::from_secs(10), all_gone()).await;
        let mut report = std::mem::take(&mut *shared.left.lock().unwrap_or_else(PoisonError::into_inner));
        report.released.extend(shared.jobs().keys().cloned());
        faults::leave(shared).await;
        let lease = *self.lease.borrow();
        if let Err(error) = shared.records.store().revoke_lease(lease).await {
            tracing::warn!(%error, "cannot leave the group; its lease will end by itself");
        }
        shared.ended.cancel();
        shared.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), shared.tasks.wait()).await;
        report
    }

    /// Ends every task at once, as if the process had died. For tests.
    pub async fn crash(self) {
        self.shared.ended.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// A node that is let go of ends as if the process had died.
impl Drop for RunningNode {
    fn drop(&mut self) {
        self.shared.ended.cancel();
    }
}

impl Shared {
    /// Runs a task until it ends or the node does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = task => {}
            }
        });
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Slot>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cooldowns(&self) -> MutexGuard<'_, HashMap<JobId, Cooldown>> {
        self.cooldowns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node_key(&self) -> String {
        keys::node(&self.config.id, &self.incarnation)
    }

    fn holder(&self, epoch: Epoch) -> Holder {
        Holder { node: self.config.id.clone(), incarnation: self.incarnation.clone(), epoch }
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// What is neither taken nor promised.
    fn free(&self) -> Capacity {
        let total = Capacity {
            cpus_milli: self.config.cpus_milli,
            memory_bytes: self.config.memory_bytes,
            disk_bytes: self.disk_bytes,
        };
        self.jobs().values().fold(total, |free, slot| Capacity {
            cpus_milli: free.cpus_milli.saturating_sub(slot.entry.cpus_milli),
            memory_bytes: free.memory_bytes.saturating_sub(slot.entry.memory_bytes),
            disk_bytes: free.disk_bytes.saturating_sub(slot.entry.disk_bytes.saturating_mul(2)),
        })
    }

    fn order(&self, id: &JobId, order: Order) {
        if let Some(slot) = self.jobs().get(id) {
            let _ = slot.order.send(order);
        }
    }

    /// Returns once this node no longer holds `id`.
    async fn gone(&self, id: &JobId) {
        loop {
            let freed = self.freed.notified();
            if !self.jobs().contains_key(id) {
                return;
            }
            // Also woken by time, as another waiter may have taken the notice.
            let _ = tokio::time::timeout(Duration::from_millis(50), freed).await;
        }
    }

    fn remove(&self, id: &JobId) {
        self.jobs().remove(id);
        self.usage.forget(id);
        self.freed.notify_waiters();
        self.freed.notify_one();
    }
}
