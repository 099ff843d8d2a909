//! Times and numbers in the plan's texts.

/// 99,999 days: what nobody lives to see, and has no place in a short text.
const AGES: f64 = 99_999.0 * 86_400.0;

/// A time as people say it: `0.2 s`, `41 s`, `12 min`, `3 h`, `20 days`; `ages` for what nobody lives to see.
pub fn span(seconds: f64) -> String {
    let rounded = |value: f64, unit: &str| {
        let text = if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
        format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
    };
    match seconds {
        _ if !(0.0..AGES).contains(&seconds) => "ages".to_owned(),
        0.0..0.0995 => rounded(seconds * 1e3, "ms"),
        ..99.5 => rounded(seconds, "s"),
        ..5_970.0 => rounded(seconds / 60.0, "min"),
        ..172_800.0 => rounded(seconds / 3_600.0, "h"),
        _ => rounded(seconds / 86_400.0, "days"),
    }
}

/// `1 failed try`, `2 failed tries`.
pub fn count(number: u64, thing: &str) -> String {
    match thing.strip_suffix('y') {
        _ if number == 1 => format!("1 {thing}"),
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.0042, "4.2 ms"),
            (0.05, "50 ms"),
            (0.2, "0.2 s"),
            (9.96, "10 s"),
            (41.4, "41 s"),
            (99.0, "99 s"),
            (100.0, "1.7 min"),
            (720.0, "12 min"),
            (10_800.0, "3 h"),
            (86_400.0 * 20.0, "20 days"),
            (86_400.0 * 99_998.0, "99998 days"),
            (86_400.0 * 100_000.0, "ages"),
            (f64::INFINITY, "ages"),
            (f64::NAN, "ages"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!((count(1, "failed try"), count(2, "failed try")), ("1 failed try".into(), "2 failed tries".into()));
    }
}
