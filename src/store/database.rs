//! The database file of this node.
//!
//! Writers that come together share one transaction, and so one flush to the disk: the first of
//! them does the work of all who came meanwhile. A database that fails is closed, and opened anew
//! by the next one who needs it, so that a full disk or a file that was repaired takes no restart.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use redb::backends::FileBackend;
use redb::{DatabaseError, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::atomic_file;

/// The version of what the tables hold.
const SCHEMA: u64 = 2;
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const SCHEMA_KEY: &str = "schema";

/// How much of the file is kept in memory.
const CACHE: usize = 4 << 20;

/// The database, or a file of MicroK8s's, cannot be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database.
    #[error("cannot use the token database `{}`: {source}", path.display())]
    Database {
        /// Where it is.
        path: PathBuf,
        /// What it says.
        #[source]
        source: Arc<redb::Error>,
    },
    /// Somebody else has it, and keeps it.
    #[error(
        "the token database `{}` is in use by another process: wait until that has ended, or restart an agent whose socket is gone", path.display()
    )]
    InUse {
        /// Where it is.
        path: PathBuf,
    },
    /// The file is no database any more.
    #[error(
        "the token database `{}` is damaged ({why}): bring it back from a copy, or move it away, which forgets the tokens in it", path.display()
    )]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file was written by a later version.
    #[error(
        "the token database `{}` was written by a newer version of this program (its format is {found}, this program knows {SCHEMA}): use that version", path.display()
    )]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// The version that it has.
        found: String,
    },
    /// A file.
    #[error("cannot use `{}`: {source}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Whoever should have written this with the others failed.
    #[error("the token database was given up in the midst of a change")]
    Interrupted,
}

impl StoreError {
    /// A file that cannot be used.
    pub fn file(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File {
            path: path.into(),
            source: Arc::new(source),
        }
    }
}

type Work = Box<dyn FnOnce(&WriteTransaction) -> Result<(), redb::Error> + Send>;

/// What one writer wants done, and where it hears what comes of it.
struct Job {
    work: Work,
    turn: mpsc::Sender<Turn>,
}

/// What a writer who waits is told.
enum Turn {
    /// The transaction has ended.
    Ended(Result<(), StoreError>),
    /// It is on him to do the jobs of all who wait by now, his own among them.
    Lead,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    has_leader: bool,
}

/// The database.
pub struct Database {
    path: PathBuf,
    open: Mutex<Option<Arc<redb::Database>>>,
    queue: Mutex<Queue>,
}

impl Database {
    /// The database in this file. It is opened, and made when it is not there, by whoever needs it
    /// first.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            open: Mutex::default(),
            queue: Mutex::default(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads.
    pub fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.handle()?;
        database
            .begin_read()
            .map_err(redb::Error::from)
            .and_then(|transaction| work(&transaction))
            .map_err(|error| self.give_up(&database, error))
    }

    /// Writes; what was written is on disk when this returns. On an error nothing was.
    pub fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (turn, turns) = mpsc::channel();
        let (value, kept) = mpsc::channel();
        let job = Job {
            work: Box::new(move |transaction| {
                // Nobody waits for it any more only when the program ends.
                let _ = value.send(work(transaction)?);
                Ok(())
            }),
            turn,
        };
        let leads = {
            let mut queue = lock(&self.queue);
            queue.jobs.push(job);
            !std::mem::replace(&mut queue.has_leader, true)
        };
        if leads {
            self.lead();
        }
        loop {
            match turns.recv().map_err(|_| StoreError::Interrupted)? {
                Turn::Ended(result) => break result?,
                Turn::Lead => self.lead(),
            }
        }
        kept.recv().map_err(|_| StoreError::Interrupted)
    }

    /// Does the jobs of all who wait, and hands the lead to the first of those who came meanwhile.
    fn lead(&self) {
        let mut leadership = Leadership {
            queue: &self.queue,
            is_handed_back: false,
        };
        let jobs = std::mem::take(&mut lock(&self.queue).jobs);
        let (works, waiting): (Vec<_>, Vec<_>) =
            jobs.into_iter().map(|job| (job.work, job.turn)).unzip();
        let result = self.commit(works);
        for turn in waiting {
            // Whoever waits is there until he is told.
            let _ = turn.send(Turn::Ended(result.clone()));
        }
        let mut queue = lock(&self.queue);
        queue.has_leader = match queue.jobs.first() {
            Some(next) => next.turn.send(Turn::Lead).is_ok(),
            None => false,
        };
        leadership.is_handed_back = true;
    }

    fn commit(&self, works: Vec<Work>) -> Result<(), StoreError> {
        let database = self.handle()?;
        let write = || -> Result<(), redb::Error> {
            let transaction = begin_write(&database)?;
            for work in works {
                work(&transaction)?;
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| self.give_up(&database, error))
    }

    /// After a failure the state in memory may not be the one on disk: the next one reads it anew.
    fn give_up(&self, database: &Arc<redb::Database>, source: redb::Error) -> StoreError {
        lock(&self.open).take_if(|open| Arc::ptr_eq(open, database));
        StoreError::Database {
            path: self.path.clone(),
            source: Arc::new(source),
        }
    }

    fn handle(&self) -> Result<Arc<redb::Database>, StoreError> {
        let mut open = lock(&self.open);
        if let Some(database) = &*open {
            return Ok(database.clone());
        }
        let database = Arc::new(self.open_file()?);
        *open = Some(database.clone());
        Ok(database)
    }

    fn open_file(&self) -> Result<redb::Database, StoreError> {
        let length = match std::fs::metadata(&self.path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(),
            Err(error) => return Err(StoreError::file(&self.path, error)),
        };
        // An empty file would be taken for a new database.
        if length == 0 {
            return Err(self.damaged("it is empty"));
        }
        let database = self.build(&self.path)?;
        self.check_schema(&database)?;
        Ok(database)
    }

    /// A new database gets its name when it is complete.
    fn create(&self) -> Result<redb::Database, StoreError> {
        let unfinished = self.path.with_extension("redb.new");
        let to_file = |source| StoreError::file(&unfinished, source);
        atomic_file::remove(&unfinished).map_err(to_file)?;
        let database = self.build(&unfinished)?;
        let set_up = || -> Result<(), redb::Error> {
            let transaction = begin_write(&database)?;
            transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
            Ok(transaction.commit()?)
        };
        set_up().map_err(|source| StoreError::Database {
            path: unfinished.clone(),
            source: Arc::new(source),
        })?;
        atomic_file::rename(&unfinished, &self.path).map_err(to_file)?;
        Ok(database)
    }

    fn build(&self, path: &Path) -> Result<redb::Database, StoreError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(path != self.path)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::file(path, source))?;
        let opened = FileBackend::new(file).and_then(|backend| {
            redb::Database::builder()
                .set_cache_size(CACHE)
                .create_with_backend(backend)
        });
        opened.map_err(|error| match error {
            DatabaseError::UpgradeRequired(found) => StoreError::Newer {
                path: self.path.clone(),
                found: format!("file version {found}"),
            },
            DatabaseError::Storage(redb::StorageError::Corrupted(why)) => self.damaged(&why),
            DatabaseError::Storage(redb::StorageError::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                ) =>
            {
                self.damaged(&error.to_string())
            }
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse {
                path: self.path.clone(),
            },
            other => StoreError::Database {
                path: self.path.clone(),
                source: Arc::new(other.into()),
            },
        })
    }

    fn check_schema(&self, database: &redb::Database) -> Result<(), StoreError> {
        let read = || -> Result<Option<u64>, redb::Error> {
            let transaction = database.begin_read()?;
            let table = match transaction.open_table(META) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            Ok(table.get(SCHEMA_KEY)?.map(|version| version.value()))
        };
        match read() {
            Ok(Some(SCHEMA)) => Ok(()),
            Ok(Some(found)) if found > SCHEMA => Err(StoreError::Newer {
                path: self.path.clone(),
                found: found.to_string(),
            }),
            Ok(_) => Err(self.damaged("it is not of this program's making")),
            Err(error) => Err(StoreError::Database {
                path: self.path.clone(),
                source: Arc::new(error),
            }),
        }
    }

    fn damaged(&self, why: &str) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            why: why.to_owned(),
        }
    }
}

/// Quick repair: after a crash the agent of a node with many tokens is back at once.
fn begin_write(database: &redb::Database) -> Result<WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Whoever panics while it does the work of others leaves the lead, and them without an answer,
/// which they notice.
struct Leadership<'a> {
    queue: &'a Mutex<Queue>,
    is_handed_back: bool,
}

impl Drop for Leadership<'_> {
    fn drop(&mut self) {
        if !self.is_handed_back {
            let mut queue = lock(self.queue);
            queue.has_leader = false;
            queue.jobs.clear();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value as a row of a table.
pub fn to_row<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// A row as a value; what cannot be read is an error, not a missing row.
pub fn from_row<T: DeserializeOwned>(row: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(row)
        .map_err(|error| redb::Error::Corrupted(format!("a record cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use redb::ReadableTable;

    use super::*;
    use crate::base::wait;

    const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

    fn database() -> (tempfile::TempDir, Database) {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::new(dir.path().join("test.redb"));
        (dir, database)
    }

    fn put(database: &Database, key: u64) -> Result<(), StoreError> {
        database.write(move |transaction| {
            transaction.open_table(TABLE)?.insert(key, key)?;
            Ok(())
        })
    }

    fn count(database: &Database) -> Result<usize, StoreError> {
        database.read(|transaction| Ok(transaction.open_table(TABLE)?.iter()?.count()))
    }

    fn set_schema(database: &Database, version: u64) {
        let set = move |transaction: &WriteTransaction| {
            transaction.open_table(META)?.insert(SCHEMA_KEY, version)?;
            Ok(())
        };
        database.write(set).unwrap();
    }

    #[test]
    fn a_database_that_somebody_else_has_is_said_to_be_in_use() {
        let (_dir, first) = database();
        put(&first, 1).unwrap();
        let second = Database::new(first.path().to_owned());
        let refused = count(&second);
        assert!(
            matches!(refused, Err(StoreError::InUse { .. })),
            "{refused:?}"
        );
        drop(first);
        assert_eq!(count(&second).unwrap(), 1);
    }

    #[test]
    fn writers_that_come_together_share_a_transaction() {
        let (_dir, database) = database();
        put(&database, 99).unwrap();
        let database = Arc::new(database);
        let (go, wait_for) = mpsc::channel::<()>();
        let seen: Vec<usize> = thread::scope(|scope| {
            // The first one is in its transaction until all the others wait.
            let first = &database;
            scope.spawn(move || {
                first.write(move |_| {
                    let _ = wait_for.recv();
                    Ok(())
                })
            });
            let is_leading = || lock(&database.queue).has_leader.then_some(());
            wait::until(
                Duration::from_secs(30),
                Duration::from_millis(1),
                is_leading,
            )
            .unwrap();
            let others: Vec<_> = (0..20)
                .map(|key| {
                    let (database, reader) = (&database, database.clone());
                    scope.spawn(move || {
                        let work = move |transaction: &WriteTransaction| {
                            transaction.open_table(TABLE)?.insert(key, key)?;
                            Ok(count(&reader).unwrap_or_default())
                        };
                        database.write(work).unwrap()
                    })
                })
                .collect();
            let all_wait = || (lock(&database.queue).jobs.len() == 20).then_some(());
            wait::until(Duration::from_secs(30), Duration::from_millis(1), all_wait).unwrap();
            go.send(()).unwrap();
            others
                .into_iter()
                .map(|other| other.join().unwrap())
                .collect()
        });
        assert_eq!(count(&database).unwrap(), 21);
        // Nobody's change was there for others to read before the last one was made.
        assert_eq!(seen, [1; 20]);
    }

    #[test]
    fn one_that_fails_writes_nothing_and_the_next_one_does() {
        let (_dir, database) = database();
        put(&database, 1).unwrap();
        let failed: Result<(), StoreError> = database.write(|transaction| {
            transaction.open_table(TABLE)?.insert(2, 2)?;
            Err(redb::Error::Io(io::Error::other("the disk is gone")))
        });
        let error = failed.unwrap_err().to_string();
        assert!(error.contains("test.redb") && error.contains("the disk is gone"));
        assert_eq!(count(&database).unwrap(), 1);
        put(&database, 2).unwrap();
        assert_eq!(count(&database).unwrap(), 2);
    }

    #[test]
    fn one_that_panics_leaves_nobody_waiting() {
        let (_dir, database) = database();
        let panics = thread::scope(|scope| {
            let one = scope.spawn(|| database.write(|_| -> Result<(), redb::Error> { panic!() }));
            one.join().is_err()
        });
        assert!(panics);
        put(&database, 1).unwrap();
    }

    #[test]
    fn a_database_of_another_version_is_left_alone() {
        for (version, complaint) in [(SCHEMA + 1, "newer version"), (SCHEMA - 1, "is damaged")] {
            let (_dir, database) = database();
            put(&database, 1).unwrap();
            set_schema(&database, version);
            let again = Database::new(database.path().to_owned());
            drop(database);
            let error = put(&again, 2).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn a_new_database_has_its_name_when_it_is_complete() {
        let (dir, database) = database();
        let unfinished = dir.path().join("test.redb.new");
        std::fs::write(&unfinished, "what a crash left").unwrap();
        put(&database, 1).unwrap();
        assert!(!unfinished.exists() && database.path().exists());
        let mode =
            std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(database.path()).unwrap());
        assert_eq!(mode & 0o7777, 0o600);
    }
}
