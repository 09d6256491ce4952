//! The database in real files, whole and damaged.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::AtomicBool;

use redb::{ReadableTable, ReadableTableMetadata};

use super::file::{EARLIER_SCHEMA, SCHEMA, SCHEMA_KEY};
use super::*;
use crate::base::clock::ManualClock;

const TABLE: TableDefinition<'_, u64, u64> = TableDefinition::new("numbers");

struct Fixture {
    dir: tempfile::TempDir,
    voided: Arc<AtomicBool>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            voided: Arc::default(),
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("test.redb")
    }

    fn open(&self) -> Database {
        let voided = self.voided.clone();
        let void_all = move |transaction: &WriteTransaction| {
            voided.store(true, Ordering::SeqCst);
            let mut table = transaction.open_table(TABLE)?;
            table.retain(|_, _| false)?;
            Ok(1)
        };
        Database::new(
            self.path(),
            self.dir.path().join("counter"),
            Arc::new(ManualClock::at(1_800_000_000)),
            Box::new(void_all),
            Box::new(|_| Ok(())),
        )
    }

    fn is_voided(&self) -> bool {
        self.voided.load(Ordering::SeqCst)
    }
}

fn put(database: &Database, key: u64) -> Result<(), StoreError> {
    database.write(Flush::Now, move |transaction| {
        transaction.open_table(TABLE)?.insert(key, key)?;
        Ok(())
    })
}

fn count(database: &Database) -> Result<u64, StoreError> {
    database.read(TABLE, |table| Ok(table.len()?))
}

#[test]
fn a_database_that_another_process_has_open_is_said_to_be_in_use() {
    let f = Fixture::new();
    let first = f.open();
    put(&first, 1).unwrap();
    let second = f.open();
    let refused = count(&second);
    assert!(
        matches!(refused, Err(StoreError::InUse { .. })),
        "{refused:?}"
    );
    drop(first);
    assert_eq!(count(&second).unwrap(), 1);
}

#[test]
fn writers_that_come_together_share_a_transaction_and_one_that_fails_fails_alone() {
    let f = Fixture::new();
    let database = f.open();
    put(&database, 99).unwrap();
    let (started, has_started) = mpsc::channel();
    let (go, wait_for) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let database = &database;
        // The first one is in its transaction until all the others wait.
        scope.spawn(move || {
            database.write(Flush::Now, move |_| {
                started.send(()).unwrap();
                let _ = wait_for.recv();
                Ok(())
            })
        });
        has_started.recv().unwrap();
        let jobs = database.jobs.as_ref().unwrap();
        let answers: Vec<_> = (0..20_u64)
            .map(|key| {
                let (told, answer) = mpsc::channel();
                let work = move |transaction: &WriteTransaction| match key {
                    7 => Err(Fault::Record("it is not JSON".to_owned())),
                    8 => panic!("at the wrong moment"),
                    _ => {
                        transaction.open_table(TABLE)?.insert(key, key)?;
                        Ok(())
                    }
                };
                jobs.send(Job::Write(Box::new(work), Flush::Now, told))
                    .unwrap();
                answer
            })
            .collect();
        go.send(()).unwrap();
        for (key, answer) in answers.iter().enumerate() {
            let outcome = answer.recv().unwrap();
            match key {
                7 => assert!(
                    matches!(outcome, Err(StoreError::Record { .. })),
                    "{outcome:?}"
                ),
                8 => assert!(
                    matches!(outcome, Err(StoreError::Failed { .. })),
                    "{outcome:?}"
                ),
                _ => outcome.unwrap(),
            }
        }
    });
    assert_eq!(count(&database).unwrap(), 19);
    assert_eq!(database.damaged_files(), [], "the file is whole");
}

#[test]
fn what_waits_for_a_flush_can_be_read_and_a_kill_before_takes_back_that_alone() {
    let (f, killed) = (Fixture::new(), Fixture::new());
    // What a process that is killed now leaves behind.
    let kill = || {
        for name in ["counter", "test.redb"] {
            std::fs::copy(f.dir.path().join(name), killed.dir.path().join(name)).unwrap();
        }
        killed.open()
    };
    let put_soon = |database: &Database, key: u64| {
        let put = move |transaction: &WriteTransaction| {
            transaction.open_table(TABLE)?.insert(key, key)?;
            Ok(())
        };
        database.write(Flush::Soon, put).unwrap();
    };
    let database = f.open();
    put(&database, 1).unwrap();
    for key in 2..50 {
        put_soon(&database, key);
        assert_eq!(count(&database).unwrap(), key);
        let left = count(&kill()).unwrap();
        // It is flushed within a second, in which this loop may take longer.
        assert!((1..=key).contains(&left), "{left} of {key}");
    }
    database.flush().unwrap();
    assert_eq!(count(&kill()).unwrap(), 49);
    put_soon(&database, 50);
    put(&database, 51).unwrap();
    assert_eq!(count(&kill()).unwrap(), 51);

    put_soon(&database, 52);
    let flushed = || (count(&kill()).unwrap() == 52).then_some(());
    assert!(wait::until(Duration::from_secs(60), PAUSE, flushed).is_some());
    put_soon(&database, 53);
    drop(database);
    assert_eq!(count(&f.open()).unwrap(), 53);
    assert!(!f.is_voided() && !killed.is_voided());
}

#[test]
fn a_queued_change_that_fails_is_told_by_the_epoch_and_fails_alone() {
    let f = Fixture::new();
    let database = f.open();
    put(&database, 1).unwrap();
    let epoch = database.epoch();
    let queued = database.queue(Flush::Soon, |_| Err(Fault::Record("no JSON".to_owned())));
    queued.unwrap();
    put(&database, 2).unwrap();
    assert_ne!(database.epoch(), epoch);
    assert_eq!(count(&database).unwrap(), 2);
}

#[test]
fn one_that_fails_writes_nothing_and_the_next_one_does() {
    let f = Fixture::new();
    let database = f.open();
    put(&database, 1).unwrap();
    let failed: Result<(), StoreError> = database.write(Flush::Now, |transaction| {
        transaction.open_table(TABLE)?.insert(2, 2)?;
        Err(redb::Error::Io(io::Error::other("the disk is gone")).into())
    });
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("test.redb") && error.contains("the disk is gone"));
    assert_eq!(count(&database).unwrap(), 1);
    put(&database, 2).unwrap();
    assert_eq!(count(&database).unwrap(), 2);
    assert_eq!(database.damaged_files(), []);
}

#[test]
fn a_database_of_a_newer_version_is_left_alone_and_an_unknown_one_is_set_aside() {
    for (version, is_newer) in [(SCHEMA + 1, true), (EARLIER_SCHEMA - 1, false)] {
        let f = Fixture::new();
        let database = f.open();
        put(&database, 1).unwrap();
        database
            .write(Flush::Now, move |transaction| {
                transaction.open_table(META)?.insert(SCHEMA_KEY, version)?;
                Ok(())
            })
            .unwrap();
        drop(database);
        let again = f.open();
        let outcome = count(&again);
        assert_eq!(matches!(outcome, Err(StoreError::Newer { .. })), is_newer);
        assert_eq!(again.damaged_files().is_empty(), is_newer);
    }
}

#[test]
fn a_new_database_has_its_name_when_it_is_complete() {
    let f = Fixture::new();
    let unfinished = f.dir.path().join("test.redb.new");
    std::fs::write(&unfinished, "what a crash left").unwrap();
    put(&f.open(), 1).unwrap();
    assert!(!unfinished.exists() && f.path().exists());
    assert_eq!(std::fs::metadata(f.path()).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn an_older_copy_is_noticed_and_a_crash_between_the_two_writes_is_none() {
    let f = Fixture::new();
    let copy = f.dir.path().join("copy");
    put(&f.open(), 1).unwrap();
    std::fs::copy(f.path(), &copy).unwrap();
    let counter = std::fs::read(f.dir.path().join("counter")).unwrap();
    put(&f.open(), 2).unwrap();
    // The counter was not written after the last change.
    std::fs::write(f.dir.path().join("counter"), counter).unwrap();
    assert_eq!(count(&f.open()).unwrap(), 2);
    // Nor at all, or no more than a part of it.
    for content in [&b""[..], b"00000", b"ffffffffffffffff 0123456789abcdef\n"] {
        std::fs::write(f.dir.path().join("counter"), content).unwrap();
        assert_eq!(count(&f.open()).unwrap(), 2);
    }
    put(&f.open(), 3).unwrap();
    assert!(!f.is_voided());
    std::fs::copy(&copy, f.path()).unwrap();
    assert_eq!(count(&f.open()).unwrap(), 0);
    assert!(f.is_voided());
    // From then on it is the newest; the one that it replaced is older.
    put(&f.open(), 4).unwrap();
    f.voided.store(false, Ordering::SeqCst);
    assert_eq!(count(&f.open()).unwrap(), 1);
    assert!(!f.is_voided());
    // One that is made after the file was taken away is newer than all copies.
    std::fs::remove_file(f.path()).unwrap();
    put(&f.open(), 5).unwrap();
    assert!(!f.is_voided());
    std::fs::copy(&copy, f.path()).unwrap();
    assert_eq!(count(&f.open()).unwrap(), 0);
    assert!(f.is_voided());
}

#[test]
fn what_is_no_database_is_set_aside_and_what_cannot_be_used_is_not() {
    let f = Fixture::new();
    put(&f.open(), 1).unwrap();
    let whole = std::fs::read(f.path()).unwrap();
    let contents: [&[u8]; 4] = [
        b"",
        &whole[..whole.len() / 3],
        &whole[..100],
        b"some text\n",
    ];
    for (number, content) in contents.iter().enumerate() {
        std::fs::write(f.path(), content).unwrap();
        let database = f.open();
        assert_eq!(count(&database).unwrap(), 0);
        put(&database, 2).unwrap();
        let damaged = database.damaged_files();
        assert_eq!(damaged.len(), number + 1);
        assert!(damaged[0].1.starts_with("20270115T080000Z"), "{damaged:?}");
    }
    std::fs::remove_file(f.path()).unwrap();
    std::fs::create_dir(f.path()).unwrap();
    let database = f.open();
    put(&database, 3).unwrap();
    assert_eq!(database.damaged_files().len(), contents.len() + 1);
    drop(database);
    let nowhere = Database::new(
        PathBuf::from("/dev/null/test.redb"),
        f.dir.path().join("other"),
        Arc::new(ManualClock::at(0)),
        Box::new(|_| Ok(0)),
        Box::new(|_| Ok(())),
    );
    assert!(matches!(put(&nowhere, 1), Err(StoreError::File { .. })));
    assert_eq!(nowhere.damaged_files(), []);
}

/// Numbers that look random, and are the same each time.
fn random(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

#[test]
fn bytes_that_are_overwritten_anywhere_never_end_in_a_panic() {
    let f = Fixture::new();
    let database = f.open();
    for start in (0..1500).step_by(500) {
        database
            .write(Flush::Now, move |transaction| {
                let mut table = transaction.open_table(TABLE)?;
                for key in start..start + 500 {
                    table.insert(key, key)?;
                }
                Ok(())
            })
            .unwrap();
    }
    drop(database);
    let whole = std::fs::read(f.path()).unwrap();
    let mut state = 1;
    let rounds = std::env::var("DAMAGE_ROUNDS").map_or(60, |text| text.parse().unwrap());
    for round in 0..rounds {
        let while_open = round % 2 == 0;
        std::fs::write(f.path(), &whole).unwrap();
        // A file that was written over is a copy of the newest state here.
        let _ = std::fs::remove_file(f.dir.path().join("counter"));
        let open = f.open();
        assert_eq!(count(&open).unwrap(), 1500, "round {round}");
        let open = while_open.then_some(open);
        let mut damaged = std::fs::read(f.path()).unwrap();
        for _ in 0..=random(&mut state) % 300 {
            let at = random(&mut state) % damaged.len();
            let length = (1 + random(&mut state) % 64).min(damaged.len() - at);
            for byte in &mut damaged[at..at + length] {
                *byte = u8::try_from(random(&mut state) % 256).unwrap();
            }
        }
        {
            use std::os::unix::fs::FileExt;
            let file = File::options().write(true).open(f.path()).unwrap();
            file.write_all_at(&damaged, 0).unwrap();
        }
        let database = open.unwrap_or_else(|| f.open());
        let works = || -> Result<(), StoreError> {
            count(&database)?;
            database.read(TABLE, |table| {
                for row in table.iter()? {
                    row?;
                }
                Ok(())
            })?;
            for key in 0..50 {
                put(&database, 37 * key)?;
            }
            Ok(())
        };
        // One byte of the file may say that a later version wrote it.
        match works() {
            Ok(()) | Err(StoreError::Newer { .. }) => {}
            Err(error) => panic!("round {round}: {error:?}"),
        }
        drop(database);
        for (aside, _) in f.open().damaged_files() {
            std::fs::remove_file(aside).unwrap();
        }
        let _ = std::fs::remove_file(f.path());
    }
}
