//! Joining a cluster on dqlite as a worker.

use std::net::IpAddr;

use crate::cluster::fresh_node::node_names;
use crate::cluster::identity::{NodeKey, api_server_url};
use crate::cluster::join::answer::Answer;
use crate::cluster::join::change::{Change, NODE_LABELS};
use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::{Contact, Wanted};
use crate::cluster::join::proxy;
use crate::cluster::node::{Node, Privacy};
use crate::cluster::operation::Progress;
use crate::model::endpoint;
use crate::model::token::Token;
use crate::model::token_record::CertificatePurpose;
use crate::pki::name::{AltName, Subject};
use crate::pki::{ca, csr};
use crate::platform::{Action, Service};
use crate::store::args_file::ArgsFile;
use crate::store::layout::Lock;
use crate::store::traefik;
use crate::wire::cluster_v2::JoinResponse;
use crate::wire::operation::JoinOrder;

/// The labels of a worker.
const WORKER_LABELS: &str =
    "microk8s.io/cluster=true,node.kubernetes.io/microk8s-worker=microk8s-worker";
/// The cluster's CA on a worker, as arguments name it.
pub(super) const REMOTE_CA: &str = "${SNAP_DATA}/certs/ca.remote.crt";

/// What the kubelet of a worker has in place of the contacted node's.
pub(super) fn set_kubelet_of_worker(arguments: &mut ArgsFile) {
    arguments.set("--client-ca-file", REMOTE_CA);
    arguments.set(NODE_LABELS, WORKER_LABELS);
}

/// All that the join needs, before anything is changed.
pub(crate) struct Plan {
    answer: Answer<JoinResponse>,
    identities: Identities,
    provider: String,
    server: String,
    ca: String,
}

impl Plan {
    /// Reads the answer, and has the node's certificates signed.
    pub(crate) fn prepare(
        node: &Node,
        order: &JoinOrder,
        answer: Answer<JoinResponse>,
        contact: &mut Contact,
    ) -> Result<Self, JoinError> {
        let own = answer.need("hostname_override", answer.hostname_override.as_deref())?;
        let own = own
            .parse::<IpAddr>()
            .map_err(|error| answer.bad("hostname_override", error))?;
        answer.check()?;
        if answer.ca_key.is_some() {
            return Err(JoinError::NoWorkers);
        }
        let ca = answer.need("ca", answer.ca.clone())?;
        let port = answer.need("apiport", answer.apiport.as_deref())?;
        answer.need("kubelet_args", answer.kubelet_args.as_ref())?;
        answer.need_callback_token()?;
        ca::certificate_der(&ca).map_err(|error| answer.bad("ca", error))?;
        let proxy = node
            .layout
            .read(&node.layout.args("traefik/traefik-template.yaml"))?;
        let template_path = node.layout.args("traefik/provider-template.yaml");
        let template = node.layout.read(&template_path)?;
        let port = port.parse().map_err(|error| answer.bad("apiport", error))?;
        let mut endpoints = vec![endpoint::join(contact.address(), port)];
        let own_addresses = own_addresses(node, own)?;
        let others = answer.control_plane_nodes.iter().flatten();
        for other in answer.list("control_plane_nodes", others)? {
            let address = other
                .parse()
                .map_err(|error| answer.bad("control_plane_nodes", error))?;
            let other = endpoint::join(address, port);
            // A worker that was a control plane node before may be listed still: its proxy would
            // lead to itself.
            if !endpoints.contains(&other) && !own_addresses.contains(&endpoint::plain(address)) {
                endpoints.push(other);
            }
        }
        let provider =
            traefik::with_servers(&template, &endpoints).map_err(|why| JoinError::Unreadable {
                path: template_path,
                why,
            })?;
        let token = contact.token.clone();
        let identities = Identities::obtain(node, contact, &ca, [&token, &token], order.node_ip)?;
        Ok(Self {
            answer,
            identities,
            provider,
            server: proxied_server(&proxy),
            ca,
        })
    }

    /// Files and services change in the order of recording `join-worker-ok`.
    pub(crate) fn apply(
        &self,
        change: &mut Change<'_>,
        order: &JoinOrder,
        progress: &mut dyn Progress,
    ) -> Result<(), JoinError> {
        let answer = &self.answer;
        let layout = &change.node().layout;
        change.pod_network(answer.cluster_cidr.as_deref())?;
        change
            .steps
            .write(&layout.cert("ca.remote.crt"), &self.ca, Privacy::Group);
        change.api_server(answer.api_authz_mode.as_deref(), answer.apiport.as_deref())?;
        change.kubelet(
            answer.kubelet_args.as_deref().unwrap_or_default(),
            answer.hostname_override.as_deref().unwrap_or_default(),
            order,
            set_kubelet_of_worker,
        );
        change.kube_proxy()?;
        self.identities.apply(change, &self.ca, &self.server);
        change.callback_token(
            answer.callback_token.as_ref(),
            answer.callback_token_sha256.as_ref(),
        );
        change.unlock(Lock::NoApiserverProxy);
        change.steps.write(
            &layout.args("traefik/provider.yaml"),
            &self.provider,
            Privacy::Group,
        );
        change.begin_services();
        change
            .steps
            .service(Action::Restart, Service::ApiserverProxy);
        change.become_worker()?;
        change.apply(progress)?;
        proxy::wait_until_answered(change.node(), &self.server, order, change.end, progress)
    }
}

/// The addresses of this node, and the one that the contacted node sees.
fn own_addresses(node: &Node, known_as: IpAddr) -> Result<Vec<IpAddr>, JoinError> {
    let interfaces = node.platform.interfaces().map_err(JoinError::Machine)?;
    let own = interfaces.into_iter().map(|entry| entry.address);
    Ok(own.chain([known_as]).map(endpoint::plain).collect())
}

/// The addresses that a certificate names: no more than are signed beside the host name. Those that
/// matter come first, then the others in their order.
pub(super) fn foremost(mut addresses: Vec<IpAddr>, first: [Option<IpAddr>; 2]) -> Vec<IpAddr> {
    const MOST: usize = 63;
    addresses.sort_by_key(|address| {
        first
            .iter()
            .position(|wanted| *wanted == Some(*address))
            .unwrap_or(first.len())
    });
    addresses.truncate(MOST);
    addresses
}

/// The certificates of kube-proxy and of the kubelet, signed by the cluster.
pub(super) struct Identities {
    proxy: (NodeKey, String),
    kubelet: (NodeKey, String),
    hostname: String,
}

impl Identities {
    /// Has both signed; kube-proxy's first, as MicroK8s does (recording `join-sign-fails`). The tokens
    /// are those of kube-proxy and of the kubelet.
    pub(crate) fn obtain(
        node: &Node,
        contact: &mut Contact,
        ca: &str,
        [proxy_token, kubelet_token]: [&Token; 2],
        node_ip: Option<IpAddr>,
    ) -> Result<Self, JoinError> {
        let hostname = node.name().map_err(JoinError::Machine)?;
        let addresses = node
            .addresses(node.agent_bind().ip())
            .map_err(JoinError::Machine)?;
        let addresses = foremost(addresses, [contact.greeting.1, node_ip]);
        let mut obtain = |certificate, token, subject: &Subject, names: &[AltName]| {
            let key = NodeKey::read_or_make(node, certificate)?;
            let request = csr::create(subject, names, &key.key)?;
            let wanted = Wanted {
                certificate,
                subject,
                names,
                key: &key,
            };
            let signed = contact.sign(&wanted, token, request, ca)?;
            Ok::<_, JoinError>((key, signed))
        };
        let token = proxy_token.with_suffix(CertificatePurpose::Proxy.suffix());
        let subject = Subject::common_name("system:kube-proxy");
        let proxy = obtain("proxy", token, &subject, &[])?;
        let token = kubelet_token.with_suffix(CertificatePurpose::Kubelet.suffix());
        let names = node_names(&hostname, &addresses);
        let kubelet = obtain("kubelet", token, &Subject::kubelet(&hostname), &names)?;
        Ok(Self {
            proxy,
            kubelet,
            hostname,
        })
    }

    /// Writes keys, certificates and kubeconfigs.
    pub(crate) fn apply(&self, change: &mut Change<'_>, ca: &str, server: &str) {
        let users = [
            ("proxy", &self.proxy, "system:kube-proxy".to_owned()),
            (
                "kubelet",
                &self.kubelet,
                format!("system:node:{}", self.hostname),
            ),
        ];
        for (name, (key, certificate), user) in users {
            change.key(name, key);
            let path = change.node().layout.cert(&format!("{name}.crt"));
            change.steps.write(&path, certificate, Privacy::Group);
            let text = key.kubeconfig(ca, server, &user, certificate);
            change.steps.kubeconfig(&format!("{name}.config"), &text);
        }
    }
}

/// Where a worker's services reach the API server: the proxy on the node itself, at the address
/// in its configuration.
pub(super) fn proxied_server(template: &str) -> String {
    let address = traefik::listen_address(template);
    let address = address.as_deref().unwrap_or(":16443");
    let (host, port) = endpoint::split(address).unwrap_or(("", "16443"));
    api_server_url(if host.is_empty() { "127.0.0.1" } else { host }, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_the_addresses_that_matter_and_no_more_than_are_signed() {
        let address = |number: u8| IpAddr::from([10, 99, 1, number]);
        let many: Vec<IpAddr> = (0..100).map(address).collect();
        let named = foremost(many.clone(), [Some(address(90)), Some(address(70))]);
        assert_eq!(named.len(), 63);
        assert_eq!(named[..4], [90, 70, 0, 1].map(address));
        assert_eq!(foremost(many[..3].to_vec(), [None, None]), many[..3]);
    }

    #[test]
    fn a_worker_talks_to_its_own_proxy() {
        let template =
            |address: &str| format!("entryPoints:\n  apiserver:\n    address: \"{address}\"\n");
        for (address, server) in [
            (":16443", "https://127.0.0.1:16443"),
            ("1.1.1.1:6443", "https://1.1.1.1:6443"),
            ("[::1]:16443", "https://[::1]:16443"),
        ] {
            assert_eq!(proxied_server(&template(address)), server);
        }
        assert_eq!(proxied_server("nope"), "https://127.0.0.1:16443");
    }
}
