//! An answer that takes time to get: asked for once for all who want it at the same moment, and
//! remembered for a while.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::mutex::lock;

/// An answer, and who waits for it.
#[derive(Debug)]
pub(crate) struct Cached<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    keep: Duration,
    max_waiting: usize,
}

#[derive(Debug)]
struct State<T> {
    answer: Option<(Instant, T)>,
    is_asked: bool,
    waiting: usize,
}

impl<T: Clone> Cached<T> {
    /// An answer that stays valid for `keep`, and for which at most `max_waiting` callers wait
    /// while another one asks.
    pub(crate) fn new(keep: Duration, max_waiting: usize) -> Self {
        let state = State {
            answer: None,
            is_asked: false,
            waiting: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            keep,
            max_waiting,
        }
    }

    /// Returns the cached answer, waits for a call that is already running, or calls `ask`.
    /// `None` when too many wait.
    pub(crate) fn get(&self, ask: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some((since, answer)) = &state.answer
                && since.elapsed() < self.keep
            {
                return Some(answer.clone());
            }
            if !state.is_asked {
                break;
            }
            if state.waiting >= self.max_waiting {
                return None;
            }
            state.waiting += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        state.is_asked = true;
        drop(state);
        let _over = Over(self);
        let answer = ask();
        self.lock().answer = Some((Instant::now(), answer.clone()));
        Some(answer)
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

/// The asking is over, with an answer or a panic: the others look, or ask themselves.
struct Over<'a, T: Clone>(&'a Cached<T>);

impl<T: Clone> Drop for Over<'_, T> {
    fn drop(&mut self) {
        self.0.lock().is_asked = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::base::wait;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn concurrent_callers_share_one_answer_and_too_many_get_none() {
        let (remembered, asked) = (Cached::new(LONG, 2), AtomicUsize::new(0));
        let (go, gate) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (remembered, asked) = (&remembered, &asked);
            let first = scope.spawn(move || {
                remembered.get(|| {
                    asked.fetch_add(1, Ordering::SeqCst);
                    gate.recv().unwrap();
                    7
                })
            });
            let until = |is_so: &dyn Fn() -> bool| {
                let seen = wait::until(Duration::from_secs(30), Duration::from_millis(1), || {
                    is_so().then_some(())
                });
                assert!(seen.is_some());
            };
            until(&|| asked.load(Ordering::SeqCst) == 1);
            let second = || remembered.get(|| unreachable!("it is being asked"));
            let others = [scope.spawn(second), scope.spawn(second)];
            until(&|| remembered.lock().waiting == 2);
            assert_eq!(second(), None, "no more may wait");
            go.send(()).unwrap();
            assert_eq!(first.join().unwrap(), Some(7));
            for other in others {
                assert_eq!(other.join().unwrap(), Some(7));
            }
            assert_eq!(second(), Some(7), "it is remembered");
        });
    }

    #[test]
    fn an_answer_that_is_too_old_or_never_came_is_asked_for_again() {
        let remembered = Cached::new(Duration::ZERO, 1);
        assert_eq!(remembered.get(|| 1), Some(1));
        assert_eq!(remembered.get(|| 2), Some(2));
        let lost = thread::scope(|scope| scope.spawn(|| remembered.get(|| panic!("lost"))).join());
        assert!(lost.is_err());
        assert_eq!(remembered.get(|| 3), Some(3));
    }
}
