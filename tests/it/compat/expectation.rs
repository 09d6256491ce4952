//! What a command is expected to do, what it did, and the differences between the two.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::placeholders::Placeholders;
use super::recording::{Command, Recording};
use crate::lab::changes::{Surroundings, between};
use crate::lab::pem::Authority;
use crate::lab::snapshot::Snapshot;
use crate::lab::{Lab, Output};

/// How standard error is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stderr {
    /// These bytes.
    Exactly(String),
    /// One line `error: …`, after it at most lines that start with `failed stage: ` or `hint: `.
    ErrorLine,
    /// A text on how the command is used. Its wording is nobody's interface.
    Usage,
    /// One line that starts like this.
    Line(&'static str),
}

/// What a command is expected to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    pub exit: i32,
    /// Of an HTTP answer.
    pub status: Option<u16>,
    /// Of an HTTP answer.
    pub content_type: Option<String>,
    /// One more field in an answer of the agent that is an error.
    pub reason: Option<String>,
    /// Standard output, or the body of an HTTP answer.
    pub stdout: String,
    pub stderr: Stderr,
    /// Changes to the node directory, by host and path.
    pub changes: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
    /// Calls to what surrounds the node, by host; nothing where they are not looked at.
    pub calls: BTreeMap<String, Option<Vec<String>>>,
}

impl Expected {
    /// What was recorded of a command.
    pub fn recorded(recording: &Recording, command: &Command) -> Self {
        let stderr = recording.stderr(command);
        let hosts = ["n1", "n2", "n3"];
        let head = recording.headers(command).unwrap_or_default();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-type")
                .then(|| value.to_owned())
        };
        Self {
            exit: command.exit,
            status: head
                .split_whitespace()
                .nth(1)
                .map(|status| status.parse().unwrap()),
            content_type: head.lines().find_map(header),
            reason: None,
            stdout: sort_choices(&recording.stdout(command)),
            stderr: match stderr.to_ascii_lowercase().starts_with("usage: ") {
                true => Stderr::Usage,
                false => Stderr::Exactly(stderr),
            },
            changes: hosts
                .iter()
                .map(|host| {
                    (
                        (*host).to_owned(),
                        by_path(recording.changes(command, host)),
                    )
                })
                .collect(),
            calls: hosts
                .iter()
                .map(|host| ((*host).to_owned(), Some(recording.calls(command, host))))
                .collect(),
        }
    }
}

impl Expected {
    /// Gives a recorded certificate that the joining node wrote to a file what is expected of the
    /// file.
    pub fn follow_files(&self, answer: &mut Value) {
        let Some(summary) = answer.pointer_mut("/certificate") else {
            return;
        };
        let file = summary["same_as"][0].as_str().unwrap_or_default();
        let expected = file
            .split_once(':')
            .and_then(|(host, path)| self.changes[host].get(path));
        if let Some(expected) = expected {
            for field in ["version", "sans", "extensions"] {
                summary[field] = expected["summary"][field].clone();
            }
        }
    }

    /// Gives a recorded certificate request that is kept in a file the names expected of the file.
    pub fn follow_request(&self, request: &mut Value) {
        let kept = self.changes["n2"].get("certs/server.remote.csr");
        if let Some(kept) = kept
            && request["request"]["subject"] == kept["summary"]["subject"]
        {
            request["request"]["sans"] = kept["summary"]["sans"].clone();
        }
    }

    /// Adds the `reason` that is expected to an answer that was recorded without.
    pub fn add_reason(&self, answer: &mut Value) {
        if let Some(reason) = &self.reason
            && answer.get("error").is_some()
        {
            answer["reason"] = reason.as_str().into();
        }
    }
}

fn by_path(changes: Vec<Value>) -> BTreeMap<String, Map<String, Value>> {
    changes
        .into_iter()
        .map(|change| {
            let Value::Object(mut change) = change else {
                panic!("{change}")
            };
            // Who wrote a file cannot be seen in the file.
            change.remove("by");
            // Nor does it matter in which order the files stand that hold the same key.
            if let Some(Value::Array(files)) = change
                .get_mut("summary")
                .and_then(|summary| summary.get_mut("key_of_cert"))
            {
                files.sort_by_key(Value::to_string);
            }
            (change["path"].as_str().unwrap().to_owned(), change)
        })
        .collect()
}

/// The recorded order of the choices in `{pretty,yaml,…}` differs from run to run.
fn sort_choices(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let parts = line.split_once("--format {").zip(line.rsplit_once('}'));
        let Some(((before, _), (_, after))) = parts else {
            return line.to_owned();
        };
        let before = &line[..before.len() + "--format {".len()];
        let inside = &line[before.len()..line.len() - after.len() - 1];
        let mut choices: Vec<&str> = inside.split(',').collect();
        choices.sort_unstable();
        format!("{before}{}}}{after}", choices.join(","))
    });
    lines.collect()
}

/// The state of all hosts of a lab at one moment.
pub struct Moment(BTreeMap<String, Snapshot>);

impl Moment {
    /// Looks at every host, and starts their logs of calls anew.
    pub fn before(lab: &Lab) -> Self {
        for host in lab.hosts() {
            host.stand_ins.forget_calls();
        }
        Self::now(lab)
    }

    fn now(lab: &Lab) -> Self {
        Self(
            lab.hosts()
                .iter()
                .map(|host| (host.name.clone(), host.snapshot()))
                .collect(),
        )
    }
}

/// What a command did.
pub struct Observed {
    pub output: Option<Output>,
    pub changes: BTreeMap<String, BTreeMap<String, Map<String, Value>>>,
    pub calls: BTreeMap<String, Vec<String>>,
}

impl Observed {
    /// Compares all hosts with how they were before the command.
    pub fn since(before: &Moment, lab: &Lab, placeholders: &Placeholders) -> Self {
        let after = Moment::now(lab);
        let hide = |text: &str| placeholders.hide(text);
        let changes = lab.hosts().iter().map(|host| {
            let others: Vec<(&str, &Snapshot)> = after
                .0
                .iter()
                .filter(|(name, _)| **name != host.name)
                .map(|(name, tree)| (name.as_str(), tree))
                .collect();
            let mut authorities = vec![
                Authority {
                    name: "own ca".to_owned(),
                    certificate: host.fresh("certs/ca.crt"),
                },
                Authority {
                    name: "own front-proxy ca".to_owned(),
                    certificate: host.fresh("certs/front-proxy-ca.crt"),
                },
            ];
            if host.name != "n1" {
                authorities.push(Authority {
                    name: "remote ca (n1)".to_owned(),
                    certificate: lab.host("n1").fresh("certs/ca.crt"),
                });
            }
            // A node that has left gets authorities of its own.
            for (name, path) in [
                ("new ca", "certs/ca.crt"),
                ("new front-proxy ca", "certs/front-proxy-ca.crt"),
            ] {
                let now = after.0[&host.name].file(path);
                if let Some(certificate) =
                    now.filter(|now| authorities.iter().all(|known| known.certificate != *now))
                {
                    authorities.push(Authority {
                        name: name.to_owned(),
                        certificate: certificate.to_vec(),
                    });
                }
            }
            let around = Surroundings {
                authorities: &authorities,
                others: &others,
                hide: &hide,
            };
            let name = host.name.as_str();
            (
                name.to_owned(),
                by_path(between(&before.0[name], &after.0[name], &around)),
            )
        });
        Self {
            output: None,
            changes: changes.collect(),
            calls: lab
                .hosts()
                .iter()
                .map(|host| {
                    let mut calls = host.stand_ins.calls();
                    // A question changes nothing; MicroK8s does not ask these.
                    calls.retain(|call| {
                        !call.starts_with("snapctl services ")
                            && !call.starts_with("kubectl get nodes,services,endpoints ")
                    });
                    (host.name.clone(), calls)
                })
                .collect(),
        }
    }

    /// The differences to what is expected, in words; none if all is as expected.
    pub fn differences(&self, expected: &Expected, placeholders: &Placeholders) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(output) = &self.output {
            compare_output(output, expected, placeholders, &mut found);
        }
        for (host, changes) in &self.changes {
            compare_changes(host, changes, &expected.changes[host], &mut found);
        }
        for (host, calls) in &self.calls {
            let Some(wanted) = &expected.calls[host] else {
                continue;
            };
            if calls != wanted {
                found.push(format!("calls on {host}:\n{}", columns(wanted, calls)));
            }
        }
        found
    }
}

fn compare_output(
    output: &Output,
    expected: &Expected,
    placeholders: &Placeholders,
    found: &mut Vec<String>,
) {
    if output.code != Some(expected.exit) {
        found.push(format!(
            "exit code: expected {}, got {:?}",
            expected.exit, output.code
        ));
    }
    let stdout = hide_dots(&sort_choices(&placeholders.hide(&output.stdout)));
    if stdout != expected.stdout {
        found.push(format!("stdout:\n{}", texts(&expected.stdout, &stdout)));
    }
    let stderr = placeholders.hide(&output.stderr);
    if let Some(complaint) = complaint(&expected.stderr, &stderr, expected.exit) {
        found.push(format!("stderr, {complaint}\n{}", indent(&stderr)));
    }
}

/// What is wrong with a standard error.
fn complaint(expected: &Stderr, stderr: &str, exit: i32) -> Option<String> {
    // What went wrong stands where MicroK8s puts it; where it went wrong and what to do about it
    // come after.
    let is_beside = |line: &&str| {
        let is_error = *expected != Stderr::ErrorLine && line.starts_with("error: ");
        is_error || line.starts_with("hint: ") || line.starts_with("failed stage: ")
    };
    let told: String = match exit {
        0 => stderr.to_owned(),
        _ => stderr
            .split_inclusive('\n')
            .filter(|line| !is_beside(line))
            .collect(),
    };
    let one_line = told.lines().count() == 1 && told.ends_with('\n');
    match expected {
        Stderr::Exactly(text) if told != *text => {
            Some(format!("expected:\n{}but got:", indent(text)))
        }
        Stderr::ErrorLine if !one_line || !told.starts_with("error: ") => {
            Some("expected one line `error: …`, got:".to_owned())
        }
        Stderr::Line(start) if !one_line || !told.starts_with(start) => {
            Some(format!("expected one line `{start}…`, got:"))
        }
        Stderr::Usage if told.is_empty() || told.contains("panicked") => {
            Some("expected a usage text, got:".to_owned())
        }
        _ => None,
    }
}

fn compare_changes(
    host: &str,
    got: &BTreeMap<String, Map<String, Value>>,
    wanted: &BTreeMap<String, Map<String, Value>>,
    found: &mut Vec<String>,
) {
    let paths: BTreeSet<&String> = got.keys().chain(wanted.keys()).collect();
    for path in paths {
        match (wanted.get(path), got.get(path)) {
            (Some(wanted), Some(got)) if wanted != got => {
                let keys: BTreeSet<&String> = wanted.keys().chain(got.keys()).collect();
                for key in keys
                    .into_iter()
                    .filter(|key| wanted.get(*key) != got.get(*key))
                {
                    let show = |map: &Map<String, Value>| {
                        map.get(key)
                            .map_or_else(|| "nothing".to_owned(), Value::to_string)
                    };
                    found.push(format!(
                        "{host}:{path}: {key}\n{}",
                        texts(&show(wanted), &show(got))
                    ));
                }
            }
            (Some(wanted), None) => {
                found.push(format!(
                    "{host}:{path}: expected but unchanged: {}",
                    short(wanted)
                ));
            }
            (None, Some(got)) => {
                found.push(format!(
                    "{host}:{path}: changed but not expected: {}",
                    short(got)
                ));
            }
            _ => {}
        }
    }
}

/// The dots of a wait that ran out stand for polls, and their number is the clock's business.
fn hide_dots(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let Some((head, dots)) = line.split_once("joining the cluster. ") else {
            return line.to_owned();
        };
        let only_dots = dots
            .trim()
            .chars()
            .all(|letter| letter == '.' || letter == ' ');
        match dots.contains('.') && only_dots {
            true => format!("{head}joining the cluster. {{dots}}\n"),
            false => line.to_owned(),
        }
    });
    lines.collect()
}

fn short(entry: &Map<String, Value>) -> String {
    let text = Value::from(entry.clone()).to_string();
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn texts(expected: &str, got: &str) -> String {
    format!(
        "    expected:\n{}    got:\n{}",
        indent(expected),
        indent(got)
    )
}

fn columns(expected: &[String], got: &[String]) -> String {
    texts(&expected.join("\n"), &got.join("\n"))
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| format!("      |{line}|\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_compared_in_any_order() {
        assert_eq!(
            sort_choices("  --format {b,a,c}\nx\n"),
            "  --format {a,b,c}\nx\n"
        );
        assert_eq!(sort_choices("[--format {b,a}]\n"), "[--format {a,b}]\n");
        assert_eq!(sort_choices("{\n  \"a\": 1\n}\n"), "{\n  \"a\": 1\n}\n");
    }

    #[test]
    fn dots_are_hidden_only_where_a_wait_has_some() {
        let waiting = "Waiting for this node to finish joining the cluster. ";
        assert_eq!(
            hide_dots(&format!("{waiting}. . .  \n")),
            format!("{waiting}{{dots}}\n")
        );
        assert_eq!(
            hide_dots(&format!("{waiting}.. ..  \n")),
            format!("{waiting}{{dots}}\n")
        );
        assert_eq!(hide_dots(&format!("{waiting} \n")), format!("{waiting} \n"));
        assert_eq!(hide_dots("left. . .\n"), "left. . .\n");
    }

    #[test]
    fn an_error_line_may_be_followed_by_hints_and_by_nothing_else() {
        let wrong = |expected: &Stderr, text: &str| complaint(expected, text, 1).is_some();
        assert!(!wrong(
            &Stderr::ErrorLine,
            "error: no route\nhint: look at the cable\n"
        ));
        assert!(wrong(&Stderr::ErrorLine, "error: no route\nmore\n"));
        assert!(wrong(&Stderr::ErrorLine, ""));
        let nothing = Stderr::Exactly(String::new());
        assert!(!wrong(&nothing, "hint: ask for a new token\n"));
        assert!(wrong(&nothing, "warning: something\n"));
        assert!(complaint(&nothing, "hint: none is due\n", 0).is_some());
    }

    #[test]
    fn a_change_that_differs_in_one_field_is_told_by_that_field() {
        let entry = |mode: &str| {
            by_path(vec![
                serde_json::json!({"path": "certs/ca.key", "mode": mode, "kind": "key"}),
            ])
        };
        let mut found = Vec::new();
        compare_changes("n2", &entry("0660"), &entry("0600"), &mut found);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("n2:certs/ca.key: mode\n"),
            "{}",
            found[0]
        );
        found.clear();
        compare_changes("n2", &entry("0600"), &BTreeMap::new(), &mut found);
        assert!(found[0].contains("changed but not expected"));
    }
}
