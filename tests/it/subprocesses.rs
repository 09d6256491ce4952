//! What our programs start: services, kubectl and the dqlite shell as MicroK8s does, nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::agent::Agent;
use crate::lab::{Host, Lab, skip};

/// The programs that the stand-ins themselves are made of.
const INSIDE_STAND_INS: [&str; 7] = ["sh", "sed", "awk", "mawk", "cat", "mv", "flock"];

fn lab() -> Option<Lab> {
    let has_strace = Path::new("/usr/bin/strace").exists();
    if !has_strace {
        skip("strace is not installed");
        return None;
    }
    Lab::new(&["n1", "n2"])
}

/// A command line under strace, and the file with what it starts.
fn traced(host: &Host, name: &str) -> (PathBuf, Vec<String>) {
    let file = host.scratch().join(format!("{name}.strace"));
    let words = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=execve",
        "-o",
        file.to_str().unwrap(),
    ];
    (file.clone(), words.map(str::to_owned).to_vec())
}

/// The programs that were started, but for the first, which is our own, and for the insides of
/// the stand-ins: file names in order.
fn started(host: &Host, trace: &Path) -> Vec<String> {
    let trace = fs::read_to_string(trace).unwrap();
    let programs: Vec<String> = trace
        .lines()
        .filter(|line| line.ends_with(" = 0"))
        .filter_map(|line| {
            Some(
                line.split_once("execve(\"")?
                    .1
                    .split_once('"')?
                    .0
                    .to_owned(),
            )
        })
        .collect();
    let (own, rest) = programs.split_first().unwrap();
    assert!(own.ends_with("/microk8s"), "{own}");
    rest.iter()
        .map(|path| {
            let name = path.rsplit('/').next().unwrap().to_owned();
            let is_stand_in = Path::new(path).starts_with(host.scratch());
            if is_stand_in {
                format!("stand-in {name}")
            } else {
                name
            }
        })
        .filter(|name| !INSIDE_STAND_INS.contains(&name.as_str()))
        .collect()
}

#[test]
fn add_node_starts_nothing() {
    let Some(lab) = lab() else { return };
    let n1 = lab.host("n1");
    for with_agent in [false, true] {
        let _agent = with_agent.then(|| n1.agent());
        let (trace, mut words) = traced(n1, "add-node");
        words.extend(["microk8s", "add-node"].map(str::to_owned));
        n1.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
            .ok();
        assert_eq!(started(n1, &trace), [""; 0]);
    }
}

#[test]
fn a_worker_join_starts_the_recorded_calls_and_nothing_else_on_either_side() {
    let Some(lab) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let (agent_trace, mut words) = traced(n1, "agent");
    words.extend(["microk8s", "agent"].map(str::to_owned));
    let agent = Agent::start_as(n1, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let line = n1.join_line();
    let (join_trace, words) = traced(n2, "join");
    n2.shell(&format!("{} {} --worker", words.join(" "), line))
        .ok();
    // strace keeps signals to itself, and ends with the program.
    let strace = agent.pid();
    let children = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    kill(
        Pid::from_raw(children.trim().parse().unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    agent.ends();
    // Besides the recorded ones Kubernetes is asked which names and addresses are taken, before the
    // node is admitted and before its addresses are signed.
    let kubectl = "stand-in microk8s-kubectl.wrapper";
    assert_eq!(
        started(n1, &agent_trace),
        [kubectl, "stand-in snapctl", kubectl, kubectl, kubectl]
    );
    // The recorded ones, and at the end the question whether the proxy to the API servers runs.
    assert_eq!(started(n2, &join_trace), ["stand-in snapctl"; 8]);
    assert_eq!(
        n2.stand_ins.calls().last().unwrap(),
        "snapctl services microk8s.daemon-apiserver-proxy"
    );
}
