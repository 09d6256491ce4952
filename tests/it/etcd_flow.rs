//! Joining a cluster without high availability (the older flow, version 1 of the API), and one
//! whose datastore is an etcd outside. Beyond the recordings `v1-join` and `v1-join-unknown-token` the
//! facts were read in MicroK8s's sources.

use crate::compat::requests::curl;
use crate::lab::{Host, Lab};

/// A lab of two nodes without high availability, and the agent of the first.
fn without_ha(lab: &Lab) {
    for host in lab.hosts() {
        host.remove("var/lock/ha-cluster");
    }
}

fn connection(host: &Host) -> String {
    let line = host.join_line();
    line.strip_prefix("microk8s join ").unwrap().to_owned()
}

/// What OpenSSL says of a certificate of `host`, verified against `ca` there.
fn verified(host: &Host, ca: &str, certificate: &str) -> String {
    let (ca, certificate) = (host.path(ca), host.path(certificate));
    host.shell(&format!(
        "openssl verify -CAfile {} {certificate} && openssl x509 -noout -subject -in {certificate}",
        ca.display(),
        certificate = certificate.display()
    ))
    .ok()
}

#[test]
fn a_node_joins_a_cluster_on_etcd_with_certificates() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    without_ha(&lab);
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.knows(&[("n2", "10.99.0.12")]);
    let _agent = n1.agent();
    let joined = n2.run(&["microk8s", "join", &connection(n1)]);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    assert_eq!(joined.stdout, "Successfully joined the cluster.\n");

    assert_eq!(
        n2.stand_ins.calls(),
        [
            "snapctl restart microk8s.daemon-flanneld",
            "snapctl restart microk8s.daemon-kubelite",
            "snapctl restart microk8s.daemon-etcd",
            "snapctl restart microk8s.daemon-apiserver-kicker",
            "snapctl restart microk8s.daemon-apiserver-proxy",
            "snapctl restart microk8s.daemon-k8s-dqlite",
        ]
    );
    let flanneld = n2.read("args/flanneld");
    for argument in [
        "--etcd-endpoints=https://10.99.0.11:12379\n",
        "--etcd-cafile=${SNAP_DATA}/certs/ca.remote.crt\n",
        "--etcd-certfile=${SNAP_DATA}/certs/server.remote.crt\n",
        "--etcd-keyfile=${SNAP_DATA}/certs/server.key\n",
    ] {
        assert!(flanneld.contains(argument), "{argument}: {flanneld}");
    }
    let kubelet = n2.read("args/kubelet");
    assert!(kubelet.contains("--client-ca-file=${SNAP_DATA}/certs/ca.remote.crt\n"));
    assert!(!kubelet.contains("--hostname-override"), "{kubelet}");
    assert!(
        n2.read("credentials/kubelet.config")
            .contains("server: https://10.99.0.11:16443\n")
    );
    for (certificate, subject) in [
        ("server.remote.crt", "CN = 127.0.0.1"),
        ("proxy.crt", "CN = system:kube-proxy"),
        ("kubelet.crt", "CN = system:node:n2, O = system:nodes"),
    ] {
        let said = verified(n2, "certs/ca.remote.crt", &format!("certs/{certificate}"));
        assert!(said.contains(subject), "{certificate}: {said}");
    }
    // A certificate for etcd lets nobody pose as the API server.
    let names = n2.shell(&format!(
        "openssl x509 -noout -ext subjectAltName -in {}",
        n2.path("certs/server.remote.crt").display()
    ));
    assert!(!names.stdout.contains("kubernetes"), "{names:?}");
    for lock in ["clustered.lock", "no-k8s-dqlite", "no-cert-reissue"] {
        assert!(n2.path(&format!("var/lock/{lock}")).exists(), "{lock}");
    }
    assert!(!n2.path("var/lock/join-in-progress").exists());

    // The contacted node can call the new one: name, port and the token that it made.
    let callbacks = n1.read("credentials/callback-tokens.txt");
    let own = n2.read("credentials/callback-token.txt");
    assert_eq!(callbacks, format!("n2:25000 {own}"));
    assert!(n1.path("var/lock/no-cert-reissue").exists());
}

#[test]
fn the_older_flow_checks_the_fingerprint_as_well() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    without_ha(&lab);
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.knows(&[("n2", "10.99.0.12")]);
    let _agent = n1.agent();
    let connection = connection(n1);
    let (target, _) = connection.rsplit_once('/').unwrap();
    let wrong = format!("{target}/{}", "0".repeat(12));
    let before = n2.snapshot();
    let refused = n2.run(&["microk8s", "join", &wrong]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert_eq!(
        refused.stdout,
        "Joining cluster failed. Could not verify the identity of 10.99.0.11. Use '--skip-verify' to skip server certificate check.\n"
    );
    assert!(before == n2.snapshot());
    n2.run(&["microk8s", "join", &wrong, "--skip-verify"]).ok();
}

#[test]
fn a_name_that_does_not_lead_to_the_node_is_overridden_by_its_address() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    without_ha(&lab);
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.knows(&[]);
    let _agent = n1.agent();
    n2.run(&["microk8s", "join", &connection(n1)]).ok();
    let callbacks = n1.read("credentials/callback-tokens.txt");
    assert!(callbacks.starts_with("10.99.0.12:25000 "), "{callbacks}");
    // The override is the contacted node's word for us; the node itself drops it, as MicroK8s's.
    assert!(!n2.read("args/kubelet").contains("--hostname-override"));
}

#[test]
fn a_node_on_dqlite_is_no_cluster_on_etcd_and_the_other_way_round() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n2.remove("var/lock/ha-cluster");
    let before = n2.snapshot();
    let _agent = n1.agent();
    let connection = connection(n1);
    let refused = n2.run(&["microk8s", "join", &connection]);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.stdout.contains(
        "Connection failed. Failed to join the cluster. This is an HA MicroK8s cluster.\n\
         Please retry after enabling HA on this joining node with 'microk8s enable ha-cluster' (500)."
    ));
    assert!(before == n2.snapshot());
    // The token was only looked at.
    n2.write("var/lock/ha-cluster", "", 0o644);
    n2.run(&["microk8s", "join", &connection, "--worker"]).ok();
}

#[test]
fn a_control_plane_node_takes_over_an_etcd_outside_of_the_cluster() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let arguments = n1.read("args/kube-apiserver");
    let inside = arguments
        .lines()
        .find(|line| line.starts_with("--etcd-servers="))
        .unwrap();
    let outside = "--etcd-servers=https://10.99.0.99:2379\n\
                   --etcd-cafile=${SNAP_DATA}/certs/etcd-ca.crt\n\
                   --etcd-certfile=${SNAP_DATA}/certs/etcd.crt\n\
                   --etcd-keyfile=${SNAP_DATA}/certs/etcd.key";
    n1.write(
        "args/kube-apiserver",
        &arguments.replace(inside, outside),
        0o644,
    );
    for (file, content) in [
        ("etcd-ca.crt", "CA"),
        ("etcd.crt", "CERT"),
        ("etcd.key", "KEY"),
    ] {
        n1.write(&format!("certs/{file}"), content, 0o600);
    }
    let _agent = n1.agent();
    let joined = n2.run(&["microk8s", "join", &connection(n1)]);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    let arguments = n2.read("args/kube-apiserver");
    for argument in [
        "--etcd-servers=https://10.99.0.99:2379\n",
        "--etcd-cafile=${SNAP_DATA}/certs/remote-etcd-ca.crt\n",
        "--etcd-certfile=${SNAP_DATA}/certs/remote-etcd.crt\n",
        "--etcd-keyfile=${SNAP_DATA}/certs/remote-etcd.key\n",
    ] {
        assert!(arguments.contains(argument), "{argument}: {arguments}");
    }
    assert_eq!(n2.read("certs/remote-etcd.key"), "KEY");
    assert!(n2.path("var/lock/no-k8s-dqlite").exists());
    assert_eq!(
        n2.stand_ins.calls(),
        [
            "snapctl restart microk8s.daemon-kubelite",
            "snapctl restart microk8s.daemon-k8s-dqlite",
            "snapctl restart microk8s.daemon-kubelite",
        ]
    );
    // Nothing was done to a datastore that nobody uses.
    assert!(
        n1.stand_ins
            .calls()
            .iter()
            .all(|call| !call.contains("k8s-dqlite"))
    );

    // When it leaves it uses its own datastore again.
    n2.run(&["microk8s", "leave"]).ok();
    let arguments = n2.read("args/kube-apiserver");
    assert!(arguments.contains(inside), "{arguments}");
    assert!(!arguments.contains("--etcd-cafile"), "{arguments}");
    for gone in [
        "certs/remote-etcd-ca.crt",
        "certs/remote-etcd.crt",
        "certs/remote-etcd.key",
        "var/lock/no-k8s-dqlite",
    ] {
        assert!(!n2.path(gone).exists(), "{gone}");
    }
}

#[test]
fn a_cluster_with_token_authentication_is_joined_with_its_administrators_token() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let arguments = n1.read("args/kube-apiserver")
        + "--token-auth-file=${SNAP_DATA}/credentials/known_tokens.csv\n";
    n1.write("args/kube-apiserver", &arguments, 0o644);
    let users =
        "admintoken,admin,admin,\"system:masters\"\nproxytoken,system:kube-proxy,kube-proxy\n";
    n1.write("credentials/known_tokens.csv", users, 0o600);
    let _agent = n1.agent();
    n2.run(&["microk8s", "join", &connection(n1)]).ok();
    assert!(
        n2.read("args/kube-apiserver")
            .contains("--token-auth-file=${SNAP_DATA}/credentials/known_tokens.csv\n")
    );
    assert_eq!(
        n2.read("credentials/known_tokens.csv"),
        "admintoken,admin,admin,\"system:masters\"\n"
    );
    n2.run(&["microk8s", "leave"]).ok();
    let users = n2.read("credentials/known_tokens.csv");
    assert!(!users.contains("admintoken"), "{users}");
    assert!(users.ends_with(",admin,admin,\"system:masters\"\n"));
}

#[test]
fn nodes_without_certificates_get_tokens_from_a_cluster_on_etcd_that_has_them() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    without_ha(&lab);
    let n1 = lab.host("n1");
    let arguments = n1.read("args/kube-apiserver")
        + "--token-auth-file=${SNAP_DATA}/credentials/known_tokens.csv\n";
    n1.write("args/kube-apiserver", &arguments, 0o644);
    let users = "t1,admin,admin,\"system:masters\"\nt2,system:kube-proxy,kube-proxy\n";
    n1.write("credentials/known_tokens.csv", users, 0o600);
    n1.knows(&[("n2", "10.99.0.12")]);
    let _agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    let body = format!(
        "{{\"token\": \"{}\", \"hostname\": \"n2\", \"port\": \"25000\", \"callback\": \"x\"}}",
        token.trim()
    );
    let url = "https://10.99.0.11:25000/cluster/api/v1.0/join";
    let answer = lab
        .host("n2")
        .run_with_input(
            &["curl", "-sk", "--data-binary", "@-", url],
            body.as_bytes(),
        )
        .ok();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["api_authn_mode"], "Token");
    assert_eq!(answer["kubeproxy"], "t2");
    let kubelet = answer["kubelet"].as_str().unwrap();
    assert!(
        n1.read("credentials/known_tokens.csv")
            .contains(&format!("{kubelet},system:node:n2,")),
    );
    let mut calls = n1.stand_ins.calls();
    calls.retain(|call| call.starts_with("snapctl "));
    assert_eq!(calls, ["snapctl restart microk8s.daemon-kubelite"]);
}

/// Each node that is too old for certificates has a token made, which the API server reads when it
/// starts.
#[test]
fn however_many_names_ask_for_tokens_the_api_server_restarts_a_few_times_an_hour() {
    const KUBELITE: &str = "snapctl restart microk8s.daemon-kubelite";
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    without_ha(&lab);
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let names: Vec<String> = (1..=20).map(|number| format!("old{number}")).collect();
    let known = names.iter().map(|name| (name.as_str(), "10.99.0.12"));
    n1.knows(&known.collect::<Vec<_>>());
    let api_server = n1.read("args/kube-apiserver");
    let file = "--token-auth-file=${SNAP_DATA}/credentials/known_tokens.csv\n";
    n1.write("args/kube-apiserver", &format!("{api_server}{file}"), 0o660);
    n1.write(
        "credentials/known_tokens.csv",
        "t,system:kube-proxy,kube-proxy,\n",
        0o600,
    );
    let mut statuses = Vec::new();
    for half in names.chunks(10) {
        // That the agent starts anew takes nothing from what it knows.
        let agent = n1.agent();
        let token = n1
            .shell("microk8s add-node --format token --token-ttl 3600")
            .ok();
        for name in half {
            let body = serde_json::json!({
                "token": token.trim(), "hostname": name, "port": "25000",
                "callback": "x".repeat(64), "can_handle_x509_auth": false,
            });
            let url = "https://10.99.0.11:25000/cluster/api/v1.0/join";
            let answer = curl(n2, &["-X", "POST", url], &body.to_string());
            statuses.push(answer.status);
        }
        agent.kill();
    }
    let calls = n1.stand_ins.calls();
    let restarts = calls.iter().filter(|call| *call == KUBELITE).count();
    assert_eq!(restarts, 12, "{statuses:?}");
    assert_eq!(statuses, [&[200; 12][..], &[503; 8]].concat());
    assert_eq!(
        n1.read("credentials/known_tokens.csv")
            .matches("system:node:old")
            .count(),
        12
    );
}
