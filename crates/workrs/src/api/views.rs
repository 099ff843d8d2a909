//! What the API gives, as JSON, made from what the group knows. The command line prints the same with `--json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use workrs_core::{
    id::Timestamp,
    job::{CheckpointMode, Failure, JobRecord, JobState, Outcome, Resumable, Standing, Start, describe},
    plan::PlanNote,
};

use crate::index::Counts;

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Who handed it over.
    pub owner: String,
    /// `queued`, `running` or `finished`.
    pub state: String,
    /// Why it waits, if it does not wait for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The node that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Somebody asked for its end.
    pub cancel_requested: bool,
    /// `succeeded`, `failed`, `cancelled` or `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// How it ended, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_text: Option<String>,
    /// Why it failed: `exit`, `signal`, `out_of_memory`, `timed_out`, `disk_full` or `cannot_start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Its exit code, if it exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// How often it was claimed.
    pub epoch: u64,
    /// When it was acknowledged; milliseconds since 1970-01-01T00:00:00Z, as all times here.
    pub submitted_at: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<u64>,
    /// What was asked for, resolved.
    #[schema(value_type = Object)]
    pub spec: serde_json::Value,
    /// Its newest attempts, oldest first.
    pub attempts: Vec<AttemptView>,
    /// Its newest checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointView>,
    /// Sums over its whole life.
    pub totals: TotalsView,
    /// Whether it could be resumed if its node died now.
    pub resumable: ResumableView,
    /// When it is checkpointed.
    pub plan: PlanView,
    /// Whether it left outputs.
    pub has_outputs: bool,
}

/// One try of a node to run a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// Counts the claims.
    pub epoch: u64,
    /// Which node.
    pub node: String,
    /// When it claimed the job.
    pub claimed_at: u64,
    /// `clean` or the checkpoint that it went on from, as `<epoch>-<seq>`.
    pub start: String,
    /// How long the job had run at that checkpoint: what was not done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spared_ms: Option<u64>,
    /// When the program ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// What happened.
    pub notes: Vec<String>,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointView {
    /// The claim under which it was taken.
    pub epoch: u64,
    /// Its number within the epoch.
    pub seq: u64,
    /// `full` or `files`.
    pub mode: String,
    /// When it was taken.
    pub at: u64,
    /// `kept`, `bad` or `dropped`.
    pub standing: String,
    /// Why it is bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long the job stood still.
    pub standstill_ms: u64,
    /// From the freeze until it was durable.
    pub total_ms: u64,
    /// What a restore brings back.
    pub size_bytes: u64,
    /// What was uploaded.
    pub uploaded_bytes: u64,
    /// How long the job had run.
    pub run_ms: u64,
    /// How much it had printed.
    pub log_bytes: u64,
    /// What a node must have to resume from it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// The nodes that could not resume from it, and why not.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub declined: BTreeMap<String, String>,
}

/// Sums over a job's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TotalsView {
    /// Committed checkpoints.
    pub checkpoints: u64,
    /// Claims.
    pub attempts: u64,
    /// Nodes that died with it.
    pub losses: u64,
    /// Standstill for all checkpoints.
    pub standstill_ms: u64,
    /// Uploaded for all checkpoints.
    pub uploaded_bytes: u64,
}

/// Whether a job could be resumed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResumableView {
    /// Not known before the first checkpoint was tried.
    pub yes: Option<bool>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// When a job is checkpointed, and what is to be expected of it. Times that end in `_s` are in seconds, counted from
/// `at`, and missing where nobody knows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// What was asked for.
    pub policy: String,
    /// What the job's node last decided; nothing before the job has run.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub decision: Option<DecisionView>,
    /// When the job was first expected to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_forecast: Option<ForecastView>,
}

/// What a job's node decided about its checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DecisionView {
    /// When.
    pub at: u64,
    /// Run time to the next checkpoint; none without one.
    pub next_in_s: Option<f64>,
    /// Run time between checkpoints; none without checkpoints.
    pub interval_s: Option<f64>,
    /// Expected standstill for a checkpoint.
    pub checkpoint_cost_s: f64,
    /// Expected duration of a restore.
    pub restore_cost_s: f64,
    /// Expected time between faults of the node.
    pub mtbf_s: f64,
    /// Run time to the job's end.
    pub work_left_s: Option<f64>,
    /// Expected time to the job's end, with standstill, faults and recovery.
    pub expected_finish_in_s: Option<f64>,
    /// Run time that would have been lost if the node had died then.
    pub lost_if_died_s: f64,
    /// Why, for people.
    pub reason: String,
}

/// A forecast of a job's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForecastView {
    /// When it was made.
    pub at: u64,
    /// The expected end.
    pub end_at: u64,
}

impl From<&PlanNote> for DecisionView {
    fn from(note: &PlanNote) -> Self {
        Self {
            at: note.at.as_millis(),
            next_in_s: note.next_in_s,
            interval_s: note.interval_s,
            checkpoint_cost_s: note.checkpoint_cost_s,
            restore_cost_s: note.restore_cost_s,
            mtbf_s: note.mtbf_s,
            work_left_s: note.work_left_s,
            expected_finish_in_s: note.expected_finish_in_s,
            lost_if_died_s: note.lost_if_died_s,
            reason: note.reason.clone(),
        }
    }
}

impl From<&JobRecord> for JobView {
    fn from(record: &JobRecord) -> Self {
        let mut view = Self {
            id: record.id.to_string(),
            name: record.spec.name.clone(),
            owner: record.owner.to_string(),
            state: record.state.name().to_owned(),
            reason: None,
            node: None,
            cancel_requested: false,
            outcome: None,
            outcome_text: None,
            failure: None,
            exit_code: None,
            signal: None,
            epoch: record.epoch.0,
            submitted_at: record.submitted_at.as_millis(),
            finished_at: None,
            spec: serde_json::to_value(&record.spec).unwrap_or_default(),
            attempts: record.attempts.iter().map(AttemptView::from).collect(),
            checkpoints: record.checkpoints.iter().map(CheckpointView::from).collect(),
            totals: TotalsView {
                checkpoints: record.totals.checkpoints,
                attempts: record.totals.attempts,
                losses: record.totals.losses,
                standstill_ms: record.totals.standstill_ms,
                uploaded_bytes: record.totals.uploaded_bytes,
            },
            resumable: match &record.resumable {
                Resumable::Unknown => ResumableView { yes: None, reason: None },
                Resumable::Yes => ResumableView { yes: Some(true), reason: None },
                Resumable::No { reason } => ResumableView { yes: Some(false), reason: Some(reason.clone()) },
            },
            plan: PlanView {
                policy: record.spec.checkpoint.to_string(),
                decision: record.plan.as_ref().map(DecisionView::from),
                first_forecast: record
                    .forecast
                    .map(|forecast| ForecastView { at: forecast.at.as_millis(), end_at: forecast.end_at.as_millis() }),
            },
            has_outputs: false,
        };
        match &record.state {
            JobState::Queued { reason, .. } => view.reason.clone_from(reason),
            JobState::Running { holder, cancel, .. } => {
                view.node = Some(holder.node.to_string());
                view.cancel_requested = cancel.is_some();
            }
            JobState::Finished { at, outcome, outputs, .. } => {
                view.finished_at = Some(at.as_millis());
                view.has_outputs = outputs.is_some();
                view.outcome_text = Some(describe(outcome));
                view.set_outcome(outcome);
            }
        }
        view
    }
}

impl JobView {
    fn set_outcome(&mut self, outcome: &Outcome) {
        let (name, failure) = match outcome {
            Outcome::Succeeded => ("succeeded", None),
            Outcome::Cancelled => ("cancelled", None),
            Outcome::Lost => ("lost", None),
            Outcome::Failed { failure } => ("failed", Some(failure)),
        };
        self.outcome = Some(name.to_owned());
        if *outcome == Outcome::Succeeded {
            self.exit_code = Some(0);
        }
        let Some(failure) = failure else { return };
        let cause = match failure {
            Failure::Exit { code } => {
                self.exit_code = Some(*code);
                "exit"
            }
            Failure::Signal { signal } => {
                self.signal = Some(*signal);
                "signal"
            }
            Failure::OutOfMemory { .. } => "out_of_memory",
            Failure::TimedOut { .. } => "timed_out",
            Failure::DiskFull { .. } => "disk_full",
            Failure::CannotStart { .. } => "cannot_start",
        };
        self.failure = Some(cause.to_owned());
    }
}

impl From<&workrs_core::job::Attempt> for AttemptView {
    fn from(attempt: &workrs_core::job::Attempt) -> Self {
        Self {
            epoch: attempt.epoch.0,
            node: attempt.node.to_string(),
            claimed_at: attempt.claimed_at.as_millis(),
            start: match &attempt.start {
                Start::Clean => "clean".to_owned(),
                Start::Checkpoint { id, .. } => id.to_string(),
            },
            spared_ms: match attempt.start {
                Start::Checkpoint { run_ms, .. } if run_ms > 0 => Some(run_ms),
                Start::Checkpoint { .. } | Start::Clean => None,
            },
            started_at: attempt.started_at.map(Timestamp::as_millis),
            ended_at: attempt.ended_at.map(Timestamp::as_millis),
            notes: attempt.notes.clone(),
        }
    }
}

impl From<&workrs_core::job::Checkpoint> for CheckpointView {
    fn from(checkpoint: &workrs_core::job::Checkpoint) -> Self {
        let (standing, reason) = match &checkpoint.standing {
            Standing::Kept => ("kept", None),
            Standing::Bad { reason } => ("bad", Some(reason.clone())),
            Standing::Dropped => ("dropped", None),
        };
        let mode = match checkpoint.mode {
            CheckpointMode::Full => "full",
            CheckpointMode::Files => "files",
        };
        Self {
            epoch: checkpoint.id.epoch.0,
            seq: checkpoint.id.seq,
            mode: mode.to_owned(),
            at: checkpoint.at.as_millis(),
            standing: standing.to_owned(),
            reason,
            standstill_ms: checkpoint.standstill_ms,
            total_ms: checkpoint.total_ms,
            size_bytes: checkpoint.size_bytes,
            uploaded_bytes: checkpoint.uploaded_bytes,
            run_ms: checkpoint.run_ms,
            log_bytes: checkpoint.log_bytes,
            needs: Some(checkpoint.needs.describe()).filter(|needs| !needs.is_empty()),
            declined: checkpoint
                .declined
                .iter()
                .map(|declined| (declined.node.to_string(), declined.reason.clone()))
                .collect(),
        }
    }
}

/// A page of jobs. One that moved on while the page was read may be missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    /// The jobs.
    pub jobs: Vec<JobView>,
    /// Give it as `after` to get the next page; none behind the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many jobs the filter lets through.
    #[serde(default)]
    pub total: u64,
    /// How many there would be of each kind without the filter's state and outcome.
    #[serde(default)]
    pub counts: CountsView,
}

/// How many jobs there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CountsView {
    /// Those that wait.
    pub queued: u64,
    /// Those that run.
    pub running: u64,
    /// Those that have ended, however.
    pub finished: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those that were cancelled.
    pub cancelled: u64,
    /// Those that were lost.
    pub lost: u64,
}

impl From<Counts> for CountsView {
    fn from(counts: Counts) -> Self {
        Self {
            queued: counts.queued as u64,
            running: counts.running as u64,
            finished: counts.finished as u64,
            succeeded: counts.succeeded as u64,
            failed: counts.failed as u64,
            cancelled: counts.cancelled as u64,
            lost: counts.lost as u64,
        }
    }
}

fn no_network() -> String {
    workrs_core::spec::Network::None.to_string()
}

/// A live node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Its process.
    pub incarnation: String,
    /// Where its API can be reached.
    pub address: String,
    /// SHA-256 of the certificate that it shows there, if it makes TLS itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_fingerprint: Option<String>,
    /// The version of Workrs that it runs.
    pub version: String,
    /// Since when; milliseconds since 1970-01-01T00:00:00Z.
    pub started_at: u64,
    /// Cores for jobs.
    pub cpus: f64,
    /// Memory for jobs.
    pub memory_bytes: u64,
    /// Space for job disks; a job takes twice its disk.
    pub disk_bytes: u64,
    /// What jobs may ask for.
    pub labels: BTreeMap<String, String>,
    /// What of its network it lets jobs use: `none` or `host`.
    #[serde(default = "no_network")]
    pub network: String,
    /// What runs the jobs.
    pub engine: String,
    /// The processor architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch: String,
    /// What the processor can do beyond the base of its architecture, as the kernel names it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpu_features: Vec<String>,
    /// The kernel's release.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel: String,
    /// CRIU's version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub criu: String,
    /// Why it runs no jobs, if it runs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_run: Option<String>,
    /// Why it cannot checkpoint memory, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cannot_dump: Option<String>,
    /// Whether it is drained: it takes no jobs and gives back those that it has.
    #[serde(default)]
    pub draining: bool,
    /// Whether admins may make it fail, to see that jobs outlive it.
    #[serde(default)]
    pub drills: bool,
    /// The jobs that it runs.
    pub jobs: Vec<String>,
}

/// Output files of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputsView {
    /// The files.
    pub files: Vec<OutputView>,
    /// Symbolic links, told but never followed.
    pub links: Vec<OutputLinkView>,
    /// What could not be kept, and why.
    pub skipped: Vec<String>,
}

/// An output file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputView {
    /// Its path below `/job`.
    pub path: String,
    /// Its length.
    pub len: u64,
    /// Its permission bits.
    pub mode: u32,
    /// BLAKE3 of its content, in hex.
    pub hash: String,
}

/// A symbolic link that a job left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutputLinkView {
    /// Its path below `/job`.
    pub path: String,
    /// What it says.
    pub target: String,
}
