//! Callbacks: requests with which the control plane has other nodes do something.
//!
//! With MicroK8s every node of a cluster knows the one token for them, so that root on a worker, or
//! a reader of one of its files, is root on all nodes. Here the token is accepted only from the
//! node itself and from the cluster's control plane nodes. A worker gets a token of its own, which
//! only its own agent accepts, and only from the worker itself.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::base::cached::Cached;
use crate::base::secret::Secret;
use crate::cluster::admission::Caller;
use crate::cluster::first_join;
use crate::cluster::kubernetes;
use crate::cluster::node::Node;
use crate::model::agent_options::CallbackFrom;
use crate::model::endpoint;
use crate::model::token::{Token, TokenDigest};
use crate::store::callback_tokens::{self, Owner};
use crate::store::dqlite::Member;
use crate::store::layout::{Lock, ReadError};
use crate::store::traefik;

/// Who may have this node do something.
pub(crate) struct Callbacks {
    node: Node,
    from: CallbackFrom,
    /// What the datastore, or Kubernetes, has said last.
    known: Cached<Result<Arc<BTreeSet<IpAddr>>, String>>,
}

/// For how long that is believed. A caller without a right to it asks for no more than one answer
/// in this time; a control plane node that has just joined may have to call again after it.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// How many callers may wait for it, a small part of those that are worked on at once: others are
/// known by a file, and must not have to stand behind them.
const MAY_WAIT: usize = 8;

/// Why a callback is not taken: for the log. A stranger is told MicroK8s's text and no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It is no callback token of this node's.
    #[error("the callback token is unknown")]
    Unknown,
    /// The token is right, and comes from somewhere else.
    #[error(
        "the callback token is the cluster's, but {0} is neither this node nor a control plane node"
    )]
    NotControlPlane(IpAddr),
    /// A worker's own token is for that worker.
    #[error("the callback token is this worker's own, and {0} is not this worker")]
    NotThisNode(IpAddr),
    /// The token is right, but the control plane nodes are unknown.
    #[error("the callback token is the cluster's, but the control plane nodes are not known: {0}")]
    ControlPlaneUnknown(String),
    /// The files with the tokens.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl Callbacks {
    /// Callbacks of this node.
    pub(crate) fn new(node: Node, from: CallbackFrom) -> Self {
        Self {
            node,
            from,
            known: Cached::new(KNOWN_FOR, MAY_WAIT),
        }
    }

    /// The node that is called.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Whether the caller may have this node do something. The token is checked first, so that a
    /// caller without one does not make this node ask the datastore.
    pub(crate) fn check(&self, token: &Token, caller: Caller) -> Result<(), Refused> {
        let owner = callback_tokens::owner(&self.node.layout, token)?.ok_or(Refused::Unknown)?;
        if self.from == CallbackFrom::Any || self.is_this_node(caller) {
            return Ok(());
        }
        match owner {
            Owner::Worker => Err(Refused::NotThisNode(caller.remote)),
            Owner::Cluster => self.is_control_plane(caller.remote),
        }
    }

    fn is_this_node(&self, caller: Caller) -> bool {
        caller.remote.is_loopback()
            || caller.remote == caller.local
            || self.node.platform.interfaces().is_ok_and(|interfaces| {
                interfaces
                    .iter()
                    .any(|entry| endpoint::plain(entry.address) == caller.remote)
            })
    }

    fn is_control_plane(&self, address: IpAddr) -> Result<(), Refused> {
        let is_among = |known: &BTreeSet<IpAddr>| {
            known
                .contains(&address)
                .then_some(())
                .ok_or(Refused::NotControlPlane(address))
        };
        let node = &self.node;
        if node.layout.has(Lock::Clustered) {
            return is_among(&control_plane_of_worker(node));
        }
        if !node.layout.has(Lock::HaCluster) {
            // A cluster without high availability has one control plane node: this one.
            return Err(Refused::NotControlPlane(address));
        }
        if !node.uses_dqlite() {
            return is_among(&*self.ask(by_kubernetes)?);
        }
        // The file is at hand, and as old as its last change; the datastore itself knows better.
        let by_file = first_join::datastore_members(node).unwrap_or_default();
        if by_file.iter().any(|member| member.is_at(address)) {
            return Ok(());
        }
        is_among(&*self.ask(by_datastore)?)
    }

    /// Asks for the control plane nodes, unless that was done just now.
    fn ask(
        &self,
        ask: fn(&Node) -> Result<BTreeSet<IpAddr>, String>,
    ) -> Result<Arc<BTreeSet<IpAddr>>, Refused> {
        self.known
            .get(|| ask(&self.node).map(Arc::new))
            .unwrap_or_else(|| Err("too many callers wait for an answer".to_owned()))
            .map_err(Refused::ControlPlaneUnknown)
    }
}

/// A new callback token for a worker, and what it is to know of the cluster's.
pub(crate) fn for_worker(cluster: &Secret) -> (Secret, TokenDigest) {
    let digest = Token::presented(cluster.expose()).digest();
    (first_join::random_text(64), digest)
}

fn by_datastore(node: &Node) -> Result<BTreeSet<IpAddr>, String> {
    let members = node.datastore_members();
    let members = members.map_err(|error| error.to_string())?;
    Ok(members
        .iter()
        .filter_map(Member::ip)
        .map(endpoint::plain)
        .collect())
}

/// Where the datastore is not MicroK8s's, the API servers say themselves which nodes have one.
fn by_kubernetes(node: &Node) -> Result<BTreeSet<IpAddr>, String> {
    kubernetes::api_servers(node.platform.as_ref())
        .map_err(|error| error.to_string())?
        .ok_or_else(|| "there is no Kubernetes on this node".to_owned())
}

/// The control plane nodes that a worker knows: those that its proxy leads to, a list that MicroK8s
/// keeps up to date, and in the older kind of cluster the one that has etcd.
pub(crate) fn control_plane_of_worker(node: &Node) -> BTreeSet<IpAddr> {
    let layout = &node.layout;
    let mut endpoints: Vec<String> = Vec::new();
    if let Ok(text) = layout.read(&layout.args("traefik/provider.yaml")) {
        endpoints.extend(traefik::servers(&text).unwrap_or_default());
    }
    if !layout.has(Lock::HaCluster)
        && let Ok(arguments) = node.arguments("flanneld")
    {
        let listed = arguments.get("--etcd-endpoints").unwrap_or_default();
        endpoints.extend(listed.split(',').map(str::to_owned));
    }
    endpoints
        .iter()
        .map(|endpoint| endpoint.trim().trim_start_matches("https://"))
        .filter_map(endpoint::address_of)
        .map(endpoint::plain)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::platform::InterfaceAddress;
    use crate::platform::scripted::ScriptedPlatform;
    use crate::store::layout::Layout;
    use crate::store::token_files::{CALLBACK_DIGEST, CALLBACK_TOKEN};

    struct Place {
        _root: TempDir,
        node: Node,
        host: Arc<ScriptedPlatform>,
    }

    /// A node at 10.99.0.11 with the cluster's token `CLUSTER`.
    fn place(members: Option<&str>) -> Place {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), root.path(), root.path());
        for folder in [
            "args/traefik",
            "credentials",
            "var/lock",
            "var/kubernetes/backend",
        ] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(layout.credential(CALLBACK_TOKEN), "CLUSTER\n").unwrap();
        fs::write(layout.lock(Lock::HaCluster), "").unwrap();
        let servers = "--etcd-servers=unix://${SNAP_DATA}/var/kubernetes/backend/kine.sock:12379\n";
        fs::write(layout.args("kube-apiserver"), servers).unwrap();
        let members_file = layout.backend().join("cluster.yaml");
        fs::write(
            members_file,
            "- Address: 10.99.0.12:19001\n  ID: 1\n  Role: 0\n",
        )
        .unwrap();
        let host = Arc::new(ScriptedPlatform {
            interfaces: vec![InterfaceAddress {
                interface: "eth0".into(),
                address: "10.99.0.11".parse().unwrap(),
                prefix: 24,
            }],
            members: members.map(str::to_owned),
            ..ScriptedPlatform::default()
        });
        let node = Node::new(layout, host.clone());
        Place {
            _root: root,
            node,
            host,
        }
    }

    impl Place {
        fn check(&self, from: CallbackFrom, token: &str, address: &str) -> Result<(), Refused> {
            let caller = Caller::new(address.parse().unwrap(), "10.99.0.11".parse().unwrap());
            Callbacks::new(self.node.clone(), from).check(&Token::presented(token), caller)
        }

        fn takes(&self, token: &str, address: &str) -> bool {
            self.check(CallbackFrom::Cluster, token, address).is_ok()
        }
    }

    #[test]
    fn a_control_plane_node_is_called_by_itself_and_by_others_of_its_kind() {
        let members = r#"[{"ID": 1, "Address": "10.99.0.13:19001", "Role": 0}]"#;
        let place = place(Some(members));
        for address in [
            "127.0.0.1",
            "::1",
            "10.99.0.11",
            "::ffff:10.99.0.11",
            "10.99.0.12",
            "::ffff:10.99.0.12",
        ] {
            assert!(place.takes("CLUSTER", address), "{address}");
        }
        assert!(place.host.calls().is_empty(), "the file knows them");
        assert!(
            place.takes("CLUSTER", "10.99.0.13"),
            "the datastore knows it"
        );
        for address in ["10.99.0.120", "10.99.0.1", "10.1.5.3", "fd00::1"] {
            let refused = place.check(CallbackFrom::Cluster, "CLUSTER", address);
            assert!(
                matches!(refused, Err(Refused::NotControlPlane(_))),
                "{address}"
            );
        }
    }

    #[test]
    fn one_question_does_for_all_callers_whatever_the_answer() {
        for members in [Some("[]"), None] {
            let place = place(members);
            let callbacks = Callbacks::new(place.node.clone(), CallbackFrom::Cluster);
            for number in 1..=100 {
                let address = IpAddr::from([10, 99, 1, number]);
                let caller = Caller::new(address, "10.99.0.11".parse().unwrap());
                let refused = callbacks.check(&Token::presented("CLUSTER"), caller);
                refused.unwrap_err();
            }
            assert_eq!(place.host.calls(), ["members"]);
        }
    }

    #[test]
    fn without_a_token_the_datastore_is_not_asked() {
        let place = place(Some("[]"));
        for token in ["", "nope", "CLUSTER2"] {
            for from in [CallbackFrom::Cluster, CallbackFrom::Any] {
                let refused = place.check(from, token, "10.99.0.12");
                assert!(matches!(refused, Err(Refused::Unknown)), "{token}");
            }
        }
        assert!(place.host.calls().is_empty());
    }

    #[test]
    fn where_the_control_plane_is_unknown_no_other_node_is_accepted_but_by_the_operators_word() {
        let place = place(None);
        let refused = place.check(CallbackFrom::Cluster, "CLUSTER", "10.99.0.13");
        assert!(matches!(refused, Err(Refused::ControlPlaneUnknown(_))));
        place
            .check(CallbackFrom::Any, "CLUSTER", "10.99.0.13")
            .unwrap();
    }

    #[test]
    fn a_worker_takes_the_clusters_token_from_its_control_plane_and_its_own_from_itself() {
        let place = place(None);
        let layout = &place.node.layout;
        fs::write(layout.lock(Lock::Clustered), "").unwrap();
        let provider = "tcp:\n  services:\n    kube-apiserver:\n      loadBalancer:\n        servers:\n        - address: 10.99.0.12:16443\n        - address: '[fd00::2]:16443'\n";
        fs::write(layout.args("traefik/provider.yaml"), provider).unwrap();
        let (own, digest) = for_worker(&Secret::new("CLUSTER"));
        assert_eq!(own.expose().len(), 64);
        fs::write(layout.credential(CALLBACK_TOKEN), own.expose()).unwrap();
        fs::write(layout.credential(CALLBACK_DIGEST), digest.digits()).unwrap();
        for address in ["10.99.0.12", "fd00::2", "10.99.0.11", "127.0.0.1"] {
            assert!(place.takes("CLUSTER", address), "{address}");
        }
        assert!(!place.takes("CLUSTER", "10.99.0.13"));
        assert!(place.takes(own.expose(), "127.0.0.1"));
        let refused = place.check(CallbackFrom::Cluster, own.expose(), "10.99.0.12");
        assert!(matches!(refused, Err(Refused::NotThisNode(_))));
    }

    #[test]
    fn in_a_cluster_on_etcd_a_worker_is_called_by_the_node_with_etcd() {
        let place = place(None);
        let layout = &place.node.layout;
        fs::remove_file(layout.lock(Lock::HaCluster)).unwrap();
        assert!(
            !place.takes("CLUSTER", "10.99.0.12"),
            "no other node is a control plane node"
        );
        fs::write(layout.lock(Lock::Clustered), "").unwrap();
        let endpoints = "--etcd-endpoints=https://10.99.0.12:12379\n";
        fs::write(layout.args("flanneld"), endpoints).unwrap();
        assert!(place.takes("CLUSTER", "10.99.0.12"));
        assert!(!place.takes("CLUSTER", "10.99.0.13"));
    }
}
