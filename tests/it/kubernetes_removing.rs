//! `remove-node` against a real API server.

use std::time::Duration;

use microk8s::base::wait;

use crate::lab::kubernetes::{Authorization, Kubernetes};
use crate::lab::{Host, Lab, STALL_TIMEOUT};
use crate::removing::{datastore, was_called};

const PAUSE: Duration = Duration::from_millis(250);

const TRUST: [&str; 4] = [
    "configmap",
    "-n",
    "kube-system",
    "extension-apiserver-authentication",
];

/// How many front proxies servers behind the API servers trust, and whether this node's is one.
fn trusted(kubernetes: &Kubernetes, n1: &Host, host: &Host) -> (usize, bool) {
    let found = kubernetes.get(n1, &TRUST);
    let bundle = found["data"]["requestheader-client-ca-file"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let own = host.read("certs/front-proxy-ca.crt");
    (
        bundle.matches("BEGIN CERTIFICATE").count(),
        bundle.contains(own.trim()),
    )
}

#[test]
fn the_front_proxy_of_a_control_plane_that_is_removed_is_trusted_no_more() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agent = n1.agent();
    n2.shell(&n1.join_line()).ok();
    kubernetes.add(n2);
    kubernetes.register(n2).ok();
    let both = || (trusted(&kubernetes, n1, n2) == (2, true)).then_some(());
    assert!(wait::until(STALL_TIMEOUT, PAUSE, both).is_some());
    // The node has left the datastore, and its API server has ended.
    kubernetes.end(n2);
    datastore(n1, &["10.99.0.11"]);
    let output = n1.shell("microk8s remove-node n2");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!output.stderr.contains("warning"), "{output:?}");
    assert_eq!(trusted(&kubernetes, n1, n2), (1, false));
    assert_eq!(trusted(&kubernetes, n1, n1), (1, true));
    assert_eq!(kubernetes.nodes(n1), ["n1"]);
}

#[test]
fn a_worker_that_writes_a_control_planes_address_into_its_node_does_not_have_it_removed() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let Some(kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agent = n1.agent();
    n3.shell(&n1.join_line()).ok();
    kubernetes.register(n3).ok();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    kubernetes.register_as(n2, "n2", "10.99.0.13").ok();
    datastore(n1, &["10.99.0.11", "10.99.0.13"]);
    let output = n1.shell("microk8s remove-node n2 --force");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output.stderr.contains("was admitted from 10.99.0.12"),
        "{output:?}"
    );
    assert!(!was_called(n1, ".remove 10.99.0.13:19001"));
    assert_eq!(kubernetes.nodes(n1), ["n1", "n3"]);
}

#[test]
fn what_keeps_kubernetes_from_deleting_a_node_is_said() {
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
    // Who may see nodes, and delete none.
    let administrator = n1.read("credentials/client.config");
    n1.write(
        "credentials/client.config",
        &n1.read("credentials/proxy.config"),
        0o640,
    );
    let output = n1.shell("microk8s remove-node n2");
    n1.write("credentials/client.config", &administrator, 0o640);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output
            .stderr
            .contains("hint: the API server runs, and does not allow"),
        "{output:?}"
    );
    assert_eq!(kubernetes.nodes(n1), ["n1", "n2"]);

    let finalizer = r#"{"metadata":{"finalizers":["example.com/drain"]}}"#;
    kubernetes
        .admin(
            n1,
            &["patch", "node", "n2", "--type=merge", "-p", finalizer],
        )
        .ok();
    let output = n1.shell("microk8s remove-node N2");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output
            .stderr
            .contains("finalizers are done: example.com/drain"),
        "{output:?}"
    );
    assert!(output.ended - output.began < 30, "{output:?}");
    kubernetes
        .admin(
            n1,
            &[
                "patch",
                "node",
                "n2",
                "--type=merge",
                "-p",
                r#"{"metadata":{"finalizers":null}}"#,
            ],
        )
        .ok();
    assert_eq!(kubernetes.nodes(n1), ["n1"]);
}
