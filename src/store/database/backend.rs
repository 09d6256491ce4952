//! The file of the database, in which a commit that the disk does not confirm is undone.
//!
//! A commit counts by the header of the file, and the library writes the header before the one flush
//! that confirms all. When that flush fails, the header becomes again what it was: the pages that it
//! leads to are still there.

use std::io;
use std::ops::Bound;
use std::sync::Mutex;

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::base::mutex::lock;

/// The file.
#[derive(Debug)]
pub(super) struct Backend {
    file: FileBackend,
    headers: Mutex<Headers>,
}

/// The header as it is in the file, and as the disk confirmed it; empty before it is written first.
#[derive(Debug, Default)]
struct Headers {
    written: Vec<u8>,
    confirmed: Vec<u8>,
}

impl Backend {
    /// The one in this file.
    pub(super) fn new(file: FileBackend) -> Self {
        Self {
            file,
            headers: Mutex::default(),
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        let mut headers = lock(&self.headers);
        if synced.is_ok() {
            headers.confirmed = headers.written.clone();
        } else if headers.written != headers.confirmed && !headers.confirmed.is_empty() {
            self.file.write(0, &headers.confirmed)?;
            headers.written = headers.confirmed.clone();
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset > 0 {
            return self.file.write(offset, data);
        }
        let mut headers = lock(&self.headers);
        if headers.confirmed.is_empty() && self.file.len()? >= data.len() as u64 {
            let mut found = vec![0; data.len()];
            self.file.read(0, &mut found)?;
            headers.confirmed = found;
        }
        headers.written = data.to_vec();
        self.file.write(0, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
