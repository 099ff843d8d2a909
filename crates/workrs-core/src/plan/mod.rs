//! When the next checkpoint of a running job is due.
//!
//! - [`model`]: expected completion times and optimal numbers of checkpoints.
//! - [`rate`]: how often nodes fail; [`forecast`]: how long a job still runs.
//! - [`controller`]: the decision; [`note`]: what the record says of it.

pub mod controller;
pub mod forecast;
pub mod model;
pub mod note;
pub mod rate;
pub mod words;

pub use self::{
    controller::{Bounds, Decision, Situation, decide},
    forecast::{Forecast, Outlook},
    note::PlanNote,
    rate::{Observed, Rate},
};

use std::time::Duration;

use crate::{job::CheckpointMode, spec::CheckpointPolicy};

/// How a job is checkpointed under `policy` on a host that can or cannot dump memory.
pub fn checkpoint_mode(policy: CheckpointPolicy, can_dump_memory: bool) -> Option<CheckpointMode> {
    match policy {
        CheckpointPolicy::None => None,
        CheckpointPolicy::Files => Some(CheckpointMode::Files),
        CheckpointPolicy::Auto | CheckpointPolicy::Every(_) => can_dump_memory.then_some(CheckpointMode::Full),
    }
}

/// A job that has run this long is checkpointed for the first time, so that its user learns early whether it is
/// resumable.
pub const PROBE_AFTER: Duration = Duration::from_secs(5);

/// How a running job stands with its checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How long it ran, unfrozen, over all attempts that count.
    pub run_time: Duration,
    /// The part of that since the newest checkpoint or the newest try of one.
    pub since_checkpoint: Duration,
    /// Tries in a row that failed.
    pub failures: u32,
    /// Whether a checkpoint of the job was ever tried.
    pub probed: bool,
}

/// Run time left until the next checkpoint is due: `None` when there is to be none. The first one comes after
/// [`PROBE_AFTER`]. With each failed try in a row the interval doubles, up to 64 times, so that a job that cannot be
/// dumped is not frozen again and again.
pub fn next_checkpoint_in(policy: CheckpointPolicy, progress: Progress) -> Option<Duration> {
    let interval = policy.interval()?.saturating_mul(1 << progress.failures.min(6));
    let regular = interval.saturating_sub(progress.since_checkpoint);
    let probe = if progress.probed { Duration::MAX } else { PROBE_AFTER.saturating_sub(progress.run_time) };
    Some(regular.min(probe))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: CheckpointPolicy, since_checkpoint: u64, failures: u32, probed: bool, expect: Option<u64>) {
        let since_checkpoint = Duration::from_secs(since_checkpoint);
        let progress = Progress { run_time: since_checkpoint, since_checkpoint, failures, probed };
        assert_eq!(next_checkpoint_in(policy, progress), expect.map(Duration::from_secs));
    }

    #[test]
    fn failures_stretch_the_interval() {
        let policy = CheckpointPolicy::Every(Duration::from_secs(10));
        check(policy, 4, 0, true, Some(6));
        check(policy, 14, 1, true, Some(6));
        check(policy, 1_000, 0, true, Some(0));
        check(CheckpointPolicy::None, 0, 0, true, None);
    }

    #[test]
    fn the_first_checkpoint_tells_early_whether_the_job_is_resumable() {
        check(CheckpointPolicy::Auto, 1, 0, false, Some(4));
        check(CheckpointPolicy::Files, 7, 0, false, Some(0));
        check(CheckpointPolicy::Every(Duration::from_secs(2)), 1, 0, false, Some(1));
        check(CheckpointPolicy::None, 7, 0, false, None);
    }
}
