//! Layer 5: the commands: their options, and what they print.

pub mod add_node;
pub mod agent;
pub mod argparse;
pub mod captured_output;
pub mod dev_cluster;
pub mod go_flags;
pub mod issued_token;
pub mod join;
pub mod join_args;
pub mod join_check;
pub mod join_events;
pub mod leave;
pub mod nodes;
pub mod output;
pub mod remove_node;
pub mod renderer;
pub mod spinner;
pub mod texts;
pub mod token;
pub mod token_file;

use clap::{CommandFactory, Parser, Subcommand};

/// The whole command line, as completions and man pages are made from it.
///
/// Commands are read one by one, because MicroK8s looks at the node before it looks at the
/// arguments; see [`crate::app`].
#[derive(Debug, Parser)]
#[command(
    name = "microk8s",
    version,
    about = "Cluster membership for MicroK8s nodes",
    long_about = "Adds nodes to a MicroK8s cluster, and runs the agent that lets them in. Every other subcommand is handed to the snap's own microk8s.",
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
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
    /// List, show, take back and forget the tokens of this node
    Token(token::TokenArgs),
    /// Run the agent of this node
    #[command(alias = "cluster-agent")]
    Agent(agent::AgentArgs),
    /// Form a cluster on this machine, to try things out
    DevCluster(dev_cluster::DevClusterArgs),
}

/// The definition of the whole command line.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the arguments of one command: `arguments` are those behind its name.
pub fn read<A: clap::Args + clap::FromArgMatches>(
    name: &'static str,
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<A, clap::Error> {
    let matches = subcommand(name)
        .no_binary_name(true)
        .try_get_matches_from_mut(arguments)?;
    A::from_arg_matches(&matches)
}

/// The definition of one command.
pub fn subcommand(name: &'static str) -> clap::Command {
    let mut whole = command();
    whole.build();
    whole
        .find_subcommand(name)
        .cloned()
        .unwrap_or_else(|| clap::Command::new(name))
}
