//! A real dqlite as the datastore of a host: Debian's `dqlite-demo`, started and stopped by the
//! host's service manager as MicroK8s's datastore service is. It speaks no TLS.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use microk8s::base::wait;
use microk8s::platform::Action;
use microk8s::platform::datastore_demo::{self, DatastoreDemo};

use super::{Host, STALL_TIMEOUT, network, skip};

const PAUSE: Duration = Duration::from_millis(100);
/// What ends the thread that waits for orders.
const OVER: &str = "over";

/// The datastore of a host. It ends when it is dropped.
pub struct Datastore {
    orders: File,
    runs: Option<JoinHandle<()>>,
}

impl Datastore {
    /// Starts the datastore of this host's node, or says aloud why it cannot be had. From now on
    /// `snapctl` and the dqlite shell act on it.
    pub fn start(host: &Host) -> Option<Self> {
        if !datastore_demo::is_installed() {
            skip("Debian's package go-dqlite is not installed");
            return None;
        }
        let [orders, answers] = host.stand_ins.real_datastore(&host.snap()).map(pipe);
        let demo = DatastoreDemo::new(backend(host));
        let (namespace, read) = (host.namespace().to_owned(), orders.try_clone().unwrap());
        let runs = thread::spawn(move || {
            network::inside(&namespace, || obey(&demo, read, answers));
        });
        host.shell("snapctl start microk8s.daemon-k8s-dqlite").ok();
        let runs = Some(runs);
        Some(Self { orders, runs })
    }
}

impl Drop for Datastore {
    fn drop(&mut self) {
        let _ = writeln!(self.orders, "{OVER}");
        if let Some(runs) = self.runs.take() {
            let _ = runs.join();
        }
    }
}

/// A named pipe, open at both ends so that neither waits for the other.
fn pipe(path: PathBuf) -> File {
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

fn obey(demo: &DatastoreDemo, orders: File, mut answers: File) {
    for order in BufReader::new(orders).lines() {
        let action = match order.unwrap().as_str() {
            "start" => Action::Start,
            "stop" => Action::Stop,
            "restart" => Action::Restart,
            OVER => return,
            other => panic!("{other}"),
        };
        let outcome = demo.control(action);
        let answer = outcome.map_or_else(|error| error.to_string(), |()| "done".to_owned());
        writeln!(answers, "{answer}").unwrap();
    }
}

/// Kills the datastore of a host, as a power failure would.
pub fn kill(host: &Host) {
    let line = format!(
        "for id in $(ip netns pids {}); do
            case $(cat /proc/$id/comm) in dqlite-demo) kill -KILL $id && echo killed ;; esac
        done",
        host.namespace()
    );
    assert_eq!(host.shell(&line).stdout, "killed\n");
}

/// Waits until that many members have a vote, so that one can be spared.
pub fn has_voters(host: &Host, count: usize) {
    wait_for(host, |list| voters(list) == count);
}

/// Waits until the member at this address has a vote, so that the others can leave.
pub fn has_vote(host: &Host, address: &str) {
    wait_for(host, |list| {
        list.lines()
            .any(|line| line.contains(&format!("|{address}:")) && line.ends_with("|voter"))
    });
}

fn wait_for(host: &Host, holds: impl Fn(&str) -> bool) {
    let list = || list(host.namespace(), &backend(host));
    let found = wait::until(STALL_TIMEOUT, PAUSE, || holds(&list()).then_some(()));
    assert!(found.is_some(), "{}", list());
}

/// The addresses of the members, as the datastore tells this host.
pub fn members_of(host: &Host) -> BTreeSet<String> {
    members(&list(host.namespace(), &backend(host)))
}

fn backend(host: &Host) -> PathBuf {
    host.path("var/kubernetes/backend")
}

/// What a datastore lists, a member a line, asked in this network namespace by way of the members
/// that the node's own part of it, in this folder, knows: one that has no vote may not know who
/// leads.
pub fn list(namespace: &str, backend: &Path) -> String {
    let servers = format!("file://{}", backend.join("cluster.yaml").display());
    let output = Command::new("ip")
        .args(["netns", "exec", namespace, "timeout", "20"])
        .args(["dqlite", "-s", &servers, "k8s", ".cluster"])
        .output()
        .unwrap();
    // Nothing while it moves: then its files are not there.
    String::from_utf8(output.stdout).unwrap()
}

/// The addresses in such a list.
pub fn members(list: &str) -> BTreeSet<String> {
    let rows = list.lines().filter_map(|line| line.split('|').nth(1));
    rows.map(|at| at.strip_suffix(":19001").unwrap().to_owned())
        .collect()
}

/// How many in such a list have a vote.
pub fn voters(list: &str) -> usize {
    list.lines().filter(|line| line.ends_with("|voter")).count()
}
