//! What is checked with the first answer of the contacted node, which is asked for without the token.

use std::net::IpAddr;

use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::Contact;
use crate::cluster::node::Node;
use crate::model::role::Role;
use crate::wire::preflight_v1::Finding;
use crate::wire::preflight_v1::Machine::JoiningNode;

use super::{Checked, clock};

pub(super) const OWN_ADDRESS: &str = "own-address";

/// The checks, in the order in which a join would fail: what each is called, and what it found.
pub fn check(
    node: &Node,
    role: Role,
    contacted: IpAddr,
    contact: &Contact,
) -> [(&'static str, Checked); 2] {
    let (clock, seen) = contact.greeting();
    [
        (clock::CHECK, clock::judge(clock, role, contacted)),
        (OWN_ADDRESS, own_address(node, role, seen)),
    ]
}

/// Whether the address from which the contacted node sees this one is this one's. Other nodes call it
/// there, and a datastore listens there.
pub fn own_address(node: &Node, role: Role, seen: Option<IpAddr>) -> Checked {
    let Some(seen) = seen else {
        let message = "the contacted node does not tell from which address it sees this one";
        return Ok(Finding::unchecked(OWN_ADDRESS, message));
    };
    let interfaces = node.host.interfaces().map_err(JoinError::Machine)?;
    if seen.is_loopback() || interfaces.iter().any(|own| own.address == seen) {
        let message = format!("the cluster sees this node at {seen}, an address of its own");
        return Ok(Finding::ok(OWN_ADDRESS, message));
    }
    if role == Role::ControlPlane {
        return Err(JoinError::Translated(seen));
    }
    let message = format!(
        "the cluster sees this node at {seen}, which is not an address of this machine: what the control plane asks of its kubelet may not arrive"
    );
    let remedy =
        "connect the nodes without address translation (NAT), or forward TCP ports 10250 and 25000";
    Ok(Finding::warning(OWN_ADDRESS, message).with_remedy(JoiningNode, remedy))
}
