//! What a join is checked for between the look at its token and the taking of it, in the order of
//! MicroK8s's agent (recording `http-join-check-order`).
//!
//! A join ends at the first check that it does not pass; a look at a join goes through all of them.

use std::net::IpAddr;

use crate::cluster::admit::{AdmitError, Caller, Gate};
use crate::cluster::first_join;
use crate::model::endpoint;
use crate::model::node::{JoiningNode, NodeName};
use crate::model::role::Role;
use crate::pki::name::AltName;
use crate::store::admissions::AdmittedNode;
use crate::store::layout::Lock;
use crate::wire::{cluster_v1, cluster_v2};

/// A request to join, of either version.
pub(super) struct Asked<'a> {
    pub node: &'a JoiningNode,
    /// The name as it was sent.
    pub hostname: &'a str,
    pub role: Role,
    pub caller: Caller,
    port: &'a str,
    callback: &'a str,
    handles_x509: bool,
    handles_custom_etcd: bool,
}

impl<'a> Asked<'a> {
    pub fn v2(request: &'a cluster_v2::JoinRequest, node: &'a JoiningNode, caller: Caller) -> Self {
        Self {
            node,
            hostname: &request.hostname,
            role: request.worker.role(),
            caller,
            port: &request.port,
            callback: "",
            handles_x509: request.can_handle_x509_auth,
            handles_custom_etcd: request.can_handle_custom_etcd,
        }
    }

    pub fn v1(request: &'a cluster_v1::JoinRequest, node: &'a JoiningNode, caller: Caller) -> Self {
        Self {
            node,
            hostname: &request.hostname,
            role: Role::Worker,
            caller,
            port: &request.port,
            callback: request.callback.expose(),
            handles_x509: request.can_handle_x509_auth,
            handles_custom_etcd: false,
        }
    }
}

/// A check, by its name. What it says of a join that passes is for people.
pub(super) struct Check {
    pub name: &'static str,
    pub look: fn(&Gate, &Asked<'_>) -> Result<String, AdmitError>,
}

/// The check of the node's name, which a look takes further than a join.
pub(super) const NODE_NAME: &str = "node-name";

/// The checks of a join on dqlite, or on an etcd outside.
pub(super) const V2: &[Check] = &[
    Check {
        name: "high-availability",
        look: Gate::check_is_ha,
    },
    Check {
        name: "agent-port",
        look: Gate::check_port,
    },
    Check {
        name: "same-address",
        look: Gate::check_address,
    },
    Check {
        name: "reachable-address",
        look: Gate::check_reach,
    },
    Check {
        name: "host-name",
        look: Gate::check_resolution,
    },
    Check {
        name: NODE_NAME,
        look: Gate::check_name,
    },
    Check {
        name: "datastore-entry",
        look: Gate::check_datastore,
    },
];

/// The checks of a join on MicroK8s's own etcd.
pub(super) const V1: &[Check] = &[
    Check {
        name: "high-availability",
        look: Gate::check_is_not_ha,
    },
    Check {
        name: "reachable-address",
        look: Gate::check_reach,
    },
    Check {
        name: "authentication",
        look: Gate::check_authentication,
    },
    Check {
        name: NODE_NAME,
        look: Gate::check_name,
    },
    Check {
        name: "request",
        look: Gate::check_words,
    },
];

impl Gate {
    /// Makes sure that a join passes all of these.
    pub(super) fn check(&self, checks: &[Check], asked: &Asked<'_>) -> Result<(), AdmitError> {
        checks
            .iter()
            .try_for_each(|check| (check.look)(self, asked).map(drop))
    }

    fn check_is_ha(&self, _: &Asked<'_>) -> Result<String, AdmitError> {
        if self.node.layout.has(Lock::HaCluster) {
            Ok("both nodes have high availability enabled".to_owned())
        } else {
            Err(AdmitError::NotHa)
        }
    }

    fn check_is_not_ha(&self, _: &Asked<'_>) -> Result<String, AdmitError> {
        if self.node.layout.has(Lock::HaCluster) {
            Err(AdmitError::IsHa)
        } else {
            Ok("neither node has high availability enabled".to_owned())
        }
    }

    fn check_port(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let port = self.node.agent_bind().port();
        if asked.port == port.to_string() {
            Ok(format!("both agents use port {port}"))
        } else {
            Err(AdmitError::Port(port))
        }
    }

    fn check_address(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let Caller { remote, local } = asked.caller;
        if remote == local {
            Err(AdmitError::SameAddress(local))
        } else {
            Ok(format!("{remote} contacts {local}"))
        }
    }

    /// The cluster's nodes call each other by the addresses that they join from.
    fn check_reach(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let address = asked.caller.remote;
        if endpoint::is_link_local_v6(address) {
            Err(AdmitError::LinkLocal(address))
        } else {
            Ok(format!("other nodes may call this one at {address}"))
        }
    }

    fn check_resolution(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let (name, address) = (asked.hostname, asked.caller.remote);
        if !self.calls_kubelets_by_name()? {
            return Ok(format!(
                "the cluster calls nodes by their addresses, so {name} need not resolve there"
            ));
        }
        if self.leads_to(name, address) {
            Ok(format!("{name} resolves to {address} there"))
        } else {
            Err(AdmitError::Name {
                name: name.to_owned(),
                address,
            })
        }
    }

    /// Certificates are signed for the name that a worker joins with: it must not be one by which
    /// a control plane or a service is known. The name of another worker is: nobody can tell here
    /// whether that is the same machine, set up again with a new address.
    fn check_name(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let hostname = asked.hostname;
        let passed = format!("no other node is known there as {hostname}");
        if asked.role == Role::ControlPlane {
            return Ok(passed);
        }
        let Ok(name) = NodeName::parse(hostname) else {
            return Err(AdmitError::NoName(hostname.to_owned()));
        };
        let is_name = |other: &str| other.eq_ignore_ascii_case(name.as_str());
        let is_own = self
            .node
            .host
            .host_name()
            .is_ok_and(|own| is_name(own.trim()));
        let members = first_join::datastore_members(&self.node).unwrap_or_default();
        let is_control_plane = |other: &AdmittedNode| {
            other.role == Role::ControlPlane
                && is_name(&other.node.name)
                && other.node.address != asked.node.address
                && members
                    .iter()
                    .any(|member| member.is_at(other.node.address))
        };
        let taken = self.tokens.admissions().nodes_that(is_control_plane)?;
        if is_own || !taken.is_empty() {
            return Err(AdmitError::NameTaken(hostname.to_owned()));
        }
        let is_served = self
            .served_names()
            .iter()
            .any(|other| matches!(other, AltName::Dns(other) if is_name(other)));
        if is_served || is_reserved(name.as_str()) {
            return Err(AdmitError::NoName(hostname.to_owned()));
        }
        Ok(passed)
    }

    fn check_datastore(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        if !self.node.uses_dqlite() {
            return if asked.handles_custom_etcd {
                Ok("the cluster is on an etcd of its own".to_owned())
            } else {
                Err(AdmitError::NeedsCustomEtcd)
            };
        }
        let address = asked.caller.remote;
        let members = self.members(address)?;
        if members.list.iter().any(|member| member.is_at(address)) {
            return Err(AdmitError::AlreadyKnown {
                address,
                is_confirmed: members.is_confirmed,
            });
        }
        // On the loopback all nodes are on this machine, and only tried out.
        let needs_datastore = asked.role == Role::ControlPlane && !asked.caller.local.is_loopback();
        if needs_datastore && !self.node.runs_datastore() {
            return Err(AdmitError::NoDatastore);
        }
        Ok(format!("the datastore does not list {address}"))
    }

    fn check_authentication(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let api_server = self.arguments("kube-apiserver")?;
        let token_auth = api_server
            .get("--token-auth-file")
            .is_some_and(|file| !file.is_empty());
        if asked.handles_x509 || token_auth {
            Ok("both nodes know a way for this one to prove who it is".to_owned())
        } else {
            Err(AdmitError::NeedsX509)
        }
    }

    /// The port and the callback token become part of a line in a file.
    fn check_words(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        if asked.port.parse::<u16>().is_err() {
            return Err(AdmitError::Unusable("port"));
        }
        let strange = |c: char| c.is_whitespace() || c.is_control();
        if asked.callback.is_empty() || asked.callback.contains(strange) {
            return Err(AdmitError::Unusable("callback token"));
        }
        Ok("the contacted node can call this one back".to_owned())
    }

    pub(super) fn leads_to(&self, name: &str, address: IpAddr) -> bool {
        self.node
            .host
            .resolve(name)
            .into_iter()
            .any(|found| endpoint::plain(found) == address)
    }

    /// Whether the API server looks for a kubelet by its node's name before its address.
    fn calls_kubelets_by_name(&self) -> Result<bool, AdmitError> {
        let arguments = self.arguments("kube-apiserver")?;
        let types: Vec<&str> = arguments
            .get("--kubelet-preferred-address-types")
            .unwrap_or("Hostname")
            .split(',')
            .map(str::trim)
            .collect();
        let place = |wanted| types.iter().position(|found| *found == wanted);
        Ok(match (place("InternalIP"), place("Hostname")) {
            (None, _) => true,
            (Some(address), Some(name)) => name < address,
            (Some(_), None) => false,
        })
    }
}

/// Whether a name leads to no node, but to a service, to whoever asks, or to an address.
fn is_reserved(name: &str) -> bool {
    const NAMES: [&str; 3] = ["localhost", "kubernetes", "kubernetes.default"];
    NAMES.contains(&name)
        || name.parse::<IpAddr>().is_ok()
        || name.split('.').skip(1).any(|label| label == "svc")
        || name.ends_with(".cluster.local")
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
    }
}
