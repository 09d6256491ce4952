//! How an agent ends, and what it tells the service manager meanwhile.

use std::io::{ErrorKind, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use microk8s::base::wait;
use nix::sys::signal::Signal;

use crate::lab::agent::Agent;
use crate::lab::{Host, Lab, Output, STALL_TIMEOUT};

/// What an agent logs that has waited for requests, and ends before they do.
pub const HAS_WAITED: &str = "not waited for any longer";
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What a first join restarts on the contacted node.
const DATASTORE: &str = "microk8s.daemon-k8s-dqlite";

/// A node joins; where the lab holds the datastore's restart, that takes until it is let go.
fn join(contacted: &Host, joining: &Host) -> Output {
    let url = contacted.join_line();
    let token = url.split('/').nth(1).unwrap().to_owned();
    let body = format!(
        "{{\"token\":\"{token}\",\"hostname\":\"n2\",\"port\":\"25000\",\"worker\":true,\"can_handle_x509_auth\":true}}"
    );
    joining.shell(&format!(
        "curl -sk -w ' %{{http_code}}' https://10.99.0.11:25000/cluster/api/v2.0/join -d '{body}'"
    ))
}

fn wait_until_held(host: &Host) -> String {
    wait::until(STALL_TIMEOUT, POLL_INTERVAL, || host.stand_ins.held()).expect("nothing is held")
}

/// Whether a host can connect to the agent.
fn is_refused(from: &Host) -> bool {
    from.shell("curl -sk --max-time 5 https://10.99.0.11:25000/health")
        .code
        == Some(7)
}

#[test]
fn a_join_under_way_is_answered_before_the_agent_ends_and_no_other_begins() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let agent = n1.agent();
    n1.stand_ins.hold("restart", DATASTORE);
    // A connection on which half a question is asked does not delay the end.
    let idle = n3.command(&[
        "sh",
        "-c",
        "exec openssl s_client -connect 10.99.0.11:25000 -quiet",
    ]);
    let mut idle = { idle }
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let half = b"GET /health HTTP/1.1\r\nHost";
    idle.stdin.as_mut().unwrap().write_all(half).unwrap();
    let answer = thread::scope(|scope| {
        let join = scope.spawn(|| join(n1, n2));
        wait_until_held(n1);
        agent.signal(Signal::SIGTERM);
        let refused = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            is_refused(n3).then_some(())
        });
        assert!(refused.is_some(), "it still accepts connections");
        assert!(!n1.socket().exists());
        // It is closed before the join has its answer, however long that takes.
        let closed = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || idle.try_wait().unwrap());
        assert!(closed.is_some(), "{}", agent.log());
        n1.stand_ins.let_go("restart", DATASTORE);
        join.join().unwrap()
    });
    assert!(answer.stdout.ends_with(" 200"), "{answer:?}");
    let (status, log) = agent.ends();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains(HAS_WAITED), "for the idle connection: {log}");
    assert!(log.contains("outcome=\"admitted\""), "{log}");
}

#[test]
fn a_command_that_comes_while_the_agent_ends_waits_for_the_tokens() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    n1.stand_ins.hold("restart", DATASTORE);
    let removed = thread::scope(|scope| {
        let join = scope.spawn(|| join(n1, n2));
        wait_until_held(n1);
        agent.signal(Signal::SIGTERM);
        let gone = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            (!n1.socket().exists()).then_some(())
        });
        assert!(gone.is_some());
        let mut removal = n1.command(&["microk8s", "remove-node", "nobody", "--force"]);
        let removal = { removal.stdout(Stdio::piped()).stderr(Stdio::piped()) }
            .spawn()
            .unwrap();
        // Meanwhile it meets the agent's database.
        let refused = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            is_refused(n2).then_some(())
        });
        assert!(refused.is_some());
        n1.stand_ins.let_go("restart", DATASTORE);
        let answer = join.join().unwrap();
        assert!(answer.stdout.ends_with(" 200"), "{answer:?}");
        removal.wait_with_output().unwrap()
    });
    assert!(removed.status.success(), "{removed:?}");
}

#[test]
fn connections_without_a_request_do_not_delay_the_end() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = Agent::start(n1, &["--enable-metrics"]);
    // One says nothing, one breaks off in the first bytes of TLS, one in the head of a request.
    let quiet = "exec 3<>/dev/tcp/10.99.0.11/25000 4<>/dev/tcp/10.99.0.11/25000
        printf '\\x16\\x03\\x01' >&4
        { printf 'GET /health HTTP/1.1\\r\\nHost'; cat; } |
            openssl s_client -connect 10.99.0.11:25000 -quiet 2>/dev/null";
    let mut quiet = n2.command(&["bash", "-c", quiet]);
    let mut quiet = { quiet.stdin(Stdio::piped()).stdout(Stdio::null()) }
        .spawn()
        .unwrap();
    let there = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
        let metrics = n1.shell("curl -sk https://10.99.0.11:25000/metrics").ok();
        // The fourth is the one that asks.
        metrics.contains("_connections 4\n").then_some(())
    });
    assert!(there.is_some(), "they do not connect");
    let stopped = Instant::now();
    agent.signal(Signal::SIGTERM);
    let (status, log) = agent.ends();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains(HAS_WAITED), "{log}");
    // A handshake that does not go on is given up after this time.
    assert!(stopped.elapsed() < Duration::from_secs(10), "it waited");
    drop(quiet.stdin.take());
    quiet.wait().unwrap();
}

#[test]
fn a_second_signal_ends_the_agent_at_once() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    n1.stand_ins.hold("restart", DATASTORE);
    thread::scope(|scope| {
        let join = scope.spawn(|| join(n1, n2));
        wait_until_held(n1);
        agent.signal(Signal::SIGTERM);
        agent.wait_for("stopping: SIGTERM");
        agent.signal(Signal::SIGTERM);
        let (status, log) = agent.ends();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains(HAS_WAITED), "{log}");
        n1.stand_ins.let_go("restart", DATASTORE);
        assert_ne!(join.join().unwrap().code, Some(0), "nobody answered");
    });
    // The call that outlived the agent still works on the datastore's files.
    let processes = || {
        let list = ["netns", "pids", n1.namespace()];
        Command::new("ip").args(list).output().unwrap().stdout
    };
    let over = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
        processes().is_empty().then_some(())
    });
    assert!(over.is_some(), "it does not end");
    // What the killed join held is free again.
    let _again = n1.agent();
    let answer = join(n1, n2);
    assert!(answer.stdout.ends_with(" 200"), "{answer:?}");
}

/// A service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn hear(&self) -> Option<String> {
        let mut message = [0; 1024];
        match self.0.recv(&mut message) {
            Ok(length) => Some(String::from_utf8_lossy(&message[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for a message that begins like this, and passes over others.
    #[track_caller]
    fn wait_for(&self, beginning: &str) -> String {
        let end = Instant::now() + STALL_TIMEOUT;
        let mut heard = Vec::new();
        while Instant::now() < end {
            match self.hear() {
                Some(message) if message.starts_with(beginning) => return message,
                Some(message) => heard.push(message),
                None => break,
            }
        }
        panic!("no {beginning} among {heard:?}");
    }
}

fn start_managed(host: &Host, socket: &str, more: &[&str]) -> Agent {
    let socket = format!("NOTIFY_SOCKET={socket}");
    let words = [&["env", &socket], more, &["microk8s", "agent"]].concat();
    Agent::start_as(host, &words)
}

#[test]
fn the_service_manager_hears_when_the_agent_serves_lives_and_stops_and_no_other_program_does() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let path = n1.scratch().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    n1.stand_ins.hold("restart", DATASTORE);
    let agent = start_managed(n1, path.to_str().unwrap(), &["WATCHDOG_USEC=200000"]);
    let ready = manager.wait_for("READY=1");
    assert!(
        ready.starts_with("READY=1\nSTATUS=listening on "),
        "{ready}"
    );
    assert!(n1.socket().exists(), "it is ready for the commands as well");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    thread::scope(|scope| {
        let join = scope.spawn(|| join(n1, n2));
        let environment = wait_until_held(n1);
        assert!(environment.contains("SNAP_DATA="), "{environment}");
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            assert!(!environment.contains(name), "{environment}");
        }
        n1.stand_ins.let_go("restart", DATASTORE);
        join.join().unwrap();
    });
    agent.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1\nSTATUS=stopping");
    assert_eq!(agent.ends().0.code(), Some(0));
}

/// With `Type=notify` a start that takes longer than `TimeoutStartSec` is ended by systemd.
#[test]
fn a_service_manager_gives_an_agent_that_takes_back_a_join_the_time_that_it_needs() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    const KUBELITE: &str = "microk8s.daemon-kubelite";
    let contacted = n1.agent();
    let interrupted = n2.agent();
    n2.stand_ins.kill_caller("restart", KUBELITE);
    let line = n1.shell("microk8s add-node --format short").ok();
    let join = n2.shell(&format!("{} --worker", line.lines().next().unwrap()));
    assert_ne!(join.code, Some(0));
    interrupted.was_killed();
    assert!(n2.path("var/cluster-agent/journal").exists());
    n2.stand_ins.repair_services();

    let path = n2.scratch().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    n2.stand_ins.hold("restart", KUBELITE);
    thread::scope(|scope| {
        let starting = scope.spawn(|| start_managed(n2, path.to_str().unwrap(), &[]));
        let first = manager.wait_for("");
        assert_eq!(
            first,
            "EXTEND_TIMEOUT_USEC=20000000\nSTATUS=starting: seeing to what was interrupted"
        );
        wait_until_held(n2);
        // As long as it takes.
        for _ in 0..2 {
            assert_eq!(manager.wait_for(""), "EXTEND_TIMEOUT_USEC=20000000");
        }
        n2.stand_ins.let_go("restart", KUBELITE);
        manager.wait_for("READY=1");
        let _agent = starting.join().unwrap();
    });
    drop(contacted);
}

#[test]
fn an_agent_that_cannot_answer_gives_no_sign_of_life() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let path = n1.scratch().join("notify");
    let manager = Manager(UnixDatagram::bind(&path).unwrap());
    manager.0.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    let agent = start_managed(n1, path.to_str().unwrap(), &["WATCHDOG_USEC=200000"]);
    manager.wait_for("WATCHDOG=1");
    agent.signal(Signal::SIGSTOP);
    let quiet = Duration::from_secs(1);
    manager.0.set_read_timeout(Some(quiet)).unwrap();
    // What was sent before is heard first.
    let last = std::iter::from_fn(|| manager.hear()).take(1000).count();
    assert!(last < 1000);
    agent.signal(Signal::SIGCONT);
    manager.0.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    manager.wait_for("WATCHDOG=1");
}

#[test]
fn a_service_manager_on_an_abstract_socket_hears_too_and_one_that_is_gone_does_no_harm() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    // The name is of the network namespace.
    let name = "microk8s-test-notify";
    let manager = crate::lab::network::inside(n1.namespace(), || {
        let address = SocketAddr::from_abstract_name(name).unwrap();
        Manager(UnixDatagram::bind_addr(&address).unwrap())
    });
    manager.0.set_read_timeout(Some(STALL_TIMEOUT)).unwrap();
    let agent = start_managed(
        n1,
        &format!("@{name}"),
        &["WATCHDOG_USEC=200000", "WATCHDOG_PID=1"],
    );
    manager.wait_for("READY=1");
    agent.signal(Signal::SIGTERM);
    let stopping = manager.hear().unwrap();
    assert!(
        stopping.starts_with("STOPPING=1"),
        "the time is another process's: {stopping}"
    );
    assert_eq!(agent.ends().0.code(), Some(0));

    drop(manager);
    let agent = start_managed(n1, &format!("@{name}"), &[]);
    agent.wait_for("the service manager cannot be told");
    n1.shell("microk8s add-node").ok();
}
