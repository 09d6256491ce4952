//! Where a worker finds the API servers of its cluster: whether that still leads anywhere, and how it
//! is set to where one of them is now.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::base::secret::Secret;
use crate::client::remote;
use crate::cluster::identity::api_server_url;
use crate::cluster::join::change::Change;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::{proxy, source_address};
use crate::cluster::node::{Node, Privacy};
use crate::cluster::operation::Progress;
use crate::model::endpoint;
use crate::platform::{Action, Service};
use crate::store::traefik;
use crate::wire::operation::JoinOrder;

/// How long a port may take to answer.
const REACH_LIMIT: Duration = Duration::from_secs(3);
/// Kubeconfigs of a worker's services; older nodes name a control plane node there.
const KUBECONFIGS: [&str; 2] = ["kubelet.config", "proxy.config"];

/// Settings that lead to no API server any more.
#[derive(Debug)]
pub(crate) struct Stale {
    /// Where they lead.
    pub(crate) old: Vec<SocketAddr>,
    /// The API server that they are set to.
    pub(crate) new: SocketAddr,
}

/// The port of the cluster's API servers, as this node knows it.
pub(crate) fn api_port(node: &Node) -> u16 {
    node.arguments("kube-apiserver")
        .ok()
        .and_then(|arguments| arguments.get("--secure-port")?.parse().ok())
        .unwrap_or(endpoint::API_SERVER_PORT)
}

/// Whether this API server is none that the node knows.
pub(crate) fn is_other(node: &Node, address: IpAddr, port: u16) -> bool {
    !known(node).contains(&SocketAddr::new(address, port))
}

/// Whether all API servers that the node knows are gone, and this one is none of them.
pub(crate) fn stale(node: &Node, address: IpAddr, port: u16) -> Option<Stale> {
    let new = SocketAddr::new(address, port);
    let old = known(node);
    let is_stale = !old.is_empty()
        && old
            .iter()
            .all(|known| known.ip() != address && !answers(node, *known));
    is_stale.then_some(Stale { old, new })
}

/// Whether anything listens there. A standalone node has no API server, but an agent.
fn answers(node: &Node, mut server: SocketAddr) -> bool {
    if node.is_standalone() {
        server.set_port(node.agent_bind().port());
    }
    let from = source_address(node, server.ip());
    remote::reach(server, from, REACH_LIMIT).is_ok()
}

/// The API servers that the node's settings name, but for its own proxy.
pub(crate) fn known(node: &Node) -> Vec<SocketAddr> {
    let layout = &node.layout;
    let provider = layout.read(&provider(node)).unwrap_or_default();
    let servers = traefik::servers(&provider).unwrap_or_default();
    let mut known: Vec<SocketAddr> = servers
        .iter()
        .filter_map(|server| server.parse().ok())
        .collect();
    for name in KUBECONFIGS {
        let text = layout.read(&layout.credential(name)).map(Secret::new);
        known.extend(text.ok().and_then(|text| server_of(text.expose())));
    }
    known
}

fn provider(node: &Node) -> PathBuf {
    node.layout.args("traefik/provider.yaml")
}

/// The address in a kubeconfig's `server`, where that is another machine.
fn server_of(kubeconfig: &str) -> Option<SocketAddr> {
    let line = kubeconfig.lines().find_map(|line| {
        let server = line
            .trim()
            .strip_prefix("server:")?
            .trim()
            .trim_matches('"');
        server.strip_prefix("https://")
    })?;
    let (host, port) = endpoint::split(line)?;
    let host: IpAddr = host.parse().ok()?;
    (!host.is_loopback()).then_some(SocketAddr::new(host, port.parse().ok()?))
}

/// Sets the node to the API server that was found; all is as it was when that fails.
pub(crate) fn repair(
    node: &Node,
    stale: &Stale,
    order: &JoinOrder,
    end: Instant,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    progress.changes_begin();
    let mut change = Change::new(node, end);
    let done = apply(&mut change, stale, order, end, progress)
        .and_then(|()| change.commit("taken over the API server's new address", progress));
    done.map_err(|error| change.take_back(error))
}

fn apply(
    change: &mut Change<'_>,
    stale: &Stale,
    order: &JoinOrder,
    end: Instant,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    let node = change.node();
    let layout = &node.layout;
    let path = provider(node);
    if path.exists() {
        let text = layout.read(&path)?;
        let server = endpoint::join(stale.new.ip(), stale.new.port());
        let text =
            traefik::with_servers(&text, &[server]).map_err(|why| JoinError::Unreadable {
                path: path.clone(),
                why,
            })?;
        change.steps.write(&path, &text, Privacy::Group);
        change
            .steps
            .service(Action::Restart, Service::ApiserverProxy);
    }
    let new = api_server_url(&stale.new.ip().to_string(), &stale.new.port().to_string());
    let mut has_changed = false;
    for name in KUBECONFIGS {
        let text = Secret::new(layout.read(&layout.credential(name))?);
        if let Some(old) = server_of(text.expose()) {
            let old = api_server_url(&old.ip().to_string(), &old.port().to_string());
            let text = Secret::new(text.expose().replace(&old, &new));
            change.steps.kubeconfig(name, &text);
            has_changed = true;
        }
    }
    if has_changed {
        change.steps.service(Action::Restart, Service::Kubelite);
    }
    change.apply(progress)?;
    if has_changed {
        return Ok(());
    }
    let (host, port) = proxy::own_server(node)?;
    let server = api_server_url(&host, &port.to_string());
    proxy::wait_until_answered(node, &server, order, end, progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_names_another_machine_or_the_nodes_own_proxy() {
        for (line, server) in [
            (
                "    server: https://10.99.0.11:16443",
                Some("10.99.0.11:16443"),
            ),
            (
                "    server: https://[fd00::1]:16443",
                Some("[fd00::1]:16443"),
            ),
            ("    server: https://127.0.0.1:16443", None),
            ("    server: https://cluster.example:16443", None),
            ("", None),
        ] {
            let text = format!("clusters:\n- cluster:\n{line}\n");
            assert_eq!(
                server_of(&text),
                server.map(|text| text.parse().unwrap()),
                "{line}"
            );
        }
    }
}
