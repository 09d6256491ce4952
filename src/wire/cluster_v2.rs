//! Version 2 of MicroK8s's cluster API: joining a cluster on dqlite.
//!
//! Fields and their order are those of the recordings `join-worker-ok` and
//! `join-controlplane-ok`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::base::secret::Secret;
use crate::model::join_id::JoinId;
use crate::model::role::Role;
use crate::model::token::{Token, TokenDigest};
use crate::wire::lenient::{DecodeError, Fields};

/// `POST /cluster/api/v2.0/join`.
#[derive(Debug, Clone, Serialize)]
pub struct JoinRequest {
    /// The token of the connection string.
    pub token: Token,
    /// The joining node's host name.
    pub hostname: String,
    /// The port of the joining node's agent, as text.
    pub port: String,
    /// What the node joins as.
    pub worker: RequestedRole,
    /// The node makes its own client certificates.
    pub can_handle_x509_auth: bool,
    /// The node can be told of an external etcd.
    pub can_handle_custom_etcd: bool,
    /// The node, a worker, needs no more of the cluster's callback token than its digest. MicroK8s
    /// knows no such field, and passes over it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub can_handle_callback_digest: bool,
    /// How the node names this join, for its report of how it ended. MicroK8s knows no such field, and
    /// ignores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_id: Option<JoinId>,
}

/// The role in a request, as MicroK8s's client writes it (recordings `join-worker-ok`,
/// `join-controlplane-flag`, `join-controlplane-ok`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RequestedRole {
    /// The operator asked for a worker.
    #[serde(rename = "as-worker")]
    Worker,
    /// The operator asked for a control plane node.
    #[serde(rename = "as-master")]
    ControlPlane,
    /// `null`: no role was given, which means control plane.
    #[serde(untagged)]
    Unsaid,
}

impl RequestedRole {
    /// The role that is meant.
    pub(crate) const fn role(self) -> Role {
        match self {
            Self::Worker => Role::Worker,
            Self::ControlPlane | Self::Unsaid => Role::ControlPlane,
        }
    }
}

impl JoinRequest {
    /// Reads a request as MicroK8s's agent does: `worker` means worker when it is exactly
    /// `true` or `"as-worker"`, and control plane whatever else it is.
    pub(crate) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v2.JoinRequest")?;
        let is_worker = fields
            .get("worker")
            .is_some_and(|value| *value == true || *value == "as-worker");
        Ok(Self {
            token: Token::presented(fields.text("token")?),
            hostname: fields.text("hostname")?.to_owned(),
            port: fields.text("port")?.to_owned(),
            worker: if is_worker {
                RequestedRole::Worker
            } else {
                RequestedRole::Unsaid
            },
            can_handle_x509_auth: fields.flag("can_handle_x509_auth")?,
            can_handle_custom_etcd: fields.flag("can_handle_custom_etcd")?,
            // Another client may use a field of this name: a value that is not `true` is no error.
            can_handle_callback_digest: fields
                .get("can_handle_callback_digest")
                .is_some_and(|value| *value == true),
            join_id: join_id(&fields),
        })
    }
}

/// `POST /cluster/api/v2.0/join/outcome`: an admitted node says how its join ended.
///
/// MicroK8s knows nothing of it; an agent that does says so in its answer to a join, with the
/// header [`routes::TAKES_OUTCOME`](crate::wire::routes::TAKES_OUTCOME).
#[derive(Debug, Clone, Serialize)]
pub struct JoinOutcome {
    /// The token of the join.
    pub token: Token,
    /// The host name, as in the join.
    pub hostname: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Which join, as the node named it in its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join_id: Option<JoinId>,
}

impl JoinOutcome {
    /// Reads a report.
    pub(crate) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v2.JoinOutcome")?;
        let outcome = match fields.text("outcome")? {
            "joined" => Outcome::Joined,
            // Whatever else it says, it has not joined.
            _ => Outcome::Failed,
        };
        Ok(Self {
            token: Token::presented(fields.text("token")?),
            hostname: fields.text("hostname")?.to_owned(),
            outcome,
            join_id: join_id(&fields),
        })
    }
}

/// The id of a join; a field of this name that holds anything else is ignored.
pub(super) fn join_id(fields: &Fields) -> Option<JoinId> {
    JoinId::read(fields.get("join_id")?.as_str()?)
}

/// How a join ended for the node that joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum Outcome {
    /// It is a member.
    Joined,
    /// It is not, and is as it was.
    Failed,
}

/// The answer to a [`JoinOutcome`] that was taken.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OutcomeTaken {}

/// What a node that joins is given.
///
/// Every field may be missing in what arrives; the joining side says which ones it needs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JoinResponse {
    /// The cluster's CA certificate, PEM.
    pub ca: Option<String>,
    /// What the contacted node's agent shows when it calls the joining node's; with
    /// [`Self::callback_token_sha256`], the joining worker's own token for its own agent.
    pub(crate) callback_token: Option<Secret>,
    /// The port of the API server.
    pub apiport: Option<String>,
    /// The authorization mode of the API server.
    pub(crate) api_authz_mode: Option<String>,
    /// The arguments in which the contacted node's API server differs from that of a fresh node in
    /// what it admits; only where it does, and for a control plane node alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_server_limits: Option<BTreeMap<String, String>>,
    /// The arguments of the contacted node's kubelet, verbatim.
    pub kubelet_args: Option<String>,
    /// The joining node's address, as the contacted node sees it.
    pub hostname_override: Option<String>,
    /// Addresses of the datastore's voters; control plane only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) voters: Option<Vec<String>>,
    /// The key that signs service account tokens; empty for a worker.
    pub(crate) service_account_key: Option<Secret>,
    /// The administrator's token, where the cluster uses token authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) admin_token: Option<Secret>,
    /// The key of the cluster's CA; `null` for a worker.
    pub(crate) ca_key: Option<Secret>,
    /// The datastore's certificate; control plane only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_cert: Option<String>,
    /// The datastore's key; control plane only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_key: Option<Secret>,
    /// Addresses of the control plane nodes; `null` for a control plane node.
    pub(crate) control_plane_nodes: Option<Vec<String>>,
    /// The cluster's pod network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_cidr: Option<String>,
    /// The endpoints of an external etcd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etcd_servers: Option<String>,
    /// The CA of an external etcd, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etcd_ca: Option<String>,
    /// The client certificate for an external etcd, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etcd_cert: Option<String>,
    /// The client key for an external etcd, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) etcd_key: Option<Secret>,
    /// The SHA-256 of the cluster's callback token, for a worker that said that it can handle it:
    /// enough to tell a control plane's call, and of no use to make one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) callback_token_sha256: Option<TokenDigest>,
}

/// `POST /cluster/api/v2.0/dqlite/remove`: the datastore is to forget a member.
#[derive(Debug, Clone)]
pub(crate) struct RemoveRequest {
    /// The member, `address:port`.
    pub(crate) remove_endpoint: String,
}

impl RemoveRequest {
    /// Reads a request as MicroK8s's agent does.
    pub(crate) fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v2.RemoveFromDqliteRequest")?;
        Ok(Self {
            remove_endpoint: fields.text("remove_endpoint")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_as_recorded() {
        let request = JoinRequest {
            token: Token::presented("0123456789abcdef0123456789abcdef"),
            hostname: "n2".into(),
            port: "25000".into(),
            worker: RequestedRole::Worker,
            can_handle_x509_auth: true,
            can_handle_custom_etcd: true,
            can_handle_callback_digest: false,
            join_id: None,
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"token":"0123456789abcdef0123456789abcdef","hostname":"n2","port":"25000","worker":"as-worker","can_handle_x509_auth":true,"can_handle_custom_etcd":true}"#
        );
        let announced = JoinRequest {
            can_handle_callback_digest: true,
            ..request.clone()
        };
        assert!(
            serde_json::to_string(&announced)
                .unwrap()
                .ends_with(r#","can_handle_callback_digest":true}"#)
        );
        for (worker, text) in [
            (RequestedRole::ControlPlane, r#""worker":"as-master""#),
            (RequestedRole::Unsaid, r#""worker":null"#),
        ] {
            let request = JoinRequest {
                worker,
                ..request.clone()
            };
            assert!(serde_json::to_string(&request).unwrap().contains(text));
        }
    }

    #[test]
    fn only_true_and_as_worker_mean_worker() {
        for (worker, role) in [
            ("true", Role::Worker),
            ("\"as-worker\"", Role::Worker),
            ("\"as-master\"", Role::ControlPlane),
            ("\"true\"", Role::ControlPlane),
            ("false", Role::ControlPlane),
            ("1", Role::ControlPlane),
            ("null", Role::ControlPlane),
            ("[]", Role::ControlPlane),
        ] {
            let body = format!("{{\"worker\": {worker}}}");
            assert_eq!(
                JoinRequest::read(body.as_bytes()).unwrap().worker.role(),
                role,
                "{worker}"
            );
        }
    }

    #[test]
    fn a_worker_gets_null_for_the_ca_key_and_no_voters() {
        let answer = JoinResponse {
            service_account_key: Some(Secret::default()),
            control_plane_nodes: Some(Vec::new()),
            ..JoinResponse::default()
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert!(
            text.contains(r#""ca_key":null"#) && !text.contains("voters"),
            "{text}"
        );
    }
}
