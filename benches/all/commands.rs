//! Commands as whole processes: how long an operator waits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::disk;
use crate::figures::Figure;
use crate::floors::{Floors, times};
use crate::it::lab::agent::Agent;
use crate::it::lab::swarm::agent::StandaloneAgent;
use crate::it::lab::{Host, Lab};

/// In the place of a stand-in: notes when it began and ended. Bash reads the clock without another process.
const TIMED: &str = "#!/bin/bash\nb=$EPOCHREALTIME\n\"$0.timed\" \"$@\"\nr=$?\necho \"$b $EPOCHREALTIME\" >> TIMES\nexit $r\n";

/// How long this command of the program takes beside an agent, in milliseconds.
pub fn time(program: &Path, agent: &StandaloneAgent, words: &[&str], turns: usize) -> Vec<f64> {
    times(turns, || {
        let status = Command::new(program)
            .args(words)
            .env("MICROK8S_NODE_DIR", agent.node_dir())
            .env("MICROK8S_SOCKET", agent.socket())
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{words:?}");
    })
}

/// `add-node`, `token list` and the start of the agent, beside an agent with so many tokens.
pub fn of_agent(
    program: &Path,
    agent: &StandaloneAgent,
    of: &str,
    turns: usize,
    floors: &Floors,
) -> Vec<Figure> {
    let add_node = time(program, agent, &["add-node", "--format", "token"], turns);
    let list = time(program, agent, &["token", "list"], turns.min(10));
    vec![
        Figure::new(format!("add-node{of}"), "ms", add_node).above(floors.process + floors.flush),
        Figure::new(format!("token list{of}"), "ms", list).above(floors.process),
    ]
}

/// From the start of an agent to its `READY=1`, in milliseconds; the node is there already.
pub fn start_to_ready(program: &Path, of: &StandaloneAgent, turns: usize) -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let notify = folder.path().join("notify");
    let socket = UnixDatagram::bind(&notify).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let one = |_| {
        let start = Instant::now();
        let mut agent = Command::new(program)
            .args(["agent", "--node-name", "first", "--bind"])
            .arg(of.endpoint().to_string())
            .arg("--node-dir")
            .arg(of.node_dir())
            .arg("--socket")
            .arg(folder.path().join("agent.sock"))
            .env("NOTIFY_SOCKET", &notify)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut message = [0; 4096];
        loop {
            let length = socket.recv(&mut message).expect("the agent gets ready");
            let text = String::from_utf8_lossy(&message[..length]);
            if text.lines().any(|line| line == "READY=1") {
                break;
            }
        }
        let took = start.elapsed().as_secs_f64() * 1000.0;
        agent.kill().unwrap();
        agent.wait().unwrap();
        took
    };
    (0..turns).map(one).collect()
}

/// `join` in both roles: the whole, and without what services and the other side take.
pub fn joins(turns: usize, floors: &Floors) -> Vec<Figure> {
    let roles = [("control plane join", ""), ("worker join", " --worker")];
    let mut figures = Vec::new();
    for (name, option) in roles {
        let mut whole = Vec::new();
        let mut own = Vec::new();
        for _ in 0..turns {
            let Some((took, others)) = join(option) else {
                return Vec::new();
            };
            whole.push(took);
            own.push(took - others);
        }
        figures.push(Figure::new(format!("{name}: whole"), "ms", whole));
        let own = Figure::new(format!("{name}: its own part"), "ms", own);
        figures.push(own.above(floors.process + floors.flush));
    }
    figures
}

/// A join on fresh nodes: how long it takes, and for how long of that others work.
fn join(option: &str) -> Option<(f64, f64)> {
    let lab = Lab::new(&["n1", "n2"])?;
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = Agent::start(n1, &[]);
    let join = format!(
        "exec env {} {}{option}",
        disk::variables().join(" "),
        n1.join_line()
    );
    let times = time_stand_ins(n2);
    let before = answering(&agent.log());
    let start = Instant::now();
    n2.shell(&join).ok();
    let took = start.elapsed().as_secs_f64() * 1000.0;
    let services = union(&fs::read_to_string(times).unwrap_or_default());
    let other_side = answering(&agent.log()) - before;
    Some((took, services + other_side))
}

/// From now on this host's stand-ins write to this file when they ran.
fn time_stand_ins(host: &Host) -> std::path::PathBuf {
    let times = host.scratch().join("times");
    let text = TIMED.replace("TIMES", times.to_str().unwrap());
    let programs = [
        host.stand_ins.bin().join("snapctl"),
        host.snap().join("microk8s-kubectl.wrapper"),
        host.snap().join("bin/dqlite"),
    ];
    for program in programs {
        let mut name = program.clone().into_os_string();
        name.push(".timed");
        fs::rename(&program, name).unwrap();
        fs::write(&program, &text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    times
}

/// For how long at least one program ran, in milliseconds; each line has a beginning and an end in seconds.
fn union(times: &str) -> f64 {
    let mut spans: Vec<(f64, f64)> = times
        .lines()
        .map(|line| {
            let (begin, end) = line.split_once(' ').unwrap();
            (begin.parse().unwrap(), end.parse().unwrap())
        })
        .collect();
    spans.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut total, mut covered) = (0.0, 0.0_f64);
    for (begin, end) in spans {
        total += (end - begin.max(covered)).max(0.0);
        covered = covered.max(end);
    }
    total * 1000.0
}

/// For how long an agent handled requests of others, by its log, in milliseconds.
fn answering(log: &str) -> f64 {
    log.lines()
        .filter(|line| line.contains("answered"))
        .filter_map(|line| line.split_once("milliseconds=")?.1.split(' ').next())
        .map(|number| number.parse::<f64>().unwrap())
        .sum()
}
