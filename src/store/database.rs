//! The database file of this node.
//!
//! One thread writes: what comes while it writes shares the next transaction, and so one flush to
//! the disk. When that fails each change is tried on its own, so that one that cannot be done fails
//! for its caller alone. A database that fails is closed, and opened anew for the next one who needs
//! it, so that a full disk takes no restart.
//!
//! A commit is one flush, and is undone where that fails ([`backend`]). The library's commits with two
//! flushes, and its quick repair, which needs them, would save reading the whole file after a crash;
//! that is read each time that it is opened anyway.
//! A change may also wait for the next flush ([`Flush::Soon`]): until then it can be read, and the
//! end of the process loses it.
//!
//! A file that is damaged is set aside under a name with the time, and an empty database takes its
//! place: every checksum is compared when the file is opened, and it is opened anew after each
//! failure that damage may have brought about, a panic of the library among them. An older copy of
//! the file is told by its `Counter`.

mod backend;
mod counter;
mod error;
mod file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::{
    Durability, Key, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError, Value,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::clock::Clock;
use crate::base::mutex::lock;
use crate::base::{panics, wait};

use counter::Counter;
pub(crate) use error::{Fault, StoreError};

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// How many changes there were.
const CHANGES_KEY: &str = "changes";

/// How long those who read may take until a database is closed.
const CLOSES: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);
/// For how long a change may wait for a flush.
const FLUSH_DELAY: Duration = Duration::from_secs(1);

/// What stands behind the file's name when it is set aside, before the time.
const SET_ASIDE: &str = "damaged-";

type Work = Box<dyn FnMut(&WriteTransaction) -> Result<(), Fault> + Send>;
type Told<T> = mpsc::Sender<Result<T, StoreError>>;

/// Makes what an older copy holds void, and says how many tokens that were.
pub(crate) type VoidAll = Box<dyn Fn(&WriteTransaction) -> Result<usize, Fault> + Send>;

/// Makes this version's tables of those of the version before.
pub(crate) type CarryOver = Box<dyn Fn(&WriteTransaction) -> Result<(), Fault> + Send>;

/// When a change is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flush {
    /// With the next one that is flushed at once, and within a second. It is lost where the process
    /// is killed before, so it must end a right that was on the disk before, or say again what a
    /// record says as well.
    Soon,
    /// Before its caller goes on.
    Now,
}

/// What the writer is asked for.
enum Job {
    Write(Work, Flush, Told<()>),
    /// The open database: another one than that which failed, if one did.
    Open {
        failed: Option<u64>,
        told: Told<Arc<Open>>,
    },
}

/// A database that is open.
struct Open {
    /// Which one, of those that were opened so far.
    number: u64,
    database: Option<redb::Database>,
}

impl Open {
    fn get(&self) -> Result<&redb::Database, Fault> {
        self.database
            .as_ref()
            .ok_or_else(|| Fault::Panicked("it is closed".to_owned()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let database = self.database.take();
        // What a panic left behind may panic once more.
        let _ = panics::caught(|| drop(database));
    }
}

/// What those who read and the writer share.
struct Shared {
    path: PathBuf,
    open: Mutex<Option<Arc<Open>>>,
    /// How often what was read, or written, has turned out not to be so.
    epoch: AtomicU64,
}

impl Shared {
    /// The open database; not the one that `failed`.
    fn opened(&self, failed: Option<u64>) -> Option<Arc<Open>> {
        let open = lock(&self.open);
        open.clone().filter(|open| failed != Some(open.number))
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

/// The database.
pub(crate) struct Database {
    shared: Arc<Shared>,
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl Database {
    /// The database in this file, with the file of its counter. It is opened, and made when it is
    /// not there, when it is needed first.
    pub(crate) fn new(
        path: PathBuf,
        counter: PathBuf,
        clock: Arc<dyn Clock>,
        void_all: VoidAll,
        carry_over: CarryOver,
    ) -> Self {
        let shared = Arc::new(Shared {
            path,
            open: Mutex::default(),
            epoch: AtomicU64::new(0),
        });
        let (jobs, received) = mpsc::channel();
        let mut writer = Writer {
            shared: shared.clone(),
            counter: Counter::new(counter),
            clock,
            void_all,
            carry_over,
            opened: 0,
            changes: 0,
            flush_by: None,
        };
        let thread = thread::Builder::new()
            .name("tokens".to_owned())
            .spawn(move || writer.run(&received));
        if let Err(error) = &thread {
            tracing::error!(%error, "the token database has no thread to write it");
        }
        Self {
            shared,
            jobs: Some(jobs),
            writer: thread.ok(),
        }
    }

    /// Counts how often what was read or queued before is no longer so: a damaged file was set aside,
    /// a change failed, or one was lost before it was flushed.
    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch()
    }

    /// The damaged files beside this one, with the time at which each was set aside.
    pub(crate) fn damaged_files(&self) -> Vec<(PathBuf, String)> {
        let path = &self.shared.path;
        let beginning = path
            .file_name()
            .map(|name| format!("{}.{SET_ASIDE}", name.to_string_lossy()))
            .unwrap_or_default();
        let entries = path.parent().and_then(|folder| folder.read_dir().ok());
        let mut found: Vec<_> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let time = name.strip_prefix(&beginning)?.to_owned();
                Some((entry.path(), time))
            })
            .collect();
        found.sort();
        found
    }

    /// Reads a table; one that was never written to holds nothing. `work` may be called a second time.
    pub(crate) fn read<K: Key + 'static, V: Value + 'static, T: Default>(
        &self,
        table: TableDefinition<'_, K, V>,
        mut work: impl FnMut(&ReadOnlyTable<K, V>) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let mut read = |open: &Open| match open.get()?.begin_read()?.open_table(table) {
            Ok(table) => work(&table),
            Err(TableError::TableDoesNotExist(_)) => Ok(T::default()),
            Err(error) => Err(error.into()),
        };
        let mut failed = None;
        loop {
            let epoch = self.epoch();
            let open = self.open(failed)?;
            let number = open.number;
            let fault = match attempt(|| read(&open)) {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            drop(open);
            // After a failure the state in memory may not be the one on disk.
            self.open(Some(number))?;
            if failed.is_some() || self.epoch() == epoch {
                return Err(fault.into_error(&self.shared.path));
            }
            failed = Some(number);
        }
    }

    /// Writes; what was written can be read when this returns, and with [`Flush::Now`] it is on
    /// disk. On an error nothing was. `work` may be called again when a transaction fails.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        flush: Flush,
        mut work: impl FnMut(&WriteTransaction) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let value = Arc::new(Mutex::new(None));
        let kept = value.clone();
        let work = move |transaction: &WriteTransaction| {
            *lock(&kept) = Some(work(transaction)?);
            Ok(())
        };
        wait_for(self.send(|told| Job::Write(Box::new(work), flush, told))?)?;
        let value = lock(&value).take();
        value.ok_or(StoreError::Interrupted)
    }

    /// Writes after all that was queued before; when it fails, the [epoch](Database::epoch) is
    /// another one.
    pub(crate) fn queue(
        &self,
        flush: Flush,
        work: impl FnMut(&WriteTransaction) -> Result<(), Fault> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.send(|told| Job::Write(Box::new(work), flush, told))
            .map(drop)
    }

    /// Waits until all that was written or queued before is on disk.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.write(Flush::Now, |_| Ok(()))
    }

    /// The open database; not the one that `failed`.
    fn open(&self, failed: Option<u64>) -> Result<Arc<Open>, StoreError> {
        match self.shared.opened(failed) {
            Some(open) => Ok(open),
            None => wait_for(self.send(|told| Job::Open { failed, told })?),
        }
    }

    fn send<T>(
        &self,
        job: impl FnOnce(Told<T>) -> Job,
    ) -> Result<mpsc::Receiver<Result<T, StoreError>>, StoreError> {
        let (told, answer) = mpsc::channel();
        let jobs = self.jobs.as_ref().ok_or(StoreError::Interrupted)?;
        jobs.send(job(told)).map_err(|_| StoreError::Interrupted)?;
        Ok(answer)
    }
}

/// The file is free for others when this returns.
impl Drop for Database {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// The one that opens the database and writes to it.
struct Writer {
    shared: Arc<Shared>,
    counter: Counter,
    clock: Arc<dyn Clock>,
    void_all: VoidAll,
    carry_over: CarryOver,
    /// How many were opened.
    opened: u64,
    /// How many changes the open one has had.
    changes: u64,
    /// By when what waits for a flush is to be flushed; nothing waits otherwise.
    flush_by: Option<Instant>,
}

impl Writer {
    fn run(&mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let first = match self.flush_by {
                None => jobs.recv().map_err(mpsc::RecvTimeoutError::from),
                Some(by) => jobs.recv_timeout(by.saturating_duration_since(Instant::now())),
            };
            if matches!(first, Err(mpsc::RecvTimeoutError::Disconnected)) {
                break;
            }
            let mut writes = Vec::new();
            for job in first.into_iter().chain(jobs.try_iter()) {
                match job {
                    Job::Write(work, flush, told) => writes.push((work, flush, told)),
                    Job::Open { failed, told } => {
                        // The caller may be gone.
                        let _ = told.send(self.open(failed));
                    }
                }
            }
            self.write_all(writes);
        }
        self.close();
    }

    /// Does what came together in one transaction, and each on its own when that fails.
    fn write_all(&mut self, mut jobs: Vec<(Work, Flush, Told<()>)>) {
        let is_late = self.flush_by.is_some_and(|by| by <= Instant::now());
        if jobs.is_empty() && !is_late {
            return;
        }
        let least = if is_late { Flush::Now } else { Flush::Soon };
        let together = self.write(&mut jobs, least);
        if let Err(error) = &together {
            self.shared.next_epoch();
            tracing::debug!(%error, "a change of the token database failed");
        }
        let is_of_one = matches!(
            together,
            Err(StoreError::Record { .. } | StoreError::Failed { .. })
        );
        for at in 0..jobs.len() {
            let outcome = if is_of_one && jobs.len() > 1 {
                self.write(&mut jobs[at..=at], least)
            } else {
                together.clone()
            };
            // The caller may not wait for it.
            let _ = jobs[at].2.send(outcome);
        }
    }

    /// Does these in one transaction, and once more when the file turns out to be damaged.
    fn write(
        &mut self,
        jobs: &mut [(Work, Flush, Told<()>)],
        least: Flush,
    ) -> Result<(), StoreError> {
        let flush = jobs.iter().map(|job| job.1).fold(least, Flush::max);
        let mut failed = None;
        loop {
            let epoch = self.shared.epoch();
            let open = self.open(failed)?;
            let changes = self.changes + 1;
            let written = attempt(|| {
                let mut transaction = open.get()?.begin_write()?;
                if flush == Flush::Soon {
                    transaction.set_durability(Durability::None)?;
                }
                for (work, ..) in jobs.iter_mut() {
                    work(&transaction)?;
                }
                transaction.open_table(META)?.insert(CHANGES_KEY, changes)?;
                Ok(transaction.commit()?)
            });
            let fault = match written {
                Ok(()) => {
                    self.changes = changes;
                    if flush == Flush::Soon {
                        let by = || Instant::now() + FLUSH_DELAY;
                        self.flush_by.get_or_insert_with(by);
                    } else {
                        self.flush_by = None;
                        // Of what a crash may take back nothing is counted.
                        self.counter.write(changes);
                    }
                    return Ok(());
                }
                Err(fault) => fault,
            };
            let number = open.number;
            drop(open);
            self.open(Some(number))?;
            if failed.is_some() || self.shared.epoch() == epoch {
                return Err(fault.into_error(&self.shared.path));
            }
            failed = Some(number);
        }
    }

    fn open(&mut self, failed: Option<u64>) -> Result<Arc<Open>, StoreError> {
        if let Some(open) = self.shared.opened(failed) {
            return Ok(open);
        }
        self.close();
        if failed.is_some() && self.flush_by.take().is_some() {
            self.shared.next_epoch();
            tracing::error!(
                "what was written to the token database within the last second may be lost: a certificate that was signed may be signed once more for its node"
            );
        }
        let database = match self.open_file() {
            Err(StoreError::Damaged { why, .. }) => {
                self.set_aside(&why)?;
                self.create()?
            }
            opened => opened?,
        };
        self.opened += 1;
        let open = Arc::new(Open {
            number: self.opened,
            database: Some(database),
        });
        *lock(&self.shared.open) = Some(open.clone());
        Ok(open)
    }

    fn close(&self) {
        let Some(mut open) = lock(&self.shared.open).take() else {
            return;
        };
        // Those who read have it until they have read.
        wait::until(CLOSES, PAUSE, || Arc::get_mut(&mut open).map(|_| ()));
    }
}

/// Does something with the library; a panic of it is a fault.
fn attempt<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    panics::caught(work).unwrap_or_else(|why| Err(Fault::Panicked(why)))
}

/// What the writer says.
fn wait_for<T>(told: mpsc::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    told.recv().map_err(|_| StoreError::Interrupted)?
}

/// A value as a row of a table.
pub(crate) fn to_row<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A row as a value; what cannot be read is an error, not a missing row.
pub(crate) fn from_row<T: DeserializeOwned>(row: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(row).map_err(|error| Fault::Record(error.to_string()))
}
