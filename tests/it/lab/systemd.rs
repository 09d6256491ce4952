//! A machine with a systemd of its own (systemd-nspawn), in the place of a host of the lab.
//!
//! It boots a root that `.ci/make-systemd-root` made; what it changes there goes away with it.
//!
//! [`Machine::boot`] gives one with MicroK8s's snap: the host's node lies where snapd has it,
//! `/var/snap/microk8s/x1`, with `current` leading there. `snap run --shell` is a stand-in that sets
//! what snapd sets; the service manager of the snap's own services is the host's stand-in.
//! [`Machine::boot_bare`] gives one that has nothing of MicroK8s, and that can be rebooted.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use microk8s::base::wait;

use super::program::program;
use super::{Host, Output, STALL_TIMEOUT, network, revisions, skip};

/// Names the root to boot.
const ROOT_VARIABLE: &str = "MICROK8S_TEST_SYSTEMD_ROOT";

const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Where each look costs some processes.
const LONGER_INTERVAL: Duration = Duration::from_millis(200);

/// What ends a program on the machine that does not end by itself.
const TIME_LIMIT: [&str; 5] = [
    "timeout",
    "--foreground",
    "--kill-after=5",
    "--signal=ALRM",
    "240",
];

/// The agent's unit.
pub const UNIT: &str = "microk8s-cluster-agent";

/// Where control groups are: of the first version, beside it, or of the second alone.
const CONTROL_GROUPS: [&str; 3] = [
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup",
];

/// Machines must not share the control group that this process is in: each systemd takes all
/// processes in it for its own. The disk is the root, and what the machine has changed beside it.
const START: &str = r#"
for groups in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    if [ -e "$groups/cgroup.procs" ]; then
        mkdir -p "$groups/$0" && echo $$ > "$groups/$0/cgroup.procs" || exit
    fi
done
root=$1 disk=$2
shift 2
mkdir -p "$disk/changes" "$disk/work" "$disk/root" &&
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$disk/changes,workdir=$disk/work" "$disk/root" &&
    exec systemd-nspawn -D "$disk/root" "$@""#;

/// `snap`, as far as the unit and a switch of agents need it. The snap's own agent is a unit, too,
/// where a test writes one.
const SNAP: &str = r#"#!/bin/sh
unit=snap.microk8s.daemon-cluster-agent.service
case "$1 $2 $3 $4" in
'run --shell microk8s.daemon-cluster-agent -c')
    revision=$(readlink /snap/microk8s/current)
    export SNAP=/snap/microk8s/$revision SNAP_DATA=/var/snap/microk8s/$revision
    export SNAP_COMMON=/var/snap/microk8s/common SNAP_REVISION=$revision SNAP_NAME=microk8s
    exec /bin/bash -c "$5"
    ;;
'services microk8s.daemon-cluster-agent  ')
    echo 'Service Startup Current Notes'
    echo "microk8s.daemon-cluster-agent $(systemctl is-enabled $unit) $(systemctl is-active $unit) -"
    ;;
'stop --disable microk8s.daemon-cluster-agent ') systemctl disable --now $unit ;;
'start --enable microk8s.daemon-cluster-agent ') systemctl enable --now $unit ;;
*) exit 64 ;;
esac
"#;

/// A machine that has booted. It ends when it is dropped.
pub struct Machine {
    nspawn: Child,
    leader: Pid,
    name: String,
    words: Vec<OsString>,
    log: PathBuf,
}

impl Machine {
    /// Boots the host with MicroK8s's snap, or says aloud why that cannot be.
    pub fn boot(host: &Host) -> Option<Self> {
        revisions::lay_out(host);
        let machine = Self::start(
            host,
            &[
                (host.scratch(), "/var/snap/microk8s"),
                (host.scratch(), &host.scratch().to_string_lossy()),
                (&host.snap(), "/snap/microk8s/x1"),
                (&host.snap(), "/snap/microk8s/x2"),
                (&program(), "/usr/local/bin/microk8s"),
            ],
        )?;
        machine.wait_until_booted();
        machine.write("/usr/bin/snap", SNAP, 0o755);
        let snapctl = host.stand_ins.bin().join("snapctl");
        machine
            .shell(&format!(
                "ln -s {} /usr/bin/snapctl; ln -s x1 /snap/microk8s/current; \
                 groupadd -g {} microk8s",
                snapctl.display(),
                network::MICROK8S_GID
            ))
            .ok();
        Some(machine)
    }

    /// Boots hosts without anything of MicroK8s, and with these files of this machine, or says aloud
    /// why that cannot be.
    pub fn boot_bare(hosts: &[Host], files: &[&Path]) -> Option<Vec<Self>> {
        let names: Vec<_> = files.iter().map(|path| path.to_string_lossy()).collect();
        let files = files.iter().copied();
        let files: Vec<_> = files
            .zip(&names)
            .map(|(path, name)| (path, &**name))
            .collect();
        let machines = hosts.iter().map(|host| Self::start(host, &files));
        let machines: Vec<Self> = machines.collect::<Option<_>>()?;
        machines.iter().for_each(Self::wait_until_booted);
        Some(machines)
    }

    fn start(host: &Host, bound: &[(&Path, &str)]) -> Option<Self> {
        let root = match root() {
            Ok(root) => root,
            Err(reason) => {
                skip(&reason);
                return None;
            }
        };
        clean_up_after_dead_processes();
        let name = host.namespace().to_owned();
        let hosts = network::etc(host.namespace()).join("hosts");
        let mut words: Vec<OsString> = ["--pdeathsig", "TERM", "unshare", "--mount", "sh", "-c"]
            .map(OsString::from)
            .into();
        words.extend([START.into(), name.clone().into(), root.into()]);
        words.push(host.scratch().join("disk").into());
        words.extend(
            [
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
                "--console=read-only",
            ]
            .map(OsString::from),
        );
        words.push(format!("--machine={name}").into());
        words.push(format!("--hostname={}", host.name).into());
        words.push(format!("--network-namespace-path=/run/netns/{name}").into());
        for (from, to) in bound.iter().chain([&(&*hosts, "/etc/hosts")]) {
            words.push(format!("--bind={}:{to}", from.display()).into());
        }
        let log = host.scratch().join("nspawn.log");
        match boot(&name, &words, &log) {
            Ok((nspawn, leader)) => Some(Self {
                nspawn,
                leader,
                name,
                words,
                log,
            }),
            Err(said) => {
                skip(&format!("systemd-nspawn starts no machine: {said}"));
                None
            }
        }
    }

    /// Has machines reboot, and waits until they are up.
    pub fn reboot(machines: &mut [Self]) {
        for machine in &*machines {
            machine.shell("systemctl reboot").ok();
        }
        for machine in &mut *machines {
            let ended = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
                machine.nspawn.try_wait().unwrap()
            });
            assert!(ended.is_some(), "{} does not end", machine.name);
            (machine.nspawn, machine.leader) =
                boot(&machine.name, &machine.words, &machine.log).unwrap();
        }
        machines.iter().for_each(Self::wait_until_booted);
    }

    fn wait_until_booted(&self) {
        let booted = wait::until(STALL_TIMEOUT, LONGER_INTERVAL, || {
            let state = self.shell("systemctl is-system-running --wait").stdout;
            (state == "running\n").then_some(())
        });
        assert!(booted.is_some(), "{:?}", self.shell("systemctl --failed"));
    }

    /// A program to be run on the machine by root, in a plain environment.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.leader.to_string(), "-a"])
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8");
        command
    }

    /// Runs a line of shell to its end.
    pub fn shell(&self, line: &str) -> Output {
        self.run_with_input(&["sh", "-c", line], b"")
    }

    fn run_with_input(&self, words: &[&str], input: &[u8]) -> Output {
        let words = [&TIME_LIMIT[..], words].concat();
        Output::of_command(&mut self.command(&words), input)
    }

    /// Writes a file of the machine.
    pub fn write(&self, path: &str, content: &str, mode: u32) {
        let line = format!("cat > {path}; chmod {mode:o} {path}");
        self.run_with_input(&["sh", "-c", &line], content.as_bytes())
            .ok();
    }

    /// Whether the machine has a socket at this TCP port in a state of `/proc/net/tcp`.
    pub fn has_socket(&self, port: u16, state: &str) -> bool {
        ["tcp", "tcp6"].iter().any(|kind| {
            let table = fs::read_to_string(format!("/proc/{}/net/{kind}", self.leader)).unwrap();
            table.lines().any(|line| {
                let mut words = line.split_whitespace().skip(1);
                let own = words.next().unwrap_or_default();
                own.ends_with(&format!(":{port:04X}")) && words.nth(1) == Some(state)
            })
        })
    }

    /// Copies a file of this machine to the other one.
    pub fn copy(&self, from: &Path, to: &str) {
        let mut command = self.command(&["sh", "-c", "cat > \"$0\"", to]);
        let status = command.stdin(fs::File::open(from).unwrap()).status();
        assert!(status.unwrap().success(), "{to}");
    }

    /// A property of the agent's unit.
    pub fn property(&self, name: &str) -> String {
        let line = format!("systemctl show --value --property {name} {UNIT}");
        self.shell(&line).ok().trim().to_owned()
    }

    /// Waits until there is something.
    pub fn wait_until<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        wait::until(STALL_TIMEOUT, LONGER_INTERVAL, look)
            .unwrap_or_else(|| panic!("no {what}:\n{}", self.journal("short-precise")))
    }

    /// What the journal has of the agent's unit, in one of `journalctl`'s formats.
    pub fn journal(&self, format: &str) -> String {
        self.shell(&format!("journalctl --no-pager -o {format} -u {UNIT}"))
            .ok()
    }

    /// Writes the unit of a node of the snap, changed by this script of `sed`, and starts it.
    pub fn start_agent(&self, script: &str) {
        self.write(
            &format!("/etc/systemd/system/{UNIT}.service"),
            &unit(),
            0o644,
        );
        self.shell(&format!(
            "sed -i '{script}' /etc/systemd/system/{UNIT}.service && \
             systemctl daemon-reload && systemctl start {UNIT}"
        ))
        .ok();
    }

    /// A command by which another host joins through this one, with a new token.
    pub fn join_line(&self) -> String {
        let lines = self.shell("microk8s add-node --format short").ok();
        lines.lines().next().unwrap().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its first process takes all others with it.
        let _ = kill(self.leader, Signal::SIGKILL);
        let ended = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            self.nspawn.try_wait().ok().flatten()
        });
        if ended.is_none() {
            let _ = self.nspawn.kill();
            let _ = self.nspawn.wait();
        }
        remove_control_groups(&self.name);
    }
}

/// Starts a machine; its process and its own first process, or what systemd-nspawn says.
fn boot(name: &str, words: &[OsString], log: &Path) -> Result<(Child, Pid), String> {
    let mut nspawn = Command::new("setpriv")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(log).unwrap())
        .spawn()
        .unwrap();
    if let Some(leader) = leader_of(&mut nspawn) {
        return Ok((nspawn, leader));
    }
    let _ = nspawn.kill();
    let _ = nspawn.wait();
    remove_control_groups(name);
    Err(fs::read_to_string(log).unwrap().trim().to_owned())
}

/// The unit of a node of the snap, to the byte.
pub fn unit() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(format!("packaging/snap/{UNIT}.service"))).unwrap()
}

/// The root to boot, or why there is none.
fn root() -> Result<PathBuf, String> {
    let root = std::env::var_os(ROOT_VARIABLE)
        .map(PathBuf::from)
        .ok_or_else(|| {
            format!("{ROOT_VARIABLE} names no root of a systemd (`.ci/run` makes one)")
        })?;
    if !root.join("usr/lib/systemd/systemd").is_file() {
        return Err(format!("`{}` holds no systemd", root.display()));
    }
    match Command::new("systemd-nspawn").arg("--version").output() {
        Ok(_) => Ok(root),
        Err(error) => Err(format!("systemd-nspawn does not run: {error}")),
    }
}

/// The first process of the machine, once there is one.
fn leader_of(nspawn: &mut Child) -> Option<Pid> {
    let id = nspawn.id();
    let children = format!("/proc/{id}/task/{id}/children");
    let found = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
        if matches!(nspawn.try_wait(), Ok(Some(_)) | Err(_)) {
            return Some(None);
        }
        let text = fs::read_to_string(&children).unwrap_or_default();
        let leader = text.trim().parse().ok()?;
        // Until it runs systemd it is one of the steps of systemd-nspawn.
        let name = fs::read_to_string(format!("/proc/{leader}/comm")).ok()?;
        (name == "systemd\n").then(|| Some(Pid::from_raw(leader)))
    });
    found.flatten()
}

/// Removes the control groups of a machine that has ended.
fn remove_control_groups(name: &str) {
    fn remove(group: &Path) {
        for entry in fs::read_dir(group).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(group);
    }
    for groups in CONTROL_GROUPS {
        remove(&Path::new(groups).join(name));
    }
}

/// Removes the control groups of machines whose test process was killed.
fn clean_up_after_dead_processes() {
    for groups in CONTROL_GROUPS {
        for name in network::names_of_the_dead(Path::new(groups)) {
            remove_control_groups(&name);
        }
    }
}
