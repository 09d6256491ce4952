//! What Kubernetes says of the cluster's nodes, in the JSON that `kubectl get no -o json` prints.

use std::net::IpAddr;

use serde_json::Value;

use crate::host::Host;
use crate::model::role::Role;

/// Where MicroK8s marks a control plane node (recording `join-worker-control-plane-list`).
const CONTROL_PLANE: &str = "node.kubernetes.io/microk8s-controlplane";

/// A node, as Kubernetes lists it.
#[derive(Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its address; a node that has never started may have none.
    pub address: Option<IpAddr>,
    /// Its role, by its labels.
    pub role: Role,
}

/// The nodes; none where there is no Kubernetes, or where its API server does not answer soon.
pub fn nodes(host: &dyn Host) -> Vec<Listed> {
    let list = host.kubectl(&["get", "no", "-o", "json", "--request-timeout=5s"]);
    list.ok().flatten().map_or(Vec::new(), |list| read(&list))
}

fn read(list: &str) -> Vec<Listed> {
    let list: Value = serde_json::from_str(list).unwrap_or_default();
    let read = |node: &Value| {
        let metadata = &node["metadata"];
        Some(Listed {
            name: metadata["name"].as_str()?.to_owned(),
            address: internal_addresses(node).first().copied(),
            role: match metadata["labels"].get(CONTROL_PLANE) {
                Some(_) => Role::ControlPlane,
                None => Role::Worker,
            },
        })
    };
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(read).collect()
}

/// The name of the node with this internal address.
pub fn name_of(list: &str, address: IpAddr) -> Option<String> {
    let list: Value = serde_json::from_str(list).ok()?;
    let mut nodes = list["items"].as_array()?.iter();
    let found = nodes.find(|node| internal_addresses(node).contains(&address))?;
    found["metadata"]["name"].as_str().map(str::to_owned)
}

/// The internal addresses of one node.
pub fn internal_addresses(node: &Value) -> Vec<IpAddr> {
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
    fn names_addresses_and_roles_are_read_and_what_is_no_node_is_passed_over() {
        let list = r#"{"items": [
            {"metadata": {"name": "n1", "labels": {"node.kubernetes.io/microk8s-controlplane": "microk8s-controlplane"}},
             "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "10.99.0.11"}]}},
            {"metadata": {"name": "n2"}},
            {"metadata": {}}
        ]}"#;
        let listed = |name: &str, address: Option<&str>, role| Listed {
            name: name.to_owned(),
            address: address.map(|address| address.parse().unwrap()),
            role,
        };
        assert_eq!(
            read(list),
            [
                listed("n1", Some("10.99.0.11"), Role::ControlPlane),
                listed("n2", None, Role::Worker),
            ]
        );
        assert_eq!(read("nope"), []);
    }
}
