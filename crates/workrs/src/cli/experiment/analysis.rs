//! What the runs say together, and what the models say of the same costs.

use std::time::Duration;

use serde::Serialize;
use workrs_core::plan::{PROBE_AFTER, model::Costs, rate::DEFAULT_PRIOR_MTBF};

use super::{
    design::{Fixed, Plan},
    results::Row,
};
use crate::simulate::{
    Estimate,
    faults::FaultLaw,
    life::World,
    lives,
    pace::{Belief, Every, Live},
    sequence,
};

/// Lives that are simulated for a prediction.
const LIVES: u64 = 4_000;

/// What events cost on this host: means over all runs. In seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// C.
    #[serde(rename = "checkpoint_s")]
    pub checkpoint: f64,
    /// L.
    #[serde(rename = "latency_s")]
    pub latency: f64,
    /// R.
    #[serde(rename = "restore_s")]
    pub restore: f64,
    /// What takes the place of R without a checkpoint.
    #[serde(rename = "clean_start_s")]
    pub clean_start: f64,
    /// D.
    #[serde(rename = "detection_s")]
    pub detection: f64,
}

impl Measured {
    /// The means over `rows`, each event counting as much as any other; `None` while there is nothing to go by.
    pub fn of(rows: &[Row]) -> Option<Self> {
        let mean = |value: fn(&Row) -> f64, weight: fn(&Row) -> u64| {
            let count: u64 = rows.iter().map(weight).sum();
            let sum: f64 = rows.iter().map(|row| value(row) * weight(row) as f64).sum();
            (count > 0).then(|| sum / count as f64)
        };
        Some(Self {
            checkpoint: mean(|row| row.standstill, |row| row.checkpoints)?,
            latency: mean(|row| row.latency, |row| row.checkpoints)?,
            restore: mean(|row| row.restore, |row| row.restores)?,
            clean_start: mean(|row| row.clean_start, |row| row.clean_starts)?,
            detection: mean(|row| row.detection, |row| row.faults)?,
        })
    }

    /// With the work and the rate of a run.
    pub fn costs(&self, work: f64, rate: f64) -> Costs {
        Costs {
            work,
            rate,
            checkpoint: self.checkpoint,
            restore: self.restore,
            detection: self.detection,
            latency: self.latency,
        }
        .new()
    }
}

/// All runs of a plan under a fault rate, and what was to be expected.
#[derive(Debug, Clone, Serialize)]
pub struct Cell {
    /// Faults a second.
    pub rate_per_s: f64,
    /// The plan.
    pub plan: &'static str,
    /// What it asks for.
    pub policy: String,
    /// Checkpoints by design, the early one included; none where the node decides.
    pub checkpoints: Option<u64>,
    /// Completion time of every run that came to its end, in seconds.
    pub times_s: Vec<f64>,
    /// Runs that were given up.
    pub given_up: u64,
    /// Their mean; none without runs.
    pub mean_s: Option<f64>,
    /// The standard error of the mean.
    pub error_s: f64,
    /// Faults in a run, on average.
    pub faults: f64,
    /// Checkpoints in a run, on average.
    pub made: f64,
    /// What the exact model says of equal segments; for `auto`, of the best number of them.
    pub model_s: f64,
    /// What the simulation says, which knows the early checkpoint and clean starts.
    pub simulated_s: f64,
    /// The standard error of that.
    pub simulated_error_s: f64,
}

impl Cell {
    /// Looks at the runs of `plan` among `rows`.
    pub fn of(rows: &[Row], measured: &Measured, plan: Plan, work: f64, rate: f64, scale: f64, seed: u64) -> Self {
        let mine: Vec<&Row> = rows
            .iter()
            .filter(|row| (row.key.plan == plan.name()) && (row.key.rate, row.key.work) == (rate, work))
            .filter(|row| row.key.seed == seed)
            .collect();
        let times_s: Vec<f64> = mine.iter().filter(|row| row.finished).map(|row| row.completion).collect();
        let count = times_s.len() as f64;
        let mean = times_s.iter().sum::<f64>() / count;
        let variance = times_s.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let over_runs = |value: fn(&Row) -> u64| {
            mine.iter().map(|row| value(row)).sum::<u64>() as f64 / (mine.len() as f64).max(1.0)
        };
        let costs = measured.costs(work, rate);
        let fixed = plan.checkpoints(&costs, scale).map(|count| Fixed::new(work, count));
        let simulated = simulate(measured, &costs, plan, fixed, seed);
        Self {
            rate_per_s: rate,
            plan: plan.name(),
            policy: mine.first().map_or_else(String::new, |row| row.policy.clone()),
            checkpoints: fixed.map(|fixed| fixed.checkpoints),
            given_up: mine.len() as u64 - times_s.len() as u64,
            mean_s: (count > 0.0).then_some(mean),
            error_s: if count > 1.0 { (variance / count).sqrt() } else { 0.0 },
            faults: over_runs(|row| row.faults),
            made: over_runs(|row| row.checkpoints),
            model_s: match plan.checkpoints(&costs, scale) {
                Some(0) => Costs { restore: measured.clean_start, ..costs }.expected(1),
                Some(count) => costs.expected(count + 1),
                None => costs.optimum().expected,
            },
            simulated_s: simulated.mean,
            simulated_error_s: simulated.error,
            times_s,
        }
    }
}

fn simulate(measured: &Measured, costs: &Costs, plan: Plan, fixed: Option<Fixed>, seed: u64) -> Estimate {
    let world = World { clean_start: measured.clean_start, ..World::new(*costs) };
    let law = FaultLaw::Exponential { mtbf: 1.0 / costs.rate };
    match (plan, fixed) {
        (Plan::Auto, _) | (_, None) => {
            // Nodes learn over all runs, so the first ones count as little as they do there.
            let mut live = Live::new(Belief::Learns(DEFAULT_PRIOR_MTBF.as_secs_f64()), Some(1.0));
            Estimate::of(sequence(&world, law, seed, &mut live).take(LIVES as usize))
        }
        (_, Some(fixed)) => {
            let seconds = |time: Duration| time.as_secs_f64();
            let (interval, probe) = fixed
                .interval
                .map_or((f64::INFINITY, f64::INFINITY), |interval| (seconds(interval), seconds(PROBE_AFTER)));
            lives(&world, law, LIVES, seed, || Every { probe, ..Every::only(interval) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            design::{RATES, WORK, scaled},
            results::tests::row,
        },
        *,
    };

    #[test]
    fn costs_are_means_over_events() {
        let rows = [row("15", 0.1, 0), Row { restores: 3, restore: 0.9, ..row("15", 0.1, 1) }];
        let measured = Measured::of(&rows).unwrap();
        assert!((measured.restore - (0.5 + 3.0 * 0.9) / 4.0).abs() < 1e-9);
        assert!((measured.detection - 1.5).abs() < 1e-9);
        assert_eq!(Measured::of(&[]), None);
    }

    #[test]
    fn model_and_simulation_agree_where_both_mean_the_same() {
        let measured = Measured { checkpoint: 0.1, latency: 0.2, restore: 0.4, clean_start: 0.4, detection: 1.0 };
        for rate in RATES {
            let (work, rate) = scaled(WORK, rate, 0.1);
            for plan in [Plan::None, Plan::Many, Plan::Auto] {
                let cell = Cell::of(&[], &measured, plan, work, rate, 0.1, 1);
                // The intervals are a little longer than equal segments, and `auto` has to learn and has its bounds.
                let slack = 4.0 * cell.simulated_error_s + cell.model_s * if plan == Plan::Auto { 0.06 } else { 0.01 };
                assert!((cell.simulated_s - cell.model_s).abs() < slack, "{cell:?}");
                assert_eq!(cell.mean_s, None);
            }
        }
    }

    #[test]
    fn runs_are_summed_up() {
        let measured = Measured::of(&[row("15", 0.1, 0)]).unwrap();
        let rows =
            [row("15", 0.1, 0), row("15", 0.1, 2), Row { finished: false, ..row("15", 0.1, 3) }, row("none", 0.1, 0)];
        let cell = Cell::of(&rows, &measured, Plan::Many, 30.0, 0.1, 0.1, 1);
        assert_eq!((cell.times_s.clone(), cell.given_up), (vec![35.5, 37.5], 1));
        assert_eq!((cell.mean_s, cell.error_s), (Some(36.5), 1.0));
    }
}
