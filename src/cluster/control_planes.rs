//! Which nodes serve the cluster's API, by what only API servers and the datastore write.
//!
//! Two lists say so: the endpoints of the service `kubernetes`, which the API servers write, and the
//! members of the datastore, where that is MicroK8s's. Each may be some seconds behind: an API server
//! that has ended stands among the endpoints until its lease is over. Who is in one list alone has to
//! answer, under the cluster's authority.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use crate::base::secret::Secret;
use crate::client::api_server::ApiServer;
use crate::client::pinned_tls::{CONTROL_PLANE_NAME, Identity};
use crate::client::remote::{Peer, Wait};
use crate::cluster::kubernetes::{self, ListError};
use crate::cluster::node::Node;
use crate::cluster::{first_join, join, token_admin};
use crate::model::endpoint;
use crate::model::fingerprint::Fingerprint;
use crate::store::dqlite::Member;

/// How long an API server may take to answer. All are asked at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// More nodes than this serve no cluster's API.
const MOST: usize = 32;

/// The addresses of the nodes that serve the cluster's API, without that of a node that joins. None where
/// there is no Kubernetes.
pub(crate) fn serving(node: &Node, joining: IpAddr) -> Result<Vec<IpAddr>, ListError> {
    let Some(endpoints) = kubernetes::api_servers_of(node)? else {
        return Ok(Vec::new());
    };
    let own = node.own_addresses();
    let members = node.uses_dqlite().then(|| members(node, &endpoints, &own));
    let candidates = members.as_ref().unwrap_or(&endpoints);
    let others = candidates
        .iter()
        .copied()
        .filter(|address| *address != joining)
        .take(MOST);
    let (certain, asked): (Vec<IpAddr>, Vec<IpAddr>) = others.partition(|address| {
        let is_in_both = members.is_some() && endpoints.contains(address);
        is_in_both || own.contains(address)
    });
    let mut serving: Vec<IpAddr> = certain
        .into_iter()
        .filter(|address| endpoints.contains(address))
        .collect();
    serving.extend(answering(node, asked));
    serving.sort_unstable();
    Ok(serving)
}

/// The addresses of the datastore's members. It is asked itself where anybody but this node may be one.
fn members(node: &Node, endpoints: &BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let by_file = first_join::datastore_members(node).unwrap_or_default();
    let is_alone = by_file.len() <= 1 && endpoints.is_subset(own);
    let asked = (!is_alone).then(|| node.datastore_members().ok()).flatten();
    asked
        .unwrap_or(by_file)
        .iter()
        .filter_map(Member::ip)
        .map(endpoint::plain)
        .collect()
}

/// Those at whose address an API server of this cluster answers.
fn answering(node: &Node, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let answers = |address: IpAddr| match ask(node, address, ANSWER_LIMIT) {
        Ok(_) => Some(address),
        Err(why) => {
            tracing::info!(%address, why, "no API server of this cluster answers there; workers are not sent there");
            None
        }
    };
    at_once(addresses, answers).into_iter().flatten().collect()
}

/// Asks at all these addresses at once; the answers come in the same order.
fn at_once<T: Send>(
    addresses: impl IntoIterator<Item = IpAddr>,
    ask: impl Fn(IpAddr) -> T + Sync,
) -> Vec<T> {
    let ask = &ask;
    thread::scope(|scope| {
        let asked: Vec<_> = addresses
            .into_iter()
            .take(MOST)
            .map(|address| scope.spawn(move || ask(address)))
            .collect();
        let answers = asked.into_iter().filter_map(|one| one.join().ok());
        answers.collect()
    })
}

/// What is known of the other control plane nodes.
pub(crate) struct Others {
    /// Each with its address, and the fingerprint of the certificate that it serves.
    pub(crate) serving: Vec<(IpAddr, Fingerprint)>,
    /// Those that gave no such certificate, and why not.
    pub(crate) silent: Vec<(IpAddr, String)>,
    /// Why Kubernetes could not be asked for them.
    pub(crate) unlisted: Option<ListError>,
}

/// The other control plane nodes that the datastore or Kubernetes lists. Each is connected to, at the
/// port of this node's agent, and has to show a certificate of this cluster's authority.
pub(crate) fn others(node: &Node, own: Fingerprint) -> Others {
    let own_addresses = node.own_addresses();
    let (mut listed, unlisted) = match kubernetes::api_servers_soon(node.platform.as_ref()) {
        Ok(endpoints) => (endpoints.unwrap_or_default(), None),
        Err(error) => (BTreeSet::new(), Some(error)),
    };
    if node.uses_dqlite() {
        let members = members(node, &listed, &own_addresses);
        // One that is alone is this node, wherever it listens.
        listed.extend(members.iter().filter(|_| members.len() > 1));
    }
    let port = node.agent_bind().port();
    let authority = node.layout.read(&node.layout.cert("ca.crt"));
    let authority = authority.map_err(|error| error.to_string());
    let expected = authority.and_then(|authority| Identity::control_plane(&authority));
    let shown = |address: IpAddr| {
        let wait = Wait::within(ANSWER_LIMIT);
        let shown = expected.clone().and_then(|expected| {
            Peer::connect(&wait, (address, port).into(), None, expected)
                .map(|peer| Fingerprint::of(peer.certificate()))
                .map_err(|error| error.to_string())
        });
        (address, shown)
    };
    let addresses = listed.difference(&own_addresses).copied();
    let (mut serving, mut silent) = (Vec::<(IpAddr, Fingerprint)>::new(), Vec::new());
    for (address, shown) in at_once(addresses, shown) {
        match shown {
            // One more address of a node.
            Ok(shown) if shown == own || serving.iter().any(|(_, known)| *known == shown) => {}
            Ok(shown) => serving.push((address, shown)),
            Err(why) => silent.push((address, why)),
        }
    }
    Others {
        serving,
        silent,
        unlisted,
    }
}

/// Asks the API server at an address of this cluster whether it is ready; the status with which it
/// answers.
pub(crate) fn ask(node: &Node, address: IpAddr, limit: Duration) -> Result<u16, String> {
    let layout = &node.layout;
    let read = |name| {
        layout
            .read(&layout.cert(name))
            .map_err(|error| error.to_string())
    };
    let (certificate, key) = (read("kubelet.crt")?, Secret::new(read("kubelet.key")?));
    let authority = token_admin::authority(layout).ok_or("the cluster's authority is not known")?;
    let port = join::api_port(node);
    let client = Some((certificate.as_str(), &key));
    ApiServer::new(&address.to_string(), port, &authority, client)
        .and_then(|server| server.known_as(CONTROL_PLANE_NAME).ask(limit))
        .map_err(|error| error.to_string())
}
