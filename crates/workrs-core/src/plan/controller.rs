//! The live decision about a running job: when its next checkpoint is due and what that is good for.
//!
//! Invariant: as long as nothing but time passes, the decision stays the same; the plan for the work since the newest
//! checkpoint and the work that is left is made as if the job stood at that checkpoint. All times are run time, but for
//! [`Decision::expected_left`] and what a [`Situation`] says of costs.

use std::time::Duration;

use super::{
    PROBE_AFTER, Progress,
    forecast::Outlook,
    model::{Costs, MAX_SEGMENTS},
    next_checkpoint_in, words,
};
use crate::spec::CheckpointPolicy;

/// Rates and forecasts are looked at again after this time, although nothing happened.
pub const REPLAN_EVERY: Duration = Duration::from_secs(600);
/// Each failed try in a row doubles the interval, but not more often than this.
const MAX_DOUBLINGS: u32 = 6;

/// Limits to what `--checkpoint auto` decides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// A job stands still for checkpoints for at most this share of its time.
    pub max_standstill: f64,
    /// The shortest interval.
    pub min_interval: Duration,
    /// The longest interval while nobody knows how long the job still runs.
    pub max_interval: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_standstill: 0.05,
            min_interval: crate::spec::MIN_CHECKPOINT_INTERVAL,
            max_interval: Duration::from_secs(1_800),
        }
    }
}

impl Bounds {
    /// The shortest interval that keeps a job whose checkpoints cost `checkpoint` within the bounds, in seconds.
    fn shortest(&self, checkpoint: f64) -> f64 {
        // A share of 0 would mean no checkpoints at all, which is not what this bound is for.
        let share = self.max_standstill.clamp(1e-3, 1.0);
        self.min_interval.as_secs_f64().max(checkpoint * (1.0 - share) / share)
    }
}

/// How a running job stands, and what is known about its faults and costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Situation {
    /// λ: expected faults a second on its node.
    pub rate: f64,
    /// C: for how long a checkpoint freezes the job; a guess before the first one.
    pub checkpoint: Duration,
    /// L: from the thaw to the commit.
    pub latency: Duration,
    /// R: how long a restore takes.
    pub restore: Duration,
    /// D: from a fault to the begin of the restore.
    pub detection: Duration,
    /// How long the job still runs.
    pub outlook: Outlook,
    /// How it stands with its checkpoints.
    pub progress: Progress,
    /// Run time since the newest committed checkpoint's cut, or since the job's begin.
    pub unsaved: Duration,
}

impl Situation {
    /// The costs of the work since the newest checkpoint and the work that is left, together; `None` where the latter
    /// is unknown.
    fn costs(&self) -> Option<Costs> {
        let work = self.outlook.remaining?.saturating_add(self.unsaved);
        Some(self.costs_of(work.as_secs_f64()))
    }

    fn costs_of(&self, work: f64) -> Costs {
        let [checkpoint, restore, detection, latency] =
            [self.checkpoint, self.restore, self.detection, self.latency].map(|time| time.as_secs_f64());
        Costs { work, rate: self.rate, checkpoint, restore, detection, latency }.new()
    }
}

/// When to checkpoint, and what is to be expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Run time until the next checkpoint; `None` when there is to be none.
    pub checkpoint_in: Option<Duration>,
    /// Run time after which to decide anew, if nothing happens before and no checkpoint is due before.
    pub replan_in: Option<Duration>,
    /// Run time between checkpoints.
    pub interval: Option<Duration>,
    /// Checkpoints that are still to come; `None` where nobody knows.
    pub checkpoints_left: Option<u64>,
    /// Expected time until the job ends, with standstill, faults and recovery; `None` where nobody knows.
    pub expected_left: Option<Duration>,
    /// Run time that is lost if the node dies now.
    pub lost_if_died: Duration,
    /// Why, for people: at most [`super::note::MAX_REASON`] bytes.
    pub reason: String,
}

/// A plan, before it is put in words. In seconds.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// Infinite without checkpoints.
    interval: f64,
    /// Until the next checkpoint; infinite without one.
    next: f64,
    /// With the current one; `None` where nobody knows.
    segments: Option<u64>,
    /// The optimum would be more often.
    bounded: bool,
    /// The next one is the early one that shows whether the job can be checkpointed at all.
    probe: bool,
}

/// Decides about a job of any policy. A job whose policy is [`CheckpointPolicy::Auto`] is planned; for the others this
/// says what their fixed interval leads to.
pub fn decide(policy: CheckpointPolicy, situation: &Situation, bounds: &Bounds) -> Decision {
    let schedule = match policy {
        CheckpointPolicy::Auto => planned(situation, bounds),
        _ => fixed(policy, situation),
    };
    let expected_left = schedule.segments.and_then(|segments| {
        let costs = situation.costs()?;
        Some(duration(costs.expected_after(segments, situation.unsaved.as_secs_f64())))
    });
    let checkpoint_in = schedule.next.is_finite().then(|| duration(schedule.next));
    let holds_for = situation.outlook.holds_for.unwrap_or(REPLAN_EVERY).min(REPLAN_EVERY);
    Decision {
        checkpoint_in,
        replan_in: Some(holds_for).filter(|holds_for| checkpoint_in.is_none_or(|next| *holds_for < next)),
        interval: schedule.interval.is_finite().then(|| duration(schedule.interval)),
        checkpoints_left: schedule.segments.map(|segments| segments - 1),
        expected_left,
        lost_if_died: situation.unsaved,
        reason: reason(policy, situation, &schedule),
    }
}

/// Run time until the next checkpoint of a job under [`CheckpointPolicy::Auto`]: what [`decide`] says, without the rest.
pub fn next_in(situation: &Situation, bounds: &Bounds) -> Option<Duration> {
    let next = planned(situation, bounds).next;
    next.is_finite().then(|| duration(next))
}

fn planned(situation: &Situation, bounds: &Bounds) -> Schedule {
    let shortest = bounds.shortest(situation.checkpoint.as_secs_f64());
    let (optimal, interval) = situation.costs().map_or_else(
        || {
            let optimal = situation.costs_of(0.0).optimal_work();
            (optimal, optimal.min(bounds.max_interval.as_secs_f64()).max(shortest))
        },
        |costs| intervals(&costs, shortest),
    );
    let doubled = interval * f64::from(1u32 << situation.progress.failures.min(MAX_DOUBLINGS));
    let regular = (doubled - situation.progress.since_checkpoint.as_secs_f64()).max(0.0);
    let probe = probe_in(&situation.progress).filter(|probe| interval.is_finite() && *probe < regular);
    Schedule {
        interval: doubled,
        next: probe.unwrap_or(regular),
        segments: segments(situation, doubled),
        bounded: optimal < interval,
        probe: probe.is_some(),
    }
}

/// The work between checkpoints that is best, and that is best among those not shorter than `shortest`.
fn intervals(costs: &Costs, shortest: f64) -> (f64, f64) {
    let work = costs.work - costs.checkpoint;
    let interval = |segments: u64| if segments > 1 { work / segments as f64 } else { f64::INFINITY };
    let most = (work / shortest).clamp(1.0, MAX_SEGMENTS as f64) as u64;
    (interval(costs.optimum().segments), interval(costs.optimum_within(most).segments))
}

fn fixed(policy: CheckpointPolicy, situation: &Situation) -> Schedule {
    let next = next_checkpoint_in(policy, situation.progress).map_or(f64::INFINITY, |next| next.as_secs_f64());
    let doublings = 1 << situation.progress.failures.min(MAX_DOUBLINGS);
    let interval = policy.interval().map_or(f64::INFINITY, |interval| interval.as_secs_f64() * f64::from(doublings));
    let probe = next.is_finite() && probe_in(&situation.progress).is_some_and(|probe| probe <= next);
    Schedule { interval, next, segments: segments(situation, interval), bounded: false, probe }
}

/// Seconds until the early checkpoint that shows whether the job can be checkpointed.
fn probe_in(progress: &Progress) -> Option<f64> {
    (!progress.probed).then(|| PROBE_AFTER.saturating_sub(progress.run_time).as_secs_f64())
}

/// In how many segments an interval cuts what lies before the job, if anybody knows how much that is.
fn segments(situation: &Situation, interval: f64) -> Option<u64> {
    let costs = situation.costs()?;
    // A hair less, so that an interval that is a part of the work gives just that number of parts.
    let parts = ((costs.work - costs.checkpoint) / interval - 1e-9).ceil();
    Some(parts.clamp(1.0, MAX_SEGMENTS as f64) as u64)
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

fn reason(policy: CheckpointPolicy, situation: &Situation, schedule: &Schedule) -> String {
    let Situation { outlook, progress, .. } = situation;
    let left = outlook
        .remaining
        .map_or_else(|| "work left unknown".to_owned(), |left| format!("{} left", words::span(left.as_secs_f64())));
    let cost = words::span(situation.checkpoint.as_secs_f64());
    let facts = format!("C {cost}, one fault in {} expected, {left}", words::span(1.0 / situation.rate));
    if policy == CheckpointPolicy::None {
        return format!("no checkpoints were asked for: {facts}");
    }
    if !schedule.next.is_finite() {
        return format!("no checkpoint pays: {facts}");
    }
    let mut why = match policy {
        _ if schedule.probe => " to see whether the job can be checkpointed".to_owned(),
        _ if progress.failures > 0 => format!(" after {}", words::count(u64::from(progress.failures), "failed try")),
        CheckpointPolicy::Auto => String::new(),
        policy => format!(" as {policy}"),
    };
    if schedule.bounded && !schedule.probe {
        why.push_str(", standstill bounded");
    }
    format!("next checkpoint in {}{why}: {facts}", words::span(schedule.next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::forecast::Forecast, *};

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// A job with 300 s of work that has run for `run_time`, probed, with the fault rate of the paper's worst case.
    fn situation(run_time: f64, since: f64) -> Situation {
        Situation {
            rate: 0.0131,
            checkpoint: seconds(0.2),
            latency: Duration::ZERO,
            restore: seconds(0.5),
            detection: seconds(1.0),
            outlook: Forecast::new(Some(seconds(300.0)), &[]).outlook(seconds(run_time)),
            progress: Progress {
                run_time: seconds(run_time),
                since_checkpoint: seconds(since),
                failures: 0,
                probed: true,
            },
            unsaved: seconds(since),
        }
    }

    fn auto(situation: &Situation) -> Decision {
        decide(CheckpointPolicy::Auto, situation, &Bounds::default())
    }

    #[test]
    fn known_work_is_cut_as_the_model_says() {
        let begin = situation(0.0, 0.0);
        let optimum = begin.costs().unwrap().optimum();
        let decision = auto(&begin);
        assert_eq!(decision.checkpoints_left, Some(optimum.checkpoints()));
        assert_eq!(decision.checkpoint_in, Some(seconds(299.8 / optimum.segments as f64)));
        assert_eq!(decision.interval, decision.checkpoint_in);
        assert_eq!(decision.expected_left, Some(seconds(optimum.expected)));
        assert_eq!(decision.lost_if_died, Duration::ZERO);
    }

    #[test]
    fn while_only_time_passes_the_plan_stays() {
        let first = auto(&situation(100.0, 0.0)).checkpoint_in.unwrap();
        for passed in [0.5, 1.0, 3.0] {
            let decision = auto(&situation(100.0 + passed, passed));
            let now = decision.checkpoint_in.unwrap();
            assert!((now.as_secs_f64() + passed - first.as_secs_f64()).abs() < 1e-6, "{passed}: {now:?} {first:?}");
            assert_eq!(decision.lost_if_died, seconds(passed));
        }
        let late = auto(&situation(150.0, 50.0));
        assert_eq!(late.checkpoint_in, Some(Duration::ZERO), "overdue");
    }

    #[test]
    fn near_the_end_and_on_good_nodes_no_checkpoint_pays() {
        let near_the_end = auto(&situation(299.0, 1.0));
        let good_node = auto(&Situation { rate: 1e-7, ..situation(100.0, 0.0) });
        for decision in [near_the_end, good_node] {
            assert_eq!(decision.checkpoint_in, None);
            assert_eq!((decision.interval, decision.checkpoints_left), (None, Some(0)));
            assert!(decision.reason.starts_with("no checkpoint pays: C 0.2 s, "), "{}", decision.reason);
        }
    }

    #[test]
    fn a_job_that_outlives_its_forecast_is_planned_as_unknown() {
        let before = auto(&situation(299.5, 1.0));
        assert_eq!((before.checkpoint_in, before.replan_in), (None, Some(seconds(0.5))));
        let after = auto(&situation(300.0, 1.5));
        assert_eq!((after.checkpoints_left, after.expected_left), (None, None));
        let interval = situation(300.0, 0.0).costs_of(0.0).optimal_work();
        assert_eq!(after.interval, Some(seconds(interval)));
        assert!(after.reason.ends_with("work left unknown"), "{}", after.reason);
    }

    #[test]
    fn the_probe_is_taken_unless_no_checkpoint_pays() {
        let mut fresh = Situation { rate: 1.0 / 86_400.0, outlook: Outlook::default(), ..situation(1.0, 1.0) };
        fresh.progress.probed = false;
        let decision = auto(&fresh);
        assert_eq!(decision.checkpoint_in, Some(seconds(4.0)));
        assert!(decision.interval > Some(seconds(60.0)), "{:?}", decision.interval);
        assert!(decision.reason.contains("to see whether"), "{}", decision.reason);
        fresh.outlook = Forecast::new(Some(seconds(10.0)), &[]).outlook(seconds(1.0));
        assert_eq!(auto(&fresh).checkpoint_in, None);
    }

    #[test]
    fn bounds_hold() {
        let bounds = Bounds::default();
        let dear = Situation { checkpoint: seconds(5.0), ..situation(0.0, 0.0) };
        let decision = auto(&dear);
        assert!(decision.interval >= Some(seconds(95.0)), "5 % of 100 s: {:?}", decision.interval);
        assert!(decision.reason.contains("standstill bounded"), "{}", decision.reason);
        let cheap = Situation { checkpoint: Duration::ZERO, ..situation(0.0, 0.0) };
        assert!(auto(&cheap).interval >= Some(bounds.min_interval));
        let good_node = Situation { rate: 1e-9, outlook: Outlook::default(), ..situation(0.0, 0.0) };
        assert_eq!(auto(&good_node).interval, Some(bounds.max_interval));
    }

    #[test]
    fn failures_stretch_the_interval() {
        let mut failing = situation(100.0, 0.0);
        let once = auto(&failing).interval.unwrap();
        failing.progress.failures = 3;
        let decision = auto(&failing);
        assert!((decision.interval.unwrap().as_secs_f64() / once.as_secs_f64() - 8.0).abs() < 1e-6);
        assert!(decision.reason.contains("after 3 failed tries"), "{}", decision.reason);
    }

    #[test]
    fn other_policies_stay_as_they_are() {
        let situation = situation(100.0, 10.0);
        let every = CheckpointPolicy::Every(seconds(30.0));
        let decision = decide(every, &situation, &Bounds::default());
        assert_eq!(decision.checkpoint_in, next_checkpoint_in(every, situation.progress));
        assert_eq!(decision.checkpoints_left, Some(6), "at 120, 150, … 270 of 300 s");
        assert!(decision.reason.starts_with("next checkpoint in 20 s as every=30s: "), "{}", decision.reason);
        let none = decide(CheckpointPolicy::None, &situation, &Bounds::default());
        assert_eq!((none.checkpoint_in, none.checkpoints_left), (None, Some(0)));
        assert!(none.expected_left > decision.expected_left);
    }

    #[test]
    fn reasons_are_for_people() {
        let mut situation = Situation { rate: 1.0 / 10_800.0, outlook: Outlook::default(), ..situation(700.0, 20.0) };
        let unknown = auto(&situation).reason;
        assert_eq!(unknown, "next checkpoint in 46 s: C 0.2 s, one fault in 3 h expected, work left unknown");
        situation.outlook = Forecast::new(Some(seconds(1_420.0)), &[]).outlook(seconds(700.0));
        // 739.8 s in 11 parts, of which 20 s are done.
        let known = auto(&situation).reason;
        assert_eq!(known, "next checkpoint in 47 s: C 0.2 s, one fault in 3 h expected, 12 min left");
    }

    proptest! {
        #[test]
        fn no_situation_whatever_panics(
            rate in any::<f64>(), times in any::<[Duration; 8]>(), known in any::<bool>(),
            failures in any::<u32>(), probed in any::<bool>(), share in any::<f64>(),
        ) {
            let [checkpoint, latency, restore, detection, remaining, run_time, since_checkpoint, unsaved] = times;
            let outlook = if known {
                Outlook { remaining: Some(remaining), holds_for: Some(remaining) }
            } else {
                Outlook::default()
            };
            let progress = Progress { run_time, since_checkpoint, failures, probed };
            let situation =
                Situation { rate, checkpoint, latency, restore, detection, outlook, progress, unsaved };
            let bounds = Bounds { max_standstill: share, ..Bounds::default() };
            for policy in [CheckpointPolicy::Auto, CheckpointPolicy::None, CheckpointPolicy::Files] {
                let decision = decide(policy, &situation, &bounds);
                prop_assert!(decision.reason.len() <= super::super::note::MAX_REASON, "{}", decision.reason);
            }
        }
    }
}
