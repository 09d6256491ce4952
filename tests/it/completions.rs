//! Completions: what each place of a command line offers, and what real shells on a terminal make of it.

use std::fs;
use std::process::Command;

use crate::help::commands;
use crate::lab::program::program;
use crate::lab::{Host, Lab, is_installed};
use crate::terminal::Terminal;

/// The shells that are tried, how each starts without the user's files, and what it shows when it waits.
const SHELLS: [(&str, &str, &str); 4] = [
    (
        "bash",
        "bash --norc --noprofile -i",
        "source <(microk8s completions bash)",
    ),
    (
        "zsh",
        "zsh -f -i",
        "autoload -U compinit; compinit -u -D; source <(microk8s completions zsh)",
    ),
    (
        "fish",
        "fish --no-config -i",
        "microk8s completions fish | source",
    ),
    (
        "elvish",
        "elvish -norc",
        "eval (microk8s completions elvish | slurp)",
    ),
];

/// What the program offers for the last of these words, without an agent.
fn offered(words: &[&str]) -> Vec<String> {
    let output = Command::new(program())
        .arg("__complete")
        .args(words)
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{words:?}: {output:?}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The values alone.
fn values(words: &[&str]) -> Vec<String> {
    let value = |line: &String| line.split('\t').next().unwrap().to_owned();
    offered(words).iter().map(value).collect()
}

#[test]
fn every_command_and_option_is_offered_with_its_description() {
    for (name, command) in commands() {
        let name: Vec<&str> = name.iter().map(String::as_str).collect();
        let subs: Vec<String> = command
            .get_subcommands()
            .map(|sub| format!("{}\t{}", sub.get_name(), sub.get_about().unwrap()))
            .collect();
        if !subs.is_empty() {
            assert_eq!(offered(&[&name[..], &[""]].concat()), subs, "{name:?}");
        }
        let options = offered(&[&name[..], &["--"]].concat());
        for option in command
            .get_arguments()
            .filter(|option| !option.is_hide_set())
        {
            let Some(long) = option.get_long() else {
                continue;
            };
            let help = option.get_help().unwrap().to_string();
            assert!(
                options.contains(&format!("--{long}\t{help}")),
                "{name:?} --{long}: {options:?}"
            );
        }
        assert_eq!(
            options.len(),
            command
                .get_arguments()
                .filter(|one| one.get_long().is_some() && !one.is_hide_set())
                .count()
        );
    }
}

#[test]
fn files_are_offered_where_files_belong_and_nowhere_else() {
    for (name, command) in commands() {
        let name: Vec<&str> = name.iter().map(String::as_str).collect();
        for option in command
            .get_arguments()
            .filter(|option| option.get_action().takes_values())
        {
            let takes_path = option
                .get_value_names()
                .is_some_and(|names| ["FILE", "DIRECTORY"].contains(&names[0].as_str()));
            let written = match option.get_long() {
                Some(long) => format!("--{long}="),
                None => String::new(),
            };
            let lines = offered(&[&name[..], &[&written]].concat());
            let is_path = lines
                .iter()
                .any(|line| line == ":files" || line == ":directories");
            assert_eq!(is_path, takes_path, "{name:?} {written}: {lines:?}");
        }
    }
}

#[test]
fn values_are_offered_in_every_way_to_write_them() {
    for words in [
        &["add-node", "--format", "token"][..],
        &["add-node", "--token-ttl", "5m", "--format", "token"],
        &["add-node", "-t", "x", "--format", "token"],
        // As bash splits `--format=token`.
        &["add-node", "--format", "=", "token"],
    ] {
        assert_eq!(values(words), ["token", "token-check"], "{words:?}");
    }
    assert_eq!(values(&["add-node", "--format=y"]), ["--format=yaml"]);
    assert_eq!(values(&["help", "token", "r"]), ["revoke"]);
    assert_eq!(values(&["completions", "f"]), ["fish"]);
    for words in [
        &["add-node", ""][..],
        &["join", ""],
        &["join", "--timeout", ""],
        &["remove-node", "--", "--"],
        &["frobnicate", ""],
        &["leave", ""],
    ] {
        assert_eq!(offered(words), [""; 0], "{words:?}");
    }
}

#[test]
fn the_completions_in_the_checkout_are_those_that_the_program_prints() {
    for (shell, file) in [
        ("bash", "microk8s.bash"),
        ("zsh", "_microk8s"),
        ("fish", "microk8s.fish"),
        ("elvish", "microk8s.elv"),
        ("powershell", "_microk8s.ps1"),
    ] {
        let output = Command::new(program())
            .args(["completions", shell])
            .output()
            .unwrap();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/completions/");
        assert_eq!(
            output.stdout,
            fs::read(format!("{path}{file}")).unwrap(),
            "{shell}"
        );
    }
    // No file is left over.
    let folder = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/completions")).unwrap();
    assert_eq!(folder.count(), 5);
}

/// A shell with the completions on a terminal, in a folder with a file that must not be offered.
fn shell<'a>(host: &'a Host, start: &str, load: &str) -> Terminal<'a> {
    let folder = host.scratch().join("typed");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("0file-that-belongs-nowhere"), "").unwrap();
    let home = host.scratch().display();
    let terminal = Terminal::run(
        host,
        &format!(
            "cd {} && HOME={home} HISTFILE=/dev/null PS1='> ' {start}",
            folder.display()
        ),
    );
    terminal.types(&format!("{load}; echo rea''dy\n"));
    terminal.reads("ready");
    terminal
}

#[test]
fn a_tab_in_a_real_shell_offers_tokens_with_descriptions_and_nodes_and_nothing_else() {
    if !is_installed("tmux") {
        return;
    }
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    for rack in ["rack-7", "rack-8"] {
        n1.shell(&format!("microk8s add-node --description {rack}"))
            .ok();
    }
    let gone = n1
        .shell("microk8s add-node --description rack-9 --format json --details | jq -r .id")
        .ok();
    n1.shell(&format!("microk8s token revoke {gone}")).ok();
    for (name, start, load) in SHELLS {
        if !is_installed(name) {
            continue;
        }
        let terminal = shell(n1, start, load);
        terminal.types("microk8s token revoke \t\t\t");
        terminal.reads("rack-7");
        let screen = terminal.reads("rack-8");
        assert!(
            !screen.contains("rack-9") && !screen.contains("0file") && !screen.contains("--all"),
            "{name}:\n{screen}"
        );
        let terminal = shell(n1, start, load);
        terminal.types("microk8s remove-node \t\t\t");
        let screen = terminal.reads("n2");
        assert!(
            !screen.contains("0file") && !screen.contains("--force"),
            "{name}:\n{screen}"
        );
        let terminal = shell(n1, start, load);
        terminal.types("microk8s add-n\t--full\t--format token-\t");
        terminal.reads("microk8s add-node --full-fingerprint --format token-check");
    }
}

#[test]
fn without_an_agent_a_tab_offers_nothing_and_says_nothing() {
    if !is_installed("tmux") {
        return;
    }
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    for (name, start, load) in SHELLS {
        if !is_installed(name) {
            continue;
        }
        for command in ["token revoke", "remove-node"] {
            let terminal = shell(n1, start, load);
            // What is typed behind the TAB shows that the shell is done with it.
            terminal.types(&format!("microk8s {command} \tend-of-{command}"));
            let screen = terminal.reads(&format!("end-of-{command}"));
            let line = screen
                .lines()
                .rfind(|line| line.contains("end-of-"))
                .unwrap();
            assert!(
                line.contains(&format!("microk8s {command} end-of-{command}")),
                "{name}:\n{screen}"
            );
            // Elvish says itself that there is nothing to choose from.
            let screen = screen.replace("error: no candidates", "");
            assert!(
                !screen.contains("error") && !screen.contains("0file"),
                "{name}:\n{screen}"
            );
        }
    }
}
