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
    answer: Option<Answer<T>>,
    is_asked: bool,
    waiting: usize,
}

#[derive(Debug)]
struct Answer<T> {
    asked: Instant,
    came: Instant,
    value: T,
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
        self.get_if(|answer| answer.came.elapsed() < self.keep, ask)
    }

    /// Returns no answer that was asked for before now: the next call of `ask` is for all who wait while
    /// one is running. `None` when too many wait.
    pub(crate) fn get_new(&self, ask: impl FnOnce() -> T) -> Option<T> {
        let now = Instant::now();
        self.get_if(|answer| answer.asked >= now, ask)
    }

    fn get_if(&self, is_good: impl Fn(&Answer<T>) -> bool, ask: impl FnOnce() -> T) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(answer) = state.answer.as_ref().filter(|answer| is_good(answer)) {
                return Some(answer.value.clone());
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
        let asked = Instant::now();
        let value = ask();
        self.lock().answer = Some(Answer {
            asked,
            came: Instant::now(),
            value: value.clone(),
        });
        Some(value)
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
    fn those_who_want_a_new_answer_share_the_next_question_and_not_the_one_under_way() {
        let (remembered, asked) = (Cached::new(LONG, 9), AtomicUsize::new(0));
        let (go, gate) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let (remembered, asked) = (&remembered, &asked);
            scope.spawn(move || {
                remembered.get_new(|| {
                    asked.fetch_add(1, Ordering::SeqCst);
                    gate.recv().unwrap();
                    0
                })
            });
            wait::until(LONG, Duration::from_millis(1), || {
                (asked.load(Ordering::SeqCst) == 1).then_some(())
            });
            let next = || remembered.get_new(|| asked.fetch_add(1, Ordering::SeqCst));
            let others = [scope.spawn(next), scope.spawn(next), scope.spawn(next)];
            wait::until(LONG, Duration::from_millis(1), || {
                (remembered.lock().waiting == 3).then_some(())
            });
            go.send(()).unwrap();
            for other in others {
                assert_eq!(other.join().unwrap(), Some(1));
            }
        });
        assert_eq!(remembered.get_new(|| 2), Some(2));
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
