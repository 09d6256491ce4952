//! Version 1 of MicroK8s's cluster API: joining a cluster on etcd, and signing certificates.
//!
//! `sign-cert` is recorded in `http-sign-cert`; the answer to a join is described in
//! `http-api.md` (read in MicroK8s's sources, not recorded).

use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;
use crate::model::token::Token;
use crate::wire::lenient::{DecodeError, Fields};

/// `POST /cluster/api/v1.0/join`.
#[derive(Debug, Clone, Serialize)]
pub struct JoinRequest {
    /// The token of the connection string.
    pub token: Token,
    /// The joining node's host name.
    pub hostname: String,
    /// The port of the joining node's agent, as text.
    pub port: String,
    /// What the contacted node's agent is to show when it calls the joining node's.
    pub callback: Secret,
    /// The node makes its own client certificates.
    pub can_handle_x509_auth: bool,
}

impl JoinRequest {
    /// Reads a request as MicroK8s's agent does.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v1.JoinRequest", "JoinRequest")?;
        Ok(Self {
            token: Token::presented(fields.text("token")?),
            hostname: fields.text("hostname")?.to_owned(),
            port: fields.text("port")?.to_owned(),
            callback: Secret::new(fields.text("callback")?),
            can_handle_x509_auth: fields.flag("can_handle_x509_auth")?,
        })
    }
}

/// What a node that joins a cluster on etcd is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinResponse {
    /// The cluster's CA certificate, PEM.
    pub ca: Option<String>,
    /// Where etcd listens; `0.0.0.0` stands for the contacted address.
    pub etcd: Option<String>,
    /// How the node's services authenticate: `Cert` or `Token`.
    pub api_authn_mode: Option<String>,
    /// The port of the API server.
    pub apiport: Option<String>,
    /// kube-proxy's token, or the token with which its certificate is signed.
    pub kubeproxy: Option<Token>,
    /// The kubelet's token, or the token with which its certificate is signed.
    pub kubelet: Option<Token>,
    /// The arguments of the contacted node's kubelet.
    pub kubelet_args: Option<String>,
    /// The name or address by which the contacted node knows the joining one.
    pub hostname_override: Option<String>,
    /// The cluster's pod network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_cidr: Option<String>,
}

/// `POST /cluster/api/v1.0/sign-cert`.
#[derive(Debug, Clone, Serialize)]
pub struct SignCertRequest {
    /// The join token, with `-kubelet` or `-proxy` behind it.
    pub token: Token,
    /// The certificate signing request, PEM.
    pub request: String,
}

impl SignCertRequest {
    /// Reads a request as MicroK8s's agent does.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        let fields = Fields::read(body, "v1.SignCertRequest", "SignCertRequest")?;
        Ok(Self {
            token: Token::presented(fields.text("token")?),
            request: fields.text("request")?.to_owned(),
        })
    }
}

/// A signed certificate.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SignCertResponse {
    /// The certificate, PEM.
    pub certificate: Option<String>,
}
