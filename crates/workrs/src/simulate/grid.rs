//! The live controller next to the best interval that could have been chosen with hindsight, over a grid of settings.

use workrs_core::plan::{
    Bounds,
    model::{Costs, young},
    rate::DEFAULT_PRIOR_MTBF,
};

use super::{
    Estimate,
    faults::FaultLaw,
    life::World,
    pace::{Belief, Every, Live, Never, Pace},
    sequence,
};

/// Faults that a controller sees before its choice is judged.
const LESSONS: u64 = 100;
/// Jobs of a new group over which learning is judged, and how many such groups are looked at.
const FIRST_JOBS: usize = 20;
const GROUPS: u64 = 40;

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// How faults come.
    pub law: FaultLaw,
    /// Mean time between faults.
    pub mtbf: f64,
    /// C.
    pub checkpoint: f64,
    /// T.
    pub work: f64,
}

impl Setting {
    /// The job: a restore costs five checkpoints, detection and latency two each.
    fn world(&self) -> World {
        let Self { work, mtbf, checkpoint, .. } = *self;
        World::new(Costs {
            work,
            rate: 1.0 / mtbf,
            checkpoint,
            restore: 5.0 * checkpoint,
            detection: 2.0 * checkpoint,
            latency: 2.0 * checkpoint,
        })
    }
}

/// How the controller does in a setting. Shares of expected time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// Where.
    pub setting: Setting,
    /// The best interval; infinite: no checkpoints.
    pub best_interval: f64,
    /// Its expected time.
    pub best: Estimate,
    /// What the controller needs more, once it has learnt, if users tell how long jobs run.
    pub known: f64,
    /// The same if nobody knows how long jobs run.
    pub unknown: f64,
    /// With the work known, but without the bound on standstill.
    pub unbounded: f64,
    /// The same for the first jobs of a new group, while it learns.
    pub learning: f64,
    /// Statistical error of these shares.
    pub error: f64,
}

/// The grid: mean times between faults far below and above what is assumed at first, checkpoints from cheap to dear,
/// jobs shorter and longer than the time between faults, and three laws.
pub fn settings() -> Vec<Setting> {
    let mut settings = Vec::new();
    for mtbf in [120.0, 86_400.0] {
        let laws = [
            FaultLaw::Exponential { mtbf },
            FaultLaw::Weibull { mtbf, shape: 0.7 },
            FaultLaw::LogNormal { mtbf, sigma: 1.0 },
        ];
        for law in laws {
            for share in [1_000.0, 100.0, 30.0] {
                for length in [0.5, 5.0] {
                    settings.push(Setting { law, mtbf, checkpoint: mtbf / share, work: length * mtbf });
                }
            }
        }
    }
    settings
}

/// Judges the controller in a setting by jobs that last `lengths` times the mean time between faults together.
pub fn judge(setting: Setting, lengths: f64, seed: u64) -> Cell {
    let world = setting.world();
    let jobs = (lengths * setting.mtbf / setting.work).max(100.0) as usize;
    let run = |pace: &mut dyn Pace| Estimate::of(sequence(&world, setting.law, seed, pace).take(jobs));
    let fixed = candidates(&world.costs).into_iter().map(|interval| (interval, run(&mut Every::only(interval))));
    let all = fixed.chain([(f64::INFINITY, run(&mut Never))]);
    let (best_interval, best) =
        all.min_by(|(_, a), (_, b)| a.mean.total_cmp(&b.mean)).unwrap_or_else(|| (f64::INFINITY, run(&mut Never)));
    let learnt = |forecast: Option<f64>, max_standstill: f64| {
        let mut live = newcomer(forecast);
        live.bounds.max_standstill = max_standstill;
        let _lessons = sequence(&world, setting.law, !seed, &mut live).take(lessons(&setting)).count();
        run(&mut live).mean / best.mean - 1.0
    };
    let first = (0..GROUPS).flat_map(|group| {
        let mut live = newcomer(None);
        let lives: Vec<_> = sequence(&world, setting.law, seed + group, &mut live).take(FIRST_JOBS).collect();
        lives
    });
    let bound = Bounds::default().max_standstill;
    Cell {
        setting,
        best_interval,
        best,
        known: learnt(Some(1.0), bound),
        unknown: learnt(None, bound),
        unbounded: learnt(Some(1.0), 1.0),
        learning: Estimate::of(first).mean / best.mean - 1.0,
        error: best.error / best.mean,
    }
}

/// So many jobs see about [`LESSONS`] faults.
fn lessons(setting: &Setting) -> usize {
    (LESSONS as f64 * setting.mtbf / setting.work).ceil() as usize
}

fn newcomer(forecast: Option<f64>) -> Live {
    Live::new(Belief::Learns(DEFAULT_PRIOR_MTBF.as_secs_f64()), forecast)
}

/// Intervals around Young's, 12 % apart, and those that cut the work in few equal parts.
fn candidates(costs: &Costs) -> Vec<f64> {
    let middle = young(costs);
    let around = (-9..=9).map(|step| middle * 2f64.powf(f64::from(step) / 6.0));
    let parts = (2..=12).map(|parts| costs.work / f64::from(parts));
    around.chain(parts).filter(|interval| *interval < costs.work).collect()
}
