//! What Kubernetes knows: nodes, services and API servers, asked together and within a time.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::base::wait;
use crate::cluster::kubernetes::{self, API_SERVERS_PATH, ListError};
use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::platform::CommandError;

/// How long one question may take; `kubectl` makes several requests, each of which may take five
/// seconds.
const QUESTION_LIMIT: Duration = Duration::from_secs(7);
/// For how long an API server that refuses connections is asked again: another node's first join may
/// just have restarted it.
const RESTART_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(500);
/// How many objects an answer of the API server has at most: a node has some ten kilobytes.
const PAGE: usize = 500;

/// What Kubernetes knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Registry {
    nodes: Vec<Registered>,
    services: Vec<Service>,
    /// Where the API servers are. They alone write this.
    api_servers: Vec<IpAddr>,
}

/// A node. It writes its addresses itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses, of every kind.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its kubelet has said lately that it runs, or has never been heard of.
    pub(crate) is_ready: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Service {
    name: String,
    namespace: String,
    addresses: Vec<IpAddr>,
}

impl Registry {
    /// Asks Kubernetes; `None` where there is none, or where `kubectl` is a stand-in that prints
    /// nothing.
    pub(crate) fn ask(node: &Node) -> Result<Option<Self>, ListError> {
        let end = Instant::now() + RESTART_LIMIT;
        if let Some(registry) = Self::in_api(node) {
            return Ok(Some(registry));
        }
        let host = node.platform.as_ref();
        let question = [
            "get",
            "nodes,services,endpoints",
            "--all-namespaces",
            "-o",
            "json",
            "--request-timeout=5s",
        ];
        let mut last = Ok(None);
        wait::until(RESTART_LIMIT, PAUSE, || {
            last = host.kubectl_within(QUESTION_LIMIT, &question);
            let may_come = matches!(last, Err(CommandError::Failed { .. })) && Instant::now() < end;
            (!may_come).then_some(())
        });
        match last? {
            Some(text) if !text.trim().is_empty() => {
                Self::read(&text).map(Some).ok_or(ListError::NoList)
            }
            _ => Ok(None),
        }
    }

    /// What the API server says over the connection that is kept.
    fn in_api(node: &Node) -> Option<Self> {
        let mut registry = Self::default();
        for (path, kind) in [("/api/v1/nodes", "Node"), ("/api/v1/services", "Service")] {
            registry.add_pages(kind, |next| {
                node.in_api(&format!("{path}?limit={PAGE}&continue={next}"))
            })?;
        }
        registry.add([&node.in_api(API_SERVERS_PATH)?], None);
        Some(registry)
    }

    /// Takes in a list of one kind, of which `page` gives the part that begins there.
    fn add_pages(&mut self, kind: &str, page: impl Fn(&str) -> Option<Value>) -> Option<()> {
        let mut next = String::new();
        loop {
            let page = page(&next)?;
            self.add(page["items"].as_array()?, Some(kind));
            match page["metadata"]["continue"].as_str() {
                Some(more) if !more.is_empty() => more.clone_into(&mut next),
                _ => return Some(()),
            }
        }
    }

    fn read(text: &str) -> Option<Self> {
        let list: Value = serde_json::from_str(text).ok()?;
        let mut registry = Self::default();
        registry.add(list["items"].as_array()?, None);
        Some(registry)
    }

    /// Takes these in; the items of a list of one `kind` do not name theirs.
    fn add<'a>(&mut self, items: impl IntoIterator<Item = &'a Value>, kind: Option<&str>) {
        for item in items {
            let metadata = &item["metadata"];
            let name = metadata["name"].as_str().unwrap_or_default().to_owned();
            let namespace = metadata["namespace"].as_str().unwrap_or_default();
            match kind.or(item["kind"].as_str()) {
                Some("Service") => self.services.push(Service {
                    name,
                    namespace: namespace.to_owned(),
                    addresses: addresses_of_service(item),
                }),
                Some("Endpoints") if (namespace, name.as_str()) == ("default", "kubernetes") => {
                    self.api_servers.extend(kubernetes::addresses_of(item));
                }
                Some("Endpoints") => {}
                _ => self.nodes.push(Registered {
                    name,
                    addresses: entries(&item["status"]["addresses"], "address").collect(),
                    // A kubelet that has never said anything may come.
                    is_ready: kubernetes::ready(item).is_none_or(|ready| ready == "True"),
                }),
            }
        }
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &str) -> Option<&Registered> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// Whether an API server is at one of these addresses.
    pub(crate) fn has_api_server(&self, addresses: &[IpAddr]) -> bool {
        addresses.iter().any(|at| self.api_servers.contains(at))
    }

    /// Whether a name is that of a service as pods write it: `SERVICE.NAMESPACE`, and what follows.
    pub(crate) fn is_service(&self, name: &str) -> bool {
        let mut labels = name.split('.');
        let (Some(service), Some(namespace)) = (labels.next(), labels.next()) else {
            return false;
        };
        labels.next().is_none_or(|label| label == "svc")
            && self.services.iter().any(|known| {
                (known.name.as_str(), known.namespace.as_str()) == (service, namespace)
            })
    }

    /// Whether an address is that of an API server, service, load balancer or node other than the
    /// node that is called so and joins from there. A node there is the same machine under an earlier
    /// name.
    pub(crate) fn is_address_of_other(&self, address: IpAddr, name: &str, from: IpAddr) -> bool {
        let others = self
            .nodes
            .iter()
            .filter(|node| node.name != name && !node.addresses.contains(&from));
        let of_nodes = others.flat_map(|node| &node.addresses);
        let of_services = self.services.iter().flat_map(|service| &service.addresses);
        of_nodes
            .chain(of_services)
            .chain(&self.api_servers)
            .any(|other| *other == address)
    }
}

/// Where a service is reached, inside the cluster and from outside.
fn addresses_of_service(service: &Value) -> Vec<IpAddr> {
    let spec = &service["spec"];
    let single = [&spec["clusterIP"], &spec["loadBalancerIP"]];
    let lists = [&spec["clusterIPs"], &spec["externalIPs"]];
    let listed = lists.into_iter().filter_map(Value::as_array).flatten();
    single
        .into_iter()
        .chain(listed)
        .filter_map(address)
        .chain(entries(&service["status"]["loadBalancer"]["ingress"], "ip"))
        .collect()
}

fn entries<'a>(list: &'a Value, key: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(move |entry| address(&entry[key]))
}

fn address(text: &Value) -> Option<IpAddr> {
    text.as_str()?.parse().ok().map(endpoint::plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn registry() -> Registry {
        let text = r#"{"kind": "List", "items": [
            {"kind": "Node", "metadata": {"name": "k1"}, "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "::ffff:10.99.0.11"},
                    {"type": "ExternalIP", "address": "203.0.113.1"},
                    {"type": "Hostname", "address": "k1"}],
                "conditions": [{"type": "Ready", "status": "True"}]}},
            {"kind": "Node", "metadata": {"name": "w2"}, "status": {
                "addresses": [{"type": "InternalIP", "address": "10.99.0.12"}],
                "conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": "Unknown"}]}},
            {"kind": "Node", "metadata": {"name": "new"}},
            {"kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
             "spec": {"clusterIP": "10.152.183.7", "clusterIPs": ["10.152.183.7", "fd98::7"], "externalIPs": ["10.99.0.77"]},
             "status": {"loadBalancer": {"ingress": [{"ip": "10.99.0.88"}, {"hostname": "lb"}]}}},
            {"kind": "Service", "metadata": {"name": "bare", "namespace": "shop"}, "spec": {"clusterIP": "None"}},
            {"kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "default"},
             "subsets": [{"addresses": [{"ip": "10.99.0.11"}, {"ip": "10.99.0.13"}]}]},
            {"kind": "Endpoints", "metadata": {"name": "kubernetes", "namespace": "shop"},
             "subsets": [{"addresses": [{"ip": "10.99.0.99"}]}]}
        ]}"#;
        Registry::read(text).unwrap()
    }

    #[test]
    fn nodes_services_and_api_servers_are_told_apart() {
        let registry = registry();
        let k1 = registry.node("k1").unwrap();
        assert_eq!(k1.addresses, [ip("10.99.0.11"), ip("203.0.113.1")]);
        let ready = ["k1", "w2", "new"].map(|name| registry.node(name).unwrap().is_ready);
        assert_eq!(ready, [true, false, true]);
        assert!(registry.has_api_server(&[ip("10.1.0.1"), ip("10.99.0.13")]));
        assert!(!registry.has_api_server(&[ip("10.99.0.12"), ip("10.99.0.99")]));
        for name in ["web.shop", "web.shop.svc", "bare.shop.svc.cluster.local"] {
            assert!(registry.is_service(name), "{name}");
        }
        for name in ["web", "web.other", "web.shop.example.org", "shop.web"] {
            assert!(!registry.is_service(name), "{name}");
        }
        assert_eq!(Registry::read(r#"{"kind": "Status"}"#), None);
        assert_eq!(Registry::read("no resources found"), None);
    }

    #[test]
    fn a_list_in_parts_is_read_to_its_end_or_not_at_all() {
        let part = |name: &str, next: &str| {
            let items = [json!({"metadata": {"name": name}})];
            Some(json!({"metadata": {"continue": next}, "items": items}))
        };
        let pages = |next: &str| match next {
            "" => part("n1", "a"),
            "a" => part("n2", ""),
            _ => None,
        };
        let mut registry = Registry::default();
        assert_eq!(registry.add_pages("Node", pages), Some(()));
        assert!(registry.node("n1").is_some() && registry.node("n2").is_some());
        let first = |next: &str| pages(next).filter(|_| next.is_empty());
        assert_eq!(registry.add_pages("Node", first), None);
    }

    #[test]
    fn a_node_shares_its_addresses_with_its_own_earlier_name_alone() {
        let registry = registry();
        let is_others =
            |address, name, from| registry.is_address_of_other(ip(address), name, ip(from));
        for foreign in [
            "10.99.0.11",
            "203.0.113.1",
            "10.152.183.7",
            "fd98::7",
            "10.99.0.77",
            "10.99.0.88",
            "10.99.0.13",
        ] {
            assert!(is_others(foreign, "w2", "10.99.0.12"), "{foreign}");
        }
        assert!(!is_others("10.99.0.12", "w2", "10.99.0.12"));
        assert!(!is_others("10.99.0.12", "w9", "10.99.0.12"));
        assert!(is_others("10.99.0.12", "w9", "10.99.0.14"));
    }
}
