//! What the first join changes on the contacted node: undone when that join fails, kept when
//! somebody relies on it, and never there by half.

use std::fs;
use std::time::Duration;

use microk8s::base::wait;
use nix::sys::signal::Signal;

use crate::killed;
use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, STALL_TIMEOUT, nodes};

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Until when somebody may rely on what was changed.
const UNTIL: &str = "var/cluster-agent/first-join/until";
const KUBELITE: &str = "microk8s.daemon-kubelite";

/// The node, without the file that the stand-in for the datastore keeps to be looked at.
pub fn node_of(host: &Host) -> Snapshot {
    let mut snapshot = host.snapshot();
    let path = "var/kubernetes/backend/update.yaml.applied";
    snapshot.nodes.remove(path);
    snapshot
}

/// The paths that differ.
pub fn differing(one: &Snapshot, other: &Snapshot) -> Vec<String> {
    let paths = one.nodes.keys().chain(other.nodes.keys());
    paths
        .filter(|path| one.nodes.get(*path) != other.nodes.get(*path))
        .cloned()
        .collect()
}

#[track_caller]
pub fn becomes(host: &Host, before: &Snapshot) {
    let same = || differing(&node_of(host), before).is_empty().then_some(());
    let found = wait::until(STALL_TIMEOUT, POLL_INTERVAL, same);
    assert!(found.is_some(), "{:?}", differing(&node_of(host), before));
}

/// Whether it is settled that what was changed stays.
fn is_final(host: &Host) -> bool {
    !host.path(UNTIL).exists()
}

/// Runs the stand-in once, so that the files of the datastore have the form that it gives them.
pub fn settle_datastore(host: &Host) {
    host.write(
        "var/kubernetes/backend/update.yaml",
        "Address: 127.0.0.1:19001\n",
        0o640,
    );
    host.shell("snapctl restart microk8s.daemon-k8s-dqlite")
        .ok();
    host.stand_ins.forget_calls();
}

#[test]
fn what_a_first_join_that_failed_has_changed_is_undone_on_the_contacted_node() {
    for role in ["--worker", ""] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        settle_datastore(n1);
        let before = node_of(n1);
        let _agent = n1.agent();
        let line = n1.join_line();
        n2.stand_ins.fail_service("restart", KUBELITE);
        let failed = n2.shell(&format!("{line} {role}"));
        assert_ne!(failed.code, Some(0), "{failed:?}");
        becomes(n1, &before);
        let is_applied = |calls: &[String]| {
            calls
                .last()
                .is_some_and(|call| call.starts_with("kubectl apply "))
        };
        let told = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            is_applied(&n1.stand_ins.calls()).then_some(())
        });
        assert!(told.is_some(), "{:?}", n1.stand_ins.calls());
        // It is ready for others again when the next one comes.
        n2.stand_ins.repair_services();
        n2.shell(&format!("{line} {role}")).ok();
        assert!(
            n1.read("var/kubernetes/backend/cluster.yaml")
                .contains("10.99.0.11")
        );
        assert!(n1.path("var/lock/no-cert-reissue").exists());
    }
}

#[test]
fn what_another_node_relies_on_is_kept_when_the_first_join_fails() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let _agent = n1.agent();
    let (first, second) = (n1.join_line(), n1.join_line());
    n2.stand_ins.fail_service("restart", KUBELITE);
    // Both at once, on a node that nobody has joined.
    std::thread::scope(|scope| {
        let failed = scope.spawn(|| n2.shell(&format!("{first} --worker")));
        n3.shell(&format!("{second} --worker")).ok();
        assert_ne!(failed.join().unwrap().code, Some(0));
    });
    let settled = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || is_final(n1).then_some(()));
    assert!(settled.is_some());
    assert!(
        n1.read("var/kubernetes/backend/cluster.yaml")
            .contains("10.99.0.11")
    );
    assert!(n1.path("var/lock/no-cert-reissue").exists());
    assert_eq!(restarts(n1), 1);
}

#[test]
fn what_a_first_join_of_which_nothing_is_heard_has_changed_is_undone_in_the_end() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    settle_datastore(n1);
    let before = node_of(n1);
    let agent = n1.agent();
    n2.stand_ins.kill_caller("restart", KUBELITE);
    let killed = n2.shell(&n1.join_line());
    assert_ne!(killed.code, Some(0), "{killed:?}");
    agent.kill();
    let ready = node_of(n1);
    assert_ne!(differing(&ready, &before), [""; 0]);
    // Another agent does not know whether somebody still comes.
    let agent = n1.agent();
    agent.signal(Signal::SIGTERM);
    agent.ends();
    assert_eq!(differing(&node_of(n1), &ready), [""; 0]);
    // A quarter of an hour later nobody does any more.
    n1.write(UNTIL, "1", 0o600);
    let _agent = n1.agent();
    becomes(n1, &before);
}

fn restarts(host: &Host) -> usize {
    let calls = host.stand_ins.calls();
    let restarts = calls.iter().filter(|call| call.contains("k8s-dqlite"));
    restarts.filter(|call| call.contains("restart")).count()
}

/// How a join of n2 ends that does not succeed.
#[derive(Clone, Copy)]
enum Ends {
    /// It says that it failed.
    Reported,
    /// It is killed, and says nothing.
    Killed,
}

/// One more join of n2 that does not succeed, and what the agent of n1 makes of it when all who may
/// still come are out of time. That the agent starts anew takes nothing from what it knows.
fn fail_once_more(n1: &Host, n2: &Host, line: &str, ends: Ends) {
    match ends {
        Ends::Reported => n2.stand_ins.fail_service("restart", KUBELITE),
        Ends::Killed => n2.stand_ins.kill_caller("restart", KUBELITE),
    }
    let agent = n1.agent();
    let failed = n2.shell(line);
    assert_ne!(failed.code, Some(0), "{failed:?}");
    agent.kill();
    if !is_final(n1) {
        n1.write(UNTIL, "1", 0o600);
    }
    let agent = n1.agent();
    let decided = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
        let is_later = agent.log().contains("is undone later");
        (is_final(n1) || is_later).then_some(())
    });
    assert!(decided.is_some(), "{}", agent.log());
    agent.signal(Signal::SIGTERM);
    agent.ends();
    // What n2 left undone is not what is looked at here.
    n2.stand_ins.repair_services();
    let recovering = n2.agent();
    recovering.signal(Signal::SIGTERM);
    recovering.ends();
}

fn issue(host: &Host, option: &str) -> String {
    let agent = host.agent();
    let line = host.join_line_with(option);
    agent.signal(Signal::SIGTERM);
    agent.ends();
    line
}

#[test]
fn a_token_has_the_first_join_undone_once_and_after_that_the_datastore_stays_where_it_is() {
    for (option, role, ends) in [
        ("", "--worker", Ends::Reported),
        ("--token-ttl 3600", "--worker", Ends::Reported),
        ("--token-ttl 3600", "", Ends::Killed),
    ] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        settle_datastore(n1);
        let before = node_of(n1);
        let line = format!("{} {role}", issue(n1, option));
        fail_once_more(n1, n2, &line, ends);
        assert_eq!(differing(&node_of(n1), &before), [""; 0]);
        for _ in 0..4 {
            fail_once_more(n1, n2, &line, ends);
        }
        assert_eq!(restarts(n1), 3, "{:?}", n1.stand_ins.calls());
        assert!(
            n1.read("var/kubernetes/backend/cluster.yaml")
                .contains("10.99.0.11")
        );
        // The token is as good as before.
        let _agent = n1.agent();
        n2.shell(&line).ok();
        assert_eq!(restarts(n1), 3);
    }
}

#[test]
fn however_many_tokens_fail_the_datastore_restarts_a_few_times_an_hour_and_the_last_one_joins() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    for _ in 0..5 {
        let line = format!("{} --worker", issue(n1, ""));
        fail_once_more(n1, n2, &line, Ends::Reported);
    }
    assert!(restarts(n1) <= 6, "{:?}", n1.stand_ins.calls());
    let _agent = n1.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
}

#[test]
fn a_datastore_that_does_not_come_up_is_not_restarted_for_each_node_that_asks() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    n1.stand_ins
        .fail_service("restart", "microk8s.daemon-k8s-dqlite");
    let mut last = None;
    for _ in 0..6 {
        let agent = n1.agent();
        let line = n1.join_line();
        last = Some(n2.shell(&format!("{line} --worker")));
        agent.kill();
    }
    let last = last.unwrap();
    assert_eq!(last.code, Some(6), "{last:?}");
    assert!(
        last.stdout.contains("as often as it is within an hour"),
        "{last:?}"
    );
    assert!(last.stdout.contains("(503)"), "{last:?}");
    // The dry run foretells it.
    let agent = n1.agent();
    let line = n1.join_line();
    let looked_at = n2.shell(&format!("{line} --worker --dry-run"));
    assert_eq!(looked_at.code, Some(6), "{looked_at:?}");
    assert!(
        looked_at
            .stdout
            .contains("as often as it is within an hour"),
        "{looked_at:?}"
    );
    agent.kill();
    assert!(restarts(n1) <= 6, "{:?}", n1.stand_ins.calls());
}

/// SIGKILL to the contacted agent right before and right after each of its changes.
#[test]
fn a_contacted_agent_that_is_killed_anywhere_leaves_no_half_of_what_it_changed() {
    if !killed::can_kill() {
        return;
    }
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    settle_datastore(n1);
    let line = n1
        .shell("microk8s add-node --token-ttl 3600 --format short")
        .ok();
    let line = format!("{} --worker", line.trim());
    let before = node_of(n1);
    let kept = [n1, n2].map(|host| {
        let kept = host.scratch().join("kept");
        nodes::copy(&host.snap_data(), &kept);
        (host, kept)
    });
    let (mut undone, mut kills) = (0, 0);
    let stride = killed::stride(3);
    for call in ["fsync", "syncfs"] {
        for number in (1..).step_by(stride) {
            let ended = killed::ends_although_killed(n1, call, number, || n2.shell(&line));
            let agent = n1.agent();
            agent.signal(Signal::SIGTERM);
            agent.ends();
            assert!(!n1.path("var/cluster-agent/journal").exists(), "{number}");
            let now = node_of(n1);
            if differing(&now, &before).is_empty() {
                undone += 1;
                assert!(is_final(n1), "{number}");
            } else {
                // All of it.
                let list = n1.read("var/kubernetes/backend/cluster.yaml");
                assert!(list.contains("10.99.0.11"), "{number}: {list}");
                let manifest = n1.read("args/cni-network/cni.yaml");
                assert!(manifest.contains("can-reach=10.99.0.12"), "{number}");
                for path in ["var/lock/no-cert-reissue", "credentials/callback-token.txt"] {
                    assert!(n1.path(path).exists(), "{number}: {path}");
                }
            }
            for (host, kept) in &kept {
                fs::remove_dir_all(host.snap_data()).unwrap();
                nodes::copy(kept, &host.snap_data());
            }
            if ended {
                break;
            }
            kills += 1;
        }
    }
    assert!(
        kills > 10 / stride && undone > 7 / stride,
        "{kills} {undone}"
    );
}
