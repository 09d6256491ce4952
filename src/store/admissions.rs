//! The nodes that this one admitted: its own list, whichever store the tokens rest in. It decides
//! nothing about a token or a certificate; the token's record does.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use crate::model::cluster_id::{ClusterId, CurrentCluster};
use crate::model::join_id::JoinId;
use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::model::token::TokenDigest;
use crate::store::database::{Database, Fault, StoreError, from_row, to_row};
use crate::store::token_store::there;
use crate::store::tokens::AskCluster;

const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");

/// A node that this one admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AdmittedNode {
    /// Its name and address.
    pub(crate) node: JoiningNode,
    /// What it joined as.
    pub(crate) role: Role,
    /// Its certificates are signed.
    pub(crate) complete: bool,
    /// The token that admitted it.
    pub(crate) join: TokenDigest,
    /// The cluster that it was admitted to; not known before the first expiry run where an earlier version
    /// admitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<ClusterId>,
    /// When it was admitted, in unix seconds; 0 when its join failed, as it says itself.
    #[serde(default)]
    pub(crate) since: i64,
    /// The join that it was admitted for, if the node names its joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) join_id: Option<JoinId>,
}

/// The nodes.
pub(crate) struct Admissions {
    database: Arc<Database>,
    cluster: AskCluster,
    /// The nodes, as the database has them; not there before they were read.
    nodes: Mutex<Known>,
}

/// The nodes that the database holds, as far as they were read.
#[derive(Default)]
struct Known {
    nodes: Option<HashMap<String, AdmittedNode>>,
    /// The database that they were read from ([`Database::epoch`]).
    epoch: u64,
    /// How many of them have changed since the start.
    changes: u64,
}

impl Known {
    fn change(&mut self, change: impl FnOnce(&mut HashMap<String, AdmittedNode>)) {
        self.changes += 1;
        if let Some(nodes) = &mut self.nodes {
            change(nodes);
        }
    }
}

impl Admissions {
    /// Those in this database.
    pub(crate) fn new(database: Arc<Database>, cluster: AskCluster) -> Self {
        Self {
            database,
            cluster,
            nodes: Mutex::default(),
        }
    }

    /// A node is admitted.
    pub(crate) fn admit(&self, admitted: AdmittedNode) -> Result<(), StoreError> {
        let node = admitted.clone();
        self.database
            .write(move |transaction| put_node(transaction, &node))?;
        self.remember(admitted);
        Ok(())
    }

    /// Forgets the nodes of other clusters than this one.
    pub(crate) fn keep_to(&self, current: &CurrentCluster) -> Result<(), StoreError> {
        let Some(id) = current.id.clone() else {
            return Ok(());
        };
        let all = self.with_nodes(|nodes| nodes.values().cloned().collect::<Vec<_>>())?;
        let (gone, rest): (Vec<_>, Vec<_>) = all
            .into_iter()
            .filter(|node| node.cluster.as_ref() != Some(&id))
            .partition(|node| node.cluster.is_some());
        if !gone.is_empty() {
            self.forget(&gone)?;
        }
        for node in rest {
            let node = AdmittedNode {
                cluster: Some(id.clone()),
                ..node
            };
            self.admit(node)?;
        }
        Ok(())
    }

    /// Remembers that the join of a node, by this token, is complete.
    pub(crate) fn set_complete(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
    ) -> Result<(), StoreError> {
        self.change(join, node, |known| {
            Some(AdmittedNode {
                complete: true,
                ..known
            })
        })
    }

    /// The join of a node, by this token, has failed: it is forgotten where nothing came of it.
    pub(crate) fn fail(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        forget: bool,
    ) -> Result<(), StoreError> {
        self.change(join, node, move |known| {
            let is_kept = !forget || known.complete;
            is_kept.then_some(AdmittedNode {
                complete: false,
                since: 0,
                ..known
            })
        })
    }

    /// Changes what is known of a node that this token admitted; `None` forgets it.
    fn change(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        change: impl Fn(AdmittedNode) -> Option<AdmittedNode> + Send + 'static,
    ) -> Result<(), StoreError> {
        let (join, key) = (*join, node_key(node));
        let row = key.clone();
        let changed = self.database.write(move |transaction| {
            let known = node_in(transaction, &row)?;
            let Some(known) = known.filter(|known| known.join == join) else {
                return Ok(None);
            };
            let next = change(known);
            match &next {
                Some(next) => put_node(transaction, next)?,
                None => drop(transaction.open_table(NODES)?.remove(row.as_str())?),
            }
            Ok(Some(next))
        })?;
        match changed {
            Some(Some(next)) => self.remember(next),
            Some(None) => self.lock().change(|nodes| drop(nodes.remove(&key))),
            None => {}
        }
        Ok(())
    }

    /// Forgets these nodes.
    pub(crate) fn forget(&self, gone: &[AdmittedNode]) -> Result<(), StoreError> {
        let keys: Vec<String> = gone.iter().map(|other| node_key(&other.node)).collect();
        let rows = keys.clone();
        self.database.write(move |transaction| {
            let mut table = transaction.open_table(NODES)?;
            for key in &rows {
                table.remove(key.as_str())?;
            }
            Ok(())
        })?;
        self.lock()
            .change(|nodes| nodes.retain(|key, _| !keys.contains(key)));
        Ok(())
    }

    /// The node, if this token admitted it last.
    pub(crate) fn find(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
    ) -> Result<Option<AdmittedNode>, StoreError> {
        let key = node_key(node);
        let current = (self.cluster)();
        self.with_nodes(|nodes| {
            nodes
                .get(&key)
                .filter(|known| known.join == *join && is_here(known, &current))
                .cloned()
        })
    }

    /// The nodes that this one admitted.
    pub(crate) fn nodes(&self) -> Result<Vec<AdmittedNode>, StoreError> {
        let mut nodes = self.nodes_that(|_| true)?;
        nodes.sort_by_key(node_order);
        Ok(nodes)
    }

    /// The nodes among them for which this holds.
    pub(crate) fn nodes_that(
        &self,
        holds: impl Fn(&AdmittedNode) -> bool,
    ) -> Result<Vec<AdmittedNode>, StoreError> {
        let current = (self.cluster)();
        self.with_nodes(|nodes| {
            nodes
                .values()
                .filter(|node| is_here(node, &current) && holds(node))
                .cloned()
                .collect()
        })
    }

    fn with_nodes<T>(
        &self,
        work: impl FnOnce(&HashMap<String, AdmittedNode>) -> T,
    ) -> Result<T, StoreError> {
        loop {
            let epoch = self.database.epoch();
            let changes = {
                let known = self.lock();
                match &known.nodes {
                    Some(nodes) if known.epoch == epoch => return Ok(work(nodes)),
                    _ => known.changes,
                }
            };
            let read = self.read_nodes()?;
            let mut known = self.lock();
            // What was written meanwhile may be missing in what was read.
            if known.changes == changes {
                known.epoch = epoch;
                return Ok(work(known.nodes.insert(read)));
            }
        }
    }

    fn read_nodes(&self) -> Result<HashMap<String, AdmittedNode>, StoreError> {
        self.database.read(|transaction| {
            let mut read = HashMap::new();
            if let Some(table) = there(transaction.open_table(NODES))? {
                for entry in table.iter()? {
                    let (key, row) = entry?;
                    read.insert(key.value().to_owned(), from_row(row.value())?);
                }
            }
            Ok(read)
        })
    }

    fn remember(&self, admitted: AdmittedNode) {
        self.lock().change(|nodes| {
            nodes.insert(node_key(&admitted.node), admitted);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a node was admitted to the cluster that this one is in.
fn is_here(admitted: &AdmittedNode, current: &CurrentCluster) -> bool {
    !current.is_other_than(admitted.cluster.as_ref())
}

fn node_in(transaction: &WriteTransaction, key: &str) -> Result<Option<AdmittedNode>, Fault> {
    let table = transaction.open_table(NODES)?;
    let row = table.get(key)?;
    row.map(|row| from_row(row.value())).transpose()
}

fn put_node(transaction: &WriteTransaction, admitted: &AdmittedNode) -> Result<(), Fault> {
    transaction.open_table(NODES)?.insert(
        node_key(&admitted.node).as_str(),
        to_row(admitted).as_slice(),
    )?;
    Ok(())
}

fn node_key(node: &JoiningNode) -> String {
    format!("{}@{}", node.name, node.address)
}

fn node_order(admitted: &AdmittedNode) -> (String, IpAddr) {
    (admitted.node.name.clone(), admitted.node.address)
}
