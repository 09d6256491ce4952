//! The store of token records: a trait, and the implementation in this node's database.
//!
//! A store knows tokens only by their SHA-256. The trait is small, so that any store with a
//! compare-and-swap of one record can implement it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::model::token::TokenDigest;
use crate::model::token_record::{TokenRecord, VoidReason};
use crate::store::database::{Database, Fault, StoreError, from_row, to_row};

/// Keeps the lives of tokens.
pub(crate) trait TokenStore: Send + Sync {
    /// The record of a token; `None` when there is none.
    fn read(&self, key: &TokenDigest) -> Result<Option<TokenRecord>, StoreError>;

    /// Durably replaces the record of each of these tokens by the result of `edit`; `None` removes
    /// it. `edit` is called again for a token whose record changed meanwhile.
    fn update(&self, keys: &[TokenDigest], edit: Edit) -> Result<(), StoreError>;

    /// All tokens whose SHA-256 begins like this, in hexadecimal digits.
    fn find(&self, beginning: &str) -> Result<Vec<(TokenDigest, TokenRecord)>, StoreError>;

    /// Up to `limit` tokens for which time has something to change by now.
    fn due(&self, now: i64, limit: usize) -> Result<Vec<TokenDigest>, StoreError>;
}

/// Makes the next life of a token out of the present one.
pub(crate) type Edit =
    Box<dyn FnMut(&TokenDigest, Option<TokenRecord>) -> Option<TokenRecord> + Send>;

/// Changes the lives of tokens, and brings out what came of each.
pub(crate) fn edit_all<T: Send + 'static>(
    store: &dyn TokenStore,
    keys: &[TokenDigest],
    mut change: impl FnMut(Option<TokenRecord>) -> (Option<TokenRecord>, T) + Send + 'static,
) -> Result<HashMap<TokenDigest, T>, StoreError> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let outcomes = Arc::new(Mutex::new(HashMap::new()));
    let keep = outcomes.clone();
    let edit = move |key: &TokenDigest, record| {
        let (next, value) = change(record);
        keep.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*key, value);
        next
    };
    store.update(keys, Box::new(edit))?;
    let mut kept = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *kept))
}

/// Changes the life of one token, and brings out what came of it.
pub(crate) fn edit<T: Send + 'static>(
    store: &dyn TokenStore,
    key: &TokenDigest,
    change: impl FnMut(Option<TokenRecord>) -> (Option<TokenRecord>, T) + Send + 'static,
) -> Result<T, StoreError> {
    let mut outcomes = edit_all(store, std::slice::from_ref(key), change)?;
    outcomes.remove(key).ok_or(StoreError::Interrupted)
}

const TOKENS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tokens");
/// When time changes which token.
const DUE: TableDefinition<'_, (i64, &[u8]), ()> = TableDefinition::new("due");

/// A life, and under which moment it stands in [`DUE`].
#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
    record: TokenRecord,
}

/// Tells when time changes a life next.
type NextChange = dyn Fn(&TokenRecord) -> Option<i64> + Send + Sync;

/// Tokens in the database of this node.
pub(crate) struct LocalStore {
    database: Arc<Database>,
    due: Arc<NextChange>,
}

impl LocalStore {
    /// The tokens in `database`; `due` tells when time changes one next.
    pub(crate) fn new(
        database: Arc<Database>,
        due: impl Fn(&TokenRecord) -> Option<i64> + Send + Sync + 'static,
    ) -> Self {
        Self {
            database,
            due: Arc::new(due),
        }
    }
}

impl TokenStore for LocalStore {
    fn read(&self, key: &TokenDigest) -> Result<Option<TokenRecord>, StoreError> {
        self.database.read(|transaction| {
            let Some(table) = there(transaction.open_table(TOKENS))? else {
                return Ok(None);
            };
            let row = table.get(key.as_bytes().as_slice())?;
            row.map(|row| from_row::<Row>(row.value()).map(|row| row.record))
                .transpose()
        })
    }

    fn update(&self, keys: &[TokenDigest], mut edit: Edit) -> Result<(), StoreError> {
        let (keys, due) = (keys.to_vec(), self.due.clone());
        self.database.write(move |transaction| {
            let mut tokens = transaction.open_table(TOKENS)?;
            let mut moments = transaction.open_table(DUE)?;
            for digest in &keys {
                let key = digest.as_bytes().as_slice();
                let old = tokens
                    .get(key)?
                    .map(|row| from_row::<Row>(row.value()))
                    .transpose()?;
                let (old_due, old) = old.map_or((None, None), |row| (row.due, Some(row.record)));
                let next = edit(digest, old.clone());
                let next_due = next.as_ref().and_then(|record| due(record));
                if next == old && next_due == old_due {
                    continue;
                }
                match next {
                    Some(record) => {
                        let row = Row {
                            due: next_due,
                            record,
                        };
                        tokens.insert(key, to_row(&row).as_slice())?
                    }
                    None => tokens.remove(key)?,
                };
                if let Some(old) = old_due {
                    moments.remove((old, key))?;
                }
                if let Some(next) = next_due {
                    moments.insert((next, key), ())?;
                }
            }
            Ok(())
        })
    }

    fn find(&self, beginning: &str) -> Result<Vec<(TokenDigest, TokenRecord)>, StoreError> {
        let first = TokenDigest::first_with(beginning);
        self.database.read(|transaction| {
            let (Some(table), Some(first)) = (there(transaction.open_table(TOKENS))?, first) else {
                return Ok(Vec::new());
            };
            let mut found = Vec::new();
            for entry in table.range(first.as_bytes().as_slice()..)? {
                let (key, row) = entry?;
                let Some(digest) = TokenDigest::from_bytes(key.value())
                    .filter(|digest| digest.begins_with(beginning))
                else {
                    break;
                };
                found.push((digest, from_row::<Row>(row.value())?.record));
            }
            Ok(found)
        })
    }

    fn due(&self, now: i64, limit: usize) -> Result<Vec<TokenDigest>, StoreError> {
        self.database.read(|transaction| {
            let Some(table) = there(transaction.open_table(DUE))? else {
                return Ok(Vec::new());
            };
            let end = now.saturating_add(1);
            let mut found = Vec::new();
            for entry in table.range(..(end, [].as_slice()))?.take(limit) {
                found.extend(TokenDigest::from_bytes(entry?.0.value().1));
            }
            Ok(found)
        })
    }
}

/// Makes all tokens void that still admit a node; says how many those were. A record that cannot be
/// read goes: an unknown token admits no node.
pub(crate) fn void_all(
    transaction: &WriteTransaction,
    why: VoidReason,
    now: i64,
    due: impl Fn(&TokenRecord) -> Option<i64>,
) -> Result<usize, Fault> {
    let mut tokens = transaction.open_table(TOKENS)?;
    let mut moments = transaction.open_table(DUE)?;
    let mut changed = Vec::new();
    for entry in tokens.iter()? {
        let (key, row) = entry?;
        let mut old = from_row::<Row>(row.value()).ok();
        let is_voided = old
            .as_mut()
            .is_none_or(|row| row.record.make_void(why, now));
        if is_voided {
            changed.push((key.value().to_vec(), old));
        }
    }
    for (key, row) in &changed {
        let key = key.as_slice();
        let Some(Row {
            due: old_due,
            record,
        }) = row
        else {
            tokens.remove(key)?;
            continue;
        };
        let next = due(record);
        let record = record.clone();
        tokens.insert(key, to_row(&Row { due: next, record }).as_slice())?;
        if let Some(old) = old_due {
            moments.remove((*old, key))?;
        }
        if let Some(next) = next {
            moments.insert((next, key), ())?;
        }
    }
    Ok(changed.len())
}

/// A table that was never written to counts as empty.
pub(super) fn there<T>(opened: Result<T, TableError>) -> Result<Option<T>, Fault> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
