//! `microk8s leave`, from what was typed to the exit status.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::app::{self, Agent, interrupt, passthrough};
use crate::base::exit_status::ExitStatus;
use crate::cli::leave::{self as face, Narrator, Typed};
use crate::cli::output::{self, Printer};
use crate::cli::texts;
use crate::cluster::join::{self, JoinError};
use crate::cluster::leave::{self, Audience};
use crate::model::join_stage::JoinStage;
use crate::store::layout::Lock;
use crate::wire::leave_v1::LeaveEvent;

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    match try_run(arguments, printer) {
        Ok(status) | Err(status) => status,
    }
}

fn try_run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Result<ExitStatus, ExitStatus> {
    let node = app::find_node_or_say(printer)?;
    // The order of the looks is MicroK8s's (`messages.md`, Common).
    if node.layout.has(Lock::Stopped) {
        printer.err(texts::NOT_RUNNING);
        return Err(ExitStatus::Failure);
    }
    app::check_permission(&node, printer)?;
    // Whether the node is a member cannot be seen in half of a join, or of a leave.
    let recovered =
        join::recover(&node).and_then(|_| join::settle_when_free(&node).map_err(JoinError::from));
    if let Err(error) = recovered {
        let mut failure = error.outcome(JoinStage::Preflight);
        failure.retry = None;
        return Err(output::failure(printer, &failure));
    }
    if !node.layout.is_in_cluster() {
        return Ok(output::print(
            printer,
            texts::NOT_IN_CLUSTER,
            ExitStatus::Failure,
        ));
    }
    if !node.layout.has(Lock::HaCluster) {
        return Ok(passthrough::run("leave", &arguments, printer));
    }
    let order = match face::read(arguments, printer) {
        Typed::Leave(order) => order,
        Typed::Help => return Ok(output::print(printer, face::HELP, ExitStatus::Success)),
        Typed::Wrong(status) => return Err(status),
    };
    let left = app::block_on(async {
        let Agent::Ready(agent) = app::find_agent(&node, printer).await? else {
            return Ok(None);
        };
        let mut narrator = Narrator::new(printer);
        let ended = agent.leave(&order, |event| narrator.tell(&event)).await;
        let status = narrator.status();
        ended
            .map(|()| Some(status))
            .map_err(|error| app::agent_failed(&error, printer))
    });
    let left = left.map_err(|error| {
        output::error(printer, &error.to_string(), None);
        ExitStatus::Failure
    })??;
    if let Some(status) = left {
        return Ok(status);
    }
    let tokens = app::tokens_without_agent(&node, printer)?;
    let mut narrator = Narrator::new(printer);
    let mut audience = InProcess {
        narrator: &mut narrator,
        interrupted: Arc::default(),
    };
    leave::leave(&node, tokens.as_ref(), &order, &mut audience);
    Ok(narrator.status())
}

/// A leave in this process: told as it happens, and taken back when the process is told to end.
struct InProcess<'a, 'b> {
    narrator: &'a mut Narrator<'b>,
    interrupted: Arc<AtomicBool>,
}

impl Audience for InProcess<'_, '_> {
    fn tell(&mut self, event: LeaveEvent) {
        self.narrator.tell(&event);
    }

    /// Until now a signal just ends the process; from now on there is something to take back.
    fn changes_begin(&mut self) {
        interrupt::catch(&self.interrupted);
    }

    fn has_left(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}
