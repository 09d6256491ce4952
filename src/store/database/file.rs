//! The file of the database: opened, made, set aside, and told from an older copy.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{ReadableDatabase, WriteTransaction};

use super::backend::Backend;
use super::error::{self, Fault, StoreError};
use super::{CHANGES_KEY, META, SET_ASIDE, Writer, attempt};
use crate::base::missing::none_if_missing;
use crate::base::{atomic_file, panics, time_text};
use crate::store::audit;

/// The version of what the tables hold.
pub(super) const SCHEMA: u64 = 3;
/// The version before, which is carried over.
pub(super) const EARLIER_SCHEMA: u64 = 2;
pub(super) const SCHEMA_KEY: &str = "schema";

/// How much of the file is kept in memory.
const CACHE: usize = 1 << 20;

impl Writer {
    pub(super) fn open_file(&mut self) -> Result<redb::Database, StoreError> {
        let path = self.shared.path.clone();
        let found = none_if_missing(fs::metadata(&path));
        let Some(found) = found.map_err(|error| StoreError::file(&path, error))? else {
            return self.create();
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
                change_first(&database, changes, |transaction| {
                    (self.carry_over)(transaction)?;
                    transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
                    Ok(())
                })
                .map_err(|fault| fault.into_error(&path))?;
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

    /// An older copy may hold tokens as valid that were used since.
    fn void_older_copy(
        &mut self,
        database: &redb::Database,
        newest: u64,
    ) -> Result<(), StoreError> {
        let changes = newest + 1;
        let path = &self.shared.path;
        let voided = change_first(database, changes, &self.void_all)
            .map_err(|fault| fault.into_error(path))?;
        self.changes = changes;
        self.counter.write(changes);
        let path = path.display();
        tracing::error!(
            "the token database `{path}` is an older copy: {voided} tokens in it are void, because they may have been used since"
        );
        audit::database("older-copy", &format!("{voided} tokens are void"));
        Ok(())
    }

    /// The damaged file is kept under another name, for examination.
    pub(super) fn set_aside(&self, why: &str) -> Result<(), StoreError> {
        let path = &self.shared.path;
        let time = time_text::moment(self.clock.unix_seconds()).replace(['-', ':'], "");
        let mut aside = path.with_extension(format!("redb.{SET_ASIDE}{time}"));
        let mut others = 0;
        while fs::symlink_metadata(&aside).is_ok() {
            others += 1;
            aside = path.with_extension(format!("redb.{SET_ASIDE}{time}.{others}"));
        }
        atomic_file::rename(path, &aside).map_err(|source| StoreError::file(path, source))?;
        self.shared.next_epoch();
        let aside = aside.display();
        tracing::error!(
            "the token database `{}` is damaged ({why}); it was set aside as `{aside}`, and tokens that were issued before are unknown",
            path.display()
        );
        audit::database("database-damaged", &format!("set aside as {aside}"));
        Ok(())
    }

    /// A new database gets its name when it is complete.
    pub(super) fn create(&mut self) -> Result<redb::Database, StoreError> {
        let path = &self.shared.path;
        let unfinished = path.with_extension("redb.new");
        let to_file = |source| StoreError::file(&unfinished, source);
        atomic_file::remove(&unfinished).map_err(to_file)?;
        let database = build(&unfinished, true)?;
        // It is newer than all copies of those that were here before.
        let changes = self.counter.read().map_or(1, |newest| newest + 1);
        change_first(&database, changes, |transaction| {
            transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
            Ok(())
        })
        .map_err(|fault| fault.into_error(&unfinished))?;
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

/// Changes a database before anything else does, which is then the change of this number.
fn change_first<T>(
    database: &redb::Database,
    changes: u64,
    work: impl Fn(&WriteTransaction) -> Result<T, Fault>,
) -> Result<T, Fault> {
    attempt(|| {
        let transaction = database.begin_write()?;
        let value = work(&transaction)?;
        transaction.open_table(META)?.insert(CHANGES_KEY, changes)?;
        transaction.commit()?;
        Ok(value)
    })
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
