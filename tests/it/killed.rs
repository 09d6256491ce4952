//! Joins and leaves that are killed: SIGKILL right before and right after every change of a file, and
//! no content on the disk that was not flushed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use microk8s::base::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::agent::Agent;
use crate::lab::snapshot::Snapshot;
use crate::lab::standins::Running;
use crate::lab::{Host, Lab, Output, STALL_TIMEOUT, nightly, nodes, skip, tell};
use crate::leaving::{assert_of_one_authority, cluster};

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The system calls by which what a folder holds changes.
const CHANGING: &str =
    "rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,symlinkat";

/// The system calls on entering which a process is killed, every which of them, and the largest stride
/// for a call that there are few of.
///
/// These are the moments before and after each change of a file: it takes its place by a rename, and
/// what undoes it, or makes it final, is flushed. Where a folder is emptied, every seventh file in it
/// is enough.
const KILLED_AT: [(&str, usize, usize); 6] = [
    ("fsync", 1, 3),
    ("syncfs", 1, 1),
    // Of folders, and of the journal when it goes.
    ("rename", 1, 1),
    // Of new contents.
    ("renameat", 1, usize::MAX),
    ("unlink", 1, 3),
    ("unlinkat", 7, usize::MAX),
];

/// At every which of the moments a test kills, which it says aloud. An odd stride meets the moments
/// before a change and those after one alike.
pub fn stride(ordinary: usize) -> usize {
    if nightly::is_wanted() {
        return 1;
    }
    tell(&format!(
        "killed at every {ordinary}th moment; {}=1 kills at each",
        nightly::VARIABLE
    ));
    ordinary
}

/// What kills a process on entering a system call for the `number`th time.
fn fatal(call: &str, number: usize) -> String {
    format!("-e trace={call} -e inject={call}:signal=SIGKILL:when={number}")
}

/// Something that kills a process that runs already.
pub struct Strace {
    child: Child,
    /// Kept open: what it says of every new process must go somewhere.
    _said: BufReader<ChildStderr>,
}

/// Kills a process on entering a system call for the `number`th time from now on. Each thread
/// counts by itself.
fn attach(process: i32, call: &str, number: usize) -> Strace {
    disturb(process, &fatal(call, number))
}

/// Does to the system calls of a process that runs already what these options of `strace` say.
pub fn disturb(process: i32, options: &str) -> Strace {
    disturb_into(Path::new("/dev/null"), process, options)
}

/// [`disturb`], with a file for what the process calls.
pub fn disturb_into(trace: &Path, process: i32, options: &str) -> Strace {
    let mut strace = Command::new("strace")
        .args(["-f", "-p", &process.to_string(), "-o"])
        .arg(trace)
        .args(options.split(' '))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    Strace {
        child: strace,
        _said: said,
    }
}

impl Strace {
    /// Lets the process alone from now on.
    pub fn detach(mut self) {
        let id = Pid::from_raw(self.child.id().cast_signed());
        kill(id, Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end, which comes with that of the process.
    pub fn ends(mut self) {
        self.child.wait().unwrap();
    }
}

/// Whose process is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Killed {
    /// The command's, which does the work where no agent runs.
    Command,
    /// The agent's.
    Agent,
}

/// What a command that was killed has left, once an agent has seen to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    TakenBack,
    Complete,
}

/// A node, and a command on it that is killed.
struct Victim<'a> {
    host: &'a Host,
    line: String,
    before: Snapshot,
    /// What the node is like after a command that nobody disturbs.
    complete: Snapshot,
    /// The services after it.
    services: BTreeMap<String, Running>,
}

impl<'a> Victim<'a> {
    /// Runs the command undisturbed once; then the node is as before again.
    fn new(host: &'a Host, line: &str) -> Self {
        let before = host.snapshot();
        let kept = host.scratch().join("undisturbed");
        nodes::copy(&host.snap_data(), &kept);
        host.stand_ins.watch_services();
        host.shell(line).ok();
        let complete = host.snapshot();
        let services = host.stand_ins.services();
        fs::remove_dir_all(host.snap_data()).unwrap();
        fs::rename(&kept, host.snap_data()).unwrap();
        host.stand_ins.forget_removed();
        Self {
            host,
            line: line.to_owned(),
            before,
            complete,
            services,
        }
    }

    /// Kills the command at one flush after the other, until it gets to its end, and each time starts
    /// the agent of the host. With a stride of 1 every step of the command is met, also one that is
    /// added tomorrow. `check` looks at the node then.
    fn kill_at_every(&self, ordinary: usize, killed: Killed, check: impl Fn(&str, Ending)) {
        let (host, sparsely) = (self.host, stride(ordinary));
        let kept = host.scratch().join("kept");
        nodes::copy(&host.snap_data(), &kept);
        let mut kills = 0;
        for (call, every, few) in KILLED_AT {
            let stride = every * sparsely.min(few);
            for number in (stride..).step_by(stride) {
                let at = format!("{call} {number}");
                host.stand_ins.watch_services();
                host.stand_ins.forget_calls();
                let ended = match killed {
                    Killed::Command => self.kill_command(call, number),
                    Killed::Agent => {
                        ends_although_killed(host, call, number, || host.shell(&self.line))
                    }
                };
                self.recover();
                for journal in ["journal", "journal.done"] {
                    let journal = host.path("var/cluster-agent").join(journal);
                    assert!(!journal.exists(), "{at}");
                }
                let now = host.snapshot();
                if now == self.before {
                    self.assert_taken_back(&at);
                    check(&at, Ending::TakenBack);
                } else {
                    self.assert_complete(&at, &now);
                    check(&at, Ending::Complete);
                    fs::remove_dir_all(host.snap_data()).unwrap();
                    nodes::copy(&kept, &host.snap_data());
                }
                host.stand_ins.forget_removed();
                if ended {
                    break;
                }
                kills += 1;
            }
        }
        // Each step is an entry in the journal and a change; fewer were not the steps of this command.
        assert!(kills > 20 / sparsely, "{kills}");
    }

    /// Whether the command got to its end.
    fn kill_command(&self, call: &str, number: usize) -> bool {
        let trace = self.host.scratch().join("trace");
        let output = self.host.shell(&format!(
            "strace -qq -y -o {} -e trace=fsync,syncfs,{call},/^rename -e inject={call}:signal=SIGKILL:when={number} {}",
            trace.display(),
            self.line
        ));
        let ended = output.code == Some(0);
        assert!(
            ended || output.code == Some(137),
            "{call} {number}: {output:?}"
        );
        lose_power(self.host, &fs::read_to_string(trace).unwrap());
        ended
    }

    /// What the agent sees to when it starts, and right after.
    fn recover(&self) {
        let agent = self.host.agent();
        let owed = self.host.path("var/cluster-agent/pod-network.changed");
        let settled = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            (!owed.exists()).then_some(())
        });
        assert!(
            settled.is_some(),
            "the manifest of the pod network is not applied"
        );
        agent.signal(Signal::SIGTERM);
        agent.ends();
    }

    /// What was stopped or started in between runs again, with the files that were there before,
    /// and the datastore does not know the node.
    fn assert_taken_back(&self, at: &str) {
        let services = self.host.stand_ins.services();
        let all_run = services.values().all(|state| *state == Running::Fresh);
        assert!(all_run, "{at}: {services:?}");
    }

    /// The node is like one on which nobody disturbed the command: the same files with the same
    /// modes and owners, and the same contents but for keys and certificates, which are new each
    /// time; and the same services run.
    fn assert_complete(&self, at: &str, now: &Snapshot) {
        let (before, complete) = (&self.before, &self.complete);
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
        let mut services = self.host.stand_ins.services();
        for (service, state) in &mut services {
            // What completes the command starts it again, now with the files that it writes itself.
            if self.services.get(service) == Some(&Running::Stale) && *state == Running::Fresh {
                *state = Running::Stale;
            }
        }
        assert_eq!(services, self.services, "{at}");
    }
}

/// Kills the agent of this host at this call of `act`. Whether `act` got to its end before.
pub fn ends_although_killed(
    host: &Host,
    call: &str,
    number: usize,
    act: impl FnOnce() -> Output,
) -> bool {
    let agent = host.agent();
    let strace = attach(agent.pid(), call, number);
    let ended = act().code == Some(0);
    if ended {
        agent.signal(Signal::SIGTERM);
        agent.ends();
    } else {
        agent.was_killed();
    }
    strace.ends();
    ended
}

/// Whether this machine can kill a process at a system call; a test says aloud that it cannot.
pub fn can_kill() -> bool {
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
pub fn keep_datastore_key(host: &Host) {
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
    let leave = Victim::new(n2, "microk8s leave");
    leave.kill_at_every(9, Killed::Command, |at, ending| {
        if ending == Ending::Complete {
            assert_of_one_authority(&n2.snap_data());
            let calls = n2.stand_ins.calls();
            let applies = |call: &String| call.starts_with("kubectl apply ");
            assert!(calls.iter().any(applies), "{at}: {calls:?}");
        }
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

/// A lab whose n1 waits for others, and the line with which they join it.
fn contacted(prepare: impl Fn(&Host)) -> Option<(Lab, Agent, String)> {
    if !can_kill() {
        return None;
    }
    let lab = Lab::new(&["n1", "n2"])?;
    lab.hosts().iter().for_each(prepare);
    let agent = lab.host("n1").agent();
    let line = lab
        .host("n1")
        .shell("microk8s add-node --token-ttl 3600 --format short")
        .ok();
    Some((lab, agent, line.trim().to_owned()))
}

#[test]
fn a_workers_join_that_is_killed_anywhere_is_undone_or_complete_when_the_agent_starts() {
    let Some((lab, _agent, line)) = contacted(|_| ()) else {
        return;
    };
    let join = Victim::new(lab.host("n2"), &format!("{line} --worker"));
    join.kill_at_every(7, Killed::Command, |_, _| ());
}

#[test]
fn a_launch_configuration_that_is_killed_anywhere_is_undone_or_applied_with_its_join() {
    let Some((lab, _agent, line)) = contacted(|_| ()) else {
        return;
    };
    let n2 = lab.host("n2");
    let url = line.split_whitespace().last().unwrap();
    let path = n2.scratch().join("launch.yaml");
    let text = format!(
        "version: 0.1.0\njoin: {{url: '{url}', worker: true}}\npersistentClusterToken: a74cddf30d2408d49fcd748a26021c6a\nextraKubeletArgs: {{--max-pods: 50}}\nextraContainerdEnv: {{HTTP_PROXY: http://squid:3128}}\nextraSANs: [a.example]\ncontainerdRegistryConfigs: {{new.io: x}}\n"
    );
    fs::write(&path, text).unwrap();
    let launch = Victim::new(n2, &format!("microk8s init -c {}", path.display()));
    launch.kill_at_every(9, Killed::Command, |_, _| ());
}

#[test]
fn a_join_without_high_availability_that_is_killed_anywhere_is_undone_or_complete() {
    let Some((lab, _agent, line)) = contacted(|host| host.remove("var/lock/ha-cluster")) else {
        return;
    };
    let join = Victim::new(lab.host("n2"), &line);
    // Its steps are those of a worker's join but for a few.
    join.kill_at_every(9, Killed::Command, |_, _| ());
}

fn killed_control_plane_join(killed: Killed, stride: usize) {
    let Some((lab, _agent, line)) = contacted(|_| ()) else {
        return;
    };
    let n2 = lab.host("n2");
    let entered = RefCell::new(0);
    let join = Victim::new(n2, &line);
    join.kill_at_every(stride, killed, |at, ending| {
        let calls = n2.stand_ins.calls();
        let place = |wanted: &str| calls.iter().position(|call| call.contains(wanted));
        let Some(entry) = place("snapctl start microk8s.daemon-k8s-dqlite") else {
            return;
        };
        let left = place(".remove 10.99.0.12:19001");
        match ending {
            Ending::Complete => assert_eq!(left, None, "{at}: {calls:?}"),
            Ending::TakenBack => {
                // Before the node's own datastore comes up again.
                let alone = place("restart microk8s.daemon-k8s-dqlite");
                assert!(Some(entry) < left && left < alone, "{at}: {calls:?}");
                *entered.borrow_mut() += 1;
            }
        }
    });
    assert!(*entered.borrow() > 1);
}

#[test]
fn a_control_planes_join_that_is_killed_anywhere_is_undone_or_complete_when_the_agent_starts() {
    killed_control_plane_join(Killed::Command, 5);
}

#[test]
fn a_join_whose_agent_is_killed_anywhere_is_undone_or_complete_when_it_starts_again() {
    // The steps are the same ones; what differs is who takes them.
    killed_control_plane_join(Killed::Agent, 5);
}

/// The quoted paths of a system call.
fn quoted(call: &str) -> Vec<PathBuf> {
    call.split('"')
        .skip(1)
        .step_by(2)
        .map(PathBuf::from)
        .collect()
}

/// The path of the file that a call flushes.
fn flushed(call: &str) -> Option<PathBuf> {
    let (_, path) = call
        .contains("fsync(")
        .then(|| call.split_once('<'))
        .flatten()?;
    Some(path.split('>').next()?.into())
}

/// What a power loss makes of the files that a process changed, as far as its own calls tell: names
/// are there, and a content that was not flushed is not.
fn lose_power(host: &Host, trace: &str) {
    let mut files = BTreeMap::<PathBuf, bool>::new();
    for call in trace.lines() {
        let is_done = call.ends_with("= 0");
        if call.contains("syncfs(") {
            files
                .values_mut()
                .for_each(|is_flushed| *is_flushed |= is_done);
            continue;
        }
        match (flushed(call), &quoted(call)[..]) {
            (Some(path), _) if is_done => {
                files.insert(path, true);
            }
            // It was added to and not flushed: a part of it may be there.
            (Some(path), _) if path.ends_with("0000.json") => {
                let length = fs::metadata(&path).unwrap().len();
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_len(length - 7).unwrap();
            }
            (None, [from, to]) if is_done => {
                let is_file = !files
                    .keys()
                    .any(|path| path.starts_with(from) && path != from);
                for (path, is_flushed) in std::mem::take(&mut files) {
                    let path = match path.strip_prefix(from) {
                        Ok(below) => to.join(below).components().collect(),
                        Err(_) => path,
                    };
                    files.insert(path, is_flushed);
                }
                if is_file {
                    files.entry(to.clone()).or_insert(false);
                }
            }
            _ => {}
        }
    }
    for (path, is_flushed) in files {
        if !is_flushed && path.starts_with(host.snap_data()) && path.is_file() {
            fs::write(&path, "").unwrap();
        }
    }
}

/// What is undone by the journal need not be on the disk. All of it must be there when the journal
/// goes, what the datastore of a cluster relies on when it learns of the node, and what undoes a
/// change, with the names that lead to it, before the change.
#[test]
fn what_a_command_has_changed_is_on_the_disk_when_it_is_final() {
    let Some((lab, _agent, line)) = contacted(|_| ()) else {
        return;
    };
    let n2 = lab.host("n2");
    let (as_worker, leave) = (format!("{line} --worker"), "microk8s leave");
    for line in [&as_worker, leave, &line, leave] {
        let trace = n2.scratch().join("trace");
        let strace = format!(
            "strace -f -qq -y -o {} -e signal=none -e trace=fsync,syncfs,openat,execve,{CHANGING}",
            trace.display()
        );
        n2.shell(&format!("{strace} {line}")).ok();
        let data = n2.snap_data();
        let own = data.join("var/cluster-agent");
        let mut dirty = BTreeSet::<PathBuf>::new();
        let journal = own.join("journal");
        let (mut is_recorded, mut changes, mut finals) = (false, 0, 0);
        for call in fs::read_to_string(trace).unwrap().lines() {
            if call.contains("execve(") {
                let enters = call.contains("\"start\"") && call.contains("daemon-k8s-dqlite");
                let of_datastore = |path: &&PathBuf| path.starts_with(data.join("var/kubernetes"));
                if enters && line != leave {
                    let dirty: Vec<_> = dirty.iter().filter(of_datastore).collect();
                    assert!(dirty.is_empty(), "{line}: {dirty:?}");
                }
                continue;
            }
            if call.contains("syncfs(") {
                dirty.clear();
                continue;
            }
            if let Some(path) = flushed(call) {
                is_recorded |= path.to_string_lossy().contains("0000.json");
                dirty.remove(&path);
                continue;
            }
            let paths = quoted(call);
            let Some(path) = paths
                .last()
                .filter(|_| call.ends_with("= 0") || call.contains("= "))
            else {
                continue;
            };
            if call.contains("openat(") {
                is_recorded &= !(call.contains("O_APPEND") && path.ends_with("0000.json"));
                if call.contains("O_CREAT") && call.contains("O_EXCL") {
                    dirty.insert(path.clone());
                }
                continue;
            }
            if !call.ends_with("= 0") {
                continue;
            }
            if path.ends_with("journal.done") && call.contains("rename") {
                let dirty: Vec<_> = dirty
                    .iter()
                    .filter(|path| path.starts_with(&data) && !path.starts_with(&own))
                    .collect();
                assert!(dirty.is_empty(), "{line}: {dirty:?}");
                finals += 1;
            }
            if path.starts_with(&own) {
                // The names of the journal, and those that lead to it.
                let folder = path.parent().unwrap();
                if path.ends_with("0000.json") || path == &journal {
                    dirty.insert(folder.to_owned());
                }
                continue;
            }
            if !path.starts_with(&data) {
                continue;
            }
            assert!(is_recorded, "{line}: {call}");
            let names = [&own, &journal].map(|folder| dirty.contains(folder));
            assert_eq!(names, [false; 2], "{line}: {call}");
            changes += 1;
            if let [from, to] = &paths[..] {
                dirty = std::mem::take(&mut dirty)
                    .into_iter()
                    .map(|path| match path.strip_prefix(from) {
                        Ok(below) => to.join(below).components().collect(),
                        Err(_) => path,
                    })
                    .collect();
                dirty.insert(from.parent().unwrap().to_owned());
            } else {
                dirty.remove(path);
            }
            dirty.insert(path.parent().unwrap().to_owned());
            if call.contains("mkdir") {
                dirty.insert(path.clone());
            }
        }
        assert_eq!(finals, 1, "{line}");
        assert!(changes > 10, "{line}: {changes}");
    }
}
