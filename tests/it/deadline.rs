//! A join ends in time: `--timeout` bounds all of it, whatever the contacted node sends, and a command
//! that is gone ends its join.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::compat::recording::Recording;
use crate::compat::requests::fill_pem;
use crate::lab::agent::Agent;
use crate::lab::peer::{Peer, Reply, Request, Speaks};
use crate::lab::{Host, Lab, pem};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Beyond the time that is allowed: for starting the program and undoing, on a busy machine. A node that
/// does not answer is waited for half a minute and more.
const SLACK: Duration = Duration::from_secs(25);

/// What a contacted node does instead of answering, and how it answers TLS.
const WAYS: [(&str, Speaks); 7] = [
    ("takes the connection and says nothing", Speaks::Nothing),
    ("never answers", Speaks::Tls),
    ("drips the head", Speaks::Tls),
    ("drips the body", Speaks::Tls),
    ("drips chunks", Speaks::Tls),
    ("drips 100 Continue", Speaks::Tls),
    ("drips when asked for certificates", Speaks::Tls),
];

fn connection(lab: &Lab) -> String {
    let fingerprint = pem::fingerprint(&lab.host("n1").fresh("certs/server.crt"));
    format!("10.99.0.11:25000/{TOKEN}/{}", &fingerprint[..12])
}

fn peer(lab: &Lab, (way, speaks): (&'static str, Speaks)) -> Peer {
    let mut answer = Recording::load("join-worker-ok").wire()[0]["response"].clone();
    fill_pem(&mut answer, &lab.host("n1").snap_data(), &|| {
        panic!("nothing is signed here")
    });
    let answer = answer.to_string();
    let drip = |first: &str, more| Reply::Drip(first.as_bytes().to_vec(), more);
    let reply = move |request: &Request| match way {
        "drips the head" => drip("HTTP/1.1 200 OK\r\nX: ", b"a"),
        "drips the body" => drip("HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" "),
        "drips chunks" => drip(
            "HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\n \r\n",
        ),
        "drips 100 Continue" => drip("", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "drips when asked for certificates" if request.path.ends_with("/join") => {
            Reply::Json(200, answer.clone())
        }
        "drips when asked for certificates" => drip("HTTP/1.1 200 OK\r\nX: ", b"a"),
        _ => Reply::Silence,
    };
    Peer::start(lab.host("n1"), speaks, reply)
}

fn start_join(host: &Host, connection: &str) -> Child {
    host.command(&["microk8s", "join", connection, "--worker"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn timeout_bounds_a_join_whatever_the_contacted_node_sends() {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let n2 = lab.host("n2");
        let _agent = through_agent.then(|| n2.agent());
        let connection = connection(&lab);
        let before = n2.snapshot();
        for way in WAYS {
            let _peer = peer(&lab, way);
            let began = Instant::now();
            let output = n2.run(&[
                "microk8s",
                "join",
                &connection,
                "--worker",
                "--timeout",
                "2",
            ]);
            let took = began.elapsed();
            let code = if way.0.contains("certificates") {
                12
            } else {
                10
            };
            assert_eq!(output.code, Some(code), "{}: {output:?}", way.0);
            assert!(took < Duration::from_secs(2) + SLACK, "{}: {took:?}", way.0);
            assert!(
                output.stderr.contains("hint: ") && !output.stderr.contains("firewall"),
                "the node was reached: {output:?}"
            );
            assert!(before == n2.snapshot(), "{}", way.0);
        }
    }
}

#[test]
fn a_command_that_is_gone_ends_its_join_at_once() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n2 = lab.host("n2");
    let connection = connection(&lab);
    let before = n2.snapshot();
    for (way, signal) in WAYS
        .iter()
        .zip([Signal::SIGINT, Signal::SIGKILL].into_iter().cycle())
    {
        let agent: Agent = n2.agent();
        let peer = peer(&lab, *way);
        let mut command = start_join(n2, &connection);
        agent.wait_for("joining");
        peer.wait_for_connection();
        kill(Pid::from_raw(command.id().cast_signed()), signal).unwrap();
        let began = Instant::now();
        command.wait().unwrap();
        agent.wait_for("the join was interrupted");
        let took = began.elapsed();
        assert!(took < SLACK, "{}: {took:?}", way.0);
        assert!(before == n2.snapshot(), "{}", way.0);
    }
}

#[test]
fn a_second_command_says_at_once_that_another_join_is_under_way() {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let n2 = lab.host("n2");
        let _agent = through_agent.then(|| n2.agent());
        let connection = connection(&lab);
        let peer = peer(&lab, ("never answers", Speaks::Tls));
        let mut first = start_join(n2, &connection);
        peer.wait_for_connection();
        for command in [
            vec!["microk8s", "join", &connection, "--worker"],
            vec!["microk8s", "join", &connection, "--format", "json"],
        ] {
            let began = Instant::now();
            let output = n2.run(&command);
            let took = began.elapsed();
            assert_eq!(output.code, Some(9), "{output:?}");
            assert!(
                output
                    .stderr
                    .contains("another join or leave of this node is under way"),
                "{output:?}"
            );
            assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
        }
        let _ = first.kill();
        let _ = first.wait();
    }
}
