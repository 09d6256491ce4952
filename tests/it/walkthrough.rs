//! The commands that documents show are run as they stand, and what they print is compared. The
//! picture of the README is drawn from such a session.
//!
//! A fence of the language `console` has prompts that name a host: `n1$ sudo microk8s add-node`.
//! All fences of a document are one session on three hosts with agents. In the output a line `…`
//! stands for any lines, `…` at the end of a line for its rest, and `<word>` for any text; what it stood for is used where a later command
//! has the same word. A fence with commands for which no test has a machine is marked `node`: they
//! need a real node of MicroK8s. `tested=NAME` names the test that runs the commands.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::documents::{documents, tests};
use crate::generated;
use crate::lab::agent::Agent;
use crate::lab::{Host, Lab, nodes};

/// A fenced block of a document.
struct Fence<'a> {
    language: &'a str,
    /// What follows the language.
    mark: &'a str,
    body: &'a str,
}

fn fences(text: &str) -> Vec<Fence<'_>> {
    let mut parts = text.split("\n```").skip(1);
    let mut fences = Vec::new();
    while let (Some(fence), Some(_)) = (parts.next(), parts.next()) {
        let (info, body) = fence.split_once('\n').unwrap();
        let (language, mark) = info.split_once(' ').unwrap_or((info, ""));
        fences.push(Fence {
            language,
            mark,
            body,
        });
    }
    fences
}

/// The host and the command of a line with a prompt.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (host, command) = line.split_once("$ ")?;
    let is_known = nodes::HOSTS.iter().any(|(name, _)| *name == host);
    is_known.then_some((host, command))
}

#[test]
fn every_command_in_a_document_is_run_or_marked_as_needing_a_node() {
    let known = tests();
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        if path.ends_with("CONTRIBUTING.md") {
            continue;
        }
        for fence in fences(&text) {
            let is_held = match (fence.language, fence.mark) {
                ("text" | "json" | "yaml", "") | ("sh" | "console", "node") => true,
                ("console", "") => fence.body.lines().next().and_then(prompt).is_some(),
                ("sh", mark) => mark
                    .strip_prefix("tested=")
                    .is_some_and(|name| known.contains(name)),
                _ => false,
            };
            if !is_held {
                let (language, mark) = (fence.language, fence.mark);
                wrong.push(format!(
                    "{}: {language} {mark}: {}",
                    path.display(),
                    fence.body
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "not run by a test:\n{}", wrong.join("\n"));
}

#[test]
fn the_chinese_readme_has_the_commands_of_the_english_one() {
    let documents = documents();
    let [english, chinese] = ["README.md", "README.zh-CN.md"].map(|name| {
        let (_, text) = documents
            .iter()
            .find(|(path, _)| path.ends_with(name))
            .unwrap();
        let fences = fences(text);
        let fences = fences
            .iter()
            .map(|fence| (fence.language, fence.mark, fence.body));
        fences.collect::<Vec<_>>()
    });
    assert_eq!(chinese, english);
}

/// Commands on hosts of a lab, and what the words in angle brackets stood for.
struct Session {
    lab: Lab,
    _agents: Vec<Agent>,
    values: BTreeMap<String, String>,
}

impl Session {
    fn start() -> Option<Self> {
        let lab = Lab::new(&nodes::HOSTS.map(|(name, _)| name))?;
        let agents = lab.hosts().iter().map(Host::agent).collect();
        Some(Self {
            lab,
            _agents: agents,
            values: BTreeMap::new(),
        })
    }

    /// The lines that a command prints on a terminal.
    fn run(&self, host: &str, command: &str) -> Vec<String> {
        let mut command = command.replace("sudo ", "");
        for (name, value) in &self.values {
            command = command.replace(name, value);
        }
        let names = command.split('<').skip(1);
        let unknown: Vec<&str> = names.filter(|rest| rest.contains('>')).collect();
        assert!(unknown.is_empty(), "not known yet: {command}");
        let host = self.lab.host(host);
        let output = host.shell(&format!("{{ {command}\n}} 2>&1"));
        if output.stdout.contains("Successfully joined") {
            // As its kubelet does.
            let (name, address) = nodes::HOSTS
                .iter()
                .find(|(name, _)| *name == host.name)
                .unwrap();
            let kubernetes = &self.lab.host("n1").stand_ins;
            if command.contains("--worker") {
                kubernetes.kubernetes_knows(name, Some(address));
            } else {
                kubernetes.control_plane_knows(name, address);
                kubernetes.api_servers(&[nodes::HOSTS[0].1, address]);
            }
        }
        output.stdout.lines().map(str::to_owned).collect()
    }

    /// Whether a line is as expected. What the words in angle brackets stand for is kept.
    fn is_like(&mut self, expected: &str, line: &str) -> bool {
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if expected.last() == Some(&"…") {
            expected.pop();
            words.truncate(expected.len());
        }
        let mut found = Vec::new();
        let is_like = expected.len() == words.len()
            && expected
                .iter()
                .zip(words)
                .all(|(expected, word)| stands_for(expected, word, &mut found));
        if is_like {
            self.values.extend(found);
        }
        is_like
    }

    /// Whether these lines are as expected, from the first to the last.
    fn are_like(&mut self, expected: &[&str], lines: &[String]) -> bool {
        match (expected, lines) {
            ([], []) => true,
            (["…", rest @ ..], _) => {
                (0..=lines.len()).any(|skipped| self.are_like(rest, &lines[skipped..]))
            }
            ([first, rest @ ..], [line, lines @ ..]) => {
                self.is_like(first, line) && self.are_like(rest, lines)
            }
            (_, _) => false,
        }
    }
}

/// Whether a word is as expected, where `<…>` stands for anything but a slash.
fn stands_for(expected: &str, word: &str, found: &mut Vec<(String, String)>) -> bool {
    let Some((before, rest)) = expected.split_once('<') else {
        return expected == word;
    };
    let Some((name, after)) = rest.split_once('>') else {
        return expected == word;
    };
    let Some(word) = word.strip_prefix(before) else {
        return false;
    };
    let end = word.find(['/', '`', '.', ',', '"']).unwrap_or(word.len());
    found.push((format!("<{name}>"), word[..end].to_owned()));
    stands_for(after, &word[end..], found)
}

#[test]
fn the_commands_of_the_documents_print_what_is_shown() {
    for (path, text) in documents() {
        let consoles: Vec<Fence<'_>> = fences(&text)
            .into_iter()
            .filter(|fence| fence.language == "console" && fence.mark.is_empty())
            .collect();
        // Those of the Chinese README are the same as those of the English one.
        if consoles.is_empty() || path.ends_with("README.zh-CN.md") {
            continue;
        }
        let Some(mut session) = Session::start() else {
            return;
        };
        for fence in consoles {
            let mut lines = fence.body.lines().peekable();
            while let Some(line) = lines.next() {
                let (host, command) = prompt(line).unwrap_or_else(|| panic!("no prompt: {line}"));
                let mut expected = Vec::new();
                while let Some(line) = lines.next_if(|line| prompt(line).is_none()) {
                    expected.push(line);
                }
                let printed = session.run(host, command);
                assert!(
                    session.are_like(&expected, &printed),
                    "{}: {line}\n{}",
                    path.display(),
                    printed.join("\n")
                );
            }
        }
    }
}

/// The session of the picture.
const SESSION: [(&str, &str); 6] = [
    ("n1", "sudo microk8s add-node --role worker --format short"),
    (
        "n2",
        "sudo microk8s join 10.99.0.11:25000/<token>/<fingerprint>",
    ),
    (
        "n2",
        "sudo microk8s join 10.99.0.11:25000/<token>/<fingerprint> --worker",
    ),
    ("n1", "sudo microk8s nodes"),
    ("n2", "sudo microk8s leave"),
    ("n1", "sudo microk8s remove-node n2"),
];

/// What the picture shows in place of a token and a fingerprint, which are new in each session.
const SHOWN: [(&str, &str); 2] = [
    ("<token>", "5e1f0c7b92d84a36b0e4d7c8a1f3962d"),
    ("<fingerprint>", "c41d09be72a6"),
];

#[test]
fn the_picture_of_the_readme_is_that_of_a_real_session() {
    let Some(mut session) = Session::start() else {
        return;
    };
    let mut lines = Vec::new();
    for (host, command) in SESSION {
        lines.push(format!("{host}$ {command}"));
        let printed = session.run(host, command);
        if session.values.is_empty() {
            let line = "microk8s join 10.99.0.11:25000/<token>/<fingerprint>";
            assert!(session.is_like(line, &printed[0]), "{printed:?}");
        }
        lines.extend(printed);
    }
    for line in &mut lines {
        for (name, shown) in SHOWN {
            *line = line
                .replace(name, shown)
                .replace(&session.values[name], shown);
        }
    }
    generated::holds("docs/session.svg", "session", &drawn(&lines));
}

/// How the picture is laid out, in pixels but for the columns.
const DRAWN_COLUMNS: usize = 96;
const LETTER: f32 = 8.43;
const LINE: usize = 19;
const MARGIN: usize = 18;

/// A terminal with these lines, as a picture.
fn drawn(lines: &[String]) -> String {
    let mut rows = Vec::new();
    for line in lines {
        let colour = match line {
            _ if prompt(line).is_some() => "#ffffff",
            _ if line.starts_with("error:") || line.starts_with("Connection failed") => "#ff8a80",
            _ if line.starts_with("hint:") => "#ffd54f",
            _ if line.starts_with("Successfully") => "#a5d6a7",
            _ => "#b0bec5",
        };
        if prompt(line).is_some() && !rows.is_empty() {
            rows.push((colour, String::new()));
        }
        rows.extend(broken(line).into_iter().map(|row| (colour, row)));
    }
    let mut width = MARGIN * 2;
    while ((width - MARGIN * 2) as f32) < DRAWN_COLUMNS as f32 * LETTER {
        width += 1;
    }
    let height = MARGIN * 2 + rows.len() * LINE;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n\
         <title>A worker joins a cluster at its second try, leaves it and is removed</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1e2327\"/>\n\
         <g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\">\n"
    );
    for (number, (colour, row)) in (1..).zip(&rows) {
        if row.is_empty() {
            continue;
        }
        let y = MARGIN + number * LINE - 5;
        let text = row.replace('&', "&amp;").replace('<', "&lt;");
        writeln!(
            svg,
            "<text x=\"{MARGIN}\" y=\"{y}\" fill=\"{colour}\" xml:space=\"preserve\">{text}</text>"
        )
        .unwrap();
    }
    svg + "</g>\n</svg>\n"
}

/// A line in pieces that fit, broken at blanks.
fn broken(line: &str) -> Vec<String> {
    let mut rows = vec![String::new()];
    for word in line.split_inclusive(' ') {
        let row = rows.last_mut().unwrap();
        if row.chars().count() + word.trim_end().chars().count() > DRAWN_COLUMNS {
            rows.push(format!("  {word}"));
        } else {
            row.push_str(word);
        }
    }
    rows
}
