//! Layer 5: the commands: their options, and what they print.

pub(crate) mod add_node;
pub(crate) mod agent;
pub(crate) mod apiserver_proxy;
pub(crate) mod argparse;
pub(crate) mod captured_output;
pub(crate) mod completions;
pub(crate) mod connection_error;
pub(crate) mod dev_cluster;
pub mod examples;
pub(crate) mod go_flags;
pub(crate) mod hidden_input;
pub(crate) mod init;
pub(crate) mod issued_token;
pub(crate) mod join;
pub(crate) mod join_args;
pub(crate) mod join_check;
pub(crate) mod json_events;
pub(crate) mod leave;
pub(crate) mod nodes;
pub(crate) mod output;
pub(crate) mod remove_node;
pub(crate) mod renderer;
pub(crate) mod spinner;
pub(crate) mod texts;
pub(crate) mod token;
pub(crate) mod token_file;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

use crate::base::exit_status::ExitStatus;
use crate::cli::output::Printer;

/// The columns of a help text, on a terminal of any width and elsewhere.
const HELP_WIDTH: usize = 80;

/// The option with which there is no failure where there is nothing to leave or to remove.
pub(crate) const IF_PRESENT: &str = "--if-present";

/// The whole command line; help, completions and manual pages are made from it as well.
///
/// Commands are read one by one, because MicroK8s looks at the node before it looks at the
/// arguments; see [`crate::app`].
#[derive(Debug, Parser)]
#[command(
    name = "microk8s",
    version,
    about = "Cluster membership for MicroK8s nodes",
    long_about = "Adds nodes to a MicroK8s cluster, and runs the agent that admits them. Every other subcommand is passed to the snap's own microk8s.",
    after_help = "To add a node: `microk8s add-node` on a node of the cluster prints the command to run on the other node. `microk8s help COMMAND` shows the options of a command, with examples.",
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Produce a connection string for a node to join the cluster
    AddNode(add_node::AddNodeArgs),
    /// Join the node to a cluster
    Join(join_args::JoinArgs),
    /// Leave the cluster that this node is in
    Leave(leave::LeaveArgs),
    /// Remove a node from the cluster
    RemoveNode(remove_node::RemoveNodeArgs),
    /// List the nodes of the cluster, as this node knows them
    Nodes(nodes::NodesArgs),
    /// Apply a launch configuration to this node
    Init(init::InitArgs),
    /// List, show, revoke and remove the tokens of this node
    Token(token::TokenArgs),
    /// Run the agent of this node
    #[command(alias = "cluster-agent")]
    Agent(agent::AgentArgs),
    /// Lead the services of a worker to the API servers
    ApiserverProxy(apiserver_proxy::ApiserverProxyArgs),
    /// Form a cluster on this machine, to try things out
    DevCluster(dev_cluster::DevClusterArgs),
    /// Print the completions for a shell
    Completions(completions::CompletionsArgs),
}

/// The definition of the whole command line.
pub fn command() -> clap::Command {
    whole(Cli::command())
}

/// The help of a command, where its arguments ask for it. Where they may ask for that of a
/// subcommand it is left to clap, which knows whose help is meant.
pub fn requested_help(name: &str, arguments: &[OsString]) -> Option<String> {
    let requests_help = |argument: &&OsString| match argument.to_str() {
        Some("-h" | "--help") => true,
        // As MicroK8s has it (recording `add-node-help-word`).
        Some("help") => name == "add-node",
        _ => false,
    };
    let mut options = arguments.iter().take_while(|argument| *argument != "--");
    let asked = options.find(requests_help)?;
    let mut command = own_command(name)?;
    let is_subcommand = |word: &OsString| command.find_subcommand(word).is_some();
    if command.is_subcommand_required_set() || arguments.iter().any(is_subcommand) {
        return None;
    }
    let help = match asked.to_str() {
        Some("-h") => command.render_help(),
        _ => command.render_long_help(),
    };
    Some(help.to_string())
}

/// Reads the arguments of one command: `arguments` are those behind its name.
pub(crate) fn read<A: clap::Args + clap::FromArgMatches>(
    name: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<A, clap::Error> {
    let matches = subcommand(name)
        .no_binary_name(true)
        .try_get_matches_from_mut(arguments)?;
    A::from_arg_matches(&matches)
}

/// The definition of one command.
pub fn subcommand(name: &'static str) -> clap::Command {
    own_command(name).unwrap_or_else(|| clap::Command::new(name))
}

/// The definition of a command that this program has, by its name or an alias. The others are left out:
/// each command line is read by this.
fn own_command(name: &str) -> Option<clap::Command> {
    let own = Cli::command().find_subcommand(name)?.clone();
    let program = clap::Command::new("microk8s").disable_help_subcommand(true);
    whole(program.subcommand(own))
        .find_subcommand(name)
        .cloned()
}

/// A command line with all that help shows.
fn whole(command: clap::Command) -> clap::Command {
    let mut whole = examples::add_to(command.term_width(HELP_WIDTH), "");
    whole.build();
    whole
}

/// The command that is most like one that is not known: one of this program, or of `others`.
pub(crate) fn similar_command(name: &str, others: &[&'static str]) -> Option<String> {
    let others = others.iter().copied().map(clap::Command::new);
    let error = Cli::command()
        .subcommands(others)
        .try_get_matches_from(["microk8s", name])
        .err()?;
    suggestion(&error, ContextKind::SuggestedSubcommand)
}

/// The option of a command that is most like one that it does not have.
fn similar_option(name: &'static str, option: &str) -> Option<String> {
    // An error may name it with its value, its short form or a colon.
    let option = option.split(['=', '/', ':']).next().unwrap_or(option);
    let error = subcommand(name)
        .no_binary_name(true)
        .try_get_matches_from([option])
        .err()?;
    suggestion(&error, ContextKind::SuggestedArg)
}

/// Why the arguments of a command are not understood, in a line, and what to type.
pub(crate) fn explain_usage(error: &clap::Error) -> (String, String) {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let help = error.to_string();
        let commands: Vec<&str> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .map_while(|line| line.split_whitespace().next())
            .collect();
        return (
            "no subcommand is given".to_owned(),
            format!("add one of: {}", commands.join(", ")),
        );
    }
    let similar = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedValue,
    ];
    let similar = similar.into_iter().find_map(|kind| suggestion(error, kind));
    let hint = match similar {
        Some(similar) => format!("did you mean `{similar}`?"),
        None => "the same command with `--help` shows what it takes".to_owned(),
    };
    let text = error.to_string();
    let words = text.lines().take_while(|line| !line.is_empty());
    let words: Vec<&str> = words.map(str::trim).collect();
    let text = words.join(" ");
    (text.trim_start_matches("error: ").to_owned(), hint)
}

/// Prints why the arguments of a command are not understood, in MicroK8s's form, and the option that
/// was perhaps meant.
pub(crate) fn usage_error(
    printer: &mut dyn Printer,
    name: &'static str,
    usage: &str,
    text: &str,
) -> ExitStatus {
    printer.err(&format!("Usage: microk8s {name} {usage}"));
    printer.err(&format!("Try 'microk8s {name} -h' for help."));
    printer.err("");
    printer.err(&format!("Error: {text}"));
    hint_at_option(printer, name, text);
    ExitStatus::Usage
}

/// Says that arguments are more than a command takes, in MicroK8s's words.
pub(crate) fn extra_arguments(extra: &[impl AsRef<str>]) -> String {
    let plural = if extra.len() == 1 { "" } else { "s" };
    let list: Vec<&str> = extra.iter().map(AsRef::as_ref).collect();
    format!("Got unexpected extra argument{plural} ({})", list.join(" "))
}

/// Prints which option of a command was perhaps meant, where an error names one that it lacks; says
/// whether there is one.
pub(crate) fn hint_at_option(printer: &mut dyn Printer, name: &'static str, error: &str) -> bool {
    let mut options = error
        .split([' ', '(', ')'])
        .filter(|word| word.starts_with("--"));
    let similar = options.find_map(|option| similar_option(name, option));
    if let Some(similar) = &similar {
        printer.err(&format!("hint: did you mean `{similar}`?"));
    }
    similar.is_some()
}

/// What was perhaps meant: it begins with the same letter as what was typed.
fn suggestion(error: &clap::Error, kind: ContextKind) -> Option<String> {
    let typed = [
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
        ContextKind::InvalidValue,
    ];
    let text = |kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one.clone()),
        ContextValue::Strings(several) => several.last().cloned(),
        _ => None,
    };
    let first = |text: &str| text.trim_start_matches('-').chars().next();
    let similar = text(kind)?;
    let is_like = |typed: String| first(&typed) == first(&similar);
    typed
        .into_iter()
        .filter_map(text)
        .any(is_like)
        .then_some(similar)
}
