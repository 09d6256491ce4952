//! What is checked with the first answer of the contacted node, which is asked for without the token.

use std::net::IpAddr;

use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::Contact;
use crate::cluster::join::{role_here, worker};
use crate::cluster::node::Node;
use crate::model::role::Role;
use crate::wire::operation::JoinOrder;
use crate::wire::preflight_v1::Finding;
use crate::wire::preflight_v1::Machine::JoiningNode;

use super::{Checked, clock};

pub(super) const OWN_ADDRESS: &str = "own-address";
const CERTIFIED: &str = "certificate-addresses";

/// The checks, in the order in which a join would fail: what each is called, and what it found.
pub(crate) fn check(
    node: &Node,
    order: &JoinOrder,
    contact: &Contact,
) -> Vec<(&'static str, Checked)> {
    let role = role_here(node, order.role);
    let (clock, seen) = contact.greeting;
    let mut checked = vec![
        (clock::CHECK, clock::judge(clock, role, contact.address())),
        (OWN_ADDRESS, own_address(node, role, seen)),
    ];
    if role == Role::Worker {
        let addresses = certified_addresses(node, [seen, order.node_ip]);
        checked.extend(addresses.map(|found| (CERTIFIED, found)));
    }
    checked
}

/// Tells which addresses a worker's certificate does not name; nothing where it names all.
fn certified_addresses(node: &Node, first: [Option<IpAddr>; 2]) -> Option<Checked> {
    let all = match node.addresses(node.agent_bind().ip()) {
        Ok(all) => all,
        Err(error) => return Some(Err(JoinError::Machine(error))),
    };
    let named = worker::foremost(all.clone(), first);
    let left_out: Vec<String> = all
        .iter()
        .filter(|address| !named.contains(address))
        .map(ToString::to_string)
        .collect();
    if left_out.is_empty() {
        return None;
    }
    let message = format!(
        "this node has {} addresses, and the certificate of its kubelet names {} of them; it does not name {}",
        all.len(),
        named.len(),
        left_out.join(", ")
    );
    let remedy =
        "if the cluster is to call this node at one of these, join with `--node-ip ADDRESS`";
    Some(Ok(
        Finding::warning(CERTIFIED, message).with_remedy(JoiningNode, remedy)
    ))
}

/// Whether the address from which the contacted node sees this one is this one's. Other nodes call it
/// there, and a datastore listens there.
pub(crate) fn own_address(node: &Node, role: Role, seen: Option<IpAddr>) -> Checked {
    let Some(seen) = seen else {
        let message = "the contacted node does not tell from which address it sees this one";
        return Ok(Finding::unchecked(OWN_ADDRESS, message));
    };
    let interfaces = node.platform.interfaces().map_err(JoinError::Machine)?;
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
