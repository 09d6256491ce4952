//! `microk8s join`, from what was typed to the exit status.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::app::{self, Agent, interrupt};
use crate::base::exit_status::ExitStatus;
use crate::cli::join::{self as face, Typed};
use crate::cli::join_args::{self, Format, Manner, Parsed};
use crate::cli::join_check::Report;
use crate::cli::join_events::Lines;
use crate::cli::join_text::{Narrator, Teller};
use crate::cli::output::{self, Printer};
use crate::cli::progress::Spinner;
use crate::cli::texts;
use crate::client::local::LocalAgent;
use crate::cluster::join::{self, Audience, RunsIn, preflight};
use crate::wire::local_v1::{JoinEvent, JoinOrder};

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let (parsed, manner) = join_args::parse(&arguments);
    if manner.is_look {
        let mut report = Report::new(&arguments, manner.format, printer);
        let failed = check(parsed, &mut report).err();
        return report.finish(failed);
    }
    match manner.format {
        Format::Json => {
            let mut lines = Lines::new(&arguments, printer);
            let status = run_with(parsed, manner, &mut lines);
            lines.finish(status)
        }
        Format::Text => run_with(parsed, manner, &mut Narrator::new(printer)),
    }
}

fn run_with(parsed: Parsed, manner: Manner, teller: &mut dyn Teller) -> ExitStatus {
    let (Ok(status) | Err(status)) = if manner.no_progress || !output::can_redraw() {
        try_run(parsed, teller)
    } else {
        try_run(parsed, &mut Spinner::new(teller))
    };
    status
}

fn try_run(parsed: Parsed, printer: &mut dyn Teller) -> Result<ExitStatus, ExitStatus> {
    let node = app::find_node_or_say(printer)?;
    if node.layout.hostpath_storage().is_dir() {
        printer
            .out(texts::HOSTPATH_WARNING)
            .map_err(|lost| lost.status())?;
    }
    app::check_permission(&node, printer)?;
    let (order, connection) = match face::read(parsed, printer) {
        Typed::Join { order, connection } => (order, connection),
        // Arguments that ask for a look do not get here.
        Typed::Check { .. } => return Err(ExitStatus::Usage),
        Typed::Help => return Ok(join_args::help(printer)),
        Typed::Wrong(status) => return Err(status),
    };
    if join::is_guarded(&node, order.role, order.disable_low_memory_guard) {
        return Err(face::refuse_for_memory(printer, &connection));
    }
    let joined = app::block_on(async {
        match app::find_agent(&node, printer).await? {
            Agent::Ready(agent) => through_agent(&agent, &order, printer).await.map(Some),
            Agent::NotRunning => Ok(None),
        }
    });
    let joined = joined.map_err(|error| {
        output::error(printer, &error.to_string(), None);
        ExitStatus::Failure
    })??;
    if let Some(status) = joined {
        return Ok(status);
    }
    let mut audience = InProcess {
        teller: printer,
        interrupted: Arc::default(),
    };
    join::join(&node, &order, RunsIn::Command, &mut audience);
    Ok(printer.status())
}

/// Looks what stands in the way of a join.
fn check(parsed: Parsed, report: &mut Report<'_>) -> Result<(), ExitStatus> {
    let node = app::find_node_or_say(report)?;
    app::check_permission(&node, report)?;
    let order = match face::read(parsed, report) {
        Typed::Check { order, invalid } => {
            if let Some(error) = invalid {
                report.tell_invalid(error);
            }
            order
        }
        Typed::Join { .. } | Typed::Help => return Err(ExitStatus::Usage),
        Typed::Wrong(status) => return Err(status),
    };
    if let Some(url) = &order.url {
        report.contacts(url.address);
    }
    let looked = app::block_on(async {
        match app::find_agent(&node, report).await? {
            Agent::NotRunning => Ok(false),
            Agent::Ready(agent) => match agent.check_join(&order, |event| report.tell(event)).await
            {
                Ok(()) => Ok(true),
                Err(error) => Err(app::agent_failed(&error, report)),
            },
        }
    });
    let looked = looked.map_err(|error| {
        output::error(report, &error.to_string(), None);
        ExitStatus::Failure
    })??;
    if !looked {
        preflight::check(&node, &order, |event| report.tell(event));
    }
    Ok(())
}

async fn through_agent(
    agent: &LocalAgent,
    order: &JoinOrder,
    teller: &mut dyn Teller,
) -> Result<ExitStatus, ExitStatus> {
    match agent.join(order, |event| teller.tell(&event)).await {
        Ok(()) => Ok(teller.status()),
        Err(error) => Err(app::agent_failed(&error, teller)),
    }
}

/// A join in this process: told as it happens, and taken back when the process is told to end.
struct InProcess<'a> {
    teller: &'a mut dyn Teller,
    interrupted: Arc<AtomicBool>,
}

impl Audience for InProcess<'_> {
    fn tell(&mut self, event: JoinEvent) {
        self.teller.tell(&event);
    }

    /// Until now a signal just ends the process; from now on there is something to take back.
    fn changes_begin(&mut self) {
        interrupt::catch(&self.interrupted);
    }

    fn has_left(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}
