//! What a node is told about itself when it is started.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tokio::sync::watch;
use workrs_core::{id::NodeId, spec::Network};

use super::quota::CheckpointQuota;
use crate::tls::Fingerprint;

/// What a node needs to know about itself.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Its name.
    pub id: NodeId,
    /// Tells its data folder from those of all other nodes, over restarts.
    pub host: String,
    /// Where its API can be reached.
    pub address: String,
    /// What tells its certificate from others; `None` if it shows none.
    pub tls_fingerprint: Option<watch::Receiver<Fingerprint>>,
    /// What it does for the group.
    pub roles: Roles,
    /// What its processor can do beyond the base of its architecture.
    pub cpu_features: Vec<String>,
    /// Time to save jobs when it is drained.
    pub stop_timeout: Duration,
    /// Processor time that it gives to jobs, in thousandths of a core.
    pub cpus_milli: u32,
    /// Memory that it gives to jobs.
    pub memory_bytes: u64,
    /// What jobs may ask for by `--constraint`.
    pub labels: BTreeMap<String, String>,
    /// What of its network it lets jobs use.
    pub allow_network: Network,
    /// Whether it has a fault when an admin asks for one.
    pub allow_drills: bool,
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
    /// How long the record of a finished job stays in the state store, before it is moved into a blob.
    pub archive_after: Duration,
    /// How long outputs, log and record of a finished job stay; `None` means for ever.
    pub keep_finished: Option<Duration>,
    /// How long it is kept who changed what; `None` means for ever.
    pub keep_audit: Option<Duration>,
}

/// What a node does for the group, beside its API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// It claims jobs and runs them.
    pub run: bool,
    /// It gives back the jobs of dead nodes, and takes its turn in what one node does for all.
    pub keep: bool,
}

impl Default for Roles {
    fn default() -> Self {
        Self { run: true, keep: true }
    }
}
