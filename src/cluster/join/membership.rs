//! Whether a node that is to join is in a cluster already, and in which one.

use crate::cluster::first_join;
use crate::cluster::node::Node;
use crate::model::role::Role;
use crate::pki::ca;
use crate::store::layout::Lock;

/// A node's place in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    role: Role,
}

impl Membership {
    /// The node's place; `None` when it is alone. A member has MicroK8s's marks of one, and the
    /// datastore of a control plane node lists somebody else as well.
    pub fn of(node: &Node) -> Option<Self> {
        if !node.layout.is_in_cluster() {
            return None;
        }
        if node.layout.has(Lock::Clustered) {
            return Some(Self { role: Role::Worker });
        }
        let members = first_join::datastore_members(node).map_or(0, |members| members.len());
        (members >= 2).then_some(Self {
            role: Role::ControlPlane,
        })
    }

    /// What the node is in its cluster.
    pub fn role(self) -> Role {
        self.role
    }

    /// Whether the node that shows this certificate, DER, is in the same cluster: the cluster's
    /// authority signed it, whose certificate a member has.
    pub fn is_with(self, node: &Node, certificate: &[u8]) -> bool {
        let authority = match self.role {
            Role::Worker => "ca.remote.crt",
            Role::ControlPlane => "ca.crt",
        };
        node.layout
            .read(&node.layout.cert(authority))
            .is_ok_and(|authority| ca::is_signed_by(certificate, &authority))
    }
}
