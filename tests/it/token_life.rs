//! What becomes of a token: a failed join costs none, an operator is told why one is refused, and
//! every step is on record.

use std::fs;
use std::net::IpAddr;

use microk8s::base::secret::Secret;
use microk8s::model::join_url::JoinUrl;
use microk8s::model::role::Role;
use microk8s::model::token::Token;
use microk8s::model::token_record::GrantedTerms;
use microk8s::model::token_terms::{Lifetime, Terms};
use microk8s::wire::{cluster_v1, cluster_v2, local_v1, operation};
use serde_json::Value;

use crate::compat::preconditions::{new_token, token_file};
use crate::compat::requests::curl;
use crate::lab::agent::Agent;
use crate::lab::small_disk::SmallDisk;
use crate::lab::stopped_join::StoppedJoin;
use crate::lab::{Host, Lab, Output, now};

const FILE: &str = "credentials/cluster-tokens.txt";
const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";
const OUTCOME: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join/outcome";
const REFUSED: &str = "Contacting cluster at 10.99.0.11\nConnection failed. Invalid token (500).\n";
const HEALTH: &str = "curl -skf https://10.99.0.11:25000/health";
const PREFERRED: &str = "--kubelet-preferred-address-types";

fn token_of(line: &str) -> &str {
    line.split('/').nth(1).unwrap()
}

/// What Canonical's client sends.
fn request(token: &str, hostname: &str, port: &str, worker: bool) -> String {
    serde_json::json!({
        "token": token,
        "hostname": hostname,
        "port": port,
        "worker": if worker { Value::from("as-worker") } else { Value::Null },
        "can_handle_x509_auth": true,
        "can_handle_custom_etcd": true,
    })
    .to_string()
}

/// The tokens that `token list` shows, the last issued first.
fn listed(host: &Host) -> Vec<Value> {
    let json = host.shell("microk8s token list --format json").ok();
    serde_json::from_str(&json).unwrap()
}

/// The state of the token in a join command.
fn state(host: &Host, line: &str) -> String {
    let id = Token::presented(token_of(line)).digest().to_string();
    let json = host
        .shell(&format!("microk8s token show {id} --format json"))
        .ok();
    let token: Value = serde_json::from_str(&json).unwrap();
    token["state"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_hint(output: &Output, words: &[&str]) {
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (Some(6), REFUSED),
        "{output:?}"
    );
    let before = "error: the contacted node refused the join: Invalid token (status 500)\n\
                  failed stage: admission; trying the same command again will not help\nhint: ";
    let hint = output.stderr.strip_prefix(before).unwrap_or_default();
    assert_eq!(output.stderr.lines().count(), 3, "{output:?}");
    for word in words {
        assert!(hint.contains(word), "`{word}` is missing: {output:?}");
    }
}

/// Calls kubelets by their names, so that these must resolve; or does not any more.
fn call_kubelets_by_name(host: &Host, by_name: bool) {
    let (from, to) = ("InternalIP,Hostname", "Hostname,InternalIP");
    let arguments = host.read("args/kube-apiserver");
    let (from, to) = if by_name { (from, to) } else { (to, from) };
    let lines: Vec<String> = arguments
        .lines()
        .map(|line| match line.strip_prefix(PREFERRED) {
            Some(_) => format!("{PREFERRED}={to}"),
            None => line.to_owned(),
        })
        .collect();
    assert!(lines.iter().any(|line| line.ends_with(to)), "{from}");
    host.write("args/kube-apiserver", &(lines.join("\n") + "\n"), 0o644);
}

#[test]
fn the_same_command_succeeds_after_each_way_in_which_it_failed() {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let contacted = n1.agent();
        let agent = through_agent.then(|| n2.agent());
        let line = format!("{} --worker", n1.join_line());

        call_kubelets_by_name(n1, true);
        n1.knows(&[]);
        let output = n2.shell(&line);
        assert_eq!(output.code, Some(6), "{output:?}");
        assert!(output.stdout.contains("does not resolve"), "{output:?}");
        call_kubelets_by_name(n1, false);

        let arguments = n2.read("args/cluster-agent");
        n2.write(
            "args/cluster-agent",
            &arguments.replace(":25000", ":25001"),
            0o644,
        );
        let output = n2.shell(&line);
        assert_eq!(output.code, Some(6), "{output:?}");
        assert!(output.stdout.contains("port"), "{output:?}");
        n2.write("args/cluster-agent", &arguments, 0o644);

        let stopped = StoppedJoin::start(n2, &line);
        contacted.wait_for("event=\"admitted\"");
        assert_eq!(state(n1, &line), "reserved");
        stopped.kill(agent);
        let _agent = through_agent.then(|| n2.agent());
        n2.shell(&line).ok();
        assert_eq!(state(n1, &line), "used");
    }
}

#[test]
fn the_requests_of_canonicals_client_succeed_after_each_way_in_which_they_failed() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    let token = token_of(&line);
    let ask = |port, worker| {
        let body = request(token, "n2", port, worker);
        curl(n2, &["-X", "POST", JOIN], &body).status
    };
    call_kubelets_by_name(n1, true);
    n1.knows(&[]);
    assert_eq!(ask("25000", true), 400);
    call_kubelets_by_name(n1, false);
    assert_eq!(ask("25001", true), 502);
    // The client dies with the answer in its hands, twice.
    assert_eq!(ask("25000", true), 200);
    assert_eq!(ask("25000", true), 200);
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn a_token_for_workers_is_refused_to_a_control_plane_node_and_then_lets_a_worker_in() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line_with("--role worker");
    assert_hint(
        &n2.shell(&line),
        &["for workers only", "`--worker`", "microk8s add-node"],
    );
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn a_token_that_is_added_again_is_good_for_no_more_than_was_asked_for_and_says_what_changed() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let token = new_token();
    let add = |terms: &str| {
        let output = n1.shell(&format!("microk8s add-node --token {token} {terms}"));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert!(!output.stderr.contains(&token), "{output:?}");
        let shown = listed(n1).remove(0);
        (output.stderr, shown)
    };
    let (said, first) = add("--token-ttl 600 --role worker");
    assert_eq!(said, "");
    let (said, again) = add("");
    assert_eq!(said, "", "nothing changed");
    for field in ["role", "uses_left", "expires"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    let (said, for_one) = add("--role control-plane");
    assert!(said.contains("nodes 1 (before: any number)"), "{said}");
    assert!(
        said.contains("role control-plane (before: worker)"),
        "{said}"
    );
    assert_eq!(for_one["uses_left"], 1);
    assert_eq!(for_one["expires"], first["expires"]);
    add("--role worker");
    let line = format!("microk8s join 10.99.0.11:25000/{token}");
    let refused = n2.shell(&line);
    assert!(refused.stderr.contains("for workers only"), "{refused:?}");
    n1.shell("microk8s token revoke --all").ok();
    let (said, alive) = add("");
    assert!(said.contains("had ended, and is valid again"), "{said}");
    assert_eq!(
        (&alive["state"], &alive["role"]),
        (&"issued".into(), &"worker".into())
    );
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn what_was_issued_before_a_node_joined_or_left_a_cluster_admits_to_no_other_one() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let (_first, _second) = (n1.agent(), n2.agent());
    let files = ["cluster-tokens.txt", "persistent-cluster-tokens.txt"];
    let issue = || {
        let lines = files.map(|name| {
            let token = new_token();
            token_file(n2, &format!("credentials/{name}"), &format!("{token}\n"));
            token
        });
        let issued = n2
            .shell("microk8s add-node --token-ttl 600 --format token")
            .ok();
        (issued.trim().to_owned(), lines)
    };
    let assert_void = |(issued, lines): &(String, [String; 2])| {
        let connection = |token: &str| format!("microk8s join 10.99.0.12:25000/{token}");
        for role in ["", " --worker"] {
            let refused = n3.shell(&format!("{}{role}", connection(issued)));
            assert_eq!(refused.code, Some(6), "{refused:?}");
            assert!(refused.stderr.contains("the token is void"), "{refused:?}");
            for line in lines {
                let refused = n3.shell(&format!("{}{role}", connection(line)));
                assert_eq!(refused.code, Some(6), "{refused:?}");
            }
        }
        assert_eq!(state(n2, &connection(issued)), "void");
        let shown = n2.run_with_input(&["microk8s", "token", "show", "-"], issued.as_bytes());
        assert!(shown.ok().contains("it was issued in another cluster"));
    };
    let alone = issue();
    n2.shell(&n1.join_line()).ok();
    assert_void(&alone);
    let in_cluster = issue();
    n2.shell("microk8s leave").ok();
    assert_void(&in_cluster);
    // The same token, added again, is one of the cluster that the node is in now.
    let again = format!("microk8s add-node --token {}", alone.0);
    n2.shell(&again).ok();
    n3.shell(&format!(
        "microk8s join 10.99.0.12:25000/{} --worker",
        alone.0
    ))
    .ok();
}

#[test]
fn a_refused_join_says_why_since_when_and_what_to_do() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let agent = n1.agent();
    let try_with = |line: &str| n3.shell(&format!("{line} --worker"));

    let used = n1.join_line();
    n2.shell(&format!("{used} --worker")).ok();
    assert_hint(
        &try_with(&used),
        &["used by n2 (10.99.0.12)", "ago", "microk8s add-node"],
    );

    let unknown = used.replace(token_of(&used), &new_token());
    assert_hint(
        &try_with(&unknown),
        &["another node", "mistyped", "microk8s token list"],
    );

    let revoked = n1.join_line();
    let token = token_of(&revoked);
    n1.run_with_input(&["microk8s", "token", "revoke", "-"], token.as_bytes())
        .ok();
    assert_hint(
        &try_with(&revoked),
        &["revoked", "ago", "microk8s add-node"],
    );

    let bound = n1.join_line_with("--node N9.example");
    assert_hint(&try_with(&bound), &["for n9.example only"]);

    let expired = n1.join_line();
    let line = format!("{}|{}\n", new_token(), now() - 120);
    token_file(n1, FILE, &line);
    let expired = expired.replace(token_of(&expired), line.split('|').next().unwrap());
    assert_hint(&try_with(&expired), &["expired", "microk8s add-node"]);

    let taken = n1.join_line();
    let body = request(token_of(&taken), "n2", "25000", true);
    assert_eq!(curl(n2, &["-X", "POST", JOIN], &body).status, 200);
    assert_hint(
        &try_with(&taken),
        &["taken by n2 (10.99.0.12)", "ago", "microk8s add-node"],
    );

    // The agent's log says the same, with the address and the token's id.
    let log = agent.log();
    for (line, reason) in [
        (&used, "used"),
        (&unknown, "unknown"),
        (&revoked, "revoked"),
        (&bound, "wrong-node"),
        (&expired, "expired"),
        (&taken, "in-use"),
    ] {
        let id = Token::presented(token_of(line)).digest().to_string();
        let told = log.lines().any(|entry| {
            [
                id.as_str(),
                "10.99.0.13",
                "refused",
                &format!("\"{reason}\""),
            ]
            .iter()
            .all(|word| entry.contains(word))
        });
        assert!(told, "{reason}\n{log}");
    }
}

#[test]
fn a_node_that_says_that_its_join_failed_frees_what_it_did_not_use() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let agent = n1.agent();
    // The answer arrives, and no certificate can be signed.
    let line = format!("{} --worker", n1.join_line());
    n1.shell("mv $SNAP_DATA/certs/ca.key $SNAP_DATA/certs/away")
        .ok();
    assert_eq!(n2.shell(&line).code, Some(1));
    n1.shell("mv $SNAP_DATA/certs/away $SNAP_DATA/certs/ca.key")
        .ok();
    assert_eq!(state(n1, &line), "issued");
    agent.wait_for("event=\"released\"");
    n3.shell(&line).ok();

    // With the cluster's key in its hands, it keeps the token for itself.
    let line = n1.join_line();
    n2.stand_ins.dqlite_lists(&["10.99.0.11:19001"]);
    assert_eq!(n2.shell(&format!("{line} --timeout 5")).code, Some(8));
    assert_eq!(state(n1, &line), "reserved");
    agent.wait_for("event=\"kept\"");
    let body = request(token_of(&line), "n3", "25000", false);
    assert_eq!(curl(n3, &["-X", "POST", JOIN], &body).status, 500);
    n2.stand_ins
        .dqlite_lists(&["10.99.0.11:19001", "10.99.0.12:19001"]);
    n2.shell(&line).ok();
    assert_eq!(state(n1, &line), "used");
}

#[test]
fn only_the_node_itself_reports_how_its_join_ended() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let _agent = n1.agent();
    let line = n1.join_line();
    let token = token_of(&line);
    let body = request(token, "n2", "25000", true);
    assert_eq!(curl(n2, &["-X", "POST", JOIN], &body).status, 200);
    let report = |host, token: &str, hostname| {
        let body = serde_json::json!({"token": token, "hostname": hostname, "outcome": "failed"});
        curl(host, &["-X", "POST", OUTCOME], &body.to_string())
    };
    for refused in [
        report(n3, token, "n2"),
        report(n3, token, "n3"),
        report(n2, token, "n3"),
        report(n2, &new_token(), "n2"),
    ] {
        assert_eq!(refused.status, 500, "{refused:?}");
        assert_eq!(
            refused.body,
            "{\"error\":\"Invalid token\",\"reason\":\"unknown\"}"
        );
    }
    assert_eq!(state(n1, &line), "reserved");
    assert_eq!(report(n2, token, "n2").status, 200);
    assert_eq!(state(n1, &line), "issued");
}

#[test]
fn without_a_window_a_node_does_not_use_its_token_twice() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = Agent::start(n1, &["--retry-window", "0"]);
    let line = n1.join_line();
    for (body, first) in [
        (request(token_of(&line), "n2", "25000", false), 200),
        (request(token_of(&line), "n2", "25000", false), 500),
    ] {
        assert_eq!(curl(n2, &["-X", "POST", JOIN], &body).status, first);
    }
    // It may still say that its join failed, and then it may.
    assert_eq!(state(n1, &line), "reserved");
    let failed =
        serde_json::json!({"token": token_of(&line), "hostname": "n2", "outcome": "failed"});
    assert_eq!(
        curl(n2, &["-X", "POST", OUTCOME], &failed.to_string()).status,
        200
    );
    let again = request(token_of(&line), "n2", "25000", false);
    assert_eq!(curl(n2, &["-X", "POST", JOIN], &again).status, 200);
}

/// What is shown of a token without how far its instants are from now: a second passes between two
/// looks.
fn untimed(shown: &str) -> Vec<String> {
    let instant = |line: &str| {
        let (instant, rest) = line.split_once(" (")?;
        Some(format!("{instant}{}", rest.split_once(')')?.1))
    };
    shown
        .lines()
        .map(|line| instant(line).unwrap_or_else(|| line.to_owned()))
        .collect()
}

#[test]
fn tokens_are_listed_shown_and_revoked_by_their_ids_and_by_themselves() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let in_file = new_token();
    token_file(n1, FILE, &format!("{in_file}\n"));
    let _agent = n1.agent();
    let options = "--role worker --uses 2 --token-ttl 7200 --node n2 --description 'rack 4'";
    let line = n1.join_line_with(options);
    let (token, id) = (
        token_of(&line),
        Token::presented(token_of(&line)).digest().to_string(),
    );
    n2.shell(&format!("{line} --worker")).ok();
    let tokens = listed(n1);
    assert_eq!(tokens.len(), 2);
    // One that only stands in the file was issued nobody knows when, and comes last.
    let shown = &tokens[0];
    for (field, value) in [
        ("id", Value::from(id.as_str())),
        ("state", "issued".into()),
        ("role", "worker".into()),
        ("uses_left", 1.into()),
        ("node", "n2".into()),
        ("issued_by_uid", 0.into()),
        ("admissions", 1.into()),
        ("last_used_by", "n2".into()),
        ("last_used_from", "10.99.0.12".into()),
        ("last_used_as", "worker".into()),
        ("description", "rack 4".into()),
    ] {
        assert_eq!(shown[field], value, "{field}: {shown}");
    }
    assert_eq!(tokens[1]["file"], "cluster-tokens.txt");

    let text = n1.shell(&format!("microk8s token show {}", &id[..6])).ok();
    assert!(text.contains("expires:") && text.contains("(in "), "{text}");
    let by_itself = n1.run_with_input(&["microk8s", "token", "show", "-"], token.as_bytes());
    assert_eq!(untimed(&by_itself.ok()), untimed(&text));
    let yaml = n1
        .shell(&format!("microk8s token show {id} --format yaml"))
        .ok();
    assert!(yaml.contains("description: rack 4"), "{yaml}");
    let table = n1.shell("microk8s token list").ok();
    assert_eq!(table.lines().count(), 3, "{table}");
    for text in [&text, &yaml, &table] {
        assert!(!text.contains(token) && !text.contains(&in_file), "{text}");
    }

    let revoke = |words: &str| n1.shell(&format!("microk8s token revoke {words}"));
    for (words, complaint) in [
        ("ffffffffffff", "there is no token `ffffffffffff`"),
        ("abc", "`abc` is not the id of a token"),
        ("../x", "is not the id of a token"),
        ("-", "standard input is empty"),
    ] {
        let output = revoke(words);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.contains(complaint), "{output:?}");
    }
    let none = n1.run_with_input(
        &["microk8s", "token", "revoke", "-"],
        new_token().as_bytes(),
    );
    assert_eq!(none.code, Some(1), "{none:?}");
    // One unknown id, and nothing is revoked.
    assert_eq!(revoke(&format!("{id} ffffffffffff")).code, Some(1));
    assert_eq!(state(n1, &line), "issued");
    assert_eq!(revoke(&id).ok(), format!("Revoked token {id}.\n"));
    assert!(revoke(&id).ok().starts_with("Nothing was revoked"));
    assert_eq!(
        revoke("--all --format json").ok().matches('"').count(),
        4,
        "the other one"
    );
    assert_eq!(n1.read(FILE).trim(), "");
    let pruned = n1.shell("microk8s token prune --format json").ok();
    assert_eq!(
        serde_json::from_str::<Value>(&pruned).unwrap()["pruned"],
        2,
        "{pruned}"
    );
    assert_eq!(
        n1.shell("microk8s token list").ok(),
        "There are no tokens.\n"
    );
}

#[test]
fn an_expired_line_is_taken_out_by_prune_and_no_other() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let tokens: Vec<String> = (0..3).map(|_| new_token()).collect();
    let (past, future) = (now() - 1, now() + 600);
    let kept = format!("{}|{future}\n{}\n", tokens[1], tokens[2]);
    token_file(n1, FILE, &format!("{}|{past}\n{kept}", tokens[0]));
    let _agent = n1.agent();
    assert_eq!(listed(n1).len(), 3);
    assert_eq!(n1.shell("microk8s token prune").ok(), "Removed 1 token.\n");
    let blanks = " ".repeat(format!("{}|{past}", tokens[0]).len());
    assert_eq!(n1.read(FILE), format!("{blanks}\n{kept}"));
}

#[test]
fn terms_that_no_token_has_are_refused_and_nothing_is_issued() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    for (options, complaint) in [
        ("--uses 0", "at least 1 use"),
        ("--uses -1", "at least 1 use"),
        ("--uses 4294967296", "at least 1 use"),
        ("--uses x", "it is not a number"),
        ("--role admin", "invalid choice"),
        ("--node a/b", "is not a valid name of a node"),
        ("--description ''", "one line"),
        ("--token-ttl 9223372036854775808", "is too large"),
        ("--token-ttl 9223372036854775807", "more than the"),
        ("--token-ttl 0", "could never be used"),
        ("--token-ttl -2", "could never be used"),
    ] {
        let output = n1.shell(&format!("microk8s add-node {options}"));
        assert_eq!(output.code, Some(2), "{options}: {output:?}");
        assert!(output.stderr.contains(complaint), "{options}: {output:?}");
        assert_eq!(output.stdout, "");
    }
    assert_eq!(listed(n1), Vec::<Value>::new());
}

#[test]
fn without_an_agent_of_ours_what_microk8s_cannot_honour_is_refused() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    for option in ["--uses 2", "--role worker", "--node n2", "--description x"] {
        let output = n1.shell(&format!("microk8s add-node {option}"));
        assert_eq!(output.code, Some(1), "{output:?}");
        let name = option.split(' ').next().unwrap();
        assert!(output.stderr.contains(&format!("`{name}`")), "{output:?}");
    }
    assert!(before == n1.snapshot());
    n1.shell("microk8s add-node --uses 1 --role any").ok();
    let output = n1.shell("microk8s token list");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("no agent runs"), "{output:?}");
}

#[test]
fn every_step_of_a_token_is_on_record_however_quiet_the_log_is() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = Agent::start_quietly(n1);
    let (first, second) = (n1.join_line(), n1.join_line());
    let id = |line: &str| Token::presented(token_of(line)).digest().to_string();
    n2.shell(&format!("{first} --worker")).ok();
    n1.shell(&format!("microk8s token revoke {}", id(&second)))
        .ok();
    n1.shell(&format!("microk8s add-node --token {}", token_of(&second)))
        .ok();
    n1.shell(&format!("microk8s add-node --token {}", token_of(&second)))
        .ok();
    n1.shell("microk8s token prune").ok();
    let on_record = |token: &str, event: &str, actor: &str, node: &str| {
        let words = [
            " audit event=",
            &format!("event=\"{event}\""),
            &format!("token={token}"),
            &format!("actor={actor}"),
            &format!("node=\"{node}\""),
            "outcome=\"",
        ];
        agent.wait_until(&format!("{event} of {token} by {actor}"), |log| {
            log.lines()
                .any(|line| line.starts_with("20") && words.iter().all(|word| line.contains(word)))
        });
    };
    let n2 = "n2 (10.99.0.12)";
    on_record(&id(&first), "issued", "uid 0", "-");
    on_record(&id(&first), "reserved", "10.99.0.12", n2);
    on_record(&id(&first), "admitted", "10.99.0.12", n2);
    on_record(&id(&first), "used", "10.99.0.12", n2);
    on_record(&id(&first), "complete", "10.99.0.12", n2);
    on_record(&id(&second), "revoked", "uid 0", "-");
    on_record(&id(&second), "revived", "uid 0", "-");
    on_record(&id(&second), "renewed", "uid 0", "-");
    on_record(&id(&first), "pruned", "uid 0", "-");
    let log = agent.log();
    assert!(!log.contains("listening on"), "the log is quiet:\n{log}");
}

#[test]
fn the_most_verbose_log_the_command_line_and_the_disk_hold_no_token() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let words = ["env", "MICROK8S_LOG=trace", "microk8s", "agent"];
    let agents = [Agent::start_as(n1, &words), Agent::start_as(n2, &words)];
    let (worker, control_plane) = (n1.join_line(), n1.join_line_with("--token-ttl 600"));
    let preset = new_token();
    n1.shell(&format!("microk8s add-node --token {preset}"))
        .ok();
    n1.run_with_input(&["microk8s", "token", "show", "-"], preset.as_bytes())
        .ok();
    n2.shell(&control_plane).ok();
    n2.shell(&format!("{worker} --worker")).ok();
    for secret in [token_of(&worker), token_of(&control_plane), &preset] {
        for (agent, host) in agents.iter().zip([n1, n2]) {
            assert!(!agent.log().contains(secret), "{}", agent.log());
            let title = fs::read(format!("/proc/{}/cmdline", agent.pid())).unwrap();
            assert!(!String::from_utf8_lossy(&title).contains(secret));
            let found = host.shell(&format!("grep -rlaF {secret} $SNAP_DATA $SNAP_COMMON"));
            assert_eq!(found.stdout, "", "{found:?}");
        }
    }
}

#[test]
fn nothing_that_holds_a_token_shows_it() {
    let text = "0123456789abcdef0123456789abcdef";
    let token = Token::presented(text);
    let url = JoinUrl::parse(&format!("10.99.0.11:25000/{text}/0123456789ab")).unwrap();
    let address: IpAddr = [10, 99, 0, 11].into();
    let holders: Vec<Box<dyn std::fmt::Debug>> = vec![
        Box::new(token.clone()),
        Box::new(Secret::new(text)),
        Box::new(url.clone()),
        Box::new(cluster_v2::JoinRequest {
            token: token.clone(),
            hostname: "n2".into(),
            port: "25000".into(),
            worker: cluster_v2::RequestedRole::Worker,
            can_handle_x509_auth: true,
            can_handle_custom_etcd: true,
            can_handle_callback_digest: false,
            join_id: None,
        }),
        Box::new(cluster_v2::JoinOutcome {
            token: token.clone(),
            hostname: "n2".into(),
            outcome: cluster_v2::Outcome::Failed,
            join_id: None,
        }),
        Box::new(cluster_v1::JoinRequest {
            token: token.clone(),
            hostname: "n2".into(),
            port: "25000".into(),
            callback: Secret::new(text),
            can_handle_x509_auth: true,
            join_id: None,
        }),
        Box::new(cluster_v1::JoinResponse {
            kubelet: Some(token.clone()),
            kubeproxy: Some(token.clone()),
            ..cluster_v1::JoinResponse::default()
        }),
        Box::new(cluster_v1::SignCertRequest {
            token: token.with_suffix("-kubelet"),
            request: String::new(),
        }),
        Box::new(local_v1::AddTokenRequest {
            token: Some(token.clone()),
            terms: Terms::lasting(Lifetime::OneUse),
            all: false,
        }),
        Box::new(local_v1::TokenSelection::Token(token.clone())),
        Box::new(local_v1::IssuedToken {
            token: token.clone(),
            fingerprint: "0123456789ab".into(),
            port: 25000,
            default_address: address,
            addresses: vec![address],
            others: None,
            takes_workers: true,
            granted: GrantedTerms::asked_by(&Terms::lasting(Lifetime::OneUse), 0),
            added_again: None,
            notices: Vec::new(),
        }),
        Box::new(operation::JoinOrder {
            urls: vec![url],
            dry_run: false,
            role: Role::Worker,
            role_was_named: true,
            skip_verify: false,
            disable_low_memory_guard: false,
            timeout_seconds: 1,
            labels: Vec::new(),
            node_ip: None,
        }),
    ];
    for holder in holders {
        let shown = format!("{holder:?} {holder:#?}");
        assert!(!shown.contains(text), "{shown}");
    }
}

#[test]
fn a_full_disk_costs_no_token_and_is_said() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.shell("mkdir -m 0700 $SNAP_DATA/var/cluster-agent").ok();
    let disk = SmallDisk::over(n1, &n1.path("var/cluster-agent"), "4m");
    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    disk.fill_up_to(0);
    // The database has some room of its own; how much is its business.
    let mut issued = 0;
    let refused = loop {
        let output = n1.shell("microk8s add-node --format token");
        if output.code != Some(0) {
            break output;
        }
        issued += 1;
        assert!(issued < 5000, "the disk is full");
    };
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("tokens.redb") && refused.stderr.contains("No space left"),
        "{refused:?}"
    );
    let output = n2.shell(&line);
    assert_ne!(output.code, Some(0), "{output:?}");
    // Whichever needs room first: the store, or the journal of what a first join changes there.
    let reasons = [
        "token store of the contacted node",
        "No space left",
        "cannot change its files",
    ];
    assert!(
        reasons.iter().any(|reason| output.stdout.contains(reason)),
        "{output:?}"
    );
    n2.shell(HEALTH).ok();
    disk.make_room();
    assert_eq!(listed(n1).len(), issued + 1, "{}", agent.log());
    n2.shell(&line).ok();
}

#[test]
fn a_damaged_token_database_is_set_aside_and_the_agent_goes_on_with_an_empty_one() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let database = n1.path("var/cluster-agent/tokens.redb");
    for (round, while_it_runs) in [false, true, true, false].into_iter().enumerate() {
        let running = n1.agent();
        let line = format!("{} --worker", n1.join_line());
        let running = match while_it_runs {
            true => Some(running),
            false => {
                running.kill();
                None
            }
        };
        let mut content = fs::read(&database).unwrap();
        // Everything but the head, which tells that this is a database.
        for (at, byte) in content.iter_mut().enumerate().skip(512) {
            *byte = u8::try_from((at * 7 + round * 13) % 251).unwrap();
        }
        match round {
            0 => fs::write(&database, b"").unwrap(),
            // In place: the agent has this file open.
            _ => {
                let file = fs::File::options().write(true).open(&database).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&file, &content, 0).unwrap();
            }
        }
        if let Some(running) = running {
            // What is in its memory may serve for a while. It must not write: that could make such a
            // small file whole again.
            let output = n1.shell("microk8s token list");
            assert!(!output.stderr.contains("panicked"), "{output:?}");
            n2.shell(HEALTH).ok();
            assert!(!running.log().contains("panicked"), "{}", running.log());
            running.kill();
        }
        let agent = n1.agent();
        let refused = n2.shell(&line);
        assert_eq!(refused.code, Some(6), "{refused:?}");
        assert!(
            refused.stderr.contains("does not know this token"),
            "round {round}: {refused:?}"
        );
        agent.wait_for("it was set aside as");
        agent.wait_for("event=\"database-damaged\"");
        for command in ["token list", "add-node"] {
            let output = n1.shell(&format!("microk8s {command}"));
            assert_eq!(output.code, Some(0), "{output:?}");
            for word in ["was damaged", "tokens.redb.damaged-", "unknown"] {
                assert!(output.stderr.contains(word), "round {round}: {output:?}");
            }
            assert!(!output.stderr.contains("panicked"), "{output:?}");
        }
        n2.shell(HEALTH).ok();
        assert!(!agent.log().contains("panicked"), "{}", agent.log());
        agent.kill();
    }
    let _agent = n1.agent();
    let aside = n1
        .shell("ls $SNAP_DATA/var/cluster-agent | grep -c damaged-")
        .ok();
    assert!(aside.trim().parse::<u32>().unwrap() >= 4, "{aside}");
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
}

#[test]
fn an_older_copy_of_the_token_database_makes_no_used_token_valid_again() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    agent.kill();
    n1.shell(
        "cp -a $SNAP_DATA/var/cluster-agent /tmp/$$-copy && mv /tmp/$$-copy $SNAP_DATA/../copy",
    )
    .ok();
    let agent = n1.agent();
    n2.shell(&line).ok();
    // The agent dies with no time to tidy up, which is no older copy.
    agent.kill();
    let agent = n1.agent();
    let after_crash = format!("{} --worker", n1.join_line());
    assert_eq!(state(n1, &after_crash), "issued");
    agent.kill();
    // As after a return to an older revision of the snap: all of the folder is older.
    n1.shell(
        "rm -r $SNAP_DATA/var/cluster-agent && mv $SNAP_DATA/../copy $SNAP_DATA/var/cluster-agent",
    )
    .ok();
    let agent = n1.agent();
    let refused = n3.shell(&line);
    assert_eq!(refused.code, Some(6), "{refused:?}");
    assert!(refused.stderr.contains("the token is void"), "{refused:?}");
    agent.wait_for("is an older copy");
    agent.wait_for("event=\"older-copy\"");
    assert_eq!(state(n1, &line), "void");
    n3.shell(&format!("{} --worker", n1.join_line())).ok();
}

#[test]
fn revoking_a_token_that_is_revoked_says_so() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let agent = n1.agent();
    let id = n1
        .shell("microk8s add-node --format json --details | jq -r .id")
        .ok();
    let id = id.trim();
    let revoke = format!("microk8s token revoke {id}");
    assert_eq!(n1.shell(&revoke).ok(), format!("Revoked token {id}.\n"));
    let again = n1.shell(&revoke);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(
        (again.stdout.as_str(), again.stderr.as_str()),
        (
            "Nothing was revoked.\n",
            format!("warning: token {id} is revoked already\n").as_str()
        )
    );
    agent.kill();
    for command in ["nodes", "token list"] {
        let output = n1.shell(&format!("microk8s {command}"));
        let text = format!(
            "error: no agent runs for the node in `{}`\n",
            n1.snap_data().display()
        );
        assert!(output.stderr.starts_with(&text), "{output:?}");
    }
}

#[test]
fn a_connection_string_is_understood_with_what_pasting_puts_around_it() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    let url = line.strip_prefix("microk8s join ").unwrap();
    n2.run(&["microk8s", "join", &format!("{url}\r"), "--worker"])
        .ok();
    let whole = format!("sudo {} --worker\r\n", n1.join_line());
    n2.run(&["microk8s", "join", &whole]).ok();
    let junk = url.replace(token_of(&line), &"\u{c}".repeat(32));
    let refused = n2.run(&["microk8s", "join", &junk]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("visible ASCII"), "{refused:?}");
}
