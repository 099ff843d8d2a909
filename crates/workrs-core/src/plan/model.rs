//! Expected completion times under faults that strike at random, and the number of checkpoints that makes them shortest.
//!
//! All times are seconds, rates are per second, as `f64`. Faults are a Poisson process: they strike at any moment, also
//! during checkpoints and restores. Nothing here overflows or gives a NaN for values that [`Costs::new`] took.
//!
//! Sources:
//! - Young, "A first order approximation to the optimum checkpoint interval", CACM 1974: [`young`].
//! - Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", FGCS 2006: [`daly`].
//! - Bougeret, Casanova, Rabie, Robert, Vivien, "Checkpointing strategies for parallel jobs", SC'11: the exact solution
//!   by the Lambert function, on which [`Costs::optimum`] and [`Costs::optimal_work`] rest. Their last segment ends in
//!   a checkpoint; here it does not, which gives T − C in place of T.
//! - Vaidya, "Impact of checkpoint latency on overhead ratio of a checkpointing scheme", IEEE ToC 1997: a checkpoint that
//!   is of use only `latency` after its cut costs as much as a restore that takes longer by that. This holds between
//!   two checkpoints; [`Costs::expected`] also counts the first segment, which ends only when its checkpoint is of use,
//!   and the last one, which waits for nothing.
//! - The paper that Workrs implements (arXiv 2305.18219): [`paper`].

use serde::Serialize;

/// Nobody makes more checkpoints than that, and counts stay exact in `f64`.
pub const MAX_SEGMENTS: u64 = 1 << 50;
/// Below this, the Lambert function's argument is so near its branch point that its series there is more accurate.
const NEAR_BRANCH_POINT: f64 = 0.02;

/// What a job has before it, and what faults and checkpoints cost it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Costs {
    /// T: work that is left.
    pub work: f64,
    /// λ: faults a second.
    pub rate: f64,
    /// C: how long the job stands still for a checkpoint.
    pub checkpoint: f64,
    /// R: how long a restore takes.
    pub restore: f64,
    /// D: from a fault to the begin of the restore.
    pub detection: f64,
    /// L: from the end of the standstill to the commit, during which the job runs on.
    pub latency: f64,
}

/// How many segments, and how long they are expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Optimum {
    /// K: checkpoints and one. 1 means that no checkpoint pays.
    pub segments: u64,
    /// Expected completion time.
    pub expected: f64,
}

impl Optimum {
    /// The number of checkpoints.
    pub fn checkpoints(&self) -> u64 {
        self.segments - 1
    }
}

impl Costs {
    /// With every value that is negative or not a number taken as zero, and infinite ones as the largest number.
    #[must_use]
    pub fn new(self) -> Self {
        let clean = |value: f64| if value.is_nan() { 0.0 } else { value.clamp(0.0, f64::MAX) };
        Self {
            work: clean(self.work),
            rate: clean(self.rate),
            checkpoint: clean(self.checkpoint),
            restore: clean(self.restore),
            detection: clean(self.detection),
            latency: clean(self.latency),
        }
    }

    /// E(K) = ((K−1)·e^(λL) + 1) · e^(λR) · (1/λ + D) · (e^(λ((T−C)/K + C)) − 1): the expected completion time in
    /// `segments` equal segments with a checkpoint between each two, exact while an upload takes no longer than a
    /// segment. For λ → 0 it is T + (K−1)·C. At most `f64::MAX`.
    pub fn expected(&self, segments: u64) -> f64 {
        if self.rate == 0.0 {
            return self.without_faults(segments.clamp(1, MAX_SEGMENTS) as f64).min(f64::MAX);
        }
        exp(self.ln_expected(segments))
    }

    /// The part of [`Self::expected`] that is left once `done` seconds of the first segment went by without a fault:
    /// less by e^(λR) · (1/λ + D) · (e^(λ·done) − 1). At least the work that is left.
    pub fn expected_after(&self, segments: u64, done: f64) -> f64 {
        let done = done.clamp(0.0, self.work);
        let passed = Self { work: done, ..*self }.expected(1);
        (self.expected(segments) - passed).max(self.work - done)
    }

    fn without_faults(&self, segments: f64) -> f64 {
        self.work + (segments - 1.0) * self.checkpoint
    }

    /// The logarithm of [`Self::expected`], which does not overflow where that would.
    fn ln_expected(&self, segments: u64) -> f64 {
        let segments = segments.clamp(1, MAX_SEGMENTS) as f64;
        let without_faults = self.without_faults(segments);
        let length = without_faults / segments;
        let exponent = self.rate * length;
        if self.rate == 0.0 || exponent == 0.0 {
            return without_faults.ln();
        }
        // 1/λ + D, and 1/λ may be too large for a number.
        let round = -self.rate.ln() + (self.rate * self.detection).ln_1p();
        let waiting = self.rate * self.latency;
        let rounds = if segments > 1.0 { waiting + (segments - 1.0 + (-waiting).exp()).ln() } else { 0.0 };
        rounds + self.rate * self.restore + round + ln_exp_m1(exponent)
    }

    /// The number of segments with the shortest expected completion time. Where L = 0, its derivative is zero at
    /// K₀ = λ(T−C) / (1 + W₀(−e^(−λC−1))); a latency moves that place down a little. With no faults, or where a
    /// checkpoint costs as much as the work, it is 1.
    pub fn optimum(&self) -> Optimum {
        self.optimum_within(MAX_SEGMENTS)
    }

    /// The best number of segments that is not larger than `most`.
    pub fn optimum_within(&self, most: u64) -> Optimum {
        let most = most.clamp(1, MAX_SEGMENTS);
        let best = if self.rate == 0.0 || self.work <= self.checkpoint {
            1
        } else if self.checkpoint == 0.0 {
            most
        } else {
            let several = self.lowest_point().min(most);
            // With a latency, one segment may be better than the lowest point of the others.
            if self.ln_expected(1) <= self.ln_expected(several) { 1 } else { several }
        };
        Optimum { segments: best, expected: self.expected(best) }
    }

    /// Where E(K) is lowest, but for K = 1. It falls before that and rises after it.
    fn lowest_point(&self) -> u64 {
        let work = self.work - self.checkpoint;
        let exact = work / self.optimal_work();
        // With b = 1 − e^(−λL), K is to first order less than K₀ by the share b / (λ(T−C)).
        let shift = -(-self.rate * self.latency).exp_m1() / (self.rate * work);
        let lowest = if shift < 0.25 { exact * (1.0 - 2.0 * shift) - 2.0 } else { 1.0 };
        let mut low = lowest.clamp(1.0, MAX_SEGMENTS as f64) as u64;
        let mut high = (exact + 1.0).clamp(1.0, MAX_SEGMENTS as f64) as u64;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ln_expected(middle) <= self.ln_expected(middle + 1) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// (1 + W₀(−e^(−λC−1))) / λ: the work between two checkpoints that is best while nobody knows how much there is.
    /// Infinite without faults.
    pub fn optimal_work(&self) -> f64 {
        if self.rate == 0.0 {
            return f64::INFINITY;
        }
        (one_plus_lambert(self.rate * self.checkpoint) / self.rate).min(f64::MAX)
    }
}

/// 1 + W₀(−e^(−x−1)) for x ≥ 0: 0 at 0, and towards 1 for large x.
fn one_plus_lambert(x: f64) -> f64 {
    // e·z + 1 for z = −e^(−x−1), without the loss of digits.
    let p = (2.0 * -(-x).exp_m1()).sqrt();
    if p < NEAR_BRANCH_POINT {
        // Corless et al., "On the Lambert W function", 1996, eq. 4.22.
        return p * (1.0 - p * (1.0 / 3.0 - p * (11.0 / 72.0 - p * (43.0 / 540.0 - p * (769.0 / 17_280.0)))));
    }
    1.0 + lambert_w::lambert_w0(-(-x - 1.0).exp())
}

/// ln(eˣ − 1) for x > 0.
fn ln_exp_m1(x: f64) -> f64 {
    if x > 1.0 { x + (-(-x).exp()).ln_1p() } else { x.exp_m1().ln() }
}

/// eˣ, or the largest number where that would be larger.
fn exp(x: f64) -> f64 {
    if x >= f64::MAX.ln() { f64::MAX } else { x.exp() }
}

/// The paper's own model: E(N) = N·(e^(μT/N) − 1)/μ + (N−1)·C for N segments. Faults neither strike checkpoints nor cost
/// time to recover from. At most `f64::MAX`.
pub fn paper_expected(costs: &Costs, segments: u64) -> f64 {
    let segments = segments.clamp(1, MAX_SEGMENTS) as f64;
    let checkpoints = (segments - 1.0) * costs.checkpoint;
    let exponent = costs.rate * costs.work / segments;
    if exponent == 0.0 {
        return (costs.work + checkpoints).min(f64::MAX);
    }
    let running = exp(segments.ln() + ln_exp_m1(exponent) - costs.rate.ln());
    (running + checkpoints).min(f64::MAX)
}

/// The number of segments that the paper's model finds best. E(N) is convex in N, so its minimum is found by halving.
pub fn paper(costs: &Costs) -> Optimum {
    let (mut low, mut high) = (1, MAX_SEGMENTS);
    if costs.checkpoint > 0.0 {
        while low < high {
            let middle = low + (high - low) / 2;
            if paper_expected(costs, middle) <= paper_expected(costs, middle + 1) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
    } else if costs.rate > 0.0 {
        low = MAX_SEGMENTS;
    }
    Optimum { segments: low, expected: paper_expected(costs, low) }
}

/// Young's interval √(2C/λ): work between two checkpoints. Infinite without faults.
pub fn young(costs: &Costs) -> f64 {
    if costs.rate == 0.0 { f64::INFINITY } else { (2.0 * costs.checkpoint / costs.rate).sqrt().min(f64::MAX) }
}

/// Daly's interval, of higher order: work between two checkpoints. Infinite without faults.
pub fn daly(costs: &Costs) -> f64 {
    if costs.rate == 0.0 {
        return f64::INFINITY;
    }
    let mean = (1.0 / costs.rate).min(f64::MAX);
    let half_share = costs.checkpoint / (2.0 * mean);
    if half_share >= 1.0 {
        return mean;
    }
    young(costs) * (1.0 + half_share.sqrt() / 3.0 + half_share / 9.0) - costs.checkpoint
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "exact answers are meant")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn costs(work: f64, rate: f64, checkpoint: f64) -> Costs {
        Costs { work, rate, checkpoint, restore: 0.0, detection: 0.0, latency: 0.0 }
    }

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
    }

    #[test]
    fn the_paper_s_choices_come_out() {
        for cost in [4.8, 4.9, 5.0] {
            let chosen = [0.0001, 0.0005, 0.003, 0.0131].map(|rate| paper(&costs(300.0, rate, cost)).checkpoints());
            assert_eq!(chosen, [0, 1, 5, 11], "C = {cost}");
        }
    }

    #[test]
    fn one_segment_is_the_paper_s_formula() {
        for rate in [1e-9, 0.0001, 0.0131, 1.0] {
            let reference = (rate * 300.0_f64).exp_m1() / rate;
            assert!(close(paper_expected(&costs(300.0, rate, 5.0), 1), reference));
            assert!(close(costs(300.0, rate, 5.0).expected(1), reference), "without recovery both models agree");
        }
    }

    #[test]
    fn recovery_and_detection_cost_what_the_formula_says() {
        let all = Costs { work: 100.0, rate: 0.01, checkpoint: 2.0, restore: 3.0, detection: 5.0, latency: 7.0 };
        // A segment of `length`, of which `kept` came before the cut that is returned to: see docs/planner.md.
        let segment = |length: f64, kept: f64| {
            (0.01f64 * 3.0).exp() * (100.0 + 5.0) * (0.01 * kept).exp() * (0.01 * length).exp_m1()
        };
        let length = (100.0 - 2.0) / 4.0 + 2.0;
        let four = segment(length + 7.0, 0.0) + 2.0 * segment(length, 7.0) + segment(length - 7.0, 7.0);
        assert!(close(all.expected(4), four), "first, two between, and last");
        assert!(close(all.expected(1), segment(100.0, 0.0)), "what is never made is never waited for");
        assert!(close(all.expected_after(1, 40.0), segment(100.0, 0.0) - segment(40.0, 0.0)));
        assert!(close(all.expected_after(1, 100.0), 0.0));
    }

    #[test]
    fn a_bound_on_the_number_gives_the_best_within_it() {
        let many = costs(300.0, 0.0131, 0.2);
        let free = many.optimum().segments;
        assert!(free > 40);
        assert_eq!(many.optimum_within(10).segments, 10);
        assert_eq!(many.optimum_within(0).segments, 1);
        assert_eq!(many.optimum_within(free + 9).segments, free);
    }

    #[test]
    fn edges_have_exact_answers() {
        assert_eq!(costs(300.0, 0.0, 5.0).optimum(), Optimum { segments: 1, expected: 300.0 });
        assert!(close(costs(300.0, 0.0, 5.0).expected(4), 315.0));
        assert_eq!(costs(5.0, 1.0, 5.0).optimum().segments, 1, "a checkpoint that costs as much as the work");
        assert_eq!(costs(300.0, 0.1, 0.0).optimum().segments, MAX_SEGMENTS, "a checkpoint that costs nothing");
        assert_eq!(costs(0.0, 0.1, 1.0).optimum(), Optimum { segments: 1, expected: 0.0 });
        assert_eq!(costs(1e6, 1e3, 1.0).expected(1), f64::MAX, "longer than any number");
        let nonsense = costs(f64::NAN, -1.0, f64::INFINITY).new();
        assert_eq!((nonsense.work, nonsense.rate, nonsense.checkpoint), (0.0, 0.0, f64::MAX));
        assert_eq!(costs(1.0, 0.0, 1.0).optimal_work(), f64::INFINITY);
    }

    #[test]
    fn intervals_agree_where_checkpoints_are_cheap() {
        // For λC → 0 all three are √(2C/λ).
        let cheap = costs(f64::MAX, 1e-9, 1e-3);
        let exact = cheap.optimal_work();
        for interval in [young(&cheap), daly(&cheap)] {
            assert!((interval / exact - 1.0).abs() < 1e-5, "{interval} {exact}");
        }
        assert_eq!(daly(&costs(1.0, 1.0, 9.0)), 1.0, "beyond twice the mean, Daly's is the mean");
    }

    #[test]
    fn the_lambert_function_is_right_on_both_sides_of_the_seam() {
        for exponent in -600..25 {
            let x = 10f64.powf(f64::from(exponent) / 20.0);
            let y = one_plus_lambert(x);
            assert!((0.0..=1.0).contains(&y));
            // (1 − y)·e^y = e^(−x), by logarithms; −ln(1−y) − y = y²/2 + … loses its digits for small y.
            let back =
                if y < 1e-3 { y * y * (0.5 + y / 3.0 + y * y / 4.0 + y * y * y / 5.0) } else { -(-y).ln_1p() - y };
            assert!((back / x - 1.0).abs() < 1e-6, "x = {x}: y = {y}, back {back}");
        }
        assert_eq!(one_plus_lambert(1e3), 1.0);
    }

    /// Everything between hardly and ever.
    fn magnitude(low: f64, high: f64) -> impl Strategy<Value = f64> {
        (low.log10()..high.log10()).prop_map(|exponent| 10f64.powf(exponent))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn the_optimum_equals_brute_force(
            work in magnitude(1.0, 1e5), rate in magnitude(1e-7, 0.1), checkpoint in magnitude(0.5, 500.0),
            restore in 0.0..100.0, detection in 0.0..100.0, latency in 0.0..100.0,
        ) {
            let costs = Costs { work, rate, checkpoint, restore, detection, latency };
            let found = costs.optimum();
            let brute = (1..=2_000).map(|k| costs.ln_expected(k)).fold(f64::INFINITY, f64::min);
            prop_assume!(found.segments < 2_000);
            let difference = costs.ln_expected(found.segments) - brute;
            prop_assert!(difference.abs() < 1e-9, "{:?} is worse than brute force by {}", found, difference);
        }

        #[test]
        fn the_paper_s_optimum_equals_brute_force(
            work in magnitude(1.0, 1e4), rate in magnitude(1e-7, 0.05), checkpoint in magnitude(0.5, 500.0),
        ) {
            let costs = costs(work, rate, checkpoint);
            let found = paper(&costs);
            prop_assume!(found.segments < 2_000);
            let brute = (1..=2_000).map(|n| paper_expected(&costs, n)).fold(f64::INFINITY, f64::min);
            prop_assert!(found.expected <= brute * (1.0 + 1e-9), "{:?}, but {}", found, brute);
        }

        #[test]
        fn no_value_whatever_gives_a_nan(
            work in any::<f64>(), rate in any::<f64>(), checkpoint in any::<f64>(),
            restore in any::<f64>(), detection in any::<f64>(), latency in any::<f64>(), segments in any::<u64>(),
        ) {
            let costs = Costs { work, rate, checkpoint, restore, detection, latency }.new();
            prop_assert!((0.0..=f64::MAX).contains(&costs.expected(segments)));
            prop_assert!((0.0..=f64::MAX).contains(&costs.optimum().expected));
            prop_assert!((0.0..=f64::MAX).contains(&paper_expected(&costs, segments)));
            prop_assert!((0.0..=f64::MAX).contains(&paper(&costs).expected));
            prop_assert!(!costs.optimal_work().is_nan() && !young(&costs).is_nan() && !daly(&costs).is_nan());
        }
    }
}
