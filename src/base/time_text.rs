//! Times as people read them, and as HTTP has them.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{Span, SpanRelativeTo};

/// A span of time as people read it: `45 s`, `1 h 30 min`, `12 d`. It has a second unit where the
/// first one is below ten, and is rounded to its last one. One of no length is `0 s`.
pub(crate) fn span(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let step = match seconds {
        ..600 => 1,
        600..36_000 => 60,
        36_000..864_000 => 3600,
        _ => 86_400,
    };
    let mut rest = seconds.max(0).saturating_add(step / 2) / step * step;
    let mut parts = Vec::new();
    for (size, unit) in UNITS {
        let number = rest / size;
        rest %= size;
        if number > 0 {
            parts.push(format!("{number} {unit}"));
        }
        if number > 9 || parts.len() == 2 {
            break;
        }
    }
    match parts.is_empty() {
        true => "0 s".to_owned(),
        false => parts.join(" "),
    }
}

/// Reads a duration as people type it, in seconds: a number of seconds, or numbers with units as in
/// `90s`, `15m`, `1h30m` or `7d`. A part of a second counts as one. `None` for any other text.
pub(crate) fn read_seconds(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    let duration = Duration::try_from(duration).ok()?;
    Some(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}

/// A moment in RFC 3339, in UTC. One beyond the calendar is given in seconds.
pub(crate) fn moment(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds)
        .map_or_else(|_| format!("@{unix_seconds}"), |time| time.to_string())
}

/// A moment as the header `Date` has it; `None` for one beyond the calendar.
pub(crate) fn http_date(unix_seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(unix_seconds).ok()?;
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_of_seconds_or_has_units() {
        for (text, expected) in [
            ("180", Some(180)),
            ("0", Some(0)),
            ("5s", Some(5)),
            ("15m", Some(900)),
            ("1h", Some(3600)),
            ("1m30s", Some(90)),
            ("7d", Some(604_800)),
            ("250ms", Some(1)),
            ("99999999999999999999", None),
            ("", None),
            ("-5s", None),
            ("1 month", None),
            ("5 parsecs", None),
        ] {
            assert_eq!(read_seconds(text), expected, "{text}");
        }
    }

    #[test]
    fn a_span_has_a_second_unit_where_the_first_one_is_small() {
        for (seconds, text) in [
            (-5, "0 s"),
            (0, "0 s"),
            (1, "1 s"),
            (59, "59 s"),
            (60, "1 min"),
            (125, "2 min 5 s"),
            (599, "9 min 59 s"),
            (600, "10 min"),
            (3599, "1 h"),
            (5398, "1 h 30 min"),
            (7199, "2 h"),
            (40_000, "11 h"),
            (86_400, "1 d"),
            (90_000, "1 d 1 h"),
            (604_798, "7 d"),
            (950_000, "11 d"),
            (i64::MAX, "106751991167300 d"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn a_moment_is_in_utc() {
        assert_eq!(moment(1_764_000_000), "2025-11-24T16:00:00Z");
        assert_eq!(moment(i64::MAX), format!("@{}", i64::MAX));
        let date = http_date(1_764_000_000);
        assert_eq!(date.as_deref(), Some("Mon, 24 Nov 2025 16:00:00 GMT"));
        assert_eq!(http_date(i64::MAX), None);
    }
}
