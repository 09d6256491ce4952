//! Completions: the scripts of the shells, and what they ask the program for at each TAB.

use clap::{Arg, Args, ValueEnum, ValueHint};

use crate::base::{sanitize, time_text};
use crate::cli;
use crate::model::token_record::State;
use crate::wire::local_v1::{NodeList, TokenEntry};

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell that the completions are for
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// The shells that have completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// Bash
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
    /// Elvish
    Elvish,
    /// PowerShell
    Powershell,
}

impl Shell {
    /// The script that the shell reads.
    pub(crate) fn script(self) -> &'static str {
        match self {
            Self::Bash => include_str!("../../completions/microk8s.bash"),
            Self::Zsh => include_str!("../../completions/_microk8s"),
            Self::Fish => include_str!("../../completions/microk8s.fish"),
            Self::Elvish => include_str!("../../completions/microk8s.elv"),
            Self::Powershell => include_str!("../../completions/_microk8s.ps1"),
        }
    }
}

/// What can stand at a place of a command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Candidates {
    /// These values, each with a description.
    Listed(Vec<(String, String)>),
    /// The agent knows them.
    OfAgent(Source),
    /// Files.
    Files,
    /// Directories.
    Directories,
}

/// What the agent is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The ids of all tokens.
    Tokens,
    /// The ids of the tokens that can be revoked.
    ValidTokens,
    /// The names of the nodes.
    Nodes,
}

/// What can stand in the place of the last of these words, which stand behind the program's name.
pub(crate) fn candidates(words: &[String]) -> Candidates {
    // Bash takes `--option=value` for three words.
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_assignment =
        |at: &usize| words[*at] == "=" && *at > 0 && words[*at - 1].starts_with("--");
    let assignments: Vec<usize> = (0..words.len()).filter(is_assignment).collect();
    for at in assignments.into_iter().rev() {
        match at + 1 == words.len() {
            true => words[at] = "",
            false => drop(words.remove(at)),
        }
    }
    let is_help = words.len() > 1 && words[0] == "help";
    let words = &words[usize::from(is_help)..];
    let Some((current, before)) = words.split_last() else {
        return Candidates::Listed(Vec::new());
    };
    let whole = cli::command();
    let mut command = &whole;
    let (mut option, mut position, mut is_escaped) = (None, 0, false);
    for word in before {
        if option.take().is_some() {
        } else if !is_escaped && *word == "--" {
            is_escaped = true;
        } else if !is_escaped && word.starts_with('-') {
            option = find_option(command, word).filter(|option| takes_next_word(option));
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        } else {
            position += 1;
        }
    }
    if let Some(option) = option {
        return values(command, option, "", current);
    }
    if let Some((name, value)) = current.split_once('=')
        && let Some(option) = find_option(command, name)
    {
        return values(command, option, &format!("{name}="), value);
    }
    if current.starts_with('-') && !is_escaped {
        let options = command
            .get_arguments()
            .filter(|option| !option.is_hide_set());
        let named = options.filter_map(|option| {
            Some((
                format!("--{}", option.get_long()?),
                about(option.get_help()),
            ))
        });
        return listed(current, named);
    }
    if command.has_subcommands() && position > 0 {
        return Candidates::Listed(Vec::new());
    }
    if command.has_subcommands() {
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set());
        return listed(
            current,
            shown.map(|sub| (sub.get_name().to_owned(), about(sub.get_about()))),
        );
    }
    let positional = command.get_positionals().find(|argument| {
        let takes_many = argument
            .get_num_args()
            .is_some_and(|count| count.max_values() > 1);
        argument.get_index() == Some(position + 1) || takes_many
    });
    match positional {
        Some(argument) if !is_help => values(command, argument, "", current),
        _ => Candidates::Listed(Vec::new()),
    }
}

/// The option that a word names, without its value.
fn find_option<'a>(command: &'a clap::Command, word: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|option| {
        let long = word.strip_prefix("--");
        let short = word
            .strip_prefix('-')
            .and_then(|rest| rest.parse::<char>().ok());
        (long.is_some() && option.get_long() == long)
            || (short.is_some() && option.get_short() == short)
    })
}

fn takes_next_word(option: &Arg) -> bool {
    let count = option.get_num_args().unwrap_or_default();
    count.takes_values() && count.min_values() > 0
}

/// The values of an option or argument that begin with what was typed; each follows `prefix`.
fn values(command: &clap::Command, argument: &Arg, prefix: &str, typed: &str) -> Candidates {
    match (command.get_name(), argument.get_id().as_str()) {
        ("revoke", "ids") => return Candidates::OfAgent(Source::ValidTokens),
        ("show", "id") => return Candidates::OfAgent(Source::Tokens),
        ("remove-node", "node") => return Candidates::OfAgent(Source::Nodes),
        _ => {}
    }
    match argument.get_value_hint() {
        ValueHint::AnyPath | ValueHint::FilePath => return Candidates::Files,
        ValueHint::DirPath => return Candidates::Directories,
        _ => {}
    }
    let possible = argument.get_possible_values();
    let shown = possible.iter().filter(|value| !value.is_hide_set());
    let shown = shown.map(|value| {
        let text = format!("{prefix}{}", value.get_name());
        (text, about(value.get_help()))
    });
    listed(&format!("{prefix}{typed}"), shown)
}

fn listed(typed: &str, all: impl Iterator<Item = (String, String)>) -> Candidates {
    Candidates::Listed(all.filter(|(value, _)| value.starts_with(typed)).collect())
}

/// The first line of a description.
fn about(help: Option<&clap::builder::StyledStr>) -> String {
    let text = help.map(ToString::to_string).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// A token by its id, with what it is for, where it is meant.
pub(crate) fn of_token(token: &TokenEntry, source: Source) -> Option<(String, String)> {
    let is_valid = matches!(token.state, State::Issued | State::Reserved);
    if source != Source::Tokens && !is_valid {
        return None;
    }
    let end = token.expires.map_or_else(
        || "never expires".to_owned(),
        |end| format!("expires {}", time_text::moment(end)),
    );
    let mut words = vec![
        token.state.into_str().to_owned(),
        format!("role {}", token.role),
        end,
    ];
    words.extend(token.node.as_ref().map(|node| format!("node {node}")));
    words.extend(token.description.as_deref().map(sanitize::for_terminal));
    Some((token.id.clone(), words.join(", ")))
}

/// Nodes by their names, each with its address and role; those without a name by their addresses.
pub(crate) fn of_nodes(list: &NodeList) -> Vec<(String, String)> {
    list.nodes
        .iter()
        .map(|node| {
            let address = node.address.to_string();
            let name = node
                .name
                .as_deref()
                .map(|name| sanitize::for_log(name, 253));
            let about = format!("{}, {address}", node.role);
            (name.unwrap_or(address), about)
        })
        .collect()
}

/// What a script of a shell reads: a value and its description a line.
pub(crate) fn lines(candidates: &[(String, String)], typed: &[String]) -> String {
    let (current, before) = typed
        .split_last()
        .map_or(("", typed), |(last, rest)| (last, rest));
    candidates
        .iter()
        .filter(|(value, _)| value.starts_with(current) && !before.contains(value))
        .map(|(value, about)| format!("{value}\t{about}\n"))
        .collect()
}
