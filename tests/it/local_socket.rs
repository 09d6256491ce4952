//! The agent's socket on its own node: who may use it, who is told what, and who keeps it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::net::UnixListener;
use std::thread;

use crate::lab::agent::Agent;
use crate::lab::network::MICROK8S_GID;
use crate::lab::program::program;
use crate::lab::{Host, Lab, Output};

/// A user of every machine, who is in no group that counts.
const NOBODY: &str = "65534";

/// MicroK8s's text (recording `add-node-no-kubeconfig`).
const NO_PERMISSION: &str = "Insufficient permissions to access MicroK8s.\n\
    You can either try again with sudo or add the user nobody to the 'microk8s' group:\n\
    \n    sudo usermod -a -G microk8s nobody\n    sudo chown -R nobody ~/.kube\n\
    \nAfter this, reload the user groups either via a reboot or by running 'newgrp microk8s'.\n";

/// Runs the program as somebody who is no administrator, from a place where he can.
fn as_nobody(host: &Host, groups: &str, arguments: &str) -> Output {
    let copy = host.scratch().join("microk8s");
    if !copy.exists() {
        // In a child: a file that another thread's child holds open for writing cannot be run.
        host.shell(&format!("cp {} {}", program().display(), copy.display()));
    }
    host.shell(&format!(
        "USER=nobody exec setpriv --reuid={NOBODY} --regid={NOBODY} {groups} {} {arguments}",
        copy.display()
    ))
}

/// After the text of MicroK8s stands what cannot be used.
fn assert_lacks_permission(output: &Output) {
    assert_eq!(output.code, Some(1), "{output:?}");
    let ours = output.stderr.strip_prefix(NO_PERMISSION);
    let names_it = ours.is_some_and(|ours| ours.starts_with("error: cannot "));
    assert!(names_it && ours.unwrap().lines().count() == 1, "{output:?}");
}

#[test]
fn a_user_outside_the_group_is_told_how_to_get_into_it() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let agent = n1.agent();
    // Once the file that tells who may use a node keeps him out, and once only the socket does.
    let config = n1.path("credentials/client.config");
    for (mode, commands) in [
        (0o644, &["add-node", "nodes", "token list"][..]),
        (
            0o640,
            &[
                "add-node",
                "join 10.99.0.12:25000/0123456789abcdef0123456789abcdef",
                "leave",
                "remove-node n2",
            ],
        ),
    ] {
        n1.write(
            "credentials/client.config",
            &n1.read("credentials/client.config"),
            mode,
        );
        chown(&config, None, Some(MICROK8S_GID)).unwrap();
        for command in commands {
            let output = as_nobody(n1, "--clear-groups", command);
            assert_eq!(output.stdout, "", "{command}");
            assert_lacks_permission(&output);
        }
    }
    assert!(!agent.log().contains("token issued"), "{}", agent.log());
}

#[test]
fn a_member_of_the_group_is_served_and_the_log_says_who_it_was() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let agent = n1.agent();
    let groups = format!("--groups={MICROK8S_GID}");
    as_nobody(n1, &groups, "add-node --format token").ok();
    agent.wait_for("token issued");
    let log = agent.log();
    let lines = || log.lines();
    let issued = lines().find(|line| line.contains("token issued")).unwrap();
    assert!(
        issued.contains(&format!("uid={NOBODY}")) && issued.contains("pid="),
        "{issued}"
    );
    let audited = lines().any(|line| line.contains("audit") && line.contains(NOBODY));
    assert!(audited, "{log}");
}

#[test]
fn a_hardened_node_keeps_its_group_away_from_the_socket() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    n1.write("var/lock/cis-hardening", "", 0o600);
    let _agent = n1.agent();
    let socket = fs::metadata(n1.socket()).unwrap();
    assert_eq!((socket.mode() & 0o7777, socket.uid()), (0o600, 0));
    let groups = format!("--groups={MICROK8S_GID}");
    let output = as_nobody(n1, &groups, "add-node");
    assert_lacks_permission(&output);
    n1.shell("microk8s add-node").ok();
}

#[test]
fn a_second_agent_ends_with_the_reason_and_the_first_keeps_socket_and_node() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let inode = || fs::metadata(n1.socket()).unwrap().ino();
    let before = (inode(), n1.snapshot());
    let (status, log) = Agent::spawn(n1, &["--bind", "0.0.0.0:25002"]).ends();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("error: another agent runs on this node directory"),
        "{log}"
    );
    // Of another node, but with the same socket.
    let socket = n1.socket();
    let (status, log) = Agent::spawn(n2, &["--socket", socket.to_str().unwrap()]).ends();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("error: another program listens on"), "{log}");
    assert!(before == (inode(), n1.snapshot()));
    n1.shell("microk8s add-node").ok();
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced_by_one() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let file = n1.scratch().join("precious");
    fs::write(&file, "content").unwrap();
    let (status, log) = Agent::spawn(n1, &["--socket", file.to_str().unwrap()]).ends();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("is not a socket"), "{log}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "content");
}

#[test]
fn an_agent_of_another_version_is_told_from_one_that_does_not_run() {
    for (protocol, word) in [(1, "older"), (1_000_000, "newer")] {
        let Some(lab) = Lab::new(&["n1"]) else { return };
        let n1 = lab.host("n1");
        fs::create_dir_all(n1.socket().parent().unwrap()).unwrap();
        let listener = UnixListener::bind(n1.socket()).unwrap();
        // It answers whatever it is asked, until the test process ends.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let body = format!("{{\"protocol\":{protocol},\"version\":\"0\"}}");
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
                let length = body.len();
                let mut request = [0; 4096];
                if stream.read(&mut request).is_ok_and(|count| count > 0) {
                    let answer = format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}");
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        let output = n1.shell("microk8s add-node");
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
        let said = format!(
            "error: the agent of this node is {word} than this program: it speaks protocol {protocol}, not "
        );
        assert!(output.stderr.starts_with(&said), "{output:?}");
        assert!(
            output.stderr.contains("hint: restart the agent"),
            "{output:?}"
        );
    }
}
