//! What an answer tells of the clock of the machine that gave it.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Response;
use hyper::header::DATE;
use jiff::fmt::rfc2822::DateTimeParser;

/// The header counts whole seconds, and a server may write the same one for a second.
const GRAIN: i64 = 2;

/// A look at another clock: what it showed, and what ours showed before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockReading {
    /// What the other clock showed, in unix seconds.
    pub(crate) theirs: i64,
    sent: i64,
    /// What ours showed when the answer was there.
    pub(crate) received: i64,
}

/// The reading that an answer holds, to a request that was sent at this time.
pub(crate) fn of<B>(response: &Response<B>, sent: SystemTime) -> Option<ClockReading> {
    let date = response.headers().get(DATE)?.to_str().ok()?;
    let theirs = DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(ClockReading {
        theirs: theirs.as_second(),
        sent: unix_seconds(sent),
        received: unix_seconds(SystemTime::now()),
    })
}

impl ClockReading {
    /// By how many seconds the other clock is ahead of ours, at least; negative when it is behind,
    /// and 0 when both may show the same.
    pub(crate) fn seconds_ahead(&self) -> i64 {
        let least = self.theirs - (self.received + 1);
        let most = self.theirs + GRAIN - self.sent;
        if least > 0 { least } else { most.min(0) }
    }
}

/// A time in unix seconds. A clock before 1970 is one at its beginning.
pub(crate) fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_when_nothing_else_explains_the_two_times() {
        for (theirs, sent, received, ahead) in [
            (100, 100, 100, 0),
            // Written a moment ago, or in the second after the request.
            (99, 100, 100, 0),
            (101, 100, 100, 0),
            // The answer took its time.
            (160, 100, 200, 0),
            (160, 100, 110, 49),
            (40, 100, 110, -58),
        ] {
            let reading = ClockReading {
                theirs,
                sent,
                received,
            };
            assert_eq!(reading.seconds_ahead(), ahead, "{reading:?}");
        }
    }

    #[test]
    fn a_date_is_read_as_http_writes_it() {
        let response = |date: &str| Response::builder().header(DATE, date).body(()).unwrap();
        let now = SystemTime::now();
        let reading = of(&response("Sun, 06 Nov 1994 08:49:37 GMT"), now).unwrap();
        assert_eq!(reading.theirs, 784_111_777);
        assert!(reading.seconds_ahead() < -900_000_000);
        assert_eq!(of(&response("yesterday"), now), None);
        assert_eq!(of(&Response::new(()), now), None);
    }
}
