//! How often the disk is asked to confirm what a command has changed: on a slow disk that is what a
//! change of a node takes its time for. Measured where no other program has much to be written: a file
//! system is flushed as a whole then.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::compat::requests::curl;
use crate::killed;
use crate::lab::{Host, Lab, skip};

/// The system calls that wait for the disk.
pub const FLUSHES: &str = "trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync";

/// Whether system calls can be traced here; a test says aloud that they cannot.
pub fn can_trace() -> bool {
    if !killed::can_kill() {
        return false;
    }
    let traced = std::process::Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .status();
    let can = traced.is_ok_and(|status| status.success());
    if !can {
        skip("`strace` cannot trace a process here");
    }
    can
}

/// What was flushed, and how often.
#[derive(Debug, Default)]
struct Flushes {
    of_files: BTreeMap<String, usize>,
    /// How many may come more than are due: what an agent flushes by itself meanwhile.
    more: usize,
}

impl Flushes {
    fn read(trace: &Path, host: &Host) -> Self {
        let root = format!("{}/", host.scratch().display());
        let mut flushes = Self::default();
        for line in fs::read_to_string(trace).unwrap().lines() {
            let Some((_, path)) = line.split_once('<') else {
                assert!(!line.contains("sync("), "{line}");
                continue;
            };
            let path = path.split('>').next().unwrap();
            let path = path.strip_prefix(&root).unwrap_or(path);
            // A file that is not at its place yet.
            let path = path.split(".new-").next().unwrap();
            *flushes.of_files.entry(path.to_owned()).or_default() += 1;
        }
        flushes
    }

    fn count(&self) -> usize {
        self.of_files.values().sum()
    }

    fn assert_at_most(&self, what: &str, most: usize) {
        let count = self.count();
        let most = most + self.more;
        assert!(
            count <= most,
            "{what}: {count} flushes: {:#?}",
            self.of_files
        );
        assert!(self.count() > 0, "{what}");
    }
}

/// From now on no other program seems to have anything to be written to the disk.
fn quiet_disk(host: &Host) {
    let meminfo = host.scratch().join("meminfo");
    fs::write(&meminfo, "Dirty: 0 kB\nWriteback: 0 kB\n").unwrap();
    host.shell(&format!("mount --bind {} /proc/meminfo", meminfo.display()))
        .ok();
}

/// Runs a command without an agent, and counts its flushes.
fn of_command(host: &Host, line: &str) -> Flushes {
    let trace = host.scratch().join("flushes");
    let strace = format!(
        "strace -f -qq -y -o {} -e signal=none -e {FLUSHES}",
        trace.display()
    );
    host.shell(&format!("{strace} {line}")).ok();
    Flushes::read(&trace, host)
}

/// What the agent of this host flushes meanwhile. Changes that may wait for a second are flushed each
/// second, and at its end.
fn of_agent(host: &Host, act: impl FnOnce()) -> Flushes {
    let agent = host.agent();
    host.wait_for_database();
    let trace = host.scratch().join("flushes");
    let options = format!("-y -e signal=none -e {FLUSHES}");
    let strace = killed::disturb_into(&trace, agent.pid(), &options);
    let begun = Instant::now();
    act();
    agent.signal(Signal::SIGTERM);
    agent.ends();
    strace.ends();
    Flushes {
        more: 3 + usize::try_from(begun.elapsed().as_secs()).unwrap(),
        ..Flushes::read(&trace, host)
    }
}

#[test]
fn changes_of_a_node_make_few_flushes() {
    if !can_trace() {
        return;
    }
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    lab.hosts().iter().for_each(quiet_disk);
    let agent = n1.agent();
    let line = n1.join_line();
    agent.signal(Signal::SIGTERM);
    agent.ends();
    let mut joins = Flushes::default();
    let first = of_agent(n1, || joins = of_command(n2, &line));
    joins.assert_at_most("control plane join", 10);
    first.assert_at_most("first join on the contacted node", 22);

    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    agent.signal(Signal::SIGTERM);
    agent.ends();
    let contacted = of_agent(n1, || joins = of_command(n3, &line));
    joins.assert_at_most("worker join", 8);
    contacted.assert_at_most("worker join on the contacted node", 7);

    let agent = n1.agent();
    let line = n1.join_line();
    of_command(n3, "microk8s leave").assert_at_most("worker leave", 12);
    of_agent(n3, || {
        n3.shell(&line).ok();
    })
    .assert_at_most("control plane join in an agent", 10);
    of_command(n3, "microk8s leave").assert_at_most("control plane leave", 24);
    agent.signal(Signal::SIGTERM);
    agent.ends();
    of_command(n1, "microk8s remove-node n3 --force").assert_at_most("remove-node", 14);

    n1.write("credentials/callback-token.txt", "secret\n", 0o600);
    let body = r#"{"callback": "secret", "service": [
        {"name": "kubelet", "arguments_update": [{"--v": "3"}], "restart": true},
        {"name": "kube-proxy", "arguments_update": [{"--v": "3"}]}
    ]}"#;
    let url = "https://10.99.0.11:25000/cluster/api/v1.0/configure";
    of_agent(n1, || {
        assert_eq!(curl(n1, &["-X", "POST", url], body).status, 200);
    })
    .assert_at_most("configure", 10);
}
