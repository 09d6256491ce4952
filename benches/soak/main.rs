//! Whether an agent stays as it is for as long as it runs: nodes join, leave and are removed, tokens
//! are issued, used, revoked, expire and are pruned, the served certificate is renewed.
//!
//!     cargo bench --bench soak -- [MINUTES]
//!
//! Sixty minutes unless told otherwise; `SOAK_NODES=5` is how many nodes join a second. Sixty times in
//! the run it notes the memory, descriptors and threads of the agent, the size of its database, what
//! it logged, and how long a worker's join took. These go to `docs/soak.csv`, with a picture in
//! `docs/soak.svg`. It fails when a node is not treated as its token says, when a token or a node is
//! missing from a list, and when memory, descriptors, threads or the database grow.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot go on says so at once; its table is its output"
)]

#[path = "../../tests/it/lab/program.rs"]
mod program;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/it/lab/swarm/mod.rs"]
mod swarm;

mod churn;
mod plot;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use microk8s::base::wait;

use churn::Churn;

const MINUTES: f64 = 60.0;
const NODES_A_SECOND: usize = 5;
const RATE_VARIABLE: &str = "SOAK_NODES";
/// How many samples a run has.
const SAMPLES: u32 = 60;
/// The unit of the churn, and the least time between two samples.
const STEP: Duration = Duration::from_secs(1);

/// What is noted, in this order; times in milliseconds, sizes in KiB.
pub const COLUMNS: [&str; 11] = [
    "minutes",
    "memory",
    "anonymous",
    "descriptors",
    "threads",
    "database",
    "log",
    "joins",
    "p50",
    "p99",
    "tokens",
];
/// What must not grow, with how much more of it the last quarter of a run may have than the second:
/// in percent, and beside that.
const BOUNDS: [(&str, f64, f64); 4] = [
    ("memory", 10.0, 1024.0),
    ("descriptors", 0.0, 8.0),
    ("threads", 0.0, 4.0),
    ("database", 10.0, 512.0),
];

type Sample = [f64; COLUMNS.len()];

fn main() -> ExitCode {
    let minutes = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let minutes = minutes.map_or(MINUTES, |text| text.parse().expect("minutes"));
    let rate = std::env::var(RATE_VARIABLE).map_or(NODES_A_SECOND, |text| text.parse().unwrap());
    let length = Duration::from_secs_f64(minutes * 60.0);
    let interval = (length / SAMPLES).max(STEP);

    let mut churn = Churn::start(rate);
    let begin = Instant::now();
    let mut samples = Vec::<Sample>::new();
    println!("{}", COLUMNS.join(","));
    while begin.elapsed() < length {
        let due = interval * u32::try_from(samples.len() + 1).unwrap();
        while begin.elapsed() < due {
            let step = Instant::now();
            churn.step();
            wait::between_looks(STEP.saturating_sub(step.elapsed()));
        }
        let mut sample = churn.sample();
        sample[0] = begin.elapsed().as_secs_f64() / 60.0;
        println!("{}", row(&sample));
        samples.push(sample);
    }
    write(&samples);
    let mut faults = churn.end();
    faults.extend(growth(&samples));
    for fault in &faults {
        eprintln!("{fault}");
    }
    ExitCode::from(u8::from(!faults.is_empty()))
}

fn row(sample: &Sample) -> String {
    sample.map(|number| format!("{number:.1}")).join(",")
}

fn write(samples: &[Sample]) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let rows = samples.iter().map(row);
    let table: Vec<String> = std::iter::once(COLUMNS.join(",")).chain(rows).collect();
    fs::write(docs.join("soak.csv"), table.join("\n") + "\n").unwrap();
    fs::write(docs.join("soak.svg"), plot::svg(samples)).unwrap();
}

fn column(samples: &[Sample], name: &str) -> Vec<f64> {
    let number = COLUMNS.iter().position(|column| *column == name).unwrap();
    samples.iter().map(|sample| sample[number]).collect()
}

/// What grew. The first quarter is for warming up.
fn growth(samples: &[Sample]) -> Vec<String> {
    let quarter = samples.len() / 4;
    if quarter == 0 {
        return vec!["too short to tell whether anything grows".to_owned()];
    }
    let grown = |(name, percent, beside): (&str, f64, f64)| {
        let values = column(samples, name);
        let early = median(&values[quarter..2 * quarter]);
        let late = median(&values[values.len() - quarter..]);
        let most = early * (1.0 + percent / 100.0) + beside;
        println!("{name}: {early:.0}, later {late:.0}, at most {most:.0}");
        (late > most).then(|| format!("{name} grows: {early:.0}, later {late:.0}"))
    };
    BOUNDS.into_iter().filter_map(grown).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
