//! Letting a worker into a cluster on MicroK8s's own etcd, by the older interface.

use std::sync::PoisonError;

use crate::base::atomic_file::{self, Access};
use crate::base::secret::Secret;
use crate::cluster::admit::checks::{self, Asked};
use crate::cluster::admit::{AdmitError, Caller, Gate};
use crate::cluster::first_join::{self, Needs};
use crate::host::{Action, Service};
use crate::model::role::Role;
use crate::model::token::Token;
use crate::store::admissions::CertificatePurpose;
use crate::store::{known_users, token_files};
use crate::wire::cluster_v1;

impl Gate {
    /// A node joins a cluster on MicroK8s's own etcd.
    pub fn join_v1(
        &self,
        request: &cluster_v1::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v1::JoinResponse, AdmitError> {
        let claim = self.claim(&request.token, &request.hostname, Role::Worker, caller)?;
        self.check(checks::V1, &Asked::v1(request, &claim.node, caller))?;
        let layout = &self.node.layout;
        let name = if self.leads_to(&request.hostname, caller.remote) {
            request.hostname.clone()
        } else {
            caller.remote.to_string()
        };
        let mut kubelet_args = layout.read(&layout.args("kubelet"))?;
        if name != request.hostname {
            kubelet_args.push_str(&format!("\n--hostname-override={name}"));
        }
        let value = |service: &str, key: &str| -> Result<Option<String>, AdmitError> {
            Ok(self.node.arguments(service)?.get(key).map(str::to_owned))
        };
        let mut answer = cluster_v1::JoinResponse {
            ca: Some(layout.read(&layout.cert("ca.crt"))?),
            etcd: Some(value("etcd", "--listen-client-urls")?.unwrap_or_default()),
            apiport: Some(value("kube-apiserver", "--secure-port")?.unwrap_or_default()),
            kubelet_args: Some(kubelet_args),
            hostname_override: Some(name.clone()),
            cluster_cidr: value("kube-proxy", "--cluster-cidr")?.filter(|cidr| !cidr.is_empty()),
            ..cluster_v1::JoinResponse::default()
        };

        let reservation = self
            .tokens
            .reserve(&request.token, &claim, |node| self.is_member(node))?
            .map_err(AdmitError::InvalidToken)?;
        let until = self.tokens.lease_end();
        let asking = self
            .readiness
            .prepare(&self.node, &Needs { datastore: None }, until)?;
        let _one_at_a_time = self
            .token_files
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut certificates = vec![CertificatePurpose::Etcd];
        if request.can_handle_x509_auth {
            answer.api_authn_mode = Some("Cert".into());
            answer.kubeproxy = Some(request.token.clone());
            answer.kubelet = Some(request.token.clone());
            certificates.extend([CertificatePurpose::Kubelet, CertificatePurpose::Proxy]);
        } else {
            answer.api_authn_mode = Some("Token".into());
            answer.kubeproxy = Some(Token::presented(
                self.known_token("system:kube-proxy")?.expose(),
            ));
            answer.kubelet = Some(Token::presented(self.kubelet_token(&name)?.expose()));
        }
        let callback = format!(
            "{} {}",
            join_host_port(&name, &request.port),
            request.callback.expose()
        );
        self.append(token_files::CALLBACK_TOKENS, &callback)?;
        reservation
            .commit(&certificates, !request.can_handle_x509_auth)?
            .map_err(AdmitError::InvalidToken)?;
        self.readiness.let_in(&self.node, claim.node, until);
        drop(asking);
        Ok(answer)
    }

    /// The token of a node's kubelet, made when there is none. A new one counts once the API
    /// server has read the file again.
    fn kubelet_token(&self, node: &str) -> Result<Secret, AdmitError> {
        let layout = &self.node.layout;
        let path = layout.credential(known_users::FILE);
        let users = layout.read(&path)?;
        if let Some(token) = known_users::token_of(&users, &format!("system:node:{node}")) {
            return Ok(token);
        }
        let token = first_join::random_text(32);
        let changed = Secret::new(known_users::with_kubelet(&users, &token, node));
        let access = Access::Keep { or: 0o600 };
        atomic_file::write(&path, changed.expose().as_bytes(), access).map_err(|source| {
            AdmitError::Write {
                path: path.display().to_string(),
                source,
            }
        })?;
        self.node.host.service(Action::Restart, Service::Kubelite)?;
        Ok(token)
    }

    fn append(&self, file: &str, line: &str) -> Result<(), AdmitError> {
        let path = self.node.layout.credential(file);
        token_files::append(&path, line, self.node.token_file_sharing()).map_err(|source| {
            AdmitError::Write {
                path: path.display().to_string(),
                source,
            }
        })
    }
}

fn join_host_port(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
