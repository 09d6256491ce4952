//! Times as people read them, and as HTTP has them.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{Span, SpanRelativeTo};

/// A span of time in its largest unit: `1 minute`, `3 days`. One in the future or of no length is
/// `0 seconds`.
pub(crate) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

/// A number of seconds, to the second.
pub(crate) fn seconds(number: u64) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} second{plural}")
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
    fn a_span_is_given_in_its_largest_unit() {
        for (seconds, text) in [
            (-5, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (7199, "1 hour"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(seconds), text);
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
