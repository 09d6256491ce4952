//! What the program costs, and what it costs at least on this machine: the one place of figures.
//!
//!     cargo bench --bench all                             docs/performance.md and docs/performance.json
//!     cargo bench --bench all -- --short                  the same in a minute, on standard output
//!     cargo bench --bench all -- compare PROGRAM          another build, in turn with this one
//!     cargo bench --bench all -- bring-up [NODES]         docs/scaling.md and docs/scaling.json
//!     cargo bench --bench all -- flame-graph              docs/flame-graph.svg (needs perf and inferno)
//!     cargo bench --bench all -- address IP:PORT TOKENS   any other agent; TOKENS is a file, a token a line
//!
//! Each disk has a process of its own, with the folder for temporary files there and, for slow ones, with
//! `flush_delay.c` loaded, which the programs that it starts inherit. Whatever is compared is measured in turns, so
//! that whatever else the machine does falls on all of it. Figures of two runs, or of two machines, say little.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot go on says so at once; its table is its output"
)]

#[expect(dead_code, unused_imports, reason = "the tests use more of it")]
#[path = "../../tests/it"]
mod it {
    pub mod lab;
}
mod bring_up;
mod commands;
mod disk;
mod document;
mod figures;
mod flame_graph;
mod floors;
mod load;
mod process;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use disk::Disk;
use figures::Figure;
use floors::Floors;
use it::lab::program::program;
use it::lab::swarm::agent::StandaloneAgent;
use load::{Extent, Load, Subject};

const FEW: usize = 2_000;
const MANY: usize = 200_000;

const FULL: Extent = Extent {
    batch: 400,
    turns: 3,
};
const SHORT: Extent = Extent {
    batch: 60,
    turns: 1,
};

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => all(FULL),
        ["--short"] => all(SHORT),
        ["compare", program] => compare(program),
        ["bring-up"] => bring_up::run(5_000),
        ["bring-up", nodes] => bring_up::run(nodes.parse().unwrap()),
        ["flame-graph"] => flame_graph::write(),
        ["address", endpoint, tokens] => {
            load::measure_other(endpoint.parse().unwrap(), Path::new(tokens));
        }
        // What the processes for the disks are told.
        ["on", extent, few, many] => {
            let extent = if *extent == "short" { SHORT } else { FULL };
            print(&on_disk(extent, Path::new(few), Path::new(many)));
        }
        ["pair", base] => print(&pair(Path::new(base))),
        _ => eprintln!("usage: see the head of benches/all/main.rs"),
    }
}

fn print(figures: &[Figure]) {
    let list: Vec<Value> = figures.iter().map(Figure::to_json).collect();
    println!("{}", Value::from(list));
}

/// Runs this program for a disk, and reads the figures that it prints.
fn run_on(disk: Disk, words: &[&str]) -> Vec<Figure> {
    eprintln!("measuring: {}", disk.name());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(words).stderr(Stdio::inherit());
    disk.apply(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{disk:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    // A stand-in may have printed something before.
    let list: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    list.as_array()
        .unwrap()
        .iter()
        .map(Figure::from_json)
        .collect()
}

fn all(extent: Extent) {
    disk::build_library();
    let is_short = extent.turns == SHORT.turns;
    let many = if is_short { MANY / 10 } else { MANY };
    let machine = document::Machine::describe();
    eprintln!("issuing {FEW} and {many} tokens");
    let memory = Path::new("/dev/shm");
    let few = load::prepare(memory, FEW);
    let many = load::prepare(memory, many);
    let [few, many] = [&few, &many].map(|agent| agent.node_dir().to_str().unwrap());
    let words = ["on", if is_short { "short" } else { "full" }, few, many];
    let columns: Vec<(Disk, Vec<Figure>)> = Disk::ALL
        .into_iter()
        .map(|disk| (disk, run_on(disk, &words)))
        .collect();
    if is_short {
        println!("{}", document::text(&machine, &columns));
    } else {
        document::write(&machine, &columns);
    }
}

/// What the names of figures end with, by the subject.
pub const OF_FEW: &str = ", few tokens";
pub const OF_MANY: &str = ", many tokens";
pub const OF_LINES: &str = ", many lines";
pub const OF_SNAP: &str = ", agent of a snap";

/// Everything on the disk of temporary files.
fn on_disk(extent: Extent, few: &Path, many: &Path) -> Vec<Figure> {
    let floors = Floors::measure();
    let program = program();
    let mut figures = floors.figures();
    figures.extend(floors::parts(&floors));
    let fresh = load::copy(few);
    let ready = commands::start_to_ready(&program, &fresh, extent.batch / 20);
    figures.push(Figure::new("start of the agent to READY=1", "ms", ready).above(floors.process));
    let lines = load::copy(few);
    lines.write_lines(if extent.turns == SHORT.turns {
        MANY / 10
    } else {
        MANY
    });
    let mut lines = Subject::with_lines(lines);
    let mut others = [few, many].map(|of| Subject::new(load::start_copy(of)));
    for (subject, of) in others.iter().zip([OF_FEW, OF_MANY]) {
        let turns = extent.batch / 10;
        figures.extend(commands::of_agent(
            &program,
            subject.agent(),
            of,
            turns,
            &floors,
        ));
    }
    // The first turn warms everything up, and does not count.
    for turn in 0..=extent.turns {
        for subject in &mut others {
            for load in Load::ALL {
                subject.measure(load, extent.batch);
            }
        }
        lines.measure(Load::ALL[0], extent.batch);
        if turn == 0 {
            others
                .iter_mut()
                .chain([&mut lines])
                .for_each(Subject::forget);
        }
    }
    let [few, many] = &others;
    for (subject, of) in [(few, OF_FEW), (many, OF_MANY), (&lines, OF_LINES)] {
        figures.extend(subject.figures(of, &floors));
    }
    figures.extend(load::of_snap(OF_SNAP, extent, &floors));
    figures.extend(commands::joins(extent.turns.max(2), &floors));
    figures
}

/// This build and another one in turns, in memory and with flushes of 4 ms.
fn compare(base: &str) {
    disk::build_library();
    for disk in [Disk::Memory, Disk::Slow(4)] {
        let figures = run_on(disk, &["pair", base]);
        println!(
            "{}: medians of this build, of {base}, and their ratio",
            disk.name()
        );
        let (new, old) = figures.split_at(figures.len() / 2);
        for (new, old) in new.iter().zip(old) {
            let (one, other) = (figures::median(&new.values), figures::median(&old.values));
            let ratio = one / other;
            println!(
                "{:>9.2} {other:>9.2} {ratio:>6.2}  {} {}",
                one, new.what, new.unit
            );
        }
    }
}

/// The figures of this build, and then as many of the other one.
fn pair(base: &Path) -> Vec<Figure> {
    let floors = Floors::measure();
    let programs: [PathBuf; 2] = [program(), base.to_owned()];
    let mut subjects = programs.each_ref().map(|program| {
        let place = std::env::temp_dir();
        let mut agent = StandaloneAgent::prepare_by(program.clone(), &place, &[]);
        agent.start_again();
        agent.issue(FEW);
        (Subject::new(agent), Vec::new())
    });
    for turn in 0..=2 * FULL.turns {
        for ((subject, times), program) in subjects.iter_mut().zip(&programs) {
            for load in Load::ALL {
                subject.measure(load, FULL.batch);
            }
            times.extend(commands::time(program, subject.agent(), &["add-node"], 10));
            if turn == 0 {
                subject.forget();
                times.clear();
            }
        }
    }
    let mut figures = Vec::new();
    for (subject, times) in subjects {
        figures.extend(subject.figures("", &floors));
        figures.push(Figure::new("add-node", "ms", times));
    }
    // A load with child processes has a figure more, and only one of the builds may have them.
    figures.retain(|figure| !figure.what.contains("child"));
    figures
}
