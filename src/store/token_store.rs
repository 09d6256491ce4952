//! The store of token records: the trait that each store implements, and how a record is changed.
//!
//! A store knows tokens only by their SHA-256. The trait is what any store with a compare-and-swap
//! of one record can give. [`Records`] is above it, and the same for every store: it reads, changes
//! the record by a pure function, swaps, and begins again where another was first.

mod local;
mod stores;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::base::mutex::lock;
use crate::model::token::TokenDigest;
use crate::model::token_record::TokenRecord;
use crate::store::database::{Flush, StoreError};

pub(crate) use local::{LocalStore, carry_over, note_revision, noted_revision, place, void_all};
pub(crate) use stores::{Place, Stores, Taken};

/// Keeps the records of tokens. Every method blocks, and is called on threads that may.
pub(crate) trait TokenStore: Send + Sync {
    /// The record of a token; `None` when there is none. Never an older one than what a
    /// [`swap`](TokenStore::swap) that was done before has written, by any node.
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError>;

    /// The record of a token as it was lately, where that is in memory. It may have changed since: what
    /// it leads to counts once a [`swap`](TokenStore::swap) of it is done.
    fn remembered(&self, _key: &TokenDigest) -> Option<Stored> {
        None
    }

    /// Does each of these changes whose record is the one that is expected, durably unless it may be
    /// [flushed soon](Swap::flush). Returns the tokens of the others: nothing was done with these. The
    /// changes are independent: a store may do them together or one after the other.
    ///
    /// After an error any of them may have been done or not. Where the answer to a change may have
    /// been lost, so that it may even be done later, the error is one that
    /// [is unsure](StoreError::is_unsure); the caller reads the record again and finds out by
    /// [`Stored::change`]. A store does not repeat a change on its own.
    fn swap(&self, swaps: &[Swap]) -> Result<Vec<TokenDigest>, StoreError>;

    /// Gives all tokens to `take`, one after the other, whose SHA-256 begins like this (hexadecimal
    /// digits; all of them for the empty text), until it breaks off. Holds only some of them in
    /// memory. What changes meanwhile may be given as it was or as it is, and no token twice.
    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, TokenRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Up to `limit` tokens for which time has something to change by now. Nothing depends on it in
    /// time, because a record is brought up to date at each use: a store that others change as well
    /// may look at some of its tokens at each call, and come to each within minutes. A token whose
    /// record was written since is judged anew, so that a caller who writes what it is given comes to
    /// an end.
    fn due(&self, now: i64, limit: usize) -> Result<Vec<TokenDigest>, StoreError>;

    /// How far the whole store has come: a number that grows with time, and is less than one that was
    /// given before only where an older copy of the store was restored. `None` where the store
    /// notices that itself.
    fn revision(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}

/// Tells when time changes a record next.
pub(crate) type NextChange = Arc<dyn Fn(&TokenRecord) -> Option<i64> + Send + Sync>;

/// A record as a store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The record.
    pub(crate) record: TokenRecord,
    /// Its version, for [`Swap::expected`]; only the store can read it.
    pub(crate) version: String,
    /// The change that wrote it ([`Swap::change`]), which a store keeps beside the record.
    pub(crate) change: ChangeId,
}

/// How many records of a store are looked at at once.
pub(crate) const BATCH: usize = 500;

/// Gives the records whose key begins like this to `work`, [`BATCH`] at a time, until it breaks off;
/// says whether it did. No more of them are in memory.
pub(crate) fn in_batches<E: From<StoreError>>(
    store: &dyn TokenStore,
    beginning: &str,
    mut work: impl FnMut(Vec<(TokenDigest, TokenRecord)>) -> Result<ControlFlow<()>, E>,
) -> Result<ControlFlow<()>, E> {
    let mut batch = Vec::new();
    let mut outcome = Ok(ControlFlow::Continue(()));
    store.list(beginning, &mut |key, record| {
        batch.push((key, record));
        if batch.len() == BATCH {
            outcome = work(std::mem::take(&mut batch));
        }
        match outcome {
            Ok(flow) => flow,
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    match outcome? {
        ControlFlow::Continue(()) if !batch.is_empty() => work(batch),
        flow => Ok(flow),
    }
}

/// One change of a record, by which it is found again when its answer was lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ChangeId(u64);

impl ChangeId {
    /// A new one, unlike any other.
    pub(crate) fn new() -> Self {
        Self(rand::rng().random())
    }
}

impl std::fmt::Display for ChangeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A change of the record of one token.
#[derive(Debug, Clone)]
pub(crate) struct Swap {
    /// Which token.
    pub(crate) key: TokenDigest,
    /// The version that the record must still have; `None`: there must be no record.
    pub(crate) expected: Option<String>,
    /// The record from then on; `None` removes it.
    pub(crate) next: Option<TokenRecord>,
    /// The name of the change, to be kept beside the record.
    pub(crate) change: ChangeId,
    /// When it has to be on the disk.
    pub(crate) flush: Flush,
}

/// For how long a change is tried again where others come first, or its answer is lost.
const TRIED: Duration = Duration::from_secs(15);
/// The longest pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// Changes the record of a token, where there is one, adds it or takes it away.
type Change = Box<dyn FnMut(&mut Option<TokenRecord>) + Send>;

/// A change that waits for its turn.
struct Waiting {
    change: Change,
    flush: Flush,
    told: mpsc::Sender<Result<(), StoreError>>,
}

/// The changes of one token that wait. The one whose turn it is does all of them at once.
#[derive(Default)]
struct Queue {
    turn: Mutex<()>,
    waiting: Mutex<Vec<Waiting>>,
}

/// The records in a store, and the one way to change them.
///
/// Changes of one token that come together are done by one swap, so that a process has no conflict
/// with itself, and a token that many nodes present at once costs few writes.
pub(crate) struct Records {
    store: Box<dyn TokenStore>,
    queues: Mutex<HashMap<TokenDigest, Arc<Queue>>>,
}

impl Records {
    /// Those in this store.
    pub(crate) fn new(store: Box<dyn TokenStore>) -> Self {
        Self {
            store,
            queues: Mutex::default(),
        }
    }

    /// The store itself.
    pub(crate) fn store(&self) -> &dyn TokenStore {
        self.store.as_ref()
    }

    /// The record of a token.
    pub(crate) fn read(&self, key: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self.store.read(key)?.map(|stored| stored.record))
    }

    /// What is found in the record of a token, first in the one that is in memory: only where an
    /// [`edit`](Records::edit) decides.
    pub(crate) fn find<T>(
        &self,
        key: &TokenDigest,
        find: impl Fn(TokenRecord) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let remembered = self.store.remembered(key);
        match remembered.and_then(|stored| find(stored.record)) {
            Some(found) => Ok(Some(found)),
            None => Ok(self.read(key)?.and_then(find)),
        }
    }

    /// Changes the record of a token, durably as soon as `flush` says, and brings out what came of it.
    /// `change` is called again where another change came first; nothing is written where it changes
    /// nothing.
    pub(crate) fn edit<T: Send + 'static>(
        &self,
        flush: Flush,
        key: &TokenDigest,
        mut change: impl FnMut(&mut Option<TokenRecord>) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let value = Arc::new(Mutex::new(None));
        let (kept, (told, outcome)) = (value.clone(), mpsc::channel());
        let waiting = Waiting {
            change: Box::new(move |record| *lock(&kept) = Some(change(record))),
            flush,
            told,
        };
        let queue = lock(&self.queues).entry(*key).or_default().clone();
        lock(&queue.waiting).push(waiting);
        {
            let _turn = lock(&queue.turn);
            let mut batch = std::mem::take(&mut *lock(&queue.waiting));
            if !batch.is_empty() {
                let changed = self.change(key, &mut batch);
                for waiting in batch {
                    let _ = waiting.told.send(changed.clone());
                }
            }
        }
        drop(queue);
        let mut queues = lock(&self.queues);
        if queues
            .get(key)
            .is_some_and(|queue| Arc::strong_count(queue) == 1)
        {
            queues.remove(key);
        }
        drop(queues);
        outcome.recv().map_err(|_| StoreError::Interrupted)??;
        let value = lock(&value).take();
        value.ok_or(StoreError::Interrupted)
    }

    fn change(&self, key: &TokenDigest, batch: &mut [Waiting]) -> Result<(), StoreError> {
        let begun = Instant::now();
        let id = ChangeId::new();
        let flush = batch.iter().map(|waiting| waiting.flush);
        let flush = flush.fold(Flush::Soon, Flush::max);
        let mut lost = None;
        let mut remembered = self.store.remembered(key);
        loop {
            let is_remembered = remembered.is_some();
            let stored = match remembered.take() {
                Some(stored) => Ok(Some(stored)),
                None => self.store.read(key),
            };
            let stored = stored.map_err(|error| lost.take().unwrap_or(error))?;
            if lost.is_some() && stored.as_ref().is_some_and(|stored| stored.change == id) {
                return Ok(());
            }
            let (before, expected) = parts(stored);
            let mut next = before.clone();
            for waiting in &mut *batch {
                (waiting.change)(&mut next);
            }
            next = next.filter(|record| !record.is_empty());
            if next == before {
                if is_remembered {
                    continue;
                }
                return Ok(());
            }
            let swap = Swap {
                key: *key,
                expected,
                next,
                change: id,
                flush,
            };
            match self.store.swap(&[swap]) {
                Ok(conflicts) if conflicts.is_empty() => return Ok(()),
                Ok(_) if is_remembered => continue,
                Ok(_) => {}
                Err(error) if error.is_unsure() => lost = Some(error),
                Err(error) => return Err(error),
            }
            if begun.elapsed() > TRIED {
                return Err(lost.unwrap_or(StoreError::Contended));
            }
            pause();
        }
    }

    /// Changes the records of many tokens, as [`edit`](Records::edit) does, but with few writes, and
    /// brings out what came of each. Where `always` is set, a record that stays as it is is written
    /// all the same, so that it is judged anew when it is [due](TokenStore::due).
    pub(crate) fn edit_all<T>(
        &self,
        keys: &[TokenDigest],
        always: bool,
        mut change: impl FnMut(&mut Option<TokenRecord>) -> T,
    ) -> Result<HashMap<TokenDigest, T>, StoreError> {
        let begun = Instant::now();
        let mut values = HashMap::new();
        let mut left = keys.to_vec();
        while !left.is_empty() {
            let mut swaps = Vec::new();
            for key in &left {
                let (before, expected) = parts(self.store.read(key)?);
                let mut next = before.clone();
                values.insert(*key, change(&mut next));
                let next = next.filter(|record| !record.is_empty());
                if next != before || (always && next.is_some()) {
                    swaps.push(Swap {
                        key: *key,
                        expected,
                        next,
                        change: ChangeId::new(),
                        flush: Flush::Now,
                    });
                }
            }
            if swaps.is_empty() {
                break;
            }
            left = self.store.swap(&swaps)?;
            if !left.is_empty() {
                if begun.elapsed() > TRIED {
                    return Err(StoreError::Contended);
                }
                pause();
            }
        }
        Ok(values)
    }
}

fn parts(stored: Option<Stored>) -> (Option<TokenRecord>, Option<String>) {
    stored.map(|stored| (stored.record, stored.version)).unzip()
}

/// A pause of a random length: of several that were in each other's way one comes first.
#[expect(clippy::disallowed_methods, reason = "the pause between two attempts")]
fn pause() {
    std::thread::sleep(PAUSE.mul_f64(rand::rng().random()));
}
