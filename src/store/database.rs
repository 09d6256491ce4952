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
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{Durability, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::clock::Clock;
use crate::base::mutex::lock;
use crate::base::{atomic_file, panics, time_text, wait};
use crate::store::audit;

use backend::Backend;
use counter::Counter;
pub(crate) use error::{Fault, StoreError};

/// The version of what the tables hold.
const SCHEMA: u64 = 3;
/// The version before, which is carried over.
const EARLIER_SCHEMA: u64 = 2;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SCHEMA_KEY: &str = "schema";
/// How many changes there were.
const CHANGES_KEY: &str = "changes";

/// How much of the file is kept in memory.
const CACHE: usize = 1 << 20;
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

/// A change that is queued, and may be waited for.
pub(crate) struct Queued(mpsc::Receiver<Result<(), StoreError>>);

impl Queued {
    /// What came of it.
    pub(crate) fn wait(self) -> Result<(), StoreError> {
        self.0.recv().map_err(|_| StoreError::Interrupted)?
    }
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
        self.shared.epoch.load(Ordering::SeqCst)
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

    /// Reads; `work` may be called a second time.
    pub(crate) fn read<T>(
        &self,
        mut work: impl FnMut(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let mut is_first = true;
        let mut failed = None;
        loop {
            let epoch = self.epoch();
            let open = self.open(failed)?;
            let number = open.number;
            let attempt = || {
                let transaction = open.get()?.begin_read()?;
                work(&transaction)
            };
            let fault =
                match panics::caught(attempt).unwrap_or_else(|why| Err(Fault::Panicked(why))) {
                    Ok(value) => return Ok(value),
                    Err(fault) => fault,
                };
            drop(open);
            // After a failure the state in memory may not be the one on disk.
            self.open(Some(number))?;
            if !is_first || self.epoch() == epoch {
                return Err(fault.into_error(&self.shared.path));
            }
            is_first = false;
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
        self.queue(flush, work)?.wait()?;
        let value = lock(&value).take();
        value.ok_or(StoreError::Interrupted)
    }

    /// Writes after all that was queued before; when it fails, the [epoch](Database::epoch) is
    /// another one.
    pub(crate) fn queue(
        &self,
        flush: Flush,
        work: impl FnMut(&WriteTransaction) -> Result<(), Fault> + Send + 'static,
    ) -> Result<Queued, StoreError> {
        self.send(|told| Job::Write(Box::new(work), flush, told))
            .map(Queued)
    }

    /// Waits until all that was written or queued before is on disk.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.queue(Flush::Now, |_| Ok(()))?.wait()
    }

    /// The open database; not the one that `failed`.
    fn open(&self, failed: Option<u64>) -> Result<Arc<Open>, StoreError> {
        if let Some(open) = &*lock(&self.shared.open)
            && failed != Some(open.number)
        {
            return Ok(open.clone());
        }
        let answer = self.send(|told| Job::Open { failed, told })?;
        answer.recv().map_err(|_| StoreError::Interrupted)?
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
            self.shared.epoch.fetch_add(1, Ordering::SeqCst);
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
            let epoch = self.epoch();
            let open = self.open(failed)?;
            let changes = self.changes + 1;
            let attempt = || -> Result<(), Fault> {
                let mut transaction = open.get()?.begin_write()?;
                if flush == Flush::Soon {
                    transaction.set_durability(Durability::None)?;
                }
                for (work, ..) in jobs.iter_mut() {
                    work(&transaction)?;
                }
                transaction.open_table(META)?.insert(CHANGES_KEY, changes)?;
                Ok(transaction.commit()?)
            };
            let fault =
                match panics::caught(attempt).unwrap_or_else(|why| Err(Fault::Panicked(why))) {
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
            if failed.is_some() || self.epoch() == epoch {
                return Err(fault.into_error(&self.shared.path));
            }
            failed = Some(number);
        }
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::SeqCst)
    }

    fn open(&mut self, failed: Option<u64>) -> Result<Arc<Open>, StoreError> {
        if let Some(open) = &*lock(&self.shared.open)
            && failed != Some(open.number)
        {
            return Ok(open.clone());
        }
        self.close();
        if failed.is_some() && self.flush_by.take().is_some() {
            self.shared.epoch.fetch_add(1, Ordering::SeqCst);
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

    fn open_file(&mut self) -> Result<redb::Database, StoreError> {
        let path = self.shared.path.clone();
        let found = match std::fs::metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(),
            Err(error) => return Err(StoreError::file(&path, error)),
        };
        if !found.is_file() {
            return Err(self.damaged("it is not a file"));
        }
        // An empty file would be taken for a new database.
        if found.len() == 0 {
            return Err(self.damaged("it is empty"));
        }
        let opened = panics::caught(|| -> Result<_, StoreError> {
            let mut database = build(&path, false)?;
            // Whether it had to be put in order is of no interest: an older state is noticed below.
            database
                .check_integrity()
                .map_err(|error| error::of_opening(&path, error))?;
            let (schema, changes) =
                read_meta(&database).map_err(|fault| fault.into_error(&path))?;
            Ok((database, schema, changes))
        });
        let (database, schema, changes) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(StoreError::Record { why, .. } | StoreError::Failed { why, .. })) | Err(why) => {
                return Err(self.damaged(&why));
            }
            Ok(Err(error)) => return Err(error),
        };
        match schema {
            Some(SCHEMA) => {}
            Some(EARLIER_SCHEMA) => {
                self.maintain(&database, changes, |writer, transaction| {
                    (writer.carry_over)(transaction)?;
                    transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
                    Ok(())
                })?;
            }
            Some(found) if found > SCHEMA => {
                return Err(StoreError::Newer {
                    path,
                    found: found.to_string(),
                });
            }
            _ => return Err(self.damaged("it is not of this program's making")),
        }
        self.changes = changes;
        let newest = self.counter.read();
        if let Some(newest) = newest.filter(|newest| changes < *newest) {
            self.void_older_copy(&database, newest)?;
        }
        Ok(database)
    }

    /// Changes a database before anything else does, which is then the change of this number.
    fn maintain<T>(
        &self,
        database: &redb::Database,
        changes: u64,
        work: impl Fn(&Self, &WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let attempt = || -> Result<T, Fault> {
            let transaction = database.begin_write()?;
            let value = work(self, &transaction)?;
            transaction.open_table(META)?.insert(CHANGES_KEY, changes)?;
            transaction.commit()?;
            Ok(value)
        };
        panics::caught(attempt)
            .unwrap_or_else(|why| Err(Fault::Panicked(why)))
            .map_err(|fault| fault.into_error(&self.shared.path))
    }

    /// An older copy may hold tokens as valid that were used since.
    fn void_older_copy(
        &mut self,
        database: &redb::Database,
        newest: u64,
    ) -> Result<(), StoreError> {
        let changes = newest + 1;
        let voided = self.maintain(database, changes, |writer, transaction| {
            (writer.void_all)(transaction)
        })?;
        self.changes = changes;
        self.counter.write(changes);
        let path = self.shared.path.display();
        tracing::error!(
            "the token database `{path}` is an older copy: {voided} tokens in it are void, because they may have been used since"
        );
        audit::database("older-copy", &format!("{voided} tokens are void"));
        Ok(())
    }

    /// The damaged file is kept under another name, for examination.
    fn set_aside(&self, why: &str) -> Result<(), StoreError> {
        let path = &self.shared.path;
        let time = time_text::moment(self.clock.unix_seconds()).replace(['-', ':'], "");
        let name = |number: u32| match number {
            0 => path.with_extension(format!("redb.{SET_ASIDE}{time}")),
            _ => path.with_extension(format!("redb.{SET_ASIDE}{time}.{number}")),
        };
        let aside = (0..)
            .map(name)
            .find(|aside| std::fs::symlink_metadata(aside).is_err())
            .unwrap_or_else(|| name(0));
        atomic_file::rename(path, &aside).map_err(|source| StoreError::file(path, source))?;
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        let aside = aside.display();
        tracing::error!(
            "the token database `{}` is damaged ({why}); it was set aside as `{aside}`, and tokens that were issued before are unknown",
            path.display()
        );
        audit::database("database-damaged", &format!("set aside as {aside}"));
        Ok(())
    }

    /// A new database gets its name when it is complete.
    fn create(&mut self) -> Result<redb::Database, StoreError> {
        let path = &self.shared.path;
        let unfinished = path.with_extension("redb.new");
        let to_file = |source| StoreError::file(&unfinished, source);
        atomic_file::remove(&unfinished).map_err(to_file)?;
        let database = build(&unfinished, true)?;
        // It is newer than all copies of those that were here before.
        let changes = self.counter.read().map_or(1, |newest| newest + 1);
        let set_up = || -> Result<(), Fault> {
            let transaction = database.begin_write()?;
            {
                let mut meta = transaction.open_table(META)?;
                meta.insert(SCHEMA_KEY, SCHEMA)?;
                meta.insert(CHANGES_KEY, changes)?;
            }
            Ok(transaction.commit()?)
        };
        set_up().map_err(|fault| fault.into_error(&unfinished))?;
        atomic_file::rename(&unfinished, path).map_err(to_file)?;
        self.changes = changes;
        self.counter.write(changes);
        Ok(database)
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Damaged {
            path: self.shared.path.clone(),
            why: why.to_owned(),
        }
    }
}

fn build(path: &Path, is_new: bool) -> Result<redb::Database, StoreError> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(is_new)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|source| StoreError::file(path, source))?;
    let opened = FileBackend::new(file).and_then(|backend| {
        redb::Database::builder()
            .set_cache_size(CACHE)
            .create_with_backend(Backend::new(backend))
    });
    opened.map_err(|error| error::of_opening(path, error))
}

/// The version of what the tables hold, and how many changes there were.
fn read_meta(database: &redb::Database) -> Result<(Option<u64>, u64), Fault> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(META) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok((None, 0)),
        Err(error) => return Err(error.into()),
    };
    let read = |key| -> Result<Option<u64>, Fault> { Ok(table.get(key)?.map(|row| row.value())) };
    Ok((read(SCHEMA_KEY)?, read(CHANGES_KEY)?.unwrap_or_default()))
}

/// A value as a row of a table.
pub(crate) fn to_row<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A row as a value; what cannot be read is an error, not a missing row.
pub(crate) fn from_row<T: DeserializeOwned>(row: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(row).map_err(|error| Fault::Record(error.to_string()))
}
