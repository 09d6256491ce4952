//! The options of `join` that MicroK8s does not have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::lab::peer::Peer;
use crate::lab::{Host, Lab, Output, schema};

/// A new connection string of this node: address and port, token, fingerprint.
fn new_connection(host: &Host) -> [String; 3] {
    let line = host.join_line();
    let words: Vec<&str> = line.split(' ').collect();
    let parts: Vec<String> = words[2].split('/').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

/// A file on the host that only its owner can read.
fn private_file(host: &Host, name: &str, content: &[u8]) -> String {
    let path = host.scratch().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Both ways to join: in the process of the command, and through an agent on the joining node.
fn both_ways(test: impl Fn(&Host, &Host)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agents = (n1.agent(), through_agent.then(|| n2.agent()));
        test(n1, n2);
    }
}

fn assert_joined(output: &Output) {
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (Some(0), ""),
        "{output:?}"
    );
    assert!(
        output
            .stdout
            .ends_with("Successfully joined the cluster.\n"),
        "{output:?}"
    );
}

#[test]
fn a_token_comes_from_a_file_or_from_standard_input() {
    both_ways(|n1, n2| {
        let [address, token, fingerprint] = new_connection(n1);
        let file = private_file(n2, "token", format!("{token}\n").as_bytes());
        let line = format!("microk8s join --token-file {file} {address}/{fingerprint} --worker");
        assert_joined(&n2.shell(&line));
    });
    both_ways(|n1, n2| {
        let whole = new_connection(n1).join("/");
        let words = ["microk8s", "join", "--worker", "--token-file", "-"];
        assert_joined(&n2.run_with_input(&words, whole.as_bytes()));
    });
}

#[test]
fn a_token_file_that_everybody_can_read_is_warned_of() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let file = private_file(n2, "token", new_connection(n1).join("/").as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = n2.shell(&format!("microk8s join --token-file={file} --worker"));
    assert_eq!(
        (output.code, output.stderr),
        (
            Some(0),
            format!("warning: every user of this machine can read the token file `{file}`\n")
        )
    );
}

#[test]
fn a_token_file_that_is_of_no_use_is_refused_before_anything_is_sent() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    // Nothing listens here: a join that got as far as connecting would say so.
    const ADDRESS: &str = "10.99.0.1:9";
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let before = n1.snapshot();
    let folder = n1.scratch().display().to_string();
    let whole = format!("{ADDRESS}/{TOKEN}/e3b0c44298fc");
    let file = |name: &str, content: &[u8]| private_file(n1, name, content);
    for (file, connection, code, says) in [
        (
            format!("{folder}/none"),
            ADDRESS,
            1,
            "error: cannot read the token file `",
        ),
        (folder.clone(), ADDRESS, 1, "` is a directory\n"),
        (file("empty", b"\n"), ADDRESS, 1, "` is empty\n"),
        (
            file("latin1", b"0123456789abcdef\xe9"),
            ADDRESS,
            1,
            "` is not UTF-8 text\n",
        ),
        (
            file("long", &[b'a'; 5000]),
            ADDRESS,
            1,
            "` is longer than 4096 bytes\n",
        ),
        (
            file("two", format!("{TOKEN}\n{}\n", "f".repeat(32)).as_bytes()),
            ADDRESS,
            1,
            "holds more than one token",
        ),
        (
            file("short", b"0123"),
            ADDRESS,
            1,
            "Invalid connection: Cluster token size should be at least 32 bytes\n",
        ),
        (
            file("token", TOKEN.as_bytes()),
            "",
            2,
            "Error: Missing argument 'CONNECTION': the token file holds a token, and no address.\n",
        ),
        (
            file("token", TOKEN.as_bytes()),
            &whole,
            2,
            "Error: The token is given twice",
        ),
        (
            file("whole", whole.as_bytes()),
            ADDRESS,
            2,
            "'CONNECTION' is given twice.\n",
        ),
    ] {
        let output = n1.shell(&format!("microk8s join --token-file {file} {connection}"));
        let said = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(said.contains(says), "{says}: {output:?}");
        assert!(
            !said.contains("Contacting") && !said.contains(TOKEN),
            "{output:?}"
        );
    }
    assert!(before == n1.snapshot());
}

/// The value of an argument of the kubelet's.
fn kubelet(host: &Host, key: &str) -> Option<String> {
    let arguments = host.read("args/kubelet");
    let line = arguments.lines().find(|line| line.starts_with(key))?;
    Some(line[key.len() + 1..].replace('"', ""))
}

#[test]
fn a_worker_gets_the_labels_and_the_address_that_were_ordered_beside_its_own() {
    both_ways(|n1, n2| {
        n2.add_address("10.99.0.112/24");
        let whole = new_connection(n1).join("/");
        let output = n2.shell(&format!(
            "microk8s join {whole} --worker --node-label disk=ssd --node-ip 10.99.0.112 --node-label=example.com/rack=4"
        ));
        assert_joined(&output);
        assert_eq!(
            kubelet(n2, "--node-labels").unwrap(),
            "microk8s.io/cluster=true,node.kubernetes.io/microk8s-worker=microk8s-worker,disk=ssd,example.com/rack=4"
        );
        assert_eq!(kubelet(n2, "--node-ip").unwrap(), "10.99.0.112");
    });
}

#[test]
fn a_control_plane_gets_the_labels_that_were_ordered_beside_the_clusters() {
    both_ways(|n1, n2| {
        let cluster = kubelet(n1, "--node-labels").unwrap();
        let whole = new_connection(n1).join("/");
        assert_joined(&n2.shell(&format!("microk8s join {whole} --node-label disk=ssd")));
        assert_eq!(
            kubelet(n2, "--node-labels").unwrap(),
            format!("{cluster},disk=ssd")
        );
        assert_eq!(kubelet(n2, "--node-ip"), None);
    });
}

#[test]
fn labels_and_addresses_that_cannot_be_are_refused_before_anything_is_sent() {
    both_ways(|n1, n2| {
        let whole = new_connection(n1).join("/");
        let before = n2.snapshot();
        for (option, code, says) in [
            ("--node-label disk", 2, "has the form KEY=VALUE"),
            (
                "--node-label node-role.kubernetes.io/worker=",
                2,
                "a node may not set labels below kubernetes.io",
            ),
            (
                "--node-label a=b --node-label a=c",
                2,
                "Label 'a' is given twice",
            ),
            ("--node-ip n2", 2, "invalid value 'n2'"),
            (
                "--node-ip 10.99.0.11",
                9,
                "error: 10.99.0.11 is not an address of this machine",
            ),
            (
                "--node-ip 127.0.0.1",
                9,
                "error: 127.0.0.1 cannot be reached from other machines",
            ),
        ] {
            let output = n2.shell(&format!("microk8s join {whole} --worker {option}"));
            assert_eq!(output.code, Some(code), "{option}: {output:?}");
            assert!(output.stderr.contains(says), "{option}: {output:?}");
            assert_eq!(output.stdout, "", "{option}");
        }
        assert!(before == n2.snapshot());
        assert_joined(&n2.shell(&format!("microk8s join {whole} --worker")));
    });
}

/// Kind and stage of a line.
fn told(lines: &[Value]) -> Vec<(&str, &str)> {
    lines
        .iter()
        .map(|line| {
            (
                line["kind"].as_str().unwrap(),
                line["stage"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_join_is_told_in_json_by_the_schema() {
    both_ways(|n1, n2| {
        let [address, token, _] = new_connection(n1);
        let line = format!("microk8s join --format json {address}/{token}");
        let output = n2.shell(&line);
        let lines = schema::events(&output, "join");
        let mut kinds = told(&lines);
        kinds.dedup();
        assert_eq!(
            kinds,
            [
                ("progress", "contact"),
                ("warning", "contact"),
                ("progress", "admission"),
                ("progress", "certificates"),
                ("progress", "apply"),
                ("progress", "services"),
                ("progress", "datastore"),
                ("end", "done")
            ]
        );
        let last = lines.last().unwrap();
        assert_eq!(
            (&last["outcome"], &last["role"]),
            (&"joined".into(), &"control-plane".into())
        );
        assert!(output.stderr.starts_with("warning: "), "{output:?}");
        assert!(!output.stdout.contains(&token), "{output:?}");
        // Once more, as a member.
        let again = schema::events(&n2.shell(&line), "join");
        assert_eq!(again.last().unwrap()["outcome"], "already-member");
    });
}

#[test]
fn a_join_that_fails_is_told_in_json_wherever_it_fails() {
    both_ways(|n1, n2| {
        let [address, _, fingerprint] = new_connection(n1);
        let unknown = format!("{address}/{}/{fingerprint}", "0".repeat(32));
        let nobody = "10.99.0.1:9/00000000000000000000000000000000";
        let other = format!("{address}/{}/ffffffffffff", "0".repeat(32));
        for (arguments, stage, code, retry) in [
            (unknown.as_str(), "admission", 6, Some("no-retry")),
            (nobody, "contact", 10, Some("try-again")),
            (&other, "identity", 4, Some("no-retry")),
            ("nonsense", "preflight", 1, None),
            ("", "preflight", 2, None),
            ("--node-label x", "preflight", 2, None),
            ("--token-file /nowhere", "preflight", 1, None),
        ] {
            let output = n2.shell(&format!("microk8s join --format=json {arguments}"));
            let lines = schema::events(&output, "join");
            let last = lines.last().unwrap();
            assert_eq!(output.code, Some(code), "{output:?}");
            assert_eq!(
                (&last["stage"], &last["outcome"]),
                (&stage.into(), &"failed".into()),
                "{output:?}"
            );
            assert_ne!(last["message"], "", "{output:?}");
            assert_eq!(last["retry"].as_str(), retry, "{output:?}");
            // In text, standard error names the stage as well.
            if retry.is_some() {
                let output = n2.shell(&format!("microk8s join {arguments}"));
                let line = format!("\nfailed stage: {stage}; ");
                let told = format!("\n{}", output.stderr);
                assert!(told.contains(&line), "{output:?}");
            }
        }
    });
}

#[test]
fn json_does_not_repeat_the_connection_string_that_was_typed() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let token = "0123456789abcdef".repeat(2);
    n1.write("var/lock/low-memory-guard.lock", "", 0o600);
    for (more, says) in [
        ("", "too little memory"),
        ("again", "unexpected extra argument"),
        (&token, "extra argument (CONNECTION)"),
    ] {
        let output = n1.shell(&format!(
            "microk8s join --format json 10.99.0.1:9/{token} {more}"
        ));
        let lines = schema::events(&output, "join");
        let message = lines.last().unwrap()["message"].as_str().unwrap();
        assert!(message.contains(says), "{output:?}");
        assert!(!output.stdout.contains(&token), "{output:?}");
    }
}

#[test]
fn a_spinner_is_drawn_on_a_terminal_and_only_there() {
    const SPINS: &str = "joining through 10.99.0.11 (";
    if !Path::new("/usr/bin/script").exists() {
        return crate::lab::skip("`script` is not installed");
    }
    both_ways(|n1, n2| {
        // Slow enough for the spinner to be drawn.
        n2.stand_ins.dqlite_lists(&[]);
        let told = n2.scratch().join("told");
        for (more, redirected, spins) in [
            ("", String::new(), true),
            ("--no-progress", String::new(), false),
            ("", "2>/dev/null".to_owned(), false),
            ("", format!(">{}", told.display()), true),
        ] {
            let whole = new_connection(n1).join("/");
            let output = n2.shell(&format!(
                "TERM=xterm script -qec 'microk8s join {whole} --timeout 5 {more} {redirected}' /dev/null"
            ));
            assert_eq!(output.code, Some(8), "{output:?}");
            assert_eq!(output.stdout.contains(SPINS), spins, "{output:?}");
            if spins && redirected.is_empty() {
                // Whatever is told stands on a line from which the spinner was taken.
                for line in ["Waiting for this node", "error: "] {
                    let cleared = format!("\r\u{1b}[2K{line}");
                    assert!(output.stdout.contains(&cleared), "{output:?}");
                }
            }
            if redirected.is_empty() {
                // The dots stand on their line, and the error on one of its own.
                assert!(
                    output
                        .stdout
                        .contains("Waiting for this node to finish joining the cluster. . "),
                    "{output:?}"
                );
            } else if redirected.starts_with('>') {
                let plain = fs::read_to_string(&told).unwrap();
                assert!(
                    plain.starts_with("Contacting cluster at 10.99.0.11\nWaiting for"),
                    "{plain}"
                );
                assert!(!plain.contains('\u{1b}'), "{plain}");
            }
        }
    });
}

/// The contacted node has too much to do, and says when to come again; or something that is no time.
#[test]
fn a_contacted_node_that_wants_to_be_asked_later_is_heard_in_text_and_in_json() {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = through_agent.then(|| n2.agent());
        for (header, seconds) in [
            ("Retry-After: 10", Some(10)),
            ("Retry-After: 86401", None),
            ("Retry-After: 99999999999999999999999", None),
            ("Retry-After: -1", None),
            ("Retry-After: +1", None),
            ("Retry-After: 0", None),
            ("Retry-After: Fri, 31 Dec 2027 23:59:59 GMT", None),
            ("X-Other: 10", None),
        ] {
            let answer = format!(
                "HTTP/1.1 503 Service Unavailable\r\n{header}\r\nContent-Length: 19\r\nConnection: close\r\n\r\n{{\"error\":\"go away\"}}"
            );
            let peer = Peer::canned(n1, answer);
            let join = "microk8s join 10.99.0.11:25000/0123456789abcdef0123456789abcdef --worker";
            let text = n2.shell(join);
            assert_eq!(text.code, Some(6), "{text:?}");
            assert_eq!(
                text.stdout,
                "Contacting cluster at 10.99.0.11\nConnection failed. go away (503).\n"
            );
            let hint = "hint: the contacted node has too much to do; try again in 10 s";
            assert_eq!(text.stderr.contains(hint), seconds.is_some(), "{text:?}");
            assert!(!text.stderr.contains("in 0 "), "{text:?}");
            let lines = schema::events(&n2.shell(&format!("{join} --format json")), "join");
            let end = lines.last().unwrap();
            assert_eq!(end["retry_after"].as_u64(), seconds, "{header}: {end}");
            assert_eq!(end["retry"], "try-again");
            // Nothing tries again by itself.
            let asked = peer.requests();
            let joins = asked
                .iter()
                .filter(|request| request.path.ends_with("/join"));
            assert_eq!(joins.count(), 2, "{asked:?}");
        }
    }
}
