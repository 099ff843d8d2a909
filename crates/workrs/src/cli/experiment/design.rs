//! What is run: the paper's job under the paper's fault rates, with its numbers of checkpoints and with ours.

use std::time::Duration;

use workrs_core::{
    plan::{
        PROBE_AFTER,
        model::{Costs, paper},
    },
    spec::{CheckpointPolicy, MIN_CHECKPOINT_INTERVAL},
};

/// The paper's work, in seconds.
pub const WORK: f64 = 300.0;
/// The paper's fault rates, in faults a second.
pub const RATES: [f64; 4] = [0.0001, 0.0005, 0.003, 0.0131];
/// The paper's cost of a checkpoint, from which its own numbers follow, in seconds.
const PAPER_COST: f64 = 4.9;
/// The largest number of checkpoints that the paper tries.
const MANY: u64 = 15;
/// Fixed intervals are longer by this share, so that a job that is a little late makes no checkpoint at its end.
const MARGIN: f64 = 0.02;

/// How a job is checkpointed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Plan {
    /// Never.
    None,
    /// As often as the paper's model advises for the paper's costs.
    Paper,
    /// As often as the exact model advises for the costs that were measured here.
    Best,
    /// As often as the paper tries at most.
    Many,
    /// `--checkpoint auto`, with a forecast.
    Auto,
}

impl Plan {
    /// All, in the order of figures.
    pub const ALL: [Self; 5] = [Self::None, Self::Paper, Self::Best, Self::Many, Self::Auto];

    /// Its name in options and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Paper => "paper",
            Self::Best => "best",
            Self::Many => "15",
            Self::Auto => "auto",
        }
    }

    /// The plan of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plan| plan.name() == name)
    }

    /// How many checkpoints it has by design; `None`: the node decides.
    pub fn checkpoints(self, costs: &Costs, scale: f64) -> Option<u64> {
        match self {
            Self::None => Some(0),
            Self::Many => Some(MANY),
            Self::Best => Some(costs.optimum().checkpoints()),
            Self::Paper => {
                let unscaled =
                    Costs { work: costs.work / scale, rate: costs.rate * scale, checkpoint: PAPER_COST, ..*costs };
                Some(paper(&unscaled).checkpoints())
            }
            Self::Auto => None,
        }
    }
}

/// How a number of checkpoints is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fixed {
    /// Run time between checkpoints; `None` without any.
    pub interval: Option<Duration>,
    /// So many there will be if no fault comes.
    pub checkpoints: u64,
}

impl Fixed {
    /// The interval that cuts `work` seconds with `count` checkpoints into equal parts. Where the interval is longer
    /// than [`PROBE_AFTER`], the early checkpoint that every job gets is one more, and the equal parts begin behind it;
    /// intervals are no shorter than the shortest that can be asked for.
    pub fn new(work: f64, count: u64) -> Self {
        if count == 0 {
            return Self { interval: None, checkpoints: 0 };
        }
        let (probe, work_and_more) = (PROBE_AFTER.as_secs_f64(), work * (1.0 + MARGIN));
        let mut interval = work_and_more / (count as f64 + 1.0);
        // Where both fall together, the early one takes the first one's place.
        if interval > probe * (1.0 + 3.0 * MARGIN) {
            interval = (work_and_more - probe).max(0.0) / (count as f64 + 1.0);
        }
        let interval = interval.max(MIN_CHECKPOINT_INTERVAL.as_secs_f64());
        let first = interval.min(probe);
        let checkpoints = if first < work { 1 + ((work - first) / interval) as u64 } else { 0 };
        Self { interval: Some(Duration::from_millis((interval * 1e3).round() as u64)), checkpoints }
    }

    /// What the job is submitted with.
    pub fn policy(&self) -> CheckpointPolicy {
        self.interval.map_or(CheckpointPolicy::None, CheckpointPolicy::Every)
    }
}

/// Work and rate of the experiment at a scale: both shrink and grow alike, so that as many faults are expected.
pub fn scaled(work: f64, rate: f64, scale: f64) -> (f64, f64) {
    (work * scale, rate / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(rate: f64) -> Costs {
        Costs { work: 30.0, rate, checkpoint: 0.1, restore: 0.5, detection: 1.0, latency: 0.2 }
    }

    #[test]
    fn the_paper_s_numbers_do_not_depend_on_the_scale() {
        let counts = RATES.map(|rate| Plan::Paper.checkpoints(&costs(scaled(WORK, rate, 0.1).1), 0.1));
        assert_eq!(counts, [Some(0), Some(1), Some(5), Some(11)]);
    }

    #[test]
    fn plans_have_names() {
        for plan in Plan::ALL {
            assert_eq!(Plan::named(plan.name()), Some(plan));
        }
        assert_eq!(Plan::named("often"), None);
    }

    #[test]
    fn intervals_give_the_number_that_is_asked_for_and_the_probe() {
        let check = |work: f64, count: u64, made: u64| {
            let fixed = Fixed::new(work, count);
            assert_eq!(fixed.checkpoints, made, "{count} in {work} s: {fixed:?}");
        };
        check(30.0, 0, 0);
        check(30.0, 1, 2);
        check(30.0, 5, 5);
        check(30.0, 15, 15);
        check(300.0, 1, 2);
        check(300.0, 11, 12);
        check(300.0, 15, 16);
        // The shortest interval is 1 s, and the last one comes just at the end.
        check(30.0, 100, 30);
        assert_eq!(Fixed::new(30.0, 15).policy().to_string(), "every=1s 913ms");
    }
}
