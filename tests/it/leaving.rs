//! `leave`, beyond its recordings: what is left behind, and what happens when it fails, is killed
//! or is not wanted any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use microk8s::pki::ca;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::killed::keep_datastore_key;
use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, schema};

/// A cluster of n1 and n2, whose agents do not run any more.
pub fn cluster(option: &str) -> Option<Lab> {
    let lab = Lab::new(&["n1", "n2"])?;
    join(&lab, option);
    Some(lab)
}

fn join(lab: &Lab, option: &str) {
    let agent = lab.host("n1").agent();
    let line = lab.host("n1").join_line();
    lab.host("n2").shell(&format!("{line} {option}")).ok();
    agent.signal(Signal::SIGTERM);
    agent.ends();
}

/// Both ways to leave: in the process of the command, and through the agent of the node.
fn both_ways(option: &str, leaving: &str, test: impl Fn(&Lab)) {
    for through_agent in [false, true] {
        let Some(lab) = cluster(option) else { return };
        if option == "--worker" {
            keep_datastore_key(lab.host("n2"));
        }
        let _agent = through_agent.then(|| lab.host(leaving).agent());
        test(&lab);
    }
}

#[test]
fn a_node_in_no_cluster_leaves_without_a_failure_where_it_may_be_in_none() {
    let Some(lab) = cluster("--worker") else {
        return;
    };
    let n2 = lab.host("n2");
    const LEAVE: &str = "microk8s leave --if-present";
    n2.shell(LEAVE).ok();
    assert_eq!(n2.shell("microk8s nodes --self").code, Some(17));
    let before = n2.snapshot();
    let again = n2.shell(LEAVE).ok();
    let plain = n2.shell("microk8s leave");
    assert_eq!((plain.code, plain.stdout), (Some(1), again));
    let json = n2.shell(&format!("{LEAVE} --format json"));
    let lines = schema::lines(&json, "leave-events");
    assert_eq!((json.code, lines.len()), (Some(0), 1), "{json:?}");
    assert_eq!(lines[0]["outcome"], "absent");
    let wrong = n2.shell(&format!("{LEAVE} now"));
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(before == n2.snapshot());
}

/// The files of a node, our own state included, that hold one of these texts.
fn holders(root: &Path, texts: &[(&str, String)]) -> Vec<String> {
    let snapshot = Snapshot::take(root, &[]);
    let mut found = Vec::new();
    for (path, node) in &snapshot.nodes {
        let content = String::from_utf8_lossy(node.bytes()).into_owned();
        for (name, text) in texts {
            let text = text.trim();
            let hidden = STANDARD.encode(text);
            if content.contains(text) || content.contains(&hidden[..hidden.len() - 4]) {
                found.push(format!("{path} holds {name}"));
            }
        }
    }
    found
}

fn secrets(host: &Host, names: &[&'static str]) -> Vec<(&'static str, String)> {
    names.iter().map(|name| (*name, host.read(name))).collect()
}

const OF_THE_CLUSTER: [&str; 5] = [
    "certs/ca.crt",
    "certs/ca.key",
    "certs/serviceaccount.key",
    "credentials/callback-token.txt",
    "var/kubernetes/backend/cluster.key",
];

/// Every certificate and kubeconfig of the node is of the authority that it has.
pub fn assert_of_one_authority(root: &Path) {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let authority = read("certs/ca.crt");
    ca::check_pair(&authority, &read("certs/ca.key")).unwrap();
    for name in [
        "server",
        "kubelet",
        "client",
        "proxy",
        "scheduler",
        "controller",
        "apiserver-kubelet-client",
    ] {
        let certificate = read(&format!("certs/{name}.crt"));
        ca::check_pair(&certificate, &read(&format!("certs/{name}.key"))).unwrap();
        let certificate = ca::certificate_der(&certificate).unwrap();
        assert!(ca::is_signed_by(&certificate, &authority), "{name}");
    }
    for name in ["client", "kubelet", "proxy", "scheduler", "controller"] {
        let text = read(&format!("credentials/{name}.config"));
        assert!(text.contains(&STANDARD.encode(&authority)), "{name}");
    }
}

#[test]
fn nothing_of_the_cluster_is_left_on_a_control_plane_that_left() {
    both_ways("", "n2", |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let secrets = secrets(n1, &OF_THE_CLUSTER);
        assert!(!holders(&n2.snap_data(), &secrets).is_empty());
        n2.shell("microk8s leave").ok();
        assert_eq!(holders(&n2.snap_data(), &secrets), [""; 0]);
        assert_of_one_authority(&n2.snap_data());
        // It is a node like any other, and can join again.
        assert_eq!(n2.shell("microk8s leave").code, Some(1));
        let _agent = n1.agent();
        let line = n1.join_line();
        n2.shell(&line).ok();
    });
}

/// The private keys of a node, those in kubeconfigs included, and its tokens, each with its places.
fn keys_and_tokens(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, node) in Snapshot::take(root, &["var/cluster-agent"]).nodes {
        let text = String::from_utf8_lossy(node.bytes()).into_owned();
        let mut add = |secret: &str| {
            let places = found.entry(secret.trim().to_owned()).or_default();
            places.push(path.clone());
        };
        if text.contains("PRIVATE KEY") {
            add(&text);
        }
        if path.starts_with("credentials/") && path.ends_with(".config") {
            let data = text
                .lines()
                .find_map(|line| line.split_once("client-key-data: "));
            let (_, data) = data.unwrap();
            add(&String::from_utf8(STANDARD.decode(data.trim()).unwrap()).unwrap());
        } else if path.starts_with("credentials/") && !text.trim().is_empty() {
            add(&text);
        }
    }
    found
}

#[test]
fn a_node_that_left_has_no_key_or_token_that_it_had_as_a_member() {
    for (option, own) in [
        ("", &["var/kubernetes/backend/cluster.key"][..]),
        ("--worker", &["certs/ca.key", "certs/serviceaccount.key"]),
    ] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let n2 = lab.host("n2");
        let before = keys_and_tokens(&n2.snap_data());
        join(&lab, option);
        let member = keys_and_tokens(&n2.snap_data());
        let agent = n2.agent();
        n2.shell("microk8s leave").ok();
        let after = keys_and_tokens(&n2.snap_data());
        let mut kept: Vec<&str> = after
            .iter()
            .filter(|(secret, _)| member.contains_key(*secret))
            .map(|(_, places)| places.last().unwrap().as_str())
            .collect();
        kept.sort_unstable();
        // What the node had alone, and no other node has ever seen.
        assert_eq!(kept, own, "{option}");
        for path in own {
            let is_own = |places: &Vec<String>| places.iter().any(|place| place == path);
            let (secret, _) = after.iter().find(|(_, places)| is_own(places)).unwrap();
            assert!(before.contains_key(secret), "{option} {path}");
        }
        assert_of_one_authority(&n2.snap_data());
        let read = |name: &str| n2.read(&format!("certs/{name}"));
        let authority = read("front-proxy-ca.crt");
        ca::check_pair(&authority, &read("front-proxy-ca.key")).unwrap();
        let client = read("front-proxy-client.crt");
        ca::check_pair(&client, &read("front-proxy-client.key")).unwrap();
        assert!(ca::is_signed_by(
            &ca::certificate_der(&client).unwrap(),
            &authority
        ));
        // The agent shows its new certificate.
        agent.signal(Signal::SIGTERM);
        agent.ends();
    }
}

#[test]
fn the_last_control_plane_warns_that_its_workers_lose_their_cluster() {
    both_ways("--worker", "n1", |lab| {
        let n1 = lab.host("n1");
        // Kubernetes has this node by the name of its kubelet.
        let kubelet = n1.read("args/kubelet") + "--hostname-override=k1\n";
        n1.write("args/kubelet", &kubelet, 0o660);
        n1.stand_ins.kubernetes_knows("k1", Some("10.99.0.11"));
        // A worker that another node admitted.
        n1.stand_ins.kubernetes_knows("w7", Some("10.99.0.17"));
        let out = n1.shell("microk8s leave --dry-run");
        assert!(out.stderr.contains("as well: n2, w7"), "{out:?}");
        assert!(
            out.ok()
                .contains("drop the cluster's data, which no other node has")
        );
        let out = n1.shell("microk8s leave");
        assert!(out.stderr.contains("as well: n2, w7"), "{out:?}");
        out.ok();
    });
    // Where another control plane node has the data there is nothing to warn of.
    both_ways("", "n2", |lab| {
        let out = lab.host("n2").shell("microk8s leave --dry-run");
        assert!(!out.stderr.contains("without a cluster"), "{out:?}");
        assert!(!out.ok().contains("drop the cluster's data"));
    });
}

#[test]
fn the_node_a_cluster_was_formed_around_leaves_its_authority_behind() {
    both_ways("", "n1", |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let both = n2.read("var/kubernetes/backend/cluster.yaml");
        n1.write("var/kubernetes/backend/cluster.yaml", &both, 0o644);
        let secrets = secrets(n2, &OF_THE_CLUSTER);
        n1.shell("microk8s leave").ok();
        assert_eq!(holders(&n1.snap_data(), &secrets), [""; 0]);
        assert_of_one_authority(&n1.snap_data());
        if n1.socket().exists() {
            // Nor does its agent show whom it let in.
            let list = n1.shell("microk8s nodes").ok();
            assert_eq!(list.lines().count(), 2, "{list}");
        }
    });
}

#[test]
fn nothing_of_the_cluster_is_left_on_a_worker_that_left() {
    both_ways("--worker", "n2", |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let names = ["certs/ca.crt", "credentials/callback-token.txt"];
        let secrets = secrets(n1, &names);
        // As a join through the agent leaves it.
        n2.write("credentials/callback-token.sha256", "0\n", 0o600);
        n2.shell("microk8s leave").ok();
        assert_eq!(holders(&n2.snap_data(), &secrets), [""; 0]);
        assert!(!n2.path("credentials/callback-token.sha256").exists());
        assert_of_one_authority(&n2.snap_data());
        assert!(n2.fresh("certs/ca.crt") == n2.read("certs/ca.crt").into_bytes());
        assert!(!n2.path("args/traefik/provider.yaml").exists());
        assert!(!n2.read("args/kubelet").contains("worker"));
    });
}

#[test]
fn a_worker_that_was_a_control_plane_of_the_cluster_before_keeps_nothing_of_it_either() {
    let Some(lab) = cluster("") else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let secrets = secrets(n1, &OF_THE_CLUSTER);
    // As MicroK8s's own join makes one (recording `join-worker-after-controlplane`).
    let authority = n2.read("certs/ca.crt");
    n2.write("certs/ca.remote.crt", &authority, 0o660);
    for lock in ["clustered.lock", "no-k8s-dqlite"] {
        n2.write(&format!("var/lock/{lock}"), "", 0o700);
    }
    n2.shell("microk8s leave").ok();
    assert_eq!(holders(&n2.snap_data(), &secrets), [""; 0]);
    assert_of_one_authority(&n2.snap_data());
}

#[test]
fn a_leave_that_fails_leaves_the_node_as_it_was_and_can_be_repeated() {
    for (option, action, service) in [
        ("--worker", "stop", "microk8s.daemon-k8s-dqlite"),
        ("--worker", "start", "microk8s.daemon-kubelite"),
        ("", "stop", "microk8s.daemon-k8s-dqlite"),
    ] {
        both_ways(option, "n2", |lab| {
            let n2 = lab.host("n2");
            let before = n2.snapshot();
            n2.stand_ins.fail_service(action, service);
            let output = n2.shell("microk8s leave");
            assert_eq!(output.code, Some(1), "{output:?}");
            assert!(output.stderr.starts_with("error: "), "{output:?}");
            assert!(before == n2.snapshot(), "{option} {action} {service}");
            assert!(!n2.path("var/cluster-agent/journal").exists());
            let calls = n2.stand_ins.calls();
            let restarted = calls
                .iter()
                .filter(|call| call.starts_with("snapctl restart"));
            assert!(restarted.count() >= 2, "{calls:?}");
            n2.stand_ins.repair_services();
            n2.shell("microk8s leave").ok();
        });
    }
    both_ways("", "n2", |lab| {
        let n2 = lab.host("n2");
        let before = n2.snapshot();
        n2.stand_ins.fail_dqlite_remove();
        let output = n2.shell("microk8s leave");
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(before == n2.snapshot());
        n2.stand_ins.repair_dqlite();
        n2.shell("microk8s leave").ok();
    });
}

#[test]
fn a_signal_takes_a_leave_back() {
    for (option, through_agent) in [
        ("--worker", false),
        ("--worker", true),
        ("", false),
        ("", true),
    ] {
        let Some(lab) = cluster(option) else { return };
        let n2 = lab.host("n2");
        if option == "--worker" {
            keep_datastore_key(n2);
        }
        let agent = through_agent.then(|| n2.agent());
        let before = n2.snapshot();
        n2.stand_ins
            .ask_caller_to_end("stop", "microk8s.daemon-kubelite");
        let output = n2.shell("microk8s leave");
        assert_ne!(output.code, Some(0), "{output:?}");
        assert!(before == n2.snapshot(), "{output:?}");
        // Through the agent it was the agent that was asked; without it the command goes on.
        if let Some(agent) = agent {
            agent.ends();
        }
        n2.shell("microk8s leave").ok();
    }
}

#[test]
fn a_dry_run_says_what_would_be_done_and_changes_nothing() {
    for (option, last) in [
        (
            "--worker",
            "- put var/kubernetes/backend.next in place of var/kubernetes/backend",
        ),
        (
            "",
            "- have the datastore forget 10.99.0.12:19001; from here on there is no way back",
        ),
    ] {
        both_ways(option, "n2", |lab| {
            let n2 = lab.host("n2");
            let before = n2.snapshot();
            n2.stand_ins.forget_calls();
            let out = n2.shell("microk8s leave --dry-run").ok();
            let words = [
                last,
                "- stop the service daemon-kubelite",
                "- write certs/kubelet.crt",
            ];
            for word in words {
                assert!(out.lines().any(|line| line == word), "{word}: {out}");
            }
            assert!(before == n2.snapshot());
            let calls = n2.stand_ins.calls();
            assert!(
                calls.iter().all(|call| call.ends_with(" .cluster")),
                "{calls:?}"
            );
        });
    }
}

#[test]
fn a_leave_is_told_in_json_by_the_schema_and_says_what_is_left_to_do() {
    let left_to_do = "run `microk8s remove-node n2` on a node that stays in the cluster, where `microk8s nodes` still lists this node";
    for (option, role) in [("--worker", "worker"), ("", "control-plane")] {
        both_ways(option, "n2", |lab| {
            let n2 = lab.host("n2");
            let planned = n2.shell("microk8s leave --dry-run --format json");
            let lines = schema::events(&planned, "leave");
            let stop = |line: &Value| {
                line["kind"] == "step" && line["message"] == "stop the service daemon-kubelite"
            };
            assert!(lines.iter().any(stop), "{planned:?}");
            let end = lines.last().unwrap();
            assert_eq!(
                (&end["outcome"], &end["role"], &end["hint"]),
                (&"planned".into(), &role.into(), &left_to_do.into())
            );

            let left = n2.shell("microk8s leave --format=json");
            let lines = schema::events(&left, "leave");
            let stages: Vec<&Value> = lines.iter().map(|line| &line["stage"]).collect();
            for stage in ["apply", "api-server"] {
                assert!(stages.contains(&&stage.into()), "{stages:?}");
            }
            let end = lines.last().unwrap();
            assert_eq!(
                (&end["outcome"], &end["role"], &end["hint"]),
                (&"left".into(), &role.into(), &left_to_do.into())
            );
            assert_eq!(
                left.stderr,
                format!("This node has left the cluster.\nhint: {left_to_do}\n")
            );

            let again = n2.shell("microk8s leave --format json");
            let lines = schema::events(&again, "leave");
            assert_eq!((again.code, lines.len()), (Some(1), 1), "{again:?}");
            assert_eq!(lines[0]["outcome"], "failed");
        });
    }
}
