//! Joins and leaves that are killed: SIGKILL at every change of a file, one after the other.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, nodes, skip};
use crate::leaving::{assert_of_one_authority, cluster};

/// The system calls by which files change; each may be the last one of a process.
const CHANGING: [&str; 7] = [
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "rmdir",
];

/// Kills a command at its first, second, third … change of a file, until it gets to its end, and
/// each time starts the agent of the host. `check` is told what the node is like then. Every step
/// of the command is met, also one that is added tomorrow.
fn kill_everywhere(host: &Host, line: &str, before: &Snapshot, check: impl Fn(&str, &Snapshot)) {
    let kept = host.scratch().join("kept");
    nodes::copy(&host.snap_data(), &kept);
    let mut killed = 0;
    for call in CHANGING {
        for number in 1.. {
            // Where a folder is emptied, not every file in it is another step.
            let number = if call == "unlinkat" {
                number * 7
            } else {
                number
            };
            let at = format!("{call} {number}");
            let output = host.shell(&format!(
                "strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=SIGKILL:when={number} {line}"
            ));
            let ended = output.code == Some(0);
            assert!(
                ended || output.code == Some(137) || output.code.is_none(),
                "{at}: {output:?}"
            );
            let agent = host.agent();
            agent.signal(Signal::SIGTERM);
            agent.ends();
            for journal in ["journal", "journal.done"] {
                let journal = host.path("var/cluster-agent").join(journal);
                assert!(!journal.exists(), "{at}");
            }
            let now = host.snapshot();
            if now != *before {
                check(&at, &now);
                fs::remove_dir_all(host.snap_data()).unwrap();
                nodes::copy(&kept, &host.snap_data());
                host.stand_ins.forget_removed();
            }
            if ended {
                break;
            }
            killed += 1;
        }
    }
    // Each step is an entry in the journal and a change; fewer were not the steps of this command.
    assert!(killed > 40, "{killed}");
}

/// Whether a node is like one on which nobody disturbed the command: the same files with the same
/// modes and owners, and the same contents but for keys and certificates, which are new each time.
fn assert_complete(at: &str, now: &Snapshot, before: &Snapshot, complete: &Snapshot) {
    let paths = |snapshot: &Snapshot| -> Vec<String> {
        let nodes = snapshot.nodes.iter();
        nodes
            .map(|(path, node)| format!("{path} {:o} {} {}", node.mode, node.uid, node.gid))
            .collect()
    };
    assert_eq!(paths(now), paths(complete), "{at}");
    for (path, node) in &now.nodes {
        let is_new = before.nodes.get(path) != complete.nodes.get(path);
        let is_random = path.starts_with("certs/") || path.starts_with("credentials/");
        if is_new && is_random {
            assert!(before.nodes.get(path) != Some(node), "{at}: {path}");
        } else {
            assert!(complete.nodes.get(path) == Some(node), "{at}: {path}");
        }
    }
}

/// What the host's node is like after a command that nobody disturbs; then it is as before again.
fn undisturbed(host: &Host, line: &str) -> Snapshot {
    let kept = host.scratch().join("undisturbed");
    nodes::copy(&host.snap_data(), &kept);
    host.shell(line).ok();
    let complete = host.snapshot();
    fs::remove_dir_all(host.snap_data()).unwrap();
    fs::rename(&kept, host.snap_data()).unwrap();
    host.stand_ins.forget_removed();
    complete
}

fn can_kill() -> bool {
    let found = Command::new("strace")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        skip("`strace` is not installed");
    }
    found
}

/// The datastore's own key stays where the node has it still; a new one takes long.
fn keep_datastore_key(host: &Host) {
    let backup = host.path("var/kubernetes/backend.backup");
    nodes::copy(
        &nodes::fresh(&host.name).join("var/kubernetes/backend"),
        &backup,
    );
    host.shell(
        "cd $SNAP_DATA/var/kubernetes/backend && openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=x -keyout cluster.key -out cluster.crt",
    )
    .ok();
}

fn killed_leave(option: &str) {
    if !can_kill() {
        return;
    }
    let Some(lab) = cluster(option) else { return };
    let n2 = lab.host("n2");
    if option == "--worker" {
        keep_datastore_key(n2);
    }
    let before = n2.snapshot();
    let complete = undisturbed(n2, "microk8s leave");
    kill_everywhere(n2, "microk8s leave", &before, |at, now| {
        assert_complete(at, now, &before, &complete);
        assert_of_one_authority(&n2.snap_data());
    });
}

#[test]
fn a_workers_leave_that_is_killed_anywhere_is_undone_or_complete_when_the_agent_starts() {
    killed_leave("--worker");
}

#[test]
fn a_control_planes_leave_that_is_killed_anywhere_is_undone_or_complete_when_the_agent_starts() {
    killed_leave("");
}

#[test]
fn a_workers_join_that_is_killed_anywhere_is_undone_or_complete_when_the_agent_starts() {
    if !can_kill() {
        return;
    }
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1
        .shell("microk8s add-node --token-ttl 3600 --format short")
        .ok();
    let line = format!("{} --worker", line.trim());
    let before = n2.snapshot();
    let complete = undisturbed(n2, &line);
    kill_everywhere(n2, &line, &before, |at, now| {
        assert_complete(at, now, &before, &complete);
    });
}
