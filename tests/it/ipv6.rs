//! Nodes on IPv6, alone and beside IPv4: what `add-node` prints is taken by `join`, and everything
//! that is written down, listed and removed later has the same address.

use std::fs;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::compat::requests::{certificate_request, curl};
use crate::lab::{Host, Lab};

/// The string for an address among those that `add-node` prints.
fn line_for(host: &Host, address: &str) -> String {
    let lines = host.shell("microk8s add-node --format short").ok();
    let start = format!("microk8s join {address}:25000/");
    let line = lines.lines().find(|line| line.starts_with(&start));
    line.unwrap_or_else(|| panic!("no line for {address} in {lines}"))
        .to_owned()
}

fn arguments_of_agent(host: &Host, bind: &str) {
    let arguments = host
        .read("args/cluster-agent")
        .replace("0.0.0.0:25000", bind);
    host.write("args/cluster-agent", &arguments, 0o644);
}

/// An argument of a service.
fn argument(host: &Host, service: &str, key: &str) -> Option<String> {
    let text = host.read(&format!("args/{service}"));
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.map(|value| value.trim_start_matches(['=', ' ']).to_owned())
}

/// What OpenSSL says of the names in a certificate.
fn names(host: &Host, certificate: &str) -> String {
    let line =
        format!("openssl x509 -noout -ext subjectAltName -in $SNAP_DATA/certs/{certificate}.crt");
    host.shell(&line).ok()
}

#[test]
fn nodes_join_over_ipv6_by_the_string_that_add_node_prints() {
    for (role, through_agent) in [
        ("--worker", false),
        ("--worker", true),
        ("", false),
        ("", true),
    ] {
        let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
            return;
        };
        for host in lab.hosts() {
            arguments_of_agent(host, "[::]:25000");
        }
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = n1.agent();
        let _other = through_agent.then(|| n2.agent());
        let line = line_for(n1, "[fd99::11]");
        let output = n2.shell(&format!("{line} {role}"));
        assert_eq!(output.code, Some(0), "{output:?}");
        let contacting = "Contacting cluster at fd99::11\n";
        assert!(output.stdout.starts_with(contacting), "{output:?}");
        match role {
            "" => {
                let init = "Address: '[fd99::12]:19001'\nCluster:\n- '[fd99::11]:19001'\n";
                assert_eq!(n2.read("var/kubernetes/backend/init.yaml"), init);
            }
            _ => {
                let provider = n2.read("args/traefik/provider.yaml");
                assert!(provider.contains("[fd99::11]:16443"), "{provider}");
                let names = names(n2, "kubelet");
                assert!(names.contains("IP Address:FD99:0:0:0:0:0:0:12"), "{names}");
            }
        }
    }
}

#[test]
fn hosts_without_ipv4_form_a_cluster_that_a_worker_leaves_and_a_control_plane_too() {
    let Some(lab) = Lab::ipv6_only(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    // As MicroK8s has it from the start: all addresses are written as those of IPv4.
    let _agents = [n1.agent(), n2.agent(), n3.agent()];
    let first = n1.shell("microk8s add-node --format short").ok();
    assert!(
        first.starts_with("microk8s join [fd99::11]:25000/") && first.lines().count() == 1,
        "{first}"
    );
    n2.shell(first.trim()).ok();
    n3.shell(&format!("{} --worker", line_for(n1, "[fd99::11]")))
        .ok();
    let info = n1.read("var/kubernetes/backend/info.yaml");
    assert!(info.contains("'[fd99::11]:19001'"), "{info}");
    let config = n3.read("credentials/kubelet.config");
    assert!(config.contains("server: https://127.0.0.1:16443"));
    // The datastore that stands in for dqlite does not tell n1 of n2.
    assert_eq!(
        n1.shell("microk8s nodes").ok(),
        "NAME  ADDRESS   ROLE\nn1    fd99::11  control-plane\nn3    fd99::13  worker\n"
    );

    let output = n3.shell("microk8s leave");
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!n3.path("var/lock/clustered.lock").exists());
    n2.stand_ins.forget_calls();
    let output = n2.shell("microk8s leave");
    assert_eq!(output.code, Some(0), "{output:?}");
    let calls = n2.stand_ins.calls();
    let end = ".remove [fd99::12]:19001";
    assert!(calls.iter().any(|call| call.ends_with(end)), "{calls:?}");
}

#[test]
fn all_formats_of_add_node_bring_addresses_of_ipv6_that_every_way_to_join_takes() {
    let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let print = |format: &str| {
        n1.shell(&format!("microk8s add-node --format {format}"))
            .ok()
    };
    let pretty = print("pretty");
    let of_ipv6 = |line: &&str| line.starts_with("microk8s join [fd99::11]:25000/");
    let line = pretty.lines().find(of_ipv6).unwrap();
    let from_pretty = line.strip_prefix("microk8s join ").unwrap().to_owned();
    let json: Value = serde_json::from_str(&print("json")).unwrap();
    let from_json = json["urls"][1].as_str().unwrap().to_owned();
    let yaml: Value = serde_saphyr::from_str(&print("yaml")).unwrap();
    let from_yaml = yaml["urls"][1].as_str().unwrap().to_owned();
    let token = print("token");
    let join = |what: &str, arguments: &str, input: &str| {
        let output = n2.run_with_input(
            &["sh", "-c", &format!("microk8s join --worker {arguments}")],
            input.as_bytes(),
        );
        assert_eq!(output.code, Some(0), "{what}: {output:?}");
        n2.shell("microk8s leave").ok();
    };
    join("pretty", &from_pretty, "");
    join("json", &from_json, "");
    join("yaml", &from_yaml, "");
    join("the whole in a file", "--token-file -", &from_string(n1));
    join(
        "the token in a file",
        "--token-file - [FD99:0::11]:25000",
        &token,
    );
}

/// One more string, as a file holds it.
fn from_string(host: &Host) -> String {
    let line = line_for(host, "[fd99::11]");
    line.strip_prefix("microk8s join ").unwrap().to_owned() + "\n"
}

#[test]
fn an_agent_on_all_addresses_is_reached_over_both_kinds_however_they_are_written() {
    for bind in ["0.0.0.0:25000", "[::]:25000", ":25000"] {
        let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        arguments_of_agent(n1, bind);
        let agent = n1.agent();
        // A node that comes over IPv4 is known by its address of IPv4, whatever the socket is.
        for (url, address) in [
            (line_for(n1, "10.99.0.11"), "10.99.0.12"),
            (line_for(n1, "[fd99::11]"), "fd99::12"),
        ] {
            n2.shell(&format!("{url} --worker")).ok();
            agent.wait_for(&format!("address={address} node=\"n2\""));
            n2.shell("microk8s leave").ok();
            // The name is that of the node at the other address until n1 is told.
            n1.shell("microk8s remove-node n2 --force").ok();
        }
    }
}

#[test]
fn an_agent_on_one_address_of_ipv6_is_reached_there_and_nowhere_else() {
    let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    arguments_of_agent(n1, "[fd99::11]:25000");
    let _agent = n1.agent();
    let lines = n1.shell("microk8s add-node --format short").ok();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    let refused = n2.shell("curl -sk --max-time 20 https://10.99.0.11:25000/health");
    assert_eq!(refused.code, Some(7), "{refused:?}");
    n2.shell(&format!("{} --worker", lines.trim())).ok();
}

/// A request to join, sent from n2 to n1 at this address.
fn ask_to_join(from: &Host, at: &str, token: &str) -> (u16, Value) {
    let body = json!({
        "token": token, "hostname": from.name, "port": "25000", "worker": "as-worker",
        "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
    });
    let url = format!("https://{at}:25000/cluster/api/v2.0/join");
    let answer = curl(from, &["-g", "-X", "POST", &url], &body.to_string());
    (
        answer.status,
        serde_json::from_str(&answer.body).unwrap_or_default(),
    )
}

fn token(host: &Host) -> String {
    let token = host.shell("microk8s add-node --format token").ok();
    token.trim().to_owned()
}

#[test]
fn a_node_that_calls_over_ipv4_through_a_socket_for_both_is_told_its_ipv4_address() {
    let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    arguments_of_agent(n1, "[::]:25000");
    let _agent = n1.agent();
    let token = token(n1);
    // A second time the token lets in the same node: it is told by the same address.
    for _ in 0..2 {
        let (status, answer) = ask_to_join(n2, "10.99.0.11", &token);
        assert_eq!(
            (status, &answer["hostname_override"]),
            (200, &json!("10.99.0.12"))
        );
    }
    let (status, answer) = ask_to_join(n1, "10.99.0.11", &self::token(n1));
    let same = "The joining node has the same IP (10.99.0.11) as the node we contact";
    assert_eq!((status, &answer["error"]), (503, &json!(same)));
    let (status, answer) = ask_to_join(n1, "[fd99::11]", &self::token(n1));
    let same = "The joining node has the same IP (fd99::11) as the node we contact";
    assert_eq!((status, &answer["error"]), (503, &json!(same)));
}

#[test]
fn a_worker_on_ipv6_is_signed_its_own_address_and_no_other() {
    let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let token = token(n1);
    assert_eq!(ask_to_join(n2, "[fd99::11]", &token).0, 200);
    let sign = |names: &[&str]| {
        let wanted = json!({
            "subject": "CN=system:node:n2, O=system:nodes",
            "sans": names,
        });
        let body = json!({
            "token": format!("{token}-kubelet"), "request": certificate_request(n2, &wanted),
        });
        let url = "https://[fd99::11]:25000/cluster/api/v1.0/sign-cert";
        curl(n2, &["-g", "-X", "POST", url], &body.to_string())
    };
    for other in ["fd99::11", "::1", "::ffff:10.152.183.1", "::10.152.183.1"] {
        let answer = sign(&["DNS:n2", &format!("IP:{other}")]);
        assert_eq!(answer.status, 500, "{other}: {answer:?}");
    }
    // Of another address of n1's nobody can tell whether n2 has it too, on a network of its own.
    let answer = sign(&["DNS:n2", "IP:fd99::12", "IP:10.99.0.11"]);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    let certificate = answer["certificate"].as_str().unwrap();
    n2.write("certs/signed.crt", certificate, 0o644);
    let names = names(n2, "signed");
    assert!(
        names.contains("DNS:n2, IP Address:FD99:0:0:0:0:0:0:12\n"),
        "{names}"
    );
}

#[test]
fn addresses_of_one_link_are_refused_on_both_sides() {
    let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let link_local = |host: &Host| {
        let said = host
            .shell("until ip -6 -o address show dev eth0 scope link -tentative | grep -q fe80; do sleep 0.1; done; ip -6 -o address show dev eth0 scope link")
            .ok();
        let word = said
            .split_whitespace()
            .find(|word| word.starts_with("fe80"));
        word.unwrap().split('/').next().unwrap().to_owned()
    };
    let (own, other) = (link_local(n1), link_local(n2));
    let lines = n1.shell("microk8s add-node --format short").ok();
    assert!(!lines.contains("fe80"), "{lines}");
    let token = token(n1);
    let before = n2.snapshot();
    for scope in ["", "%eth0"] {
        let output = n2.run(&["microk8s", "join", &format!("[{own}{scope}]:25000/{token}")]);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert_eq!(
            output.stdout,
            "Invalid connection: A link-local address is known on its own link only. Use another address of the master\n"
        );
    }
    assert!(before == n2.snapshot());
    // Other clients may try.
    let (status, answer) = ask_to_join(n2, &format!("[{own}%25eth0]"), &token);
    let why = format!(
        "The joining node has the link-local address {other}, which is known on its own link only. Refusing join"
    );
    assert_eq!((status, &answer["error"]), (400, &json!(why)));
    assert_eq!(ask_to_join(n2, "[fd99::11]", &token).0, 200);
}

#[test]
fn a_node_is_removed_by_its_address_however_that_is_spelled() {
    for spelling in [
        "fd99::12",
        "FD99::12",
        "fd99:0:0:0:0:0:0:0012",
        "[fd99::12]",
    ] {
        let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = n1.agent();
        n2.shell(&line_for(n1, "[fd99::11]")).ok();
        n1.stand_ins
            .dqlite_lists(&["[fd99::11]:19001", "[fd99::12]:19001"]);
        n1.stand_ins.kubernetes_knows("n2", Some("fd99::12"));
        let output = n1.run(&["microk8s", "remove-node", spelling]);
        assert_eq!(output.code, Some(1), "{spelling}: {output:?}");
        assert!(
            output.stdout.contains("is registered with dqlite"),
            "{output:?}"
        );
        n1.run(&["microk8s", "remove-node", spelling, "--force"])
            .ok();
        let calls = n1.stand_ins.calls();
        let end = ".remove [fd99::12]:19001";
        assert!(calls.iter().any(|call| call.ends_with(end)), "{calls:?}");
        assert!(!n1.stand_ins.is_in_kubernetes("n2"));
    }
}

#[test]
fn the_arguments_of_a_kubelet_get_the_address_of_ipv6_that_the_node_joined_from() {
    let Some(lab) = Lab::dual_stack(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let theirs = n1.read("args/kubelet") + "--node-ip=fd99::11\n";
    n1.write("args/kubelet", &theirs, 0o660);
    n2.shell(&format!("{} --worker", line_for(n1, "[fd99::11]")))
        .ok();
    let node_ip = argument(n2, "kubelet", "--node-ip").unwrap();
    assert_eq!(node_ip.parse::<IpAddr>().unwrap().to_string(), "fd99::12");
    // Nothing of the node has half an address, as MicroK8s's split at the first colon leaves it.
    for file in ["credentials/kubelet.config", "args/traefik/provider.yaml"] {
        let text = fs::read_to_string(n2.path(file)).unwrap();
        assert!(
            !text.contains("fd99:1") && !text.contains("fd99:\n"),
            "{text}"
        );
    }
}
