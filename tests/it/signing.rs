//! Certificates that the agent signs: good ones for a worker, nothing else for anybody.

use std::fs;

use serde_json::json;

use crate::compat::requests::{certificate_request, curl};
use crate::lab::agent::Agent;
use crate::lab::{Host, Lab, pem};

pub const SIGN: &str = "https://10.99.0.11:25000/cluster/api/v1.0/sign-cert";
const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";

/// A token that n2 has used to begin a join as a worker.
pub fn joining_worker(lab: &Lab) -> String {
    let token = lab
        .host("n1")
        .shell("microk8s add-node --format token")
        .ok()
        .trim()
        .to_owned();
    let body = json!({
        "token": token, "hostname": "n2", "port": "25000", "worker": "as-worker",
        "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
    });
    let answer = curl(lab.host("n2"), &["-X", "POST", JOIN], &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    token
}

/// Status and body of a request to sign.
fn sign(client: &Host, token: &str, request: &str) -> (u16, String) {
    let body = json!({"token": token, "request": request});
    let answer = curl(client, &["-X", "POST", SIGN], &body.to_string());
    (answer.status, answer.body)
}

fn openssl_request(host: &Host, subject: &str, names: &str, more: &str) -> String {
    let line = format!(
        "openssl req -new -sha256 -key $SNAP_DATA/certs/kubelet.key -subj '{subject}' {} {more}",
        if names.is_empty() {
            String::new()
        } else {
            format!("-addext subjectAltName={names}")
        },
    );
    host.shell(&line).ok()
}

#[test]
fn the_certificates_of_a_joined_worker_verify_against_the_clusters_authority() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    n2.shell(&format!("{line} --worker")).ok();
    for certificate in ["kubelet", "proxy"] {
        let line = format!(
            "openssl verify -CAfile {} $SNAP_DATA/certs/{certificate}.crt",
            n1.path("certs/ca.crt").display()
        );
        assert!(n2.shell(&line).ok().trim_end().ends_with(": OK"));
    }
}

#[test]
fn the_certificates_of_a_joined_control_plane_verify_and_serve_at_once() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let (_first, _second) = (n1.agent(), n2.agent());
    let line = n1.join_line();
    n2.shell(&line).ok();
    for certificate in [
        "server",
        "apiserver-kubelet-client",
        "client",
        "controller",
        "kubelet",
        "proxy",
        "scheduler",
    ] {
        let line = format!(
            "openssl verify -CAfile {} $SNAP_DATA/certs/{certificate}.crt",
            n1.path("certs/ca.crt").display()
        );
        assert!(
            n2.shell(&line).ok().trim_end().ends_with(": OK"),
            "{certificate}"
        );
    }
    let line = "openssl verify -CAfile $SNAP_DATA/certs/front-proxy-ca.crt $SNAP_DATA/certs/front-proxy-client.crt";
    assert!(n2.shell(line).ok().trim_end().ends_with(": OK"));
    // The agent that runs on the node shows the new certificate without a restart.
    let served = n1
        .shell("openssl s_client -connect 10.99.0.12:25000 </dev/null 2>/dev/null | openssl x509")
        .ok();
    assert_eq!(
        pem::fingerprint(served.as_bytes()),
        pem::fingerprint(n2.read("certs/server.crt").as_bytes())
    );
}

#[test]
fn a_worker_is_signed_nothing_but_its_own_certificates_and_the_refusal_is_logged() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent: Agent = n1.agent();
    let token = joining_worker(&lab);
    let kubelet = format!("{token}-kubelet");
    let proxy = format!("{token}-proxy");
    let own = "DNS:n2,IP:10.99.0.12";
    for (token, subject, names, more) in [
        (&kubelet, "/CN=system:node:n2/O=system:masters", own, ""),
        (
            &kubelet,
            "/CN=system:node:n2/O=system:nodes/O=system:masters",
            own,
            "",
        ),
        (&kubelet, "/CN=system:node:n1/O=system:nodes", own, ""),
        (&kubelet, "/CN=admin/O=system:masters", "", ""),
        (&kubelet, "/CN=system:node:n2", own, ""),
        (
            &kubelet,
            "/CN=system:node:n2/O=system:nodes",
            "DNS:kubernetes.default.svc",
            "",
        ),
        (
            &kubelet,
            "/CN=system:node:n2/O=system:nodes",
            "DNS:n2,IP:10.99.0.11",
            "",
        ),
        (
            &kubelet,
            "/CN=system:node:n2/O=system:nodes",
            "DNS:n2,IP:::ffff:10.152.183.1",
            "",
        ),
        (
            &kubelet,
            "/CN=system:node:n2/O=system:nodes",
            own,
            "-addext basicConstraints=critical,CA:TRUE",
        ),
        (&kubelet, "/CN=system:kube-proxy", "", ""),
        (&proxy, "/CN=system:node:n2/O=system:nodes", own, ""),
        (&proxy, "/CN=system:kube-proxy/O=system:masters", "", ""),
        (&proxy, "/CN=system:kube-controller-manager", "", ""),
    ] {
        let request = openssl_request(n2, subject, names, more);
        let (status, body) = sign(n2, token, &request);
        assert_eq!(status, 500, "{subject} {names} {more}: {body}");
        assert!(
            body.starts_with("{\"error\":\"Failed to sign certificate: "),
            "{body}"
        );
    }
    agent.wait_for("system:masters");
    // None of this has cost the worker its certificates.
    for (token, subject, names) in [
        (
            &kubelet,
            "CN=system:node:n2, O=system:nodes",
            vec!["DNS:n2", "IP:10.99.0.12"],
        ),
        (&proxy, "CN=system:kube-proxy", vec![]),
    ] {
        let request = certificate_request(n2, &json!({"subject": subject, "sans": names}));
        let (status, body) = sign(n2, token, &request);
        assert_eq!(status, 200, "{body}");
    }
}

#[test]
fn a_request_whose_signature_is_wrong_is_not_signed() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let _agent = lab.host("n1").agent();
    let n2 = lab.host("n2");
    let token = joining_worker(&lab);
    let request = openssl_request(n2, "/CN=system:kube-proxy", "", "");
    let mut der = pem::blocks(request.as_bytes()).remove(0).der;
    *der.last_mut().unwrap() ^= 1;
    let file = n2.scratch().join("forged.der");
    fs::write(&file, der).unwrap();
    let forged = n2
        .shell(&format!("openssl req -inform DER -in {}", file.display()))
        .ok();
    let (status, body) = sign(n2, &format!("{token}-proxy"), &forged);
    assert_eq!(status, 500, "{body}");
}

#[test]
fn a_worker_joins_under_no_name_that_another_node_or_a_service_has() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    let join = |name: &str| {
        let body = json!({
            "token": token.trim(), "hostname": name, "port": "25000", "worker": "as-worker",
            "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
        });
        curl(n2, &["-X", "POST", JOIN], &body.to_string())
    };
    for name in [
        "kubernetes.default.svc",
        "Kubernetes",
        "localhost",
        "10.99.0.12",
        "n1",
        "N1",
        "a b",
        "n2\u{1b}[2J",
    ] {
        let answer = join(name);
        assert_eq!(answer.status, 400, "{name}: {answer:?}");
    }
    // None of this has cost the token.
    assert_eq!(join("n2").status, 200);
}

#[test]
fn an_older_join_writes_no_second_line_into_the_callback_tokens() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.remove("var/lock/ha-cluster");
    let _agent = n1.agent();
    let token = n1.shell("microk8s add-node --format token").ok();
    let join = |name: &str, port: &str, callback: &str| {
        let body = json!({
            "token": token.trim(), "hostname": name, "port": port, "callback": callback,
            "can_handle_x509_auth": true,
        });
        let url = JOIN.replace("v2.0", "v1.0");
        curl(n2, &["-X", "POST", &url], &body.to_string()).status
    };
    for (name, port, callback) in [
        ("n2", "25000 x\nn1:25000", "word"),
        ("n2", "", "word"),
        ("n2", "70000", "word"),
        ("n2", "25000", "two words"),
        ("n2", "25000", "word\nn1:25000 word"),
        ("n2", "25000", ""),
        ("kubernetes.default.svc", "25000", "word"),
    ] {
        assert_eq!(join(name, port, callback), 400, "{name} {port} {callback}");
    }
    assert!(!n1.path("credentials/callback-tokens.txt").exists());
    assert_eq!(join("n2", "25000", "word"), 200);
}
