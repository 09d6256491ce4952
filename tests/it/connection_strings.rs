//! Several connection strings of one cluster: `add-node --all` prints them, `join` tries them.

use std::fs;

use serde_json::Value;

use crate::lab::agent::Agent;
use crate::lab::peer::{Peer, Reply, Speaks, http};
use crate::lab::{Host, Lab, Output, pem};

/// n1 and n3 are the control plane nodes of a cluster, each with its agent.
fn cluster() -> Option<(Lab, [Agent; 2])> {
    let lab = Lab::new(&["n1", "n2", "n3"])?;
    let (n1, n3) = (lab.host("n1"), lab.host("n3"));
    let agents = [n1.agent(), n3.agent()];
    n3.shell(&n1.join_line()).ok();
    agents[1].wait_for("the served certificate changed");
    for host in [n1, n3] {
        let members = ["10.99.0.11:19001", "10.99.0.13:19001"];
        host.stand_ins.dqlite_lists(&members);
        host.stand_ins.api_servers(&["10.99.0.11", "10.99.0.13"]);
    }
    Some((lab, agents))
}

/// The connection string of n3 with a new token of its own, and the same for n1.
fn strings(lab: &Lab) -> [String; 2] {
    let own = url_of(lab.host("n3"));
    let served = pem::fingerprint(lab.host("n1").read("certs/server.crt").as_bytes());
    let token = own.split('/').nth(1).unwrap();
    [format!("10.99.0.11:25000/{token}/{}", &served[..12]), own]
}

fn url_of(host: &Host) -> String {
    host.join_line().rsplit(' ').next().unwrap().to_owned()
}

fn succeeded(host: &Host, line: &str) -> Output {
    let output = host.shell(line);
    assert_eq!(output.code, Some(0), "{output:?}");
    output
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The addresses of the connection strings that `add-node` printed as JSON.
fn addresses(output: &Output) -> Vec<String> {
    let urls = json(output)["urls"].as_array().unwrap().clone();
    let address = |url: &Value| url.as_str().unwrap().split(':').next().unwrap().to_owned();
    urls.iter().map(address).collect()
}

#[test]
fn add_node_all_prints_a_string_for_each_control_plane_node_with_the_certificate_it_serves() {
    let Some((lab, _agents)) = cluster() else {
        return;
    };
    let (n1, n3) = (lab.host("n1"), lab.host("n3"));
    let printed = succeeded(
        n1,
        "microk8s add-node --all --full-fingerprint --format json",
    );
    let served = |host: &Host| pem::fingerprint(host.read("certs/server.crt").as_bytes());
    let token = json(&printed)["token"].as_str().unwrap().to_owned();
    let token = token.split('/').next().unwrap();
    let expected = [("10.99.0.11", served(n1)), ("10.99.0.13", served(n3))];
    let expected = expected.map(|(at, print)| format!("{at}:25000/{token}/{print}"));
    assert_eq!(json(&printed)["urls"], serde_json::json!(expected));
    assert_eq!(json(&printed).as_object().unwrap().len(), 2, "{printed:?}");
    // Until tokens are shared, a token is known to the node alone that issued it.
    assert_eq!(printed.stderr.lines().count(), 1, "{printed:?}");
    assert!(
        printed.stderr.contains("valid on this node alone"),
        "{printed:?}"
    );

    let short = n1.shell("microk8s add-node --all --format short");
    let lines: Vec<&str> = short.stdout.lines().collect();
    assert!(
        lines[0].starts_with("microk8s join 10.99.0.11:25000/"),
        "{short:?}"
    );
    assert!(
        lines[1].starts_with("microk8s join 10.99.0.13:25000/"),
        "{short:?}"
    );
    assert!(lines[1].ends_with(&served(n3)[..12]), "{short:?}");
    assert_eq!(lines.len(), 2);

    let pretty = n1.shell("microk8s add-node --all").stdout;
    let line = pretty.lines().nth(1).unwrap();
    assert_eq!(line.matches(":25000/").count(), 2, "{pretty}");
    let worker = pretty.lines().nth(4).unwrap();
    assert_eq!(worker, format!("{line} --worker"), "{pretty}");

    let yaml = n1
        .shell("microk8s add-node --all --details --format yaml")
        .stdout;
    let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml["urls"].as_array().unwrap().len(), 2);
    assert_eq!(yaml["uses"], 1);
}

#[test]
fn add_node_all_names_a_control_plane_node_that_cannot_be_verified_and_leaves_it_out() {
    let Some((lab, [_n1_agent, n3_agent])) = cluster() else {
        return;
    };
    let (n1, n3) = (lab.host("n1"), lab.host("n3"));
    n3_agent.kill();
    let line = "microk8s add-node --all --format json";
    let mut agent = None;
    for says in ["refused", "not signed by the cluster's authority"] {
        let printed = succeeded(n1, line);
        assert_eq!(addresses(&printed), ["10.99.0.11"]);
        let warning = printed
            .stderr
            .lines()
            .find(|line| line.contains("10.99.0.13"));
        assert!(
            warning.is_some_and(|line| line.contains(says)),
            "{printed:?}"
        );
        // Its own authority signed the certificate that it had before it joined.
        agent.get_or_insert_with(|| {
            for file in ["certs/server.crt", "certs/server.key"] {
                fs::write(n3.path(file), n3.fresh(file)).unwrap();
            }
            n3.agent()
        });
    }
    n1.stand_ins.fail_kubectl();
    let printed = succeeded(n1, line);
    assert!(
        printed.stderr.contains("Kubernetes does not say"),
        "{printed:?}"
    );
}

#[test]
fn add_node_all_on_a_node_that_is_alone_prints_its_own_string_and_nothing_else() {
    for has_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1"]) else { return };
        let n1 = lab.host("n1");
        let _agent = has_agent.then(|| n1.agent());
        n1.stand_ins.api_servers(&["10.99.0.11"]);
        n1.add_address("10.99.0.21/24");
        let printed = succeeded(n1, "microk8s add-node --all --format json");
        assert_eq!(printed.stderr, "");
        assert_eq!(addresses(&printed), ["10.99.0.11"]);
        for format in ["token", "token-check"] {
            let refused = n1.shell(&format!("microk8s add-node --all --format {format}"));
            assert_eq!(refused.code, Some(2), "{refused:?}");
        }
    }
}

#[test]
fn a_join_tries_the_next_string_when_a_node_cannot_be_reached() {
    for (through_agent, role) in [(false, "--worker"), (true, "--worker"), (true, "")] {
        let Some((lab, [n1_agent, _n3_agent])) = cluster() else {
            return;
        };
        let n2 = lab.host("n2");
        let _own = through_agent.then(|| n2.agent());
        let [first, second] = strings(&lab);
        n1_agent.kill();
        let dry = n2.shell(&format!("microk8s join {first} {second} {role} --dry-run"));
        assert!(
            dry.stdout.contains("a join tries 10.99.0.13:25000 next"),
            "{dry:?}"
        );
        let joined = n2.shell(&format!("microk8s join {first} {second} {role}"));
        assert_eq!(joined.code, Some(0), "{joined:?}");
        assert!(
            joined.stdout.starts_with(
                "Contacting cluster at 10.99.0.11\nContacting cluster at 10.99.0.13\n"
            ),
            "{joined:?}"
        );
        assert_eq!(
            joined.stderr,
            "warning: cannot connect to 10.99.0.11:25000: Connection refused (os error 111); trying 10.99.0.13:25000\n"
        );
    }
}

#[test]
fn a_silent_node_takes_no_more_than_its_share_of_the_time_and_json_tells_of_each() {
    let Some((lab, [n1_agent, _n3_agent])) = cluster() else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let [first, second] = strings(&lab);
    n1_agent.kill();
    let _silent = Peer::start(n1, Speaks::Nothing, |_| Reply::Close);
    let line = format!("microk8s join {first} {second} --worker --timeout 20 --format json");
    let joined = n2.shell(&line);
    assert_eq!(joined.code, Some(0), "{joined:?}");
    let events: Vec<Value> = joined
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let warning = events.iter().find(|event| event["kind"] == "warning");
    let message = warning.unwrap()["message"].as_str().unwrap();
    assert!(
        message.contains("did not set up TLS within")
            && message.ends_with("; trying 10.99.0.13:25000"),
        "{message}"
    );
}

#[test]
fn no_other_string_is_tried_once_a_node_was_asked_or_another_machine_answers() {
    let Some((lab, [n1_agent, _n3_agent])) = cluster() else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let [first, second] = strings(&lab);
    let other = second.replace("10.99.0.13:", "10.99.0.11:");
    let line = |url: &str| format!("microk8s join {url} {second} --worker");
    // n1 does not know the token.
    let refused = n2.shell(&line(&first));
    assert_eq!(refused.code, Some(6), "{refused:?}");
    n1_agent.kill();
    let before = n2.snapshot();
    let closes = Peer::start(n1, Speaks::Tls, |_| Reply::Close);
    let failed = n2.shell(&line(other.rsplit_once('/').unwrap().0));
    assert_eq!(
        failed.code,
        Some(4),
        "the fingerprint of the other string counts: {failed:?}"
    );
    assert_eq!(closes.requests().len(), 0);
    let bare = |url: &str| url.rsplit_once('/').unwrap().0.to_owned();
    let line = format!("microk8s join {} {} --worker", bare(&first), bare(&second));
    let failed = n2.shell(&line);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(!failed.stdout.contains("10.99.0.13"), "{failed:?}");
    assert!(before == n2.snapshot());
}

#[test]
fn a_join_that_waits_says_once_why_each_node_cannot_be_reached() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n2 = lab.host("n2");
    let token = "0123456789abcdef0123456789abcdef";
    let line = format!(
        "microk8s join 10.99.0.11:25000/{token} 10.99.0.11:25001/{token} --worker --wait=6s"
    );
    let failed = n2.shell(&line);
    assert_eq!(failed.code, Some(10), "{failed:?}");
    let count = |text: &str| failed.stderr.matches(text).count();
    assert_eq!(count("; trying 10.99.0.11:25001"), 1, "{failed:?}");
    assert_eq!(count("trying again for 6 s"), 1, "{failed:?}");
}

#[test]
fn a_token_file_may_hold_all_that_add_node_all_prints() {
    let Some((lab, [_n1_agent, n3_agent])) = cluster() else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let printed = n1.shell("microk8s add-node --all --format yaml").stdout;
    n3_agent.kill();
    let command = ["microk8s", "join", "--token-file", "-", "--worker"];
    let joined = n2.run_with_input(&command, printed.as_bytes());
    assert_eq!(joined.code, Some(0), "{joined:?}");
}

/// Passes a request of a node on to the agent at this address, and closes the connection after the
/// answer.
pub fn pass_on(of: &Host, to: &str, request: &crate::lab::peer::Request) -> Reply {
    let body = of.scratch().join("body");
    fs::write(&body, &request.body).unwrap();
    let url = format!("https://{to}:25000{}", request.path);
    let answer = of.run(&[
        "curl",
        "--http1.1",
        "-sk",
        "-i",
        "-X",
        &request.method,
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        &format!("@{}", body.display()),
        &url,
    ]);
    let (head, body) = answer.stdout.split_once("\r\n\r\n").unwrap();
    let keeps = |line: &&str| !line.to_lowercase().starts_with("connection:");
    let head: Vec<&str> = head.lines().filter(keeps).collect();
    let head = head.join("\r\n");
    Reply::Bytes(format!("{head}\r\nConnection: close\r\n\r\n{body}").into_bytes())
}

#[test]
fn a_worker_joins_through_an_address_behind_which_each_connection_reaches_another_node() {
    if !crate::lab::is_installed("curl") {
        return;
    }
    for has_fingerprint in [true, false] {
        let Some((lab, [_n1_agent, n3_agent])) = cluster() else {
            return;
        };
        let lab = std::sync::Arc::new(lab);
        let (n1, n3) = (lab.host("n1"), lab.host("n3"));
        // Both are reached at n3's address.
        n3_agent.kill();
        let url = url_of(n1).replace("10.99.0.11", "10.99.0.13");
        let bare = url.rsplit_once('/').unwrap().0.to_owned();
        let shared = lab.clone();
        let front = Peer::in_front_of((n3, 25000), [n1, n3], move |request| {
            pass_on(shared.host("n2"), "10.99.0.11", request)
        });
        let url = if has_fingerprint { url } else { bare };
        let joined = lab
            .host("n2")
            .shell(&format!("microk8s join {url} --worker"));
        assert_eq!(joined.code, Some(0), "{joined:?}");
        let paths: Vec<String> = front.requests().into_iter().map(|one| one.path).collect();
        assert_eq!(
            paths,
            [
                "/cluster/api/v2.0/join",
                "/cluster/api/v1.0/sign-cert",
                "/cluster/api/v1.0/sign-cert",
                "/cluster/api/v2.0/join/outcome",
            ]
        );
        assert!(front.connections() >= 4, "{}", front.connections());
    }
}

#[test]
fn no_other_certificate_is_accepted_in_the_middle_of_a_join_than_one_of_the_clusters_authority() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let authority = n1.read("certs/ca.crt");
    let answer = serde_json::json!({
        "ca": authority, "apiport": "16443", "kubelet": "x", "kubelet_args": "",
        "hostname_override": "10.99.0.12", "callback_token": "x", "kubeproxy": "x",
    });
    // n3 is in no cluster with n1, whose certificate the first connection shows.
    let front = Peer::in_front_of((n1, 25000), [n1, n3], move |_| {
        Reply::Bytes(http("200 OK", &answer.to_string()).into_bytes())
    });
    let before = n2.snapshot();
    let token = "0123456789abcdef0123456789abcdef";
    let failed = n2.shell(&format!("microk8s join 10.99.0.11:25000/{token} --worker"));
    assert_eq!(failed.code, Some(4), "{failed:?}");
    assert_eq!(front.requests().len(), 1, "{failed:?}");
    assert!(before == n2.snapshot());
}
