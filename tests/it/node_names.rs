//! What a joining node may be called, and which addresses its certificate may name: on a real API
//! server where Kubernetes knows who else there is.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::compat::requests::{Answer, curl};
use crate::lab::agent::Agent;
use crate::lab::kubernetes::{Authorization, Kubernetes};
use crate::lab::{Host, Lab, pem, skip};

/// A request to join the cluster of n1, under any name.
struct Join<'a> {
    from: &'a Host,
    to: &'a str,
    token: &'a str,
    role: &'a str,
}

impl Join<'_> {
    fn ask(&self, path: &str, name: &str) -> Answer {
        let body = json!({
            "token": self.token, "hostname": name, "port": "25000", "worker": self.role,
            "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
        });
        let url = format!("https://{}:25000/cluster/api/v2.0/{path}", self.to);
        curl(self.from, &["-X", "POST", &url], &body.to_string())
    }

    /// What the dry run says of the name, and the status of the join itself.
    fn outcome(&self, name: &str) -> (String, u16) {
        let look = self.ask("join/check", name);
        let look: Value = serde_json::from_str(&look.body).unwrap();
        let findings = look["findings"].as_array().unwrap().iter();
        let found = findings
            .filter(|finding| {
                ["node-name", "same-address"].contains(&finding["check"].as_str().unwrap())
            })
            .map(|finding| finding["severity"].as_str().unwrap().to_owned());
        let worst = found.max_by_key(|severity| severity == "error").unwrap();
        (worst, self.ask("join", name).status)
    }
}

fn new_token(host: &Host, options: &str) -> String {
    let line = format!("microk8s add-node --format token {options}");
    host.shell(&line).ok().trim().to_owned()
}

const ROLES: [&str; 2] = ["as-worker", "control-plane"];
const REFUSED: (&str, u16) = ("error", 400);

fn seen(outcome: &(String, u16)) -> (&str, u16) {
    (outcome.0.as_str(), outcome.1)
}

#[test]
fn names_that_kubernetes_refuses_or_another_node_has_join_in_no_role_and_cost_no_token() {
    let Some(lab) = Lab::new(&["n1", "n3"]) else {
        return;
    };
    let (n1, n3) = (lab.host("n1"), lab.host("n3"));
    let _agent = n1.agent();
    n1.stand_ins.kubernetes_knows("k1", Some("10.99.0.12"));
    n1.stand_ins.kubernetes_knows("later", None);
    let token = new_token(n1, "");
    let long = "a".repeat(64);
    for role in ROLES {
        let join = Join {
            from: n3,
            to: "10.99.0.11",
            token: &token,
            role,
        };
        for name in [
            "my_node",
            "n3.",
            ".n3",
            "n..3",
            "-n3",
            "",
            "a b",
            "n3\u{1b}[2J",
            "*",
            "n\u{fc}",
            &long,
            "system:node:n3",
            "localhost",
            "kubernetes",
            "kubernetes.default.svc",
            "10.99.0.13",
            "n3.cluster.local",
            "n1",
            "N1",
            " n1\n",
            "k1",
            "K1 ",
            "later",
        ] {
            let outcome = join.outcome(name);
            assert_eq!(seen(&outcome), REFUSED, "{role} {name:?}");
        }
    }
    // What Kubernetes lists at the address that calls is the same machine, set up again.
    n1.stand_ins
        .kubernetes_knows("n3", Some("::ffff:10.99.0.13"));
    let join = Join {
        from: n3,
        to: "10.99.0.11",
        token: &token,
        role: "as-worker",
    };
    assert_eq!(seen(&join.outcome("N3")), ("ok", 200));
}

/// As machines that were cloned do, of which none has started its kubelet yet.
#[test]
fn of_two_machines_with_one_name_the_second_is_refused_in_both_roles() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
    let _agent = n1.agent();
    for (number, first) in ROLES.into_iter().enumerate() {
        let name = format!("ubuntu-{number}");
        let token = new_token(n1, "--uses 3");
        let join = |from, role| {
            Join {
                from,
                to: "10.99.0.11",
                token: &token,
                role,
            }
            .ask("join", &name)
        };
        assert_eq!(join(n2, first).status, 200);
        for role in ROLES {
            let refused = join(n3, role);
            assert_eq!(refused.status, 400, "{first} {role}: {refused:?}");
            assert!(
                refused
                    .body
                    .contains("is taken by another node at 10.99.0.12"),
                "{refused:?}"
            );
        }
        // The same machine tries again, and an operator who knows better says so.
        assert_eq!(join(n2, first).status, 200);
        n1.shell(&format!("microk8s remove-node {name} --force"))
            .ok();
        assert_eq!(join(n3, "as-worker").status, 200);
    }
}

#[test]
fn a_node_does_not_join_itself_by_any_of_its_addresses_and_gets_no_certificate_for_them() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.add_address("10.99.0.111/24");
    n2.add_address("169.254.7.7/16");
    n1.add_address("169.254.7.1/16");
    let _agent = n1.agent();
    let token = new_token(n1, "--uses 2 --role worker");
    let join = |from, to| Join {
        from,
        to,
        token: &token,
        role: "as-worker",
    };
    for to in [
        "127.0.0.1",
        "127.0.0.9",
        "[::1]",
        "10.99.0.11",
        "10.99.0.111",
    ] {
        assert_eq!(seen(&join(n1, to).outcome("w1")), ("error", 503), "{to}");
    }
    // From an address of one link, and from another own address than the one that is called.
    assert_eq!(join(n2, "169.254.7.1").ask("join", "w1").status, 400);
    let body = json!({
        "token": token, "hostname": "w1", "port": "25000", "worker": "as-worker",
        "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
    });
    let crossed = [
        "--interface",
        "10.99.0.111",
        "-X",
        "POST",
        "https://10.99.0.11:25000/cluster/api/v2.0/join",
    ];
    assert_eq!(curl(n1, &crossed, &body.to_string()).status, 503);

    assert_eq!(join(n2, "10.99.0.11").ask("join", "n2").status, 200);
    // The second address of the contacted node is left out, as one that others may have as well.
    let (status, names) = sign(
        n2,
        "10.99.0.11",
        &token,
        "n2",
        "IP:10.99.0.12,IP:10.99.0.111",
    );
    assert_eq!((status, names.as_str()), (200, "IP Address:10.99.0.12"));
}

/// Asks for a kubelet's certificate with these names; its status, and the names that were signed.
fn sign(from: &Host, to: &str, token: &str, node: &str, names: &str) -> (u16, String) {
    let line = format!(
        "openssl req -new -sha256 -key $SNAP_DATA/certs/kubelet.key \
         -subj /CN=system:node:{node}/O=system:nodes -addext subjectAltName={names}"
    );
    let body = json!({"token": format!("{token}-kubelet"), "request": from.shell(&line).ok()});
    let url = format!("https://{to}:25000/cluster/api/v1.0/sign-cert");
    let answer = curl(from, &["-X", "POST", &url], &body.to_string());
    if answer.status != 200 {
        return (answer.status, answer.body);
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let certificate = body["certificate"].as_str().unwrap();
    assert_eq!(pem::blocks(certificate.as_bytes()).len(), 1);
    let shown = ["openssl", "x509", "-noout", "-ext", "subjectAltName"];
    let shown = from.run_with_input(&shown, certificate.as_bytes()).ok();
    (200, shown.lines().last().unwrap().trim().to_owned())
}

#[test]
fn a_name_of_the_operators_in_the_kubelets_arguments_is_the_nodes_and_stays() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let with = |host: &Host, name: &str| {
        let text = String::from_utf8(host.fresh("args/kubelet")).unwrap();
        let text = format!("{text}--hostname-override={name}\n");
        host.write("args/kubelet", &text, 0o660);
    };
    with(n1, "first");
    let (_agent, _second) = (n1.agent(), n2.agent());
    let line = n1.join_line();
    for bad in ["my_node", "edge."] {
        with(n2, bad);
        for (role, dry_run) in [("--worker", ""), ("", ""), ("", "--dry-run")] {
            let refused = n2.shell(&format!("{line} {role} {dry_run}"));
            let said = format!("{}{}", refused.stdout, refused.stderr);
            assert_eq!(refused.code, Some(9), "{said}");
            assert!(
                said.contains(bad) && said.contains("hostname-override"),
                "{said}"
            );
        }
    }
    // The contacted node has such a name as well.
    with(n2, "First");
    assert_eq!(n2.shell(&format!("{line} --worker")).code, Some(6));

    with(n2, "\" Edge-7 \"");
    n2.shell(&format!("{line} --worker")).ok();
    let subject =
        "openssl x509 -noout -subject -ext subjectAltName -in $SNAP_DATA/certs/kubelet.crt";
    let subject = n2.shell(subject).ok();
    assert!(
        subject.contains("CN = system:node:edge-7,") && subject.contains("DNS:edge-7"),
        "{subject}"
    );
    for service in ["kubelet", "kube-proxy"] {
        let arguments = n2.read(&format!("args/{service}"));
        let names: Vec<&str> = arguments
            .lines()
            .filter(|line| line.starts_with("--hostname-override"))
            .collect();
        assert_eq!(names, ["--hostname-override=Edge-7"], "{arguments}");
    }
    assert!(n1.shell("microk8s nodes").ok().contains("edge-7"));
}

fn registered(name: &str, address: &str, ready: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

#[test]
fn a_workers_token_of_one_control_plane_gets_no_name_that_another_one_admitted() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    // Otherwise the token could not be checked either, once no API server runs.
    let local = |host: &Host| Agent::start(host, &["--token-store", "local"]);
    let (_first, _second) = (local(n1), local(n2));
    n2.shell(&n1.join_line()).ok();
    kubernetes.add(n2);
    kubernetes.register(n2).ok();
    // Admitted by n1, of which n2 knows by Kubernetes alone.
    for (name, address, ready) in [
        ("w4", "10.99.0.14", "True"),
        ("w5", "10.99.0.15", "Unknown"),
    ] {
        let node = registered(name, address, ready);
        kubernetes.create(n1, "client.config", &node).ok();
    }
    let token = new_token(n2, "--role worker --uses 3");
    let join = Join {
        from: n3,
        to: "10.99.0.12",
        token: &token,
        role: "as-worker",
    };
    for name in ["n1", "N1", "w4", "w5"] {
        assert_eq!(seen(&join.outcome(name)), REFUSED, "{name}");
    }
    kubernetes.admin(n1, &["delete", "node", "w5"]).ok();
    assert_eq!(seen(&join.outcome("w5")), ("ok", 200));
    // Nor the addresses of others: of nodes, of the other API server, of services and load balancers.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"port": 80}], "externalIPs": ["10.99.0.77"]},
    });
    kubernetes.create(n1, "client.config", &service).ok();
    let named = join.outcome("web.default");
    assert_eq!(seen(&named), REFUSED);
    for other in [
        "10.99.0.11",
        "10.99.0.12",
        "10.99.0.14",
        "10.99.0.77",
        "10.152.183.1",
        "127.0.0.1",
    ] {
        let names = format!("DNS:w5,IP:10.99.0.13,IP:{other}");
        let (status, body) = sign(n3, "10.99.0.12", &token, "w5", &names);
        assert_eq!(status, 500, "{other}: {body}");
    }
    let own = "DNS:w5,IP:10.99.0.13,IP:10.98.0.13";
    let (status, names) = sign(n3, "10.99.0.12", &token, "w5", own);
    let expected = "DNS:w5, IP Address:10.99.0.13, IP Address:10.98.0.13";
    assert_eq!((status, names.as_str()), (200, expected));

    // Nobody to ask: a worker waits, a control plane node is told by what this node knows.
    kubernetes.end(n1);
    kubernetes.end(n2);
    assert_eq!(seen(&join.outcome("w6")), ("error", 500));
}

#[test]
fn a_worker_that_kubernetes_has_not_heard_of_lately_comes_back_with_another_address() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.host(name));
    let Some(kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    // An hour passes, by the clock of the agent that admits it.
    const CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    if !std::path::Path::new(CLOCK).exists() {
        skip("Debian's package libfaketime is not installed");
        return;
    }
    let preload = format!("LD_PRELOAD={CLOCK}");
    let line = ["env", &preload, "FAKETIME=-1h", "microk8s", "agent"];
    let agent = Agent::start_as(n1, &line);
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    agent.signal(Signal::SIGTERM);
    agent.ends();
    let _agent = n1.agent();
    let token = new_token(n1, "--role worker");
    let join = Join {
        from: n3,
        to: "10.99.0.11",
        token: &token,
        role: "as-worker",
    };
    for (ready, outcome) in [("True", REFUSED), ("False", ("warning", 200))] {
        let node = registered("n2", "10.99.0.12", ready);
        kubernetes.create(n1, "client.config", &node).ok();
        assert_eq!(seen(&join.outcome("n2")), outcome, "{ready}");
        kubernetes.admin(n1, &["delete", "node", "n2"]).ok();
    }
}
