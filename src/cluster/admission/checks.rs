//! What a join is checked for between the look at its token and the taking of it, in the order of
//! MicroK8s's agent (recording `http-join-check-order`).
//!
//! A join ends at the first check that it does not pass; a look at a join goes through all of them.

use std::net::IpAddr;

use crate::cluster::admission::answer::takes_tokens;
use crate::cluster::admission::{Admission, AdmitError, Caller, joining_node};
use crate::cluster::first_join::Needs;
use crate::model::endpoint;
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_record::JoinRequest;
use crate::store::layout::Lock;
use crate::wire::{cluster_v1, cluster_v2};

/// A request to join, of either version.
pub(super) struct Asked<'a> {
    pub(crate) token: &'a Token,
    pub(crate) claim: JoinRequest,
    /// The name as it was sent.
    pub(crate) hostname: &'a str,
    pub(crate) caller: Caller,
    /// What a join has to pass.
    pub(crate) checks: &'static [Check],
    /// What this node has to be made ready for.
    pub(crate) needs: Needs,
    port: &'a str,
    callback: &'a str,
    handles_x509: bool,
    handles_custom_etcd: bool,
}

impl<'a> Asked<'a> {
    /// To join a cluster on dqlite, or on an etcd outside.
    pub(crate) fn v2(request: &'a cluster_v2::JoinRequest, caller: Caller) -> Self {
        Self {
            token: &request.token,
            claim: JoinRequest {
                node: joining_node(&request.hostname, caller),
                role: request.worker.role(),
                join_id: request.join_id.clone(),
            },
            hostname: &request.hostname,
            caller,
            checks: V2,
            needs: Needs {
                datastore: Some((caller.local, caller.remote)),
            },
            port: &request.port,
            callback: "",
            handles_x509: request.can_handle_x509_auth,
            handles_custom_etcd: request.can_handle_custom_etcd,
        }
    }

    /// To join a cluster on MicroK8s's own etcd, where every node that joins is a worker.
    pub(crate) fn v1(request: &'a cluster_v1::JoinRequest, caller: Caller) -> Self {
        Self {
            token: &request.token,
            claim: JoinRequest {
                node: joining_node(&request.hostname, caller),
                role: Role::Worker,
                join_id: request.join_id.clone(),
            },
            hostname: &request.hostname,
            caller,
            checks: V1,
            needs: Needs { datastore: None },
            port: &request.port,
            callback: request.callback.expose(),
            handles_x509: request.can_handle_x509_auth,
            handles_custom_etcd: false,
        }
    }
}

/// A check, by its name. What it says of a join that passes is for people.
type Check = (
    &'static str,
    fn(&Admission, &Asked<'_>) -> Result<String, AdmitError>,
);

/// The check of the node's name, for which Kubernetes is asked.
pub(super) const NODE_NAME: &str = "node-name";

/// The checks of a join on dqlite, or on an etcd outside.
const V2: &[Check] = &[
    ("high-availability", Admission::check_is_ha),
    ("agent-port", Admission::check_port),
    ("same-address", Admission::check_address),
    ("reachable-address", Admission::check_reach),
    ("host-name", Admission::check_resolution),
    (NODE_NAME, Admission::check_name),
    ("datastore-entry", Admission::check_datastore),
];

/// The checks of a join on MicroK8s's own etcd.
const V1: &[Check] = &[
    ("high-availability", Admission::check_is_not_ha),
    ("same-address", Admission::check_address),
    ("reachable-address", Admission::check_reach),
    ("authentication", Admission::check_authentication),
    (NODE_NAME, Admission::check_name),
    ("request", Admission::check_words),
];

impl Admission {
    /// Makes sure that a join passes all its checks.
    pub(super) fn check(&self, asked: &Asked<'_>) -> Result<(), AdmitError> {
        let mut checks = asked.checks.iter();
        checks.try_for_each(|(_, check)| check(self, asked).map(drop))
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
        if self.is_own_address(asked.caller) {
            Err(AdmitError::SameAddress(remote))
        } else {
            Ok(format!("{remote} contacts {local}"))
        }
    }

    /// The cluster's nodes call each other by the addresses that they join from.
    fn check_reach(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let address = asked.caller.remote;
        if endpoint::is_link_local(address) {
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
        let needs_datastore =
            asked.claim.role == Role::ControlPlane && !asked.caller.local.is_loopback();
        if needs_datastore && !self.node.runs_datastore() {
            return Err(AdmitError::NoDatastore);
        }
        Ok(format!("the datastore does not list {address}"))
    }

    fn check_authentication(&self, asked: &Asked<'_>) -> Result<String, AdmitError> {
        let api_server = self.arguments("kube-apiserver")?;
        if asked.handles_x509 || takes_tokens(&api_server) {
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
            .platform
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
