//! How many changes the token database has had, written down beside it: by that an older copy of
//! the database is told from the present one.
//!
//! The number is written after each change, and not flushed: after a crash it may be less than that
//! of the database, and never more. Without it, or where it cannot be read, no copy is noticed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use crate::base::atomic_file;
use crate::model::fingerprint::Fingerprint;

/// The digits of the number, and of what shows that it is whole.
const DIGITS: usize = 16;

/// The file with the number.
pub(crate) struct Counter {
    path: PathBuf,
    file: Option<File>,
}

impl Counter {
    /// The one in this file.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// The number; `None` where there is none, or none that is whole.
    pub(crate) fn read(&self) -> Option<u64> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let number = u64::from_str_radix(text.get(..DIGITS)?, 16).ok()?;
        (text == line(number)).then_some(number)
    }

    /// Writes the number down. Where that cannot be done, the next one is tried again.
    pub(crate) fn write(&mut self, number: u64) {
        if let Err(error) = self.try_write(number) {
            self.file = None;
            tracing::debug!(%error, "cannot write `{}`", self.path.display());
        }
    }

    fn try_write(&mut self, number: u64) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => {
                if let Some(folder) = self.path.parent() {
                    atomic_file::make_folder(folder, 0o700)?;
                }
                let file = File::options()
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o600)
                    .open(&self.path)?;
                self.file.insert(file)
            }
        };
        file.write_all_at(line(number).as_bytes(), 0)
    }
}

fn line(number: u64) -> String {
    let number = format!("{number:0DIGITS$x}");
    let check = Fingerprint::of(number.as_bytes()).to_string();
    format!("{number} {}\n", &check[..DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written_and_none_where_it_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder/counter");
        let mut counter = Counter::new(path.clone());
        assert_eq!(counter.read(), None);
        for number in [1, u64::MAX, 2] {
            counter.write(number);
            assert_eq!(counter.read(), Some(number));
        }
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 2;
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(counter.read(), None, "{at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(counter.read(), None, "{at}");
        }
    }
}
