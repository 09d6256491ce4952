//! Joining a cluster without high availability, on MicroK8s's own etcd: the older flow, for
//! nodes without the lock `ha-cluster`. Every node that joins becomes a worker.

use crate::base::secret::Secret;
use crate::cluster::first_join::random_text;
use crate::cluster::identity::{NodeKey, api_server_url};
use crate::cluster::join::answer::Answer;
use crate::cluster::join::begin;
use crate::cluster::join::change::Change;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::{Contact, Wanted};
use crate::cluster::join::worker::{Identities, REMOTE_CA, set_kubelet_of_worker};
use crate::cluster::node::{Node, Privacy};
use crate::cluster::operation::Progress;
use crate::model::join_stage::JoinStage;
use crate::model::token::Token;
use crate::pki::csr;
use crate::pki::kubeconfig::{self, Identity};
use crate::pki::name::Subject;
use crate::platform::{Action, Service};
use crate::wire::cluster_v1::JoinResponse;
use crate::wire::operation::JoinOrder;

/// All that the join needs, before anything is changed.
pub(crate) struct Plan {
    pub(crate) answer: Answer<JoinResponse>,
    callback: Secret,
    ca: String,
    etcd: String,
    etcd_request: String,
    etcd_certificate: String,
    server_key: NodeKey,
    server: String,
    authentication: Authentication,
}

/// How the node's services prove to the API server who they are.
enum Authentication {
    Certificates(Identities),
    Tokens { proxy: Token, kubelet: Token },
}

impl Plan {
    /// Asks to join, and has the certificates signed.
    pub(crate) fn prepare(
        node: &Node,
        order: &JoinOrder,
        contact: &mut Contact,
        progress: &mut dyn Progress,
    ) -> Result<Self, JoinError> {
        let callback = random_text(64);
        let answer = contact.join_v1(node, &callback)?;
        begin(JoinStage::Certificates, progress);
        let mode = answer.api_authn_mode.as_deref().unwrap_or("Token");
        if !["Cert", "Token"].contains(&mode) {
            return Err(JoinError::UnknownAuthMode(mode.to_owned()));
        }
        answer.need("kubelet_args", answer.kubelet_args.as_ref())?;
        answer.check()?;
        let ca = answer.need("ca", answer.ca.clone())?;
        let etcd = answer.need("etcd", answer.etcd.as_deref())?;
        let contacted = contact.address().to_string();
        let etcd = etcd.replace("0.0.0.0", &contacted);
        let port = answer.need("apiport", answer.apiport.as_deref())?;
        let server = api_server_url(&contacted, port);
        let proxy = answer.need("kubeproxy", answer.kubeproxy.clone())?;
        let kubelet = answer.need("kubelet", answer.kubelet.clone())?;

        let server_key = NodeKey::read_or_make(node, "server")?;
        let wanted = Wanted {
            certificate: "etcd",
            subject: &Subject::microk8s_server(),
            names: &[],
            key: &server_key,
        };
        let etcd_request = csr::create(wanted.subject, wanted.names, &server_key.key)?;
        let token = contact.token.clone();
        let etcd_certificate = contact.sign(&wanted, token, etcd_request.clone(), &ca)?;
        let authentication = if mode == "Cert" {
            let tokens = [&proxy, &kubelet];
            let identities = Identities::obtain(node, contact, &ca, tokens, order.node_ip)?;
            Authentication::Certificates(identities)
        } else {
            Authentication::Tokens { proxy, kubelet }
        };
        Ok(Self {
            answer,
            callback,
            ca,
            etcd,
            etcd_request,
            etcd_certificate,
            server_key,
            server,
            authentication,
        })
    }

    /// Changes the node.
    pub(crate) fn apply(
        &self,
        change: &mut Change<'_>,
        order: &JoinOrder,
        progress: &mut dyn Progress,
    ) -> Result<(), JoinError> {
        let answer = &self.answer;
        let layout = &change.node().layout;
        let callback = Secret::new(format!("{}\n", self.callback.expose()));
        change.callback_token(Some(&callback), None);
        change.pod_network(answer.cluster_cidr.as_deref())?;
        change.kubelet(
            answer.kubelet_args.as_deref().unwrap_or_default(),
            answer.hostname_override.as_deref().unwrap_or_default(),
            order,
            set_kubelet_of_worker,
        );
        let path = layout.cert("ca.remote.crt");
        change.steps.write(&path, &self.ca, Privacy::Group);

        change.key("server", &self.server_key);
        let path = layout.cert("server.remote.csr");
        change.steps.rewrite(&path, &self.etcd_request, 0o644);
        let path = layout.cert("server.remote.crt");
        change
            .steps
            .write(&path, &self.etcd_certificate, Privacy::Group);
        change.steps.arguments("flanneld", |arguments| {
            arguments.set("--etcd-endpoints", &self.etcd);
            arguments.set("--etcd-cafile", REMOTE_CA);
            arguments.set("--etcd-certfile", "${SNAP_DATA}/certs/server.remote.crt");
            arguments.set("--etcd-keyfile", "${SNAP_DATA}/certs/server.key");
        })?;
        change.steps.service(Action::Restart, Service::Flanneld);

        change.kube_proxy()?;
        match &self.authentication {
            Authentication::Certificates(identities) => {
                identities.apply(change, &self.ca, &self.server);
            }
            Authentication::Tokens { proxy, kubelet } => {
                for (name, user, token) in [
                    ("proxy.config", "kubeproxy", proxy),
                    ("kubelet.config", "kubelet", kubelet),
                ] {
                    let token = Secret::new(token.expose());
                    let text =
                        kubeconfig::text(&self.ca, &self.server, user, &Identity::Token(&token));
                    change.steps.kubeconfig(name, &text);
                    change.steps.service(Action::Restart, Service::Kubelite);
                }
            }
        }
        change.begin_services();
        change.become_worker()?;
        change.apply(progress)
    }
}
