//! `microk8s nodes`, from what was typed to the exit status.

use std::ffi::OsString;

use crate::app::{self, Agent};
use crate::base::exit_status::ExitStatus;
use crate::base::runtime;
use crate::cli;
use crate::cli::nodes::{self, NodesArgs};
use crate::cli::output::{self, Format, Printer};
use crate::cluster::node::Node;
use crate::cluster::{health, status};

pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let args: NodesArgs = match cli::read("nodes", arguments) {
        Ok(args) => args,
        Err(error) => return app::refuse_arguments(&error, printer),
    };
    let node = match app::find_node_or_say(printer) {
        Ok(node) => node,
        Err(status) => return status,
    };
    if args.own {
        let (Ok(status) | Err(status)) = membership(&node, args.format, printer);
        return status;
    }
    if let Err(status) = app::check_permission(&node, printer) {
        return status;
    }
    if args.check {
        let (Ok(status) | Err(status)) = check(&node, args.format, printer);
        return status;
    }
    let found = runtime::block_on(async {
        match app::find_agent(&node, printer).await? {
            Agent::Ready(agent) => Ok(agent.nodes().await.map_err(|error| error.to_string())),
            Agent::NotRunning => Ok(Err(app::no_agent(&node))),
        }
    });
    match found {
        Ok(Ok(list)) => {
            if list.is_ok() && args.format == Format::Text {
                nodes::note_what_is_missing(printer, status::membership(&node.layout).as_ref());
            }
            nodes::run(printer, list, args.format)
        }
        Ok(Err(status)) => status,
        Err(error) => nodes::run(printer, Err(error.to_string()), args.format),
    }
}

/// Checks the nodes, in the agent of this node or, where none runs, in this process.
fn check(node: &Node, format: Format, printer: &mut dyn Printer) -> Result<ExitStatus, ExitStatus> {
    let checked = runtime::block_on(async {
        match app::find_agent(node, printer).await? {
            Agent::Ready(agent) => {
                let checked = agent.check_nodes().await;
                Ok(Some(checked.map_err(|error| error.to_string())))
            }
            Agent::NotRunning => Ok(None),
        }
    });
    let checked = match checked.unwrap_or_else(|error| Ok(Some(Err(error.to_string()))))? {
        Some(checked) => checked,
        None => {
            let tokens = app::tokens_without_agent(node, printer)?;
            health::check(node, tokens.as_ref()).map_err(|error| error.to_string())
        }
    };
    match checked {
        Ok(checked) => Ok(nodes::health(printer, &checked, format)),
        Err(error) => {
            output::error(printer, &error, None);
            Err(ExitStatus::Failure)
        }
    }
}

/// Says whether this node is in a cluster, which needs no agent.
fn membership(
    node: &Node,
    format: Format,
    printer: &mut dyn Printer,
) -> Result<ExitStatus, ExitStatus> {
    app::check_permission(node, printer)?;
    let Some(own) = status::membership(&node.layout) else {
        let hint = "ask again when it is done; one that was interrupted is undone by the agent of this node";
        let text = "a join or leave of this node is under way, so it is not known yet whether it is a member";
        output::error(printer, text, Some(hint));
        return Err(ExitStatus::NotReady);
    };
    Ok(nodes::membership(printer, &own, format))
}
