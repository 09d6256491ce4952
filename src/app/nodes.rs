//! `microk8s nodes`, from what was typed to the exit status.

use std::ffi::OsString;

use crate::app::{self, Agent};
use crate::base::exit_status::ExitStatus;
use crate::cli;
use crate::cli::nodes::{self, NodesArgs};
use crate::cli::output::Printer;

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    if let Err(error) = cli::read::<NodesArgs>("nodes", arguments) {
        return app::refuse_arguments(&error, printer);
    }
    let node = match app::find_node_or_say(printer) {
        Ok(node) => node,
        Err(status) => return status,
    };
    let found = app::block_on(async {
        match app::find_agent(&node, printer).await? {
            Agent::Ready(agent) => Ok(agent.nodes().await.map_err(|error| error.to_string())),
            Agent::NotRunning => Ok(Err("no agent runs on this node".to_owned())),
        }
    });
    match found {
        Ok(Ok(list)) => nodes::run(printer, list),
        Ok(Err(status)) => status,
        Err(error) => nodes::run(printer, Err(error.to_string())),
    }
}
