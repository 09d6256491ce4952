//! What Kubernetes says of the cluster's nodes, in the JSON that `kubectl get no -o json` prints.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::host::{CommandError, Host};
use crate::model::role::Role;

/// Where MicroK8s marks a control plane node (recording `join-worker-control-plane-list`).
const CONTROL_PLANE: &str = "node.kubernetes.io/microk8s-controlplane";

/// How long the list of nodes may take where somebody waits for it; `kubectl` makes several requests,
/// each of which may take five seconds.
const SOON: Duration = Duration::from_secs(7);

/// A node, as Kubernetes lists it.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name; empty where it has none.
    pub name: String,
    /// Its internal addresses; a node that has never started may have none.
    pub addresses: Vec<IpAddr>,
    /// Its role, by its labels.
    pub role: Role,
}

/// Why the control plane nodes are not known.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Kubernetes could not be asked.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// What came is something else.
    #[error("kubectl gave no list of nodes")]
    NoList,
}

/// The nodes that have a name; none where there is no Kubernetes. An API server that does not answer soon is an
/// error: somebody waits for what is made of the answer.
pub fn nodes(host: &dyn Host) -> Result<Vec<Listed>, CommandError> {
    let arguments = ["get", "no", "-o", "json", "--request-timeout=5s"];
    let list = host.kubectl_within(SOON, &arguments)?;
    let mut nodes = list.and_then(|list| read(&list)).unwrap_or_default();
    nodes.retain(|node| !node.name.is_empty());
    Ok(nodes)
}

/// The nodes with the control plane's label, or `None` where there is no Kubernetes to ask.
pub fn control_plane_nodes(host: &dyn Host) -> Result<Option<Vec<Listed>>, ListError> {
    let label = format!("{CONTROL_PLANE}=microk8s-controlplane");
    host.kubectl(&["get", "no", "-o", "json", "-l", &label])?
        .map(|list| read(&list).ok_or(ListError::NoList))
        .transpose()
}

/// The name of the node with this internal address.
pub fn name_of(host: &dyn Host, address: IpAddr) -> Option<String> {
    let list = host.kubectl(&["get", "no", "-o", "json"]).ok()??;
    let mut nodes = read(&list)?.into_iter();
    let found = nodes.find(|node| node.addresses.contains(&address))?;
    Some(found.name).filter(|name| !name.is_empty())
}

/// The internal addresses of the node of this name, or `None` where there is no Kubernetes to ask.
pub fn addresses_of(host: &dyn Host, name: &str) -> Result<Option<Vec<IpAddr>>, CommandError> {
    let found = host.kubectl(&["get", "no", name, "-o", "json"])?;
    Ok(found.map(|found| {
        let node: Value = serde_json::from_str(&found).unwrap_or_default();
        internal_addresses(&node)
    }))
}

fn read(list: &str) -> Option<Vec<Listed>> {
    let list: Value = serde_json::from_str(list).ok()?;
    let read = |node: &Value| {
        let metadata = &node["metadata"];
        Listed {
            name: metadata["name"].as_str().unwrap_or_default().to_owned(),
            addresses: internal_addresses(node),
            role: match metadata["labels"].get(CONTROL_PLANE) {
                Some(_) => Role::ControlPlane,
                None => Role::Worker,
            },
        }
    };
    let items = list["items"].as_array()?;
    Some(items.iter().map(read).collect())
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
    fn names_addresses_and_roles_are_read_where_they_are_there() {
        let list = r#"{"items": [
            {"metadata": {"name": "n1", "labels": {"node.kubernetes.io/microk8s-controlplane": "microk8s-controlplane"}},
             "status": {"addresses": [
                {"type": "Hostname", "address": "n1"},
                {"type": "InternalIP", "address": "10.99.0.11"},
                {"type": "InternalIP", "address": "fd00::b"}]}},
            {"metadata": {"name": "n2"}},
            {"metadata": {}}
        ]}"#;
        let listed = |name: &str, addresses: &[&str], role| Listed {
            name: name.to_owned(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            role,
        };
        let n1 = listed("n1", &["10.99.0.11", "fd00::b"], Role::ControlPlane);
        let [n2, nameless] = ["n2", ""].map(|name| listed(name, &[], Role::Worker));
        assert_eq!(read(list), Some(vec![n1, n2, nameless]));
        assert_eq!(read(r#"{"items": []}"#), Some(vec![]));
        assert_eq!(read(r#"{"kind": "Status"}"#), None);
        assert_eq!(read("nope"), None);
    }
}
