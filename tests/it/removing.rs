//! `remove-node`, beyond its recordings: nodes that only somebody still knows, and nodes that must
//! stay.

use crate::lab::{Host, Lab};

/// Both ways: in the process of the command, and through the agent of the node.
fn both_ways(hosts: &[&str], test: impl Fn(&Lab)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(hosts) else { return };
        let _agent = through_agent.then(|| lab.host("n1").agent());
        test(&lab);
    }
}

/// The members of n1's datastore.
fn datastore(host: &Host, addresses: &[&str]) {
    let entries = addresses
        .iter()
        .zip(100..)
        .map(|(address, id)| format!("- Address: {address}:19001\n  ID: {id}\n  Role: 0\n"));
    host.write(
        "var/kubernetes/backend/cluster.yaml",
        &entries.collect::<String>(),
        0o644,
    );
}

fn was_called(host: &Host, end: &str) -> bool {
    host.stand_ins
        .calls()
        .iter()
        .any(|call| call.ends_with(end))
}

#[test]
fn a_ghost_that_only_one_of_them_knows_is_removed_with_force() {
    // By the datastore alone; its name is known to the agent that let it in.
    for node in ["n2", "10.99.0.12"] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = n1.agent();
        let line = n1.join_line();
        n2.shell(&line).ok();
        datastore(n1, &["10.99.0.11", "10.99.0.12"]);
        let list = n1.shell("microk8s nodes").ok();
        assert!(list.contains("n2"), "{list}");
        n1.shell(&format!("microk8s remove-node {node} --force"))
            .ok();
        assert!(was_called(n1, ".remove 10.99.0.12:19001"), "{node}");
        let list = n1.shell("microk8s nodes").ok();
        assert!(
            !list.contains("n2") && !list.contains("10.99.0.12"),
            "{list}"
        );
    }
    // By this node alone: a worker that never came up in Kubernetes.
    for node in ["n2", "10.99.0.12"] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = n1.agent();
        let line = n1.join_line();
        n2.shell(&format!("{line} --worker")).ok();
        let output = n1.shell(&format!("microk8s remove-node {node} --force"));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.stderr.contains("warning"), "{output:?}");
        let list = n1.shell("microk8s nodes").ok();
        assert!(!list.contains("n2"), "{list}");
    }
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        // By Kubernetes alone, which has no address of it.
        n1.stand_ins.kubernetes_knows("n2", None);
        n1.shell("microk8s remove-node n2 --force").ok();
        assert!(!n1.stand_ins.is_in_kubernetes("n2"));
        // By the file of callback tokens alone.
        n1.write("credentials/callback-tokens.txt", "n3:25000 x\n", 0o660);
        let output = n1.shell("microk8s remove-node n3 --force");
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.stderr.contains("warning"), "{output:?}");
        assert_eq!(n1.read("credentials/callback-tokens.txt"), "");
    });
}

#[test]
fn a_node_that_nobody_knows_is_removed_with_force_by_name_and_address() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        let before = n1.snapshot();
        for node in ["n9", "10.99.0.99", "fd99::99"] {
            let output = n1.shell(&format!("microk8s remove-node {node} --force"));
            assert_eq!(output.code, Some(0), "{output:?}");
            assert!(output.stderr.contains("nothing was removed"), "{output:?}");
        }
        assert!(before == n1.snapshot());
    });
}

#[test]
fn removing_a_node_leaves_one_whose_name_begins_like_it_alone() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins.kubernetes_knows("node1", Some("10.99.0.21"));
        n1.stand_ins.kubernetes_knows("node10", Some("10.99.0.210"));
        datastore(n1, &["10.99.0.11", "10.99.0.210"]);
        let tokens = "node1:25000 a\nnode10:25000 b\n";
        n1.write("credentials/callback-tokens.txt", tokens, 0o660);
        n1.shell("microk8s remove-node node1").ok();
        assert_eq!(
            n1.read("credentials/callback-tokens.txt"),
            "node10:25000 b\n"
        );
        assert!(n1.stand_ins.is_in_kubernetes("node10"));
        assert!(!n1.stand_ins.is_in_kubernetes("node1"));
        // Gone is gone: the same again has the text for a node that does not exist.
        let output = n1.shell("microk8s remove-node node1");
        assert_eq!(output.code, Some(1), "{output:?}");
        assert_eq!(output.stdout, "Node node1 does not exist in Kubernetes.\n");
    });
}

#[test]
fn an_api_server_that_is_down_is_no_node_that_is_gone() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
        datastore(n1, &["10.99.0.11", "10.99.0.12"]);
        n1.stand_ins.fail_kubectl();
        let before = n1.snapshot();
        for node in ["n2", "10.99.0.12"] {
            let output = n1.shell(&format!("microk8s remove-node {node}"));
            assert_eq!(output.code, Some(1), "{output:?}");
            assert_eq!(output.stdout, "", "{output:?}");
            assert!(output.stderr.starts_with("error: cannot ask Kubernetes"));
        }
        assert!(before == n1.snapshot());
        let output = n1.shell("microk8s remove-node 10.99.0.12 --force");
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(was_called(n1, ".remove 10.99.0.12:19001"));
        // When it is back, the rest follows.
        n1.stand_ins.repair_kubectl();
        n1.shell("microk8s remove-node 10.99.0.12 --force").ok();
        assert!(!n1.stand_ins.is_in_kubernetes("n2"));
    });
}

#[test]
fn the_last_member_is_never_removed() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins.kubernetes_knows("n1", Some("10.99.0.11"));
        datastore(n1, &["10.99.0.11"]);
        let before = n1.snapshot();
        for node in ["n1", "10.99.0.11"] {
            for option in ["", "--force"] {
                let output = n1.shell(&format!("microk8s remove-node {node} {option}"));
                assert_eq!(output.code, Some(1), "{output:?}");
                assert!(output.stderr.contains("the last member"), "{output:?}");
            }
        }
        assert!(before == n1.snapshot());
        assert!(n1.stand_ins.is_in_kubernetes("n1"));
        let calls = n1.stand_ins.calls();
        assert!(
            !calls.iter().any(|call| call.contains(".remove")),
            "{calls:?}"
        );
    });
}
