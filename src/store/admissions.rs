//! The nodes that this one admitted: its own list, whichever store the tokens rest in. It decides
//! nothing about a token or a certificate; the token's record does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::base::mutex::lock;
use crate::model::cluster_id::{ClusterId, CurrentCluster};
use crate::model::join_id::JoinId;
use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::model::token::TokenDigest;
use crate::store::database::{Database, Flush, StoreError, from_row, to_row};
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
    nodes: Mutex<Known>,
}

/// The nodes as the database has them, or will have when what is queued is written.
#[derive(Default)]
struct Known {
    nodes: BTreeMap<Key, AdmittedNode>,
    /// The same by their addresses.
    by_address: BTreeSet<(IpAddr, String)>,
    /// The database that they were read from ([`Database::epoch`]); none before they are.
    epoch: Option<u64>,
}

/// A name and an address.
type Key = (String, IpAddr);

/// The address before all others.
const FIRST_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Known {
    fn put(&mut self, key: Key, next: Option<AdmittedNode>) -> Option<AdmittedNode> {
        let (name, address) = key.clone();
        match next {
            Some(next) => {
                self.by_address.insert((address, name));
                self.nodes.insert(key, next)
            }
            None => {
                self.by_address.remove(&(address, name));
                self.nodes.remove(&key)
            }
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

    /// A node is admitted; it is on the disk with the next change that is flushed. Returns the node
    /// that it takes the place of: its own earlier join.
    pub(crate) fn admit(&self, admitted: AdmittedNode) -> Result<Option<AdmittedNode>, StoreError> {
        let mut known = self.known()?;
        self.put(&mut known, node_key(&admitted.node), Some(admitted))
    }

    /// The node is not admitted after all, and what `admitted` took the place of is back.
    pub(crate) fn take_back(
        &self,
        admitted: &AdmittedNode,
        before: Option<AdmittedNode>,
    ) -> Result<(), StoreError> {
        let key = node_key(&admitted.node);
        let mut known = self.known()?;
        if known.nodes.get(&key) == Some(admitted) {
            self.put(&mut known, key, before)?;
        }
        Ok(())
    }

    /// Puts a node in its place, or takes it out, here and soon in the database.
    fn put(
        &self,
        known: &mut Known,
        key: Key,
        next: Option<AdmittedNode>,
    ) -> Result<Option<AdmittedNode>, StoreError> {
        let (row, at) = (next.as_ref().map(to_row), format!("{}@{}", key.0, key.1));
        self.database.queue(Flush::Soon, move |transaction| {
            let mut table = transaction.open_table(NODES)?;
            match &row {
                Some(row) => table.insert(at.as_str(), row.as_slice())?,
                None => table.remove(at.as_str())?,
            };
            Ok(())
        })?;
        Ok(known.put(key, next))
    }

    /// Forgets the nodes of other clusters than this one.
    pub(crate) fn keep_to(&self, current: &CurrentCluster) -> Result<(), StoreError> {
        let Some(id) = current.id.clone() else {
            return Ok(());
        };
        let all: Vec<_> = self.known()?.nodes.values().cloned().collect();
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
        change: impl FnOnce(AdmittedNode) -> Option<AdmittedNode>,
    ) -> Result<(), StoreError> {
        let key = node_key(node);
        let mut known = self.known()?;
        let found = known.nodes.get(&key).filter(|found| found.join == *join);
        if let Some(found) = found.cloned() {
            let next = change(found);
            self.put(&mut known, key, next)?;
        }
        Ok(())
    }

    /// Forgets these nodes.
    pub(crate) fn forget(&self, gone: &[AdmittedNode]) -> Result<(), StoreError> {
        let mut known = self.known()?;
        for node in gone {
            self.put(&mut known, node_key(&node.node), None)?;
        }
        drop(known);
        self.database.flush()
    }

    /// The node, if this token admitted it last.
    pub(crate) fn find(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
    ) -> Result<Option<AdmittedNode>, StoreError> {
        let key = node_key(node);
        let current = (self.cluster)();
        let known = self.known()?;
        let found = known.nodes.get(&key);
        Ok(found
            .filter(|found| found.join == *join && is_here(found, &current))
            .cloned())
    }

    /// The nodes that this one admitted, by their names.
    pub(crate) fn nodes(&self) -> Result<Vec<AdmittedNode>, StoreError> {
        self.nodes_that(|_| true)
    }

    /// Those of this name.
    pub(crate) fn named(&self, name: &str) -> Result<Vec<AdmittedNode>, StoreError> {
        let current = (self.cluster)();
        let known = self.known()?;
        let from_there_on = known.nodes.range((name.to_owned(), FIRST_ADDRESS)..);
        let of_name = from_there_on.take_while(|((of, _), _)| of == name);
        let found = of_name.filter(|(_, node)| is_here(node, &current));
        Ok(found.map(|(_, node)| node.clone()).collect())
    }

    /// Whether one of another name is at this address.
    pub(crate) fn is_address_of_other(
        &self,
        address: IpAddr,
        name: &str,
    ) -> Result<bool, StoreError> {
        let current = (self.cluster)();
        let known = self.known()?;
        let from_there_on = known.by_address.range((address, String::new())..);
        let mut others = from_there_on
            .take_while(|(at, _)| *at == address)
            .filter(|(_, of)| of != name);
        Ok(others.any(|(at, of)| {
            let found = known.nodes.get(&(of.clone(), *at));
            found.is_some_and(|node| is_here(node, &current))
        }))
    }

    /// The nodes among them for which this holds.
    pub(crate) fn nodes_that(
        &self,
        holds: impl Fn(&AdmittedNode) -> bool,
    ) -> Result<Vec<AdmittedNode>, StoreError> {
        let current = (self.cluster)();
        let known = self.known()?;
        let nodes = known.nodes.values();
        let found = nodes.filter(|node| is_here(node, &current) && holds(node));
        Ok(found.cloned().collect())
    }

    /// The nodes, read anew where the database is another one.
    fn known(&self) -> Result<MutexGuard<'_, Known>, StoreError> {
        let mut known = lock(&self.nodes);
        let epoch = self.database.epoch();
        if known.epoch != Some(epoch) {
            if known.epoch.is_some() {
                // What is queued is to be read as well; what fails of it counts once more.
                let _ = self.database.write(Flush::Soon, |_| Ok(()));
            }
            let nodes = self.read_nodes()?;
            *known = Known {
                epoch: Some(epoch),
                ..Known::default()
            };
            for node in nodes {
                known.put(node_key(&node.node), Some(node));
            }
        }
        Ok(known)
    }

    fn read_nodes(&self) -> Result<Vec<AdmittedNode>, StoreError> {
        self.database.read(NODES, |table| {
            let rows = table.iter()?;
            rows.map(|entry| from_row(entry?.1.value())).collect()
        })
    }
}

/// Whether a node was admitted to the cluster that this one is in.
fn is_here(admitted: &AdmittedNode, current: &CurrentCluster) -> bool {
    !current.is_other_than(admitted.cluster.as_ref())
}

fn node_key(node: &JoiningNode) -> Key {
    (node.name.clone(), node.address)
}
