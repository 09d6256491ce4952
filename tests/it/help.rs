//! Help: for every command, without a node, an agent or rights; and what stands in its place for a command that is
//! not there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::generated;
use crate::lab::program::program;

/// A user without rights.
const USER: u32 = 65534;

/// The program in an empty environment, run by a user without rights.
struct Stranger {
    folder: TempDir,
}

impl Stranger {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // The checkout may be closed to others. A file that another thread's child holds open for
        // writing cannot be run, so a child copies it.
        let copy = Command::new("cp")
            .arg(program())
            .arg(folder.path().join("microk8s"))
            .status();
        assert!(copy.unwrap().success());
        Self { folder }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("microk8s")
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(self.program());
        command.args(words).env_clear().current_dir("/");
        if nix::unistd::geteuid().is_root() {
            command.uid(USER).gid(USER);
        }
        command.output().unwrap()
    }
}

/// Every command that is shown, by the words that name it, in the order of the help.
pub fn commands() -> Vec<(Vec<String>, clap::Command)> {
    fn collect(name: &[String], command: &clap::Command) -> Vec<(Vec<String>, clap::Command)> {
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        let below =
            shown.flat_map(|sub| collect(&[name, &[sub.get_name().to_owned()]].concat(), sub));
        std::iter::once((name.to_vec(), command.clone()))
            .chain(below)
            .collect()
    }
    collect(&[], &microk8s::cli::command())
}

#[test]
fn every_command_shows_its_help_without_a_node_and_without_rights() {
    let stranger = Stranger::new();
    for (name, command) in commands() {
        let name: Vec<&str> = name.iter().map(String::as_str).collect();
        for words in [
            [&name, &["--help"][..]].concat(),
            [&name, &["-h"][..]].concat(),
            [&["help"], &name[..]].concat(),
        ] {
            let output = stranger.run(&words);
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{words:?}"
            );
            let usage = format!("Usage: {}", [&["microk8s"], &name[..]].concat().join(" "));
            assert!(
                text.contains(&usage),
                "{words:?}: `{usage}` is missing:\n{text}"
            );
            assert!(
                text.lines().all(|line| line.chars().count() <= 80),
                "{words:?}:\n{text}"
            );
            // A default may be wrapped.
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for wanted in wanted_words(&command) {
                assert!(
                    text.contains(&wanted),
                    "{words:?}: `{wanted}` is missing:\n{text}"
                );
            }
        }
    }
}

/// What the help of a command has to name: options, values, defaults, subcommands.
fn wanted_words(command: &clap::Command) -> Vec<String> {
    let mut wanted: Vec<String> = command
        .get_subcommands()
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for option in command
        .get_arguments()
        .filter(|option| !option.is_hide_set())
    {
        wanted.extend(option.get_long().map(|long| format!("--{long}")));
        wanted.extend(option.get_short().map(|short| format!("-{short}")));
        if option.get_action().takes_values() {
            let values = option.get_possible_values();
            let shown = values.iter().filter(|value| !value.is_hide_set());
            wanted.extend(shown.map(|value| value.get_name().to_owned()));
            let defaults = option.get_default_values().iter();
            wanted.extend(defaults.map(|value| format!("[default: {}]", value.to_str().unwrap())));
        }
    }
    wanted
}

#[test]
fn without_a_command_the_commands_are_listed_with_a_line_each() {
    let output = Stranger::new().run(&[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for (name, command) in commands().iter().filter(|(name, _)| name.len() == 1) {
        let about = command.get_about().unwrap().to_string();
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{} ", name[0])));
        assert!(
            line.is_some_and(|line| line.ends_with(&about)),
            "{name:?}:\n{text}"
        );
    }
    assert!(text.contains("`microk8s help COMMAND`"), "{text}");
}

#[test]
fn a_command_that_is_not_known_is_answered_with_one_that_is_like_it() {
    let stranger = Stranger::new();
    for (words, hint) in [
        (&["ad-node"][..], "did you mean `microk8s add-node`?"),
        (&["help", "joni"], "did you mean `microk8s join`?"),
        (&["stats"], "did you mean `microk8s status`?"),
        (&["frobnicate"], "`microk8s help` lists the commands"),
        (&["token", "lst"], "hint: did you mean `list`?"),
        (
            &["dev-cluster", "--worker"],
            "hint: did you mean `--workers`?",
        ),
        (&["token"], "hint: add one of: list, show, revoke, prune"),
    ] {
        let output = stranger.run(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{words:?}");
        assert!(
            error.starts_with("error: ") && error.contains(hint),
            "{words:?}: {error}"
        );
    }
}

#[test]
fn a_command_of_the_snap_says_that_the_snap_is_not_installed() {
    let stranger = Stranger::new();
    for words in [
        &["status"][..],
        &["kubectl", "get", "nodes"],
        &["help", "enable"],
    ] {
        let output = stranger.run(words);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), &output.stdout[..]),
            (Some(1), &b""[..])
        );
        assert!(
            error.contains("is a command of MicroK8s, which is not installed"),
            "{error}"
        );
        assert!(error.contains("hint: install it with "), "{error}");
    }
}

#[test]
fn every_option_that_takes_seconds_takes_a_duration_with_a_unit() {
    for (name, option, more) in [
        ("add-node", "--token-ttl", ""),
        (
            "join",
            "--timeout",
            "10.1.2.3:25000/0123456789abcdef0123456789abcdef",
        ),
        ("agent", "--timeout", ""),
        ("agent", "--retry-window", ""),
        ("token", "--unused-for", "prune"),
    ] {
        for duration in ["90", "90s", "15m", "1h", "1h30m"] {
            let words = [more, option, duration];
            let words = words.into_iter().filter(|word| !word.is_empty());
            let read = microk8s::cli::subcommand(name)
                .no_binary_name(true)
                .try_get_matches_from(words);
            assert!(read.is_ok(), "{name} {option} {duration}: {read:?}");
        }
    }
}

#[test]
fn the_document_shows_the_help_of_every_command() {
    let stranger = Stranger::new();
    let mut text = String::new();
    for (name, _) in commands() {
        let words: Vec<&str> = name.iter().map(String::as_str).collect();
        let output = stranger.run(&[&words, &["--help"][..]].concat());
        let help = String::from_utf8(output.stdout).unwrap();
        let title = [&["microk8s"], &words[..]].concat().join(" ");
        text += &format!("## `{title}`\n\n```text\n{}\n```\n\n", help.trim_end());
    }
    generated::holds("docs/commands.md", "help", &text);
}
