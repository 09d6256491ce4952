//! The nodes that this one admitted, and the certificates that they may still have signed.
//!
//! This is the business of the node that was contacted, whichever store the tokens rest in.

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
use crate::model::token_record::LEASE;
use crate::store::database::{Database, Fault, StoreError, from_row, to_row};
use crate::store::token_store::there;
use crate::store::tokens::AskCluster;

/// By the join token and by the node, its address first.
const RIGHTS: TableDefinition<'_, (&[u8], &str), &[u8]> = TableDefinition::new("rights");
const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes");

/// What a certificate may be asked for with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CertificatePurpose {
    /// The kubelet's client certificate.
    Kubelet,
    /// kube-proxy's client certificate.
    Proxy,
    /// The certificate with which a node of an etcd cluster reaches etcd.
    Etcd,
}

impl CertificatePurpose {
    /// All of them; the one without a suffix comes last.
    pub(crate) const ALL: [Self; 3] = [Self::Kubelet, Self::Proxy, Self::Etcd];

    /// What stands behind the join token in the token for this certificate.
    pub(crate) const fn suffix(self) -> &'static str {
        match self {
            Self::Kubelet => "-kubelet",
            Self::Proxy => "-proxy",
            Self::Etcd => "",
        }
    }
}

/// A node's right to have certificates signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CertificateGrant {
    /// Whose.
    pub(crate) node: JoiningNode,
    /// What for.
    pub(crate) purposes: Vec<CertificatePurpose>,
    /// Its end in unix seconds.
    pub(crate) until: i64,
    /// It came with a counted use of the token, and is good for nothing without that.
    pub(crate) is_counted: bool,
    /// The cluster that the node was admitted to; not known of a right that an earlier version gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<ClusterId>,
}

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

/// The nodes and their rights.
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

    /// A node is admitted with a token, and may have these certificates signed until then.
    /// What it could have signed with that token before it can no longer.
    pub(crate) fn admit(
        &self,
        join: &TokenDigest,
        admitted: AdmittedNode,
        purposes: &[CertificatePurpose],
        until: i64,
        is_counted: bool,
    ) -> Result<(), StoreError> {
        let join = *join;
        let right = CertificateGrant {
            node: admitted.node.clone(),
            purposes: purposes.to_vec(),
            until,
            is_counted,
            cluster: admitted.cluster.clone(),
        };
        let node = admitted.clone();
        self.database.write(move |transaction| {
            let mut rights = transaction.open_table(RIGHTS)?;
            let key = right_key(&right.node);
            if right.purposes.is_empty() {
                rights.remove((join.as_bytes().as_slice(), key.as_str()))?;
            } else {
                let row = to_row(&right);
                rights.insert((join.as_bytes().as_slice(), key.as_str()), row.as_slice())?;
            }
            put_node(transaction, &node)
        })?;
        self.remember(admitted);
        Ok(())
    }

    /// The rights of nodes at this address that a join token gave, and that have not ended.
    pub(crate) fn rights(
        &self,
        join: &TokenDigest,
        address: IpAddr,
        now: i64,
    ) -> Result<Vec<CertificateGrant>, StoreError> {
        let first = format!("{address} ");
        let current = (self.cluster)();
        self.database.read(|transaction| {
            let Some(table) = there(transaction.open_table(RIGHTS))? else {
                return Ok(Vec::new());
            };
            let mut found = Vec::new();
            for entry in table.range((join.as_bytes().as_slice(), first.as_str())..)? {
                let (key, row) = entry?;
                let (digest, node) = key.value();
                if digest != join.as_bytes() || !node.starts_with(&first) {
                    break;
                }
                found.push(from_row::<CertificateGrant>(row.value())?);
            }
            found.retain(|right| is_good(right, now, &current));
            Ok(found)
        })
    }

    /// Whether a join token gave any right that has not ended, to whomever.
    pub(crate) fn has_right(&self, join: &TokenDigest, now: i64) -> Result<bool, StoreError> {
        let current = (self.cluster)();
        self.database.read(|transaction| {
            let Some(table) = there(transaction.open_table(RIGHTS))? else {
                return Ok(false);
            };
            for entry in table.range((join.as_bytes().as_slice(), "")..)? {
                let (key, row) = entry?;
                if key.value().0 != join.as_bytes() {
                    break;
                }
                if is_good(&from_row::<CertificateGrant>(row.value())?, now, &current) {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Uses one right up. Says how many are left to the node; `None` when this one was not there.
    pub(crate) fn use_up(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        purpose: CertificatePurpose,
        now: i64,
    ) -> Result<Option<usize>, StoreError> {
        let (join, key) = (*join, right_key(node));
        let current = (self.cluster)();
        self.database.write(move |transaction| {
            let mut table = transaction.open_table(RIGHTS)?;
            let key = (join.as_bytes().as_slice(), key.as_str());
            let found = table
                .get(key)?
                .map(|row| from_row::<CertificateGrant>(row.value()))
                .transpose()?;
            let Some(mut right) = found
                .filter(|right| is_good(right, now, &current) && right.purposes.contains(&purpose))
            else {
                return Ok(None);
            };
            right.purposes.retain(|other| *other != purpose);
            if right.purposes.is_empty() {
                table.remove(key)?;
            } else {
                table.insert(key, to_row(&right).as_slice())?;
            }
            Ok(Some(right.purposes.len()))
        })
    }

    /// Ends the rights that join tokens gave: those of one node, or of all.
    pub(crate) fn end_rights(
        &self,
        joins: &[TokenDigest],
        node: Option<&JoiningNode>,
    ) -> Result<(), StoreError> {
        let (joins, only) = (joins.to_vec(), node.map(right_key));
        self.database.write(move |transaction| {
            let mut table = transaction.open_table(RIGHTS)?;
            for join in &joins {
                let (from, to) = (join.as_bytes().as_slice(), after(join));
                let range = (from, "")..(to.as_slice(), "");
                table.retain_in(range, |(_, node), _| {
                    only.as_ref().is_some_and(|only| only != node)
                })?;
            }
            Ok(())
        })
    }

    /// Forgets the rights that have ended. Nothing is written when there are none.
    pub(crate) fn forget_ended(&self, now: i64) -> Result<(), StoreError> {
        let has_ended = self.database.read(|transaction| {
            let Some(table) = there(transaction.open_table(RIGHTS))? else {
                return Ok(false);
            };
            for entry in table.iter()? {
                if !lasts(&from_row::<CertificateGrant>(entry?.1.value())?, now) {
                    return Ok(true);
                }
            }
            Ok(false)
        })?;
        if !has_ended {
            return Ok(());
        }
        self.database.write(move |transaction| {
            let mut table = transaction.open_table(RIGHTS)?;
            table.retain(|_, row| {
                from_row::<CertificateGrant>(row).is_ok_and(|right| lasts(&right, now))
            })?;
            Ok(())
        })
    }

    /// Forgets the nodes of other clusters than this one, and what they could have signed.
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
            let row = node.clone();
            self.database
                .write(move |transaction| put_node(transaction, &row))?;
            self.remember(node);
        }
        Ok(())
    }

    /// Remembers that the join of a node, by this token, is complete.
    pub(crate) fn set_complete(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
    ) -> Result<(), StoreError> {
        let (join, key) = (*join, node_key(node));
        let changed = self.database.write(move |transaction| {
            let known = node_in(transaction, &key)?;
            let Some(mut admitted) = known.filter(|known| known.join == join) else {
                return Ok(None);
            };
            admitted.complete = true;
            put_node(transaction, &admitted)?;
            Ok(Some(admitted))
        })?;
        if let Some(admitted) = changed {
            self.remember(admitted);
        }
        Ok(())
    }

    /// The join of a node, by this token, has failed: it has no certificate signed any more, and is
    /// forgotten where nothing came of it. Says whether that is so: a later join that the node names
    /// otherwise has not failed.
    pub(crate) fn fail(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        join_id: Option<&JoinId>,
        forget: bool,
    ) -> Result<bool, StoreError> {
        let (join, key, join_id) = (*join, node_key(node), join_id.cloned());
        let (row, right) = (key.clone(), right_key(node));
        let failed = self.database.write(move |transaction| {
            let known = node_in(transaction, &row)?.filter(|known| known.join == join);
            let of = known.as_ref().and_then(|known| known.join_id.as_ref());
            if JoinId::differ(of, join_id.as_ref()) {
                return Ok(None);
            }
            let right = (join.as_bytes().as_slice(), right.as_str());
            transaction.open_table(RIGHTS)?.remove(right)?;
            let Some(mut known) = known else {
                return Ok(Some(None));
            };
            if forget && !known.complete {
                transaction.open_table(NODES)?.remove(row.as_str())?;
                return Ok(Some(None));
            }
            (known.complete, known.since) = (false, 0);
            put_node(transaction, &known)?;
            Ok(Some(Some(known)))
        })?;
        match failed {
            None => return Ok(false),
            Some(Some(known)) => self.remember(known),
            Some(None) => self.lock().change(|nodes| {
                let is_it = nodes.get(&key).is_some_and(|known| known.join == join);
                if is_it {
                    nodes.remove(&key);
                }
            }),
        }
        Ok(true)
    }

    /// Forgets these nodes, and what they could still have signed.
    pub(crate) fn forget(&self, gone: &[AdmittedNode]) -> Result<(), StoreError> {
        for other in gone {
            self.end_rights(&[other.join], Some(&other.node))?;
        }
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

/// Ends all rights.
pub(crate) fn end_all_rights(transaction: &WriteTransaction) -> Result<(), Fault> {
    transaction.open_table(RIGHTS)?.retain(|_, _| false)?;
    Ok(())
}

/// How far, in seconds, the clock may be put back while a node joins.
const CLOCK_STEP: i64 = 60;

/// Whether a right has not ended. One that ends later than any that is given now was given while
/// the clock was ahead.
fn lasts(right: &CertificateGrant, now: i64) -> bool {
    now < right.until && right.until <= now.saturating_add(LEASE + CLOCK_STEP)
}

/// Whether a right counts: it has not ended, and was given in the cluster that the node is in.
fn is_good(right: &CertificateGrant, now: i64, current: &CurrentCluster) -> bool {
    lasts(right, now) && !current.is_other_than(right.cluster.as_ref())
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

/// The first key behind all those of a digest.
fn after(join: &TokenDigest) -> Vec<u8> {
    let mut key = join.as_bytes().to_vec();
    key.push(0);
    key
}

fn right_key(node: &JoiningNode) -> String {
    format!("{} {}", node.address, node.name)
}

fn node_key(node: &JoiningNode) -> String {
    format!("{}@{}", node.name, node.address)
}

fn node_order(admitted: &AdmittedNode) -> (String, IpAddr) {
    (admitted.node.name.clone(), admitted.node.address)
}
