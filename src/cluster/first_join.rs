//! What a node does when others join it for the first time.
//!
//! Until then it is alone: its datastore listens on the loopback, its pod network takes the
//! first address that it finds, and its certificates follow its addresses (recording
//! `join-controlplane-ok`, `changes.n1.json`).

pub(crate) mod history;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use rand::distr::{Alphanumeric, SampleString};

use crate::base::io_error_text;
use crate::base::secret::Secret;
use crate::cluster::callback;
use crate::cluster::datastore_place::{self, MoveError};
use crate::cluster::node::Node;
use crate::cluster::node_lock::{self, NodeLockError};
use crate::cluster::transaction::{JournalError, Step, Steps, Transaction};
use crate::cluster::{cni, pod_network};
use crate::model::endpoint;
use crate::model::token::{Token, TokenDigest};
use crate::platform::InterfaceAddress;
use crate::store::callback_tokens;
use crate::store::dqlite::{self, Malformed, Member};
use crate::store::layout::{Lock, ReadError, none_if_missing};
use crate::store::token_files::CALLBACK_TOKEN;
use crate::store::tokens::Tokens;

use history::{History, TooOften};

/// Why the node could not be made ready for others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirstJoinError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file of the datastore.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A file or service cannot be changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node is being changed for another reason.
    #[error(transparent)]
    NodeLock(#[from] NodeLockError),
    /// The datastore.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The addresses.
    #[error("cannot list this machine's addresses: {0}")]
    Addresses(#[source] io::Error),
    /// The contacted address is none of ours.
    #[error("no interface has the address {0}; the datastore is not moved there")]
    NotOurs(IpAddr),
    /// The node is a worker, and knows these control plane nodes.
    #[error("the node is a worker of a cluster")]
    Worker(Vec<IpAddr>),
    /// The datastore would restart too often.
    #[error(
        "the datastore of the contacted node was restarted for nodes whose join failed, as often as it is within an hour; the next time is in {} minutes",
        .0.seconds.div_ceil(60)
    )]
    TooOften(TooOften),
    /// How often it did cannot be written down.
    #[error("cannot write down that the datastore restarts: {0}")]
    History(#[source] io::Error),
}

impl FirstJoinError {
    /// What another machine is told: no path and no command line of this node.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Read(error) => {
                format!(
                    "a file of the datastore: {}",
                    io_error_text::of(&error.source)
                )
            }
            Self::Journal(_) | Self::History(_) | Self::NodeLock(NodeLockError::NoNode { .. }) => {
                "the contacted node cannot change its files".to_owned()
            }
            Self::NodeLock(NodeLockError::Moved(_)) => {
                "MicroK8s is being refreshed on the contacted node".to_owned()
            }
            Self::Move(MoveError::Write { .. }) => {
                "the contacted node cannot write the files of its datastore".to_owned()
            }
            Self::Move(MoveError::Service(error)) => {
                format!("its service does not restart: {}", error.told())
            }
            Self::Malformed(_)
            | Self::NodeLock(NodeLockError::Busy)
            | Self::Move(MoveError::NotMoved(_))
            | Self::Addresses(_)
            | Self::NotOurs(_)
            | Self::Worker(_)
            | Self::TooOften(_) => self.to_string(),
        }
    }

    /// After how many seconds the same can be asked for again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooOften(too_often) => Some(too_often.seconds),
            _ => None,
        }
    }
}

/// How long an API server may take to come up again before its manifest is given up; MicroK8s
/// tries for as long.
const APPLY_LIMIT: Duration = Duration::from_secs(60);

/// The members of the datastore, by its own file.
pub(crate) fn datastore_members(node: &Node) -> Result<Vec<Member>, FirstJoinError> {
    let path = node.layout.backend().join("cluster.yaml");
    let parse = |text: &[u8]| dqlite::read_cluster(&String::from_utf8_lossy(text));
    let members = node.layout.parsed(&path, parse)??;
    Ok(members.to_vec())
}

/// What a joining node needs of this one.
pub(crate) struct Needs {
    /// The address at which it has to reach the datastore, and its own.
    pub(crate) datastore: Option<(IpAddr, IpAddr)>,
}

/// The token that a joining node presents, and the time in unix seconds.
pub(crate) struct Presented {
    /// The token.
    pub(crate) token: TokenDigest,
    /// When it is presented.
    pub(crate) now: i64,
    /// Until when the node, admitted then, may rely on what was changed for it.
    pub(crate) until: i64,
}

impl Presented {
    /// A token that is presented now.
    pub(crate) fn now(tokens: &Tokens, token: &Token) -> Self {
        Self {
            token: token.digest(),
            now: tokens.now(),
            until: tokens.lease_end(),
        }
    }
}

/// What is still to be changed for it.
#[derive(Default, PartialEq)]
struct Duties {
    /// Where the datastore listens, and where it has to.
    datastore: Option<(String, String)>,
    /// There is no token that this node's agent is called with.
    callback_token: bool,
    /// The manifest of the pod network as it has to be.
    manifest: Option<String>,
    /// Certificates still follow the node's addresses.
    reissues: bool,
}

/// Whether this node has all that others need of it.
pub(crate) fn is_ready(node: &Node, needs: &Needs) -> Result<bool, FirstJoinError> {
    Ok(Duties::of(node, needs)?.is_none())
}

/// Says why this node would not be made ready now, as far as that is known before.
pub(crate) fn foretell(node: &Node, needs: &Needs, now: i64) -> Result<(), FirstJoinError> {
    match Duties::of(node, needs)? {
        Some(Duties {
            datastore: Some(_), ..
        }) => History::of_first_joins(&node.layout)
            .check(now)
            .map_err(FirstJoinError::TooOften),
        _ => Ok(()),
    }
}

/// Changes what others need of this node, in MicroK8s's order; says whether that was anything. All
/// of it is undone when any of it fails. Otherwise it can be undone until the lease of the node that asks
/// ends.
pub(crate) fn make_ready(
    node: &Node,
    needs: &Needs,
    presented: &Presented,
) -> Result<bool, FirstJoinError> {
    let _turn = node_lock::lock_and_recover::<FirstJoinError>(
        node,
        node_lock::BUSY_LIMIT,
        node_lock::recover,
    )?;
    // It may have joined another cluster while this waited.
    if node.is_worker() {
        let control_plane = callback::control_plane_of_worker(node);
        return Err(FirstJoinError::Worker(control_plane.into_iter().collect()));
    }
    // It may have been done while this waited for its turn.
    let Some(duties) = Duties::of(node, needs)? else {
        return Ok(false);
    };
    let joins = || History::of_first_joins(&node.layout);
    let restarts_datastore = duties.datastore.is_some();
    joins()
        .begin(presented.now, &presented.token, restarts_datastore)
        .map_err(FirstJoinError::History)?
        .map_err(FirstJoinError::TooOften)?;
    let mut transaction = Transaction::begin(node)?;
    let done = duties
        .fulfil(node, &mut transaction)
        .and_then(|()| Ok(transaction.defer_rollback(&node.layout, presented.until)?));
    let Err(error) = done else {
        return Ok(true);
    };
    if restarts_datastore && let Err(error) = joins().note_restart(presented.now) {
        tracing::warn!(%error, "it cannot be written down that the datastore restarts once more");
    }
    if let Err(undo) = transaction.roll_back() {
        tracing::error!(error = %undo, "what the first join changed cannot be undone");
    }
    Err(error)
}

impl Duties {
    fn of(node: &Node, needs: &Needs) -> Result<Option<Self>, FirstJoinError> {
        let layout = &node.layout;
        let mut duties = Self {
            reissues: !layout.lock(Lock::NoCertReissue).exists(),
            ..Self::default()
        };
        if let Some((contacted, other)) = needs.datastore {
            if node.runs_datastore() {
                duties.datastore = place_of_datastore(node, contacted)?;
            }
            duties.callback_token = !layout.credential(CALLBACK_TOKEN).exists();
            let manifest = none_if_missing(layout.text(&layout.cni_manifest()))?;
            duties.manifest = manifest.and_then(|text| cni::reach(text.expose(), other));
        }
        Ok((duties != Self::default()).then_some(duties))
    }

    fn fulfil(&self, node: &Node, transaction: &mut Transaction) -> Result<(), FirstJoinError> {
        let layout = &node.layout;
        if let Some((old, new)) = &self.datastore {
            transaction.move_datastore(&layout.backend(), old)?;
            datastore_place::change(node.platform.as_ref(), &layout.backend(), new)?;
        }
        let mut steps = Steps::new(node);
        if self.callback_token {
            let text = Secret::new(format!("{}\n", random_text(64).expose()));
            let path = layout.credential(CALLBACK_TOKEN);
            steps.rewrite(&path, text.expose(), 0o600);
        }
        if self.reissues {
            steps.rewrite(&layout.lock(Lock::NoCertReissue), "", 0o600);
        }
        if let Some(manifest) = &self.manifest {
            steps.push(Step::MarkManifest(pod_network::mark(node)));
            steps.rewrite(&layout.cni_manifest(), manifest, 0o644);
        }
        transaction.apply_all(&steps.take())?;
        if self.manifest.is_some() {
            // The API server goes down with a datastore that has just been moved, so it is told
            // again until it is up. One that cannot be told does not stop a join, as in MicroK8s.
            if let Err(error) = pod_network::apply(node, APPLY_LIMIT) {
                tracing::warn!(%error, "the manifest of the pod network was changed, and could not be applied; the join goes on, and the agent tries again");
            }
        }
        Ok(())
    }
}

/// Where the datastore listens and where it has to: off the loopback, at the interface that other
/// nodes reach this one by. Nothing where it can stay.
fn place_of_datastore(
    node: &Node,
    contacted: IpAddr,
) -> Result<Option<(String, String)>, FirstJoinError> {
    let members = datastore_members(node)?;
    let [only] = &members[..] else {
        return Ok(None);
    };
    if !only.ip().is_some_and(|address| address.is_loopback()) {
        return Ok(None);
    }
    // Every loopback address leads to this machine, also one that no interface names.
    if contacted.is_loopback() && node.is_standalone() {
        return Ok(None);
    }
    let interfaces = node
        .platform
        .interfaces()
        .map_err(FirstJoinError::Addresses)?;
    let target = bind_address(&interfaces, contacted)?;
    if only.is_at(target) {
        return Ok(None);
    }
    let info = node.layout.read(&node.layout.backend().join("info.yaml"))?;
    let address = endpoint::join(target, dqlite::read_info(&info)?.port());
    Ok(Some((only.address.clone(), address)))
}

/// Where the datastore is to listen when this node was contacted at `contacted`.
///
/// A virtual address, one whose network is itself alone, may move to another machine; the
/// address of the interface whose network holds it is taken (recording `join-via-virtual-ip`).
fn bind_address(
    interfaces: &[InterfaceAddress],
    contacted: IpAddr,
) -> Result<IpAddr, FirstJoinError> {
    let bits = if contacted.is_ipv4() { 32 } else { 128 };
    let own = interfaces
        .iter()
        .find(|entry| entry.address == contacted)
        .ok_or(FirstJoinError::NotOurs(contacted))?;
    if own.prefix < bits {
        return Ok(contacted);
    }
    Ok(interfaces
        .iter()
        .find(|entry| entry.prefix < bits && holds(entry, contacted))
        .map_or(contacted, |entry| entry.address))
}

fn holds(network: &InterfaceAddress, address: IpAddr) -> bool {
    match (network.address, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(network.prefix);
            base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(network.prefix);
            base.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

/// The token that this node's agent is called with; the first one, where the file holds several.
pub(crate) fn own_callback_token(node: &Node) -> Result<Secret, ReadError> {
    let path = node.layout.credential(CALLBACK_TOKEN);
    let text = node.layout.text(&path)?;
    Ok(Secret::new(callback_tokens::first(text.expose())))
}

/// Letters and digits, from a generator that the operating system seeds.
pub(crate) fn random_text(length: usize) -> Secret {
    Secret::new(Alphanumeric.sample_string(&mut rand::rng(), length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(address: &str, prefix: u8) -> InterfaceAddress {
        InterfaceAddress {
            interface: "eth0".into(),
            address: address.parse().unwrap(),
            prefix,
        }
    }

    #[test]
    fn a_virtual_address_leads_to_the_interface_that_holds_it() {
        let interfaces = [
            entry("10.99.0.50", 32),
            entry("10.98.0.11", 24),
            entry("10.99.0.11", 24),
            entry("fd00::1", 64),
        ];
        for (contacted, bind) in [
            ("10.99.0.50", "10.99.0.11"),
            ("10.99.0.11", "10.99.0.11"),
            ("10.98.0.11", "10.98.0.11"),
            ("fd00::1", "fd00::1"),
        ] {
            let bind: IpAddr = bind.parse().unwrap();
            assert_eq!(
                bind_address(&interfaces, contacted.parse().unwrap()).unwrap(),
                bind
            );
        }
        let alone = [entry("10.99.0.50", 32)];
        assert!(bind_address(&alone, "10.99.0.50".parse().unwrap()).is_ok());
        assert!(bind_address(&alone, "10.99.0.51".parse().unwrap()).is_err());
    }
}
