//! Whether the cluster counts a node among its members.

use crate::cluster::admission::Admission;
use crate::cluster::admission::checks::Asked;
use crate::cluster::{first_join, kubernetes};
use crate::model::role::Role;
use crate::model::token_record::LEASE;
use crate::wire::preflight_v1::Standing;

impl Admission {
    /// Whether the cluster counts the asking node among its members: by its datastore, by its API
    /// server, and on standalone nodes, where there is none, by the nodes that this one admitted.
    pub(super) fn standing(&self, asked: &Asked<'_>) -> Standing {
        let address = asked.claim.node.address;
        if asked.claim.role == Role::ControlPlane && self.node.uses_dqlite() {
            let members = first_join::datastore_members(&self.node).unwrap_or_default();
            // The file is a little behind the datastore.
            if members.len() < 2 {
                return Standing::Unknown;
            }
            return match self.node.datastore_members() {
                Ok(listed) if listed.iter().any(|member| member.is_at(address)) => Standing::Member,
                Ok(_) => Standing::NotMember,
                Err(_) => Standing::Unknown,
            };
        }
        let now = self.tokens.now();
        let is_admitted = |within: i64| {
            let found = self.tokens.admissions().nodes_that(|node| {
                node.complete
                    && node.node == asked.claim.node
                    && node.role == asked.claim.role
                    && now.saturating_sub(node.since) < within
            });
            found.is_ok_and(|found| !found.is_empty())
        };
        if self.node.is_standalone() {
            return match is_admitted(i64::MAX) {
                true => Standing::Member,
                false => Standing::Unknown,
            };
        }
        let Ok(nodes) = kubernetes::nodes(self.node.platform.as_ref()) else {
            return Standing::Unknown;
        };
        match nodes.iter().find(|node| node.name == asked.claim.node.name) {
            // Its kubelet may not have registered it yet.
            None if is_admitted(LEASE) => Standing::Member,
            None => Standing::NotMember,
            Some(node) if node.addresses.is_empty() || node.addresses.contains(&address) => {
                Standing::Member
            }
            // Another machine may have the name.
            Some(_) => Standing::Unknown,
        }
    }
}
