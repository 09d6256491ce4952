//! Flushing a file to the disk once for everybody who waits for it.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::mutex::lock;
use crate::store::file_cache::FileId;

/// A write that is to reach the disk: how many were made before it, in whatever file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written(u64);

/// Writers that wait at the same moment share a flush: a write that comes while one runs, which
/// may have missed it, waits for the next one, and that serves all writes that came meanwhile.
#[derive(Default)]
pub(crate) struct Flush {
    progress: Mutex<Progress>,
    ended: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The file that was written to last.
    file: FileId,
    /// The first of the writes to it. Those before went to a file that was replaced since, and
    /// no flush of this one is theirs.
    first: u64,
    written: u64,
    flushed: u64,
    is_running: bool,
}

impl Flush {
    /// Notes a write that has been made.
    pub(crate) fn note(&self, file: FileId) -> Written {
        let mut progress = self.progress();
        progress.written += 1;
        if progress.file != file {
            progress.file = file;
            progress.first = progress.written;
        }
        Written(progress.written)
    }

    /// Returns when the write is on the disk; `flush` flushes the file that it went to.
    ///
    /// One that fails fails for the writer that ran it; the others run their own.
    pub(crate) fn wait(
        &self,
        Written(number): Written,
        flush: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut progress = self.progress();
        while progress.first <= number {
            if progress.flushed >= number {
                return Ok(());
            }
            if progress.is_running {
                progress = self
                    .ended
                    .wait(progress)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            progress.is_running = true;
            let written = progress.written;
            drop(progress);
            let result = flush();
            progress = self.progress();
            progress.is_running = false;
            if result.is_ok() && progress.first <= number {
                progress.flushed = written;
            }
            self.ended.notify_all();
            return result;
        }
        drop(progress);
        flush()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const FILE: FileId = (1, 2);

    #[test]
    fn those_who_come_while_a_flush_runs_share_the_next_one() {
        let (all, flushes) = (Flush::default(), AtomicUsize::new(0));
        let (started, has_started) = mpsc::channel();
        let (release, is_released) = mpsc::channel();
        std::thread::scope(|scope| {
            let first = all.note(FILE);
            let (all, flushes) = (&all, &flushes);
            scope.spawn(move || {
                all.wait(first, || {
                    started.send(()).unwrap();
                    is_released.recv().unwrap();
                    Ok(())
                })
                .unwrap();
            });
            has_started.recv().unwrap();
            let later: Vec<_> = (0..5).map(|_| all.note(FILE)).collect();
            for write in later {
                scope.spawn(move || {
                    let flush = || {
                        flushes.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    };
                    all.wait(write, flush).unwrap();
                });
            }
            release.send(()).unwrap();
        });
        assert_eq!(flushes.into_inner(), 1);
    }

    #[test]
    fn a_flush_that_failed_serves_no_writer() {
        let all = Flush::default();
        let (first, second) = (all.note(FILE), all.note(FILE));
        let broken = || Err(io::ErrorKind::Other.into());
        assert!(all.wait(first, broken).is_err());
        assert!(all.wait(second, broken).is_err());
        all.wait(second, || Ok(())).unwrap();
        all.wait(first, broken).unwrap();
    }

    #[test]
    fn a_flush_of_one_file_is_none_of_another() {
        let all = Flush::default();
        let old = all.note((1, 3));
        let new = all.note(FILE);
        all.wait(new, || Ok(())).unwrap();
        let again = all.note((1, 3));
        let flushes = Cell::new(0);
        for write in [old, again] {
            all.wait(write, || {
                flushes.set(flushes.get() + 1);
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(flushes.get(), 2);
    }
}
