//! Members, and what they may do, as a real API server has it.

use std::time::{Duration, Instant};

use microk8s::base::wait;

use crate::lab::Lab;
use crate::lab::kubernetes::{Authorization, Kubernetes};

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
        // Far less than the minute for which an API server is waited for that is starting.
        assert!(
            began.elapsed() < Duration::from_secs(45),
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
        let found = wait::until(Duration::from_secs(60), Duration::from_millis(500), applied);
        assert!(found.is_some(), "{}", agent.log());
        agent.wait_for("the manifest of the pod network is applied");

        let arguments = ["delete", "daemonset", "calico-node", "-n", "kube-system"];
        kubernetes.admin(n1, &arguments).ok();
        n2.shell("microk8s leave").ok();
        drop(agent);
    }
}
