//! The connection between a joining node and the contacted one breaks at any byte, or one of the two
//! stands still: the node is as it was, what it says names what happened, and its token is as good as
//! before.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::lab::agent::Agent;
use crate::lab::faulty_wire::{Direction, Fault, FaultyWire};
use crate::lab::nightly;
use crate::lab::stopped_join::StoppedJoin;
use crate::lab::{Host, Lab, Output, network};

const ROLES: [&str; 2] = ["--worker", ""];
const AT: &str = "10.99.0.112:25000";
const CONTACTED: &str = "10.99.0.11:25000";

/// The codes of a join whose connection broke: in the handshake, in the contact, when certificates were
/// signed, or when its time was over in the datastore.
const CODES: [i32; 5] = [1, 4, 8, 10, 12];

/// How far apart the bytes are at which the connection breaks: in the ordinary run, and in the nightly.
const STRIDES: [(usize, usize); 2] = [(701, 50), (1511, 211)];

/// A join that failed says in which stage and how, and left nothing behind.
#[track_caller]
fn assert_failed(output: &Output, at: &str) {
    let code = output.code.unwrap();
    assert!(CODES.contains(&code), "{at}: {output:?}");
    let told = |start: &str| output.stderr.lines().any(|line| line.starts_with(start));
    assert!(told("failed stage: "), "{at}: {output:?}");
    assert!(!output.stderr.contains("panicked"), "{at}: {output:?}");
    assert!(!output.stdout.contains("Successfully"), "{at}: {output:?}");
}

/// Has n1 ready for n2, which joins in this role by the line. For a control plane n3 has joined
/// before: for a first node n1 restarts its datastore, which it does a few times only.
fn ready<'a>(lab: &'a Lab, role: &str) -> (Agent, &'a Host, String) {
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    if role.is_empty() {
        lab.host("n3").shell(&n1.join_line()).ok();
    }
    n2.add_address("10.99.0.112/24");
    (agent, n2, n1.join_line())
}

/// Has a node join again and again over a wire that breaks one stride later each time, until one join
/// gets to its end. A token that was lost would be refused with another code.
fn breaks(fault: Fault, (ordinary, each): (usize, usize), timeouts: [&str; 2]) {
    let stride = if nightly::is_wanted() { each } else { ordinary };
    let [worker, control_plane] = timeouts;
    for (role, timeout, direction) in [
        ("--worker", worker, Direction::Request),
        ("--worker", worker, Direction::Answer),
        ("", control_plane, Direction::Request),
        ("", control_plane, Direction::Answer),
    ] {
        let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
            return;
        };
        let (agent, n2, line) = ready(&lab, role);
        let wire = FaultyWire::start(n2, AT, CONTACTED);
        let line = line.replace("10.99.0.11:", "10.99.0.112:");
        let before = n2.snapshot();
        let mut failed = 0;
        loop {
            let after = stride / 6 + failed * stride;
            let at = format!("{role} {direction:?} {fault:?} after {after}");
            wire.breaks(direction, after, fault);
            let output = n2.shell(&format!("{line} {role} {timeout}"));
            if output.code == Some(0) {
                break;
            }
            if !wire.has_broken() {
                // All was carried, and the time was too short on this machine.
                n2.shell(&format!("{line} {role}")).ok();
                break;
            }
            assert_failed(&output, &at);
            assert!(before == n2.snapshot(), "{at}: the node is not as it was");
            failed += 1;
        }
        assert!(failed > 0, "{role} {direction:?}");
        assert!(!agent.log().contains("panicked"), "{}", agent.log());
    }
}

#[test]
fn a_connection_that_is_cut_at_any_byte_fails_the_join_alone() {
    breaks(Fault::Cut, STRIDES[0], ["", ""]);
}

#[test]
fn a_connection_that_is_reset_at_any_byte_fails_the_join_alone() {
    breaks(Fault::Reset, STRIDES[1], ["", ""]);
}

#[test]
fn a_byte_that_arrives_as_another_one_fails_the_join_alone() {
    breaks(Fault::Corrupt, STRIDES[1], ["--timeout 5", "--timeout 15"]);
}

#[test]
fn a_connection_that_carries_nothing_any_more_fails_the_join_when_its_time_is_over() {
    breaks(Fault::Stall, (2403, 701), ["--timeout 3", "--timeout 6"]);
}

#[test]
fn a_contacted_node_that_stands_still_before_the_join_costs_no_token() {
    for role in ROLES {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let agent = n1.agent();
        let line = n1.join_line();
        let before = n2.snapshot();
        agent.signal(Signal::SIGSTOP);
        let output = n2.shell(&format!("{line} {role} --timeout 3"));
        agent.signal(Signal::SIGCONT);
        assert_eq!(output.code, Some(10), "{output:?}");
        assert_failed(&output, role);
        assert!(before == n2.snapshot());
        n2.shell(&format!("{line} {role}")).ok();
    }
}

#[test]
fn a_contacted_node_that_stands_still_after_it_admitted_the_node_costs_no_token() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    let before = n2.snapshot();
    let stopped = StoppedJoin::start(n2, &format!("{line} --timeout 20"));
    agent.wait_for("outcome=\"admitted\"");
    let output = stopped.go_on_after(|| agent.signal(Signal::SIGSTOP));
    agent.signal(Signal::SIGCONT);
    assert_eq!(output.code, Some(12), "{output:?}");
    assert_failed(&output, "stopped");
    assert!(before == n2.snapshot());
    n2.shell(&line).ok();
}

/// Limits how many files a program may have open; the shell in front of it needs a few itself.
fn with_files(host: &Host, files: usize, line: &str) -> Output {
    host.shell(&format!("exec prlimit --nofile={files} {line}"))
}

#[test]
fn a_command_that_may_open_no_more_files_leaves_the_node_as_it_was() {
    for role in ROLES {
        let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
            return;
        };
        let (_agent, n2, line) = ready(&lab, role);
        let before = n2.snapshot();
        let mut failed = 0;
        // With fewer the loader of the program itself has none.
        for files in 4..64 {
            let output = with_files(n2, files, &format!("{line} {role}"));
            if output.code == Some(0) {
                break;
            }
            failed += 1;
            assert!(!output.stderr.contains("panicked"), "{files}: {output:?}");
            assert!(
                !output.stdout.contains("Successfully"),
                "{files}: {output:?}"
            );
            assert!(before == n2.snapshot(), "{files}: {output:?}");
        }
        assert!((1..60).contains(&failed), "{failed}");
    }
}

#[test]
fn an_agent_that_may_open_no_more_files_refuses_a_join_and_costs_no_token() {
    for role in ROLES {
        let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
            return;
        };
        let (agent, n2, line) = ready(&lab, role);
        let (n1, line) = (lab.host("n1"), format!("{line} {role}"));
        let before = n2.snapshot();
        let open = || {
            fs::read_dir(format!("/proc/{}/fd", agent.pid()))
                .unwrap()
                .count()
        };
        let limit = |files: &str| {
            let pid = agent.pid().to_string();
            n1.run(&["prlimit", "--pid", &pid, &format!("--nofile={files}:")])
                .ok();
        };
        let most = n1
            .shell(&format!("ulimit -Sn; cat /proc/{}/limits", agent.pid()))
            .ok();
        let most = most
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap()
            .to_owned();
        // None for the connection, also when one of them is about to be closed; then one more each time.
        let mut failed = 0;
        let least = open() - 1;
        for files in least..least + 40 {
            limit(&files.to_string());
            let output = n2.shell(&format!("{line} --timeout 5"));
            limit(&most);
            if output.code == Some(0) {
                break;
            }
            failed += 1;
            assert!(
                output.stderr.contains("failed stage: "),
                "{files}: {output:?}"
            );
            assert_ne!(output.code, Some(101), "{files}: {output:?}");
            assert!(before == n2.snapshot(), "{files}");
        }
        assert!((1..40).contains(&failed), "{failed}\n{}", agent.log());
        assert!(!agent.log().contains("panicked"), "{}", agent.log());
    }
}

/// The agent looks a name up as its machine does, with a name server that never answers.
#[test]
fn a_name_server_that_never_answers_holds_up_the_join_of_that_name_alone() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let api_server = n1.read("args/kube-apiserver");
    let by_name: String = api_server
        .lines()
        .filter(|line| !line.starts_with("--kubelet-preferred-address-types"))
        .map(|line| format!("{line}\n"))
        .collect();
    n1.write("args/kube-apiserver", &by_name, 0o644);
    n1.knows(&[("n3", "10.99.0.13")]);
    let etc = network::etc(n1.namespace());
    fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    let servers = "nameserver 127.0.0.53\noptions timeout:4 attempts:2\n";
    fs::write(etc.join("resolv.conf"), servers).unwrap();
    let silent = network::inside(n1.namespace(), || UdpSocket::bind("127.0.0.53:53").unwrap());
    let agent = Agent::start(n1, &[]);
    let (first, second) = (n1.join_line(), n1.join_line());
    let before = n2.snapshot();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| n2.shell(&format!("{first} --worker")));
        silent
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        silent.recv(&mut [0; 512]).unwrap();
        n3.shell(&format!("{second} --worker")).ok();
        n3.shell("curl -skf https://10.99.0.11:25000/health").ok();
        let is_waiting = !waiting.is_finished();
        let output = waiting.join().unwrap();
        assert!(is_waiting, "it was not held up: {output:?}");
        assert_eq!(output.code, Some(6), "{output:?}");
        assert!(output.stdout.contains("does not resolve"), "{output:?}");
    });
    assert!(before == n2.snapshot());
    n1.knows(&[("n2", "10.99.0.12")]);
    n2.shell(&format!("{first} --worker")).ok();
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}
