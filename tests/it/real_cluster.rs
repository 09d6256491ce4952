//! Three control plane nodes and two workers, each on a machine of its own as far as the network
//! goes, with a real dqlite beside each control plane node.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use microk8s::base::wait;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::dev_cluster::is_dqlite_installed;
use crate::lab::datastore;
use crate::lab::network::{self, Network};
use crate::lab::program::program;
use crate::lab::{STALL_TIMEOUT, scratch, skip};

const HOSTS: [(&str, &str); 5] = [
    ("c1", "10.99.0.11"),
    ("c2", "10.99.0.12"),
    ("c3", "10.99.0.13"),
    ("w1", "10.99.0.21"),
    ("w2", "10.99.0.22"),
];
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A machine with a standalone node, whose agent runs.
struct Machine {
    name: &'static str,
    address: &'static str,
    namespace: String,
    directory: PathBuf,
    agent: Option<Child>,
}

impl Machine {
    fn start(
        (name, address): (&'static str, &'static str),
        bind: &str,
        network: &Network,
        root: &Path,
    ) -> Self {
        let mut machine = Self {
            name,
            address,
            namespace: network.namespace(name).to_owned(),
            directory: root.join(name),
            agent: None,
        };
        let bind = format!("{bind}:25000");
        let mut words = vec!["agent", "--node-name", name, "--bind", &bind];
        if machine.is_control_plane() {
            words.push("--datastore-demo");
        }
        let log = File::create(root.join(format!("{name}.log"))).unwrap();
        let agent = machine.command(&words).stderr(log).spawn().unwrap();
        machine.agent = Some(agent);
        machine
    }

    fn is_control_plane(&self) -> bool {
        self.name.starts_with('c')
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(program())
            .args(words)
            .env("MICROK8S_NODE_DIR", &self.directory)
            .stdin(Stdio::null());
        for variable in ["SNAP", "SNAP_DATA", "SNAP_COMMON"] {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(
            output.status.success(),
            "{}: {words:?}: {output:?}",
            self.name
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the datastore lists, asked from this node.
    fn datastore(&self) -> String {
        let backend = self.directory.join("current/var/kubernetes/backend");
        datastore::list(&self.namespace, &backend)
    }

    /// The addresses of its members.
    fn members(&self) -> BTreeSet<String> {
        datastore::members(&self.datastore())
    }

    /// The addresses in a role that `microk8s nodes` lists.
    fn nodes(&self, role: &str) -> BTreeSet<String> {
        let list = self.ok(&["nodes"]);
        let rows = list
            .lines()
            .map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row[2] == role)
            .map(|row| row[1].to_owned())
            .collect()
    }

    /// Kills the agent and its datastore, as a power failure would.
    fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        let datastore = children(agent.id());
        assert!(!datastore.is_empty(), "it has no datastore");
        agent.kill().unwrap();
        agent.wait().unwrap();
        for child in datastore {
            // A companion has a process group of its own.
            let _ = killpg(child, Signal::SIGKILL);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let Some(mut agent) = self.agent.take() else {
            return;
        };
        let _ = kill(Pid::from_raw(agent.id().cast_signed()), Signal::SIGTERM);
        let _ = agent.wait();
    }
}

/// The children of all its threads: a datastore that a join has restarted is not one of the first.
fn children(parent: u32) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let lists = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")));
    // A thread may end meanwhile.
    let lists: String = lists.flatten().collect();
    let ids = lists.split_whitespace().map(|id| id.parse().unwrap());
    ids.map(Pid::from_raw).collect()
}

/// The machines that still run.
struct Cluster {
    machines: Vec<Machine>,
    _network: Network,
    _directory: tempfile::TempDir,
}

impl Cluster {
    /// Machines whose agents listen at their addresses, or at all that they have.
    fn new(hosts: &[(&'static str, &'static str)], everywhere: bool) -> Self {
        let network = Network::new(hosts).unwrap();
        let directory = tempfile::tempdir_in(scratch()).unwrap();
        let start = |host: &(&'static str, &'static str)| {
            let bind = if everywhere { "0.0.0.0" } else { host.1 };
            Machine::start(*host, bind, &network, directory.path())
        };
        let machines = hosts.iter().map(start).collect();
        let cluster = Self {
            machines,
            _network: network,
            _directory: directory,
        };
        for machine in &cluster.machines {
            let socket = machine.directory.join("common/run/cluster-agent.sock");
            let ready = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
                socket.exists().then_some(())
            });
            assert!(
                ready.is_some(),
                "the agent of {} does not run",
                machine.name
            );
        }
        cluster
    }

    fn on(&self, name: &str) -> &Machine {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .unwrap()
    }

    fn join(&self, name: &str, through: &str) {
        let output = self.try_to_join(name, through);
        assert!(output.status.success(), "{name}: {output:?}");
    }

    fn try_to_join(&self, name: &str, through: &str) -> Output {
        let lines = self.on(through).ok(&["add-node", "--format", "short"]);
        let line = lines.lines().next().unwrap();
        let mut words = vec!["join", line.strip_prefix("microk8s join ").unwrap()];
        if !self.on(name).is_control_plane() {
            words.push("--worker");
        }
        self.on(name).run(&words)
    }

    /// Waits until that many members have a vote, so that one can be spared.
    fn has_voters(&self, asked: &str, count: usize) {
        let voters = || {
            let voters = datastore::voters(&self.on(asked).datastore());
            (voters == count).then_some(())
        };
        assert!(wait::until(STALL_TIMEOUT, POLL_INTERVAL, voters).is_some());
    }

    /// The datastore and `microk8s nodes` name these control plane nodes, whichever of them is
    /// asked, and c1 names these workers.
    #[track_caller]
    fn is(&self, control_planes: &[&str], workers: &[&str]) {
        let addresses = |names: &[&str]| -> BTreeSet<String> {
            names
                .iter()
                .map(|name| self.on(name).address.to_owned())
                .collect()
        };
        let expected = addresses(control_planes);
        for name in control_planes {
            let machine = self.on(name);
            assert_eq!(machine.members(), expected, "{name}");
            assert_eq!(machine.nodes("control-plane"), expected, "{name}");
        }
        assert_eq!(self.on("c1").nodes("worker"), addresses(workers));
    }
}

fn can_run() -> bool {
    if !is_dqlite_installed() {
        skip("Debian's package go-dqlite is not installed");
        return false;
    }
    if let Some(reason) = network::missing() {
        skip(reason);
        return false;
    }
    true
}

#[test]
fn the_datastore_and_the_list_of_nodes_agree_on_every_machine_after_each_change() {
    if !can_run() {
        return;
    }
    let mut cluster = Cluster::new(&HOSTS, false);
    cluster.is(&["c1"], &[]);
    cluster.join("c2", "c1");
    cluster.is(&["c1", "c2"], &[]);
    // Any member lets others in.
    cluster.join("c3", "c2");
    cluster.is(&["c1", "c2", "c3"], &[]);
    cluster.join("w1", "c1");
    cluster.join("w2", "c1");
    cluster.is(&["c1", "c2", "c3"], &["w1", "w2"]);
    cluster.has_voters("c1", 3);

    cluster.on("c1").ok(&["remove-node", "w1"]);
    cluster.is(&["c1", "c2", "c3"], &["w2"]);

    let dead = cluster
        .machines
        .iter_mut()
        .find(|machine| machine.name == "c3");
    dead.unwrap().kill();
    let refused = cluster.on("c1").run(&["remove-node", "10.99.0.13"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    cluster
        .on("c1")
        .ok(&["remove-node", "10.99.0.13", "--force"]);
    cluster.is(&["c1", "c2"], &["w2"]);
    cluster.has_voters("c1", 2);

    cluster.on("c2").ok(&["leave"]);
    cluster.is(&["c1"], &["w2"]);
    let own = BTreeSet::from(["10.99.0.12".to_owned()]);
    let left = cluster.on("c2");
    assert_eq!(
        (left.members(), left.nodes("control-plane")),
        (own.clone(), own)
    );
}

/// A node that is alone has its datastore on the loopback.
#[test]
fn a_real_datastore_moves_for_the_first_join_and_back_when_that_fails() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::new(&[HOSTS[0], HOSTS[1], HOSTS[3]], true);
    let listens_at = |addresses: &[&str]| {
        let expected: BTreeSet<String> = addresses.iter().map(|at| (*at).to_owned()).collect();
        let is_so = || (cluster.on("c1").members() == expected).then_some(());
        assert!(
            wait::until(STALL_TIMEOUT, POLL_INTERVAL, is_so).is_some(),
            "{addresses:?}: {:?}",
            cluster.on("c1").members()
        );
    };
    listens_at(&["127.0.0.1"]);
    let in_the_way = cluster
        .on("w1")
        .directory
        .join("current/certs/ca.remote.crt");
    fs::create_dir(&in_the_way).unwrap();
    let failed = cluster.try_to_join("w1", "c1");
    assert!(!failed.status.success(), "{failed:?}");
    listens_at(&["10.99.0.11"]);
    listens_at(&["127.0.0.1"]);
    // The data has come along both ways, and the next join finds it.
    fs::remove_dir(&in_the_way).unwrap();
    cluster.join("w1", "c1");
    cluster.join("c2", "c1");
    listens_at(&["10.99.0.11", "10.99.0.12"]);
}
