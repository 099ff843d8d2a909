//! Places in a picture as shares of its width, so that it fits every screen while its text keeps its size.

use std::fmt;

use askama::filters::HtmlSafe;

/// A share of the width, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Percent(pub f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}%", self.0.clamp(0.0, 1.0) * 100.0)
    }
}

impl HtmlSafe for Percent {}

/// Maps a range of numbers to the width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: f64,
    to: f64,
}

impl Scale {
    pub fn new(from: f64, to: f64) -> Self {
        Self { from, to: if to > from { to } else { from + 1.0 } }
    }

    pub fn at(&self, value: f64) -> Percent {
        Percent(((value - self.from) / (self.to - self.from)).clamp(0.0, 1.0))
    }

    pub fn width(&self, from: f64, to: f64) -> Percent {
        Percent((self.at(to).0 - self.at(from).0).max(0.0))
    }
}

/// A round step so that about `wanted` of them fill `range`: 1, 2 or 5 times a power of ten.
pub(super) fn round_step(range: f64, wanted: f64) -> f64 {
    let raw = (range / wanted).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw).unwrap_or(10.0);
    factor * power
}

/// A step of seconds that people count in.
pub(super) fn time_step(seconds: f64, wanted: f64) -> f64 {
    const STEPS: [f64; 14] = [
        10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 43_200.0, 86_400.0, 604_800.0,
    ];
    let raw = seconds / wanted;
    if raw <= 5.0 {
        return round_step(seconds, wanted);
    }
    STEPS.into_iter().find(|step| *step >= raw).unwrap_or_else(|| round_step(seconds / 86_400.0, wanted) * 86_400.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let check = |step: f64, expect: f64| assert!((step - expect).abs() < 1e-9, "{step} is not {expect}");
        check(round_step(100.0, 5.0), 20.0);
        check(round_step(0.7, 5.0), 0.2);
        check(time_step(3_600.0, 5.0), 1_800.0);
        check(time_step(12.0, 5.0), 5.0);
    }

    #[test]
    fn a_scale_without_extent_is_one() {
        let scale = Scale::new(3.0, 3.0);
        assert_eq!(scale.at(3.0).to_string(), "0.00%");
        assert_eq!(Scale::new(0.0, 8.0).width(2.0, 4.0).to_string(), "25.00%");
    }
}
