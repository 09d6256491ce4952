//! How a difference to MicroK8s turns what was recorded into what is expected here.
//!
//! Each row of [`GROUPS`] says in words what differs and why, and carries [`Effect`]s that
//! turn what was recorded into what is expected here. The comparison with the result is exact, so
//! an exception that no longer holds fails its test like any other difference. A row that changes
//! no recording it names fails too, and so does a `docs/compatibility.md` that does not show these
//! very rows.

use std::ffi::OsString;

use serde_json::{Map, Value};

use super::differences::GROUPS;
use super::expectation::{Expected, Stderr};
use super::recording::{Command, Recording, matches};

/// How a scenario is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `add-node` on a node where no agent of ours runs.
    AddNodeAlone,
    /// `add-node` through our agent.
    AddNodeThroughAgent,
    /// `join` with no agent on the joining node, against our agent.
    JoinInProcess,
    /// `join` through our agent on the joining node, against our agent.
    JoinThroughAgent,
    /// `join` against the recorded answers of MicroK8s's agent.
    JoinRecordedAgent,
    /// `leave` with no agent on the leaving node.
    LeaveInProcess,
    /// `leave` through our agent.
    LeaveThroughAgent,
    /// `remove-node` with no agent on the node.
    RemoveInProcess,
    /// `remove-node` through our agent.
    RemoveThroughAgent,
    /// The recorded requests of MicroK8s's own `join`, and of curl, against our agent.
    Requests,
    /// No command: the files of a fresh node.
    FreshNode,
}

/// What [`Mode::FreshNode`] is a recording of; a file, not a folder.
pub const FRESH_NODE: &str = "fresh-node";

/// Which host's node directory.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// The host where the command runs.
    Own,
    /// The contacted node.
    N1,
    Every,
}

/// How the expectation differs from the recording.
#[derive(Clone, Copy)]
pub enum Effect {
    /// These files do not change.
    Without(Side, &'static [&'static str]),
    /// These entries have other fields: a JSON object laid over them, in which null takes away.
    Patch(Side, &'static [&'static str], &'static str),
    /// One more entry: JSON.
    Also(Side, &'static str),
    /// These lines of a token file are blank: the used ones, one more with each command.
    Blanked(&'static str),
    /// Nothing changes.
    Untouched(Side),
    Exit(i32),
    /// The status of an HTTP answer.
    Status(u16),
    /// The content type of an HTTP answer with JSON in it.
    JsonType(&'static str),
    /// A field `reason` in the agent's answer, which is an error.
    Reason(&'static str),
    /// Other effects, but for these commands of the scenario alone.
    Only(&'static [usize], &'static [Effect]),
    Stdout(&'static str),
    /// A part of the standard output reads otherwise.
    Instead(&'static str, &'static str),
    Stderr(fn() -> Stderr),
    /// The help of the command, and nothing else.
    Help,
    /// All is as in another recording.
    As(&'static str),
    /// Calls on the host where the command runs are not looked at.
    AnyCalls,
    /// Calls on this host are not looked at.
    AnyCallsOn(&'static str),
    /// There are no calls on any host.
    NoCalls,
    /// Other calls in place of these, which stand together, on the host of the command.
    InsteadOfCalls(&'static [&'static str], &'static [&'static str]),
    /// Another call in place of this one, on whichever host it is made.
    InsteadOfCall(&'static str, &'static str),
}

use Effect::{
    Also, AnyCalls, AnyCallsOn, As, Blanked, Exit, Help, Instead, InsteadOfCall, InsteadOfCalls,
    JsonType, NoCalls, Only, Patch, Reason, Status, Stdout, Untouched, Without,
};
use Side::{Every, N1, Own};

/// One row of the table.
pub struct Difference {
    pub microk8s: &'static str,
    pub here: &'static str,
    pub why: &'static str,
    /// Where it shows in the recordings, if it does.
    pub cases: &'static [Case],
    /// The tests that hold the row beside those of the recordings.
    pub tests: &'static [&'static str],
}

/// What a difference does to some recordings.
pub struct Case {
    /// Patterns for their names.
    pub of: &'static [&'static str],
    /// The ways to run them in which the effects are to be seen.
    pub modes: &'static [Mode],
    pub effects: &'static [Effect],
}

/// Lays the exceptions that concern a scenario over what was recorded.
pub fn apply(expected: &mut Expected, recording: &Recording, command: &Command, mode: Mode) {
    for effect in effects(&recording.name, mode) {
        effect.apply(expected, command);
    }
}

/// Lays the exceptions that concern a fresh node over its recorded files.
pub fn apply_to_fresh_node(files: &mut Entries) {
    for effect in effects(FRESH_NODE, Mode::FreshNode) {
        effect.apply_to_files(files);
    }
}

fn differences() -> impl Iterator<Item = &'static Difference> {
    GROUPS.iter().flat_map(|(_, differences)| *differences)
}

fn effects(recording: &str, mode: Mode) -> impl Iterator<Item = &'static Effect> {
    differences()
        .flat_map(|difference| difference.cases)
        .filter(move |case| case.modes.contains(&mode) && case.is_of(recording))
        .flat_map(|case| case.effects)
}

impl Case {
    fn is_of(&self, recording: &str) -> bool {
        self.of.iter().any(|pattern| matches(pattern, recording))
    }
}

/// What is known of each file, by path.
pub type Entries = std::collections::BTreeMap<String, Map<String, Value>>;

impl Effect {
    fn apply(&self, expected: &mut Expected, command: &Command) {
        let own = command.host.as_str();
        match *self {
            Without(side, paths) => expected.on(side, own, |entries| {
                entries.retain(|path, _| !paths.iter().any(|pattern| matches(pattern, path)));
            }),
            Patch(side, ..) => expected.on(side, own, |entries| self.apply_to_files(entries)),
            Also(side, entry) => expected.on(side, own, |entries| {
                let entry: Map<String, Value> = serde_json::from_str(entry).unwrap();
                entries.insert(entry["path"].as_str().unwrap().to_owned(), entry);
            }),
            Blanked(path) => expected.on(Every, own, |entries| {
                if let Some(entry) = entries.get_mut(path) {
                    let rest = entry
                        .get("content")
                        .and_then(Value::as_str)
                        .unwrap_or_default();
                    let blank = format!("{}\n", " ".repeat(32)).repeat(command.n);
                    entry.insert("content".to_owned(), (blank + rest).into());
                }
            }),
            Untouched(side) => expected.on(side, own, Entries::clear),
            Exit(code) => expected.exit = code,
            Status(code) => expected.status = Some(code),
            JsonType(kind) => {
                if serde_json::from_str::<Value>(&expected.stdout).is_ok() {
                    expected.content_type = Some(kind.to_owned());
                }
            }
            Reason(reason) => expected.reason = Some(reason.to_owned()),
            Only(commands, effects) => {
                if commands.contains(&command.n) {
                    effects
                        .iter()
                        .for_each(|effect| effect.apply(expected, command));
                }
            }
            Stdout(text) => expected.stdout = text.to_owned(),
            Instead(before, after) => expected.stdout = expected.stdout.replace(before, after),
            Effect::Stderr(stderr) => expected.stderr = stderr(),
            Help => {
                let words: Vec<OsString> =
                    command.line.split(' ').skip(1).map(Into::into).collect();
                let name = words[0].to_str().unwrap();
                expected.stdout = microk8s::cli::requested_help(name, &words[1..]).unwrap();
                expected.exit = 0;
            }
            As(other) => {
                let recording = Recording::load(other);
                *expected = Expected::recorded(&recording, &recording.commands[0]);
            }
            AnyCalls => {
                expected.calls.insert(own.to_owned(), None);
            }
            AnyCallsOn(host) => {
                expected.calls.insert(host.to_owned(), None);
            }
            InsteadOfCalls(before, after) => {
                if let Some(Some(calls)) = expected.calls.get_mut(own) {
                    let place = calls
                        .windows(before.len())
                        .position(|window| window == before)
                        .unwrap_or_else(|| panic!("{before:?} are not among {calls:?}"));
                    let after = after.iter().map(|call| (*call).to_owned());
                    calls.splice(place..place + before.len(), after);
                }
            }
            InsteadOfCall(before, after) => {
                let calls = expected.calls.values_mut().flatten().flatten();
                for call in calls.filter(|call| *call == before) {
                    after.clone_into(call);
                }
            }
            NoCalls => {
                expected
                    .calls
                    .values_mut()
                    .for_each(|calls| *calls = Some(Vec::new()));
            }
        }
    }
}

impl Effect {
    fn apply_to_files(&self, files: &mut Entries) {
        let Patch(_, paths, patch) = self else {
            panic!("of no use for files that did not change")
        };
        let patch: Map<String, Value> = serde_json::from_str(patch).unwrap();
        for (path, entry) in files {
            if paths.iter().any(|pattern| matches(pattern, path)) {
                lay_over(entry, &patch);
            }
        }
    }
}

impl Expected {
    fn on(&mut self, side: Side, own: &str, work: impl Fn(&mut Entries)) {
        for (host, entries) in &mut self.changes {
            let is_meant = match side {
                Own => host == own,
                N1 => host == "n1",
                Every => true,
            };
            if is_meant {
                work(entries);
            }
        }
    }
}

fn lay_over(entry: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (value, entry.get_mut(key)) {
            (Value::Null, _) => {
                entry.shift_remove(key);
            }
            (Value::Object(patch), Some(Value::Object(inner))) => lay_over(inner, patch),
            _ => {
                entry.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::recording::names;
    use super::*;
    use crate::documents;
    use crate::generated::{self, wrapped};

    /// An effect that is listed for some recordings must show in one at least of each pattern.
    #[test]
    fn every_exception_changes_what_is_expected_of_the_recordings_that_it_names() {
        for difference in differences() {
            for (case, pattern) in patterns(difference).filter(|(_, one)| *one != FRESH_NODE) {
                let mut named = names();
                named.retain(|name| matches(pattern, name));
                let has_effect = named.iter().any(|name| {
                    let recording = Recording::load(name);
                    recording.commands.iter().any(|command| {
                        let recorded = Expected::recorded(&recording, command);
                        let mut expected = recorded.clone();
                        case.effects
                            .iter()
                            .for_each(|effect| effect.apply(&mut expected, command));
                        expected != recorded
                    })
                });
                assert!(
                    has_effect,
                    "`{pattern}` of “{}” changes nothing",
                    difference.here
                );
            }
        }
    }

    fn patterns(difference: &Difference) -> impl Iterator<Item = (&Case, &'static str)> {
        difference
            .cases
            .iter()
            .flat_map(|case| case.of.iter().map(move |pattern| (case, *pattern)))
    }

    /// A table that names tests which do not exist proves nothing.
    #[test]
    fn every_test_that_the_table_names_exists() {
        let known = documents::tests();
        for difference in differences() {
            assert!(
                !difference.tests().is_empty(),
                "nothing holds “{}”",
                difference.here
            );
            for test in difference.tests {
                assert!(known.contains(*test), "no test is called `{test}`");
            }
        }
    }

    impl Difference {
        /// What holds the row, as the document shows it.
        fn tests(&self) -> Vec<String> {
            let recordings = patterns(self).map(|(_, pattern)| format!("`{pattern}`"));
            recordings
                .chain(self.tests.iter().map(|test| format!("`{test}`")))
                .collect()
        }
    }

    /// A number for each difference, by which the appendix refers to it.
    fn groups(item: impl Fn(&Difference) -> String) -> String {
        let mut text = String::new();
        for (command, differences) in GROUPS {
            text += &format!("### {command}\n\n");
            for (number, difference) in (1..).zip(*differences) {
                text += &wrapped(&format!("{number}. {}", item(difference)));
            }
            text.push('\n');
        }
        text
    }

    #[test]
    fn the_document_shows_these_differences_and_no_others_and_an_appendix_what_holds_them() {
        let differences = groups(|difference| {
            let (before, here, why) = (difference.microk8s, difference.here, difference.why);
            format!("**MicroK8s:** {before}. **Here:** {here}. **Why:** {why}.")
        });
        generated::holds("docs/compatibility.md", "differences", &differences);
        let tests = groups(|difference| difference.tests().join(", "));
        generated::holds("docs/compatibility.md", "tests", &tests);
    }
}
