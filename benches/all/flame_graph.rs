//! Where the agent spends its time while workers join: `docs/flame-graph.svg`.
//!
//! `just flame-graph` builds the program with symbols and frame pointers, which the released one lacks.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::it::lab::swarm::agent::StandaloneAgent;
use crate::load::{Load, Subject};

const LASTING: Duration = Duration::from_secs(15);

pub fn write() {
    let mut subject = Subject::new(StandaloneAgent::start(Path::new("/dev/shm")));
    subject.measure(Load::WorkerJoins, 100);
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("perf.data");
    let mut perf = Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", "499", "-g", "-o"])
        .arg(&data)
        .args(["-p", &subject.agent().pid().to_string()])
        .spawn()
        .unwrap();
    let start = Instant::now();
    while start.elapsed() < LASTING {
        subject.measure(Load::WorkerJoins, 400);
    }
    kill(Pid::from_raw(perf.id().cast_signed()), Signal::SIGINT).unwrap();
    // perf ends by the signal that it was sent.
    perf.wait().unwrap();
    let mut script = Command::new("perf")
        .args(["script", "-i"])
        .arg(&data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut collapse = Command::new("inferno-collapse-perf")
        .stdin(script.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/flame-graph.svg");
    let status = Command::new("inferno-flamegraph")
        .args(["--title", "The agent while workers join"])
        // What takes less than this part of the time, in percent, is left out.
        .args(["--minwidth", "0.3"])
        .stdin(collapse.stdout.take().unwrap())
        .stdout(File::create(&graph).unwrap())
        .status();
    assert!(status.unwrap().success(), "inferno-flamegraph failed");
    assert!(script.wait().unwrap().success(), "perf script failed");
    assert!(
        collapse.wait().unwrap().success(),
        "inferno-collapse-perf failed"
    );
    println!("written: {}", graph.display());
}
