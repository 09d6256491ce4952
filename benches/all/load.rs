//! Nodes that join an agent, each request on a new TLS connection.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use microk8s::model::endpoint::AGENT_PORT;
use microk8s::model::role::Role;

use crate::figures::Figure;
use crate::floors::Floors;
use crate::it::lab::agent::Agent;
use crate::it::lab::kubernetes::{Authorization, Kubernetes};
use crate::it::lab::swarm::agent::{StandaloneAgent, new_tokens};
use crate::it::lab::swarm::{Attempt, Outcome, Swarm};
use crate::it::lab::{Lab, network};
use crate::process::Usage;

/// When no more of a batch begin: a slow agent need not take them all.
const LIMIT: Duration = Duration::from_secs(2);

/// How many attempts a measurement has.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub batch: usize,
    pub turns: usize,
}

/// What nodes present, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// The answer to a control plane's join request.
    Admissions {
        at_once: usize,
    },
    /// Join request and two certificates.
    WorkerJoins,
    UnknownTokens,
    UsedTokens,
}

impl Load {
    pub const ALL: [Self; 5] = [
        Self::Admissions { at_once: 16 },
        Self::Admissions { at_once: 64 },
        Self::WorkerJoins,
        Self::UnknownTokens,
        Self::UsedTokens,
    ];

    pub fn name(self) -> String {
        match self {
            Self::Admissions { at_once } => format!("admissions, {at_once} at once"),
            Self::WorkerJoins => "worker joins, 16 at once".to_owned(),
            Self::UnknownTokens => "unknown tokens, 16 at once".to_owned(),
            Self::UsedTokens => "used tokens, 16 at once".to_owned(),
        }
    }

    const fn at_once(self) -> usize {
        match self {
            Self::Admissions { at_once } => at_once,
            _ => 16,
        }
    }

    const fn role(self) -> Role {
        match self {
            Self::WorkerJoins => Role::Worker,
            _ => Role::ControlPlane,
        }
    }

    /// A connection costs one RSA signature, and a certificate another one.
    const fn signatures(self) -> f64 {
        match self {
            Self::WorkerJoins => 5.0,
            _ => 1.0,
        }
    }

    fn is_as_wanted(self, outcome: &Outcome) -> bool {
        match self {
            Self::Admissions { .. } | Self::WorkerJoins => outcome.is_admitted(),
            Self::UnknownTokens | Self::UsedTokens => {
                matches!(outcome, Outcome::Refused { status, .. } if *status < 600)
            }
        }
    }
}

/// What one measurement gave.
pub struct Measured {
    pub each_second: f64,
    pub seconds: f64,
    pub outcomes: Vec<Outcome>,
    pub failures: Vec<Outcome>,
}

/// Has these nodes join; what does not begin within the limit is left out.
pub fn measure(swarm: &Swarm, attempts: Vec<Attempt>, load: Load, limit: Duration) -> Measured {
    let start = Instant::now();
    let in_time = attempts.into_iter().take_while(|_| start.elapsed() < limit);
    let outcomes = swarm.join(in_time, load.at_once());
    let seconds = start.elapsed().as_secs_f64();
    let wrong = outcomes
        .iter()
        .filter(|outcome| !load.is_as_wanted(outcome));
    let failures: Vec<_> = wrong.cloned().collect();
    Measured {
        each_second: (outcomes.len() - failures.len()) as f64 / seconds,
        seconds,
        outcomes,
        failures,
    }
}

/// An agent under load, and what was measured of it, in the order of the loads.
pub struct Subject {
    agent: StandaloneAgent,
    swarm: Swarm,
    /// Its tokens are lines of MicroK8s's file.
    in_lines: bool,
    used: Vec<String>,
    series: Vec<Series>,
    /// Memory before the first load.
    idle: f64,
}

/// By turn.
struct Series {
    load: Load,
    each_second: Vec<f64>,
    milliseconds: Vec<f64>,
    milliseconds_of_children: Vec<f64>,
    had_children: bool,
    failures: usize,
}

impl Subject {
    pub fn new(agent: StandaloneAgent) -> Self {
        let endpoint = agent.endpoint();
        Self {
            idle: agent.memory("VmRSS") as f64 / 1024.0,
            // Each certificate is asked for on a connection of its own.
            swarm: Swarm::apart(endpoint, 0, &[endpoint]),
            agent,
            in_lines: false,
            used: Vec::new(),
            series: Vec::new(),
        }
    }

    /// The same for an agent that has not started, with all of its tokens in MicroK8s's file.
    pub fn with_lines(mut agent: StandaloneAgent) -> Self {
        agent.start_again();
        let mut subject = Self::new(agent);
        subject.in_lines = true;
        subject
    }

    pub fn agent(&self) -> &StandaloneAgent {
        &self.agent
    }

    /// Puts a load on it.
    pub fn measure(&mut self, load: Load, batch: usize) {
        let tokens = match load {
            Load::UnknownTokens => new_tokens(batch),
            Load::UsedTokens => self.used.split_off(self.used.len().saturating_sub(batch)),
            _ if self.in_lines => self.agent.write_lines(batch),
            _ => self.agent.issue(batch),
        };
        let series = match self.series.iter_mut().find(|series| series.load == load) {
            Some(series) => series,
            None => {
                self.series.push(Series::new(load));
                self.series.last_mut().unwrap()
            }
        };
        let count = series.measure(&self.swarm, &tokens, self.agent.pid());
        if matches!(load, Load::Admissions { .. } | Load::UsedTokens) {
            // Those of attempts that did not begin are left out.
            self.used.extend(tokens.into_iter().take(count));
        }
    }

    /// Forgets what has been measured: it warmed everything up.
    pub fn forget(&mut self) {
        self.series.clear();
    }

    /// The processor's share of each load, by its name.
    pub fn figures(&self, of: &str, floors: &Floors) -> Vec<Figure> {
        let series = self.series.iter();
        let mut figures: Vec<Figure> = series
            .flat_map(|series| series.figures(of, floors))
            .collect();
        let memory = |what: &str| self.agent.memory(what) as f64 / 1024.0;
        let rows = [
            ("memory, idle", self.idle),
            ("memory, after the load", memory("VmRSS")),
            ("memory, peak", memory("VmHWM")),
        ];
        figures.extend(
            rows.map(|(what, value)| Figure::new(format!("{what}{of}"), "MiB", vec![value])),
        );
        figures
    }
}

impl Series {
    fn new(load: Load) -> Self {
        Self {
            load,
            each_second: Vec::new(),
            milliseconds: Vec::new(),
            milliseconds_of_children: Vec::new(),
            had_children: false,
            failures: 0,
        }
    }

    /// Has nodes present these tokens to the agent with this process; gives how many began to.
    fn measure(&mut self, swarm: &Swarm, tokens: &[String], process: i32) -> usize {
        let attempts = swarm.newcomers_with(tokens, self.load.role());
        let before = Usage::of(process);
        let measured = measure(swarm, attempts, self.load, LIMIT);
        let after = Usage::of(process);
        let count = measured.outcomes.len();
        if let Some(failure) = measured.failures.first() {
            let failed = measured.failures.len();
            let load = self.load.name();
            eprintln!("{load}: {failed} of {count} failed, as in {failure:?}");
        }
        let each = |seconds: f64| seconds * 1000.0 / count as f64;
        self.each_second.push(measured.each_second);
        self.milliseconds.push(each(after.own - before.own));
        let children = each(after.children - before.children);
        self.milliseconds_of_children.push(children);
        self.had_children |= after.faults_of_children > before.faults_of_children;
        self.failures += measured.failures.len();
        count
    }

    fn figures(&self, of: &str, floors: &Floors) -> Vec<Figure> {
        let name = format!("{}{of}", self.load.name());
        let floor = floors.signature * self.load.signatures();
        let cpu = Figure::new(
            format!("{name}: CPU of the agent"),
            "ms",
            self.milliseconds.clone(),
        );
        let failed = vec![self.failures as f64];
        let mut figures = vec![
            Figure::new(name.clone(), "1/s", self.each_second.clone()),
            cpu.above(floor),
            Figure::new(format!("{name}: failed"), "", failed),
        ];
        if self.had_children {
            let children = format!("{name}: CPU of its child processes");
            let values = self.milliseconds_of_children.clone();
            figures.push(Figure::new(children, "ms", values));
        }
        figures
    }
}

/// Workers that join the agent of a snap beside a real API server: which programs it starts, and what that costs.
/// Nothing on a machine that can have no hosts or no API server.
pub fn of_snap(of: &str, extent: Extent, floors: &Floors) -> Vec<Figure> {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return Vec::new();
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    // Without an API server the agent starts kubectl, to know why there is none.
    let Some(_kubernetes) = Kubernetes::start(n1, Authorization::AlwaysAllow) else {
        return Vec::new();
    };
    let agent = Agent::start(n1, &[]);
    let endpoint = SocketAddr::from(([10, 99, 0, 11], AGENT_PORT));
    // Its threads stay in the namespace in which they are made.
    let swarm = network::inside(n2.namespace(), || Swarm::apart(endpoint, 0, &[endpoint]));
    let mut series = Series::new(Load::WorkerJoins);
    let (mut calls, mut joins) = (0, 0);
    for turn in 0..=extent.turns {
        if turn == 1 {
            // The first turn warms everything up, and does not count.
            series = Series::new(Load::WorkerJoins);
            joins = 0;
            n1.stand_ins.forget_calls();
        }
        let tokens = new_tokens(extent.batch);
        n1.write("credentials/cluster-tokens.txt", &tokens.join("\n"), 0o600);
        joins += series.measure(&swarm, &tokens, agent.pid());
        calls = n1.stand_ins.calls().len();
    }
    let mut figures = series.figures(of, floors);
    let programs = vec![calls as f64 / joins as f64];
    let what = format!("worker join{of}: programs started");
    figures.push(Figure::new(what, "", programs));
    figures
}

/// A node with so many tokens, for others to be copied from.
pub fn prepare(place: &Path, tokens: usize) -> StandaloneAgent {
    let mut agent = StandaloneAgent::start(place);
    agent.issue(tokens);
    agent.terminate();
    agent
}

/// An agent on this disk, of a node that is a copy of this one.
pub fn start_copy(of: &Path) -> StandaloneAgent {
    let mut agent = copy(of);
    agent.start_again();
    agent
}

/// [`start_copy`] without the start.
pub fn copy(of: &Path) -> StandaloneAgent {
    let agent = StandaloneAgent::prepare(&std::env::temp_dir(), &[]);
    let status = Command::new("cp")
        .arg("-a")
        .arg(of.join("."))
        .arg(agent.node_dir())
        .status();
    assert!(status.unwrap().success(), "cp failed");
    agent
}

/// Measures an agent of any kind by its address, with the tokens of a file, each of which is used.
pub fn measure_other(endpoint: SocketAddr, tokens: &Path) {
    let text = fs::read_to_string(tokens).unwrap();
    let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
    let swarm = Swarm::apart(endpoint, 0, &[endpoint]);
    let half = tokens.len() / 2;
    let runs = [
        (Load::Admissions { at_once: 16 }, &tokens[..half]),
        (Load::WorkerJoins, &tokens[half..]),
        (Load::UsedTokens, &tokens[..half]),
        (Load::UnknownTokens, &new_tokens(half)[..]),
    ];
    for (load, tokens) in runs {
        let attempts = swarm.newcomers_with(tokens, load.role());
        let measured = measure(&swarm, attempts, load, Duration::from_secs(30));
        println!(
            "{}: {:.1} a second ({:.1} s), {} of {} failed",
            load.name(),
            measured.each_second,
            measured.seconds,
            measured.failures.len(),
            measured.outcomes.len(),
        );
        if let Some(failure) = measured.failures.first() {
            println!("  as in {failure:?}");
        }
    }
}
