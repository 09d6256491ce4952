//! Whether each node of the cluster is well, as seen from this one: who is listed where, who can be
//! reached, whose certificate and clock are right.
//!
//! Kubernetes and the datastore are asked first, at the same time, then all nodes at once. Each
//! question has a limit in time, so that a node that hangs does not hold up the others.

mod lists;
mod probe;

use std::net::IpAddr;

use crate::cluster::join;
use crate::cluster::node::Node;
use crate::model::role::Role;
use crate::store::database::StoreError;
use crate::store::tokens::Tokens;
use crate::wire::local_v1::{ClusterHealth, NodeHealth};
use crate::wire::preflight_v1::{Finding, Severity};

use lists::{Lists, Member};

/// What a worker cannot tell.
const ASK_A_CONTROL_PLANE: &str =
    "a worker is not told this: run the check on a control plane node";

/// Checks every node that Kubernetes, the datastore or the records of this node list. `tokens` are
/// those of this node, where it has any.
pub(crate) fn check(node: &Node, tokens: Option<&Tokens>) -> Result<ClusterHealth, StoreError> {
    let (lists, members) = if node.is_worker() {
        (None, on_worker(node))
    } else {
        let lists = Lists::gather(node, tokens)?;
        let members = lists.members(node);
        (Some(lists), members)
    };
    let probed = probe::all(node, &members);
    let nodes: Vec<NodeHealth> = members
        .iter()
        .zip(probed)
        .map(|(member, probed)| {
            let mut checks = probed.findings;
            match &lists {
                Some(lists) => checks.extend(lists.judge(member, probed.answers)),
                None if member.is_own => checks.extend(
                    [lists::READY, lists::LISTED]
                        .map(|check| Finding::unchecked(check, ASK_A_CONTROL_PLANE)),
                ),
                None => {}
            }
            NodeHealth {
                name: member.name.clone(),
                address: member.address(),
                role: member.role,
                certificate_days: probed.certificate_days,
                checks,
            }
        })
        .collect();
    let mut findings = nodes.iter().flat_map(|node| &node.checks);
    Ok(ClusterHealth {
        ok: findings.all(|finding| finding.severity != Severity::Error),
        nodes,
    })
}

/// This worker, and the API servers that its proxy leads to.
fn on_worker(node: &Node) -> Vec<Member> {
    let servers = join::known_api_servers(node);
    let mut addresses: Vec<IpAddr> = servers.iter().map(|server| server.ip()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let others = addresses.into_iter().map(|address| {
        let mut other = Member::new(Role::ControlPlane);
        other.addresses.push(address);
        other
    });
    std::iter::once(Member::own(node)).chain(others).collect()
}
