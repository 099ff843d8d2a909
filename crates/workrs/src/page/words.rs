//! Times, spans and sizes, as a person reads them. The page's script says ages in the same words.

use jiff::Timestamp;
use workrs_store::fresh;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    fresh::now().as_millis()
}

/// A span in its two largest units.
pub(super) fn span(millis: u64) -> String {
    let two = |large: u64, large_name: &str, small: u64, small_name: &str| {
        let (whole, rest) = (millis / large, millis % large / small);
        if rest == 0 { format!("{whole} {large_name}") } else { format!("{whole} {large_name} {rest} {small_name}") }
    };
    match millis {
        0 => "0 s".to_owned(),
        1..SECOND => format!("{millis} ms"),
        SECOND..10_000 => format!("{:.1} s", millis as f64 / 1_000.0),
        10_000..MINUTE => format!("{} s", millis / SECOND),
        MINUTE..HOUR => two(MINUTE, "min", SECOND, "s"),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        _ => two(DAY, "d", HOUR, "h"),
    }
}

/// A span in seconds; what is not a number is none.
pub(super) fn span_s(seconds: f64) -> String {
    span((seconds.max(0.0) * 1_000.0) as u64)
}

/// A span in its largest unit.
pub(super) fn age(millis: u64) -> String {
    match millis {
        0..MINUTE => format!("{} s", millis / SECOND),
        MINUTE..HOUR => format!("{} min", millis / MINUTE),
        HOUR..DAY => format!("{} h", millis / HOUR),
        _ => format!("{} d", millis / DAY),
    }
}

/// A size with three digits at most.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1_024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// A number of things: `1 file`, `2 files`.
pub(super) fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{} {thing}s", grouped(number)) }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A point in time in UTC, in the form of `strftime`.
pub(super) fn date(millis: u64, form: &str) -> String {
    let timestamp = i64::try_from(millis).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    timestamp.map_or_else(|| "?".to_owned(), |timestamp| timestamp.strftime(form).to_string())
}

/// One component of an address.
pub(super) fn component(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A path in an address: its slashes stay.
pub(super) fn path(text: &str) -> String {
    text.split('/').map(component).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_as_short_as_is_useful() {
        let cases = [
            (7, "7 ms"),
            (4_210, "4.2 s"),
            (42_999, "42 s"),
            (61_000, "1 min 1 s"),
            (120_000, "2 min"),
            (2 * HOUR + 5 * MINUTE, "2 h 5 min"),
            (3 * DAY + 4 * HOUR, "3 d 4 h"),
        ];
        for (millis, expect) in cases {
            assert_eq!(span(millis), expect);
        }
        assert_eq!((age(59_000), age(3 * HOUR)), ("59 s".to_owned(), "3 h".to_owned()));
    }

    #[test]
    fn sizes_have_three_digits_at_most() {
        for (bytes, expect) in [(7, "7 B"), (1_536, "1.5 KiB"), (512 << 20, "512 MiB"), (1_023 << 20, "1.0 GiB")] {
            assert_eq!(size(bytes), expect);
        }
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
    }

    #[test]
    fn names_in_addresses_are_encoded() {
        assert_eq!(path("a b/<x>?&.txt"), "a%20b/%3Cx%3E%3F%26.txt");
        assert_eq!(component("../x"), "..%2Fx");
    }

    #[test]
    fn dates_are_in_utc() {
        assert_eq!(date(1_700_000_000_000, "%Y-%m-%d %H:%M:%S UTC"), "2023-11-14 22:13:20 UTC");
    }
}
