//! What Kubernetes says of the cluster's nodes, in the JSON that `kubectl get -o json` prints.
//!
//! A node writes its labels and its addresses itself, a worker too: root there can write anything.
//! Only what API servers alone write says which nodes serve the cluster's API.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::platform::{CommandError, Platform};

/// Where MicroK8s marks a control plane node.
const CONTROL_PLANE: &str = "node.kubernetes.io/microk8s-controlplane";

/// What asks for the endpoints that the API servers write.
const API_SERVERS: [&str; 7] = [
    "get",
    "endpoints",
    "kubernetes",
    "-n",
    "default",
    "-o",
    "json",
];

/// The same in the API.
pub(crate) const API_SERVERS_PATH: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

/// How long a list may take where a request waits for it; `kubectl` makes several
/// requests, each of which may take five seconds.
const SOON: Duration = Duration::from_secs(7);

/// A node, as Kubernetes lists it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name; empty where it has none.
    pub(crate) name: String,
    /// Its internal addresses, as it says itself; a node that has never started may have none.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether it calls itself a control plane node.
    pub(crate) claims_control_plane: bool,
    /// Whether it is ready, as Kubernetes has it: `True`, `False`, or `Unknown` when its kubelet is
    /// silent; nothing before the kubelet has reported for the first time.
    pub(crate) ready: Option<String>,
    /// What must be done before Kubernetes lets it go.
    pub(crate) finalizers: Vec<String>,
}

/// Why the API servers are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    /// Kubernetes could not be asked.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// What came is something else.
    #[error("kubectl gave no list of API servers")]
    NoList,
}

/// The nodes that have a name; none where there is no Kubernetes. An API server that does not
/// answer soon is an error, because a request waits for this.
pub(crate) fn nodes(host: &dyn Platform) -> Result<Vec<Listed>, CommandError> {
    Ok(list(host)?.unwrap_or_default())
}

/// [`nodes`], or `None` where there is no Kubernetes.
pub(crate) fn list(host: &dyn Platform) -> Result<Option<Vec<Listed>>, CommandError> {
    let arguments = ["get", "no", "-o", "json", "--request-timeout=5s"];
    let list = host.kubectl_within(SOON, &arguments)?;
    let mut nodes = list.and_then(|list| read(&list));
    if let Some(nodes) = &mut nodes {
        nodes.retain(|node| !node.name.is_empty());
    }
    Ok(nodes)
}

/// Where the cluster's API servers say that they serve, or `None` where there is no Kubernetes to ask. Each of
/// them writes its own address there, and takes out those that are silent for a while.
pub(crate) fn api_servers(host: &dyn Platform) -> Result<Option<BTreeSet<IpAddr>>, ListError> {
    read_api_servers(host.kubectl(&API_SERVERS)?)
}

/// [`api_servers`], over the connection that the agent keeps where that answers.
pub(crate) fn api_servers_of(node: &Node) -> Result<Option<BTreeSet<IpAddr>>, ListError> {
    match node.in_api(API_SERVERS_PATH) {
        Some(answer) => read_endpoints(&answer).map(Some).ok_or(ListError::NoList),
        None => api_servers(node.platform.as_ref()),
    }
}

/// [`api_servers`], where a request waits for the answer.
pub(crate) fn api_servers_soon(host: &dyn Platform) -> Result<Option<BTreeSet<IpAddr>>, ListError> {
    read_api_servers(host.kubectl_within(SOON, &API_SERVERS)?)
}

fn read_api_servers(answer: Option<String>) -> Result<Option<BTreeSet<IpAddr>>, ListError> {
    let Some(answer) = answer else {
        return Ok(None);
    };
    let answer = serde_json::from_str(&answer).unwrap_or_default();
    read_endpoints(&answer).map(Some).ok_or(ListError::NoList)
}

/// The names of the nodes with this internal address. Each node says of itself which it has.
pub(crate) fn names_of(host: &dyn Platform, address: IpAddr) -> Vec<String> {
    let list = host.kubectl(&["get", "no", "-o", "json"]).ok().flatten();
    let nodes = list.and_then(|list| read(&list)).unwrap_or_default();
    let has_it = nodes
        .into_iter()
        .filter(|node| node.addresses.contains(&address) && !node.name.is_empty());
    has_it.map(|node| node.name).collect()
}

/// The node of this name, or `None` where there is no Kubernetes to ask.
pub(crate) fn find(host: &dyn Platform, name: &str) -> Result<Option<Listed>, CommandError> {
    let found = host.kubectl(&["get", "no", name, "-o", "json"])?;
    Ok(found.map(|found| read_node(&serde_json::from_str(&found).unwrap_or_default())))
}

/// Whether the kubelet of a node is ready, as Kubernetes has it; nothing before it has said anything.
pub(super) fn ready(node: &Value) -> Option<String> {
    let conditions = node["status"]["conditions"].as_array()?;
    let ready = conditions.iter().find(|one| one["type"] == "Ready")?;
    Some(ready["status"].as_str().unwrap_or_default().to_owned())
}

fn read(list: &str) -> Option<Vec<Listed>> {
    let list: Value = serde_json::from_str(list).ok()?;
    let items = list["items"].as_array()?;
    Some(items.iter().map(read_node).collect())
}

fn read_node(node: &Value) -> Listed {
    let metadata = &node["metadata"];
    let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
    Listed {
        name: metadata["name"].as_str().unwrap_or_default().to_owned(),
        addresses: internal_addresses(node),
        claims_control_plane: metadata["labels"].get(CONTROL_PLANE).is_some(),
        ready: ready(node),
        finalizers: finalizers
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect(),
    }
}

fn read_endpoints(answer: &Value) -> Option<BTreeSet<IpAddr>> {
    (answer["kind"] == "Endpoints").then(|| addresses_of(answer).collect())
}

/// The addresses behind a service.
pub(super) fn addresses_of(endpoints: &Value) -> impl Iterator<Item = IpAddr> {
    let subsets = endpoints["subsets"].as_array().into_iter().flatten();
    subsets
        .flat_map(|subset| subset["addresses"].as_array().into_iter().flatten())
        .filter_map(|entry| endpoint::read_address(entry["ip"].as_str()?))
}

fn internal_addresses(node: &Value) -> Vec<IpAddr> {
    node["status"]["addresses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["type"] == "InternalIP")
        .filter_map(|entry| entry["address"].as_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_claims_are_read_where_they_are_there() {
        let list = r#"{"items": [
            {"metadata": {"name": "n1", "labels": {"node.kubernetes.io/microk8s-controlplane": "microk8s-controlplane"}},
             "status": {"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.99.0.11"},
                {"type": "InternalIP", "address": "fd00::b"}]}},
            {"metadata": {"name": "n2"}},
            {"metadata": {}}
        ]}"#;
        let listed = |name: &str, addresses: &[&str], claims_control_plane| Listed {
            name: name.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            claims_control_plane,
            ..Listed::default()
        };
        let n1 = listed("n1", &["10.99.0.11", "fd00::b"], true);
        let [n2, nameless] = ["n2", ""].map(|name| listed(name, &[], false));
        assert_eq!(read(list), Some(vec![n1, n2, nameless]));
        assert_eq!(read(r#"{"items": []}"#), Some(vec![]));
        assert_eq!(read(r#"{"kind": "Status"}"#), None);
        assert_eq!(read("nope"), None);
    }

    #[test]
    fn api_servers_are_read_from_all_subsets() {
        let answer = r#"{"kind": "Endpoints", "subsets": [
            {"addresses": [{"ip": "10.99.0.11"}, {"ip": "10.99.0.12"}], "ports": [{"port": 16443}]},
            {"addresses": [{"ip": "fd00::b"}, {"hostname": "x"}], "notReadyAddresses": [{"ip": "10.99.0.14"}]}
        ]}"#;
        let expected = ["10.99.0.11", "10.99.0.12", "fd00::b"].map(|text| text.parse().unwrap());
        let read = |answer: &str| read_api_servers(Some(answer.to_owned())).ok().flatten();
        assert_eq!(read(answer), Some(expected.into()));
        assert_eq!(read(r#"{"kind": "Endpoints"}"#), Some(BTreeSet::new()));
        for other in [r#"{"kind": "Status"}"#, "nope"] {
            assert_eq!(read(other), None);
        }
    }
}
