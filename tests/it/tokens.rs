//! Tokens: one life each, no matter who writes them, who asks at the same moment, and what fails.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use crate::compat::preconditions::{new_token, token_file};
use crate::compat::requests::curl;
use crate::lab::{Host, Lab, now};

const FILE: &str = "credentials/cluster-tokens.txt";
const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";

fn body(token: &str, hostname: &str) -> String {
    serde_json::json!({
        "token": token,
        "hostname": hostname,
        "port": "25000",
        "worker": "as-worker",
        "can_handle_x509_auth": true,
        "can_handle_custom_etcd": true,
    })
    .to_string()
}

/// The status of a worker's join request.
fn ask(host: &Host, token: &str, hostname: &str) -> u16 {
    curl(host, &["-X", "POST", JOIN], &body(token, hostname)).status
}

fn new_token_of(host: &Host) -> String {
    host.shell("microk8s add-node --format token")
        .ok()
        .trim()
        .to_owned()
}

#[test]
fn a_join_that_is_refused_leaves_its_token_to_the_next_try() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    let bind = |port: &str| {
        n2.write(
            "args/cluster-agent",
            &format!("--bind 0.0.0.0:{port}\n"),
            0o644,
        );
    };
    bind("25001");
    let refused = n2.shell(&format!("{line} --worker"));
    assert_eq!(refused.code, Some(6), "{refused:?}");
    bind("25000");
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn of_many_nodes_that_present_a_one_time_token_at_once_exactly_one_is_let_in() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let token = new_token_of(n1);
    // curl sends them side by side, each with a connection of its own.
    let mut config = String::new();
    for number in 0..24 {
        let file = n2.scratch().join(format!("join-{number}"));
        fs::write(&file, body(&token, &format!("node-{number}"))).unwrap();
        config += &format!(
            "{}url = \"{JOIN}\"\ninsecure\nsilent\noutput = /dev/null\nwrite-out = \"%{{http_code}}\\n\"\n\
             data-binary = \"@{}\"\n",
            if number > 0 { "next\n" } else { "" },
            file.display()
        );
    }
    let list = n2.scratch().join("requests");
    fs::write(&list, config).unwrap();
    let line = format!(
        "curl --parallel --parallel-immediate --parallel-max 24 --config {}",
        list.display()
    );
    let statuses = n2.shell(&line).ok();
    assert_eq!(statuses.lines().count(), 24, "{statuses}");
    assert_eq!(
        statuses.lines().filter(|status| *status == "200").count(),
        1,
        "{statuses}"
    );
    assert_eq!(
        statuses.lines().filter(|status| *status == "500").count(),
        23,
        "{statuses}"
    );
}

#[test]
fn a_token_that_a_stock_add_node_appends_counts_at_once_and_is_blanked_where_it_stands() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let (first, second) = (new_token(), new_token());
    token_file(n1, FILE, &format!("{first}\n"));
    let before = fs::metadata(n1.path(FILE)).unwrap();
    let _agent = n1.agent();
    n1.shell(&format!("echo {second} >> $SNAP_DATA/{FILE}"))
        .ok();
    assert_eq!(ask(n2, &second, "n2"), 200);
    assert_eq!(n1.read(FILE), format!("{first}\n{}\n", " ".repeat(32)));
    assert_eq!(ask(n2, &second, "another"), 500);
    assert_eq!(ask(n2, &first, "third"), 200);
    assert_eq!(n1.read(FILE), format!("{0}\n{0}\n", " ".repeat(32)));
    let after = fs::metadata(n1.path(FILE)).unwrap();
    assert_eq!(after.ino(), before.ino(), "the file is never replaced");
    assert_eq!((after.mode(), after.gid()), (before.mode(), before.gid()));
}

#[test]
fn no_line_that_a_stock_add_node_appends_while_nodes_join_is_lost() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    token_file(n1, FILE, "");
    let _agent = n1.agent();
    let tokens: Vec<String> = (0..100).map(|_| new_token()).collect();
    let appends: String = tokens
        .iter()
        .map(|token| format!("echo {token} >> $SNAP_DATA/{FILE}\n"))
        .collect();
    let script = n1.scratch().join("append.sh");
    fs::write(&script, appends).unwrap();
    let mut writer = n1
        .command(&["sh", script.to_str().unwrap()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    for number in 0..10 {
        let token = n1.shell("microk8s add-node --format token").ok();
        assert_eq!(ask(n2, token.trim(), &format!("early-{number}")), 200);
    }
    assert!(writer.wait().unwrap().success());
    for (number, token) in tokens.iter().enumerate().step_by(9) {
        assert_eq!(
            ask(n2, token, &format!("late-{number}")),
            200,
            "{}",
            n1.read(FILE)
        );
    }
}

#[test]
fn a_token_with_a_time_to_live_serves_many_nodes_until_it_expires() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let (living, dead) = (new_token(), new_token());
    let (future, past) = (now() + 600, now() - 1);
    let content = format!("{living}|{future}\n{dead}|{past}\n{dead}-longer\n");
    token_file(n1, FILE, &content);
    let _agent = n1.agent();
    for name in ["a", "b", "c"] {
        assert_eq!(ask(n2, &living, name), 200);
    }
    assert_eq!(ask(n2, &dead, "d"), 500);
    assert_eq!(ask(n2, &format!("{dead}-longer"), "e"), 200);
}

#[test]
fn a_token_is_matched_as_a_whole() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let token = new_token();
    let longer = format!("{token}0");
    token_file(n1, FILE, &format!("{longer}\n"));
    let _agent = n1.agent();
    assert_eq!(ask(n2, &token, "a"), 500);
    assert_eq!(ask(n2, &format!("{longer}0"), "b"), 500);
    assert_eq!(ask(n2, "", "c"), 500);
    assert_eq!(ask(n2, &format!("{longer}|9999999999"), "d"), 500);
    assert_eq!(ask(n2, &longer, "e"), 200);
}

#[test]
fn a_persistent_token_works_any_number_of_times() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let token = new_token();
    token_file(
        n1,
        "credentials/persistent-cluster-tokens.txt",
        &format!("{token}\n"),
    );
    for name in ["a", "b", "c"] {
        assert_eq!(ask(n2, &token, name), 200);
    }
    assert_eq!(
        n1.read("credentials/persistent-cluster-tokens.txt"),
        format!("{token}\n")
    );
}

#[test]
fn a_token_whose_line_was_taken_out_of_the_file_is_dead() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let (kept, revoked) = (new_token(), new_token());
    token_file(n1, FILE, &format!("{revoked}\n{kept}\n"));
    let _agent = n1.agent();
    n1.shell(&format!("sed -i /{revoked}/d $SNAP_DATA/{FILE}"))
        .ok();
    assert_eq!(ask(n2, &revoked, "a"), 500);
    assert_eq!(ask(n2, &kept, "b"), 200);
}

#[test]
fn add_node_without_an_agent_does_not_run_into_a_line_without_an_end() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let other = new_token();
    token_file(n1, FILE, &other);
    let token = new_token_of(n1);
    assert_eq!(n1.read(FILE), format!("{other}\n{token}\n"));
}

#[test]
fn a_token_that_no_request_could_carry_is_refused() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    let plain = "0123456789abcdef0123456789abcdef";
    for with_agent in [false, true] {
        let _agent = with_agent.then(|| n1.agent());
        for bad in ["/", "|", " ", "\t", "\n", "\u{7}"] {
            let token = format!("{plain}{bad}x");
            let output = n1.run(&["microk8s", "add-node", "--token", &token]);
            assert!(matches!(output.code, Some(1 | 2)), "{bad:?}: {output:?}");
            assert!(before == n1.snapshot(), "{bad:?}");
        }
    }
}

#[test]
fn a_token_is_nowhere_to_be_read_but_on_the_screen() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let (agent, other) = (n1.agent(), n2.agent());
    let line = n1.join_line();
    let token = line.split('/').nth(1).unwrap().to_owned();
    let unused = new_token_of(n1);
    n2.shell(&format!("{line} --worker")).ok();
    assert_eq!(ask(n2, &new_token(), "unknown"), 500);
    for secret in [&token, &unused] {
        for log in [agent.log(), other.log()] {
            assert!(!log.contains(secret.as_str()), "{log}");
        }
        for host in [n1, n2] {
            let found = host.shell(&format!("grep -rlaF {secret} $SNAP_DATA $SNAP_COMMON"));
            assert_eq!(found.stdout, "", "{found:?}");
        }
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    for with_agent in [false, true] {
        let _agent = with_agent.then(|| n1.agent());
        // The reader is gone before the program starts.
        let output = n1.run(&[
            "bash",
            "-c",
            "exec 3> >(true); wait $!; microk8s add-node >&3; echo $? >&2",
        ]);
        assert_eq!(output.stderr, "0\n", "{output:?}");
    }
}

#[test]
fn a_token_has_one_life_however_often_it_is_listed() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let (twice, again) = (new_token(), new_token());
    let past = now() - 1;
    token_file(
        n1,
        FILE,
        &format!("{twice}\n{again}|{past}\n{twice}\n{again}\n"),
    );
    let _agent = n1.agent();
    assert_eq!(ask(n2, &twice, "a"), 200);
    assert_eq!(ask(n2, &twice, "b"), 500, "{}", n1.read(FILE));
    assert_eq!(ask(n2, &again, "c"), 200, "an expired line hides nothing");
    assert_eq!(ask(n2, &again, "d"), 500, "{}", n1.read(FILE));
}

#[test]
fn a_used_token_stays_used_when_the_agent_starts_anew() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let by_hand = new_token();
    token_file(n1, FILE, &format!("{by_hand}\n"));
    let agent = n1.agent();
    let issued = new_token_of(n1);
    for token in [&by_hand, &issued] {
        assert_eq!(ask(n2, token, "a"), 200);
    }
    agent.kill();
    let _agent = n1.agent();
    for token in [&by_hand, &issued] {
        assert_eq!(ask(n2, token, "b"), 500);
    }
}
