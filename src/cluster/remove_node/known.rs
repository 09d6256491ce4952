//! What is known of the node that is to be removed, and by whom.

use std::net::IpAddr;

use super::error::RemoveError;
use crate::cluster::kubernetes;
use crate::cluster::node::Node;
use crate::host::CommandError;
use crate::model::endpoint;
use crate::store::dqlite::{self, Member};
use crate::store::tokens::Tokens;

/// Whether Kubernetes has a node of that name.
pub(super) enum InKubernetes {
    Yes,
    /// It says that it has none.
    No(CommandError),
    /// It could not be asked.
    NotAsked(CommandError),
    /// There is no Kubernetes on a standalone node.
    NoKubernetes,
}

/// The node that is to be removed.
pub(super) struct Target {
    /// Its name; what was typed where no name is known.
    pub name: String,
    /// Every address that somebody knows of it.
    pub addresses: Vec<IpAddr>,
    pub in_kubernetes: InKubernetes,
}

/// A member of the datastore.
pub(super) struct InDatastore {
    /// As the datastore lists it.
    pub address: String,
    /// The first of the members that stay.
    pub other: String,
}

impl Target {
    /// A node of which the name is all that is known.
    pub fn only_named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            addresses: Vec::new(),
            in_kubernetes: InKubernetes::Yes,
        }
    }

    /// Looks the node up by what was typed: a name, or an address.
    pub fn look_up(node: &Node, tokens: Option<&Tokens>, typed: &str) -> Result<Self, RemoveError> {
        let host = node.host.as_ref();
        let mut target = Self::only_named(typed);
        let address = endpoint::read_address(typed);
        target.addresses.extend(address);
        if let Some(name) = address.and_then(|address| kubernetes::name_of(host, address)) {
            target.name = name;
        }
        match kubernetes::addresses_of(host, &target.name) {
            Ok(Some(found)) => target.add(found),
            Ok(None) => target.in_kubernetes = InKubernetes::NoKubernetes,
            Err(error) if is_not_found(&error) => target.in_kubernetes = InKubernetes::No(error),
            Err(error) => target.in_kubernetes = InKubernetes::NotAsked(error),
        }
        // A node that Kubernetes knows has the address that stands there; of any other one this
        // node may remember what it was.
        if !matches!(target.in_kubernetes, InKubernetes::Yes)
            && let Some(tokens) = tokens
        {
            for admitted in tokens.admissions().nodes()? {
                let of_name = admitted.node.name == typed;
                if of_name {
                    target.add([admitted.node.address]);
                } else if Some(admitted.node.address) == address {
                    target.name = admitted.node.name;
                }
            }
        }
        Ok(target)
    }

    fn add(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            if !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
    }

    /// Kubernetes does not know it, or cannot say.
    pub fn is_ghost(&self) -> bool {
        matches!(
            self.in_kubernetes,
            InKubernetes::No(_) | InKubernetes::NotAsked(_)
        )
    }

    /// Why Kubernetes does not say anything of the node.
    pub fn not_asked(&mut self) -> RemoveError {
        let source = match std::mem::replace(&mut self.in_kubernetes, InKubernetes::NoKubernetes) {
            InKubernetes::NotAsked(error) | InKubernetes::No(error) => error,
            InKubernetes::Yes | InKubernetes::NoKubernetes => {
                CommandError::NotAvailable("there is no Kubernetes on this node")
            }
        };
        RemoveError::NotAsked {
            node: self.name.clone(),
            source,
        }
    }

    /// The node as a member of the datastore. This node itself is none that could be removed
    /// (recording `remove-node-self`), and the last one is not.
    pub fn find_in_datastore(&self, node: &Node) -> Result<Option<InDatastore>, RemoveError> {
        if !node.host.has_datastore() || !node.uses_dqlite() {
            return Ok(None);
        }
        let answer = node
            .host
            .datastore_members(&node.layout.backend())
            .map_err(RemoveError::NoAnswer)?;
        let members = dqlite::read_shell_answer(&answer)?;
        let is_target =
            |member: &&Member| self.addresses.iter().any(|address| member.is_at(*address));
        if self.is_own(node) {
            return match members.len() {
                0 | 1 => Err(RemoveError::LastMember(self.name.clone())),
                _ => Ok(None),
            };
        }
        let Some(found) = members.iter().find(is_target) else {
            return Ok(None);
        };
        let Some(other) = members.iter().find(|member| !is_target(member)) else {
            return Err(RemoveError::LastMember(self.name.clone()));
        };
        Ok(Some(InDatastore {
            address: found.address.clone(),
            other: other.address.clone(),
        }))
    }

    fn is_own(&self, node: &Node) -> bool {
        let own = node
            .addresses(node.agent_bind().ip())
            .unwrap_or_default()
            .into_iter()
            .map(endpoint::plain);
        let by_address = own
            .into_iter()
            .any(|own| self.addresses.iter().any(|at| endpoint::plain(*at) == own));
        by_address || node.host.host_name().is_ok_and(|own| own == self.name)
    }
}

/// Whether Kubernetes has answered, and has no such thing.
pub(super) fn is_not_found(error: &CommandError) -> bool {
    matches!(error, CommandError::Failed { output, .. } if output.contains("(NotFound)"))
}
