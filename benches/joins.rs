//! How many joins a second an agent answers, and whether that depends on how many tokens wait.
//!
//!     cargo bench --bench joins
//!
//! Four agents run, with few and with many outstanding one-time tokens, in their own store and as
//! lines of MicroK8s's file. They are measured in turns, several times over, so that whatever else
//! the machine does falls on all of them, and the medians are compared with each other. Numbers of
//! two runs, or of two machines, say little.
//!
//! Another agent, Canonical's included, is measured with the tokens in a file, one a line:
//!
//!     cargo bench --bench joins -- 127.0.0.1:25000 tokens.txt

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot go on says so at once; its table is its output"
)]

#[path = "../tests/it/lab/program.rs"]
mod program;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/lab/swarm/mod.rs"]
mod swarm;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use microk8s::model::role::Role;

use swarm::agent::StandaloneAgent;
use swarm::{Attempt, Outcome, Swarm};

const FEW: usize = 2_000;
const MANY: usize = 200_000;
/// In place of [`MANY`], for a quick look.
const MANY_VARIABLE: &str = "JOINS_OUTSTANDING";

/// How many nodes join at once.
const AT_ONCE: usize = 16;
/// How many join in one measurement.
const BATCH: usize = 400;
/// When no more of a batch begin: a slow agent need not take them all.
const LIMIT: Duration = Duration::from_secs(4);
/// How often each thing is measured. Odd, so that there is a middle.
const TURNS: usize = 5;

const ROLES: [Role; 2] = [Role::ControlPlane, Role::Worker];

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    match arguments.as_slice() {
        [] => compare_own(),
        [endpoint, tokens] => measure_other(endpoint, Path::new(tokens)),
        _ => println!("usage: cargo bench --bench joins [-- ADDRESS:PORT FILE-WITH-TOKENS]"),
    }
}

/// Where an agent's tokens are.
#[derive(Clone, Copy)]
enum Place {
    Store,
    File,
}

impl Place {
    const fn name(self) -> &'static str {
        match self {
            Self::Store => "own store",
            Self::File => "token file",
        }
    }
}

/// An agent, and what was measured of it.
struct Subject {
    place: Place,
    outstanding: usize,
    agent: StandaloneAgent,
    swarm: Swarm,
    /// By role: joins a second, one number a turn.
    rates: [Vec<f64>; 2],
}

impl Subject {
    fn prepare(place: Place, outstanding: usize) -> Self {
        // In the build's folder: the usual one for temporary files may be in memory, where it
        // costs nothing to have a token safe on disk.
        let agent = StandaloneAgent::start(Path::new(env!("CARGO_TARGET_TMPDIR")));
        let subject = Self {
            place,
            outstanding,
            swarm: Swarm::new(agent.endpoint()),
            agent,
            rates: Default::default(),
        };
        subject.add_tokens(outstanding);
        subject
    }

    fn add_tokens(&self, count: usize) -> Vec<String> {
        match self.place {
            Place::Store => self.agent.issue(count),
            Place::File => self.agent.write_lines(count),
        }
    }

    fn measure(&mut self) {
        for (number, role) in ROLES.into_iter().enumerate() {
            let tokens = self.add_tokens(BATCH);
            let attempts = self.swarm.newcomers_with(&tokens, role);
            let (rate, failures) = measure(&self.swarm, attempts);
            assert!(failures.is_empty(), "{failures:?}");
            self.rates[number].push(rate);
        }
    }
}

/// Joins a second, and what went wrong.
fn measure(swarm: &Swarm, attempts: Vec<Attempt>) -> (f64, Vec<Outcome>) {
    let start = Instant::now();
    let in_time = attempts.into_iter().take_while(|_| start.elapsed() < LIMIT);
    let outcomes = swarm.join(in_time, AT_ONCE);
    let seconds = start.elapsed().as_secs_f64();
    let (admitted, failures): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(Outcome::is_admitted);
    (admitted.len() as f64 / seconds, failures)
}

fn compare_own() {
    let many = std::env::var(MANY_VARIABLE).map_or(MANY, |text| text.parse().unwrap());
    print!("issuing {FEW} and {many} tokens, twice ... ");
    std::io::stdout().flush().unwrap();
    let start = Instant::now();
    let mut subjects: Vec<Subject> = thread::scope(|scope| {
        let kinds = [
            (Place::Store, FEW),
            (Place::Store, many),
            (Place::File, FEW),
            (Place::File, many),
        ];
        let begun = kinds.map(|(place, count)| scope.spawn(move || Subject::prepare(place, count)));
        begun.map(|one| one.join().unwrap()).into()
    });
    println!("{:.0} s", start.elapsed().as_secs_f64());
    // The first turn warms everything up, and does not count.
    for turn in 0..=TURNS {
        for subject in &mut subjects {
            subject.measure();
            if turn == 0 {
                subject.rates = Default::default();
            }
        }
    }
    println!("joins a second, {AT_ONCE} at once; medians of {TURNS} turns, and least to most");
    for (number, role) in ROLES.into_iter().enumerate() {
        println!("\n{}", describe(role));
        println!(
            "{:>12}  {:>11}  {:>9}  {:>5}",
            "tokens in", "outstanding", "per second", "ratio"
        );
        let mut first = None;
        for subject in &mut subjects {
            let (least, middle, most) = spread(&mut subject.rates[number]);
            let ratio = middle / *first.get_or_insert(middle);
            println!(
                "{:>12}  {:>11}  {middle:>10.0}  {ratio:>5.2}  ({least:.0} to {most:.0})",
                subject.place.name(),
                subject.outstanding,
            );
        }
    }
}

fn describe(role: Role) -> &'static str {
    match role {
        Role::ControlPlane => "control plane: the answer to the join request",
        Role::Worker => "worker: the join request and two certificates",
    }
}

/// The least, the middle and the most.
fn spread(rates: &mut [f64]) -> (f64, f64, f64) {
    rates.sort_by(f64::total_cmp);
    (rates[0], rates[rates.len() / 2], rates[rates.len() - 1])
}

/// Uses up the tokens in the file, in turns for both roles.
fn measure_other(endpoint: &str, tokens: &Path) {
    let swarm = Swarm::new(endpoint.parse().unwrap());
    let text = fs::read_to_string(tokens).unwrap();
    let tokens: Vec<String> = text.lines().map(str::to_owned).collect();
    let mut rates: [Vec<f64>; 2] = Default::default();
    let mut failed = [0; 2];
    let turn = (tokens.len() / (2 * TURNS)).clamp(1, BATCH);
    for (number, batch) in tokens.chunks(turn).take(2 * TURNS).enumerate() {
        let role = number % 2;
        let attempts = swarm.newcomers_with(batch, ROLES[role]);
        let (rate, failures) = measure(&swarm, attempts);
        rates[role].push(rate);
        failed[role] += failures.len();
        if let Some(failure) = failures.first() {
            println!("{failure:?}");
        }
    }
    for ((role, rates), failed) in ROLES.into_iter().zip(&mut rates).zip(failed) {
        if !rates.is_empty() {
            let (least, middle, most) = spread(rates);
            let what = describe(role);
            println!("{what}: {middle:.0} a second ({least:.0} to {most:.0}), {failed} failed");
        }
    }
}
