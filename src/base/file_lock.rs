//! A lock on a file, held for as long as its guard lives.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Holds the lock; dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub(crate) struct FileLock(
    #[expect(dead_code, reason = "held, not read: closing it releases the lock")] File,
);

/// Why a lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileLockError {
    /// Another process holds it.
    #[error("another process holds the lock")]
    Held,
    /// The file cannot be opened or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl FileLock {
    /// Takes the lock on `path`, which is created (mode 0600) when missing, without waiting.
    pub(crate) fn try_take(path: &Path) -> Result<Self, FileLockError> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        Self::lock(file)
    }

    /// Takes the lock on a folder, which must be there, without waiting.
    ///
    /// A folder that was removed, and perhaps made anew, since it was opened counts as held:
    /// the next attempt opens the new one.
    pub(crate) fn try_take_folder(path: &Path) -> Result<Self, FileLockError> {
        let folder = File::open(path)?;
        let opened = folder.metadata()?.ino();
        let taken = Self::lock(folder)?;
        match std::fs::metadata(path) {
            Ok(there) if there.ino() == opened => Ok(taken),
            _ => Err(FileLockError::Held),
        }
    }

    fn lock(file: File) -> Result<Self, FileLockError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(FileLockError::Held),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_not_given_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = FileLock::try_take(&path).unwrap();
        assert!(matches!(
            FileLock::try_take(&path),
            Err(FileLockError::Held)
        ));
        drop(first);
        FileLock::try_take(&path).unwrap();
        let folder = FileLock::try_take_folder(dir.path()).unwrap();
        assert!(matches!(
            FileLock::try_take_folder(dir.path()),
            Err(FileLockError::Held)
        ));
        drop(folder);
    }
}
