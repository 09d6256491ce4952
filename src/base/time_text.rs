//! Times as people read them, and as HTTP has them.

use jiff::fmt::rfc2822::DateTimePrinter;

/// A span of time in its largest unit: `1 minute`, `3 days`. One in the future or of no length is
/// `0 seconds`.
pub fn span(seconds: i64) -> String {
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
pub fn seconds(number: u64) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} second{plural}")
}

/// A moment in RFC 3339, in UTC. One beyond the calendar is given in seconds.
pub fn moment(unix_seconds: i64) -> String {
    jiff::Timestamp::from_second(unix_seconds)
        .map_or_else(|_| format!("@{unix_seconds}"), |time| time.to_string())
}

/// A moment as the header `Date` has it; `None` for one beyond the calendar.
pub fn http_date(unix_seconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(unix_seconds).ok()?;
    DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&time)
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
