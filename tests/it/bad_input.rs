//! What a join meets that no recording shows: strings that are no connection, peers that lie,
//! break off or never stop talking. Each has its message, its exit code, and an untouched node.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::compat::preconditions::new_token;
use crate::compat::recording::Recording;
use crate::compat::requests::{fill_pem, sign, sign_with};
use crate::lab::peer::{Peer, Reply, Speaks, http};
use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, Output, pem};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The whole tree of a host, the agent's own state and `$SNAP_COMMON` included.
fn everything(host: &Host) -> (Snapshot, Snapshot) {
    (
        Snapshot::take(&host.snap_data(), &[]),
        Snapshot::take(&host.snap_common(), &[]),
    )
}

/// A join of n2 that must fail without a trace.
#[track_caller]
fn fails_without_a_trace(lab: &Lab, arguments: &[&str], exit: i32) -> Output {
    let n2 = lab.host("n2");
    let before = n2.snapshot();
    n2.stand_ins.forget_calls();
    let output = n2.run(&[&["microk8s", "join"], arguments].concat());
    assert_eq!(output.code, Some(exit), "{arguments:?}: {output:#?}");
    assert!(
        !output.stderr.contains("panicked"),
        "{arguments:?}: {output:#?}"
    );
    assert!(
        !output.stdout.contains("Successfully"),
        "{arguments:?}: {output:#?}"
    );
    assert!(
        before == n2.snapshot(),
        "{arguments:?} changed the node: {output:#?}"
    );
    assert_eq!(n2.stand_ins.calls(), [""; 0], "{arguments:?}");
    output
}

/// The connection string for the peer on n1.
fn connection(lab: &Lab) -> String {
    let fingerprint = pem::fingerprint(&lab.host("n1").fresh("certs/server.crt"));
    format!("10.99.0.11:25000/{TOKEN}/{}", &fingerprint[..12])
}

/// The recorded answer to a join, with real certificates and keys in it.
fn good_answer(lab: &Lab, recording: &str) -> Value {
    let mut answer = Recording::load(recording).wire()[0]["response"].clone();
    fill_pem(&mut answer, &lab.host("n1").snap_data(), &|| {
        panic!("nothing is signed here")
    });
    answer
}

#[test]
fn every_malformed_connection_string_is_told_so_and_leaves_the_node_untouched() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let long = "f".repeat(100_000);
    for (text, message) in [
        ("/", "Expected format"),
        ("//", "Expected format"),
        ("///", "Expected format"),
        (":", "Expected format"),
        (":/:/:", "Invalid master IP"),
        (" ", "Expected format"),
        ("10.99.0.11", "Expected format"),
        (&format!("10.99.0.11:25000:1/{TOKEN}"), "Expected format"),
        (&format!("[fd00::1/{TOKEN}"), ""),
        (&format!("fd00::1]:25000/{TOKEN}"), ""),
        (&format!(":25000/{TOKEN}"), "Invalid master IP"),
        (&format!("10.99.0.11.:25000/{TOKEN}"), "Invalid master IP"),
        (&format!("10.99.0:25000/{TOKEN}"), "Invalid master IP"),
        (&format!("0x0a.99.0.11:25000/{TOKEN}"), "Invalid master IP"),
        (&format!("10.99.0.11/32:25000/{TOKEN}"), "Expected format"),
        (
            &format!("10.99.0.11:-1/{TOKEN}"),
            "Master PORT not in range",
        ),
        (
            &format!("10.99.0.11:99999999999999999999/{TOKEN}"),
            "Master PORT not in range",
        ),
        (
            &format!("10.99.0.11:0x61a8/{TOKEN}"),
            "Master PORT not a number",
        ),
        (
            &format!("10.99.0.11:25000.0/{TOKEN}"),
            "Master PORT not a number",
        ),
        ("10.99.0.11:25000/", "Cluster token size"),
        ("10.99.0.11:25000//abcdefabcdef", "Cluster token size"),
        (
            &format!("10.99.0.11:25000/{TOKEN}/abc"),
            "Fingerprint should be at least",
        ),
        (&format!("{long}:25000/{TOKEN}"), "Invalid master IP"),
        (&format!("10.99.0.11:{long}/{TOKEN}"), "Master PORT"),
    ] {
        let before = everything(lab.host("n2"));
        let output = fails_without_a_trace(&lab, &[text], 1);
        assert!(
            output.stdout.starts_with("Invalid connection: ") && output.stdout.contains(message),
            "{text}: {output:?}"
        );
        assert!(
            before == everything(lab.host("n2")),
            "{text} left something behind"
        );
    }
}

#[test]
fn what_a_peer_says_cannot_drive_the_terminal() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let body = json!({"error": "red \u{1b}[31m, bell \u{7}, line\nfeed\r, right-to-left \u{202e}"});
    let _peer = Peer::canned(lab.host("n1"), http("500 No", &body.to_string()));
    let output = fails_without_a_trace(&lab, &[&connection(&lab)], 6);
    for letter in ["\u{1b}", "\u{7}", "\r", "\u{202e}"] {
        assert!(!output.stdout.contains(letter), "{output:?}");
        assert!(!output.stderr.contains(letter), "{output:?}");
    }
    assert!(
        output.stdout.contains("Connection failed. red "),
        "{output:?}"
    );
}

#[test]
fn an_answer_without_a_needed_field_names_the_field() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let everywhere = ["ca", "callback_token", "hostname_override"];
    let worker = ["apiport", "kubelet_args"];
    let control_plane = [
        "voters",
        "service_account_key",
        "ca_key",
        "cluster_cert",
        "cluster_key",
    ];
    let connection = connection(&lab);
    for (recording, role, fields) in [
        (
            "join-worker-ok",
            vec!["--worker"],
            [&everywhere[..], &worker].concat(),
        ),
        (
            "join-controlplane-ok",
            vec![],
            [&everywhere[..], &control_plane].concat(),
        ),
    ] {
        let answer = good_answer(&lab, recording);
        for field in fields {
            let mut answer = answer.clone();
            answer.as_object_mut().unwrap().shift_remove(field).unwrap();
            let peer = Peer::canned(lab.host("n1"), http("200 OK", &answer.to_string()));
            let arguments = [vec![connection.as_str()], role.clone()].concat();
            let output = fails_without_a_trace(&lab, &arguments, 11);
            assert!(output.stderr.starts_with("error: "), "{field}: {output:?}");
            assert!(
                output.stderr.contains(&format!("`{field}`")),
                "{field}: {output:?}"
            );
            assert_eq!(peer.requests().len(), 1, "{field}");
        }
    }
}

#[test]
fn an_answer_with_a_field_that_makes_no_sense_is_no_answer() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let good = good_answer(&lab, "join-controlplane-ok");
    let cases = [
        ("ca", json!(5)),
        ("ca", json!("no certificate")),
        ("ca_key", json!("no key")),
        // Whatever the node then signs would be signed by nobody.
        ("ca_key", good["cluster_key"].clone()),
        ("service_account_key", json!("no key")),
        ("callback_token", json!("")),
        ("callback_token", json!("two\nlines")),
        ("cluster_cert", json!("")),
        ("cluster_key", json!("no key")),
        ("cluster_key", good["ca_key"].clone()),
        ("hostname_override", json!("../../etc/passwd")),
        ("voters", json!("10.99.0.11:19001")),
        ("voters", json!(["nonsense"])),
        ("voters", json!(["10.99.0.11:19001\n- 10.99.0.13:19001"])),
        // The node would begin a cluster of its own, and find itself listed there.
        ("voters", json!([])),
    ];
    let mut accepted = Vec::new();
    for (field, value) in cases {
        // One that is accepted changes the node, so each has nodes of its own.
        let lab = Lab::new(&["n1", "n2"]).unwrap();
        let mut answer = good_answer(&lab, "join-controlplane-ok");
        answer[field] = value.clone();
        let _peer = Peer::canned(lab.host("n1"), http("200 OK", &answer.to_string()));
        let n2 = lab.host("n2");
        let before = n2.snapshot();
        let output = n2.run(&["microk8s", "join", &connection(&lab)]);
        let is_refused = output.code == Some(11) && output.stderr.starts_with("error: ");
        if !is_refused || before != n2.snapshot() {
            accepted.push(format!("{field} = {:.60}: {output:?}", value.to_string()));
        }
    }
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
}

#[test]
fn an_answer_that_a_shell_would_evaluate_or_that_has_no_bounds_is_refused_with_its_field() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let many: Vec<String> = (0..60_000u32)
        .map(|n| std::net::Ipv4Addr::from(n + 0x0a00_0000).to_string())
        .collect();
    let connection = connection(&lab);
    let good = good_answer(&lab, "join-worker-ok");
    let arguments = good["kubelet_args"].as_str().unwrap();
    for (field, value) in [
        (
            "kubelet_args",
            json!(format!("{arguments}--x=$(touch /tmp/evaluated)\n")),
        ),
        (
            "kubelet_args",
            json!(format!("{arguments}--x=`touch /tmp/evaluated`\n")),
        ),
        (
            "kubelet_args",
            json!(format!("{arguments}--x=${{SNAP:-<(true)}}\n")),
        ),
        ("kubelet_args", json!("--x=y\n".repeat(100_000))),
        ("cluster_cidr", json!("10.1.0.0/16$(reboot)")),
        ("cluster_cidr", json!("10.1.0.0/16\n--x=y")),
        ("api_authz_mode", json!("Node;RBAC")),
        ("api_authz_mode", json!("Node`x`")),
        ("apiport", json!("+16443")),
        ("callback_token", json!("x".repeat(100_000))),
        (
            "ca",
            json!(format!(
                "{}{}",
                good["ca"].as_str().unwrap(),
                "x".repeat(500_000)
            )),
        ),
        ("control_plane_nodes", json!(many)),
        ("control_plane_nodes", json!(["10.99.0.13 "])),
    ] {
        let mut answer = good.clone();
        answer[field] = value;
        let peer = Peer::canned(lab.host("n1"), http("200 OK", &answer.to_string()));
        let began = std::time::Instant::now();
        let output = fails_without_a_trace(&lab, &[&connection, "--worker"], 11);
        assert!(
            output.stderr.contains(&format!("`{field}`")),
            "{field}: {output:?}"
        );
        assert!(
            output.stderr.len() < 2000,
            "{field}: {}",
            output.stderr.len()
        );
        assert!(began.elapsed().as_secs() < 60, "{field}");
        assert_eq!(
            peer.requests().len(),
            1,
            "{field}: no certificate is asked for"
        );
    }
}

#[test]
fn a_list_that_names_the_same_node_again_and_again_names_it_once() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let mut answer = good_answer(&lab, "join-worker-ok");
    answer["control_plane_nodes"] = json!(vec!["10.99.0.13"; 30_000]);
    let n1 = lab.host("n1");
    let (directory, scratch) = (n1.snap_data(), n1.scratch().to_owned());
    let _peer = Peer::start(n1, Speaks::Tls, move |request| {
        if request.path.ends_with("/join") {
            return Reply::Json(200, answer.to_string());
        }
        let certificate = sign(request, &directory, &scratch);
        Reply::Json(200, json!({ "certificate": certificate }).to_string())
    });
    let n2 = lab.host("n2");
    n2.run(&["microk8s", "join", &connection(&lab), "--worker"])
        .ok();
    assert_eq!(
        n2.read("args/traefik/provider.yaml")
            .matches("10.99.0.13")
            .count(),
        1
    );
}

#[test]
fn a_certificate_that_is_not_the_one_that_was_asked_for_is_refused_before_anything_changes() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let connection = connection(&lab);
    for extensions in [
        "basicConstraints=critical,CA:TRUE\n",
        "keyUsage=keyCertSign\n",
        "subjectAltName=DNS:n1\n",
        "subjectAltName=URI:https://n2\n",
    ] {
        let n1 = lab.host("n1");
        let file = n1.scratch().join("extensions");
        fs::write(&file, extensions).unwrap();
        let answer = good_answer(&lab, "join-worker-ok").to_string();
        let (directory, scratch) = (n1.snap_data(), n1.scratch().to_owned());
        let _peer = Peer::start(n1, Speaks::Tls, move |request| {
            if request.path.ends_with("/join") {
                return Reply::Json(200, answer.clone());
            }
            let extensions = ["-extfile", file.to_str().unwrap()];
            let certificate = sign_with(request, &directory, &scratch, &extensions);
            Reply::Json(200, json!({ "certificate": certificate }).to_string())
        });
        let output = fails_without_a_trace(&lab, &[&connection, "--worker"], 11);
        assert!(
            output.stderr.contains("`certificate`"),
            "{extensions}: {output:?}"
        );
    }
}

#[test]
fn an_answer_that_is_cut_short_is_no_answer() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let connection = connection(&lab);
    let whole = http("200 OK", &good_answer(&lab, "join-worker-ok").to_string()).into_bytes();
    let head = whole
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    for length in [5, head - 2, head, head + 1, head + 100, whole.len() - 1] {
        for politely in [true, false] {
            let part = whole[..length].to_vec();
            let _peer = Peer::start(lab.host("n1"), Speaks::Tls, move |_| match politely {
                true => Reply::Bytes(part.clone()),
                false => Reply::Cut(part.clone()),
            });
            let output = fails_without_a_trace(&lab, &[&connection, "--worker"], 1);
            let told = format!("{}{}", output.stdout, output.stderr);
            assert!(
                told.contains("Please ensure the master node is reachable.")
                    || told.contains("error: "),
                "{length} bytes: {output:?}"
            );
        }
    }
}

#[test]
fn an_answer_without_an_end_is_not_read_for_ever() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let connection = connection(&lab);
    let much = 64 * 1024 * 1024;
    let body = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{\"ca\": \"".to_vec(),
        vec![b'A'; much],
    ];
    let header = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'A'; much]];
    let chunked = [
        b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        b"10000\r\n"
            .iter()
            .chain(&[b'A'; 0x10000])
            .chain(b"\r\n")
            .copied()
            .collect::<Vec<u8>>()
            .repeat(1024),
    ];
    for answer in [body, header, chunked] {
        let answer = answer.concat();
        let _peer = Peer::start(lab.host("n1"), Speaks::Tls, move |_| {
            Reply::Bytes(answer.clone())
        });
        let n2 = lab.host("n2");
        let before = n2.snapshot();
        // 48 MiB of address space for data would not hold the answer.
        let line = format!("ulimit -d 49152; exec microk8s join {connection} --worker");
        let output = n2.shell(&line);
        assert!(matches!(output.code, Some(1 | 6 | 11)), "{output:?}");
        assert!(!output.stderr.contains("memory"), "{output:?}");
        assert!(before == n2.snapshot());
    }
}

#[test]
fn the_fingerprint_is_checked_on_every_connection() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let answer = good_answer(&lab, "join-worker-ok").to_string();
    // The answer closes its connection, so the certificates are asked for on another one.
    let peer = Peer::start(lab.host("n1"), Speaks::TlsAndThenAnother, move |_| {
        Reply::Bytes(http("200 OK", &answer).into_bytes())
    });
    let output = fails_without_a_trace(&lab, &[&connection(&lab), "--worker"], 4);
    assert!(output.stderr.starts_with("error: "), "{output:?}");
    assert!(peer.connections() > 1);
    assert_eq!(
        peer.requests().len(),
        1,
        "the token must not be sent to somebody else"
    );
}

#[test]
fn an_answer_that_points_elsewhere_is_not_followed() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let elsewhere = Peer::canned(lab.host("n3"), http("200 OK", "{}"));
    for status in [
        "301 Moved",
        "302 Found",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nLocation: https://10.99.0.13:25000/cluster/api/v2.0/join\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let _peer = Peer::canned(lab.host("n1"), answer);
        let output = fails_without_a_trace(&lab, &[&connection(&lab)], 6);
        assert!(
            output.stdout.contains(&format!("({})", &status[..3])),
            "{output:?}"
        );
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_join_that_is_interrupted_while_it_waits_leaves_the_node_as_it_was() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n2 = lab.host("n2");
    let before = n2.snapshot();
    for (speaks, signal) in [
        (Speaks::Nothing, Signal::SIGINT),
        (Speaks::Tls, Signal::SIGINT),
        (Speaks::Tls, Signal::SIGTERM),
        (Speaks::Tls, Signal::SIGKILL),
    ] {
        let peer = Peer::start(lab.host("n1"), speaks, |_| Reply::Silence);
        let mut child = n2
            .command(&["microk8s", "join", &connection(&lab)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        peer.wait_for_connection();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success());
        if signal != Signal::SIGKILL {
            assert_ne!(status.signal(), Some(9));
        }
        assert!(before == n2.snapshot(), "{signal}");
    }
}

#[test]
fn a_join_killed_in_the_midst_is_undone_by_the_next_one() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let _agent = lab.host("n1").agent();
    let n2 = lab.host("n2");
    let before = n2.snapshot();
    let make = || {
        lab.host("n1")
            .shell("microk8s add-node --format short | head -n1")
            .ok()
    };
    let line = make();
    // The stand-in of the service kills the program that called it.
    n2.stand_ins
        .kill_caller("stop", "microk8s.daemon-k8s-dqlite");
    let output = n2.shell(&format!("sh -c 'exec {}'", line.trim()));
    assert_ne!(output.code, Some(0), "{output:?}");
    assert!(
        before != n2.snapshot(),
        "the join was to be killed when half of it was done"
    );
    n2.stand_ins.repair_services();
    // A refused join does nothing of its own, so what is left is the undoing of the first.
    let unknown = format!("10.99.0.11:25000/{}", new_token());
    let output = n2.run(&["microk8s", "join", &unknown]);
    assert_eq!(output.code, Some(6), "{output:?}");
    assert!(before == n2.snapshot());
    let output = n2.shell(line.trim());
    assert_eq!(
        output.code,
        Some(0),
        "the token of the killed join still serves it: {output:?}"
    );
    assert!(!fs::exists(n2.path("var/lock/join-in-progress")).unwrap());
}
