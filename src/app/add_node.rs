//! `microk8s add-node`, from what was typed to the exit status.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::time::Duration;

use crate::app::{self, Ended};
use crate::base::clock::SystemClock;
use crate::base::exit_status::ExitStatus;
use crate::cli::add_node::{self, AddNodeArgs};
use crate::cli::output::{self, Printer};
use crate::cli::{self, argparse, texts};
use crate::cluster::add_node::{NotHere, issue_into_file, refuse_unfit};
use crate::cluster::node::Node;
use crate::model::token_terms::RoleLimit;
use crate::wire::local_v1::IssuedToken;

/// How long a port of this machine may take to answer.
const CONNECTS: Duration = Duration::from_millis(500);

pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let node = app::find_node_or_say(printer)?;
    if node.is_worker() {
        let hint = "run `microk8s add-node` on a control plane node";
        let text = texts::ADD_NODE_ON_WORKER;
        return Err(output::refuse(
            printer,
            text,
            "a worker issues no tokens",
            Some(hint),
        ));
    }
    app::check_permission(&node, printer)?;
    refuse_unfit(&node).map_err(|why| refuse(printer, why))?;
    let args: AddNodeArgs = match cli::read("add-node", arguments) {
        Ok(args) => args,
        // An abbreviation of `--help`.
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => {
            return Ok(app::refuse_arguments(&error, printer));
        }
        Err(error) => return Err(add_node::usage_error(printer, &argparse::describe(&error))),
    };
    let request = add_node::request(&args, printer)?;
    let issued = app::ask_agent(&node, printer, async |agent, _| {
        agent.add_token(&request).await
    })?;
    let issued = issued.unwrap_or_else(|| {
        issue_into_file(&node, &SystemClock, &request)
            .map(|issued| warn_where_nothing_listens(&node, issued))
            .map_err(|error| error.to_string())
    });
    let issued = issued.map_err(|error| output::fail(printer, error, None))?;
    Ok(add_node::print(&args, warn_of_role(issued), printer))
}

/// The first command that is printed is that of a control plane node, as in MicroK8s. Only a person
/// is told.
fn warn_of_role(mut issued: IssuedToken) -> IssuedToken {
    if issued.granted.role == RoleLimit::Worker && io::stderr().is_terminal() {
        let text = "this token is for workers only: use it with `--worker`";
        issued.notices.push(text.to_owned());
    }
    issued
}

/// MicroK8s's own agent may listen where this program's does not; a token is of no use without any.
/// Only a person is told: scripts take standard error for part of the answer.
fn warn_where_nothing_listens(node: &Node, mut issued: IssuedToken) -> IssuedToken {
    if !io::stderr().is_terminal() {
        return issued;
    }
    let mut address = node.agent_bind();
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if TcpStream::connect_timeout(&address, CONNECTS).is_err_and(refused) {
        let port = address.port();
        issued.notices.push(format!(
            "no agent listens on port {port} of this node, so no node can join until one runs"
        ));
    }
    issued
}

fn refuse(printer: &mut dyn Printer, why: NotHere) -> ExitStatus {
    match why {
        NotHere::OldCa { strict } => {
            output::print(printer, &texts::old_ca(strict), ExitStatus::Failure)
        }
        NotHere::Stopped => {
            printer.err(texts::NOT_RUNNING);
            ExitStatus::Failure
        }
    }
}
