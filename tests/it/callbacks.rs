//! Who may have a node do something: tokens and addresses, on hosts with addresses of their own.

use std::time::Instant;

use crate::compat::requests::{Answer, curl};
use crate::lab::agent::Agent;
use crate::lab::{Host, Lab};

const BODY: &str =
    r#""service": [{"name": "kubelet", "arguments_update": [{"--v": "7"}], "restart": true}]"#;

fn token(host: &Host) -> String {
    host.read("credentials/callback-token.txt")
        .trim()
        .to_owned()
}

/// Sends one request of each kind from one host to another.
fn call_all(from: &Host, to: &str, token: &str) -> [Answer; 3] {
    let url = |path: &str| format!("https://{to}:25000/cluster/api/{path}");
    let header = format!("x-microk8s-callback-token: {token}");
    [
        curl(
            from,
            &["-X", "POST", &url("v1.0/configure")],
            &format!("{{\"callback\": \"{token}\", {BODY}}}"),
        ),
        curl(
            from,
            &["-X", "POST", &url("v1.0/upgrade")],
            &format!("{{\"callback\": \"{token}\", \"upgrade\": \"none\", \"phase\": \"commit\"}}"),
        ),
        curl(
            from,
            &["-X", "POST", "-H", &header, &url("v2.0/image/import")],
            "data",
        ),
    ]
}

/// What a host was made to do; to look who is a member does nothing.
fn done_on(host: &Host) -> Vec<String> {
    let mut calls = host.stand_ins.calls();
    calls.retain(|call| !call.ends_with(" .cluster"));
    calls
}

/// All three are refused with MicroK8s's words, and nothing was done.
#[track_caller]
fn assert_refused(from: &Host, to: &Host, address: &str, token: &str) {
    to.stand_ins.forget_calls();
    let before = to.snapshot();
    let answers = call_all(from, address, token);
    let statuses = answers.each_ref().map(|answer| answer.status);
    assert_eq!(statuses, [500, 500, 401]);
    for answer in &answers {
        assert_eq!(answer.body, "{\"error\":\"Invalid token\"}");
    }
    assert_eq!(done_on(to), [""; 0]);
    assert_eq!(to.snapshot(), before);
}

/// All three get past the token; the first is carried out.
#[track_caller]
fn assert_taken(from: &Host, to: &Host, address: &str, token: &str) {
    to.stand_ins.forget_calls();
    let answers = call_all(from, address, token);
    assert_eq!(
        (answers[0].status, answers[0].body.as_str()),
        (200, "{\"result\":\"ok\"}")
    );
    assert!(
        answers[1].body.contains("could not find script"),
        "{:?}",
        answers[1]
    );
    assert!(
        answers[2].body.contains("microk8s.ctr command failed"),
        "{:?}",
        answers[2]
    );
    assert!(to.read("args/kubelet").contains("--v=7\n"));
    assert_eq!(done_on(to), ["snapctl restart microk8s.daemon-kubelite"]);
}

/// n1 and n3 are control plane nodes, n2 is a worker; each with its agent.
fn cluster(n1_arguments: &[&str]) -> Option<(Vec<Agent>, Lab)> {
    let lab = Lab::new(&["n1", "n2", "n3"])?;
    let hosts = ["n1", "n2", "n3"].map(|name| lab.host(name));
    let agents = vec![
        Agent::start(hosts[0], n1_arguments),
        hosts[1].agent(),
        hosts[2].agent(),
    ];
    for (host, option) in [(hosts[1], " --worker"), (hosts[2], "")] {
        let line = hosts[0].join_line();
        host.shell(&format!("{line}{option}")).ok();
    }
    // The stand-in for the datastore tells the others nothing of a new member.
    hosts[0]
        .stand_ins
        .dqlite_lists(&["10.99.0.11:19001", "10.99.0.13:19001"]);
    Some((agents, lab))
}

#[test]
fn a_workers_token_opens_nothing_on_a_control_plane_node() {
    let Some((agents, lab)) = cluster(&[]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let own = token(n2);
    assert_ne!(own, token(n1), "the worker has a token of its own");
    assert_eq!(token(n1), token(n3), "control plane nodes share theirs");
    let clusters = token(n1);
    let grep = format!("grep -rl {clusters} $SNAP_DATA $SNAP_COMMON");
    assert_eq!(
        n2.shell(&grep).stdout,
        "",
        "the cluster's is nowhere on the worker"
    );
    for from in [n2, n3, n1] {
        assert_refused(from, n1, "10.99.0.11", &own);
    }
    // Nor does the digest that the worker has open anything.
    let digest = n2.read("credentials/callback-token.sha256");
    assert_refused(n2, n1, "10.99.0.11", digest.trim());
    assert!(!agents[0].log().contains(&own));
    agents[0].wait_for("the callback token is unknown");
}

#[test]
fn the_clusters_token_opens_nothing_from_a_workers_address() {
    let Some((agents, lab)) = cluster(&[]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let clusters = token(n1);
    assert_refused(n2, n1, "10.99.0.11", &clusters);
    agents[0].wait_for("10.99.0.12 is neither this node nor a control plane node");
    assert!(!agents[0].log().contains(&clusters), "no token is logged");
    // The same calls work from a control plane node, and from the node itself.
    assert_taken(n3, n1, "10.99.0.11", &clusters);
    assert_taken(n1, n1, "10.99.0.11", &clusters);
    assert_taken(n1, n1, "127.0.0.1", &clusters);
}

#[test]
fn a_control_plane_node_configures_a_worker_that_knows_no_more_than_a_digest() {
    let Some((agents, lab)) = cluster(&[]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let (clusters, own) = (token(n1), token(n2));
    assert_taken(n1, n2, "10.99.0.12", &clusters);
    assert_taken(n2, n2, "127.0.0.1", &own);
    // n3 came later than the worker, which does not know of it yet.
    assert_refused(n3, n2, "10.99.0.12", &clusters);
    assert_refused(n1, n2, "10.99.0.12", &own);
    agents[1].wait_for("the callback token is this worker's own");
    let provider = n2.read("args/traefik/provider.yaml");
    let known = "        - address: 10.99.0.11:16443\n";
    let more = format!("{known}        - address: 10.99.0.13:16443\n");
    n2.write(
        "args/traefik/provider.yaml",
        &provider.replace(known, &more),
        0o660,
    );
    assert_taken(n3, n2, "10.99.0.12", &clusters);
}

#[test]
fn the_operator_may_have_it_as_with_microk8s() {
    let Some((_agents, lab)) = cluster(&["--callback-from", "any"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    assert_taken(n2, n1, "10.99.0.11", &token(n1));
    assert_refused(n2, n1, "10.99.0.11", &token(n2));
}

#[test]
fn a_dual_stack_socket_knows_its_callers_by_their_plain_address() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.write("credentials/callback-token.txt", "CLUSTER\n", 0o600);
    let members = |address: &str| {
        let text = format!("- Address: {address}:19001\n  ID: 1\n  Role: 0\n");
        n1.write("var/kubernetes/backend/cluster.yaml", &text, 0o644);
    };
    members("10.99.0.12");
    let _agent = Agent::start(n1, &["--bind", "[::]:25000"]);
    assert_taken(n2, n1, "10.99.0.11", "CLUSTER");
    members("10.99.0.13");
    let other = n1.read("args/kubelet").replace("--v=7\n", "");
    n1.write("args/kubelet", &other, 0o644);
    n1.stand_ins.dqlite_lists(&["10.99.0.13:19001"]);
    let answers = call_all(n2, "10.99.0.11", "CLUSTER");
    assert_eq!(answers[0].status, 500, "{:?}", answers[0]);
}

/// Each line of the file is a token. A worker learns the digest of one of them, not of the file.
#[test]
fn a_worker_of_a_node_with_two_callback_tokens_is_called_with_the_first() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.write("credentials/callback-token.txt", "\nFIRST\nSECOND\n", 0o600);
    let (_agent, _other) = (n1.agent(), n2.agent());
    let line = n1.join_line();
    n2.shell(&format!("{line} --worker")).ok();
    assert_taken(n1, n2, "10.99.0.12", "FIRST");
    assert_taken(n1, n1, "10.99.0.11", "FIRST");
}

/// MicroK8s's agent on a worker knows a callback by the file alone.
#[test]
fn a_worker_that_keeps_microk8ss_agent_gets_the_clusters_token() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    n2.shell(&format!("{line} --worker")).ok();
    assert_eq!(token(n2), token(n1));
    assert!(!n2.path("credentials/callback-token.sha256").exists());
}

/// MicroK8s's own client says nothing of a digest, and gets the cluster's token as ever.
#[test]
fn a_worker_of_microk8s_gets_the_clusters_token() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let join = |more: &str| {
        let token = n1.shell("microk8s add-node --format token").ok();
        let body = format!(
            "{{\"token\": \"{}\", \"hostname\": \"n2\", \"port\": \"25000\", \"worker\": \"as-worker\", \"can_handle_x509_auth\": true, \"can_handle_custom_etcd\": true{more}}}",
            token.trim()
        );
        let url = "https://10.99.0.11:25000/cluster/api/v2.0/join";
        let answer = curl(n2, &["-X", "POST", url], &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()
    };
    let answer = join("");
    assert_eq!(answer["callback_token"], token(n1));
    assert!(answer.get("callback_token_sha256").is_none());
    // Whatever else somebody may mean by the field.
    let answer = join(", \"can_handle_callback_digest\": \"no\"");
    assert_eq!(answer["callback_token"], token(n1));
    let answer = join(", \"can_handle_callback_digest\": true");
    assert_ne!(answer["callback_token"], token(n1));
    let digest = crate::compat::requests::sha256(token(n1).as_bytes());
    assert_eq!(answer["callback_token_sha256"], digest);
}

/// A worker of MicroK8s's own has the cluster's token.
#[test]
fn a_workers_calls_with_the_clusters_token_keep_neither_the_datastore_nor_the_log_busy() {
    let Some((agents, lab)) = cluster(&[]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let clusters = token(n1);
    n1.stand_ins.forget_calls();
    let line = format!(
        "curl -sk -d '{{\"callback\": \"{clusters}\"}}' 'https://10.99.0.11:25000/cluster/api/v1.0/configure?[1-200]'"
    );
    let began = Instant::now();
    n2.shell(&line).ok();
    let calls = n1.stand_ins.calls();
    let asked = calls.iter().filter(|call| call.ends_with(" .cluster"));
    let most = 1 + began.elapsed().as_secs() / 5;
    assert!(asked.count() as u64 <= most, "{calls:?}");
    let log = agents[0].log();
    let lines = log.matches("is neither this node nor").count();
    // One more comes free every six seconds.
    assert!((1..100).contains(&lines), "{lines} lines:\n{log}");
    assert_taken(n3, n1, "10.99.0.11", &clusters);
}

#[test]
fn a_caller_that_tries_one_callback_token_after_the_other_is_told_to_wait() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.write("credentials/callback-token.txt", "CLUSTER\n", 0o600);
    std::fs::create_dir_all(n1.capi().join("etc")).unwrap();
    std::fs::write(n1.capi().join("etc/token"), "capi-secret\n").unwrap();
    let _agent = Agent::start(n1, &["--capi-dir", n1.capi().to_str().unwrap()]);
    let api = "https://10.99.0.11:25000/cluster/api";
    for (request, first) in [
        ("-d '{\"callback\": \"'$n'\"}' $api/v1.0/configure", "500"),
        (
            "-H \"capi-auth-token: $n\" -d '{}' $api/v2.0/dqlite/remove",
            "401",
        ),
        (
            "-H \"x-microk8s-callback-token: $n\" -d x $api/v2.0/image/import",
            "401",
        ),
        // Nor does a token that is right, but from elsewhere, have an answer of its own.
        (
            "-d '{\"callback\": \"CLUSTER\"}' $api/v1.0/configure",
            "500",
        ),
    ] {
        let line = format!(
            "api={api}; for n in $(seq 1000); do \
                 code=$(curl -sk -o /dev/null -w '%{{http_code}}' {request}); \
                 [ $code = {first} ] || break; \
             done; echo $code"
        );
        assert_eq!(n2.shell(&line).ok(), "429\n", "{request}");
    }
    assert_taken(n1, n1, "10.99.0.11", "CLUSTER");
}
