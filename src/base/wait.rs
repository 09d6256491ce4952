//! Waiting for something that cannot tell when it happens: a file, another program.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How often it is asked whether something is still waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

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
pub fn end_of(limit: Duration) -> Instant {
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

/// Does the work on a thread of its own, and waits for it only as long as `is_over` does not say
/// that it is not wanted any more: then there is nothing, and the work goes on by itself to its
/// own end.
pub fn unless<T: Send + 'static>(
    is_over: &dyn Fn() -> bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    loop {
        match result.recv_timeout(POLL_INTERVAL) {
            Ok(result) => return Some(result),
            Err(mpsc::RecvTimeoutError::Timeout) if !is_over() => {}
            Err(_) => return None,
        }
    }
}

/// Pauses, unless `is_over` says that nothing is waited for any more; tells whether it did.
pub fn pause_unless(pause: Duration, is_over: &dyn Fn() -> bool) -> bool {
    let pause = until(pause, POLL_INTERVAL, || is_over().then_some(()));
    pause.is_some()
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
}
