//! How long a job still runs: the user's forecast, else how long earlier jobs of its name ran, else unknown.
//!
//! All times are run time: unfrozen, undone work not counted.

use std::time::Duration;

/// More earlier jobs than that are not looked at.
pub const MAX_EARLIER: usize = 9;

/// What is known about how long a job runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forecast {
    /// From short to long.
    candidates: Vec<Duration>,
}

/// What a forecast says at some moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outlook {
    /// How long the job still runs; `None` if nobody knows.
    pub remaining: Option<Duration>,
    /// The job has to run so much longer for the forecast to change by more than the time gone by: it has then outlived
    /// what the forecast rests on. `None` if it never changes.
    pub holds_for: Option<Duration>,
}

impl Forecast {
    /// A forecast from what the user said, else from the run times of earlier successful jobs of the same name, newest
    /// first, of which the first [`MAX_EARLIER`] count.
    pub fn new(user: Option<Duration>, earlier: &[Duration]) -> Self {
        let mut candidates = match user {
            Some(user) => vec![user],
            None => earlier.iter().copied().take(MAX_EARLIER).collect(),
        };
        candidates.sort_unstable();
        Self { candidates }
    }

    /// What it says of a job that has run for `run_time`: the median of the earlier runs that lasted longer.
    pub fn outlook(&self, run_time: Duration) -> Outlook {
        let outlived = self.candidates.partition_point(|candidate| *candidate <= run_time);
        let longer = &self.candidates[outlived..];
        let Some(shortest) = longer.first() else { return Outlook::default() };
        let (low, high) = (longer[(longer.len() - 1) / 2], longer[longer.len() / 2]);
        let median = low.saturating_add(high.saturating_sub(low) / 2);
        Outlook { remaining: Some(median.saturating_sub(run_time)), holds_for: Some(shortest.saturating_sub(run_time)) }
    }

    /// How long a job that has run for `run_time` still runs.
    pub fn remaining(&self, run_time: Duration) -> Option<Duration> {
        self.outlook(run_time).remaining
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn check(user: Option<u64>, earlier: &[u64], run_time: u64, remaining: Option<u64>, holds_for: Option<u64>) {
        let earlier: Vec<Duration> = earlier.iter().copied().map(seconds).collect();
        let found = Forecast::new(user.map(seconds), &earlier).outlook(seconds(run_time));
        assert_eq!(found, Outlook { remaining: remaining.map(seconds), holds_for: holds_for.map(seconds) });
    }

    #[test]
    fn the_user_s_forecast_counts_until_the_job_outlives_it() {
        check(Some(100), &[10], 0, Some(100), Some(100));
        check(Some(100), &[900], 99, Some(1), Some(1));
        check(Some(100), &[900], 100, None, None);
        check(Some(0), &[], 0, None, None);
    }

    #[test]
    fn earlier_runs_count_by_their_median() {
        check(None, &[], 0, None, None);
        check(None, &[60], 0, Some(60), Some(60));
        check(None, &[300, 10, 60], 0, Some(60), Some(10));
        check(None, &[300, 10, 60, 80], 0, Some(70), Some(10));
        check(None, &[5, 5, 5, 5, 5, 5, 5, 5, 5, 900, 900], 0, Some(5), Some(5));
    }

    #[test]
    fn a_job_that_outlives_an_earlier_run_is_like_the_longer_ones() {
        check(None, &[10, 60, 300], 10, Some(170), Some(50));
        check(None, &[10, 60, 300], 60, Some(240), Some(240));
        check(None, &[10, 60, 300], 300, None, None);
    }
}
