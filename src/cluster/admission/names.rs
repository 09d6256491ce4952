//! What a joining node may be called. Certificates are signed for the name, and Kubernetes keeps one
//! node of each name, so no name is given away that another machine has.
//!
//! A name that another machine had is free for a new one when that machine is gone: when Kubernetes
//! has no node of that name, or has not heard of it lately and it was a worker that this node admitted. Who
//! serves the cluster's API, or has its datastore, is never taken for gone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::cached::Cached;
use crate::base::mutex::lock;
use crate::cluster::admission::checks::Asked;
use crate::cluster::admission::{Admission, AdmitError, Caller};
use crate::cluster::first_join;
use crate::cluster::registry::{Registered, Registry};
use crate::model::endpoint;
use crate::model::node::{JoiningNode, NodeName};
use crate::model::role::Role;
use crate::model::token_record::LEASE;
use crate::pki::name::AltName;
use crate::store::admissions::AdmittedNode;

/// What Kubernetes says.
#[derive(Clone)]
pub(super) enum Known {
    /// This.
    Registry(Arc<Registry>),
    /// Nothing: there is no Kubernetes.
    Nothing,
    /// It did not answer; why.
    Silent(Arc<str>),
}

/// The question to Kubernetes, one at a time: it is asked once for all who wait for its turn.
pub(super) type Question = Cached<Known>;

pub(super) fn not_asked() -> Question {
    Cached::new(Duration::ZERO, usize::MAX)
}

impl Known {
    pub(crate) fn registry(&self) -> Option<&Registry> {
        match self {
            Self::Registry(registry) => Some(registry),
            Self::Nothing | Self::Silent(_) => None,
        }
    }
}

/// What a name is to the node that asks for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Free, or its own.
    Free,
    /// Free as far as this node knows: Kubernetes did not say.
    Unchecked,
    /// That of a node at this address, which is gone.
    Left(IpAddr),
}

/// A name while its node is being admitted, until it is on record. No other machine gets it.
#[must_use]
pub(super) struct Held<'a> {
    admission: &'a Admission,
    node: JoiningNode,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.admission.held);
        if let Some(place) = held.iter().position(|node| *node == self.node) {
            held.swap_remove(place);
        }
    }
}

impl Admission {
    pub(super) fn ask_kubernetes(&self) -> Known {
        let ask = || match Registry::ask(&self.node) {
            Ok(Some(registry)) => Known::Registry(Arc::new(registry)),
            Ok(None) => Known::Nothing,
            Err(error) => Known::Silent(error.to_string().into()),
        };
        self.kubernetes.get_new(ask).unwrap_or_else(ask)
    }

    /// Keeps the name for this node while it is being admitted.
    pub(super) fn hold_name(&self, node: &JoiningNode) -> Result<Held<'_>, AdmitError> {
        let mut held = lock(&self.held);
        let is_other = |other: &&JoiningNode| other.name == node.name && *other != node;
        if let Some(other) = held.iter().find(is_other) {
            return Err(taken(node, Some(other.address)));
        }
        held.push(node.clone());
        Ok(Held {
            admission: self,
            node: node.clone(),
        })
    }

    /// The check of a name, in both roles.
    pub(super) fn check_name(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        self.name_of(asked).map(|_| {
            let name = asked.hostname;
            format!("no other node is known there as {name}")
        })
    }

    /// What the name is that a node asks to join by.
    pub(super) fn name_of(&self, asked: &Asked<'_>) -> Result<Name, AdmitError> {
        let name = NodeName::of_new_node(asked.hostname).ok();
        let Some(name) = name.filter(|name| !self.is_reserved(name)) else {
            return Err(AdmitError::NoName(asked.hostname.to_owned()));
        };
        if self.own_names().iter().any(|own| own == name.as_str()) {
            return Err(taken(&asked.claim.node, None));
        }
        let known = self.ask_kubernetes();
        self.holder(&asked.claim.node, asked.claim.role, &known)
    }

    /// Whether another machine has the name, by what Kubernetes, the datastore and this node know.
    pub(super) fn holder(
        &self,
        node: &JoiningNode,
        role: Role,
        known: &Known,
    ) -> Result<Name, AdmitError> {
        let members = first_join::datastore_members(&self.node).unwrap_or_default();
        let is_member = |address: IpAddr| members.iter().any(|member| member.is_at(address));
        let mut records = self.tokens.admissions().named(&node.name)?;
        records.retain(|other| other.node.address != node.address);
        let now = self.tokens.now();
        // A member of the datastore, or a node whose join may be under way.
        let has_it = |other: &&AdmittedNode| {
            let is_member = other.role == Role::ControlPlane && is_member(other.node.address);
            is_member || now.saturating_sub(other.since) < LEASE
        };
        let holding = records.iter().find(has_it);
        let registered = match known {
            Known::Registry(registry) => {
                if registry.is_service(&node.name) {
                    return Err(AdmitError::NoName(node.name.clone()));
                }
                registry.node(&node.name)
            }
            // A worker gets certificates for the name: it is refused until Kubernetes answers.
            Known::Silent(error) if role == Role::Worker => {
                return Err(AdmitError::NotAsked(error.to_string()));
            }
            Known::Nothing | Known::Silent(_) => {
                let worker = |other: &&AdmittedNode| other.complete && other.role == Role::Worker;
                let other = holding.or_else(|| records.iter().find(worker));
                return match other {
                    Some(other) => Err(taken(node, Some(other.node.address))),
                    None => Ok(Name::Unchecked),
                };
            }
        };
        let is_same = |found: &Registered| found.addresses.contains(&node.address);
        match (registered, holding) {
            (Some(found), None) if is_same(found) => Ok(Name::Free),
            (_, Some(other)) => Err(taken(node, Some(other.node.address))),
            (Some(found), None) => {
                let serves = found.addresses.iter().any(|at| is_member(*at))
                    || known
                        .registry()
                        .is_some_and(|all| all.has_api_server(&found.addresses));
                let was_worker =
                    !records.is_empty() && records.iter().all(|other| other.role == Role::Worker);
                let at = found.addresses.first().copied();
                if found.is_ready || serves || !was_worker {
                    return Err(taken(node, at));
                }
                Ok(at.map_or(Name::Free, Name::Left))
            }
            (None, None) => Ok(Name::Free),
        }
    }

    /// The names of this node: the machine's, and the one that its kubelet has.
    pub(super) fn own_names(&self) -> Vec<String> {
        let machine = self.node.platform.host_name();
        let machine = machine.map(|name| name.trim().to_lowercase());
        machine.into_iter().chain(self.node.name()).collect()
    }

    /// Whether a name leads to no node, but to a service, to every machine itself, or to an address.
    fn is_reserved(&self, name: &NodeName) -> bool {
        let is_served = self.served_names().iter().any(
            |other| matches!(other, AltName::Dns(other) if other.eq_ignore_ascii_case(name.as_str())),
        );
        let kubelet = self.node.arguments("kubelet").ok();
        let domain = kubelet
            .as_ref()
            .and_then(|kubelet| kubelet.get("--cluster-domain"));
        let is_in_domain = domain.is_some_and(|domain| is_below(name.as_str(), domain));
        is_served || is_in_domain || is_reserved(name.as_str())
    }

    /// Whether a request comes from this node itself, by whatever address. Only the nodes of a
    /// cluster on the loopback, which share one machine, join each other there.
    pub(super) fn is_own_address(&self, caller: Caller) -> bool {
        let Caller { remote, local } = caller;
        if remote == local {
            return true;
        }
        if self.node.is_standalone() && self.node.agent_bind().ip().is_loopback() {
            return false;
        }
        let interfaces = self.node.platform.interfaces().unwrap_or_default();
        remote.is_loopback()
            || interfaces
                .iter()
                .any(|own| endpoint::plain(own.address) == remote)
    }
}

fn taken(node: &JoiningNode, by: Option<IpAddr>) -> AdmitError {
    AdmitError::NameTaken {
        name: node.name.clone(),
        by,
    }
}

fn is_below(name: &str, domain: &str) -> bool {
    let domain = domain.trim_matches('.').to_ascii_lowercase();
    !domain.is_empty() && (name == domain || name.ends_with(&format!(".{domain}")))
}

fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 3] = ["localhost", "kubernetes", "kubernetes.default"];
    NAMES.contains(&name)
        || name.parse::<IpAddr>().is_ok()
        || name.split('.').skip(1).any(|label| label == "svc")
        || is_below(name, "cluster.local")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_services_and_addresses_are_no_nodes() {
        for name in [
            "localhost",
            "10.99.0.12",
            "kubernetes",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "a.svc.b",
            "n2.cluster.local",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in ["n2", "svc.example", "n2.example.org", "localhost-2"] {
            assert!(!is_reserved(name), "{name}");
        }
        assert!(is_below("n2.corp.example", "Corp.Example."));
        assert!(!is_below("n2corp.example", "corp.example"));
        assert!(!is_below("n2", ""));
    }
}
