//! What a node does when others join it for the first time.
//!
//! Until then it is alone: its datastore listens on the loopback, its pod network takes the
//! first address that it finds, and its certificates follow its addresses (`http-api.md`, side
//! effects of a join).

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rand::RngExt;

use crate::base::atomic_file::{self, Access};
use crate::base::secret::Secret;
use crate::base::wait;
use crate::cluster::cni;
use crate::cluster::node::Node;
use crate::host::{Action, CommandError, InterfaceAddress, Service};
use crate::model::endpoint;
use crate::store::dqlite::{self, Malformed, Member};
use crate::store::layout::{Lock, ReadError};
use crate::store::token_files::CALLBACK_TOKEN;

/// Why the node could not be made ready for others.
#[derive(Debug, thiserror::Error)]
pub enum FirstJoinError {
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file of the datastore.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A file cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// Which one.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A service.
    #[error(transparent)]
    Service(#[from] CommandError),
    /// The addresses.
    #[error("cannot list this machine's addresses: {0}")]
    Addresses(#[source] io::Error),
    /// The contacted address is none of ours.
    #[error("no interface has the address {0}; the datastore is not moved there")]
    NotOurs(IpAddr),
    /// The datastore does not come up at its new address.
    #[error("the datastore did not come up at {address} within {seconds} seconds")]
    NotMoved {
        /// Where it should be.
        address: String,
        /// How long it was waited for.
        seconds: u64,
    },
}

/// How long the datastore may take to move.
const MOVE_LIMIT: Duration = Duration::from_secs(60);
/// How often its file is looked at meanwhile.
const GLANCE: Duration = Duration::from_millis(20);
/// How long an API server may take to come up again before its manifest is given up; MicroK8s
/// tries for as long.
const APPLY_LIMIT: Duration = Duration::from_secs(60);
const APPLY_PAUSE: Duration = Duration::from_secs(1);

/// The members of the datastore, by its own file.
pub fn datastore_members(node: &Node) -> Result<Vec<Member>, FirstJoinError> {
    let text = node
        .layout
        .read(&node.layout.backend().join("cluster.yaml"))?;
    Ok(dqlite::read_cluster(&text)?)
}

/// Moves the datastore off the loopback, to the interface that other nodes reach this one by.
pub fn move_datastore(node: &Node, contacted: IpAddr) -> Result<(), FirstJoinError> {
    let members = datastore_members(node)?;
    let [only] = &members[..] else { return Ok(()) };
    if !only.ip().is_some_and(|address| address.is_loopback()) {
        return Ok(());
    }
    // Every loopback address leads to this machine, also one that no interface names.
    if contacted.is_loopback() && node.is_standalone() {
        return Ok(());
    }
    let interfaces = node.host.interfaces().map_err(FirstJoinError::Addresses)?;
    let target = bind_address(&interfaces, contacted)?;
    if only.is_at(target) {
        return Ok(());
    }
    let backend = node.layout.backend();
    let info = node.layout.read(&backend.join("info.yaml"))?;
    let address = endpoint::join(target, dqlite::read_info(&info)?.port());
    write(
        &backend.join("update.yaml"),
        &dqlite::update_yaml(&address),
        0o640,
    )?;
    node.host.service(Action::Restart, Service::K8sDqlite)?;
    // The file may be half written, or away for a moment, while the service starts.
    let moved = || {
        let members = datastore_members(node).ok()?;
        let address = members.first().and_then(Member::ip)?;
        (!address.is_loopback()).then_some(())
    };
    wait::until(MOVE_LIMIT, GLANCE, moved).ok_or(FirstJoinError::NotMoved {
        address,
        seconds: MOVE_LIMIT.as_secs(),
    })
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

/// The token that this node's agent is called with, made when there is none.
pub fn own_callback_token(node: &Node) -> Result<Secret, FirstJoinError> {
    let path = node.layout.credential(CALLBACK_TOKEN);
    match node.layout.read(&path) {
        Ok(text) => Ok(Secret::new(text.trim())),
        Err(error) if error.is_missing() => {
            let token = random_text(64);
            write(&path, &format!("{}\n", token.expose()), 0o600)?;
            Ok(token)
        }
        Err(error) => Err(error.into()),
    }
}

/// Letters and digits, from a generator that the operating system seeds.
pub fn random_text(length: usize) -> Secret {
    const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    Secret::new(
        (0..length)
            .map(|_| char::from(CHARACTERS[random.random_range(0..CHARACTERS.len())]))
            .collect::<String>(),
    )
}

/// Has the pod network find its address by the way to `other`; once.
///
/// The API server goes down with the datastore that has just been moved, so it is told again
/// until it is up. A manifest that cannot be applied does not stop a join, as in MicroK8s.
pub fn direct_pod_network(node: &Node, other: IpAddr) -> Result<(), FirstJoinError> {
    let path = node.layout.cni_manifest();
    let manifest = match node.layout.read(&path) {
        Ok(manifest) => manifest,
        Err(error) if error.is_missing() => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some(changed) = cni::reach(&manifest, other) else {
        return Ok(());
    };
    write(&path, &changed, 0o644)?;
    let mut last = Ok(());
    wait::until(APPLY_LIMIT, APPLY_PAUSE, || {
        last = node.host.apply_manifest(&path);
        // A program that is not there will not come.
        (!matches!(last, Err(CommandError::Failed { .. }))).then_some(())
    });
    if let Err(error) = last {
        tracing::warn!(%error, "the manifest of the pod network was changed, and could not be applied");
    }
    Ok(())
}

/// From now on certificates stay as they are when addresses change.
pub fn stop_reissuing(node: &Node) -> Result<(), FirstJoinError> {
    let path = node.layout.lock(Lock::NoCertReissue);
    if path.exists() {
        Ok(())
    } else {
        write(&path, "", 0o600)
    }
}

fn write(path: &Path, content: &str, mode: u32) -> Result<(), FirstJoinError> {
    atomic_file::write(path, content.as_bytes(), Access::Keep { or: mode }).map_err(|source| {
        FirstJoinError::Write {
            path: path.to_owned(),
            source,
        }
    })
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
