//! What a joining node asks of the contacted one.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::secret::Secret;
use crate::client::remote::{Peer, RemoteError, Reply};
use crate::cluster::identity::NodeKey;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::source_address;
use crate::cluster::node::Node;
use crate::model::fingerprint::Fingerprint;
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_life::Refusal;
use crate::pki::ca;
use crate::wire::cluster_v2::RequestedRole;
use crate::wire::error_body::ErrorBody;
use crate::wire::local_v1::JoinOrder;
use crate::wire::{cluster_v1, cluster_v2, routes};

/// How long telling the contacted node how the join ended may take.
const REPORT_LIMIT: Duration = Duration::from_secs(5);

/// The contacted node, verified.
pub struct Contact {
    peer: Peer,
    endpoint: SocketAddr,
    token: Token,
    /// The node let this one in, and wants to hear how the join ends.
    awaits_outcome: bool,
}

impl Contact {
    /// Connects, and makes sure that it is the node of the connection string before anything is
    /// sent.
    pub fn connect(node: &Node, order: &JoinOrder) -> Result<Self, JoinError> {
        let endpoint = order.url.endpoint();
        let peer = Peer::connect(endpoint, source_address(node, endpoint.ip()))?;
        if let Some(expected) = order
            .url
            .fingerprint
            .as_ref()
            .filter(|_| !order.skip_verify)
            && !expected.matches(&Fingerprint::of(peer.certificate()))
        {
            return Err(JoinError::NotVerified(endpoint.ip()));
        }
        Ok(Self {
            peer,
            endpoint,
            token: order.url.token.clone(),
            awaits_outcome: false,
        })
    }

    /// Says how the join ended, where the other node wants to know: it gives the token back, or
    /// knows that it is used. A node that cannot be told finds out in time.
    pub fn report(&mut self, node: &Node, outcome: cluster_v2::Outcome) {
        if !self.awaits_outcome {
            return;
        }
        let Ok(hostname) = node.host.host_name() else {
            return;
        };
        let report = cluster_v2::JoinOutcome {
            token: self.token.clone(),
            hostname,
            outcome,
        };
        let told = self
            .peer
            .post_within(REPORT_LIMIT, routes::V2_JOIN_OUTCOME, &report);
        if let Err(error) = told {
            tracing::warn!(%error, "the contacted node could not be told how the join ended");
        }
    }

    /// The certificate that the node shows, DER.
    pub fn certificate(&self) -> &[u8] {
        self.peer.certificate()
    }

    /// Asks to join a cluster on dqlite.
    pub fn join(
        &mut self,
        node: &Node,
        role: RequestedRole,
    ) -> Result<Answer<cluster_v2::JoinResponse>, JoinError> {
        let request = cluster_v2::JoinRequest {
            token: self.token.clone(),
            hostname: node.host.host_name().map_err(JoinError::Machine)?,
            port: node.agent_bind().port().to_string(),
            worker: role,
            can_handle_x509_auth: true,
            can_handle_custom_etcd: true,
            can_handle_callback_digest: role.role() == Role::Worker,
        };
        self.ask(routes::V2_JOIN, &request, role.role())
    }

    /// Asks to join a cluster on etcd.
    pub fn join_v1(
        &mut self,
        node: &Node,
        callback: &Secret,
    ) -> Result<Answer<cluster_v1::JoinResponse>, JoinError> {
        let request = cluster_v1::JoinRequest {
            token: self.token.clone(),
            hostname: node.host.host_name().map_err(JoinError::Machine)?,
            port: node.agent_bind().port().to_string(),
            callback: callback.clone(),
            can_handle_x509_auth: true,
        };
        self.ask(routes::V1_JOIN, &request, Role::Worker)
    }

    /// Has a certificate signed for a key, and makes sure that it is that key's and that the
    /// cluster's authority signed it; PEM.
    pub fn sign(
        &mut self,
        certificate: &'static str,
        token: Token,
        request: String,
        key: &NodeKey,
        authority: &str,
    ) -> Result<String, JoinError> {
        let request = cluster_v1::SignCertRequest { token, request };
        let reply =
            self.peer
                .post(routes::V1_SIGN_CERT, &request)
                .map_err(|source| match source {
                    // Somebody else answers now.
                    RemoteError::NotTls
                    | RemoteError::Tls(_)
                    | RemoteError::OtherCertificate(_) => JoinError::Remote(source),
                    _ => JoinError::SigningUnanswered {
                        certificate,
                        source,
                    },
                })?;
        if reply.status != 200 {
            return Err(JoinError::NotSigned {
                certificate,
                status: (certificate != "etcd").then_some(reply.status),
                text: error_text(&reply),
            });
        }
        let answer: Answer<cluster_v1::SignCertResponse> = self.read(&reply)?;
        let signed = answer.need("certificate", answer.certificate.clone())?;
        ca::check_pair(&signed, key.pem.expose())
            .map_err(|error| answer.bad("certificate", error))?;
        if !ca::is_signed_by(&ca::certificate_der(&signed)?, authority) {
            return Err(answer.bad("certificate", "the cluster's authority did not sign it"));
        }
        Ok(signed)
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        path: &str,
        request: &impl Serialize,
        role: Role,
    ) -> Result<Answer<T>, JoinError> {
        let reply = self.peer.post(path, request)?;
        if reply.status != 200 {
            return Err(JoinError::Refused {
                status: reply.status,
                text: error_text(&reply),
                refusal: refusal(&reply),
                role,
            });
        }
        self.awaits_outcome = reply.takes_outcome;
        self.read(&reply)
    }

    fn read<T: DeserializeOwned>(&self, reply: &Reply) -> Result<Answer<T>, JoinError> {
        let from = self.endpoint.to_string();
        // The parser's own text would quote the answer, which holds keys.
        serde_json::from_str(reply.body.expose())
            .map(|fields| Answer {
                from: from.clone(),
                fields,
            })
            .map_err(|error| JoinError::NotUnderstood {
                from,
                why: if error.is_data() {
                    format!("a field has the wrong type, at column {}", error.column())
                } else {
                    "it is no JSON".to_owned()
                },
            })
    }
}

/// The text of an error answer; whatever `error` holds, as MicroK8s's client prints it.
fn error_text(reply: &Reply) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(reply.body.expose()).ok()?;
    Some(match body.get("error")? {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

fn refusal(reply: &Reply) -> Option<Refusal> {
    let body: ErrorBody = serde_json::from_str(reply.body.expose()).ok()?;
    Some(Refusal {
        reason: body.reason?,
        node: reply.reason_node.clone(),
        seconds_ago: reply.reason_seconds,
    })
}

/// An answer, and whose it is.
#[derive(Debug)]
pub struct Answer<T> {
    from: String,
    fields: T,
}

impl<T> Answer<T> {
    /// A field that the join needs.
    pub fn need<V>(&self, field: &'static str, value: Option<V>) -> Result<V, JoinError> {
        value.ok_or_else(|| JoinError::MissingField {
            from: self.from.clone(),
            field,
        })
    }

    /// Says that a field is of no use.
    pub fn bad(&self, field: &'static str, why: impl ToString) -> JoinError {
        JoinError::BadField {
            from: self.from.clone(),
            field,
            why: why.to_string(),
        }
    }
}

impl<T> Answer<T> {
    /// Fields that become parts of argument files, kubeconfigs and messages: each a single word
    /// that brings no line, quote or escape sequence of its own.
    fn words(&self, fields: &[(&'static str, Option<&str>)]) -> Result<(), JoinError> {
        let strange = |c: char| c.is_whitespace() || c.is_control() || "\"'`\\#".contains(c);
        for (field, value) in fields {
            if value.is_some_and(|value| value.contains(strange)) {
                return Err(self.bad(field, "it is no single word"));
            }
        }
        Ok(())
    }

    fn port(&self, value: Option<&str>) -> Result<(), JoinError> {
        match value.filter(|port| !port.is_empty()).map(str::parse::<u16>) {
            None | Some(Ok(1..)) => Ok(()),
            Some(_) => Err(self.bad("apiport", "it is no port")),
        }
    }
}

impl Answer<cluster_v1::JoinResponse> {
    /// Makes sure that nothing but words arrives where words are expected.
    pub fn check_words(&self) -> Result<(), JoinError> {
        self.port(self.apiport.as_deref())?;
        self.words(&[
            ("etcd", self.etcd.as_deref()),
            ("kubeproxy", self.kubeproxy.as_ref().map(Token::expose)),
            ("kubelet", self.kubelet.as_ref().map(Token::expose)),
            ("hostname_override", self.hostname_override.as_deref()),
            ("cluster_cidr", self.cluster_cidr.as_deref()),
        ])
    }
}

impl Answer<cluster_v2::JoinResponse> {
    /// Makes sure that nothing but words arrives where words are expected.
    pub fn check_words(&self) -> Result<(), JoinError> {
        self.port(self.apiport.as_deref())?;
        self.words(&[
            ("api_authz_mode", self.api_authz_mode.as_deref()),
            ("cluster_cidr", self.cluster_cidr.as_deref()),
            ("admin_token", self.admin_token.as_ref().map(Secret::expose)),
            ("etcd_servers", self.etcd_servers.as_deref()),
        ])
    }

    /// The token with which the cluster's agents are called: one line that is not empty.
    pub fn need_callback_token(&self) -> Result<(), JoinError> {
        let token = self.need("callback_token", self.callback_token.as_ref())?;
        if token.is_empty() || token.expose().contains(char::is_whitespace) {
            return Err(self.bad("callback_token", "it is no single word"));
        }
        Ok(())
    }
}

impl<T> std::ops::Deref for Answer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.fields
    }
}
