//! Lines of the log that other machines can bring about as often as they like: so many of a kind are
//! written, and the rest is counted.
//!
//! The audit log is not among them, nor what was admitted or changed.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use strum::{IntoStaticStr, VariantArray};

use crate::base::mutex::lock;

/// For how long lines of a kind are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// How many of them are written in that time.
const WRITTEN: u32 = 100;

/// What such a line is about, and what the lines of the kind are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str)]
pub(crate) enum Kind {
    /// A request that was answered with an error, or not at all.
    #[strum(serialize = "lines about requests without success")]
    Unsuccessful,
    /// A request of a joining node that was refused.
    #[strum(serialize = "lines about refused requests of joining nodes")]
    Refused,
    /// A request that is not understood.
    #[strum(serialize = "lines about requests that are not understood")]
    NotUnderstood,
    /// A callback that was refused, or failed.
    #[strum(serialize = "lines about refused callbacks")]
    Callback,
    /// An address that presents unknown tokens.
    #[strum(serialize = "lines about addresses with unknown tokens")]
    UnknownTokens,
    /// A connection that failed.
    #[strum(serialize = "lines about connections that failed")]
    Connection,
}

/// What the log said last of something that is done again and again: a problem that stays is written
/// once, and so is its end.
#[derive(Default)]
pub(crate) struct LastProblem(Mutex<Option<String>>);

impl LastProblem {
    /// Whether this is something else than what was written last. It is to be written then.
    pub(crate) fn changes(&self, problem: Option<&str>) -> bool {
        let mut last = lock(&self.0);
        let changes = last.as_deref() != problem;
        if changes {
            *last = problem.map(str::to_owned);
        }
        changes
    }
}

/// What was written and left out of each kind.
static COUNTS: [Mutex<Count>; Kind::VARIANTS.len()] =
    [const { Mutex::new(Count::NONE) }; Kind::VARIANTS.len()];

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

/// Whether a line of this kind is written, or only counted.
pub(crate) fn is_written(kind: Kind) -> bool {
    say_left_out(kind);
    lock(&COUNTS[kind as usize]).take(Instant::now())
}

/// Says what was left out of lines whose time is over; called now and then.
pub(crate) fn reconcile() {
    for kind in Kind::VARIANTS {
        say_left_out(*kind);
    }
}

fn say_left_out(kind: Kind) {
    let left_out = lock(&COUNTS[kind as usize]).reconcile(Instant::now());
    if let Some((left_out, time)) = left_out {
        let (lines, seconds) = (kind.into_str(), time.as_secs());
        tracing::warn!("{left_out} more {lines} in the last {seconds} seconds");
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
