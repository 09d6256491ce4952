//! `docs/performance.md`: the text is in that file, and what was measured between its marks.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::disk::Disk;
use crate::figures::{Figure, median, short};
use crate::it::lab::program::program;
use crate::{OF_FEW, OF_MANY, OF_SNAP};

const BEGIN: &str = "<!-- figures: begin -->\n";
const END: &str = "<!-- figures: end -->\n";

type Columns = [(Disk, Vec<Figure>)];

/// What the figures are of.
pub struct Machine {
    processor: String,
    kernel: String,
    load: String,
    date: String,
    commit: String,
    megabytes: f64,
}

impl Machine {
    /// Before anything is measured: the load is that of others.
    pub fn describe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
        let values = |name: &str| -> Vec<String> {
            let lines = cpuinfo.lines().filter(|line| line.starts_with(name));
            lines
                .filter_map(|line| Some(line.split_once(": ")?.1.to_owned()))
                .collect()
        };
        let cores = values("processor").len();
        let model = values("model name").into_iter().next();
        let load = fs::read_to_string("/proc/loadavg").unwrap();
        Self {
            processor: format!("{} x {}", cores, model.unwrap_or_default()),
            kernel: said("uname", &["-sr"]),
            load: load.split(' ').next().unwrap().to_owned(),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            commit: said("git", &["describe", "--always", "--dirty"]),
            megabytes: fs::metadata(program()).unwrap().len() as f64 / 1e6,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "processor": self.processor,
            "kernel": self.kernel,
            "load": self.load,
            "date": self.date,
            "commit": self.commit,
            "megabytes": self.megabytes,
        })
    }

    pub fn text(&self) -> String {
        format!(
            "- Machine: {}; {}; load {} before the run\n- Date: {}\n- Commit: `{}`\n",
            self.processor, self.kernel, self.load, self.date, self.commit
        )
    }
}

fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Writes the document and `docs/performance.json`.
pub fn write(machine: &Machine, columns: &Columns) {
    let disks = columns.iter().map(|(disk, figures)| {
        let list: Vec<Value> = figures.iter().map(Figure::to_json).collect();
        (disk.name(), Value::from(list))
    });
    let disks: serde_json::Map<_, _> = disks.collect();
    let all = json!({"machine": machine.to_json(), "disks": disks});
    put("performance", &text(machine, columns), &all);
}

/// Puts text between the marks of a document, and the same as JSON beside it.
pub fn put(name: &str, text: &str, json: &Value) {
    let path = |extension: &str| -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("docs")
            .join(name)
            .with_extension(extension)
    };
    let document = fs::read_to_string(path("md")).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let document = format!("{before}{BEGIN}\n{text}\n{END}{after}");
    fs::write(path("md"), document).unwrap();
    let json = serde_json::to_string_pretty(json).unwrap() + "\n";
    fs::write(path("json"), json).unwrap();
    println!("written: {} and .json", path("md").display());
}

/// The machine, the bars, and all figures.
pub fn text(machine: &Machine, columns: &Columns) -> String {
    let mut text = machine.text();
    text += "\n### Bars\n\n| bar | limit | measured | |\n|---|---|---|---|\n";
    for bar in bars(machine, columns) {
        bar.write(&mut text);
    }
    text += "\n### All figures\n\n| |";
    for (disk, _) in columns {
        write!(text, " {} |", disk.name()).unwrap();
    }
    text += "\n|---";
    text += &"|---".repeat(columns.len());
    text += "|\n";
    for figure in &columns[0].1 {
        let is_count = figure.unit.is_empty();
        let is_zero = |figure: &Figure| figure.values.iter().all(|value| *value == 0.0);
        if is_count
            && columns
                .iter()
                .flat_map(|(_, all)| all)
                .filter(|other| other.what == figure.what)
                .all(is_zero)
        {
            continue;
        }
        let unit = if is_count { "" } else { ", " };
        write!(text, "| {}{unit}{} |", figure.what, figure.unit).unwrap();
        for (_, figures) in columns {
            let found = figures.iter().find(|other| other.what == figure.what);
            write!(text, " {} |", found.map(cell).unwrap_or_default()).unwrap();
        }
        text += "\n";
    }
    text
}

/// The median, half of what lies between the quartiles where there are any, and how many times its floor it is.
fn cell(figure: &Figure) -> String {
    let [low, middle, high] = figure.quartiles();
    let mut cell = short(middle);
    if figure.values.len() > 1 && middle > 0.0 {
        let percent = (high - low) / middle * 50.0;
        write!(cell, " ±{percent:.0} %").unwrap();
    }
    if let Some(floor) = figure.floor {
        write!(cell, " x{}", short(middle / floor)).unwrap();
    }
    cell
}

/// A figure that has a limit.
struct Bar {
    what: String,
    unit: &'static str,
    limit: f64,
    is_least: bool,
    /// None where it could not be measured here.
    measured: Option<f64>,
}

impl Bar {
    fn write(&self, text: &mut String) {
        let kind = if self.is_least { "≥" } else { "≤" };
        let unit = self.unit;
        let limit = if self.limit == 0.0 {
            "none".to_owned()
        } else {
            format!("{kind} {} {unit}", short(self.limit))
        };
        let (measured, verdict) = match self.measured {
            None => ("–".to_owned(), "not measured"),
            Some(number) => {
                let is_met = if self.is_least {
                    number >= self.limit
                } else {
                    number <= self.limit
                };
                let number = if number == 0.0 {
                    "none".to_owned()
                } else {
                    format!("{} {unit}", short(number))
                };
                (number, if is_met { "met" } else { "**missed**" })
            }
        };
        let row = format!(
            "| {} | {} | {} | {verdict} |",
            self.what,
            limit.trim(),
            measured.trim()
        );
        writeln!(text, "{row}").unwrap();
    }
}

fn bars(machine: &Machine, columns: &Columns) -> Vec<Bar> {
    let find = |disk: Disk, what: &str| -> Option<f64> {
        let (_, figures) = columns.iter().find(|(other, _)| *other == disk)?;
        let figure = figures.iter().find(|figure| figure.what == what)?;
        Some(median(&figure.values))
    };
    let worst = |disk: Disk, whats: &[String]| -> Option<f64> {
        let numbers = whats.iter().map(|what| find(disk, what));
        numbers
            .collect::<Option<Vec<f64>>>()?
            .into_iter()
            .reduce(f64::max)
    };
    let (memory, slow) = (Disk::Memory, Disk::Slow(4));
    let both = |loads: &[&str], end: &str| -> Vec<String> {
        let of = |load: &&str| [OF_FEW, OF_MANY].map(|of| format!("{load}{of}: {end}"));
        loads.iter().flat_map(of).collect()
    };
    let cpu = "CPU of the agent";
    let admissions = ["admissions, 16 at once", "admissions, 64 at once"];
    let refusals = ["unknown tokens, 16 at once", "used tokens, 16 at once"];
    let joins = "worker joins, 16 at once";
    let rate = |disk| find(disk, &format!("{joins}{OF_FEW}"));
    let of_joins = |end: &str| [OF_FEW, OF_MANY, OF_SNAP].map(|of| format!("{joins}{of}: {end}"));
    let mut bars = Vec::new();
    let mut bar = |what: &str, unit: &'static str, limit: f64, measured: Option<f64>| {
        bars.push(Bar {
            what: what.to_owned(),
            unit,
            limit,
            is_least: what.contains("at least"),
            measured,
        });
    };
    bar(
        "admission: CPU of the agent, the most of 16 and 64 at once, few and many tokens",
        "ms",
        0.7,
        worst(memory, &both(&admissions, cpu)),
    );
    let admitted = format!("{}{OF_FEW}", admissions[1]);
    bar(
        "admissions with 64 at once and flushes of 4 ms, at least",
        "/s",
        1000.0,
        find(slow, &admitted),
    );
    bar(
        "worker join: CPU of the agent",
        "ms",
        2.2,
        worst(memory, &of_joins(cpu)),
    );
    let snap = format!("worker join{OF_SNAP}: programs started");
    bar(
        "worker join: programs that the agent of a snap starts",
        "",
        0.0,
        find(memory, &snap),
    );
    bar(
        "worker joins that failed",
        "",
        0.0,
        worst(memory, &of_joins("failed")),
    );
    let share = rate(slow)
        .zip(rate(memory))
        .map(|(slow, memory)| slow / memory);
    bar(
        "worker joins with flushes of 4 ms, as a share of those on tmpfs, at least",
        "",
        0.8,
        share,
    );
    bar(
        "refused token: CPU of the agent, the most of unknown and used ones",
        "ms",
        0.4,
        worst(memory, &both(&refusals, cpu)),
    );
    for (role, limits) in [
        ("worker join", [60.0, 150.0]),
        ("control plane join", [120.0, 250.0]),
    ] {
        let what = format!("{role}: its own part");
        bar(
            &format!("{what}, tmpfs"),
            "ms",
            limits[0],
            find(memory, &what),
        );
        bar(
            &format!("{what}, flushes of 4 ms"),
            "ms",
            limits[1],
            find(slow, &what),
        );
    }
    let add_node = format!("add-node{OF_FEW}");
    bar("`add-node`, tmpfs", "ms", 4.0, find(memory, &add_node));
    bar(
        "`add-node`, flushes of 4 ms",
        "ms",
        9.0,
        find(slow, &add_node),
    );
    bar(
        "agent: start to ready, tmpfs",
        "ms",
        15.0,
        find(memory, "start of the agent to READY=1"),
    );
    bar(
        "agent: memory, idle",
        "MiB",
        8.0,
        find(memory, &format!("memory, idle{OF_FEW}")),
    );
    bar(
        "agent: memory, after the load",
        "MiB",
        20.0,
        find(memory, &format!("memory, after the load{OF_FEW}")),
    );
    bar("program", "MB", 12.0, Some(machine.megabytes));
    bars
}
