//! A node: claims jobs, runs and checkpoints them, renews its lease, and reaps what dead nodes left.
//!
//! The loops share [`Shared`] and meet the rest of the group only in the state store:
//! - [`lease`]: joins the group, stays in it, and compares what it runs with what the records say; [`members`]: who else is in.
//! - [`claim`]: takes queued jobs that fit, from the part of the [`queue`] that it watches; [`nowhere`]: those that no node
//!   can resume.
//! - [`run`]: one task a job, from the claim to the finish; [`checkpoint`] is its part that saves the job.
//! - [`faults`]: counts how often nodes die, which [`planning`] turns into the time of the next checkpoint.
//! - [`owners`]: the quotas of owners, which may let a job wait.
//! - [`reap`]: gives the jobs of dead processes back to the queue; [`drain`]: gives its own back.
//! - [`drill`]: has a fault when somebody wants to see one.
//! - [`group`]: what one node does for all, with [`sweep`], which removes what nobody needs.
//!
//! A task that holds a job commits only under its holder (node, process, epoch); once that is no longer the
//! record's, it stops the job and touches nothing.

mod bring_up;
mod checkpoint;
mod claim;
mod clock;
mod config;
mod drain;
mod drill;
mod faults;
mod fence;
mod files;
mod finish;
mod group;
mod image;
mod inputs;
mod interruption;
mod lease;
mod lineage;
mod members;
mod nowhere;
mod outputs;
mod owners;
mod planning;
mod queue;
mod quota;
mod reap;
mod run;
mod shared;
mod staging;
mod sweep;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Span;
use workrs_core::{
    fit::Offer,
    id::{Epoch, Incarnation, JobId, NodeId, Timestamp},
    keys::QueueEntry,
    placement::Traits,
    spec::Network,
};
use workrs_engine::{Capabilities, Engine};
use workrs_store::{blobs::Blobs, checkpoints::Checkpoints, fresh, records::Records, state::LeaseId};

pub(crate) use self::sweep::{clean, delete_job};
pub use self::{
    config::{NodeConfig, Roles},
    drain::StopReport,
    drill::{Drill, DrillNote, ask as ask_for_drill},
    faults::known as known_faults,
    files::{ARCHIVE_NAME, FileEntry, FileIndex, INDEX_NAME, InvalidPath, check_path, folder_of},
    inputs::read_index,
    lease::NodeInfo,
    members::why_nobody_could_start,
    quota::CheckpointQuota,
};
use self::{
    fence::Fence,
    members::{Departed, Members},
    nowhere::Nowhere,
    owners::Owners,
    planning::Estimates,
    quota::CheckpointUsage,
    staging::Staging,
};
use crate::{host, images::Images, joblog::LiveLogs, quotas::Quotas};

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

/// How long a node that stops tries to say so in the state.
const GOODBYE: Duration = Duration::from_secs(5);

/// What the loops of a node share.
pub(crate) struct Shared {
    config: NodeConfig,
    incarnation: Incarnation,
    started_at: Timestamp,
    /// What its tasks log stands in here.
    span: Span,
    /// Under which its key stands.
    lease: watch::Sender<LeaseId>,
    /// What the engine knows of it.
    fence: Fence,
    /// Signals that the lease may have ended.
    lease_lost: Notify,
    members: Members,
    records: Records,
    blobs: Blobs,
    checkpoints: Checkpoints,
    images: Images,
    engine: Arc<dyn Engine>,
    capabilities: Capabilities,
    /// What decides which jobs it can run and resume.
    traits: Traits,
    disk_bytes: u64,
    live_logs: LiveLogs,
    jobs: Mutex<HashMap<JobId, Slot>>,
    cooldowns: Mutex<HashMap<JobId, Cooldown>>,
    nowhere: Nowhere,
    owners: Owners,
    /// Dumps on a node run one after another.
    dumps: Semaphore,
    staging: Staging,
    usage: CheckpointUsage,
    estimates: Estimates,
    /// Signals that capacity or a cooldown changed.
    freed: Notify,
    /// Signals that the records should be compared with what runs here.
    reconcile: Notify,
    /// It ends: it takes no jobs any more.
    stopping: AtomicBool,
    /// It was told to take no jobs and to give back those that it has.
    drained: AtomicBool,
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
    /// Lose it, as by a fault of this node.
    Fail,
}

/// A job that this node leaves alone for a while.
struct Cooldown {
    until: Instant,
    tries: u32,
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
    /// Another node has its name.
    #[error("the group has a node named {name} already, at {address}; give this one another --name")]
    NameTaken {
        /// The name.
        name: NodeId,
        /// Where the other one is.
        address: String,
    },
    /// The group writes what this version cannot read.
    #[error("the group's data are of version {group}, this node knows {supported} at most; upgrade it")]
    TooOld {
        /// The group's version.
        group: String,
        /// The newest that this node knows.
        supported: u32,
    },
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
    let incarnation = fresh::incarnation();
    let offer = Offer {
        engine: engine.name().to_owned(),
        formats: (engine.oldest_format(), engine.format()),
        arch: std::env::consts::ARCH.to_owned(),
        cpu_features: config.cpu_features.clone(),
        kernel: host::kernel(),
        criu: engine.criu_version().await,
        cannot_dump: capabilities.dump.clone().err(),
    };
    let traits = Traits {
        incarnation: incarnation.clone(),
        labels: config.labels.clone(),
        network: allowed_network(&config, &*engine),
        images: true,
        offer,
    };
    let shared = Arc::new(Shared {
        incarnation,
        started_at: fresh::now(),
        span: Span::current(),
        lease: lease::channel(),
        fence: Fence::default(),
        lease_lost: Notify::new(),
        members: Members::new(),
        checkpoints: Checkpoints::new(blobs.clone()),
        images: Images::new(Arc::clone(records.store()), blobs.clone()),
        live_logs: LiveLogs::default(),
        jobs: Mutex::default(),
        cooldowns: Mutex::default(),
        nowhere: Nowhere::default(),
        owners: Owners::new(Quotas::new(Arc::clone(records.store()))),
        dumps: Semaphore::new(1),
        staging: Staging { memory: config.memory_dir.clone(), disk: config.work_dir.clone() },
        usage: CheckpointUsage::new(config.checkpoint_quota),
        estimates: Estimates::new(config.prior_mtbf),
        freed: Notify::new(),
        reconcile: Notify::new(),
        stopping: AtomicBool::new(false),
        drained: AtomicBool::new(false),
        left: Mutex::default(),
        tasks: TaskTracker::new(),
        ended: CancellationToken::new(),
        config,
        records,
        blobs,
        engine,
        capabilities,
        traits,
        disk_bytes,
    });
    if shared.config.allow_network != shared.traits.network && shared.capabilities.run.is_ok() {
        tracing::warn!(
            engine = shared.engine.name(),
            "the engine cannot give jobs this machine's network: they get none"
        );
    }
    group::check_version(&shared).await?;
    let former = lease::succeed(&shared).await?;
    if drain::is_asked_for(&shared).await.map_err(StartError::Join)? {
        tracing::warn!("this node was drained and takes no jobs before `workrs drain --undo {}`", shared.config.id);
        shared.drained.store(true, Ordering::SeqCst);
    }
    lease::enter(&shared).await?;
    shared.start_loops(former);
    Ok(RunningNode { shared })
}

/// What of its network a node can let jobs use.
fn allowed_network(config: &NodeConfig, engine: &dyn Engine) -> Network {
    let allowed = config.allow_network;
    if allowed.is_within(engine.network()) { allowed } else { Network::None }
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
        shared.stopping.store(true, Ordering::SeqCst);
        let report = drain::give_all_back(shared, timeout).await;
        // A state store that is away must not keep the node up: the others see it go all the same.
        let goodbye = async {
            faults::leave(shared).await;
            let lease = *shared.lease.borrow();
            if let Err(error) = shared.records.store().revoke_lease(lease).await {
                tracing::warn!(%error, "cannot leave the group; its lease will end by itself");
            }
        };
        if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
            tracing::warn!("the state store does not answer; the node's lease will end by itself");
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
    /// `former`: processes of this node that have ended, but whose jobs were not given back.
    fn start_loops(self: &Arc<Self>, former: Vec<Departed>) {
        self.show();
        let (departed, departures) = mpsc::unbounded_channel();
        for process in former {
            // The receiver is there.
            let _ = departed.send(process);
        }
        self.spawn(members::run(Arc::clone(self), departed));
        self.spawn(lease::keep(Arc::clone(self)));
        self.spawn(lease::reconcile(Arc::clone(self)));
        self.spawn(faults::watch(Arc::clone(self)));
        self.spawn(drain::watch(Arc::clone(self)));
        if self.config.allow_drills {
            self.spawn(drill::watch(Arc::clone(self)));
        }
        self.spawn(lease::follow_certificate(Arc::clone(self)));
        if self.config.roles.keep {
            self.spawn(reap::run(Arc::clone(self), departures));
            self.spawn(group::run(Arc::clone(self)));
        }
        if self.config.roles.run && self.capabilities.run.is_ok() {
            self.spawn(claim::run(Arc::clone(self)));
        }
    }
}
