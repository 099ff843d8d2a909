//! When nodes fail.

use rand::{Rng, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution, Exp1, LogNormal, Weibull};

/// How the times between faults are distributed. All laws have the mean that they are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FaultLaw {
    /// Faults come whenever they like: what the formulas assume.
    Exponential {
        /// Mean time between faults.
        mtbf: f64,
    },
    /// With a shape below 1, nodes that failed just now fail again sooner; that is what logs of machines show.
    Weibull {
        /// Mean time between faults.
        mtbf: f64,
        /// Shape.
        shape: f64,
    },
    /// A heavier tail.
    LogNormal {
        /// Mean time between faults.
        mtbf: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
}

/// The sampler of a law. A law that makes no sense never has a fault.
#[derive(Debug, Clone, Copy)]
enum Sampler {
    Never,
    Exponential(f64),
    Weibull(Weibull<f64>),
    LogNormal(LogNormal<f64>),
}

impl Sampler {
    fn new(law: FaultLaw) -> Self {
        match law {
            FaultLaw::Exponential { mtbf } => Some(Self::Exponential(mtbf)),
            FaultLaw::Weibull { mtbf, shape } => {
                Weibull::new(mtbf / libm::tgamma(1.0 + 1.0 / shape), shape).ok().map(Self::Weibull)
            }
            FaultLaw::LogNormal { mtbf, sigma } => {
                LogNormal::new(mtbf.ln() - sigma * sigma / 2.0, sigma).ok().map(Self::LogNormal)
            }
        }
        .unwrap_or(Self::Never)
    }

    fn draw(&self, random: &mut impl Rng) -> f64 {
        match self {
            Self::Never => f64::INFINITY,
            Self::Exponential(mean) => mean * Distribution::<f64>::sample(&Exp1, random),
            Self::Weibull(law) => law.sample(random),
            Self::LogNormal(law) => law.sample(random),
        }
    }
}

/// The faults of one node. Only the time that it is up brings it nearer to its next one.
#[derive(Debug, Clone)]
pub struct Faults {
    sampler: Sampler,
    random: Xoshiro256PlusPlus,
    next_in: f64,
}

impl Faults {
    /// A new node.
    pub fn new(law: FaultLaw, mut random: Xoshiro256PlusPlus) -> Self {
        let sampler = Sampler::new(law);
        let next_in = sampler.draw(&mut random);
        Self { sampler, random, next_in }
    }

    /// Lets time pass: `Err` with the part of it that went by if the node fails meanwhile. It is as new then.
    pub fn pass(&mut self, time: f64) -> Result<(), f64> {
        if self.next_in >= time {
            self.next_in -= time;
            return Ok(());
        }
        let survived = self.next_in;
        self.next_in = self.sampler.draw(&mut self.random);
        Err(survived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::random;

    #[test]
    fn every_law_has_its_mean() {
        let laws = [
            FaultLaw::Exponential { mtbf: 100.0 },
            FaultLaw::Weibull { mtbf: 100.0, shape: 0.7 },
            FaultLaw::LogNormal { mtbf: 100.0, sigma: 1.0 },
        ];
        for law in laws {
            let sampler = Sampler::new(law);
            let mut random = random(7, 0);
            let count = 40_000;
            let draws: Vec<f64> = (0..count).map(|_| sampler.draw(&mut random)).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(count);
            let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / f64::from(count);
            let error = (variance / f64::from(count)).sqrt();
            assert!((mean - 100.0).abs() < 4.0 * error, "{law:?}: {mean} ± {error}");
        }
    }

    #[test]
    fn a_law_without_sense_has_no_faults() {
        let mut faults = Faults::new(FaultLaw::Weibull { mtbf: 1.0, shape: f64::NAN }, random(1, 0));
        assert_eq!(faults.pass(1e300), Ok(()));
    }
}
