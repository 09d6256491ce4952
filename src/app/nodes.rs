//! `microk8s nodes`, from what was typed to the exit status.

use std::ffi::OsString;

use crate::app::{self, Ended};
use crate::base::exit_status::ExitStatus;
use crate::cli::nodes::{self, NodesArgs};
use crate::cli::output::{self, Format, Printer};
use crate::cluster::node::Node;
use crate::cluster::{health, status};

pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let args: NodesArgs = app::read_arguments("nodes", arguments, printer)?;
    let node = app::find_node_or_say(printer)?;
    app::check_permission(&node, printer)?;
    if args.own {
        return membership(&node, args.format, printer);
    }
    if args.check {
        return check(&node, args.format, printer);
    }
    let list = app::ask_agent(&node, printer, async |agent, _| agent.nodes().await)?
        .unwrap_or_else(|| Err(app::no_agent(&node)));
    let list = list.map_err(|error| {
        let hint = "start the agent of this node: `systemctl start microk8s-cluster-agent`, or `microk8s agent` on a node without MicroK8s";
        output::fail(printer, error, Some(hint))
    })?;
    if args.format == Format::Text {
        nodes::note_what_is_missing(printer, status::membership(&node.layout).as_ref());
    }
    Ok(nodes::list(printer, &list, args.format))
}

/// Checks the nodes, in the agent of this node or, where none runs, in this process.
fn check(node: &Node, format: Format, printer: &mut dyn Printer) -> Ended {
    let checked = match app::ask_agent(node, printer, async |agent, _| agent.check_nodes().await)? {
        Some(checked) => checked,
        None => {
            let tokens = app::tokens_without_agent(node, printer)?;
            health::check(node, tokens.as_ref()).map_err(|error| error.to_string())
        }
    };
    let checked = checked.map_err(|error| output::fail(printer, error, None))?;
    Ok(nodes::health(printer, &checked, format))
}

/// Says whether this node is in a cluster, which needs no agent.
fn membership(node: &Node, format: Format, printer: &mut dyn Printer) -> Ended {
    let Some(own) = status::membership(&node.layout) else {
        let hint = "ask again when it is done; one that was interrupted is undone by the agent of this node";
        let text = "a join or leave of this node is under way, so it is not known yet whether it is a member";
        output::error(printer, text, Some(hint));
        return Err(ExitStatus::NotReady);
    };
    Ok(nodes::membership(printer, &own, format))
}
