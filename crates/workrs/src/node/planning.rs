//! What a running job's checkpoints cost, how long it still runs, and what follows from that.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use workrs_core::{
    id::JobId,
    job::{Checkpoint, JobRecord, Resumable, Standing},
    keys,
    plan::{self, Bounds, Decision, Forecast, PlanNote, Progress, Rate, Situation, forecast::MAX_EARLIER},
};
use workrs_store::{fresh, values};

use super::{
    Shared,
    run::{Live, Run},
};

/// The costs of a checkpoint and a restore that are assumed before this node has seen one.
const FIRST_CHECKPOINT: Duration = Duration::from_millis(300);
const FIRST_LATENCY: Duration = Duration::from_millis(500);
const FIRST_RESTORE: Duration = Duration::from_secs(1);
/// From the end of a lease to the begin of the restore elsewhere: finding out, claiming.
const RESCHEDULING: Duration = Duration::from_secs(1);
/// Shorter runs tell nothing that a plan needs: jobs are not checkpointed before they are this old.
const SHORTEST_RUN: Duration = plan::PROBE_AFTER;

/// What this node has seen last, of any job; the guess for the next one.
#[derive(Debug)]
pub(super) struct Estimates(Mutex<Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    rate: f64,
    checkpoint: Duration,
    latency: Duration,
    restore: Duration,
}

impl Estimates {
    pub(super) fn new(prior_mtbf: Duration) -> Self {
        let rate = Rate::prior(prior_mtbf).mean();
        let (checkpoint, latency, restore) = (FIRST_CHECKPOINT, FIRST_LATENCY, FIRST_RESTORE);
        Self(Mutex::new(Seen { rate, checkpoint, latency, restore }))
    }

    pub(super) fn set_rate(&self, rate: f64) {
        self.seen().rate = rate;
    }

    pub(super) fn set_restore(&self, restore: Duration) {
        self.seen().restore = restore;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a job from before it began here.
#[derive(Debug)]
pub(super) struct Prospects {
    forecast: Forecast,
    /// How long its own restore took, if it was restored here.
    restore: Option<Duration>,
}

/// How long the last successful jobs of a name ran, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct RunTimes {
    jobs: Vec<(JobId, u64)>,
}

impl RunTimes {
    /// With one more; `None` if it is there already.
    fn with(&self, job: &JobId, run_ms: u64) -> Option<Self> {
        if self.jobs.iter().any(|(known, _)| known == job) {
            return None;
        }
        let newest = std::iter::once((job.clone(), run_ms));
        Some(Self { jobs: newest.chain(self.jobs.iter().cloned()).take(MAX_EARLIER).collect() })
    }
}

impl Prospects {
    /// Of a job that is about to be started or restored; `restore` is how long the latter took. What cannot be read is
    /// not known.
    pub(super) async fn of(shared: &Shared, record: &JobRecord, restore: Option<Duration>) -> Self {
        let user = record.spec.forecast_ms.map(Duration::from_millis);
        let earlier = if user.is_some() {
            RunTimes::default()
        } else {
            let key = keys::run_times(&record.owner, &record.spec.name);
            values::read(shared.records.store(), &key).await.ok().flatten().unwrap_or_default()
        };
        if let Some(restore) = restore {
            shared.estimates.set_restore(restore);
        }
        let earlier: Vec<_> = earlier.jobs.into_iter().map(|(_, millis)| Duration::from_millis(millis)).collect();
        Self { forecast: Forecast::new(user, &earlier), restore }
    }
}

impl Run {
    /// How the job stands, as the planner sees it.
    fn situation(&self, live: &Live) -> Situation {
        let seen = *self.shared.estimates.seen();
        let run_time = live.clock.elapsed();
        let own = self.record.checkpoints.iter().filter(|checkpoint| checkpoint.standing != Standing::Dropped);
        let costs = |cost: fn(&Checkpoint) -> u64| median(own.clone().map(cost).collect());
        let checkpoint = costs(|checkpoint| checkpoint.standstill_ms);
        let latency = costs(|checkpoint| checkpoint.total_ms.saturating_sub(checkpoint.standstill_ms));
        Situation {
            rate: seen.rate,
            checkpoint: checkpoint.unwrap_or(seen.checkpoint),
            latency: latency.unwrap_or(seen.latency),
            restore: live.prospects.restore.unwrap_or(seen.restore),
            detection: self.shared.config.lease + RESCHEDULING,
            outlook: live.prospects.forecast.outlook(run_time),
            progress: Progress {
                run_time,
                since_checkpoint: run_time.saturating_sub(live.checkpointed_at),
                failures: live.failures,
                probed: self.record.resumable != Resumable::Unknown,
            },
            unsaved: run_time.saturating_sub(live.saved_at),
        }
    }

    pub(super) fn decide(&self, live: &Live) -> Decision {
        plan::decide(self.record.spec.checkpoint, &self.situation(live), &Bounds::default())
    }

    /// The decision as the record tells it.
    pub(super) fn plan_note(&self, live: &Live) -> PlanNote {
        let situation = self.situation(live);
        let decision = plan::decide(self.record.spec.checkpoint, &situation, &Bounds::default());
        PlanNote::new(fresh::now(), &situation, &decision)
    }

    /// Keeps in mind what a checkpoint cost, for jobs that have none yet.
    pub(super) fn learn_from_checkpoint(&self) {
        if let Some(newest) = self.record.checkpoints.last() {
            let mut seen = self.shared.estimates.seen();
            seen.checkpoint = Duration::from_millis(newest.standstill_ms);
            seen.latency = Duration::from_millis(newest.total_ms.saturating_sub(newest.standstill_ms));
        }
    }

    /// Writes down how long a job that succeeded ran, for the forecasts of later ones of its name.
    pub(super) async fn note_run_time(&self, run_time: Duration) {
        if run_time < SHORTEST_RUN {
            return;
        }
        let owner = &self.record.owner;
        let key = keys::run_times(owner, &self.record.spec.name);
        let run_ms = run_time.as_millis() as u64;
        let add = |known: Option<&RunTimes>| known.cloned().unwrap_or_default().with(&self.record.id, run_ms);
        if let Err(error) = values::update(self.shared.records.store(), &key, owner.as_str(), add).await {
            tracing::debug!(%error, "cannot note its run time");
        }
    }
}

/// The middle one, or the greater of the two in the middle.
fn median(mut millis: Vec<u64>) -> Option<Duration> {
    millis.sort_unstable();
    millis.get(millis.len() / 2).copied().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_run_times_are_kept_each_once() {
        let job = |number: usize| JobId::new(format!("job-{number}")).unwrap();
        let mut times = RunTimes::default();
        for number in 0..2 * MAX_EARLIER {
            times = times.with(&job(number), number as u64).unwrap();
        }
        assert_eq!(times.jobs.len(), MAX_EARLIER);
        assert_eq!(times.jobs[0], (job(2 * MAX_EARLIER - 1), 2 * MAX_EARLIER as u64 - 1));
        assert_eq!(times.with(&job(2 * MAX_EARLIER - 1), 7), None);
    }

    #[test]
    fn one_slow_checkpoint_does_not_count() {
        let millis = |list: &[u64]| median(list.to_vec()).map(|time| time.as_millis());
        assert_eq!((millis(&[]), millis(&[5]), millis(&[9_000, 5, 7])), (None, Some(5), Some(7)));
    }
}
