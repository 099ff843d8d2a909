//! The job record: what the group knows of a job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fit::HostNeeds,
    hash::ContentHash,
    id::{Epoch, Incarnation, JobId, NodeId, Owner, Timestamp},
    plan::PlanNote,
    spec::JobSpec,
};

/// The version of the record's form that this code writes.
pub const RECORD_VERSION: u32 = 1;
/// Good checkpoints that are kept; older ones are dropped when a newer one is committed.
pub const KEPT_CHECKPOINTS: usize = 2;
/// Entries of the checkpoint history that a record carries, kept ones included.
pub const CHECKPOINT_HISTORY: usize = 6;
/// Attempts that a record carries; older ones are only counted.
pub const ATTEMPT_HISTORY: usize = 6;
/// Node losses in a row, without a newer checkpoint between them, after which a job ends as `Lost`.
pub const MAX_CONSECUTIVE_LOSSES: u32 = 10;
/// Log ranges that a record carries; beyond it, the holder copies them into one.
pub const MAX_LOG_RANGES: usize = 16;
/// The longest reason that a record carries, in bytes.
pub const MAX_REASON_LEN: usize = 200;
/// Processes of which a checkpoint notes that they cannot restore it; older ones may try again.
pub const MAX_DECLINED: usize = 8;
/// The longest reason of one of them, in bytes.
pub const MAX_DECLINE_LEN: usize = 100;

/// All that the group knows of a job. Only [`super::apply`] changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The form of this record, [`RECORD_VERSION`].
    pub version: u32,
    /// The job.
    pub id: JobId,
    /// Who handed it over.
    pub owner: Owner,
    /// What is to be run.
    pub spec: JobSpec,
    /// Tells whether another submit under this id means the same job.
    pub spec_hash: ContentHash,
    /// The blob that lists the inputs; `None` without inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<BlobRef>,
    /// Length of the inputs.
    #[serde(default)]
    pub input_bytes: u64,
    /// When the job was acknowledged.
    pub submitted_at: Timestamp,
    /// Where the job stands.
    pub state: JobState,
    /// The epoch of the newest claim.
    pub epoch: Epoch,
    /// The newest checkpoints, oldest first; see [`Checkpoint::standing`].
    #[serde(default)]
    pub checkpoints: Vec<Checkpoint>,
    /// The newest attempts, oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// Sums over all checkpoints and attempts, also those no longer listed.
    #[serde(default)]
    pub totals: Totals,
    /// Which epoch wrote which part of the log.
    #[serde(default)]
    pub log: Vec<LogRange>,
    /// Where the log of a clean start begins: behind what earlier failed tries of a retried job printed.
    #[serde(default)]
    pub log_base: u64,
    /// Node losses since the newest checkpoint.
    #[serde(default)]
    pub losses: u32,
    /// How often the job failed by itself and was started anew.
    #[serde(default)]
    pub retried: u32,
    /// Whether the job could be resumed, as far as is known.
    #[serde(default)]
    pub resumable: Resumable,
    /// When the job is checkpointed and why, as its holder last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanNote>,
    /// The first forecast of the job's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<FirstForecast>,
    /// Length of the outputs.
    #[serde(default)]
    pub output_bytes: u64,
    /// Whether the blobs that a finished job no longer needs are gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleaned: bool,
    /// Fields that a newer version wrote.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// Where a job stands. A variant owns what only that state has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a node.
    Queued {
        /// Since when.
        since: Timestamp,
        /// Why it is back in the queue.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A node holds it.
    Running {
        /// Who holds it.
        holder: Holder,
        /// Since when.
        since: Timestamp,
        /// Set once somebody asked for its end.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cancel: Option<Timestamp>,
    },
    /// Ended for good.
    Finished {
        /// When.
        at: Timestamp,
        /// How.
        outcome: Outcome,
        /// The blob that lists the outputs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        outputs: Option<BlobRef>,
        /// Length of the log.
        log_bytes: u64,
    },
}

/// Which process of which node holds a job, and by which claim. A commit of a running job carries it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
    /// The claim.
    pub epoch: Epoch,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// Exit code 0.
    Succeeded,
    /// By its own fault.
    Failed {
        /// Which.
        failure: Failure,
    },
    /// By its user's wish.
    Cancelled,
    /// Its nodes died too often without a newer checkpoint; it can be run on.
    Lost,
}

/// The fault of a job's own that ended it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Failure {
    /// It exited with a code other than 0.
    Exit {
        /// The code, 1 to 255.
        code: u8,
    },
    /// A signal ended it that neither a limit nor a cancel explains.
    Signal {
        /// The signal's number.
        signal: u8,
    },
    /// It needed more memory than its limit.
    OutOfMemory {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// It ran longer than its limit.
    TimedOut {
        /// The limit.
        limit_ms: u64,
    },
    /// It filled its disk.
    DiskFull {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// It could not be started on any node.
    CannotStart {
        /// Why.
        reason: String,
    },
}

/// A blob that must hold exactly these bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its name below the blob root.
    pub name: String,
    /// The hash of its bytes.
    pub hash: ContentHash,
    /// Its length.
    pub len: u64,
}

/// Names a checkpoint within its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckpointId {
    /// The claim under which it was taken.
    pub epoch: Epoch,
    /// Counts from 1 within the epoch; failed tries use up a number.
    pub seq: u64,
}

impl std::fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

/// What of the job a checkpoint holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointMode {
    /// Memory, disk and log: the process goes on where it was.
    Full,
    /// Disk and log: the program starts again on its files.
    Files,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its name.
    #[serde(flatten)]
    pub id: CheckpointId,
    /// What it holds.
    pub mode: CheckpointMode,
    /// Its manifest, which leads to every byte of it. `None` once it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<BlobRef>,
    /// Whether it can be resumed from.
    pub standing: Standing,
    /// When it was taken.
    pub at: Timestamp,
    /// How long the job stood still.
    pub standstill_ms: u64,
    /// From the freeze to the commit.
    pub total_ms: u64,
    /// What a restore has to bring back.
    pub size_bytes: u64,
    /// What was uploaded for it.
    pub uploaded_bytes: u64,
    /// How long the job had run, unfrozen, over all attempts that count.
    pub run_ms: u64,
    /// Length of the log at the cut.
    pub log_bytes: u64,
    /// What it needs of a node. Nothing in records of before this was noted.
    #[serde(default)]
    pub needs: HostNeeds,
    /// Nodes that fit it, had every byte of it, and could not restore it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_by: Vec<NodeId>,
    /// Who cannot restore it, the newest last: placement leaves them out while they live.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub declined: Vec<Declined>,
}

/// A node's process that was to restore a checkpoint and could not. As a new process it may have what was missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declined {
    /// The node.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
    /// Why it cannot.
    pub reason: String,
}

/// Whether a checkpoint can be resumed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", rename_all = "snake_case")]
pub enum Standing {
    /// Yes.
    Kept,
    /// No: proved useless. Its blobs stay until two newer good ones exist.
    Bad {
        /// The proof.
        reason: String,
    },
    /// No: newer ones took its place and its blobs may be gone.
    Dropped,
}

/// One claim and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The claim.
    pub epoch: Epoch,
    /// Who claimed.
    pub node: NodeId,
    /// When.
    pub claimed_at: Timestamp,
    /// From where it was to start.
    pub start: Start,
    /// When the program ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the claim ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it ended, and which steps down the restore took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// From where an attempt goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Start {
    /// From nothing.
    Clean,
    /// From a checkpoint.
    Checkpoint {
        /// Which.
        #[serde(flatten)]
        id: CheckpointId,
        /// What it holds.
        mode: CheckpointMode,
        /// How long the job had run then: what is not done again. 0 in records of before this was noted.
        #[serde(default)]
        run_ms: u64,
    },
}

impl From<&Checkpoint> for Start {
    fn from(checkpoint: &Checkpoint) -> Self {
        Self::Checkpoint { id: checkpoint.id, mode: checkpoint.mode, run_ms: checkpoint.run_ms }
    }
}

/// Sums over a job's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Committed checkpoints.
    pub checkpoints: u64,
    /// Claims.
    pub attempts: u64,
    /// Nodes that died with it.
    pub losses: u64,
    /// Standstill for all committed checkpoints.
    pub standstill_ms: u64,
    /// Uploaded for all committed checkpoints.
    pub uploaded_bytes: u64,
}

/// When a job was first expected to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstForecast {
    /// When that was said.
    pub at: Timestamp,
    /// The expected end, with standstill, faults and recovery.
    pub end_at: Timestamp,
}

/// From `from` on, and up to the next range's start, the log is what `epoch` wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// Who wrote it.
    pub epoch: Epoch,
    /// The offset of its first byte in the log.
    pub from: u64,
}

/// Whether a job could be resumed if its node died now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "resumable", rename_all = "snake_case")]
pub enum Resumable {
    /// No checkpoint was tried yet.
    #[default]
    Unknown,
    /// Its newest checkpoint was committed.
    Yes,
    /// Its newest try failed, or none is to be made.
    No {
        /// Why.
        reason: String,
    },
}

impl JobRecord {
    /// A new job, queued. The only other maker of states is [`JobRecord::apply`].
    pub fn submitted(id: JobId, owner: Owner, spec: JobSpec, inputs: Option<BlobRef>, at: Timestamp) -> Self {
        let spec_hash = spec.hash(inputs.as_ref().map(|blob| blob.hash));
        let resumable = if spec.checkpoint.interval().is_none() {
            Resumable::No { reason: "the user asked for no checkpoints".to_owned() }
        } else {
            Resumable::Unknown
        };
        Self {
            version: RECORD_VERSION,
            id,
            owner,
            spec,
            spec_hash,
            inputs,
            input_bytes: 0,
            submitted_at: at,
            state: JobState::Queued { since: at, reason: None },
            epoch: Epoch::default(),
            checkpoints: Vec::new(),
            attempts: Vec::new(),
            totals: Totals::default(),
            log: Vec::new(),
            log_base: 0,
            losses: 0,
            retried: 0,
            resumable,
            plan: None,
            forecast: None,
            output_bytes: 0,
            cleaned: false,
            unknown: BTreeMap::new(),
        }
    }

    /// The checkpoint that the next start goes on from; `None` means a clean start.
    pub fn resume_point(&self) -> Option<&Checkpoint> {
        self.checkpoints.iter().rev().find(|checkpoint| checkpoint.standing == Standing::Kept)
    }

    /// Checkpoints whose blobs must stay: the kept ones, and bad ones that newer ones have not replaced.
    pub fn named_checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        self.checkpoints.iter().filter(|checkpoint| checkpoint.standing != Standing::Dropped)
    }

    /// Who holds the job, if anybody does.
    pub fn holder(&self) -> Option<&Holder> {
        match &self.state {
            JobState::Running { holder, .. } => Some(holder),
            _ => None,
        }
    }

    /// Whether the job ended for good.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, JobState::Finished { .. })
    }

    /// Whether the job ended and may still have inputs or checkpoints in blobs, which nobody needs any more. A lost job
    /// keeps them, as it can be run on.
    pub fn needs_cleaning(&self) -> bool {
        let may_have_checkpoints = self.epoch.0 > 0 && self.spec.checkpoint.interval().is_some();
        self.is_over() && !self.cleaned && (self.inputs.is_some() || may_have_checkpoints)
    }
    /// Whether it has ended for good: a lost job can be run on.
    pub fn is_over(&self) -> bool {
        matches!(&self.state, JobState::Finished { outcome, .. } if *outcome != Outcome::Lost)
    }

    /// What it has in blobs, as far as its record knows: inputs and checkpoints until it has ended for good, then its outputs
    /// and its log. Checkpoints share most of their content, so the largest that is kept stands for all of them.
    pub fn stored_bytes(&self) -> u64 {
        let log = match &self.state {
            JobState::Finished { log_bytes, .. } => *log_bytes,
            JobState::Queued { .. } | JobState::Running { .. } => 0,
        };
        if self.is_over() {
            return self.output_bytes.saturating_add(log);
        }
        let kept = self.checkpoints.iter().filter(|checkpoint| checkpoint.standing == Standing::Kept);
        let largest = kept.map(|checkpoint| checkpoint.size_bytes).max().unwrap_or(0);
        self.input_bytes.saturating_add(largest).saturating_add(log)
    }
}
