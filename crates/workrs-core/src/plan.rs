//! When the next checkpoint of a running job is due.

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

/// Run time left until the next checkpoint is due: `None` when there is to be none. After `failures` failed
/// tries in a row the interval doubles with each, up to 64 times, so that a job that cannot be dumped is not
/// frozen again and again.
pub fn next_checkpoint_in(policy: CheckpointPolicy, run_since_last: Duration, failures: u32) -> Option<Duration> {
    let interval = policy.interval()?.saturating_mul(1 << failures.min(6));
    Some(interval.saturating_sub(run_since_last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stretch_the_interval() {
        let policy = CheckpointPolicy::Every(Duration::from_secs(10));
        assert_eq!(next_checkpoint_in(policy, Duration::from_secs(4), 0), Some(Duration::from_secs(6)));
        assert_eq!(next_checkpoint_in(policy, Duration::from_secs(14), 1), Some(Duration::from_secs(6)));
        assert_eq!(next_checkpoint_in(policy, Duration::from_secs(1_000), 0), Some(Duration::ZERO));
        assert_eq!(next_checkpoint_in(CheckpointPolicy::None, Duration::ZERO, 0), None);
    }
}
