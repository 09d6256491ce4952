//! Many workers that join at once: one agent, and three that keep their tokens in the cluster's API. Writes
//! the figures of `docs/scaling.md`.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use microk8s::model::role::Role;
use serde_json::{Value, json};

use crate::document::{self, Machine};
use crate::figures::short;
use crate::it::lab::program::program;
use crate::it::lab::shared_api::SharedApi;
use crate::it::lab::swarm::Swarm;
use crate::it::lab::swarm::agent::StandaloneAgent;
use crate::load::{self, Load, Measured};
use crate::process::Usage;

/// The number of the next swarm: no node joins twice.
static NEXT: AtomicU32 = AtomicU32::new(0);

const NO_LIMIT: Duration = Duration::from_secs(3600);

struct Row {
    what: &'static str,
    nodes: usize,
    failed: usize,
    seconds: f64,
    /// Of all agents, a join.
    cpu: f64,
    /// Of the largest agent.
    peak: f64,
    issuing: f64,
}

pub fn run(nodes: usize) {
    let machine = Machine::describe();
    let agent = StandaloneAgent::start(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let mut rows = vec![bring_up("one agent", &[&agent], issue(&agent, nodes))];
    let shared = vec![issue_one_for_all(&agent); nodes];
    rows.push(bring_up(
        "one agent, one token for all",
        &[&agent],
        (shared, 0.0),
    ));
    drop(agent);
    // Says why, where no API server can be had.
    if let Some(cluster) = SharedApi::start(3, 1, &[]) {
        let agents: Vec<_> = cluster
            .control_planes
            .iter()
            .map(|plane| &plane.agent)
            .collect();
        let tokens = issue(agents[0], nodes);
        rows.push(bring_up(
            "one agent, tokens in the API",
            &agents[..1],
            tokens,
        ));
        let tokens = issue(agents[0], nodes);
        rows.push(bring_up("three agents, tokens in the API", &agents, tokens));
    }
    let mut text = machine.text();
    text += "\n| | joined | failed | seconds | joins a second | CPU of agents, ms each | peak, MiB | issuing, s |\n";
    text += "|---|---|---|---|---|---|---|---|\n";
    for row in &rows {
        let joined = row.nodes - row.failed;
        writeln!(
            text,
            "| {} | {joined} | {} | {} | {} | {} | {} | {} |",
            row.what,
            row.failed,
            short(row.seconds),
            short(joined as f64 / row.seconds),
            short(row.cpu),
            short(row.peak),
            short(row.issuing),
        )
        .unwrap();
    }
    let list: Vec<Value> = rows.iter().map(Row::to_json).collect();
    println!("{text}");
    document::put("scaling", &text, &Value::from(list));
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "what": self.what,
            "nodes": self.nodes,
            "failed": self.failed,
            "seconds": self.seconds,
            "cpu_ms_each": self.cpu,
            "peak_mib": self.peak,
            "issuing_seconds": self.issuing,
        })
    }
}

/// Tokens for one use each, and the seconds that it takes to issue them.
fn issue(agent: &StandaloneAgent, count: usize) -> (Vec<String>, f64) {
    let start = Instant::now();
    let tokens = agent.issue(count);
    (tokens, start.elapsed().as_secs_f64())
}

/// A token for any number of nodes.
fn issue_one_for_all(agent: &StandaloneAgent) -> String {
    let output = Command::new(program())
        .args(["add-node", "--token-ttl", "1h", "--format", "token"])
        .env("MICROK8S_NODE_DIR", agent.node_dir())
        .env("MICROK8S_SOCKET", agent.socket())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Has a worker join for each token, each agent getting its share of them, 16 at once.
fn bring_up(
    what: &'static str,
    agents: &[&StandaloneAgent],
    (tokens, issuing): (Vec<String>, f64),
) -> Row {
    let nodes = tokens.len();
    eprintln!("{what}: {nodes} nodes");
    let processes = || agents.iter().map(|agent| Usage::of(agent.pid()).own);
    let before: f64 = processes().sum();
    let shares = tokens.chunks(nodes.div_ceil(agents.len()));
    let measured: Vec<Measured> = thread::scope(|scope| {
        let begun: Vec<_> = agents
            .iter()
            .zip(shares)
            .map(|(agent, tokens)| {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                scope.spawn(move || {
                    let endpoint = agent.endpoint();
                    let swarm = Swarm::apart(endpoint, number, &[endpoint]);
                    let attempts = swarm.newcomers_with(tokens, Role::Worker);
                    load::measure(&swarm, attempts, Load::WorkerJoins, NO_LIMIT)
                })
            })
            .collect();
        begun.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let seconds = measured.iter().map(|one| one.seconds);
    let seconds = seconds.fold(0.0, f64::max);
    let failures: Vec<_> = measured.iter().flat_map(|one| &one.failures).collect();
    if let Some(failure) = failures.first() {
        eprintln!("{} failed, as in {failure:?}", failures.len());
    }
    let peaks = agents
        .iter()
        .map(|agent| agent.memory("VmHWM") as f64 / 1024.0);
    Row {
        what,
        nodes,
        failed: failures.len(),
        seconds,
        cpu: (processes().sum::<f64>() - before) * 1000.0 / nodes as f64,
        peak: peaks.fold(0.0, f64::max),
        issuing,
    }
}
