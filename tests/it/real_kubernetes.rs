//! Members, and what they may do, as a real API server has it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use microk8s::base::wait;

use crate::compat::requests::curl;
use crate::killed;
use crate::lab::datastore::{self, Datastore};
use crate::lab::kubernetes::{Authorization, Kubernetes};
use crate::lab::nodes::HOSTS;
use crate::lab::{Host, Lab, STALL_TIMEOUT};

#[test]
fn a_worker_that_joined_is_a_node_that_may_change_itself_and_nothing_else() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agent = n1.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    kubernetes.register(n2).ok();
    assert_eq!(kubernetes.nodes(n1), ["n1", "n2"]);

    let kubelet = |words: &[&str]| kubernetes.with(n2, "kubelet.config", words);
    kubelet(&["label", "node", "n2", "a=b"]).ok();
    for refused in [
        &["get", "secrets", "-A"][..],
        &["label", "node", "n1", "a=b"],
        &["delete", "node", "n1"],
        &[
            "get",
            "configmap",
            "-n",
            "kube-system",
            "extension-apiserver-authentication",
        ],
    ] {
        let output = kubelet(refused);
        assert_eq!(output.code, Some(1), "{refused:?}: {output:?}");
        assert!(
            output.stderr.contains("Forbidden"),
            "{refused:?}: {output:?}"
        );
    }
    let impostor = kubernetes.register_as(n2, "n3", "10.99.0.13");
    assert!(impostor.stderr.contains("Forbidden"), "{impostor:?}");

    let proxy = |words: &[&str]| kubernetes.with(n2, "proxy.config", words);
    for seen in ["nodes", "services", "endpoints"] {
        proxy(&["get", seen, "-A"]).ok();
    }
    for hidden in ["secrets", "configmaps", "pods", "serviceaccounts"] {
        let output = proxy(&["get", hidden, "-A"]);
        assert!(output.stderr.contains("Forbidden"), "{hidden}: {output:?}");
    }
}

/// MicroK8s's default, `AlwaysAllow`: every certificate of the cluster is one of an administrator.
#[test]
fn a_workers_join_starts_no_kubectl_on_the_contacted_node() {
    if !killed::can_kill() {
        return;
    }
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let agent = n1.agent();
    let line = n1.join_line();
    let trace = n1.scratch().join("started");
    let strace = killed::disturb_into(&trace, agent.pid(), "-s 200 -e trace=execve");
    n2.shell(&format!("{line} --worker")).ok();
    strace.detach();
    let started = std::fs::read_to_string(trace).unwrap();
    let asks = |line: &&str| line.contains("kubectl") && line.contains("\"get\"");
    assert_eq!(started.lines().filter(asks).collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn where_everything_is_allowed_a_worker_reads_secrets_and_a_control_plane_serves_the_same_nodes() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::AlwaysAllow) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agent = n1.agent();
    n2.shell(&n1.join_line()).ok();
    kubernetes.add(n2);
    kubernetes.register(n2).ok();
    assert_eq!(kubernetes.nodes(n2), ["n1", "n2"]);
    kubernetes
        .with(n2, "kubelet.config", &["get", "secrets", "-A"])
        .ok();

    // The API servers say so themselves where they are.
    let serving = || {
        let endpoints = kubernetes.get(n1, &["endpoints", "kubernetes"]);
        let addresses = endpoints["subsets"][0]["addresses"].as_array().unwrap();
        addresses
            .iter()
            .map(|at| at["ip"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(serving(), ["10.99.0.11", "10.99.0.12"]);
    kubernetes.end(n2);
    assert_eq!(kubernetes.nodes(n2), ["n1", "n2"], "the first one answers");
}

/// Both ways to name it; the one that stays is untouched, and the other may join again.
#[test]
fn a_worker_that_is_removed_by_name_or_by_address_is_gone_from_kubernetes() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agent = n1.agent();
    for typed in ["n2", "10.99.0.12"] {
        n2.shell(&format!("{} --worker", n1.join_line())).ok();
        kubernetes.register(n2).ok();
        assert_eq!(kubernetes.nodes(n1), ["n1", "n2"]);
        n2.shell("microk8s leave").ok();
        n1.shell(&format!("microk8s remove-node {typed}")).ok();
        assert_eq!(kubernetes.nodes(n1), ["n1"], "{typed}");
        let list = n1.shell("microk8s nodes").ok();
        assert!(!list.contains("10.99.0.12"), "{list}");
    }
}

/// The API servers are on etcd: the real dqlite beside each node holds its members and nothing else.
#[test]
fn kubernetes_and_the_datastore_have_the_same_members_after_each_join_leave_and_removal() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    let mut datastores = Vec::new();
    for host in lab.hosts() {
        let Some(datastore) = Datastore::start(host) else {
            return;
        };
        datastores.push(datastore);
    }
    kubernetes.register(n1).ok();
    let _agent = n1.agent();

    // A worker is a node, and no member of the datastore.
    n3.shell(&format!("{} --worker", n1.join_line())).ok();
    kubernetes.register(n3).ok();
    have(&kubernetes, &[n1], &["n1", "n3"], &["n1"]);
    n3.shell("microk8s leave").ok();
    n1.shell("microk8s remove-node n3").ok();
    have(&kubernetes, &[n1], &["n1"], &["n1"]);

    // One that has left waits for the API server that its own services would start.
    let leave = |host: &Host| {
        host.stand_ins.stand_in_for_kubectl(&host.snap());
        host.shell("microk8s leave").ok();
    };
    let join = |kubernetes: &mut Kubernetes, host: &Host| {
        host.shell(&n1.join_line()).ok();
        kubernetes.add(host);
        kubernetes.register(host).ok();
    };
    join(&mut kubernetes, n2);
    have(&kubernetes, &[n1, n2], &["n1", "n2"], &["n1", "n2"]);

    let all = ["n1", "n2", "n3"];
    // Where the datastore of a node that is in no cluster listens.
    let alone = BTreeSet::from(["127.0.0.1".to_owned()]);
    for typed in ["n3", "10.99.0.13"] {
        join(&mut kubernetes, n3);
        have(&kubernetes, &[n1, n2, n3], &all, &all);
        datastore::has_voters(n1, 3);
        datastore::kill(n3);
        kubernetes.end(n3);
        let refused = n1.shell(&format!("microk8s remove-node {typed}"));
        assert_eq!(refused.code, Some(1), "{refused:?}");
        have(&kubernetes, &[n1, n2], &all, &all);
        n1.shell(&format!("microk8s remove-node {typed} --force"))
            .ok();
        have(&kubernetes, &[n1, n2], &["n1", "n2"], &["n1", "n2"]);
        // It is back, learns that it is no member any more, and is a node of its own.
        leave(n3);
        have(&kubernetes, &[n1, n2], &["n1", "n2"], &["n1", "n2"]);
        assert_eq!(datastore::members_of(n3), alone);
    }

    // The datastore may have taken the vote of a member that answered late; the one that stays needs one.
    datastore::has_vote(n1, "10.99.0.11");
    kubernetes.end(n2);
    leave(n2);
    // Kubernetes knows it until it is removed, which takes no force.
    have(&kubernetes, &[n1], &["n1", "n2"], &["n1"]);
    n1.shell("microk8s remove-node n2").ok();
    have(&kubernetes, &[n1], &["n1"], &["n1"]);
    assert_eq!(datastore::members_of(n2), alone);
    let Some(own) = Kubernetes::start(n2, Authorization::NodeAndRbac) else {
        return;
    };
    own.register(n2).ok();
    assert_eq!(own.nodes(n2), ["n2"]);
}

/// Each of these hosts is told of these nodes by Kubernetes, and of these members by its datastore.
#[track_caller]
fn have(kubernetes: &Kubernetes, asked: &[&Host], nodes: &[&str], members: &[&str]) {
    for host in asked {
        assert_eq!(kubernetes.nodes(host), nodes, "{}", host.name);
        assert_eq!(
            datastore::members_of(host),
            addresses(members),
            "{}",
            host.name
        );
    }
}

fn addresses(names: &[&str]) -> BTreeSet<String> {
    let hosts = HOSTS.iter().filter(|(name, _)| names.contains(name));
    hosts.map(|(_, address)| (*address).to_owned()).collect()
}

const MANIFEST: &str = "args/cni-network/cni.yaml";

/// A join does not wait for a manifest that will never be taken, be it no YAML or no DaemonSet.
#[test]
fn a_manifest_of_the_pod_network_that_kubectl_refuses_holds_no_join_up_and_is_applied_once_it_is_cured()
 {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    let good = n1.read(MANIFEST);
    for (broken, reason) in [
        (good.replace("metadata:", "\tmetadata:"), "error parsing"),
        (
            good.replace(
                "k8s-app: calico-node\n  template",
                "k8s-app: other\n  template",
            ),
            "is invalid",
        ),
    ] {
        n1.write(MANIFEST, &broken, 0o644);
        let agent = n1.agent();
        let line = n1.join_line();
        let began = Instant::now();
        n2.shell(&format!("{line} --worker")).ok();
        // An API server that is starting is waited for a minute.
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{:?}",
            began.elapsed()
        );
        let log = agent.log();
        assert!(
            log.contains("could not be applied") && log.contains(reason),
            "{log}"
        );
        let reached = n1.read(MANIFEST);
        assert!(reached.contains("can-reach=10.99.0.12"), "{reached}");

        n1.write(
            MANIFEST,
            &good.replace("first-found", "can-reach=10.99.0.12"),
            0o644,
        );
        let applied = || {
            let arguments = ["get", "daemonset", "calico-node", "-n", "kube-system"];
            let set = kubernetes.admin(n1, &arguments);
            (set.code == Some(0)).then_some(())
        };
        let found = wait::until(STALL_TIMEOUT, Duration::from_millis(500), applied);
        assert!(found.is_some(), "{}", agent.log());
        agent.wait_for("the manifest of the pod network is applied");

        let arguments = ["delete", "daemonset", "calico-node", "-n", "kube-system"];
        kubernetes.admin(n1, &arguments).ok();
        n2.shell("microk8s leave").ok();
        drop(agent);
    }
}

/// A kubelet may label its node, and write its addresses. With an etcd that is not MicroK8s's, no member of a
/// datastore tells which nodes have the control plane.
#[test]
fn a_worker_that_labels_itself_as_a_control_plane_gains_nothing() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
    let args = n1.read("args/kube-apiserver");
    let kine = "\"unix://${SNAP_DATA}/var/kubernetes/backend/kine.sock:12379\"";
    assert!(args.contains(kine));
    let external = args.replace(kine, "http://10.99.0.11:2379");
    n1.write("args/kube-apiserver", &external, 0o644);
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agent = n1.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    kubernetes.register(n2).ok();

    let kubelet = |words: &[&str]| kubernetes.with(n2, "kubelet.config", words).ok();
    kubelet(&[
        "label",
        "node",
        "n2",
        &format!("{CONTROL_PLANE}={CONTROL_PLANE_VALUE}"),
    ]);
    kubernetes.claim_addresses(n2, &["10.99.0.12", "10.99.0.11"]);

    // As a worker that MicroK8s's own client joined, which is given the cluster's token.
    let token = n1.read("credentials/callback-token.txt").trim().to_owned();
    assert_eq!(configure(n2, &token), 500);
    assert!(!n1.read("args/kube-scheduler").contains("--v=9"));

    let proxied = |host: &Host| {
        let provider = host.read("args/traefik/provider.yaml");
        let servers = provider
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- address: "));
        servers.map(str::to_owned).collect::<Vec<_>>()
    };
    n3.shell(&format!("{} --worker", n1.join_line())).ok();
    assert_eq!(proxied(n3), ["10.99.0.11:16443"]);
    n3.shell("microk8s leave").ok();
    let list = n1.shell("microk8s nodes").ok();
    let row = list.lines().find(|line| line.starts_with("n2 ")).unwrap();
    assert!(row.ends_with("worker"), "{list}");
    n2.shell("microk8s leave").ok();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    assert_eq!(
        proxied(n2),
        ["10.99.0.11:16443"],
        "its node is labelled still"
    );

    // A real one is known as soon as its API server serves, and a worker is sent there.
    n3.shell(&n1.join_line()).ok();
    kubernetes.add(n3);
    assert_eq!(configure(n3, &token), 200);
    assert!(n1.read("args/kube-scheduler").contains("--v=9"));
    n2.shell("microk8s leave").ok();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    assert_eq!(proxied(n2), ["10.99.0.11:16443", "10.99.0.13:16443"]);
    // One that has ended stands among the endpoints until its lease is over.
    kubernetes.end(n3);
    n2.shell("microk8s leave").ok();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    assert_eq!(proxied(n2), ["10.99.0.11:16443"]);
}

const CONTROL_PLANE: &str = "node.kubernetes.io/microk8s-controlplane";
const CONTROL_PLANE_VALUE: &str = "microk8s-controlplane";

/// The status by which n1 answers a host that has an argument of its scheduler changed.
fn configure(from: &Host, token: &str) -> u16 {
    let body = format!(
        r#"{{"callback": "{token}", "service": [{{"name": "kube-scheduler", "arguments_update": [{{"--v": "9"}}]}}]}}"#
    );
    let url = "https://10.99.0.11:25000/cluster/api/v1.0/configure";
    curl(from, &["-X", "POST", url], &body).status
}
