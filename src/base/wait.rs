//! Waiting for something that cannot tell when it happens: a file, another program.

use std::thread;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::base::runtime;

/// Looks every `pause` until `look` gives something, for at most `limit`; looks once at least,
/// and once more when the time is over.
pub fn until<T>(
    limit: Duration,
    pause: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    let end = end_of(limit);
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        let now = Instant::now();
        if now >= end {
            return None;
        }
        between_looks(pause.min(end - now));
    }
}

/// When a limit that begins now is over; one beyond all clocks is a day.
pub(crate) fn end_of(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit)
        .unwrap_or_else(|| now + Duration::from_secs(86_400))
}

/// The pause between two looks at a condition.
#[expect(
    clippy::disallowed_methods,
    reason = "what is looked at cannot wake us; the condition is looked at again right after"
)]
pub fn between_looks(pause: Duration) {
    thread::sleep(pause);
}

/// Does the work on a thread of its own, and waits for it unless that is cancelled: then there is
/// nothing, and the work goes on by itself to its own end.
pub(crate) fn unless<T: Send + 'static>(
    cancelled: &CancellationToken,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let done = runtime::block_on(async {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => None,
            done = tokio::task::spawn_blocking(work) => done.ok(),
        }
    });
    done.ok().flatten()
}

/// Pauses, unless that is cancelled; says whether it was.
pub(crate) fn pause_unless(pause: Duration, cancelled: &CancellationToken) -> bool {
    let paused = runtime::block_on(async { timeout(pause, cancelled.cancelled()).await });
    paused.is_ok_and(|cancelled| cancelled.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_found_and_what_does_not_is_given_up() {
        let mut looks = 0;
        let found = until(Duration::from_secs(10), Duration::ZERO, || {
            looks += 1;
            (looks == 3).then_some("here")
        });
        assert_eq!((found, looks), (Some("here"), 3));
        let pause = Duration::from_millis(1);
        assert_eq!(until(2 * pause, pause, || None::<()>), None);
    }

    #[test]
    fn what_is_cancelled_is_waited_for_no_longer() {
        let (day, cancelled) = (Duration::from_secs(86_400), CancellationToken::new());
        assert_eq!(unless(&cancelled, || "done"), Some("done"));
        assert!(!pause_unless(Duration::from_millis(1), &cancelled));
        let later = cancelled.clone();
        thread::spawn(move || later.cancel());
        assert!(pause_unless(day, &cancelled));
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        assert_eq!(unless(&cancelled, move || receiver.recv().is_err()), None);
        drop(sender);
    }
}
