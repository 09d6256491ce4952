//! Lines of the log that other machines can bring about as often as they like: so many of a kind are
//! written, and the rest is counted.
//!
//! The audit log is not among them, nor what was admitted or changed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// For how long lines of a kind are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// How many of them are written in that time.
const WRITTEN: u32 = 100;

/// What such a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request that was answered with an error, or not at all.
    Unsuccessful,
    /// A request of a joining node that was refused.
    Refused,
    /// A request that is not understood.
    NotUnderstood,
    /// A callback that was refused, or failed.
    Callback,
    /// An address that presents unknown tokens.
    UnknownTokens,
    /// A connection that failed.
    Connection,
}

const KINDS: [(Kind, &str); 6] = [
    (Kind::Unsuccessful, "lines about requests without success"),
    (
        Kind::Refused,
        "lines about refused requests of joining nodes",
    ),
    (
        Kind::NotUnderstood,
        "lines about requests that are not understood",
    ),
    (Kind::Callback, "lines about refused callbacks"),
    (
        Kind::UnknownTokens,
        "lines about addresses with unknown tokens",
    ),
    (Kind::Connection, "lines about connections that failed"),
];

/// What was written and left out of each kind.
#[derive(Debug)]
struct Limits([Mutex<Count>; KINDS.len()]);

#[derive(Debug, Clone, Copy)]
struct Count {
    began: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Count {
    const NONE: Self = Self {
        began: None,
        written: 0,
        left_out: 0,
    };

    /// Ends the time in which lines were counted together, where it is over; gives what was left out
    /// and for how long.
    fn reconcile(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let age = now.saturating_duration_since(self.began?);
        if age < WINDOW {
            return None;
        }
        let left_out = self.left_out;
        *self = Self::NONE;
        (left_out > 0).then_some((left_out, age))
    }

    /// Whether a line may be written now.
    fn take(&mut self, now: Instant) -> bool {
        self.began.get_or_insert(now);
        let is_written = self.written < WRITTEN;
        if is_written {
            self.written += 1;
        } else {
            self.left_out += 1;
        }
        is_written
    }
}

static LIMITS: Limits = Limits([const { Mutex::new(Count::NONE) }; KINDS.len()]);

impl Limits {
    fn count(&self, place: usize) -> Option<MutexGuard<'_, Count>> {
        let count = self.0.get(place)?;
        Some(count.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a line of this kind is written, or only counted.
pub fn is_written(kind: Kind) -> bool {
    let place = KINDS.iter().position(|(other, _)| *other == kind);
    let Some((place, mut count)) = place.and_then(|place| Some((place, LIMITS.count(place)?)))
    else {
        return true;
    };
    let now = Instant::now();
    let settled = count.reconcile(now);
    let is_written = count.take(now);
    drop(count);
    say(place, settled);
    is_written
}

/// Says what was left out of lines whose time is over; called now and then.
pub fn reconcile() {
    for place in 0..KINDS.len() {
        let settled = LIMITS
            .count(place)
            .and_then(|mut count| count.reconcile(Instant::now()));
        say(place, settled);
    }
}

fn say(place: usize, settled: Option<(u64, Duration)>) {
    if let (Some((_, what)), Some((left_out, time))) = (KINDS.get(place), settled) {
        tracing::warn!(
            "{left_out} more {what} in the last {} seconds",
            time.as_secs()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_are_written_in_a_while_and_the_rest_is_counted() {
        let began = Instant::now();
        let mut count = Count::NONE;
        let written = (0..180).filter(|_| count.take(began)).count();
        assert_eq!(written, 100);
        assert_eq!(count.reconcile(began + Duration::from_secs(9)), None);
        let late = began + Duration::from_secs(12);
        assert_eq!(count.reconcile(late), Some((80, Duration::from_secs(12))));
        assert_eq!(count.reconcile(late), None, "it is said once");
        assert!(count.take(late));
        assert_eq!(count.reconcile(late + WINDOW), None, "nothing was left out");
    }
}
