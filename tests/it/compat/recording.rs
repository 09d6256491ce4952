//! Reads the recordings: one folder a scenario, described in `recordings/README.md`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// A scenario with what was recorded of it.
#[derive(Debug, Deserialize)]
pub struct Recording {
    pub name: String,
    #[serde(default)]
    pub preconditions: Vec<String>,
    pub commands: Vec<Command>,
    #[serde(skip)]
    folder: PathBuf,
    /// Words that stand for others.
    #[serde(skip)]
    words: &'static [(&'static str, &'static str)],
}

/// One command of a scenario.
#[derive(Debug, Deserialize)]
pub struct Command {
    pub n: usize,
    pub host: String,
    #[serde(rename = "command")]
    pub line: String,
    pub exit: i32,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/compat/recordings")
}

/// The names of all recorded scenarios, in order.
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The files of a fresh node, as recorded on the host n2.
pub fn fresh_node() -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join("fresh-node.json")).unwrap()).unwrap()
}

/// The manifest of the pod network on the hosts of the recordings. It is a few lines of one, which
/// a real kubectl refuses.
pub const MANIFEST: &str = "args/cni-network/cni.yaml";

/// What the recorded hosts have in [`MANIFEST`].
pub fn recorded_manifest() -> String {
    let fresh = fresh_node();
    let mut files = fresh["files"].as_array().unwrap().iter();
    let manifest = files.find(|entry| entry["path"] == MANIFEST).unwrap();
    manifest["content"].as_str().unwrap().to_owned()
}

impl Recording {
    pub fn load(name: &str) -> Self {
        let folder = folder().join(name);
        let text = fs::read_to_string(folder.join("scenario.json"))
            .unwrap_or_else(|error| panic!("no recording {name}: {error}"));
        let mut recording: Self = serde_json::from_str(&text).unwrap();
        assert_eq!(recording.name, name);
        recording.folder = folder;
        recording
    }

    /// The scenario with other words in place of some, as a scenario of its own.
    pub fn load_as(name: &str, words: &'static [(&'static str, &'static str)]) -> Self {
        let mut recording = Self::load(name);
        recording.name += "-in-other-words";
        recording.words = words;
        let mut commands = std::mem::take(&mut recording.commands);
        for command in &mut commands {
            command.line = recording.in_its_words(&command.line);
        }
        recording.commands = commands;
        for text in &mut recording.preconditions {
            for (before, after) in words {
                *text = text.replace(before, after);
            }
        }
        recording
    }

    fn in_its_words(&self, text: &str) -> String {
        self.words
            .iter()
            .fold(text.to_owned(), |text, (before, after)| {
                text.replace(before, after)
            })
    }

    pub fn stdout(&self, command: &Command) -> String {
        self.file(command, "stdout.txt").unwrap()
    }

    pub fn stderr(&self, command: &Command) -> String {
        self.file(command, "stderr.txt").unwrap()
    }

    /// Status line and headers, if the command was an HTTP request.
    pub fn headers(&self, command: &Command) -> Option<String> {
        self.file(command, "headers.txt")
    }

    /// The calls to services, kubectl and the dqlite shell on a host.
    pub fn calls(&self, command: &Command, host: &str) -> Vec<String> {
        let log = self.file(command, &self.of_host(command, host, "calls", "log"));
        log.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The changes to the node directory of a host.
    pub fn changes(&self, command: &Command, host: &str) -> Vec<Value> {
        let file = self.file(command, &self.of_host(command, host, "changes", "json"));
        file.map_or_else(Vec::new, |text| serde_json::from_str(&text).unwrap())
    }

    /// The requests at the agent and its answers, in order, over all commands.
    pub fn wire(&self) -> Vec<Value> {
        let Ok(text) = fs::read_to_string(self.folder.join("wire.jsonl")) else {
            return Vec::new();
        };
        text.lines()
            .map(|line| serde_json::from_str(&self.in_its_words(line)).unwrap())
            .collect()
    }

    /// The files of the command's own host carry no host name. For HTTP requests that is the host
    /// of the agent.
    fn of_host(&self, command: &Command, host: &str, stem: &str, end: &str) -> String {
        let own = if self.name.starts_with("http-") {
            "n1"
        } else {
            &command.host
        };
        if host == own {
            format!("{stem}.{end}")
        } else {
            format!("{stem}.{host}.{end}")
        }
    }

    fn file(&self, command: &Command, name: &str) -> Option<String> {
        let name = match self.commands.len() {
            1 => name.to_owned(),
            _ => format!("{}.{name}", command.n),
        };
        let text = fs::read_to_string(self.folder.join(name)).ok()?;
        Some(self.in_its_words(&text))
    }
}

/// Whether a name is meant by a pattern, in which `*` stands for any text.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            let Some(tail) = name.strip_prefix(start) else {
                return false;
            };
            (0..=tail.len())
                .filter(|&at| tail.is_char_boundary(at))
                .any(|at| matches(rest, &tail[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_can_be_read() {
        for name in names() {
            let recording = Recording::load(&name);
            for command in &recording.commands {
                recording.stdout(command);
                recording.stderr(command);
                for host in ["n1", "n2", "n3"] {
                    recording.calls(command, host);
                    recording.changes(command, host);
                }
            }
            recording.wire();
        }
    }

    #[test]
    fn the_files_of_a_scenario_with_several_commands_are_told_apart() {
        let recording = Recording::load("join-one-time-token-twice");
        let [first, second] = recording.commands.as_slice() else {
            panic!()
        };
        assert!(
            recording
                .stdout(first)
                .ends_with("Successfully joined the cluster.\n")
        );
        assert!(recording.stdout(second).ends_with("Invalid token (500).\n"));
        assert!(!recording.changes(first, "n1").is_empty());
        assert!(recording.changes(second, "n1").is_empty());
        assert_eq!(recording.wire().len(), 4);
    }

    #[test]
    fn a_star_in_a_pattern_stands_for_any_text() {
        assert!(matches("join-*", "join-help"));
        assert!(matches("*.backup", "certs/ca.crt.backup"));
        assert!(matches("a*c*e", "abcde"));
        assert!(matches("same", "same"));
        assert!(!matches("join-*", "add-node-join-"));
        assert!(!matches("same", "same-not"));
        assert!(!matches("a*c*e", "abde"));
    }
}
