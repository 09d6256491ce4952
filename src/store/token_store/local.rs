//! The records of tokens in this node's database.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use redb::{ReadableTable, TableDefinition, TableError, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::model::token::TokenDigest;
use crate::model::token_record::{TokenRecord, VoidReason};
use crate::store::database::{Database, Fault, StoreError, from_row, to_row};
use crate::store::token_store::{ChangeId, Stored, Swap, Swapped, TokenStore, Version};

const TOKENS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("tokens");
/// When time changes which token.
const DUE: TableDefinition<'_, (i64, &[u8]), ()> = TableDefinition::new("due");

/// How many records are read at once for a list.
const PAGE: usize = 500;

/// A record, and under which moment it stands in [`DUE`].
#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<i64>,
    /// The last change, which is its version here; a row of an earlier version of this program has
    /// none.
    #[serde(default)]
    change: ChangeId,
    record: TokenRecord,
}

impl From<Row> for Stored {
    fn from(row: Row) -> Self {
        Self {
            record: row.record,
            version: Version::new(row.change),
            change: row.change,
        }
    }
}

/// Tells when time changes a record next.
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

    /// The records from this key on whose SHA-256 begins like this, up to [`PAGE`] of them.
    fn page(
        &self,
        from: Bound<TokenDigest>,
        beginning: &str,
    ) -> Result<Vec<(TokenDigest, Stored)>, StoreError> {
        self.database.read(|transaction| {
            let Some(table) = there(transaction.open_table(TOKENS))? else {
                return Ok(Vec::new());
            };
            let from = from.as_ref().map(|key| key.as_bytes().as_slice());
            let mut found = Vec::new();
            for entry in table.range::<&[u8]>((from, Bound::Unbounded))?.take(PAGE) {
                let (key, row) = entry?;
                let Some(digest) = TokenDigest::from_bytes(key.value())
                    .filter(|digest| digest.begins_with(beginning))
                else {
                    break;
                };
                found.push((digest, from_row::<Row>(row.value())?.into()));
            }
            Ok(found)
        })
    }
}

impl TokenStore for LocalStore {
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError> {
        self.database.read(|transaction| {
            let Some(table) = there(transaction.open_table(TOKENS))? else {
                return Ok(None);
            };
            let row = table.get(key.as_bytes().as_slice())?;
            row.map(|row| from_row::<Row>(row.value()).map(Stored::from))
                .transpose()
        })
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let (swaps, due) = (swaps.to_vec(), self.due.clone());
        self.database.write(move |transaction| {
            let mut tokens = transaction.open_table(TOKENS)?;
            let mut moments = transaction.open_table(DUE)?;
            let mut outcomes = Vec::with_capacity(swaps.len());
            for swap in &swaps {
                let key = swap.key.as_bytes().as_slice();
                let old = tokens
                    .get(key)?
                    .map(|row| from_row::<Row>(row.value()))
                    .transpose()?;
                let version = old.as_ref().map(|row| Version::new(row.change));
                if version != swap.expected {
                    outcomes.push(Swapped::Conflict);
                    continue;
                }
                if let Some(old) = old.and_then(|row| row.due) {
                    moments.remove((old, key))?;
                }
                if let Some(record) = &swap.next {
                    let row = Row {
                        due: due(record),
                        change: swap.change,
                        record: record.clone(),
                    };
                    tokens.insert(key, to_row(&row).as_slice())?;
                    if let Some(next) = row.due {
                        moments.insert((next, key), ())?;
                    }
                } else {
                    tokens.remove(key)?;
                }
                outcomes.push(Swapped::Done);
            }
            Ok(outcomes)
        })
    }

    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, Stored) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let Some(first) = TokenDigest::first_with(beginning) else {
            return Ok(());
        };
        let mut from = Bound::Included(first);
        loop {
            let page = self.page(from, beginning)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            from = Bound::Excluded(*last);
            for (digest, stored) in page {
                if take(digest, stored).is_break() {
                    return Ok(());
                }
            }
        }
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
    for (key, row) in &mut changed {
        let key = key.as_slice();
        let Some(row) = row else {
            tokens.remove(key)?;
            continue;
        };
        if let Some(old) = row.due {
            moments.remove((old, key))?;
        }
        row.due = due(&row.record);
        row.change = ChangeId::new();
        tokens.insert(key, to_row(&row).as_slice())?;
        if let Some(next) = row.due {
            moments.insert((next, key), ())?;
        }
    }
    Ok(changed.len())
}

/// A table that was never written to counts as empty.
pub(crate) fn there<T>(opened: Result<T, TableError>) -> Result<Option<T>, Fault> {
    match opened {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
