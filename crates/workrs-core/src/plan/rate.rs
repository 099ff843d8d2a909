//! How often nodes fail: a Gamma posterior of the fault rate.
//!
//! Faults are counted over time during which nodes were up. The rate of a Poisson process that was seen to fail n times
//! in S seconds has, from a prior Gamma(a, b), the posterior Gamma(a + n, b + S) with mean (a + n)/(b + S).
//!
//! The group's prior weighs as much as one fault in the prior mean time between faults. A node's own prior weighs as much
//! as one fault in the group's; that the group's sums hold the node's own faults, too, lets it forget the group's prior
//! after about √(prior/truth) faults. A prior that is too short costs little (C/interval of the time, and intervals grow
//! with its square root), one that is too long takes those faults to be unlearnt. So the default is short.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The mean time between faults that is assumed where nothing is known.
pub const DEFAULT_PRIOR_MTBF: Duration = Duration::from_secs(3_600);
/// The weight of the group's rate in a node's own, in faults.
const GROUP_WEIGHT: f64 = 1.0;
/// Shorter and longer mean times between faults than these are mistakes. In seconds.
const MTBF_BOUNDS: (f64, f64) = (1.0, 1e10);
/// The 95 % quantile of the standard normal distribution.
const NORMAL_95: f64 = 1.644_853_626_951_472_2;

/// What was seen of one node, or of several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Observed {
    /// How often it failed.
    pub faults: u64,
    /// How long it was up.
    pub seconds: f64,
}

impl Observed {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { faults: self.faults.saturating_add(other.faults), seconds: self.time() + other.time() }
    }

    /// The time, whatever was written there.
    fn time(self) -> f64 {
        if self.seconds.is_nan() { 0.0 } else { self.seconds.clamp(0.0, f64::MAX / 4.0) }
    }
}

impl std::iter::Sum for Observed {
    fn sum<I: Iterator<Item = Self>>(observed: I) -> Self {
        observed.fold(Self::default(), Self::and)
    }
}

/// What is known of a fault rate: the distribution Gamma(`faults`, `seconds`). Both are positive and finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    faults: f64,
    seconds: f64,
}

impl Rate {
    /// What is assumed before anything was seen: one fault in `mtbf`.
    pub fn prior(mtbf: Duration) -> Self {
        Self { faults: 1.0, seconds: mtbf.as_secs_f64().clamp(MTBF_BOUNDS.0, MTBF_BOUNDS.1) }
    }

    /// The rate of the group: the prior and all that was seen of all its nodes.
    pub fn of_group(prior_mtbf: Duration, seen: Observed) -> Self {
        Self::prior(prior_mtbf).updated(seen)
    }

    /// The rate of one node: it is taken to be like the group's until it shows otherwise.
    pub fn of_node(group: Self, seen: Observed) -> Self {
        let seconds = (GROUP_WEIGHT * group.seconds / group.faults).min(f64::MAX / 4.0);
        Self { faults: GROUP_WEIGHT, seconds }.updated(seen)
    }

    fn updated(self, seen: Observed) -> Self {
        Self { faults: self.faults + seen.faults as f64, seconds: (self.seconds + seen.time()).min(f64::MAX / 4.0) }
    }

    /// The expected rate, in faults a second: positive.
    pub fn mean(&self) -> f64 {
        (self.faults / self.seconds).max(f64::MIN_POSITIVE)
    }

    /// One over the expected rate: mean seconds between faults.
    pub fn mtbf(&self) -> f64 {
        1.0 / self.mean()
    }

    /// The rate lies in here with a probability of about 90 %, by the cube root that makes a Gamma distribution nearly
    /// normal (Wilson and Hilferty 1931).
    pub fn interval(&self) -> (f64, f64) {
        let quantile = |z: f64| {
            let root = 1.0 - 1.0 / (9.0 * self.faults) + z / (3.0 * self.faults.sqrt());
            self.mean() * root.max(0.0).powi(3)
        };
        (quantile(-NORMAL_95), quantile(NORMAL_95))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
    }

    #[test]
    fn without_observations_the_prior_counts() {
        let group = Rate::of_group(HOUR, Observed::default());
        assert!(close(group.mtbf(), 3_600.0));
        assert!(close(Rate::of_node(group, Observed::default()).mtbf(), 3_600.0));
        assert!(close(Rate::prior(Duration::ZERO).mtbf(), 1.0), "a prior of nothing is a mistake");
    }

    #[test]
    fn the_group_s_rate_is_the_posterior_mean() {
        let seen = [Observed { faults: 2, seconds: 1_000.0 }, Observed { faults: 1, seconds: 400.0 }];
        let group = Rate::of_group(HOUR, seen.into_iter().sum());
        assert!(close(group.mean(), 4.0 / 5_000.0));
    }

    #[test]
    fn a_node_is_like_the_group_until_it_shows_otherwise() {
        let group = Rate::of_group(HOUR, Observed { faults: 9, seconds: 6_400.0 });
        assert!(close(group.mtbf(), 1_000.0));
        let rarely = Rate::of_node(group, Observed { faults: 0, seconds: 9_000.0 });
        assert!(close(rarely.mtbf(), 10_000.0));
        let often = Rate::of_node(group, Observed { faults: 99, seconds: 0.0 });
        assert!(close(often.mtbf(), 10.0), "faults in no time at all");
    }

    #[test]
    fn a_wrong_prior_is_forgotten_after_the_square_root_of_its_error() {
        // A node that fails every 76 s, alone in its group.
        for prior in [HOUR, 24 * HOUR, 720 * HOUR] {
            let faults = (prior.as_secs_f64() / 76.0).sqrt().ceil() as u64;
            let seen = Observed { faults, seconds: 76.0 * faults as f64 };
            let known = Rate::of_node(Rate::of_group(prior, seen), seen).mtbf();
            assert!((38.0..=152.0).contains(&known), "{prior:?} after {faults} faults: {known}");
        }
    }

    #[test]
    fn the_interval_is_that_of_the_gamma_distribution() {
        // Quantiles of Gamma(10, 1): 5.425 and 15.705; of Gamma(1, 1): 0.0513 and 2.996.
        let ten = Rate { faults: 10.0, seconds: 1.0 }.interval();
        assert!((ten.0 - 5.425).abs() < 0.02 && (ten.1 - 15.705).abs() < 0.02, "{ten:?}");
        let one = Rate { faults: 1.0, seconds: 1.0 }.interval();
        assert!((one.0 - 0.051).abs() < 0.02 && (one.1 - 2.996).abs() < 0.05, "{one:?}");
    }

    proptest! {
        #[test]
        fn whatever_is_seen_the_rate_is_a_positive_number(
            prior in any::<Duration>(), all in any::<u64>(), time in any::<f64>(), own in any::<u64>(), up in any::<f64>(),
        ) {
            let group = Rate::of_group(prior, Observed { faults: all, seconds: time });
            let node = Rate::of_node(group, Observed { faults: own, seconds: up });
            for rate in [group, node] {
                prop_assert!(rate.mean() > 0.0 && rate.mean().is_finite() && rate.mtbf() > 0.0, "{:?}", rate);
                let (low, high) = rate.interval();
                prop_assert!(0.0 <= low && low <= high && high.is_finite(), "{:?}", rate);
            }
        }
    }
}
