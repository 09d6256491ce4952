//! What the commands print as JSON, held against the schemas in `docs/`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::lab::{Host, Lab, schema};

fn json(host: &Host, command: &str, name: &str) -> Value {
    let output = host.shell(&format!("microk8s {command} --format json"));
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (Some(0), ""),
        "{command}"
    );
    schema::document(&output, name)
}

/// What `nodes --self` says, and its exit code.
fn own(host: &Host) -> (Option<i32>, Value) {
    let output = host.shell("microk8s nodes --self --format json");
    assert_eq!(output.stderr, "");
    (output.code, schema::document(&output, "nodes-self"))
}

#[test]
fn add_node_tells_the_details_of_a_token_only_where_it_is_asked_for_them() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    let plain = json(n1, "add-node", "add-node");
    assert_eq!(plain.as_object().unwrap().len(), 2, "{plain}");
    let options = "add-node --role worker --uses 3 --node n2 --token-ttl 600 --details";
    let details = json(n1, options, "add-node");
    let shown = json(
        n1,
        &format!("token show {}", details["id"].as_str().unwrap()),
        "token",
    );
    assert_eq!(details["role"], "worker");
    assert_eq!(
        (&details["uses"], &details["node"]),
        (&shown["uses_left"], &shown["node"])
    );
    assert_eq!(
        (&details["expires"], &details["id"]),
        (&shown["expires"], &shown["id"])
    );
    // A token that is added again is told as it is now.
    let token = details["token"]
        .as_str()
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let again = format!("microk8s add-node --token {token} --uses 2 --details --format json");
    let again = schema::document(&n1.shell(&again), "add-node");
    assert_eq!(
        (&again["role"], &again["uses"]),
        (&"worker".into(), &2.into())
    );
    let text = n1.shell("microk8s add-node --details");
    assert_eq!(text.code, Some(2), "{text:?}");
    assert!(
        text.stderr.contains("only with --format json or yaml"),
        "{text:?}"
    );
}

#[test]
fn nodes_and_tokens_are_told_in_json_by_their_schemas() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    let nodes = json(n1, "nodes", "nodes");
    assert_eq!(nodes["nodes"][0]["address"], "10.99.0.11");
    assert_eq!(nodes["nodes"][1]["role"], "worker");
    n1.shell("microk8s add-node --token-ttl 600").ok();
    let list = n1.shell("microk8s token list --format json").ok();
    let list: Vec<Value> = serde_json::from_str(&list).unwrap();
    assert_eq!(list.len(), 2);
    for token in &list {
        let command = format!("token show {}", token["id"].as_str().unwrap());
        assert_eq!(json(n1, &command, "token"), *token);
    }
    let revoked = json(n1, "token revoke --all", "token-revoke");
    assert_eq!(revoked["revoked"].as_array().unwrap().len(), 1, "{revoked}");
    assert_eq!(json(n1, "token prune", "token-prune")["pruned"], 2);
}

#[test]
fn a_node_tells_whether_it_is_in_a_cluster_in_which_one_and_as_what_without_an_agent() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let agent = n1.agent();
    let (code, fresh) = own(n2);
    assert_eq!((code, &fresh["member"]), (Some(17), &false.into()));
    assert_eq!(fresh["role"], "none");
    n2.shell(&n1.join_line()).ok();
    n3.shell(&format!("{} --worker", n1.join_line())).ok();
    drop(agent);
    let of_n1 = own(n1).1;
    assert_ne!(fresh["cluster"], of_n1["cluster"]);
    for (host, role) in [(n1, "control-plane"), (n2, "control-plane"), (n3, "worker")] {
        let (code, value) = own(host);
        assert_eq!(
            (code, &value["member"]),
            (Some(0), &true.into()),
            "{}",
            host.name
        );
        assert_eq!(
            (&value["role"], &value["cluster"]),
            (&role.into(), &of_n1["cluster"])
        );
    }
    let openssl = n2.shell(
        "openssl x509 -in $SNAP_DATA/certs/ca.crt -noout -fingerprint -sha256 | tr -d ':\n' | cut -d= -f2 | tr A-F a-f",
    );
    assert_eq!(openssl.ok().trim(), of_n1["cluster"]);
    let text = n3.shell("microk8s nodes --self").ok();
    let cluster = of_n1["cluster"].as_str().unwrap();
    assert_eq!(text, format!("role:    worker\ncluster: {cluster}\n"));
}

#[test]
fn every_schema_is_in_the_list_of_outputs_and_every_output_has_a_schema() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let text = fs::read_to_string(docs.join("json.md")).unwrap();
    let mut listed: Vec<&str> = text
        .split('(')
        .filter_map(|rest| rest.split_once(')'))
        .map(|(link, _)| link)
        .filter(|link| link.ends_with(".schema.json"))
        .collect();
    listed.sort_unstable();
    listed.dedup();
    let mut there: Vec<String> = fs::read_dir(docs)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".schema.json"))
        .collect();
    there.sort_unstable();
    assert_eq!(listed, there);
}
