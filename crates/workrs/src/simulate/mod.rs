//! Seeded simulations of jobs that faults strike: what the formulas of [`workrs_core::plan::model`] are checked with,
//! and what answers where they hold no longer, as for faults that are no Poisson process or a planner that still learns.
//!
//! - [`faults`]: when nodes fail; [`life`]: one job from its start to its end.
//! - [`pace`]: who decides about checkpoints: a fixed plan, or the controller of a node.
//! - [`grid`]: the controller next to the best interval chosen with hindsight.
//!
//! All times are seconds. The same seed gives the same faults whoever decides, on every machine.

pub mod faults;
pub mod grid;
pub mod life;
pub mod pace;

use rand::{SeedableRng, rngs::Xoshiro256PlusPlus};

use self::{
    faults::{FaultLaw, Faults},
    life::{Life, World},
    pace::Pace,
};

/// A mean over many lives.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Lives that were looked at.
    pub lives: u64,
    /// Mean time from start to end.
    pub mean: f64,
    /// The mean's standard error.
    pub error: f64,
    /// Standard deviation of a single life.
    pub deviation: f64,
    /// Mean number of faults.
    pub faults: f64,
    /// Mean number of checkpoints.
    pub checkpoints: f64,
}

impl Estimate {
    /// The estimate from some lives.
    pub fn of(lives: impl IntoIterator<Item = Life>) -> Self {
        let (mut count, mut mean, mut squares, mut faults, mut checkpoints) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for life in lives {
            // Welford's way, which loses no digits.
            count += 1.0;
            let difference = life.time - mean;
            mean += difference / count;
            squares += difference * (life.time - mean);
            faults += life.faults as f64;
            checkpoints += life.checkpoints as f64;
        }
        let deviation = if count > 1.0 { f64::sqrt(squares / (count - 1.0)) } else { 0.0 };
        let over = f64::max(count, 1.0);
        Self {
            lives: count as u64,
            mean,
            error: deviation / over.sqrt(),
            deviation,
            faults: faults / over,
            checkpoints: checkpoints / over,
        }
    }
}

/// Lives of the same job on new nodes. Life n has the same faults whatever `pace` does.
pub fn lives<P: Pace>(world: &World, law: FaultLaw, count: u64, seed: u64, mut pace: impl FnMut() -> P) -> Estimate {
    Estimate::of((0..count).map(|n| {
        let mut faults = Faults::new(law, random(seed, n));
        life::live(world, &mut faults, &mut pace())
    }))
}

/// The same job over and over on one node, whose faults and whose controller's knowledge go on.
pub fn sequence<'a, P: Pace + ?Sized>(
    world: &'a World,
    law: FaultLaw,
    seed: u64,
    pace: &'a mut P,
) -> impl Iterator<Item = Life> + use<'a, P> {
    let mut faults = Faults::new(law, random(seed, 0));
    std::iter::repeat_with(move || life::live(world, &mut faults, pace))
}

/// Random numbers of their own for each of many things under one seed.
pub fn random(seed: u64, stream: u64) -> Xoshiro256PlusPlus {
    // `seed_from_u64` scrambles, so that near numbers give streams that have nothing to do with each other.
    Xoshiro256PlusPlus::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(stream))
}

#[cfg(test)]
mod tests;
