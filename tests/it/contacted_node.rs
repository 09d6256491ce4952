//! What the contacted node answers when it cannot, or must not, admit a node: it says what is in the
//! way and nothing else, at once, and changes nothing.

use std::fs;
use std::time::{Duration, Instant};

use microk8s::base::wait;
use serde_json::json;

use crate::compat::requests::{Answer, curl};
use crate::lab::{Host, Lab, STALL_TIMEOUT};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Posts a request to the agent of a node.
fn post(from: &Host, address: &str, route: &str, body: &serde_json::Value) -> Answer {
    let url = format!("https://{address}:25000/cluster/api/{route}");
    curl(from, &["-X", "POST", &url], &body.to_string())
}

/// The body of a join request of n2.
fn join_request(token: &str, worker: bool) -> serde_json::Value {
    json!({
        "token": token, "hostname": "n2", "port": "25000",
        "worker": worker.then_some("as-worker"), "callback": "x".repeat(64),
        "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
    })
}

fn error_of(answer: &Answer) -> String {
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

/// No path and no command line of the contacted node is in a text.
#[track_caller]
fn tells_no_path(text: &str) {
    for private in ["/", "$SNAP", "`", ".wrapper"] {
        assert!(!text.contains(private), "{text}");
    }
}

fn tokens_of(host: &Host) -> String {
    host.read("credentials/cluster-tokens.txt")
}

#[test]
fn a_worker_admits_no_node_signs_nothing_and_names_a_control_plane() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let control_plane = n1.agent();
    n3.shell(&format!("{} --worker", n1.join_line())).ok();
    // Both a line of MicroK8s's tools and a token that the agent's own store knows: from before.
    let token = "0123456789abcdef0123456789abcdef";
    n3.write(
        "credentials/cluster-tokens.txt",
        &format!("{token}\n"),
        0o660,
    );
    let _worker = n3.agent();
    n3.stand_ins.forget_calls();
    let before = n3.snapshot();
    let fingerprint = n3.shell(
        "openssl x509 -in $SNAP_DATA/certs/server.crt -outform der | sha256sum | cut -c1-12",
    );
    let connection = format!("10.99.0.13:25000/{token}/{}", fingerprint.ok().trim());
    for options in ["--worker", "", "--worker --dry-run", "--dry-run"] {
        let joining = n2.snapshot();
        let output = n2.shell(&format!("microk8s join {connection} {options}"));
        assert_eq!(output.code, Some(6), "{options}: {output:?}");
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains("The contacted node is a worker"), "{said}");
        assert!(said.contains("10.99.0.11"), "{said}");
        assert!(said.contains("on a control plane node"), "{said}");
        assert!(joining == n2.snapshot(), "{options}");
    }
    let signing = json!({"token": format!("{token}-kubelet"), "request": "none"});
    let outcome = json!({"token": token, "hostname": "n2", "outcome": "failed"});
    for (route, body) in [
        ("v1.0/join", join_request(token, true)),
        ("v1.0/join", join_request("unknown", true)),
        ("v2.0/join", join_request("unknown", false)),
        ("v1.0/sign-cert", signing),
        ("v2.0/join/outcome", outcome),
    ] {
        let answer = post(n2, "10.99.0.13", route, &body);
        assert_eq!(answer.status, 403, "{route}: {answer:?}");
        assert_eq!(
            error_of(&answer),
            "Not possible to join. The contacted node is a worker: ask a control plane node, for one at 10.99.0.11"
        );
    }
    assert!(before == n3.snapshot());
    assert_eq!(n3.stand_ins.calls(), [""; 0]);
    assert!(tokens_of(n3).contains(token));
    drop(control_plane);
}

#[test]
fn a_worker_issues_no_token_through_its_agent() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    n1.write("var/lock/clustered.lock", "", 0o600);
    let _agent = n1.agent();
    let refused = n1.run(&["microk8s", "add-node"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("acting as a node in a cluster"));
    let line = format!(
        "curl -sS --unix-socket {} http://agent/local/v1/tokens -d '{{\"terms\": {{\"lifetime\": \"one-use\"}}}}' -H 'Content-Type: application/json'",
        n1.socket().display()
    );
    let answer = n1.shell(&line).ok();
    assert!(!answer.contains("fingerprint"), "{answer}");
    let listed = n1
        .run(&["microk8s", "token", "list", "--format", "json"])
        .ok();
    assert!(!listed.contains("issued"), "{listed}");
}

/// A file that is needed, who needs it, and what the joining node is told.
const FILES: [(&str, bool, &str); 9] = [
    ("certs/ca.crt", true, "Failed reading cluster CA: "),
    ("certs/ca.key", false, "Failed to retrieve cluster CA key: "),
    (
        "certs/serviceaccount.key",
        false,
        "Failed to retrieve service account key: ",
    ),
    (
        "var/kubernetes/backend/cluster.yaml",
        true,
        "Failed to retrieve dqlite cluster nodes: a file of the datastore: ",
    ),
    (
        "var/kubernetes/backend/cluster.key",
        false,
        "Failed to retrieve dqlite cluster certificate and key: ",
    ),
    (
        "args/kubelet",
        true,
        "Failed to retrieve kubelet arguments: ",
    ),
    (
        "args/kube-apiserver",
        false,
        "Failed to retrieve kube-apiserver arguments: ",
    ),
    (
        "args/kube-proxy",
        true,
        "Failed to retrieve kube-proxy arguments: ",
    ),
    (
        "credentials/known_tokens.csv",
        false,
        "Failed to retrieve token for admin user: ",
    ),
];

#[test]
fn a_file_that_cannot_be_read_is_named_by_its_kind_to_the_joining_node_and_by_its_path_in_the_log()
{
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let api_server = n1.read("args/kube-apiserver");
    let with_tokens = "--token-auth-file=${SNAP_DATA}/credentials/known_tokens.csv\n";
    n1.write(
        "args/kube-apiserver",
        &format!("{api_server}{with_tokens}"),
        0o660,
    );
    n1.write(
        "credentials/known_tokens.csv",
        "t,admin,admin,\"system:masters\"\n",
        0o600,
    );
    let agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    for (file, worker, text) in FILES {
        let path = n1.path(file);
        let aside = path.with_extension("aside");
        for why in ["no such file or directory", "is a directory"] {
            fs::rename(&path, &aside).unwrap();
            if why.starts_with("is") {
                fs::create_dir(&path).unwrap();
            }
            let answer = post(
                n2,
                "10.99.0.11",
                "v2.0/join",
                &join_request(token.trim(), worker),
            );
            assert_eq!(answer.status, 500, "{file}: {answer:?}");
            let told = error_of(&answer);
            assert_eq!(told, format!("{text}{why}"));
            tells_no_path(&told);
            agent.wait_until(file, |log| log.contains(&path.display().to_string()));
            let _ = fs::remove_dir(&path);
            fs::rename(&aside, &path).unwrap();
        }
    }
    let answer = post(
        n2,
        "10.99.0.11",
        "v2.0/join",
        &join_request(token.trim(), false),
    );
    assert_eq!(answer.status, 200, "the token is not used: {answer:?}");
}

#[test]
fn an_etcd_whose_certificates_cannot_be_read_is_named() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let api_server = n1.read("args/kube-apiserver");
    let other: String = api_server
        .lines()
        .filter(|line| !line.starts_with("--etcd"))
        .map(|line| format!("{line}\n"))
        .collect();
    let etcd = "--etcd-servers=https://10.99.0.50:2379\n--etcd-cafile=/etc/etcd/ca.crt\n";
    n1.write("args/kube-apiserver", &format!("{other}{etcd}"), 0o660);
    let agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    let answer = post(
        n2,
        "10.99.0.11",
        "v2.0/join",
        &join_request(token.trim(), false),
    );
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(
        error_of(&answer),
        "Failed to read etcd certificates: no such file or directory"
    );
    agent.wait_for("/etc/etcd/ca.crt");
}

#[test]
fn a_certificate_is_not_signed_without_the_authoritys_key_and_its_right_remains() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    let token = token.trim();
    let admitted = post(n2, "10.99.0.11", "v2.0/join", &join_request(token, true));
    assert_eq!(admitted.status, 200, "{admitted:?}");
    let request = n2
        .shell("openssl req -new -sha256 -key $SNAP_DATA/certs/kubelet.key -subj /CN=system:kube-proxy")
        .ok();
    let body = json!({"token": format!("{token}-proxy"), "request": request});
    let key = n1.path("certs/ca.key");
    let aside = key.with_extension("aside");
    fs::rename(&key, &aside).unwrap();
    let refused = post(n2, "10.99.0.11", "v1.0/sign-cert", &body);
    assert_eq!(refused.status, 500, "{refused:?}");
    assert_eq!(
        error_of(&refused),
        "Failed to sign certificate: sign_certificate failed: exit status 1"
    );
    agent.wait_for("certs/ca.key");
    fs::rename(&aside, &key).unwrap();
    let signed = post(n2, "10.99.0.11", "v1.0/sign-cert", &body);
    assert_eq!(signed.status, 200, "{signed:?}");
}

#[test]
fn programs_that_fail_on_the_contacted_node_are_told_without_their_command_lines() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.remove("args/cni-network/cni.yaml");
    let agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    n1.stand_ins
        .fail_service("restart", "microk8s.daemon-k8s-dqlite");
    let answer = post(
        n2,
        "10.99.0.11",
        "v2.0/join",
        &join_request(token.trim(), true),
    );
    let told = error_of(&answer);
    assert!(told.contains("its service does not restart"), "{told}");
    tells_no_path(&told);
    agent.wait_for("snapctl restart microk8s.daemon-k8s-dqlite");
    n1.stand_ins.repair_services();
    n1.stand_ins.fail_kubectl();
    let answer = post(
        n2,
        "10.99.0.11",
        "v2.0/join",
        &join_request(token.trim(), true),
    );
    let told = error_of(&answer);
    assert!(
        told.starts_with("Failed to retrieve list of control plane nodes: "),
        "{told}"
    );
    tells_no_path(&told);
    agent.wait_for("10.99.0.12 node=\"n2\"");
    agent.wait_until("kubectl", |log| {
        log.contains("kubectl") && log.contains("refused")
    });
    // An operator sees no more of it.
    let joined = n2.shell(&format!("{} --worker", n1.join_line()));
    assert_ne!(joined.code, Some(0));
    for private in ["kubectl", "$SNAP", "request-timeout"] {
        let said = format!("{}{}", joined.stdout, joined.stderr);
        assert!(!said.contains(private), "{said}");
    }
}

/// The file of the datastore is up to half a minute older than what its members know.
#[test]
fn a_node_that_the_datastore_has_forgotten_joins_at_once() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let stale = "- Address: 10.99.0.11:19001\n  ID: 1\n  Role: 0\n\
                 - Address: 10.99.0.12:19001\n  ID: 2\n  Role: 0\n";
    n1.write("var/kubernetes/backend/cluster.yaml", stale, 0o644);
    let _agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    let ask = || {
        post(
            n2,
            "10.99.0.11",
            "v2.0/join",
            &join_request(token.trim(), false),
        )
    };
    let known = "Failed to retrieve dqlite cluster nodes: the joining node (10.99.0.12) is already known to dqlite";

    n1.stand_ins.fail_dqlite();
    let unsure = ask();
    assert_eq!(unsure.status, 500, "{unsure:?}");
    assert_eq!(
        error_of(&unsure),
        format!("{known} by its file, and does not answer")
    );
    n1.stand_ins.repair_dqlite();
    let listed = || {
        n1.stand_ins
            .dqlite_lists(&["10.99.0.11:19001", "10.99.0.12:19001"]);
        let answer = ask();
        (error_of(&answer) == known).then_some(())
    };
    assert!(
        wait::until(STALL_TIMEOUT, POLL_INTERVAL, listed).is_some(),
        "{:?}",
        ask()
    );

    n1.stand_ins.dqlite_lists(&["10.99.0.11:19001"]);
    let admitted = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
        let answer = ask();
        (answer.status == 200).then_some(answer)
    });
    let admitted = admitted.expect("it is admitted");
    let body: serde_json::Value = serde_json::from_str(&admitted.body).unwrap();
    assert_eq!(body["voters"], json!(["10.99.0.11:19001"]));
}

/// A standalone agent with these arguments in a node directory of the host.
fn standalone(host: &Host, arguments: &[&str]) -> crate::lab::agent::Agent {
    let directory = host.scratch().join("standalone");
    let directory = directory.to_str().unwrap();
    let words = ["microk8s", "agent", "--node-dir", directory];
    crate::lab::agent::Agent::start_as(host, &[&words, arguments].concat())
}

fn on_standalone(host: &Host, line: &str) -> crate::lab::Output {
    let directory = host.scratch().join("standalone");
    host.shell(&format!(
        "unset SNAP SNAP_DATA SNAP_COMMON; MICROK8S_NODE_DIR={} {line}",
        directory.display()
    ))
}

#[test]
fn a_standalone_agent_without_a_datastore_admits_workers_and_says_at_once_why_no_control_plane() {
    for arguments in [&[][..], &["--bind", "10.99.0.11:25000"]] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agents = (standalone(n1, arguments), standalone(n2, &[]));
        let line = on_standalone(n1, "microk8s add-node --format short").ok();
        let line = line.lines().next().unwrap();
        let began = Instant::now();
        let token = line.split('/').nth(1).unwrap();
        let refused = post(n2, "10.99.0.11", "v2.0/join", &join_request(token, false));
        assert_eq!(refused.status, 501, "{refused:?}");
        assert_eq!(
            error_of(&refused),
            "Not possible to join as a control plane node. The contacted node runs no datastore"
        );
        on_standalone(n2, &format!("{line} --worker")).ok();
        // A datastore would be waited for a minute.
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}

#[test]
fn joins_that_wait_for_the_same_step_share_its_failure() {
    const DATASTORE: &str = "microk8s.daemon-k8s-dqlite";
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let token = n1
        .shell("microk8s add-node --format token --token-ttl 3600")
        .ok();
    n1.stand_ins.hold("restart", DATASTORE);
    let body = join_request(token.trim(), true).to_string();
    let restarts = || {
        let calls = n1.stand_ins.calls();
        calls.iter().filter(|call| call.contains(DATASTORE)).count()
    };
    let all = "for n in 1 2 3 4 5 6 7 8; do curl -sk -o /dev/null -w '%{http_code} ' -d \"$BODY\" https://10.99.0.11:25000/cluster/api/v2.0/join & done; wait";
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| n2.shell(&format!("BODY='{body}'; {all}")).ok());
        let held = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || n1.stand_ins.held());
        assert!(held.is_some());
        let at_work = "ss -Htn state established '( sport = :25000 )' | wc -l";
        let all_are_there = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            (n1.shell(at_work).ok().trim() == "8").then_some(())
        });
        assert!(all_are_there.is_some());
        // The next step, a callback token, fails.
        fs::rename(n1.path("credentials"), n1.path("aside")).unwrap();
        n1.write("credentials", "", 0o600);
        n1.stand_ins.let_go("restart", DATASTORE);
        let answers = answers.join().unwrap();
        assert_eq!(answers.trim(), ["500"; 8].join(" "));
    });
    assert_eq!(restarts(), 2, "{:?}", n1.stand_ins.calls());
}

#[test]
fn a_kubectl_that_hangs_is_asked_once_and_delays_neither_tokens_nor_joins() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    // No manifest that a first join would have to tell Kubernetes itself.
    n1.remove("args/cni-network/cni.yaml");
    let mark = n1.path("var/cluster-agent/pod-network.changed");
    fs::create_dir_all(mark.parent().unwrap()).unwrap();
    fs::write(&mark, "").unwrap();
    n1.stand_ins.hang_kubectl();
    let agent = n1.agent();
    let applied = || {
        let calls = n1.stand_ins.calls();
        let applied = calls
            .iter()
            .filter(|call| call.starts_with("kubectl apply"));
        applied.count()
    };
    assert!(
        wait::until(STALL_TIMEOUT, POLL_INTERVAL, || (applied() == 1)
            .then_some(()))
        .is_some()
    );
    n1.shell("microk8s add-node --token-ttl 1").ok();
    let line = n1.join_line();
    let began = Instant::now();
    n2.shell(&line).ok();
    // kubectl has a minute.
    assert!(began.elapsed() < Duration::from_secs(60));
    agent.wait_until("expired", |log| log.contains("expired"));
    assert_eq!(applied(), 1);
    assert!(mark.exists());
}
