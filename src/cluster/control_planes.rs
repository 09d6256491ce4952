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
use crate::cluster::first_join;
use crate::cluster::kubernetes::{self, ListError};
use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::store::dqlite::{self, Member};
use crate::store::layout::ReadError;

/// How long an API server may take to answer. All are asked at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// More nodes than this serve no cluster's API.
const MOST: usize = 32;
/// A name in every API server's certificate, whatever its address.
const NAME: &str = "kubernetes.default.svc";

/// The addresses of the nodes that serve the cluster's API, without that of a node that joins. None where
/// there is no Kubernetes.
pub(crate) fn serving(node: &Node, joining: IpAddr) -> Result<Vec<IpAddr>, ListError> {
    let Some(endpoints) = kubernetes::api_servers(node.platform.as_ref())? else {
        return Ok(Vec::new());
    };
    let own = own_addresses(node);
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

/// Every address of this node.
fn own_addresses(node: &Node) -> BTreeSet<IpAddr> {
    let interfaces = node.platform.interfaces().unwrap_or_default();
    interfaces
        .into_iter()
        .map(|entry| endpoint::plain(entry.address))
        .collect()
}

/// The addresses of the datastore's members. It is asked itself where anybody but this node may be one.
fn members(node: &Node, endpoints: &BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let by_file = first_join::datastore_members(node).unwrap_or_default();
    let is_alone = by_file.len() <= 1 && endpoints.is_subset(own);
    let asked = (!is_alone)
        .then(|| node.platform.datastore_members(&node.layout.backend()).ok())
        .flatten()
        .and_then(|answer| dqlite::read_shell_answer(&answer).ok());
    asked
        .unwrap_or(by_file)
        .iter()
        .filter_map(Member::ip)
        .map(endpoint::plain)
        .collect()
}

/// Those at whose address an API server of this cluster answers.
fn answering(node: &Node, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let answers = |address: IpAddr| match ask(node, address) {
        Ok(()) => Some(address),
        Err(why) => {
            tracing::info!(%address, why, "no API server of this cluster answers there; workers are not sent there");
            None
        }
    };
    thread::scope(|scope| {
        let asked: Vec<_> = addresses
            .into_iter()
            .map(|address| scope.spawn(move || answers(address)))
            .collect();
        asked
            .into_iter()
            .filter_map(|one| one.join().unwrap_or_default())
            .collect()
    })
}

fn ask(node: &Node, address: IpAddr) -> Result<(), String> {
    let layout = &node.layout;
    let read = |name| layout.read(&layout.cert(name));
    let material = || -> Result<_, ReadError> {
        let port = node.arguments("kube-apiserver")?;
        let port = port.get("--secure-port").and_then(|port| port.parse().ok());
        Ok((
            port,
            read("ca.crt")?,
            read("kubelet.crt")?,
            Secret::new(read("kubelet.key")?),
        ))
    };
    let (port, authority, certificate, key) = material().map_err(|error| error.to_string())?;
    let port = port.ok_or("the port of API servers is not known")?;
    ApiServer::new(&address.to_string(), port, &authority, &certificate, &key)
        .and_then(|server| server.known_as(NAME).ask(ANSWER_LIMIT))
        .map(drop)
        .map_err(|error| error.to_string())
}
