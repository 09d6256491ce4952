//! The records of tokens in this node's database.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use redb::{ReadOnlyTable, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::model::node::JoiningNode;
use crate::model::token::TokenDigest;
use crate::model::token_record::{CertificatePurpose, LEASE, TokenRecord, VoidReason};
use crate::store::database::{Database, Fault, Flush, StoreError, from_row, to_row};
use crate::store::token_store::{ChangeId, NextChange, Place, Stored, Swap, TokenStore};

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
            version: row.change.to_string(),
            change: row.change,
        }
    }
}

/// Tokens in the database of this node.
pub(crate) struct LocalStore {
    database: Arc<Database>,
    due: NextChange,
}

impl LocalStore {
    /// The tokens in `database`; `due` tells when time changes one next.
    pub(crate) fn new(database: Arc<Database>, due: NextChange) -> Self {
        Self { database, due }
    }

    /// The records from this key on whose SHA-256 begins like this, up to [`PAGE`] of them.
    fn page(
        &self,
        from: Bound<TokenDigest>,
        beginning: &str,
    ) -> Result<Vec<(TokenDigest, TokenRecord)>, StoreError> {
        self.database.read(TOKENS, |table| {
            let from = from.as_ref().map(|key| key.as_bytes().as_slice());
            let mut found = Vec::new();
            for entry in table.range::<&[u8]>((from, Bound::Unbounded))?.take(PAGE) {
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
}

impl TokenStore for LocalStore {
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError> {
        let read = |table: &ReadOnlyTable<_, _>| row_of(table, key.as_bytes());
        Ok(self.database.read(TOKENS, read)?.map(Stored::from))
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<TokenDigest>, StoreError> {
        let (swaps, due) = (swaps.to_vec(), self.due.clone());
        let flush = swaps.iter().map(|swap| swap.flush);
        let flush = flush.fold(Flush::Soon, Flush::max);
        self.database.write(flush, move |transaction| {
            let mut tables = Tables::open(transaction, &*due)?;
            let mut conflicts = Vec::new();
            for swap in &swaps {
                let key = swap.key.as_bytes();
                let old = row_of(&tables.tokens, key)?;
                let version = old.as_ref().map(|row| row.change.to_string());
                if version != swap.expected {
                    conflicts.push(swap.key);
                    continue;
                }
                tables.put(key, old, swap.next.clone(), swap.change)?;
            }
            Ok(conflicts)
        })
    }

    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, TokenRecord) -> ControlFlow<()>,
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
            for (digest, record) in page {
                if take(digest, record).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn due(&self, now: i64, limit: usize) -> Result<Vec<TokenDigest>, StoreError> {
        self.database.read(DUE, |table| {
            let end = now.saturating_add(1);
            let mut found = Vec::new();
            for entry in table.range(..(end, [].as_slice()))?.take(limit) {
                found.extend(TokenDigest::from_bytes(entry?.0.value().1));
            }
            Ok(found)
        })
    }
}

/// The tables of tokens, to be changed together.
struct Tables<'a, D> {
    tokens: Table<'a, &'static [u8], &'static [u8]>,
    moments: Table<'a, (i64, &'static [u8]), ()>,
    due: D,
}

impl<'a, D: Fn(&TokenRecord) -> Option<i64>> Tables<'a, D> {
    fn open(transaction: &'a WriteTransaction, due: D) -> Result<Self, Fault> {
        Ok(Self {
            tokens: transaction.open_table(TOKENS)?,
            moments: transaction.open_table(DUE)?,
            due,
        })
    }

    /// Puts a record in the place of a row, by this change.
    fn put(
        &mut self,
        key: &[u8],
        old: Option<Row>,
        next: Option<TokenRecord>,
        change: ChangeId,
    ) -> Result<(), Fault> {
        if let Some(old) = old.and_then(|row| row.due) {
            self.moments.remove((old, key))?;
        }
        let Some(record) = next else {
            self.tokens.remove(key)?;
            return Ok(());
        };
        let due = (self.due)(&record);
        if let Some(due) = due {
            self.moments.insert((due, key), ())?;
        }
        let row = Row {
            due,
            change,
            record,
        };
        self.tokens.insert(key, to_row(&row).as_slice())?;
        Ok(())
    }
}

fn row_of(
    tokens: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<Row>, Fault> {
    let row = tokens.get(key)?;
    row.map(|row| from_row(row.value())).transpose()
}

/// Makes all tokens void that still admit a node, or have certificates signed; says how many those
/// were. A record that cannot be read goes: an unknown token admits no node.
pub(crate) fn void_all(
    transaction: &WriteTransaction,
    now: i64,
    due: impl Fn(&TokenRecord) -> Option<i64>,
) -> Result<usize, Fault> {
    let mut tables = Tables::open(transaction, due)?;
    let mut changed = Vec::new();
    for entry in tables.tokens.iter()? {
        let (key, row) = entry?;
        let old = from_row::<Row>(row.value()).ok();
        let next = old.as_ref().map(|row| {
            let mut record = row.record.clone();
            record.make_void(VoidReason::OlderCopy, now);
            record
        });
        if old.is_none() || next.as_ref() != old.as_ref().map(|row| &row.record) {
            changed.push((key.value().to_vec(), old, next));
        }
    }
    let count = changed.len();
    for (key, old, next) in changed {
        tables.put(&key, old, next, ChangeId::new())?;
    }
    Ok(count)
}

/// The rights to certificates in a table of their own, by the join token and the node, as the version
/// before kept them.
const RIGHTS: TableDefinition<'_, (&[u8], &str), &[u8]> = TableDefinition::new("rights");

/// One of them.
#[derive(Deserialize)]
struct Right {
    node: JoiningNode,
    purposes: Vec<CertificatePurpose>,
    until: i64,
    is_counted: bool,
}

/// Moves the rights to certificates into the records of their tokens.
pub(crate) fn carry_over(
    transaction: &WriteTransaction,
    due: impl Fn(&TokenRecord) -> Option<i64>,
) -> Result<(), Fault> {
    let mut tables = Tables::open(transaction, due)?;
    for entry in transaction.open_table(RIGHTS)?.iter()? {
        let (key, row) = entry?;
        let (key, right) = (key.value().0, from_row::<Right>(row.value())?);
        let old = row_of(&tables.tokens, key)?;
        let since = right.until.saturating_sub(LEASE);
        let mut record = old
            .as_ref()
            .map_or_else(|| TokenRecord::of_line(since), |row| row.record.clone());
        record.restore_grants(right.node, right.purposes, since, right.is_counted);
        tables.put(key, old, Some(record), ChangeId::new())?;
    }
    transaction.delete_table(RIGHTS)?;
    Ok(())
}

/// Which store is in use.
const PLACE: TableDefinition<'_, (), u8> = TableDefinition::new("place");

/// Writes down which store is in use, where that is given, and reads it.
pub(crate) fn place(database: &Database, now: Option<Place>) -> Result<Place, StoreError> {
    if let Some(now) = now {
        database.write(Flush::Now, move |transaction| {
            transaction.open_table(PLACE)?.insert((), now as u8)?;
            Ok(())
        })?;
    }
    database.read(PLACE, |table| {
        let place = table.get(())?.and_then(|row| Place::from_repr(row.value()));
        Ok(place.unwrap_or_default())
    })
}

/// How far the store that several nodes share had come when this node looked last, for each cluster.
const REVISIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("revisions");

/// How far the shared store of this cluster had come.
pub(crate) fn noted_revision(database: &Database, of: &str) -> Result<Option<u64>, StoreError> {
    database.read(REVISIONS, |table| {
        Ok(table.get(of)?.map(|revision| revision.value()))
    })
}

/// Writes down how far the shared store of this cluster has come; forgets that of others.
pub(crate) fn note_revision(
    database: &Database,
    of: &str,
    revision: u64,
) -> Result<(), StoreError> {
    let of = of.to_owned();
    database.write(Flush::Now, move |transaction| {
        let mut table = transaction.open_table(REVISIONS)?;
        table.retain(|_, _| false)?;
        table.insert(of.as_str(), revision)?;
        Ok(())
    })
}
