//! Who decides about a simulated job's checkpoints.

use std::time::Duration;

use workrs_core::plan::{
    Bounds, Forecast, Observed, Progress, Rate, Situation,
    controller::next_in,
    model::{Costs, MAX_SEGMENTS},
};

use super::life::{Position, World};

/// What comes next, after so much work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// To decide anew.
    Run(f64),
    /// A checkpoint.
    Checkpoint(f64),
}

/// Decides about checkpoints.
pub trait Pace {
    /// A job of this world begins.
    fn start(&mut self, _world: &World) {}

    /// What comes next for a job that stands there.
    fn next(&mut self, at: &Position) -> Step;

    /// The node was up for so long, and failed at its end or did not.
    fn saw(&mut self, _up: f64, _failed: bool) {}
}

/// Never.
#[derive(Debug, Clone, Copy)]
pub struct Never;

impl Pace for Never {
    fn next(&mut self, _at: &Position) -> Step {
        Step::Run(f64::INFINITY)
    }
}

/// At fixed intervals of work, as with `--checkpoint every=…`.
#[derive(Debug, Clone, Copy)]
pub struct Every {
    /// Work between two checkpoints.
    pub interval: f64,
    /// There is one more checkpoint after this much work, if none was tried before.
    pub probe: f64,
    /// After one behind this place, there are none.
    pub until: f64,
}

impl Every {
    /// At this interval and no others.
    pub fn only(interval: f64) -> Self {
        Self { interval, probe: f64::INFINITY, until: f64::INFINITY }
    }

    /// The plan of the formulas: `segments` segments that take equally long, of which all but the last end in a
    /// checkpoint.
    pub fn segments(costs: &Costs, segments: u64) -> Self {
        if segments <= 1 {
            return Self::only(f64::INFINITY);
        }
        let segments = segments.min(MAX_SEGMENTS) as f64;
        let interval = (costs.work - costs.checkpoint) / segments;
        // The last segment is longer by the checkpoint that it does not end in.
        Self { until: interval * (segments - 1.5), ..Self::only(interval) }
    }
}

impl Pace for Every {
    fn next(&mut self, at: &Position) -> Step {
        if at.cut > self.until {
            return Step::Run(f64::INFINITY);
        }
        let regular = self.interval - (at.now - at.cut);
        let probe = if at.probed { f64::INFINITY } else { self.probe - at.now };
        Step::Checkpoint(regular.min(probe).max(0.0))
    }
}

/// What a controller believes of the fault rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Belief {
    /// It is sure of this mean time between faults.
    Fixed(f64),
    /// It starts from this one and learns.
    Learns(f64),
}

/// The controller of a node with `--checkpoint auto`.
#[derive(Debug, Clone)]
pub struct Live {
    /// What it believes at first.
    pub belief: Belief,
    /// Limits to what it decides.
    pub bounds: Bounds,
    /// The share of the true work that users forecast; `None`: nobody says anything.
    pub forecast: Option<f64>,
    /// C, before the first checkpoint shows it.
    pub cost_guess: f64,
    seen: Observed,
    costs: Option<Costs>,
    outlook: Forecast,
}

impl Live {
    /// A controller that has seen nothing yet.
    pub fn new(belief: Belief, forecast: Option<f64>) -> Self {
        let (bounds, seen, costs, outlook) = (Bounds::default(), Observed::default(), None, Forecast::default());
        Self { belief, bounds, forecast, cost_guess: 0.2, seen, costs, outlook }
    }

    /// What it has seen.
    pub fn seen(&self) -> Observed {
        self.seen
    }

    /// What it takes for the fault rate now.
    pub fn rate(&self) -> f64 {
        match self.belief {
            Belief::Fixed(mtbf) => 1.0 / mtbf,
            Belief::Learns(prior) => Rate::of_node(Rate::of_group(seconds(prior), self.seen), self.seen).mean(),
        }
    }
}

impl Pace for Live {
    fn start(&mut self, world: &World) {
        self.costs = Some(world.costs);
        self.outlook = Forecast::new(self.forecast.map(|share| seconds(share * world.costs.work)), &[]);
    }

    fn next(&mut self, at: &Position) -> Step {
        let Some(costs) = self.costs else { return Step::Run(f64::INFINITY) };
        let run_time = seconds(at.now);
        let outlook = self.outlook.outlook(run_time);
        let situation = Situation {
            rate: self.rate(),
            checkpoint: seconds(if at.probed { costs.checkpoint } else { self.cost_guess }),
            latency: seconds(costs.latency),
            restore: seconds(costs.restore),
            detection: seconds(costs.detection),
            outlook,
            progress: Progress { run_time, since_checkpoint: seconds(at.now - at.cut), failures: 0, probed: at.probed },
            unsaved: seconds(at.now - at.saved),
        };
        let checkpoint = next_in(&situation, &self.bounds).map_or(f64::INFINITY, |next| next.as_secs_f64());
        // Not shorter, or it would be lost in the digits of a long run time.
        let change = outlook.holds_for.map_or(f64::INFINITY, |holds_for| holds_for.as_secs_f64().max(1e-3));
        if checkpoint <= change { Step::Checkpoint(checkpoint) } else { Step::Run(change) }
    }

    fn saw(&mut self, up: f64, failed: bool) {
        self.seen = self.seen.and(Observed { faults: u64::from(failed), seconds: up });
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
