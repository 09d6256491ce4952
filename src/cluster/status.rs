//! Who is in the cluster, as this node knows it.

use std::net::IpAddr;

use crate::cluster::first_join;
use crate::cluster::kubernetes::{self, Listed};
use crate::cluster::node::Node;
use crate::cluster::{token_admin, transaction};
use crate::model::fingerprint::Fingerprint;
use crate::model::membership::{Membership, OwnRole};
use crate::model::role::Role;
use crate::pki::ca;
use crate::store::database::StoreError;
use crate::store::dqlite::Member;
use crate::store::layout::{Layout, Lock};
use crate::store::tokens::Tokens;
use crate::wire::local_v1::{NodeEntry, NodeList};

/// The nodes: this one, the members of its datastore, the workers that it admitted, and those that
/// others admitted, which Kubernetes knows.
pub(crate) fn nodes(node: &Node, tokens: &Tokens, bind: IpAddr) -> Result<NodeList, StoreError> {
    let own_role = node.role();
    let own_addresses = node.addresses(bind).unwrap_or_default();
    let mut list = NodeList::default();
    if let Some(address) = own_addresses.first() {
        list.nodes.push(NodeEntry {
            name: node.name().ok(),
            address: *address,
            role: own_role,
        });
    }
    if own_role == Role::Worker {
        return Ok(list);
    }
    let admitted = tokens.admissions().nodes()?;
    let listed = kubernetes::nodes(node.platform.as_ref()).unwrap_or_default();
    for member in members(node) {
        let Some(address) = member.ip() else { continue };
        let known = own_addresses.contains(&address)
            || list.nodes.iter().any(|entry| entry.address == address);
        // Before the first join the datastore listens on the loopback, which is this node.
        let is_on_loopback = own_addresses.first().is_some_and(IpAddr::is_loopback);
        if known || (address.is_loopback() && !is_on_loopback) {
            continue;
        }
        list.nodes.push(NodeEntry {
            name: admitted
                .iter()
                .find(|other| other.role == Role::ControlPlane && other.node.address == address)
                .map(|other| other.node.name.clone())
                .or_else(|| only_one_at(&listed, address)),
            address,
            role: Role::ControlPlane,
        });
    }
    for other in admitted
        .into_iter()
        .filter(|other| other.role == Role::Worker && other.complete)
    {
        list.nodes.push(NodeEntry {
            name: Some(other.node.name),
            address: other.node.address,
            role: Role::Worker,
        });
    }
    // A node may call itself what it likes; an API server is at its address, or is not.
    let claims = listed.iter().any(|other| other.claims_control_plane);
    let serving = match claims {
        true => kubernetes::api_servers(node.platform.as_ref()).unwrap_or_default(),
        false => None,
    };
    let serving = serving.unwrap_or_default();
    for other in listed {
        let Some(address) = other.addresses.first().copied() else {
            continue;
        };
        let known = own_addresses.contains(&address)
            || list.nodes.iter().any(|entry| {
                entry.address == address || entry.name.as_deref() == Some(other.name.as_str())
            });
        if !known {
            list.nodes.push(NodeEntry {
                name: Some(other.name),
                address,
                role: if other.claims_control_plane && serving.contains(&address) {
                    Role::ControlPlane
                } else {
                    Role::Worker
                },
            });
        }
    }
    Ok(list)
}

/// Whether the node is in a cluster, by its own files; `None` while that is changing.
pub(crate) fn membership(layout: &Layout) -> Option<Membership> {
    if transaction::is_open(layout) {
        return None;
    }
    let (member, is_worker) = (layout.is_in_cluster(), layout.has(Lock::Clustered));
    Some(Membership {
        member,
        role: match (member, is_worker) {
            (false, _) => OwnRole::None,
            (true, true) => OwnRole::Worker,
            (true, false) => OwnRole::ControlPlane,
        },
        cluster: token_admin::authority(layout)
            .and_then(|pem| ca::certificate_der(&pem).ok())
            .map(|der| Fingerprint::of(&der).to_string()),
    })
}

/// The name of the node that has this address, unless several say so.
fn only_one_at(listed: &[Listed], address: IpAddr) -> Option<String> {
    let mut there = listed
        .iter()
        .filter(|other| other.addresses.first() == Some(&address));
    let one = there.next()?;
    there.next().is_none().then(|| one.name.clone())
}

/// The members of the datastore: as it says itself, else as its file on this node has it, which
/// may be some seconds old.
fn members(node: &Node) -> Vec<Member> {
    let asked = node
        .platform
        .has_datastore()
        .then(|| node.datastore_members().ok());
    asked
        .flatten()
        .or_else(|| first_join::datastore_members(node).ok())
        .unwrap_or_default()
}
