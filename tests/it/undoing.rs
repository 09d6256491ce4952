//! Faults while changes are taken back or become final: all that can be taken back is, keys first;
//! what cannot is kept and named; and what is said of the node is true.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::compat::requests::curl;
use crate::first_join;
use crate::killed;
use crate::lab::small_disk::SmallDisk;
use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, Output};
use crate::leaving;

const KUBELITE: &str = "microk8s.daemon-kubelite";
const DATASTORE: &str = "microk8s.daemon-k8s-dqlite";

/// What keeps a path from being changed, until it is dropped.
struct Fault {
    path: PathBuf,
    /// What brings it about, with `$path` for the path.
    line: &'static str,
    cure: &'static str,
}

impl Fault {
    /// At the next such call to a service of this host, which fails as well.
    fn at(host: &Host, action: &str, service: &str, kind: &Kind) -> Self {
        let fault = Self {
            path: host.path(kind.path),
            line: kind.line,
            cure: kind.cure,
        };
        host.stand_ins
            .on_service(action, service, &fault.script(fault.line));
        host.stand_ins.fail_service(action, service);
        fault
    }

    fn script(&self, line: &str) -> String {
        format!("path={}; {line}", self.path.display())
    }

    fn cure(&self) {
        let script = self.script(self.cure);
        let cured = Command::new("sh").args(["-c", &script]).status();
        assert!(cured.unwrap().success(), "{script}");
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // An immutable file would outlive the test.
        let script = self.script("chattr -R -i $path; umount -l $path");
        let _ = Command::new("sh")
            .args(["-c", &script])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

struct Kind {
    /// Below the node directory.
    path: &'static str,
    line: &'static str,
    cure: &'static str,
    /// What is undone in spite of it.
    is_harmless: bool,
}

const fn immutable(path: &'static str) -> Kind {
    Kind {
        path,
        line: "chattr +i $path",
        cure: "chattr -i $path",
        is_harmless: false,
    }
}

const KINDS: [Kind; 4] = [
    immutable("args/kubelet"),
    immutable("credentials/kubelet.config"),
    // Files that are there can still be written.
    Kind {
        is_harmless: true,
        ..immutable("certs")
    },
    Kind {
        path: "args/kubelet",
        line: "mv $path $path.kept; mkdir $path; touch $path/file",
        cure: "rm -r $path; mv $path.kept $path",
        is_harmless: false,
    },
];

/// The paths that differ, but for those that the fault itself concerns.
fn differing(host: &Host, before: &Snapshot, fault: &str) -> Vec<String> {
    let mut paths = first_join::differing(&host.snapshot(), before);
    paths.retain(|path| !path.starts_with(fault));
    paths
}

fn journal(host: &Host) -> PathBuf {
    host.path("var/cluster-agent/journal")
}

#[track_caller]
fn assert_not_taken_back(output: &Output, path: &Path) {
    assert_eq!(output.code, Some(16), "{output:?}");
    let name = path.display().to_string();
    assert!(output.stderr.contains(&name), "{output:?}");
    assert!(
        output.stderr.contains("hint: fix what is named"),
        "{output:?}"
    );
}

#[test]
fn a_fault_while_a_join_is_undone_keeps_nothing_but_its_own_file_from_being_undone() {
    for through_agent in [false, true] {
        for kind in &KINDS {
            let Some(lab) = Lab::new(&["n1", "n2"]) else {
                return;
            };
            let (n1, n2) = (lab.host("n1"), lab.host("n2"));
            let _agent = n1.agent();
            let agent = through_agent.then(|| n2.agent());
            let line = n1.join_line();
            let before = n2.snapshot();
            let fault = Fault::at(n2, "stop", DATASTORE, kind);
            let output = n2.shell(&line);
            assert_eq!(differing(n2, &before, kind.path), [""; 0], "{output:?}");
            assert!(n2.read("certs/ca.key") != n1.read("certs/ca.key"));
            if kind.is_harmless {
                assert_eq!(output.code, Some(14), "{output:?}");
                assert!(!journal(n2).exists());
                continue;
            }
            assert_not_taken_back(&output, &fault.path);
            n2.stand_ins.repair_services();
            // It is named again as long as it is there, and services are left alone meanwhile.
            n2.stand_ins.forget_calls();
            assert_not_taken_back(&n2.shell(&line), &fault.path);
            assert_not_taken_back(&n2.shell("microk8s leave"), &fault.path);
            assert_eq!(n2.stand_ins.calls(), [""; 0]);
            fault.cure();
            if let Some(agent) = agent {
                agent.signal(Signal::SIGTERM);
                agent.ends();
                let agent = n2.agent();
                assert_eq!(differing(n2, &before, ""), [""; 0]);
                drop(agent);
            }
            n2.shell(&line).ok();
            assert!(!journal(n2).exists());
        }
    }
}

#[test]
fn a_fault_that_kept_a_change_from_being_made_keeps_nothing_from_being_undone() {
    for kind in &KINDS[..3] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = n1.agent();
        let line = n1.join_line();
        let before = n2.snapshot();
        let fault = Fault {
            path: n2.path(kind.path),
            line: kind.line,
            cure: kind.cure,
        };
        let script = fault.script(fault.line);
        n2.shell(&script).ok();
        let output = n2.shell(&line);
        assert_eq!(output.code, Some(13), "{output:?}");
        assert_eq!(differing(n2, &before, ""), [""; 0]);
        assert!(!journal(n2).exists());
        // It is in no cluster, and nothing is left behind that a leave would see.
        let output = n2.shell("microk8s leave");
        assert_eq!(output.code, Some(1), "{output:?}");
        fault.cure();
        n2.shell(&line).ok();
    }
}

#[test]
fn a_folder_that_became_read_only_keeps_nothing_else_from_being_undone() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let line = n1.join_line();
    let before = n2.snapshot();
    let kind = Kind {
        path: "args",
        line: "mount --bind $path $path && mount -o remount,bind,ro $path",
        cure: "true",
        is_harmless: false,
    };
    let fault = Fault::at(n2, "stop", DATASTORE, &kind);
    let output = n2.shell(&line);
    assert_not_taken_back(&output, &fault.path);
    assert_eq!(differing(n2, &before, "args"), [""; 0], "{output:?}");
    // The mount is one of the host's own.
    n2.shell("umount $SNAP_DATA/args").ok();
    n2.stand_ins.repair_services();
    n2.shell(&line).ok();
}

#[test]
fn a_disk_that_fills_up_before_a_join_is_undone_keeps_nothing_from_being_undone() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _disk = SmallDisk::over(n2, &n2.snap_data(), "2m");
    let _agent = n1.agent();
    let line = n1.join_line();
    let before = n2.snapshot();
    // More than the disk holds, and not enough to hurt where it is not mounted.
    let fill = "head -c 4m /dev/zero >$data/filler 2>/dev/null || true";
    n2.stand_ins.on_service("stop", DATASTORE, fill);
    n2.stand_ins.fail_service("stop", DATASTORE);
    let output = n2.shell(&line);
    assert_eq!(output.code, Some(14), "{output:?}");
    assert_eq!(differing(n2, &before, "filler"), [""; 0]);
    assert!(!journal(n2).exists());
}

#[test]
fn a_fault_while_a_leave_is_undone_keeps_nothing_but_its_own_file_from_being_undone() {
    for through_agent in [false, true] {
        let Some(lab) = leaving::cluster("--worker") else {
            return;
        };
        let n2 = lab.host("n2");
        let _agent = through_agent.then(|| n2.agent());
        let before = n2.snapshot();
        let fault = Fault::at(n2, "start", KUBELITE, &KINDS[0]);
        let output = n2.shell("microk8s leave");
        assert_not_taken_back(&output, &fault.path);
        assert_eq!(differing(n2, &before, KINDS[0].path), [""; 0]);
        n2.stand_ins.repair_services();
        fault.cure();
        n2.shell("microk8s leave").ok();
        leaving::assert_of_one_authority(&n2.snap_data());
    }
}

#[test]
fn a_fault_while_a_configuration_is_undone_is_named_and_undone_when_the_agent_starts() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    n1.write("credentials/callback-token.txt", "secret\n", 0o600);
    let agent = n1.agent();
    let before = n1.snapshot();
    let fault = Fault::at(n1, "restart", KUBELITE, &KINDS[0]);
    let body = r#"{"callback": "secret", "service": [
        {"name": "kubelet", "arguments_update": [{"--v": "3"}], "restart": true},
        {"name": "kube-proxy", "arguments_update": [{"--v": "3"}]}
    ]}"#;
    let url = "https://10.99.0.11:25000/cluster/api/v1.0/configure";
    let answer = curl(n1, &["-X", "POST", url], body);
    assert_eq!(answer.status, 500, "{}", answer.body);
    assert!(answer.body.contains("not everything"), "{}", answer.body);
    assert_eq!(differing(n1, &before, KINDS[0].path), [""; 0]);
    fault.cure();
    agent.signal(Signal::SIGTERM);
    agent.ends();
    let _agent = n1.agent();
    assert_eq!(differing(n1, &before, ""), [""; 0]);
}

#[test]
fn a_fault_while_the_first_join_is_undone_keeps_nothing_but_its_own_file_from_being_undone() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    first_join::settle_datastore(n1);
    let before = first_join::node_of(n1);
    let agent = n1.agent();
    let line = n1.join_line();
    // The fault is on n1, when n2 has the answer.
    let lock = n1.path("var/lock/no-cert-reissue");
    let script = format!("chattr +i {}", lock.display());
    n2.stand_ins.on_service("stop", DATASTORE, &script);
    n2.stand_ins.fail_service("stop", DATASTORE);
    assert_eq!(n2.shell(&line).code, Some(14));
    agent.wait_for("cannot be settled");
    let left = first_join::differing(&first_join::node_of(n1), &before);
    let chattr = Command::new("chattr").arg("-i").arg(&lock).status();
    assert!(chattr.unwrap().success());
    assert_eq!(left, ["var/lock/no-cert-reissue"], "{}", agent.log());
    agent.signal(Signal::SIGTERM);
    agent.ends();
    let _agent = n1.agent();
    first_join::becomes(n1, &before);
}

/// Runs a command whose flushes of the folder of our own state fail, from the `first` one on.
fn run_with_failing_flush(host: &Host, first: usize, line: &str) -> Output {
    let folder = host.path("var/cluster-agent");
    host.shell(&format!(
        "exec strace -f -qq -o /dev/null -P {} -e trace=fsync -e inject=fsync:error=EIO:when={first}+ {line}",
        folder.display()
    ))
}

#[test]
fn what_a_command_says_of_changes_is_true_when_the_disk_does_not_confirm_them() {
    if !killed::can_kill() {
        return;
    }
    let mut warned = 0;
    for (command, option) in [("join", ""), ("join", "--worker"), ("leave", "--worker")] {
        for first in 1..=4 {
            let lab = if command == "join" {
                Lab::new(&["n1", "n2"])
            } else {
                leaving::cluster(option)
            };
            let Some(lab) = lab else { return };
            let n2 = lab.host("n2");
            let _agent = lab.host("n1").agent();
            let line = match command {
                "join" => format!("{} {option}", lab.host("n1").join_line()),
                _ => "microk8s leave".to_owned(),
            };
            let before = n2.snapshot();
            let output = run_with_failing_flush(n2, first, &line);
            let is_changed = before != n2.snapshot();
            assert!(!journal(n2).exists(), "{first}: {output:?}");
            match output.code {
                Some(0) => {
                    assert!(is_changed, "{first}: {output:?}");
                    let has_warning = output.stderr.contains("the disk does not confirm");
                    warned += usize::from(has_warning);
                }
                _ => assert!(!is_changed, "{first}: {output:?}"),
            }
        }
    }
    assert!(warned >= 3, "{warned}");
}

#[test]
fn what_a_first_join_changed_is_kept_or_undone_when_the_disk_does_not_confirm_it() {
    if !killed::can_kill() {
        return;
    }
    let mut joined = 0;
    for first in 1..=6 {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let agent = n1.agent();
        let line = n1.join_line();
        let folder = n1.path("var/cluster-agent");
        let options = format!(
            "-P {} -e trace=fsync -e inject=fsync:error=EIO:when={first}+",
            folder.display()
        );
        let strace = killed::disturb(agent.pid(), &options);
        let output = n2.shell(&line);
        let is_ready = n1.path("credentials/callback-token.txt").exists();
        assert_eq!(is_ready, output.code == Some(0), "{first}: {output:?}");
        joined += usize::from(is_ready);
        agent.signal(Signal::SIGTERM);
        agent.ends();
        strace.ends();
    }
    assert!(joined > 0 && joined < 6, "{joined}");
}

#[test]
fn what_remove_node_says_is_true_when_the_disk_does_not_confirm_it() {
    if !killed::can_kill() {
        return;
    }
    let mut warned = 0;
    for first in 1..=4 {
        let Some(lab) = Lab::new(&["n1"]) else { return };
        let n1 = lab.host("n1");
        let tokens = "credentials/callback-tokens.txt";
        n1.write(tokens, "10.99.0.12:25000 secret\n", 0o600);
        let output = run_with_failing_flush(n1, first, "microk8s remove-node 10.99.0.12 --force");
        assert!(!journal(n1).exists(), "{first}: {output:?}");
        let is_forgotten = n1.read(tokens).is_empty();
        assert_eq!(is_forgotten, output.code == Some(0), "{first}: {output:?}");
        let has_warning = output.stderr.contains("the disk does not confirm");
        assert!(is_forgotten || !has_warning, "{first}: {output:?}");
        warned += usize::from(has_warning);
    }
    assert!(warned > 0);
}

#[test]
fn what_an_agent_says_of_a_configuration_is_true_when_the_disk_does_not_confirm_it() {
    if !killed::can_kill() {
        return;
    }
    let mut unconfirmed = 0;
    for first in 1..=4 {
        let Some(lab) = Lab::new(&["n1"]) else { return };
        let n1 = lab.host("n1");
        n1.write("credentials/callback-token.txt", "secret\n", 0o600);
        let agent = n1.agent();
        let before = n1.read("args/kubelet");
        let options = format!(
            "-P {} -e trace=fsync -e inject=fsync:error=EIO:when={first}+",
            n1.path("var/cluster-agent").display()
        );
        let strace = killed::disturb(agent.pid(), &options);
        let body = r#"{"callback": "secret", "service": [
            {"name": "kubelet", "arguments_update": [{"--v": "3"}], "restart": true}
        ]}"#;
        let url = "https://10.99.0.11:25000/cluster/api/v1.0/configure";
        let answer = curl(n1, &["-X", "POST", url], body);
        let is_changed = n1.read("args/kubelet") != before;
        assert_eq!(is_changed, answer.status == 200, "{first}: {}", answer.body);
        assert!(!journal(n1).exists(), "{first}: {}", answer.body);
        agent.signal(Signal::SIGTERM);
        let (_, log) = agent.ends();
        let is_logged = log.contains("the disk does not confirm");
        unconfirmed += usize::from(is_changed && is_logged);
        strace.ends();
    }
    assert!(unconfirmed > 0);
}
