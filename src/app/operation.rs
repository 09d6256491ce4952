//! `microk8s join`, `leave`, `remove-node` and `init`, from what was typed to the exit status.
//!
//! The order in which each checks the node is MicroK8s's, and part of what scripts and people see. An
//! `Err` holds the exit status of a command that is over before its operation began.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::app::{self, interrupt, passthrough};
use crate::base::exit_status::ExitStatus;
use crate::base::{runtime, time_text, wait};
use crate::cli::join_args::{self, Format, Parsed};
use crate::cli::output::{self, Printer};
use crate::cli::renderer::Renderer;
use crate::cli::{self, IF_PRESENT, join_check, texts};
use crate::cluster::join::{self, JoinError};
use crate::cluster::node::Node;
use crate::cluster::operation::{self, Progress, RunsIn};
use crate::model::join_stage::JoinStage;
use crate::platform::{Action, Service};
use crate::store::layout::Lock;
use crate::wire::operation::{End, Event, Operation};

/// The time between two attempts of a join, unless the contacted node asks for more.
const PAUSE: Duration = Duration::from_secs(5);

pub(crate) fn join(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let (parsed, manner) = join_args::parse(&arguments);
    let mut renderer = Renderer::of_join(&arguments, manner, printer);
    let done = try_join(parsed, manner.is_dry_run, &mut renderer);
    renderer.finish(done)
}

pub(crate) fn leave(mut arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let format = match Format::take(&mut arguments) {
        Ok(format) => format,
        Err(text) => return cli::usage_error(printer, "leave", "[OPTIONS]", &text),
    };
    let mut renderer = Renderer::new(format, printer);
    let done = try_leave(arguments, format, &mut renderer);
    renderer.finish(done)
}

pub(crate) fn remove_node(mut arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let format = match Format::take(&mut arguments) {
        Ok(format) => format,
        Err(text) => return cli::usage_error(printer, "remove-node", "[OPTIONS] NODE", &text),
    };
    let mut renderer = Renderer::new(format, printer);
    let done = try_remove_node(arguments, &mut renderer);
    renderer.finish(done)
}

fn try_join(
    parsed: Parsed,
    is_dry_run: bool,
    renderer: &mut Renderer<'_>,
) -> Result<(), ExitStatus> {
    let node = app::find_node_or_say(renderer)?;
    if !is_dry_run && node.layout.hostpath_storage().is_dir() {
        renderer
            .out(texts::HOSTPATH_WARNING)
            .map_err(|lost| lost.status())?;
    }
    app::check_permission(&node, renderer)?;
    let typed = cli::join::read(parsed, renderer)?;
    if let Some(error) = typed.invalid {
        renderer.tell(&join_check::invalid_connection(error));
    }
    let order = typed.order;
    if !is_dry_run && join::is_guarded(&node, order.role, order.disable_low_memory_guard) {
        let text = texts::low_memory_guard(&typed.connection);
        let why = "this node has too little memory for a control plane node";
        let hint = "join as a worker, or with `--disable-low-memory-guard`";
        return Err(output::refuse(renderer, &text, why, Some(hint)));
    }
    let operation = Operation::Join(order);
    match typed.wait {
        None => run(&node, &operation, renderer, &CancellationToken::new()),
        Some(limit) => run_again(&node, &operation, renderer, Duration::from_secs(limit)),
    }
}

/// Joins, and tries again for so long while time alone may cure what is in the way. The last attempt
/// begins before the end.
fn run_again(
    node: &Node,
    operation: &Operation,
    renderer: &mut Renderer<'_>,
    limit: Duration,
) -> Result<(), ExitStatus> {
    let end = wait::end_of(limit);
    let interrupted = CancellationToken::new();
    renderer.hold_back();
    loop {
        run(node, operation, renderer, &interrupted)?;
        let Some(failure) = renderer.take_held() else {
            return Ok(());
        };
        let asked = Duration::from_secs(failure.retry_after.unwrap_or_default());
        let pause = PAUSE.max(asked);
        if Instant::now() + pause > end {
            renderer.tell_last(failure);
            return Ok(());
        }
        renderer.tell(&Event::warning(format!(
            "{}; trying again for {}",
            failure.message().trim_end_matches('.'),
            time_text::span(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX))
        )));
        // A signal ends the program here, unless an attempt had something to take back.
        let pausing = async { tokio::time::timeout(pause, interrupted.cancelled()).await };
        if matches!(runtime::block_on(pausing), Ok(Ok(()))) {
            output::error(renderer, "the join was interrupted", None);
            return Err(ExitStatus::Interrupted);
        }
    }
}

fn try_leave(
    mut arguments: Vec<OsString>,
    format: Format,
    renderer: &mut Renderer<'_>,
) -> Result<(), ExitStatus> {
    let node = app::find_node_or_say(renderer)?;
    if node.layout.has(Lock::Stopped) {
        renderer.err(texts::NOT_RUNNING);
        return Err(ExitStatus::Failure);
    }
    app::check_permission(&node, renderer)?;
    // Whether the node is a member cannot be seen in half of a join, or of a leave.
    let recovered =
        join::recover(&node).and_then(|_| join::settle_when_free(&node).map_err(JoinError::from));
    if let Err(error) = recovered {
        let mut failure = error.outcome(JoinStage::Preflight);
        failure.retry = None;
        return Err(output::failure(renderer, &failure));
    }
    if !node.layout.is_in_cluster() {
        let text = texts::NOT_IN_CLUSTER;
        if !arguments.iter().any(|argument| argument == IF_PRESENT) {
            let why = "this node is not in a cluster";
            let hint = "there is nothing to do; with `--if-present` the exit code is 0";
            return Err(output::refuse(renderer, text, why, Some(hint)));
        }
        cli::leave::read(arguments, renderer)?;
        let text = text.trim_end().to_owned();
        renderer.tell(&Event::End(End::Absent { text }));
        return Ok(());
    }
    if !node.layout.has(Lock::HaCluster) {
        if format == Format::Json {
            let text =
                "without high availability MicroK8s's own `leave` runs, and it prints no JSON";
            output::error(renderer, text, Some("leave out `--format json`"));
            return Err(ExitStatus::Usage);
        }
        arguments.retain(|argument| argument != IF_PRESENT);
        return Err(passthrough::run("leave", &arguments, renderer));
    }
    let operation = cli::leave::read(arguments, renderer)?;
    run(&node, &operation, renderer, &CancellationToken::new())
}

fn try_remove_node(
    arguments: Vec<OsString>,
    renderer: &mut Renderer<'_>,
) -> Result<(), ExitStatus> {
    let node = app::find_node_or_say(renderer)?;
    app::check_permission(&node, renderer)?;
    if node.layout.has(Lock::Clustered) {
        let why = "a worker cannot remove nodes";
        let hint = "run the command on a control plane node";
        let text = texts::REMOVE_NODE_ON_WORKER;
        return Err(output::refuse(renderer, text, why, Some(hint)));
    }
    let is_ha = node.layout.has(Lock::HaCluster);
    let order = cli::remove_node::read(arguments, is_ha, renderer)?;
    let operation = Operation::RemoveNode(order);
    run(&node, &operation, renderer, &CancellationToken::new())
}

/// Applies a launch configuration. Before the services run there is no agent.
pub(crate) fn launch(
    node: &Node,
    operation: &Operation,
    pre_init: bool,
    renderer: &mut Renderer<'_>,
) -> Result<(), ExitStatus> {
    let interrupted = CancellationToken::new();
    if pre_init {
        run_here(node, operation, renderer, &interrupted)
    } else {
        run(node, operation, renderer, &interrupted)
    }
}

/// Runs an operation in the node's agent, or in this process where there is none.
fn run(
    node: &Node,
    operation: &Operation,
    renderer: &mut Renderer<'_>,
    interrupted: &CancellationToken,
) -> Result<(), ExitStatus> {
    let ran_in_agent = runtime::block_on(async {
        let Some(agent) = app::find_agent(node, renderer).await? else {
            return Ok(false);
        };
        let ended = agent.run(operation, |event| renderer.tell(&event)).await;
        let hint = "read the log of this node's agent";
        ended
            .map(|()| true)
            .map_err(|error| output::fail(renderer, error, Some(hint)))
    });
    match ran_in_agent.map_err(|error| output::fail(renderer, error, None))?? {
        true => Ok(()),
        false => run_here(node, operation, renderer, interrupted),
    }
}

/// Runs an operation in this process.
fn run_here(
    node: &Node,
    operation: &Operation,
    renderer: &mut Renderer<'_>,
    interrupted: &CancellationToken,
) -> Result<(), ExitStatus> {
    let tokens = match operation {
        Operation::Join(_) | Operation::Launch(_) => None,
        Operation::Leave { .. } | Operation::RemoveNode(_) => {
            app::tokens_without_agent(node, renderer)?
        }
    };
    let mut progress = InProcess {
        renderer,
        interrupted: interrupted.clone(),
    };
    let done = operation::run(
        node,
        tokens.as_ref(),
        operation,
        RunsIn::Command,
        &mut progress,
    );
    if done.restarts_agent
        && let Err(error) = node
            .platform
            .service(Action::Restart, Service::ClusterAgent)
    {
        let text = format!("the agent of this node does not restart: {error}");
        output::error(
            renderer,
            &text,
            Some("its new arguments count from its next start"),
        );
        return Err(ExitStatus::ServiceFailed);
    }
    Ok(())
}

/// An operation in this process: told as it happens, and taken back when the process is told to end.
struct InProcess<'a, 'b> {
    renderer: &'a mut Renderer<'b>,
    interrupted: CancellationToken,
}

impl Progress for InProcess<'_, '_> {
    fn tell(&mut self, event: Event) {
        self.renderer.tell(&event);
    }

    /// Until now a signal just ends the process; from now on there is something to take back.
    fn changes_begin(&mut self) {
        interrupt::catch(&self.interrupted);
    }

    fn cancelled(&self) -> &CancellationToken {
        &self.interrupted
    }
}
