//! Sizes and durations as people write them: `512M`, `1.5G`, `30s`, `1h 30m`.
//!
//! Size suffixes are powers of 1024, as container tools take them.

use std::time::Duration;

/// A text that is neither a size nor a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUnit {
    /// Not a size.
    #[error("{0:?} is not a size; write a number with K, M, G or T, such as 512M")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write a number with ms, s, m, h or d, such as 90s or 1h 30m")]
    Duration(String),
}

const SIZE_SUFFIXES: [(&str, u64); 5] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10), ("", 1)];
const DURATION_SUFFIXES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Bytes from a number with an optional suffix `K`, `M`, `G` or `T` (also `KiB`, `MB`, …, all powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, InvalidUnit> {
    let invalid = || InvalidUnit::Size(text.to_owned());
    let upper = text.trim().to_ascii_uppercase();
    let (number, suffix) = split_number(&upper).ok_or_else(invalid)?;
    let suffix = suffix.trim_end_matches('B').trim_end_matches('I');
    let (_, factor) = SIZE_SUFFIXES.iter().find(|(name, _)| *name == suffix).ok_or_else(invalid)?;
    scale(number, *factor).ok_or_else(invalid)
}

/// A duration from parts such as `1h 30m`, `90s`, `250ms`; a number alone means seconds.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidUnit> {
    let invalid = || InvalidUnit::Duration(text.to_owned());
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        let millis = seconds.checked_mul(1_000).filter(|millis| *millis < END);
        return millis.map(Duration::from_millis).ok_or_else(invalid);
    }
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest).ok_or_else(invalid)?;
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let (_, factor) = DURATION_SUFFIXES.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let sum = scale(number, *factor).and_then(|part| millis.checked_add(part));
        millis = sum.filter(|millis| *millis < END).ok_or_else(invalid)?;
        rest = tail.trim_start();
    }
    if text.trim().is_empty() { Err(invalid()) } else { Ok(Duration::from_millis(millis)) }
}

/// Sizes and durations end here: below it every whole number has a floating-point one of its own, so that what is written
/// is read again.
const END: u64 = 9_000_000_000_000_000;

/// Splits the leading decimal number off.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    Some((number.parse().ok()?, rest.trim_start()))
}

fn scale(number: f64, factor: u64) -> Option<u64> {
    let scaled = number * factor as f64;
    (scaled.is_finite() && scaled < END as f64).then_some(scaled.round() as u64)
}

/// A size for people: `1.5 GiB`, `20 MiB`, `512 B`.
pub fn format_size(bytes: u64) -> String {
    let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, factor)| bytes >= *factor) {
        Some((unit, factor)) => {
            let rounded = format!("{:.1}", bytes as f64 / *factor as f64);
            format!("{} {unit}", rounded.trim_end_matches('0').trim_end_matches('.'))
        }
        None => format!("{bytes} B"),
    }
}

/// A duration as [`parse_duration`] takes it: the non-zero parts, `1h 30m`; `0s` for nothing.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis() as u64;
    let mut parts = Vec::new();
    for (unit, factor) in DURATION_SUFFIXES {
        if rest >= factor {
            parts.push(format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("1.5g", 3 << 29),
            ("2 GiB", 2 << 30),
            ("1TB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text:?}");
        }
        for text in ["", "M", "-1", "1X", "1e9", "99999999T", "1 2"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("5", 5_000),
            ("90s", 90_000),
            ("1h 30m", 5_400_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("0.5s", 500),
            ("2d", 172_800_000),
            ("8999999999999", 8_999_999_999_999_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text:?}");
        }
        let too_long = ["99999999999999d", "9000000000000", "18446744073709551", "100000000d 100000000d"];
        for text in ["", " ", "s", "5 parsecs", "-1s", "1s2"].into_iter().chain(too_long) {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_duration_parses_to_itself(millis in 0..END) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
