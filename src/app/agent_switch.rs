//! `microk8s agent install` and `uninstall`, from what was typed to the exit status.

use std::ops::ControlFlow;

use tokio_util::sync::CancellationToken;

use crate::app::{self, Ended, interrupt};
use crate::base::exit_status::ExitStatus;
use crate::base::runtime;
use crate::cli::agent::AgentCommand;
use crate::cli::output::{self, Printer};
use crate::client::local::{self, Probe};
use crate::cluster::agent_switch::{Agent, StepError, Switch, SwitchError};
use crate::cluster::node::Node;
use crate::store::token_files;
use crate::wire::local_v1::TokenSelection;

pub(crate) fn run(command: AgentCommand, printer: &mut dyn Printer) -> Ended {
    let (to, is_dry_run, whose) = match command {
        AgentCommand::Install { dry_run } => (Agent::Own, dry_run, "this program"),
        AgentCommand::Uninstall { dry_run } => (Agent::Snaps, dry_run, "MicroK8s"),
    };
    let node = app::find_node_or_say(printer)?;
    let switch = Switch::new(&node, to).map_err(|error| fail(&error, printer))?;
    let served = format!("The agent of {whose} serves this node.\n");
    if switch.steps.is_empty() {
        return Ok(output::print(printer, &served, ExitStatus::Success));
    }
    if to == Agent::Snaps {
        for notice in left_behind(&node) {
            printer.err(&format!("warning: {notice}"));
        }
    }
    if is_dry_run {
        let lines = switch.steps.iter().map(|step| step.describe() + "\n");
        let lines: String = lines.collect();
        return Ok(output::print(printer, &lines, ExitStatus::Success));
    }
    let interrupted = CancellationToken::new();
    interrupt::catch(&interrupted);
    switch
        .run(&interrupted, &mut |line| printer.err(&line))
        .map_err(|error| fail(&error, printer))?;
    Ok(output::print(printer, &served, ExitStatus::Success))
}

/// What the snap's agent does not know of the node.
fn left_behind(node: &Node) -> Vec<String> {
    let mut notices = Vec::new();
    let usable = runtime::block_on(async {
        let Ok(Probe::Ready(agent)) = local::probe(&node.layout.socket(None)).await else {
            return Vec::new();
        };
        let mut usable = Vec::new();
        let found = agent.find_tokens(&TokenSelection::All, |token| {
            if !token.state.is_over() && token.file.is_none() {
                usable.push(token.id);
            }
            ControlFlow::Continue(())
        });
        match found.await {
            Ok(_) => usable,
            Err(_) => Vec::new(),
        }
    });
    let usable: Vec<String> = usable.unwrap_or_default();
    if !usable.is_empty() {
        notices.push(format!(
            "the agent of MicroK8s does not know the tokens {}: only their hashes are kept; they are valid again after `microk8s agent install`, or issue others with `microk8s add-node`",
            usable.join(", ")
        ));
    }
    if node
        .layout
        .credential(token_files::CALLBACK_DIGEST)
        .exists()
    {
        notices.push(format!(
            "the agent of MicroK8s takes no callbacks of this worker's cluster until `{}` is a copy of that file of a control plane node",
            node.layout.credential(token_files::CALLBACK_TOKEN).display()
        ));
    }
    notices
}

fn fail(error: &SwitchError, printer: &mut dyn Printer) -> ExitStatus {
    let hint = match error {
        SwitchError::NotRoot => "run the command with sudo",
        SwitchError::NoSnap(_) => {
            "without MicroK8s `systemctl enable --now microk8s-cluster-agent` of the Debian package serves a standalone node"
        }
        SwitchError::NoSystemd => {
            "start `microk8s agent` in the place of the snap's agent by your own service manager"
        }
        SwitchError::Program { .. } => {
            "install it with `sudo install -m 755 microk8s /usr/local/bin/microk8s`, and run it there"
        }
        SwitchError::Busy => "wait until that one has ended",
        SwitchError::ForeignUnit => "see what it is, and move it away",
        SwitchError::File { .. } => "see who owns it",
        SwitchError::Undone(StepError::Interrupted) => "run the same command again",
        SwitchError::Undone(_) => {
            "see `journalctl -u microk8s-cluster-agent -n 20`, and run the same command again"
        }
        SwitchError::NotUndone { .. } => {
            "see `snap services microk8s` and `systemctl status microk8s-cluster-agent`, and run the same command again"
        }
    };
    output::error(printer, &error.to_string(), Some(hint));
    match error {
        SwitchError::Undone(StepError::Interrupted) => ExitStatus::Interrupted,
        SwitchError::Undone(_) => ExitStatus::ServiceFailed,
        SwitchError::NotUndone { .. } => ExitStatus::NotTakenBack,
        _ => ExitStatus::Failure,
    }
}
