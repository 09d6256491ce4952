//! Changing records in a store whose answers may be lost.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::model::token::Token;
use crate::model::token_record::Issuer;
use crate::model::token_terms::{Lifetime, Terms};

/// What becomes of a swap.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// It is done, and the answer comes.
    Answered,
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It never arrives.
    RequestLost,
    /// It arrives when the next one does.
    Late,
}

/// Records in memory. What it remembers is always out of date: each record as it was before its last
/// change.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) records: Mutex<HashMap<TokenDigest, Stored>>,
    outdated: Mutex<HashMap<TokenDigest, Stored>>,
    fates: Mutex<Vec<Fate>>,
    late: Mutex<Vec<Swap>>,
    swaps: AtomicUsize,
    pub(crate) revision: AtomicU64,
}

impl Memory {
    /// Does the change; returns its token where that has another record than was expected.
    fn apply(&self, swap: &Swap) -> Option<TokenDigest> {
        let number = self.swaps.fetch_add(1, Ordering::SeqCst);
        let mut records = lock(&self.records);
        let found = records.get(&swap.key).map(|stored| stored.version.clone());
        if found != swap.expected {
            return Some(swap.key);
        }
        let before = match swap.next.clone() {
            None => records.remove(&swap.key),
            Some(record) => records.insert(
                swap.key,
                Stored {
                    record,
                    version: number.to_string(),
                    change: swap.change,
                },
            ),
        };
        lock(&self.outdated).extend(before.map(|before| (swap.key, before)));
        None
    }
}

impl TokenStore for Arc<Memory> {
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError> {
        Ok(lock(&self.records).get(key).cloned())
    }

    fn remembered(&self, key: &TokenDigest) -> Option<Stored> {
        lock(&self.outdated).get(key).cloned()
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<TokenDigest>, StoreError> {
        for late in std::mem::take(&mut *lock(&self.late)) {
            self.apply(&late);
        }
        let fate = lock(&self.fates).pop().unwrap_or(Fate::Answered);
        let conflicts = match fate {
            Fate::Answered | Fate::AnswerLost => {
                swaps.iter().filter_map(|swap| self.apply(swap)).collect()
            }
            Fate::RequestLost => Vec::new(),
            Fate::Late => {
                lock(&self.late).extend_from_slice(swaps);
                Vec::new()
            }
        };
        match fate {
            Fate::Answered => Ok(conflicts),
            Fate::AnswerLost | Fate::RequestLost | Fate::Late => Err(StoreError::Unavailable {
                why: "the connection broke off".to_owned(),
                seconds: 1,
                is_unsure: true,
            }),
        }
    }

    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, TokenRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        for (key, stored) in lock(&self.records).clone() {
            if key.begins_with(beginning) && take(key, stored.record).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn due(&self, _: i64, _: usize) -> Result<Vec<TokenDigest>, StoreError> {
        Ok(Vec::new())
    }

    fn revision(&self) -> Result<Option<u64>, StoreError> {
        Ok(Some(self.revision.load(Ordering::SeqCst)))
    }
}

pub(crate) fn key() -> TokenDigest {
    Token::presented("0123456789abcdef0123456789abcdef").digest()
}

/// Issues the token, unless it is issued; says whether it was not.
fn issue(records: &Records) -> bool {
    records
        .edit(Flush::Now, &key(), |record| {
            let is_new = record.is_none();
            let terms = Terms::lasting(Lifetime::OneUse);
            record.get_or_insert_with(|| TokenRecord::issue(&terms, 0, Issuer::Uid(0)));
            is_new
        })
        .unwrap()
}

#[test]
fn a_change_whose_answer_was_lost_is_done_once_and_its_outcome_is_found() {
    for fate in [Fate::AnswerLost, Fate::RequestLost, Fate::Late] {
        let store = Arc::new(Memory::default());
        let records = Records::new(Box::new(store.clone()));
        lock(&store.fates).push(fate);
        assert!(issue(&records), "it was this change that issued the token");
        assert!(!issue(&records));
    }
}

#[test]
fn a_change_of_another_writer_is_not_taken_for_the_one_whose_answer_was_lost() {
    let store = Arc::new(Memory::default());
    let records = Records::new(Box::new(store.clone()));
    let other = Records::new(Box::new(store.clone()));
    lock(&store.fates).push(Fate::RequestLost);
    let mut is_first = true;
    let is_new = records.edit(Flush::Now, &key(), move |record| {
        // The other one issues the same token, with the same record.
        if std::mem::take(&mut is_first) {
            lock(&store.fates).push(Fate::Answered);
            assert!(issue(&other));
        }
        let is_new = record.is_none();
        let terms = Terms::lasting(Lifetime::OneUse);
        record.get_or_insert_with(|| TokenRecord::issue(&terms, 0, Issuer::Uid(0)));
        is_new
    });
    assert!(!is_new.unwrap());
}

#[test]
fn changes_of_one_token_that_come_together_are_all_done_without_a_conflict() {
    let store = Arc::new(Memory::default());
    let records = Records::new(Box::new(store.clone()));
    issue(&records);
    let taken: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|uid| {
                scope.spawn({
                    let records = &records;
                    move || {
                        let revoke = move |record: &mut Option<TokenRecord>| {
                            record.as_mut().unwrap().revoke(1, uid)
                        };
                        records.edit(Flush::Now, &key(), revoke).unwrap()
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(taken.iter().filter(|was_alive| **was_alive).count(), 1);
    assert!(lock(&records.queues).is_empty());
}
