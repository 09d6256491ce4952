//! What a join that was refused advises: it comes from the cause, not from the status of the answer.

use serde_json::{Value, json};

use crate::lab::peer::{Peer, http};
use crate::lab::{Lab, pem};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Status and text of MicroK8s's agent, the advice, and what the hint speaks of.
const REFUSALS: [(&str, &str, &str, &str); 11] = [
    ("500 No", "Invalid token", "no-retry", "add-node"),
    (
        "400 No",
        "The hostname (n2) of the joining node does not resolve to the IP \"10.99.0.12\". Refusing join",
        "cure-first",
        "/etc/hosts",
    ),
    (
        "500 No",
        "Failed to retrieve dqlite cluster nodes: the joining node (10.99.0.12) is already known to dqlite",
        "cure-first",
        "remove-node",
    ),
    (
        "503 No",
        "The joining node has the same IP (10.99.0.11) as the node we contact",
        "no-retry",
        "on the node that is to join",
    ),
    (
        "502 No",
        "The port of the cluster agent port has to be set to 25000",
        "cure-first",
        "--bind",
    ),
    (
        "501 No",
        "Not possible to join. This is not an HA MicroK8s cluster",
        "cure-first",
        "enable ha-cluster",
    ),
    (
        "500 No",
        "Joining this MicroK8s cluster requires x509 authentication. update MicroK8s to version 1.28 or newer and retry the join operation",
        "cure-first",
        "update MicroK8s on this node",
    ),
    (
        "400 No",
        "Unexpected end of JSON input",
        "no-retry",
        "same version",
    ),
    (
        "500 No",
        "Failed reading cluster CA: open /var/snap/microk8s/current/certs/ca.crt: no such file or directory",
        "cure-first",
        "log of the contacted node",
    ),
    ("404 No", "Not found", "no-retry", "another version"),
    ("503 No", "", "try-again", "too much to do"),
];

fn connection(lab: &Lab) -> String {
    let fingerprint = pem::fingerprint(&lab.host("n1").fresh("certs/server.crt"));
    format!("10.99.0.11:25000/{TOKEN}/{}", &fingerprint[..12])
}

#[test]
fn a_refusal_is_told_with_the_advice_and_the_hint_of_its_cause() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n2 = lab.host("n2");
    let connection = connection(&lab);
    for (status, text, advice, hint) in REFUSALS {
        let body = match text {
            "" => String::new(),
            text => json!({ "error": text }).to_string(),
        };
        let _peer = Peer::canned(lab.host("n1"), http(status, &body));
        let output = n2.run(&["microk8s", "join", &connection, "--format", "json"]);
        assert_eq!(output.code, Some(6), "{text}: {output:?}");
        let last: Value = serde_json::from_str(output.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(last["retry"], advice, "{text}");
        let told = last["hint"].as_str().unwrap();
        assert!(told.contains(hint), "{text}: {told}");
        assert!(
            output.stderr.contains(&format!("hint: {told}")),
            "{output:?}"
        );
    }
}

#[test]
fn what_the_contacted_node_says_is_told_in_bounds() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let body = json!({ "error": format!("much {}", "x".repeat(500_000)) });
    let _peer = Peer::canned(lab.host("n1"), http("500 No", &body.to_string()));
    let output = lab.host("n2").run(&["microk8s", "join", &connection(&lab)]);
    assert_eq!(output.code, Some(6), "{output:?}");
    assert!(output.stdout.contains("Connection failed. much xxx"));
    assert!(output.stdout.ends_with("… (500).\n"), "{output:?}");
    assert!(output.stdout.len() < 3000, "{}", output.stdout.len());
}
