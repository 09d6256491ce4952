//! Letting a worker into a cluster on MicroK8s's own etcd, by the older interface.

use std::io;
use std::path::Path;

use crate::base::atomic_file::{self, Access};
use crate::base::mutex::lock;
use crate::base::secret::Secret;
use crate::cluster::admission::checks::Asked;
use crate::cluster::admission::error::NodeFile;
use crate::cluster::admission::{Admission, AdmitError, Admitted, Caller};
use crate::cluster::first_join::{self, Presented, history};
use crate::model::token::Token;
use crate::model::token_record::CertificatePurpose;
use crate::platform::{Action, Service};
use crate::store::{known_users, token_files};
use crate::wire::cluster_v1;

impl Admission {
    /// A node joins a cluster on MicroK8s's own etcd.
    pub(crate) fn join_v1(
        &self,
        request: &cluster_v1::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v1::JoinResponse, AdmitError> {
        self.admit(
            &Asked::v1(request, caller),
            || self.answer_v1(request, caller),
            |answer, presented| self.complete_v1(answer, request, presented),
        )
    }

    fn complete_v1(
        &self,
        mut answer: cluster_v1::JoinResponse,
        request: &cluster_v1::JoinRequest,
        presented: &Presented,
    ) -> Result<Admitted<cluster_v1::JoinResponse>, AdmitError> {
        let name = answer.hostname_override.clone().unwrap_or_default();
        let mut certificates = vec![CertificatePurpose::Etcd];
        if request.can_handle_x509_auth {
            answer.api_authn_mode = Some("Cert".into());
            answer.kubeproxy = Some(request.token.clone());
            answer.kubelet = Some(request.token.clone());
            certificates.extend([CertificatePurpose::Kubelet, CertificatePurpose::Proxy]);
        } else {
            answer.api_authn_mode = Some("Token".into());
            let proxy = self.known_token("system:kube-proxy")?;
            answer.kubeproxy = Some(Token::presented(proxy.expose()));
            let kubelet = self.kubelet_token(&name, presented.now)?;
            answer.kubelet = Some(Token::presented(kubelet.expose()));
        }
        let callback = format!(
            "{} {}",
            join_host_port(&name, &request.port),
            request.callback.expose()
        );
        let path = self.node.layout.credential(token_files::CALLBACK_TOKENS);
        token_files::append(&path, &callback, self.node.token_file_sharing())
            .map_err(unwritten(&path))?;
        Ok(Admitted {
            answer,
            certificates,
            hands_out: !request.can_handle_x509_auth,
        })
    }

    /// The answer, as far as it can be given before the token is touched.
    pub(super) fn answer_v1(
        &self,
        request: &cluster_v1::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v1::JoinResponse, AdmitError> {
        let layout = &self.node.layout;
        let name = if self.leads_to(&request.hostname, caller.remote) {
            request.hostname.clone()
        } else {
            caller.remote.to_string()
        };
        let mut kubelet_args =
            self.read(NodeFile::Arguments("kubelet"), &layout.args("kubelet"))?;
        if name != request.hostname {
            kubelet_args.push_str(&format!("\n--hostname-override={name}"));
        }
        let value = |service: &'static str, key: &str| -> Result<Option<String>, AdmitError> {
            Ok(self.arguments(service)?.get(key).map(str::to_owned))
        };
        Ok(cluster_v1::JoinResponse {
            ca: Some(self.read(NodeFile::ClusterCa, &layout.cert("ca.crt"))?),
            etcd: Some(value("etcd", "--listen-client-urls")?.unwrap_or_default()),
            apiport: Some(value("kube-apiserver", "--secure-port")?.unwrap_or_default()),
            kubelet_args: Some(kubelet_args),
            hostname_override: Some(name),
            cluster_cidr: value("kube-proxy", "--cluster-cidr")?.filter(|cidr| !cidr.is_empty()),
            ..cluster_v1::JoinResponse::default()
        })
    }

    /// The token of a node's kubelet, made when there is none. A new one counts once the API
    /// server has read the file again.
    fn kubelet_token(&self, node: &str, now: i64) -> Result<Secret, AdmitError> {
        let layout = &self.node.layout;
        let path = layout.credential(known_users::FILE);
        // The file is read and written anew by one join at a time.
        let one_at_a_time = lock(&self.token_files);
        let users = self.read(NodeFile::TokenOf("system:node"), &path)?;
        if let Some(token) = known_users::token_of(&users, &format!("system:node:{node}")) {
            return Ok(token);
        }
        history::begin_api_server_restart(layout, now)
            .map_err(unwritten(&path))?
            .map_err(AdmitError::TooManyRestarts)?;
        let token = first_join::random_text(32);
        let changed = Secret::new(known_users::with_kubelet(&users, &token, node));
        let access = Access::Keep { or: 0o600 };
        atomic_file::write(&path, changed.expose().as_bytes(), access).map_err(unwritten(&path))?;
        drop(one_at_a_time);
        self.node
            .platform
            .service(Action::Restart, Service::Kubelite)?;
        Ok(token)
    }
}

fn unwritten(path: &Path) -> impl FnOnce(io::Error) -> AdmitError {
    let path = path.display().to_string();
    move |source| AdmitError::Write { path, source }
}

fn join_host_port(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
