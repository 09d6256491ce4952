//! `microk8s add-node`, from what was typed to the exit status.

use std::ffi::OsString;

use crate::app::{self, Agent};
use crate::base::clock::SystemClock;
use crate::base::exit_status::ExitStatus;
use crate::base::runtime;
use crate::cli::add_node::{self, AddNodeArgs};
use crate::cli::output::{self, Printer};
use crate::cli::{self, argparse, texts};
use crate::cluster::add_node::{NotHere, issue_into_file, refuse_unfit, refuse_worker};

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    match try_run(arguments, printer) {
        Ok(status) | Err(status) => status,
    }
}

fn try_run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Result<ExitStatus, ExitStatus> {
    let node = app::find_node_or_say(printer)?;
    refuse_worker(&node).map_err(|why| refuse(printer, why))?;
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
    let agent = runtime::block_on(app::find_agent(&node, printer)).map_err(|error| {
        output::error(printer, &error.to_string(), None);
        ExitStatus::Failure
    })??;
    Ok(add_node::run(args, printer, |request| match agent {
        Agent::Ready(agent) => runtime::block_on(agent.add_token(&request))
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string()),
        Agent::NotRunning => issue_into_file(&node, &SystemClock, request.token, &request.terms)
            .map_err(|error| error.to_string()),
    }))
}

fn refuse(printer: &mut dyn Printer, why: NotHere) -> ExitStatus {
    match why {
        NotHere::Worker => output::print(printer, texts::ADD_NODE_ON_WORKER, ExitStatus::Failure),
        NotHere::OldCa { strict } => {
            output::print(printer, &texts::old_ca(strict), ExitStatus::Failure)
        }
        NotHere::Stopped => {
            printer.err(texts::NOT_RUNNING);
            ExitStatus::Failure
        }
    }
}
