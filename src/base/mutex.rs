//! A mutex that can still be locked after a thread panicked while it held it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks it. For data that every holder leaves valid at each moment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
