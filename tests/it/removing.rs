//! `remove-node`, beyond its recordings: nodes that only somebody still knows, and nodes that must
//! stay.

use nix::sys::signal::Signal;

use crate::lab::{Host, Lab, schema};

/// Both ways: in the process of the command, and through the agent of the node.
fn both_ways(hosts: &[&str], test: impl Fn(&Lab)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(hosts) else { return };
        let _agent = through_agent.then(|| lab.host("n1").agent());
        test(&lab);
    }
}

/// The members of n1's datastore.
pub fn datastore(host: &Host, addresses: &[&str]) {
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

#[test]
fn an_absent_node_is_no_failure_where_it_may_be_absent_and_one_in_the_datastore_still_is() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        datastore(n1, &["10.99.0.11", "10.99.0.12"]);
        let before = n1.snapshot();
        let plain = n1.shell("microk8s remove-node n9");
        assert_eq!(plain.code, Some(1), "{plain:?}");
        for line in [
            "microk8s remove-node n9 --if-present",
            "microk8s remove-node --if-present n9",
        ] {
            let output = n1.shell(line);
            assert_eq!(
                (output.code, output.stdout.as_str(), output.stderr.as_str()),
                (
                    Some(0),
                    "Node n9 is not in the cluster. Nothing was changed.\n",
                    ""
                )
            );
        }
        let json = n1.shell("microk8s remove-node n9 --if-present --format json");
        let lines = schema::lines(&json, "remove-node-events");
        assert_eq!(lines.last().unwrap()["outcome"], "absent", "{json:?}");
        let listed = n1.shell("microk8s remove-node 10.99.0.12 --if-present");
        assert_eq!(listed.code, Some(1), "{listed:?}");
        assert!(
            listed.stdout.contains("is registered with dqlite"),
            "{listed:?}"
        );
        assert!(before == n1.snapshot());
        n1.shell("microk8s remove-node 10.99.0.12 --if-present --force")
            .ok();
        assert!(was_called(n1, ".remove 10.99.0.12:19001"));
    });
}

pub fn was_called(host: &Host, end: &str) -> bool {
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
fn an_unknown_node_is_removed_with_force_by_name_and_address() {
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
fn the_own_node_is_never_removed_by_any_of_its_names_and_addresses() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.add_address("10.98.0.11/24");
        let arguments = n1.read("args/kubelet") + "--hostname-override=first.example\n";
        n1.write("args/kubelet", &arguments, 0o644);
        n1.stand_ins.kubernetes_knows("n1", Some("10.99.0.11"));
        let before = n1.snapshot();
        for members in [&["10.99.0.11"][..], &["10.99.0.11", "10.99.0.12"]] {
            datastore(n1, members);
            for node in [
                "n1",
                "N1",
                "First.example",
                "10.99.0.11",
                "10.98.0.11",
                "127.0.0.1",
            ] {
                for option in ["", "--force"] {
                    let output = n1.shell(&format!("microk8s remove-node {node} {option}"));
                    assert_eq!(output.code, Some(1), "{output:?}");
                    let text = "error: n1 is this node, and a node cannot remove itself";
                    assert!(output.stderr.contains(text), "{output:?}");
                }
            }
        }
        datastore(n1, &["10.99.0.11"]);
        drop(before);
        assert!(n1.stand_ins.is_in_kubernetes("n1"));
        assert_eq!(n1.stand_ins.calls(), [""; 0]);
    });
}

#[test]
fn the_last_member_is_never_removed() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
        datastore(n1, &["10.99.0.12"]);
        let before = n1.snapshot();
        for node in ["n2", "10.99.0.12"] {
            for option in ["", "--force"] {
                let output = n1.shell(&format!("microk8s remove-node {node} {option}"));
                assert_eq!(output.code, Some(1), "{output:?}");
                assert!(output.stderr.contains("the last member"), "{output:?}");
            }
        }
        assert!(before == n1.snapshot());
        assert!(n1.stand_ins.is_in_kubernetes("n2"));
        assert!(!was_called(n1, ".remove 10.99.0.12:19001"));
    });
}

#[test]
fn an_address_that_a_node_claims_removes_no_member_of_the_datastore() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins.kubernetes_knows("k2", Some("10.99.0.12"));
        // What a worker's kubelet writes of itself.
        n1.stand_ins.kubernetes_knows("w3", Some("10.99.0.12"));
        n1.stand_ins.kubernetes_knows("w4", Some("10.99.0.11"));
        datastore(n1, &["10.99.0.11", "10.99.0.12"]);
        // Without --force a node that may be a member counts as one.
        for node in ["w3", "w4", "k2"] {
            let output = n1.shell(&format!("microk8s remove-node {node}"));
            assert_eq!(output.code, Some(1), "{output:?}");
            assert!(n1.stand_ins.is_in_kubernetes(node));
        }
        for (node, other) in [("w4", "n1"), ("w3", "k2")] {
            let output = n1.shell(&format!("microk8s remove-node {node} --force"));
            assert_eq!(output.code, Some(0), "{output:?}");
            let named = output
                .stderr
                .contains(&format!("is where {other} is as well as {node}"));
            assert!(named, "{output:?}");
            assert!(!n1.stand_ins.is_in_kubernetes(node));
        }
        assert!(n1.stand_ins.is_in_kubernetes("k2"));
        let calls = n1.stand_ins.calls();
        assert!(
            !calls.iter().any(|call| call.contains(".remove")),
            "{calls:?}"
        );
        // By the address it is certain which member is meant, and not which node of Kubernetes.
        n1.stand_ins.kubernetes_knows("w3", Some("10.99.0.12"));
        let output = n1.shell("microk8s remove-node 10.99.0.12");
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(
            output.stderr.contains("claimed in Kubernetes by k2 and w3"),
            "{output:?}"
        );
        n1.shell("microk8s remove-node 10.99.0.12 --force").ok();
        assert!(was_called(n1, ".remove 10.99.0.12:19001"));
        assert!(n1.stand_ins.is_in_kubernetes("k2") && n1.stand_ins.is_in_kubernetes("w3"));
    });
}

#[test]
fn a_worker_that_was_admitted_here_removes_no_member_by_an_address_that_it_claims() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    datastore(n1, &["10.99.0.11", "10.99.0.13"]);
    // The member at .13 is known to Kubernetes by no address, so nobody else claims it.
    n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.13"));
    let output = n1.shell("microk8s remove-node n2 --force");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(
        output.stderr.contains("was admitted from 10.99.0.12"),
        "{output:?}"
    );
    assert!(!was_called(n1, ".remove 10.99.0.13:19001"));
    assert!(!n1.stand_ins.is_in_kubernetes("n2"));
}

#[test]
fn a_control_plane_with_another_address_in_kubernetes_is_known_by_that_of_its_admission() {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let agent = n1.agent();
        n2.shell(&n1.join_line()).ok();
        if !through_agent {
            agent.signal(Signal::SIGTERM);
            agent.ends();
        }
        datastore(n1, &["10.99.0.11", "10.99.0.12"]);
        // As after `join --node-ip 10.98.0.12`.
        n1.stand_ins.kubernetes_knows("n2", Some("10.98.0.12"));
        for node in ["n2", "N2", "10.98.0.12", "10.99.0.12"] {
            let output = n1.shell(&format!("microk8s remove-node {node}"));
            assert_eq!(output.code, Some(1), "{node}: {output:?}");
            assert!(
                output.stdout.contains("is registered with dqlite"),
                "{output:?}"
            );
        }
        assert!(n1.stand_ins.is_in_kubernetes("n2"));
        n1.shell("microk8s remove-node N2 --force").ok();
        assert!(was_called(n1, ".remove 10.99.0.12:19001"));
        assert!(!n1.stand_ins.is_in_kubernetes("n2"));
    }
}

#[test]
fn a_control_plane_that_another_node_admitted_is_not_half_removed() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins.control_plane_knows("k2", "10.98.0.12");
        datastore(n1, &["10.99.0.11", "10.99.0.12"]);
        let output = n1.shell("microk8s remove-node k2");
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(
            output
                .stderr
                .contains("`microk8s remove-node 10.99.0.12 --force`"),
            "{output:?}"
        );
        assert!(n1.stand_ins.is_in_kubernetes("k2"));
        let output = n1.shell("microk8s remove-node k2 --force");
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(
            output
                .stderr
                .contains("no member of the datastore is removed"),
            "{output:?}"
        );
        n1.shell("microk8s remove-node 10.99.0.12 --force").ok();
        assert!(was_called(n1, ".remove 10.99.0.12:19001"));
    });
}

#[test]
fn a_name_in_any_case_is_that_of_the_node() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
    n1.write(
        "credentials/callback-tokens.txt",
        "N2:25000 a\nn22:25000 b\n",
        0o660,
    );
    n1.shell("microk8s remove-node N2").ok();
    assert!(!n1.stand_ins.is_in_kubernetes("n2"));
    assert_eq!(n1.read("credentials/callback-tokens.txt"), "n22:25000 b\n");
    let list = n1.shell("microk8s nodes").ok();
    assert!(!list.contains("n2"), "{list}");
}

#[test]
fn a_finalizer_that_keeps_a_node_is_named() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins
            .kubernetes_keeps("n2", "10.99.0.12", "example.com/drain");
        let output = n1.shell("microk8s remove-node n2");
        assert_eq!(output.code, Some(1), "{output:?}");
        let error = "Kubernetes keeps node n2 until its finalizers are done: example.com/drain";
        assert!(output.stderr.contains(error), "{output:?}");
        assert!(
            output.stderr.contains("hint: all else is removed"),
            "{output:?}"
        );
    });
}

#[test]
fn an_api_server_that_refuses_is_not_taken_for_one_that_is_down() {
    both_ways(&["n1"], |lab| {
        let n1 = lab.host("n1");
        n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
        n1.stand_ins.forbid_kubectl("delete");
        let output = n1.shell("microk8s remove-node n2");
        assert_eq!(output.code, Some(1), "{output:?}");
        let hint = "hint: the API server runs, and does not allow this node's administrator";
        assert!(output.stderr.contains(hint), "{output:?}");
        n1.stand_ins.forbid_kubectl("get");
        let output = n1.shell("microk8s remove-node n2");
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(hint), "{output:?}");
    });
}

#[test]
fn a_removal_is_told_in_json_by_the_schema() {
    both_ways(&["n1", "n2"], |lab| {
        let n1 = lab.host("n1");
        datastore(n1, &["10.99.0.11", "10.99.0.12"]);
        let told = |arguments: &str| {
            let output = n1.shell(&format!("microk8s remove-node {arguments}"));
            let mut lines = schema::events(&output, "remove-node");
            let end = lines.pop().unwrap();
            let stages = lines.iter().map(|line| line["stage"].clone()).collect();
            (end, Vec::from_iter(output.code), stages)
        };
        let (end, code, stages): (_, _, Vec<serde_json::Value>) =
            told("--format json 10.99.0.12 --force");
        assert_eq!((&end["outcome"], code), (&"removed".into(), vec![0]));
        assert!(stages.contains(&"datastore".into()), "{stages:?}");
        let (end, code, _) = told("n9 --format=json");
        assert_eq!((&end["outcome"], code), (&"failed".into(), vec![1]));
        assert_eq!(end["message"], "Node n9 does not exist in Kubernetes.");
        let (end, code, _) = told("--format json");
        assert_eq!((&end["outcome"], code), (&"failed".into(), vec![1]));
        assert_eq!(end["message"], "no node is named");
    });
}

#[test]
fn a_format_that_is_none_is_refused_before_anything_is_done() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    for command in ["leave", "remove-node n2"] {
        for (format, error) in [
            (
                "--format xml",
                "Invalid value for '--format': `xml` is neither text nor json",
            ),
            ("--format", "Option '--format' requires an argument."),
        ] {
            let output = lab
                .host("n1")
                .shell(&format!("microk8s {command} {format}"));
            assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""));
            let expected = format!("\n\nError: {error}\n");
            assert!(output.stderr.ends_with(&expected), "{output:?}");
        }
    }
}
