//! Layer 6: reads the command line, runs the command, and chooses the exit status.
//!
//! MicroK8s's commands look at the node before they look at their arguments; the order of these
//! looks is part of what scripts and people see, and stands here (recordings `leave-stopped`,
//! `join-stopped-lock`).

mod add_node;
mod agent;
mod agent_switch;
mod apiserver_proxy;
mod completions;
mod dev_cluster;
mod init;
mod interrupt;
mod log;
mod nodes;
mod operation;
mod passthrough;
mod token;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::clock::SystemClock;
use crate::base::exit_status::ExitStatus;
use crate::base::{env_vars, runtime, wait};
use crate::cli::output::{self, Printer, Streams};
use crate::cli::{self, texts};
use crate::client::local::{self, LocalAgent, LocalError, Probe};
use crate::cluster::carry_over::carry_over;
use crate::cluster::node::Node;
use crate::cluster::token_admin;
use crate::model::token_record::RETRY_WINDOW;
use crate::platform::datastore_demo::DatastoreDemo;
use crate::platform::standalone::StandalonePlatform;
use crate::store::database::StoreError;
use crate::store::layout::{Kind, Layout};
use crate::store::revision::Revision;
use crate::store::tokens::Tokens;
use crate::wire::local_v1::{NodeDirectory, PROTOCOL};

/// How long the agent may have the token database without being there: longer than it takes to stop.
const AGENT_ENDS: Duration = Duration::from_secs(30);
/// How often it is looked whether it still has it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The program.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    run(&program, arguments.collect(), &mut Streams).into()
}

/// Runs the command that these arguments name; `microk8s.join` names it in the program's name.
pub(crate) fn run(
    program: &OsString,
    mut arguments: Vec<OsString>,
    printer: &mut dyn Printer,
) -> ExitStatus {
    let program = Path::new(program)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let name = match program.strip_prefix("microk8s.") {
        Some(name) => name.to_owned(),
        None if arguments.is_empty() => {
            return passthrough::list_commands(printer, ExitStatus::Failure);
        }
        None => arguments.remove(0).to_string_lossy().into_owned(),
    };
    let (Ok(status) | Err(status)) = run_command(&name, arguments, printer);
    status
}

/// How a command ended: `Err` as soon as that was clear, after the reason was printed.
type Ended = Result<ExitStatus, ExitStatus>;

fn run_command(name: &str, mut arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    if let Some(help) = cli::requested_help(name, &arguments) {
        return Ok(output::print(printer, &help, ExitStatus::Success));
    }
    Ok(match name {
        "add-node" => add_node::run(arguments, printer)?,
        "join" => operation::join(arguments, printer),
        "leave" => operation::leave(arguments, printer),
        "remove-node" => operation::remove_node(arguments, printer),
        "nodes" => nodes::run(arguments, printer)?,
        "token" => token::run(arguments, printer)?,
        // The one program of MicroK8s's snap has its commands behind its own name.
        "cluster-agent" if arguments.first().is_some_and(of_the_one_program) => {
            let name = arguments.remove(0).to_string_lossy().into_owned();
            run_command(&name, arguments, printer)?
        }
        "apiserver-proxy" => apiserver_proxy::run(arguments, printer)?,
        "init" => init::run(arguments, printer)?,
        "agent" | "cluster-agent" => agent::run(name, arguments, printer)?,
        "dev-cluster" => dev_cluster::run(arguments, printer)?,
        "completions" => completions::run(arguments, printer)?,
        "__complete" => completions::complete(arguments, printer),
        "help" | "--help" | "-h" => {
            let options = ["help", "--help", "-h"];
            arguments.retain(|word| !options.iter().any(|option| word == option));
            if arguments.is_empty() {
                return Ok(passthrough::list_commands(printer, ExitStatus::Success));
            }
            let name = arguments.remove(0).to_string_lossy().into_owned();
            arguments.push("--help".into());
            run_command(&name, arguments, printer)?
        }
        "--version" | "-V" => {
            let text = format!("microk8s {}\n", env!("MICROK8S_VERSION"));
            output::print(printer, &text, ExitStatus::Success)
        }
        _ => passthrough::run(name, &arguments, printer),
    })
}

/// Whether a word is a command of MicroK8s's agent program that is none of the agent's own options.
fn of_the_one_program(word: &OsString) -> bool {
    word == "apiserver-proxy" || word == "init"
}

/// The node of this machine.
fn find_node() -> Result<Node, String> {
    let layout = Layout::find(None).map_err(|error| error.to_string())?;
    Ok(node_of(layout, None, None))
}

/// The node with this directory; a standalone one may have a name of its own, and a datastore beside it.
fn node_of(layout: Layout, name: Option<String>, datastore: Option<DatastoreDemo>) -> Node {
    match layout.kind() {
        Kind::Snap => Node::of_snap(layout),
        Kind::Standalone => {
            let platform = StandalonePlatform {
                name,
                datastore,
                has_units: layout.is_packages(),
            };
            Node::new(layout, Arc::new(platform))
        }
    }
}

/// [`find_node`], or the reason printed.
fn find_node_or_say(printer: &mut dyn Printer) -> Result<Node, ExitStatus> {
    find_node().map_err(|error| output::fail(printer, error, None))
}

/// A user who cannot read the administrator's kubeconfig may not use the node (recording
/// `add-node-no-kubeconfig`). A standalone node may not be there at all.
fn check_permission(node: &Node, printer: &mut dyn Printer) -> Result<(), ExitStatus> {
    if std::fs::File::open(node.layout.credential("client.config")).is_ok() {
        return Ok(());
    }
    let data = node.layout.data();
    if node.is_standalone() && matches!(data.try_exists(), Ok(false)) {
        let text = format!("there is no node in {}", data.display());
        let hint = "`microk8s agent` makes one; MICROK8S_NODE_DIR names one that is elsewhere";
        return Err(output::fail(printer, text, Some(hint)));
    }
    Err(refuse_permission(node, printer))
}

fn refuse_permission(node: &Node, printer: &mut dyn Printer) -> ExitStatus {
    let user = std::env::var(env_vars::USER)
        .ok()
        .filter(|user| !user.is_empty())
        .or_else(|| {
            nix::unistd::User::from_uid(nix::unistd::geteuid())
                .ok()
                .flatten()
                .map(|user| user.name)
        })
        .unwrap_or_else(|| "root".to_owned());
    let client_config = node.layout.credential("client.config");
    let why = match std::fs::File::open(&client_config) {
        Err(error) => format!("cannot read `{}`: {error}", client_config.display()),
        Ok(_) => format!(
            "cannot use the socket of the agent, `{}`",
            node.layout.socket(None).display()
        ),
    };
    if node.is_standalone() {
        let group = node.platform.group().name;
        let hint = format!("run the command as root or as a member of the group {group}");
        return output::fail(printer, why, Some(&hint));
    }
    printer.err(&texts::no_permission(&user, node.platform.group().name));
    output::fail(printer, why, None)
}

/// What the node's agent answers; nothing where none runs.
fn ask_agent<T>(
    node: &Node,
    printer: &mut dyn Printer,
    ask: impl AsyncFnOnce(LocalAgent, &mut dyn Printer) -> Result<T, LocalError>,
) -> Result<Option<Result<T, String>>, ExitStatus> {
    let asked = runtime::block_on(async {
        let Some(agent) = find_agent(node, printer).await? else {
            return Ok(None);
        };
        let answer = ask(agent, printer).await;
        Ok(Some(answer.map_err(|error| error.to_string())))
    });
    asked.unwrap_or_else(|error| Ok(Some(Err(error.to_string()))))
}

/// Looks for the node's agent; what stands in the way is printed.
async fn find_agent(
    node: &Node,
    printer: &mut dyn Printer,
) -> Result<Option<LocalAgent>, ExitStatus> {
    let socket = node.layout.socket(None);
    let end = Instant::now() + AGENT_ENDS;
    let mut found = local::probe(&socket).await;
    // An agent that starts again in the node's new directory is not there for a moment.
    let (mut is_moving, mut was_asked_again) = (false, false);
    let mut pause = tokio::time::interval(POLL_INTERVAL);
    while Instant::now() < end {
        match &found {
            Ok(Probe::Ready(agent)) if works_in_older(agent, node) => is_moving = true,
            Ok(Probe::NotRunning) | Err(LocalError::NoAnswer { .. }) if is_moving => {}
            // It may have gone between two questions.
            Err(LocalError::NoAnswer { .. }) if !was_asked_again => was_asked_again = true,
            _ => break,
        }
        pause.tick().await;
        found = local::probe(&socket).await;
    }
    match found {
        Ok(Probe::Ready(agent)) => match elsewhere(&agent, node) {
            None => Ok(Some(agent)),
            Some(other) => {
                let text = format!(
                    "the agent of this node works in `{}`, and this command in `{}`",
                    other.path,
                    node.layout.data().display()
                );
                let hint =
                    "restart the agent, or run the command without SNAP_DATA in its environment";
                Err(output::fail(printer, text, Some(hint)))
            }
        },
        Ok(Probe::NotRunning) => match node.layout.check_current() {
            Ok(()) => Ok(None),
            Err(why) => {
                let hint = "run the command again when `snap changes` shows that it is done, and without SNAP_DATA in its environment";
                Err(output::fail(printer, why, Some(hint)))
            }
        },
        Ok(Probe::NoPermission) => Err(refuse_permission(node, printer)),
        Ok(Probe::OtherProtocol { agent }) => {
            let older = if agent < PROTOCOL { "older" } else { "newer" };
            let text = format!(
                "the agent of this node is {older} than this program: it speaks protocol {agent}, not {PROTOCOL}"
            );
            let hint = "restart the agent, so that both are of one version";
            Err(output::fail(printer, text, Some(hint)))
        }
        Err(error) => Err(output::fail(printer, error, None)),
    }
}

/// The node directory that an agent works in, when it is not that of the command.
fn elsewhere<'a>(agent: &'a LocalAgent, node: &Node) -> Option<&'a NodeDirectory> {
    let own = node.layout.revision()?;
    agent
        .directory
        .as_ref()
        .filter(|directory| directory.identity != own.identity())
}

/// Whether an agent works in another revision than the current one, which is the command's.
fn works_in_older(agent: &LocalAgent, node: &Node) -> bool {
    let is_current = |own: &&Revision| own.is_snaps_current() && own.check().is_ok();
    let own = node.layout.revision().filter(is_current);
    elsewhere(agent, node).is_some_and(|other| {
        own.is_some_and(|own| Path::new(&other.path).parent() == own.directory().parent())
    })
}

/// No agent runs, and for which node.
fn no_agent(node: &Node) -> String {
    let data = node.layout.data().display();
    format!("no agent runs for the node in `{data}`")
}

/// The tokens of a node whose agent does not run; nothing on one that never had any.
fn tokens_without_agent(
    node: &Node,
    printer: &mut dyn Printer,
) -> Result<Option<Tokens>, ExitStatus> {
    carry_over(node).map_err(|error| output::fail(printer, error, None))?;
    if !node.layout.token_database().exists() {
        return Ok(None);
    }
    let tokens = token_admin::open(node, Arc::new(SystemClock), RETRY_WINDOW);
    // A missing permission is reported before anything is done.
    let looked = wait::until(AGENT_ENDS, POLL_INTERVAL, || {
        match tokens.admissions().nodes() {
            Err(StoreError::InUse { .. }) => None,
            looked => Some(looked),
        }
    });
    if let Err(error) = looked.unwrap_or_else(|| tokens.admissions().nodes()) {
        let hint = match error {
            StoreError::InUse { .. } => None,
            _ => Some("run the command as root, or start the node's agent"),
        };
        return Err(output::fail(printer, error, hint));
    }
    Ok(Some(tokens))
}

/// The arguments of a command, as clap reads them.
fn read_arguments<A: clap::Args + clap::FromArgMatches>(
    name: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
    printer: &mut dyn Printer,
) -> Result<A, ExitStatus> {
    cli::read(name, arguments).map_err(|error| refuse_arguments(&error, printer))
}

/// Arguments that clap does not understand, or that ask for help.
fn refuse_arguments(error: &clap::Error, printer: &mut dyn Printer) -> ExitStatus {
    if !error.use_stderr() {
        return output::print(printer, &error.to_string(), ExitStatus::Success);
    }
    let (text, hint) = cli::explain_usage(error);
    output::error(printer, &text, Some(&hint));
    ExitStatus::Usage
}
