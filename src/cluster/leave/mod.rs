//! Leaving a cluster.
//!
//! Everything that the node will be on its own is made ready first. Then services and files
//! change through the journal, as in a join, and a leave that fails leaves the node as it was. A
//! control plane node is then forgotten by the datastore, which this node cannot undo: from there
//! on the leave is completed, now or by the next process that finds the journal.

mod datastore;
mod error;
mod plan;

use std::time::{Duration, Instant};

use crate::base::atomic_file::Access;
use crate::base::wait;
use crate::cluster::forget;
use crate::cluster::join;
use crate::cluster::node::Node;
use crate::cluster::node_lock;
use crate::cluster::operation::Progress;
use crate::cluster::pod_network;
use crate::cluster::transaction::{
    CommitPoint, Committed, Ending, JournalError, Step, Transaction,
};
use crate::model::join_stage::JoinStage;
use crate::model::role::Role;
use crate::platform::{Action, CommandError, Service};
use crate::store::tokens::Tokens;
use crate::wire::operation::{End, Event};

use datastore::Forget;
pub(crate) use error::LeaveError;
pub(crate) use error::{not_forgotten, tell_what_it_said};
use plan::Plan;

/// How long the node's own API server is waited for: MicroK8s asks ten times, five seconds apart,
/// and prints a dot for each (recording `leave-kubectl-fails`).
const UP_LIMIT: Duration = Duration::from_secs(50);
const UP_DOT: Duration = Duration::from_secs(5);
const UP_FIRST_PAUSE: Duration = Duration::from_millis(100);
const UP_LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A line of MicroK8s (recording `leave-ok`).
const NEW_CERTIFICATES: &str = "Generating new cluster certificates.";
/// How long the datastore is asked to forget this node: without its vote, and again with it.
const ASK_LIMIT: Duration = Duration::from_secs(10);

/// Leaves the cluster, or only says how it would; says how that ended. `tokens` are those of the node's
/// agent.
pub(super) fn leave(
    node: &Node,
    tokens: Option<&Tokens>,
    dry_run: bool,
    progress: &mut dyn Progress,
) -> End {
    attempt(node, tokens, dry_run, progress).unwrap_or_else(|error| {
        if let LeaveError::NotForgotten { source, .. } = &error {
            tell_what_it_said(source, progress);
        }
        End::Failed(error.outcome())
    })
}

fn attempt(
    node: &Node,
    tokens: Option<&Tokens>,
    dry_run: bool,
    progress: &mut dyn Progress,
) -> Result<End, LeaveError> {
    let _turn = node_lock::lock_and_recover::<LeaveError>(
        node,
        node_lock::COMMAND_LIMIT,
        join::recover_in_turn,
    )?;
    let plan = Plan::prepare(node, dry_run)?;
    let role = plan.role;
    if plan.ends_cluster {
        warn_workers(&datastore::workers(node, tokens), progress);
    }
    let listed_as = plan.stays_listed.then(|| node.name().ok()).flatten();
    if dry_run {
        let steps = plan.in_words(node.layout.data());
        return Ok(End::Planned {
            role,
            steps,
            listed_as,
        });
    }
    progress.changes_begin();
    progress.tell(Event::stage(
        JoinStage::Apply,
        "changing the files and services of the node",
    ));
    let mut transaction = Transaction::begin(node)?;
    match follow(node, &mut transaction, plan, progress) {
        Ok(committed) => {
            if let Some(message) = committed.warning("left the cluster") {
                progress.tell(Event::warning(message));
            }
        }
        Err(error) => take_back(transaction, error)?,
    }
    forget_nodes(tokens, progress);
    start_alone(node, progress);
    Ok(End::Left { role, listed_as })
}

/// Workers have no cluster without its last control plane node.
fn warn_workers(workers: &[String], progress: &mut dyn Progress) {
    if workers.is_empty() {
        return;
    }
    progress.tell(Event::warning(format!(
        "this is the last node with the cluster's data, which goes with it; these nodes are left without a cluster, and should run `microk8s leave` as well: {}",
        workers.join(", ")
    )));
}

/// Takes the steps of the plan.
fn follow(
    node: &Node,
    transaction: &mut Transaction,
    plan: Plan,
    progress: &mut dyn Progress,
) -> Result<Committed, LeaveError> {
    if plan.role == Role::Worker {
        progress.tell(Event::line("Configuring services."));
    }
    if plan.forget.is_none() {
        progress.tell(Event::line(NEW_CERTIFICATES));
    }
    // By this mark the process that completes the leave updates the new API server.
    let mark = node
        .layout
        .cni_manifest()
        .exists()
        .then(|| Step::write(&pod_network::mark(node), b"", Access::PRIVATE));
    let with_all = plan.forget.is_none().then_some(&plan.after);
    let steps = mark.iter().chain(&plan.before);
    transaction.apply(steps.chain(with_all.into_iter().flatten()), |_| {
        still_wanted(progress)
    })?;
    still_wanted(progress)?;
    let Some(forget) = &plan.forget else {
        return Ok(transaction.commit()?);
    };
    let mut point = CommitPoint {
        forgotten: false,
        backend: node.layout.backend(),
        own: forget.own.clone(),
        steps: plan.after,
    };
    transaction.enter_commit_point(&point)?;
    progress.tell(Event::stage(
        JoinStage::Datastore,
        "asking the datastore to forget this node",
    ));
    ask_to_forget(node, forget, progress)?;
    point.forgotten = true;
    transaction
        .enter_commit_point(&point)
        .map_err(LeaveError::NotCompleted)?;
    progress.tell(Event::stage(
        JoinStage::Services,
        "starting the services of the node",
    ));
    progress.tell(Event::line(NEW_CERTIFICATES));
    match transaction.roll_forward(&point) {
        Err(JournalError::Service(error)) => progress.tell(Event::warning(format!(
            "this node has left, but a service did not come up: {error}"
        ))),
        other => other.map_err(LeaveError::NotCompleted)?,
    }
    transaction.commit().map_err(LeaveError::NotCompleted)
}

/// Takes everything back: `error` made the leave fail. When there is no way back any more it is
/// completed, and is no failure.
fn take_back(transaction: Transaction, error: LeaveError) -> Result<(), LeaveError> {
    match (transaction.roll_back(), error) {
        (Ok(Ending::TakenBack), error) => Err(error),
        (Ok(Ending::Completed), _) => Ok(()),
        (Err(undo), LeaveError::NotCompleted(_)) => Err(LeaveError::NotCompleted(undo)),
        (Err(undo), error) => Err(LeaveError::NotTakenBack {
            error: Box::new(error),
            undo,
        }),
    }
}

fn still_wanted(progress: &dyn Progress) -> Result<(), LeaveError> {
    if progress.is_cancelled() {
        Err(LeaveError::Interrupted)
    } else {
        Ok(())
    }
}

/// Has the datastore forget this node, whose own part of it is stopped, as MicroK8s does.
///
/// Of two voters one alone cannot decide: then this node's own is started once more, and gives
/// its vote. Where there are more voters than two and still too few to decide, they would be too
/// few afterwards as well, and the leave fails.
fn ask_to_forget(node: &Node, own: &Forget, progress: &dyn Progress) -> Result<(), LeaveError> {
    let (host, backend) = (node.platform.as_ref(), node.layout.backend());
    let is_over = || progress.is_cancelled();
    let ask = || forget::ask(host, &backend, &own.own, ASK_LIMIT, &is_over);
    let Err(first) = ask() else {
        return Ok(());
    };
    still_wanted(progress)?;
    let not_forgotten = |source| LeaveError::NotForgotten {
        contacted: own.contacted.clone(),
        source,
    };
    if !own.needs_own_vote {
        return Err(not_forgotten(first));
    }
    let with_own_vote = || -> Result<(), CommandError> {
        host.service(Action::Start, Service::K8sDqlite)?;
        ask()?;
        host.service(Action::Stop, Service::K8sDqlite)
    };
    with_own_vote().map_err(|second| {
        tracing::debug!(%second, "nor with this node's own vote");
        not_forgotten(first)
    })
}

/// The nodes that this one let in are not in its cluster any more.
fn forget_nodes(tokens: Option<&Tokens>, progress: &mut dyn Progress) {
    let Some(tokens) = tokens else { return };
    let admissions = tokens.admissions();
    let forgotten = admissions
        .nodes()
        .and_then(|nodes| admissions.forget(&nodes));
    if let Err(error) = forgotten {
        progress.tell(Event::warning(format!(
            "`microk8s nodes` may still list the cluster's nodes: {error}"
        )));
    }
}

/// Waits until the node's own API server answers, and gives it the manifest of the pod network.
/// The node has left, whatever comes of it.
fn start_alone(node: &Node, progress: &mut dyn Progress) {
    progress.tell(Event::Waiting {
        stage: JoinStage::ApiServer,
        message: "Waiting for node to start".to_owned(),
    });
    let up = wait_until_up(node, progress);
    progress.tell(Event::WaitingDone);
    let message = match up {
        Ok(true) => {
            if !pod_network::mark(node).exists() {
                return;
            }
            match pod_network::apply(node, Duration::ZERO) {
                Ok(()) => return,
                Err(error) => format!(
                    "this node has left, but the manifest of its pod network could not be applied: {error}"
                ),
            }
        }
        Ok(false) if progress.is_cancelled() => return,
        Ok(false) => format!(
            "this node has left, but its own API server did not answer within {} seconds; read the log of {}",
            UP_LIMIT.as_secs(),
            Service::Kubelite.daemon()
        ),
        Err(error) => {
            format!("this node has left, but its own API server cannot be asked: {error}")
        }
    };
    progress.tell(Event::warning(message));
}

fn wait_until_up(node: &Node, progress: &mut dyn Progress) -> Result<bool, CommandError> {
    let end = wait::end_of(UP_LIMIT);
    let mut pause = UP_FIRST_PAUSE;
    let mut next_dot = Instant::now();
    loop {
        match node.platform.kubectl(&["get", "service/kubernetes"]) {
            Ok(_) => return Ok(true),
            Err(CommandError::Failed { .. } | CommandError::TimedOut { .. }) => {}
            // A program that is not there will not come.
            Err(error) => return Err(error),
        }
        let now = Instant::now();
        if now >= end || progress.is_cancelled() {
            return Ok(false);
        }
        if now >= next_dot {
            progress.tell(Event::NotYet);
            next_dot += UP_DOT;
        }
        wait::pause_unless(pause.min(end - now), progress.cancelled());
        pause = (pause * 2).min(UP_LONGEST_PAUSE);
    }
}
