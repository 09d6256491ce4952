//! A node says late how one of its joins ended, when its next one is under way already.

use microk8s::model::join_id::JoinId;
use serde_json::{Value, json};

use crate::compat::requests::curl;
use crate::lab::stopped_join::StoppedJoin;
use crate::lab::{Host, Lab};

const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";
const OUTCOME: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join/outcome";

fn token_of(line: &str) -> &str {
    line.split('/').nth(1).unwrap()
}

/// The state of the only token.
fn state(host: &Host) -> String {
    let list = host.shell("microk8s token list --format json").ok();
    let tokens: Value = serde_json::from_str(&list).unwrap();
    tokens[0]["state"].as_str().unwrap().to_owned()
}

/// The node says how a join ended: which one, where that is named.
fn report(host: &Host, token: &str, join_id: Option<&str>, outcome: &str) -> u16 {
    let mut body = json!({"token": token, "hostname": host.name, "outcome": outcome});
    if let Some(join_id) = join_id {
        body["join_id"] = join_id.into();
    }
    curl(host, &["-X", "POST", OUTCOME], &body.to_string()).status
}

#[test]
fn a_report_of_an_earlier_join_leaves_the_one_that_is_under_way_its_certificates() {
    for (through_agent, options) in [(false, ""), (true, ""), (true, "--token-ttl 600")] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let contacted = n1.agent();
        let own = through_agent.then(|| n2.agent());
        let line = format!("{} --worker", n1.join_line_with(options));
        let admitted = |times| {
            contacted.wait_until("the node is admitted", |log| {
                log.matches("outcome=\"admitted\"").count() == times
            });
        };
        let first = StoppedJoin::start(n2, &line);
        admitted(1);
        first.kill(own);
        // In the journal the report is a text within a text.
        let kept = n2.read("var/cluster-agent/journal/0000.json");
        let earlier = kept
            .split("join_id")
            .nth(1)
            .map(|rest| rest.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()))
            .and_then(|rest| rest.get(..JoinId::LENGTH))
            .filter(|text| JoinId::read(text).is_some());
        assert!(earlier.is_some(), "the report does not name the join");

        let _own = through_agent.then(|| n2.agent());
        let second = StoppedJoin::start(n2, &line);
        admitted(2);
        let output = second.go_on_after(|| {
            for outcome in ["failed", "joined"] {
                assert_eq!(report(n2, token_of(&line), earlier, outcome), 200);
            }
            if options.is_empty() {
                assert_eq!(state(n1), "reserved");
            }
        });
        assert_eq!(output.code, Some(0), "{output:?}\n{}", contacted.log());
        contacted.wait_for("about an earlier join");
        let joined = n1.shell("microk8s nodes").ok();
        assert!(joined.contains("n2"), "{joined}");
    }
}

#[test]
fn a_report_or_a_join_without_a_name_is_taken_for_the_last_one() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    let token = token_of(&line);
    let (one, other) = ("a1b2c3d4e5f6a7b8", "b1b2c3d4e5f6a7b8");
    // An older program names neither; what is no name is none.
    for (join, reported, after) in [
        (json!(one), None, "issued"),
        (Value::Null, Some(one), "issued"),
        (json!(17), Some(other), "issued"),
        (json!(one), Some("one"), "issued"),
        (json!(one), Some(other), "reserved"),
    ] {
        let body = json!({
            "token": token, "hostname": "n2", "port": "25000", "worker": "as-worker",
            "can_handle_x509_auth": true, "can_handle_custom_etcd": true, "join_id": join,
        });
        let answer = curl(n2, &["-X", "POST", JOIN], &body.to_string());
        assert_eq!(answer.status, 200, "{join}");
        assert_eq!(state(n1), "reserved", "{join}");
        assert_eq!(report(n2, token, reported, "failed"), 200);
        assert_eq!(state(n1), after, "{join} {reported:?}");
    }
}
