//! `microk8s leave`: a node that is in no cluster is told so; the rest is still done by the
//! snap's own command.

use std::ffi::OsString;

use crate::app::{self, hand_over};
use crate::base::exit_status::ExitStatus;
use crate::cli::output::{self, Printer};
use crate::cli::texts;
use crate::cluster::join;
use crate::store::layout::Lock;

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let node = match app::find_node_or_say(printer) {
        Ok(node) => node,
        Err(status) => return status,
    };
    // The order of the looks is MicroK8s's (`messages.md`, Common).
    if node.layout.has(Lock::Stopped) {
        printer.err(texts::NOT_RUNNING);
        return ExitStatus::Failure;
    }
    if let Err(status) = app::check_permission(&node, printer) {
        return status;
    }
    // The snap's own command must not work on half of a join.
    if let Err(error) = join::recover(&node) {
        let hint =
            "run the command as root; what an earlier join left behind has to be taken back first";
        output::error(printer, &error.to_string(), Some(hint));
        return ExitStatus::Failure;
    }
    if !node.layout.is_in_cluster() {
        return output::print(printer, texts::NOT_IN_CLUSTER, ExitStatus::Failure);
    }
    hand_over::run("leave", &arguments, printer)
}
