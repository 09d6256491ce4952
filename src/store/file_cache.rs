//! What files hold, read and parsed once for as long as they stay as they are.
//!
//! A file is told by its device, inode, size and times, so a look at it costs one system call. Times
//! move in ticks: what was written within the last one is read again at the next look, because it may
//! change once more without another time.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::base::mutex::lock;

/// Kernels stamp files with the time of their last tick, and a tick takes up to 10 ms: two changes
/// within this time may look like one.
const SAME_TICK: Duration = Duration::from_millis(50);

/// Which file it is: its device and inode.
pub(crate) type FileId = (u64, u64);

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which file.
    pub(crate) file: FileId,
    /// Its size.
    pub(crate) size: u64,
    /// When it was written to, as it says.
    pub(crate) modified: (i64, i64),
    /// No program can set this one: it moves with each change, that of the other time included.
    pub(crate) changed: (i64, i64),
}

impl Stamp {
    /// The state that this tells of.
    pub(crate) fn new(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The state of an open file.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::new(&file.metadata()?))
    }

    /// Whether each change after `now` gives the file another stamp.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let seconds = Duration::from_secs(self.changed.0.try_into().unwrap_or(0));
        let nanos = Duration::from_nanos(self.changed.1.try_into().unwrap_or(0));
        now.duration_since(UNIX_EPOCH + seconds + nanos)
            .is_ok_and(|age| age > SAME_TICK)
    }
}

/// What was parsed, and the state of the file that it was read from.
type Kept = (Stamp, Arc<dyn Any + Send + Sync>);

/// What was parsed of which file, by what it was parsed to. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct FileCache(Arc<Mutex<HashMap<(TypeId, PathBuf), Kept>>>);

impl FileCache {
    /// What `parse` makes of this file, which it is not asked again while the file stays as it is.
    ///
    /// # Errors
    ///
    /// The file cannot be read; within that, what `parse` says.
    pub(crate) fn get<T: Send + Sync + 'static, E>(
        &self,
        path: &Path,
        parse: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> io::Result<Result<Arc<T>, E>> {
        let key = (TypeId::of::<T>(), path.to_owned());
        let found = Stamp::new(&fs::metadata(path)?);
        if let Some((stamp, value)) = lock(&self.0).get(&key)
            && *stamp == found
            && let Ok(value) = value.clone().downcast()
        {
            return Ok(Ok(value));
        }
        let now = SystemTime::now();
        let mut file = File::open(path)?;
        let stamp = Stamp::of(&file)?;
        let mut content = Zeroizing::new(Vec::new());
        content.reserve(usize::try_from(stamp.size).unwrap_or_default() + 1);
        file.read_to_end(&mut content)?;
        let value = match parse(&content) {
            Ok(value) => Arc::new(value),
            Err(error) => return Ok(Err(error)),
        };
        if stamp.is_settled(now) && Stamp::of(&file)? == stamp {
            lock(&self.0).insert(key, (stamp, value.clone()));
        }
        Ok(Ok(value))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write;

    use super::*;
    use crate::base::atomic_file::{self, Access};
    use crate::base::wait;

    /// The text of the file, and whether it was parsed for this look.
    fn look(cache: &FileCache, path: &Path) -> (String, bool) {
        let mut is_parsed = false;
        let text = cache.get(path, |content| {
            is_parsed = true;
            Ok::<_, Infallible>(String::from_utf8_lossy(content).into_owned())
        });
        let Ok(text) = text.unwrap();
        (text.to_string(), is_parsed)
    }

    /// Looks until the file is old enough to be kept.
    fn settle(cache: &FileCache, path: &Path) {
        let kept = || (!look(cache, path).1).then_some(());
        assert!(wait::until(Duration::from_secs(60), Duration::from_millis(5), kept).is_some());
    }

    #[test]
    fn a_file_is_parsed_again_after_each_change_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let append = |text: &str| {
            let mut file = File::options().append(true).open(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        let changes: [(&str, &dyn Fn()); 4] = [
            ("two", &|| {
                atomic_file::write(&path, b"two", Access::PRIVATE).unwrap();
            }),
            ("two!", &|| append("!")),
            ("TWO!", &|| fs::write(&path, "TWO!").unwrap()),
            ("six!", &|| {
                // In place, with the time that it had.
                let time = fs::metadata(&path).unwrap().modified().unwrap();
                let file = File::options().write(true).open(&path).unwrap();
                (&file).write_all(b"six!").unwrap();
                file.set_modified(time).unwrap();
            }),
        ];
        let cache = FileCache::default();
        fs::write(&path, "one").unwrap();
        settle(&cache, &path);
        for (text, change) in changes {
            change();
            assert_eq!(look(&cache, &path), (text.to_owned(), true));
            settle(&cache, &path);
            assert_eq!(look(&cache, &path), (text.to_owned(), false));
        }
        fs::remove_file(&path).unwrap();
        let gone = cache.get(&path, |_| Ok::<_, Infallible>(String::new()));
        assert_eq!(gone.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn changes_within_one_tick_are_all_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let cache = FileCache::default();
        for number in 1000..3000 {
            fs::write(&path, number.to_string()).unwrap();
            assert_eq!(look(&cache, &path).0, number.to_string());
        }
    }

    #[test]
    fn what_cannot_be_parsed_is_parsed_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "1").unwrap();
        let cache = FileCache::default();
        settle(&cache, &path);
        for _ in 0..2 {
            let refused = cache.get(&path, |_| Err::<u64, _>("no"));
            assert_eq!(refused.unwrap(), Err("no"));
        }
    }
}
