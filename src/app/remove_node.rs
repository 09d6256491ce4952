//! `microk8s remove-node`, from what was typed to the exit status.

use std::ffi::OsString;

use crate::app::{self, Agent};
use crate::base::exit_status::ExitStatus;
use crate::cli::output::{self, Printer};
use crate::cli::remove_node::{self as face, Narrator, Typed};
use crate::cli::texts;
use crate::cluster::remove_node;
use crate::store::layout::Lock;

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    match try_run(arguments, printer) {
        Ok(status) | Err(status) => status,
    }
}

fn try_run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Result<ExitStatus, ExitStatus> {
    let node = app::find_node_or_say(printer)?;
    // The order of the looks is MicroK8s's (`messages.md`, Common).
    app::check_permission(&node, printer)?;
    if node.layout.has(Lock::Clustered) {
        return Ok(output::print(
            printer,
            texts::REMOVE_NODE_ON_WORKER,
            ExitStatus::Failure,
        ));
    }
    let order = match face::read(arguments, node.layout.has(Lock::HaCluster), printer) {
        Typed::Remove(order) => order,
        Typed::Help => return Ok(output::print(printer, face::HELP, ExitStatus::Success)),
        Typed::Wrong(status) => return Err(status),
    };
    let removed = app::block_on(async {
        let Agent::Ready(agent) = app::find_agent(&node, printer).await? else {
            return Ok(None);
        };
        let mut narrator = Narrator::new(printer);
        let ended = agent
            .remove_node(&order, |event| narrator.tell(&event))
            .await;
        let status = narrator.status();
        ended
            .map(|()| Some(status))
            .map_err(|error| app::agent_failed(&error, printer))
    });
    let removed = removed.map_err(|error| {
        output::error(printer, &error.to_string(), None);
        ExitStatus::Failure
    })??;
    if let Some(status) = removed {
        return Ok(status);
    }
    let tokens = app::tokens_without_agent(&node, printer)?;
    let mut narrator = Narrator::new(printer);
    remove_node::remove_node(&node, tokens.as_ref(), &order, &mut |event| {
        narrator.tell(&event);
    });
    Ok(narrator.status())
}
