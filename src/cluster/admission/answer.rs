//! The answer to a node that is admitted.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::secret::Secret;
use crate::cluster::admission::error::NodeFile;
use crate::cluster::admission::{Admission, AdmitError, Caller};
use crate::cluster::{callback, control_planes, first_join, strictness};
use crate::model::role::Role;
use crate::store::args_file::ArgsFile;
use crate::store::known_users;
use crate::wire::cluster_v2;

impl Admission {
    /// The answer, as far as it can be given before the node is made ready.
    pub(super) fn answer(
        &self,
        request: &cluster_v2::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        match request.worker.role() {
            Role::Worker => self.common_answer(caller),
            Role::ControlPlane => self.answer_for_control_plane(request, caller),
        }
    }

    fn common_answer(&self, caller: Caller) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let layout = &self.node.layout;
        let api_server = self.arguments("kube-apiserver")?;
        let value = |key| Some(api_server.get(key).unwrap_or_default().to_owned());
        Ok(cluster_v2::JoinResponse {
            ca: Some(self.read(NodeFile::ClusterCa, &layout.cert("ca.crt"))?),
            apiport: value("--secure-port"),
            api_authz_mode: value("--authorization-mode"),
            kubelet_args: Some(self.read(NodeFile::Arguments("kubelet"), &layout.args("kubelet"))?),
            hostname_override: Some(caller.remote.to_string()),
            service_account_key: Some(Secret::default()),
            cluster_cidr: self
                .arguments("kube-proxy")?
                .get("--cluster-cidr")
                .filter(|cidr| !cidr.is_empty())
                .map(str::to_owned),
            ..cluster_v2::JoinResponse::default()
        })
    }

    fn answer_for_control_plane(
        &self,
        request: &cluster_v2::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let layout = &self.node.layout;
        let secret = |what, path: PathBuf| self.read(what, &path).map(Secret::new);
        let mut answer = self.common_answer(caller)?;
        answer.ca_key = Some(secret(NodeFile::ClusterCaKey, layout.cert("ca.key"))?);
        let path = layout.cert("serviceaccount.key");
        answer.service_account_key = Some(secret(NodeFile::ServiceAccountKey, path)?);
        let api_server = self.arguments("kube-apiserver")?;
        answer.api_server_limits =
            Some(strictness::of(&api_server)).filter(|limits| !limits.is_empty());
        if takes_tokens(&api_server) {
            answer.admin_token = Some(self.known_token("admin")?);
        } else if !request.can_handle_x509_auth {
            return Err(AdmitError::NeedsX509);
        }
        if self.node.uses_dqlite() {
            let backend = layout.backend();
            let what = NodeFile::DatastoreCertificate;
            answer.cluster_cert = Some(self.read(what, &backend.join("cluster.crt"))?);
            answer.cluster_key = Some(secret(what, backend.join("cluster.key"))?);
            return Ok(answer);
        }
        let file = |key| {
            api_server
                .get(key)
                .filter(|path| !path.is_empty())
                .map(|path| self.read(NodeFile::EtcdCertificates, &self.node.expand(path)))
                .transpose()
        };
        answer.etcd_servers = api_server.get("--etcd-servers").map(str::to_owned);
        answer.etcd_ca = file("--etcd-cafile")?;
        answer.etcd_cert = file("--etcd-certfile")?;
        answer.etcd_key = file("--etcd-keyfile")?.map(Secret::new);
        Ok(answer)
    }

    /// The answer with the callback token, or with what a worker is to know of it.
    pub(super) fn with_callback_token(
        &self,
        mut answer: cluster_v2::JoinResponse,
        request: &cluster_v2::JoinRequest,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let callback_token = first_join::own_callback_token(&self.node)
            .map_err(NodeFile::CallbackToken.unreadable())?;
        // A worker does not need the token itself, and so cannot leak it. A control plane node does.
        if request.worker.role() == Role::Worker && request.can_handle_callback_digest {
            let (own, digest) = callback::for_worker(&callback_token);
            answer.callback_token = Some(own);
            answer.callback_token_sha256 = Some(digest);
        } else {
            answer.callback_token = Some(callback_token);
        }
        Ok(answer)
    }

    /// The addresses at which the joining worker finds the cluster's API servers.
    pub(super) fn control_plane_nodes(&self, caller: Caller) -> Result<Vec<String>, AdmitError> {
        let serving = control_planes::serving(&self.node, caller.remote)?;
        Ok(serving.iter().map(IpAddr::to_string).collect())
    }

    pub(super) fn known_token(&self, user: &'static str) -> Result<Secret, AdmitError> {
        let path = self.node.layout.credential(known_users::FILE);
        let users = self.read(NodeFile::TokenOf(user), &path)?;
        known_users::token_of(&users, user).ok_or(AdmitError::NoKnownToken(user))
    }

    /// A file of this node as text.
    pub(super) fn read(&self, what: NodeFile, path: &Path) -> Result<String, AdmitError> {
        let text = self.node.layout.text(path).map_err(what.unreadable())?;
        Ok(text.expose().to_owned())
    }

    /// The arguments of a service of this node.
    pub(super) fn arguments(&self, service: &'static str) -> Result<Arc<ArgsFile>, AdmitError> {
        let what = NodeFile::Arguments(service);
        self.node.arguments(service).map_err(what.unreadable())
    }
}

/// Whether an API server with these arguments takes tokens of users, as in MicroK8s's file of them.
pub(super) fn takes_tokens(api_server: &ArgsFile) -> bool {
    let file = api_server.get("--token-auth-file");
    file.is_some_and(|file| !file.is_empty())
}
