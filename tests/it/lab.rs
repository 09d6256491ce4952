//! Hosts for the tests.
//!
//! A [`Lab`] is up to three hosts, n1, n2 and n3, on one network 10.99.0.0/24. Each has a network
//! namespace, a host name, a hosts file and a group file of its own, a fresh node directory, and
//! stand-ins for the service manager, kubectl and the dqlite shell. Programs run on a host as they
//! would on a machine; nothing of the machine that the tests run on is touched.
//!
//! Needs root and `ip`; where they are missing, [`Lab::new`] says so aloud and the test returns.

pub mod agent;
pub mod changes;
pub mod daemon;
pub mod datastore;
pub mod faulty_wire;
pub mod kubernetes;
pub mod namespaces;
pub mod network;
pub mod nightly;
pub mod nodes;
pub mod peer;
pub mod pem;
pub mod program;
pub mod request;
pub mod revisions;
pub mod schema;
pub mod shared_api;
pub mod small_disk;
pub mod snapshot;
pub mod standins;
pub mod stopped_join;
pub mod swarm;
pub mod systemd;
pub mod wire;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use tempfile::TempDir;

use self::agent::Agent;
use self::namespaces::Namespaces;
use self::network::Network;
use self::program::program;
use self::snapshot::Snapshot;
use self::standins::StandIns;
pub use self::swarm::STALL_TIMEOUT;

/// The agent's own state, which the recordings know nothing of.
const OWN_STATE: &str = "var/cluster-agent";

/// How long a program may run, in seconds.
const TIME_LIMIT: u32 = 240;
/// The exit code of a program that ran for longer.
const ENDED_BY_LIMIT: i32 = 128 + Signal::SIGALRM as i32;

/// Hosts on one network. Everything goes away when it is dropped.
pub struct Lab {
    hosts: Vec<Host>,
    _network: Network,
    _directory: TempDir,
}

impl Lab {
    /// A lab with these hosts, or nothing (and a word on stderr) on a machine that cannot have one.
    pub fn new(hosts: &[&str]) -> Option<Self> {
        if let Some(reason) = network::missing() {
            skip(reason);
            return None;
        }
        let all: Vec<(&str, &str)> = nodes::HOSTS
            .into_iter()
            .filter(|(name, _)| hosts.contains(name))
            .collect();
        assert_eq!(all.len(), hosts.len(), "no such host among {hosts:?}");
        nodes::prepare(hosts);
        let network = Network::new(&all).unwrap();
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-{}-", network::PREFIX, std::process::id()))
            .tempdir_in(scratch())
            .unwrap();
        // Other users must get in: some programs drop their rights.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let hosts = all
            .iter()
            .map(|(name, _)| Host::new(name, network.namespace(name), &directory.path().join(name)))
            .collect();
        Some(Self {
            hosts,
            _network: network,
            _directory: directory,
        })
    }

    /// A lab whose hosts have an address of IPv6 each, besides that of IPv4: fd99::11 is n1's.
    pub fn dual_stack(hosts: &[&str]) -> Option<Self> {
        let lab = Self::new(hosts)?;
        for host in &lab.hosts {
            host.add_ipv6();
        }
        Some(lab)
    }

    /// A lab whose hosts know no IPv4 but that of the loopback.
    pub fn ipv6_only(hosts: &[&str]) -> Option<Self> {
        let lab = Self::dual_stack(hosts)?;
        for host in &lab.hosts {
            host.shell("ip -4 address flush dev eth0; ip -6 route add default dev eth0")
                .ok();
        }
        Some(lab)
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).unwrap()
    }

    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}

/// Where the node directories of tests lie: in memory where the machine has a tmpfs with room, because
/// the tests flush files by the ten thousand. `TMPDIR` overrides it.
pub fn scratch() -> PathBuf {
    const MEMORY: &str = "/dev/shm";
    const ROOM: u64 = 2 << 30;
    let has_room = statvfs(MEMORY)
        .is_ok_and(|memory| memory.blocks_available() * memory.fragment_size() >= ROOM)
        && access(MEMORY, AccessFlags::W_OK).is_ok();
    if std::env::var_os("TMPDIR").is_none() && has_room {
        MEMORY.into()
    } else {
        std::env::temp_dir()
    }
}

/// Says why a test does nothing, past the capture of the test harness.
pub fn skip(reason: &str) {
    say("skipped", reason);
}

/// Whether a program is there; where it is not, that is said.
pub fn is_installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\" >/dev/null", program])
        .status()
        .unwrap()
        .success();
    if !found {
        skip(&format!("`{program}` is not installed"));
    }
    found
}

/// Says how a test runs, past the capture of the test harness.
pub fn tell(what: &str) {
    say("note", what);
}

fn say(kind: &str, what: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // In one piece: other tests write at the same time.
    let line = format!("{kind}: {name}: {what}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// One host.
pub struct Host {
    pub name: String,
    pub stand_ins: StandIns,
    namespace: String,
    namespaces: Mutex<Namespaces>,
    root: PathBuf,
}

impl Host {
    fn new(name: &str, namespace: &str, root: &Path) -> Self {
        let (snap, data, common) = (root.join("snap"), root.join("data"), root.join("common"));
        fs::create_dir_all(&common).unwrap();
        nodes::copy(&nodes::fresh(name), &data);
        // As on the hosts of the recordings, where MicroK8s's installer has made the node.
        for entry in fs::read_dir(data.join("credentials")).unwrap() {
            let readable = fs::Permissions::from_mode(0o644);
            fs::set_permissions(entry.unwrap().path(), readable).unwrap();
        }
        let stand_ins = StandIns::install(&root.join("stand-ins"), &snap, &data);
        symlink(program(), stand_ins.bin().join("microk8s")).unwrap();
        Self {
            name: name.to_owned(),
            stand_ins,
            namespace: namespace.to_owned(),
            namespaces: Mutex::new(Namespaces::new(namespace, name).unwrap()),
            root: root.to_owned(),
        }
    }

    pub fn snap(&self) -> PathBuf {
        self.root.join("snap")
    }

    pub fn snap_data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub fn snap_common(&self) -> PathBuf {
        self.root.join("common")
    }

    /// Where Cluster API would put its token, below `etc`; on a machine this is `/capi`.
    pub fn capi(&self) -> PathBuf {
        self.root.join("capi")
    }

    /// Where the agent's socket is unless it is told otherwise.
    pub fn socket(&self) -> PathBuf {
        self.snap_common().join("run/cluster-agent.sock")
    }

    /// The network namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A directory of the host that is no part of the node.
    pub fn scratch(&self) -> &Path {
        &self.root
    }

    /// A path in the node directory.
    pub fn path(&self, path: &str) -> PathBuf {
        self.snap_data().join(path)
    }

    /// A file of the node directory as text.
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Writes a file of the node directory.
    pub fn write(&self, path: &str, content: &str, mode: u32) {
        fs::write(self.path(path), content).unwrap();
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Removes a file of the node directory.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// The file as this host's fresh node has it.
    pub fn fresh(&self, path: &str) -> Vec<u8> {
        fs::read(nodes::fresh(&self.name).join(path)).unwrap()
    }

    /// What the node directory holds, without the agent's own state.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.snap_data(), &[OWN_STATE])
    }

    /// A program to be run on this host, as root, with the environment that a snap gives.
    pub fn command(&self, words: &[&str]) -> Command {
        let (program, arguments) = words.split_first().unwrap();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                format!(
                    "{}:/usr/sbin:/usr/bin:/sbin:/bin",
                    self.stand_ins.bin().display()
                ),
            )
            .env("HOME", "/root")
            .env("USER", "root")
            .env("LANG", "C.UTF-8")
            .env("SNAP", self.snap())
            .env("SNAP_DATA", self.snap_data())
            .env("SNAP_COMMON", self.snap_common())
            .current_dir("/");
        self.namespaces().enter(&mut command);
        command
    }

    /// The words before a program that a script runs on this host.
    pub fn entering(&self) -> Vec<String> {
        self.namespaces().words()
    }

    /// From now on programs that start on this host see what is mounted on the machine now.
    pub fn see_mounts(&self) {
        *self.namespaces() = Namespaces::new(&self.namespace, &self.name).unwrap();
    }

    fn namespaces(&self) -> MutexGuard<'_, Namespaces> {
        let namespaces = self.namespaces.lock();
        namespaces.unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a program to its end.
    pub fn run(&self, words: &[&str]) -> Output {
        self.run_with_input(words, b"")
    }

    /// Runs a line of shell to its end.
    pub fn shell(&self, line: &str) -> Output {
        self.run(&["sh", "-c", line])
    }

    /// Runs a program that reads this from its standard input.
    pub fn run_with_input(&self, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.command(words);
        namespaces::limit(&mut command, TIME_LIMIT);
        Output::of_command(&mut command, input)
    }

    /// Starts an agent with no arguments and waits until it serves.
    pub fn agent(&self) -> Agent {
        Agent::start(self, &[])
    }

    /// Waits until the agent of this host has its token database open, which is after it is ready.
    pub fn wait_for_database(&self) {
        self.shell("microk8s token list").ok();
    }

    /// A command by which another host joins through this one, with a new token.
    pub fn join_line(&self) -> String {
        self.join_line_with("")
    }

    /// The same, where `add-node` has these options.
    pub fn join_line_with(&self, options: &str) -> String {
        let line = format!("microk8s add-node --format short {options}");
        let lines = self.shell(&line).ok();
        lines.lines().next().unwrap().to_owned()
    }

    /// The text of the hosts file decides which names this host knows.
    pub fn knows(&self, names: &[(&str, &str)]) {
        let mut table = String::from("127.0.0.1 localhost\n");
        for (name, address) in names {
            table += &format!("{address} {name}\n");
        }
        // Written in place: the file is bound by its inode into the programs that run already.
        fs::write(network::etc(&self.namespace).join("hosts"), table).unwrap();
    }

    /// Gives the host one more address on its interface.
    pub fn add_address(&self, address: &str) {
        network::ip(&[
            "-netns",
            &self.namespace,
            "address",
            "add",
            address,
            "dev",
            "eth0",
        ])
        .unwrap();
    }

    /// Gives the host its address of IPv6, to be used at once.
    fn add_ipv6(&self) {
        let address = format!("{}/64", nodes::ipv6(&self.name));
        let add = ["address", "add", &address, "dev", "eth0", "nodad"];
        network::ip(&[&["-netns", &self.namespace], &add[..]].concat()).unwrap();
    }

    /// Gives the host one more interface with an address. It is a bridge, whatever its name says.
    pub fn add_interface(&self, name: &str, address: &str) {
        let namespace = self.namespace.as_str();
        network::ip(&["-netns", namespace, "link", "add", name, "type", "bridge"]).unwrap();
        network::ip(&["-netns", namespace, "address", "add", address, "dev", name]).unwrap();
        network::ip(&["-netns", namespace, "link", "set", name, "up"]).unwrap();
    }
}

/// What a program did.
#[derive(Debug)]
pub struct Output {
    /// The exit code, as a shell gives it: 128 and the number of the signal that killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// Unix time before it started.
    pub began: u64,
    /// Unix time after it ended.
    pub ended: u64,
}

impl Output {
    /// Runs a program that reads this from its standard input, and that has a [`TIME_LIMIT`].
    pub fn of_command(command: &mut Command, input: &[u8]) -> Self {
        let began = now();
        let mut child = command
            .stdin(if input.is_empty() {
                Stdio::null()
            } else {
                Stdio::piped()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            // A program may end without having read it all.
            let _ = stdin.write_all(input);
        }
        let output = Self::of(child, began);
        assert_ne!(
            output.code,
            Some(ENDED_BY_LIMIT),
            "{command:?} does not end\n{output:?}"
        );
        output
    }

    /// Waits for the end of a program that was started then, in unix time.
    fn of(child: Child, began: u64) -> Self {
        let output = child.wait_with_output().unwrap();
        let killed_by = output.status.signal().map(|signal| 128 + signal);
        Self {
            code: output.status.code().or(killed_by),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            began,
            ended: now(),
        }
    }

    /// The standard output of a program that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

/// Unix time in seconds.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::peer::{Peer, Reply, Speaks};
    use super::*;

    #[test]
    fn each_host_has_its_own_name_address_group_and_node_and_reaches_the_others() {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let n2 = lab.host("n2");
        assert_eq!(n2.run(&["hostname"]).ok(), "n2\n");
        assert_eq!(n2.run(&["hostname", "-I"]).ok().trim(), "10.99.0.12");
        assert_eq!(
            n2.run(&["getent", "hosts", "n1"]).ok(),
            "10.99.0.11      n1\n"
        );
        let group = format!("microk8s:x:{}:\n", network::MICROK8S_GID);
        assert_eq!(n2.run(&["getent", "group", "microk8s"]).ok(), group);
        assert_eq!(
            n2.shell("umask; snapctl stop microk8s.daemon-etcd").ok(),
            "0022\n"
        );
        assert_eq!(n2.stand_ins.calls(), ["snapctl stop microk8s.daemon-etcd"]);
        assert!(lab.host("n1").stand_ins.calls().is_empty());
        let route = n2.shell("ip route show default").ok();
        assert!(route.starts_with("default via 10.99.0.1 "), "{route}");
        let certificate = n2
            .shell("openssl x509 -noout -ext subjectAltName < $SNAP_DATA/certs/server.crt")
            .ok();
        assert!(
            certificate.contains("IP Address:10.99.0.12"),
            "{certificate}"
        );
        n2.knows(&[]);
        assert_eq!(n2.run(&["getent", "hosts", "n1"]).code, Some(2));
    }

    #[test]
    fn a_lab_leaves_nothing_behind() {
        let Some(lab) = Lab::new(&["n1"]) else { return };
        let (namespace, root) = (
            lab.host("n1").namespace.clone(),
            lab.host("n1").root.clone(),
        );
        let places = [
            Path::new("/run/netns").join(&namespace),
            network::etc(&namespace),
            root,
        ];
        assert!(places.iter().all(|place| place.exists()));
        drop(lab);
        assert!(places.iter().all(|place| !place.exists()), "{places:?}");
    }

    #[test]
    fn a_peer_answers_as_told_and_remembers_what_it_was_asked() {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let peer = Peer::start(lab.host("n1"), Speaks::Tls, |request| {
            match request.path.as_str() {
                "/close" => Reply::Close,
                _ => Reply::Json(201, "{\"a\":1}".to_owned()),
            }
        });
        let ask = |path: &str| {
            lab.host("n2").shell(&format!(
                "curl -sk -d hello https://10.99.0.11:25000{path} -w ' %{{http_code}}'"
            ))
        };
        assert_eq!(ask("/x").ok(), "{\"a\":1} 201");
        assert_ne!(ask("/close").code, Some(0));
        let requests = peer.requests();
        assert_eq!(requests[0].body, b"hello");
        assert_eq!(requests[1].path, "/close");
        drop(peer);
        assert_eq!(ask("/x").code, Some(7), "nothing listens any more");
    }
}
