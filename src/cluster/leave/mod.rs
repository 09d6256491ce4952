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
use crate::cluster::pod_network;
use crate::cluster::transaction::{
    CommitPoint, Committed, Ending, JournalError, Step, Transaction,
};
use crate::model::role::Role;
use crate::platform::{Action, CommandError, Service};
use crate::store::tokens::Tokens;
use crate::wire::leave_v1::{LeaveEvent, LeaveOrder};

use datastore::Forget;
pub use error::LeaveError;
pub(crate) use error::{not_forgotten, said};
use plan::Plan;

/// How long the node's own API server is waited for: MicroK8s asks ten times, five seconds apart,
/// and prints a dot for each (recording `leave-kubectl-fails`).
const UP_LIMIT: Duration = Duration::from_secs(50);
const UP_DOT: Duration = Duration::from_secs(5);
const UP_FIRST_PAUSE: Duration = Duration::from_millis(100);
const UP_LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the datastore is asked to forget this node: without its vote, and with it.
const ASK_LIMIT: Duration = Duration::from_secs(10);
const ASK_WITH_VOTE_LIMIT: Duration = Duration::from_secs(10);

/// Who wants to know how a leave goes.
pub trait Audience {
    /// Something happened.
    fn tell(&mut self, event: LeaveEvent);

    /// The node is going to be changed from now on.
    fn changes_begin(&mut self) {}

    /// Whether the leave is not wanted any more; it is taken back then, as long as it can be.
    fn has_left(&self) -> bool {
        false
    }
}

/// Leaves the cluster. The last event that the audience is told says how it ended. `tokens` are
/// those of the node's agent.
pub fn leave(
    node: &Node,
    tokens: Option<&Tokens>,
    order: &LeaveOrder,
    audience: &mut dyn Audience,
) {
    let ended = attempt(node, tokens, order, audience).unwrap_or_else(|error| {
        if let LeaveError::NotForgotten { source, .. } = &error
            && let Some(text) = said(source)
        {
            audience.tell(LeaveEvent::Said { text });
        }
        LeaveEvent::Failed(error.outcome())
    });
    audience.tell(ended);
}

fn attempt(
    node: &Node,
    tokens: Option<&Tokens>,
    order: &LeaveOrder,
    audience: &mut dyn Audience,
) -> Result<LeaveEvent, LeaveError> {
    let _turn = node_lock::lock_and_recover_soon::<LeaveError>(node, join::recover_in_turn)?;
    let plan = Plan::prepare(node)?;
    let role = plan.role;
    if plan.ends_cluster {
        warn_workers(&datastore::workers(node, tokens), audience);
    }
    if order.dry_run {
        let steps = plan.in_words(node.layout.data());
        return Ok(LeaveEvent::Would { role, steps });
    }
    audience.changes_begin();
    let mut leaving = Leaving::begin(node)?;
    if let Err(error) = leaving.follow(&plan, audience) {
        leaving.take_back(error)?;
    }
    forget_nodes(tokens, audience);
    start_alone(node, audience);
    Ok(LeaveEvent::Left { role })
}

/// Workers have no cluster without its last control plane node.
fn warn_workers(workers: &[String], audience: &mut dyn Audience) {
    if workers.is_empty() {
        return;
    }
    audience.tell(LeaveEvent::Warning {
        message: format!(
            "this is the last node with the cluster's data, which goes with it; these nodes are left without a cluster, and should run `microk8s leave` as well: {}",
            workers.join(", ")
        ),
    });
}

/// A leave that is under way. One that ends in no orderly way, by a panic, is taken back as well.
struct Leaving<'a> {
    node: &'a Node,
    transaction: Option<Transaction>,
    forgotten: bool,
}

impl<'a> Leaving<'a> {
    fn begin(node: &'a Node) -> Result<Self, LeaveError> {
        Ok(Self {
            node,
            transaction: Some(Transaction::begin(&node.layout)?),
            forgotten: false,
        })
    }

    fn follow(&mut self, plan: &Plan, audience: &mut dyn Audience) -> Result<(), LeaveError> {
        let platform = self.node.platform.clone();
        let platform = platform.as_ref();
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        if plan.role == Role::Worker {
            audience.tell(LeaveEvent::Configuring);
        }
        // By this mark the process that completes the leave updates the new API server.
        if self.node.layout.cni_manifest().exists() {
            let mark = pod_network::mark(self.node);
            transaction.apply_all(platform, &[Step::write(&mark, b"", Access::PRIVATE)])?;
        }
        if plan.forget.is_none() {
            audience.tell(LeaveEvent::Certificates);
        }
        transaction.apply(platform, &plan.before, |_| still_wanted(audience))?;
        still_wanted(audience)?;
        let Some(forget) = &plan.forget else {
            let after: Vec<Step> = plan.after.iter().map(Step::from).collect();
            transaction.apply(platform, &after, |_| still_wanted(audience))?;
            still_wanted(audience)?;
            let committed = transaction.commit()?;
            self.is_final(&committed, audience);
            return Ok(());
        };
        let mut point = CommitPoint {
            forgotten: false,
            backend: self.node.layout.backend(),
            own: forget.own.clone(),
            steps: plan.after.clone(),
        };
        transaction.enter_commit_point(&point)?;
        ask_to_forget(self.node, forget, audience)?;
        self.forgotten = true;
        point.forgotten = true;
        transaction
            .enter_commit_point(&point)
            .map_err(LeaveError::NotCompleted)?;
        audience.tell(LeaveEvent::Certificates);
        match transaction.roll_forward(&point, platform) {
            Err(JournalError::Service(error)) => audience.tell(LeaveEvent::Warning {
                message: format!("this node has left, but a service did not come up: {error}"),
            }),
            other => other.map_err(LeaveError::NotCompleted)?,
        }
        let committed = transaction.commit().map_err(LeaveError::NotCompleted)?;
        self.is_final(&committed, audience);
        Ok(())
    }

    fn is_final(&mut self, committed: &Committed, audience: &mut dyn Audience) {
        self.transaction = None;
        if let Some(message) = committed.warning("left the cluster") {
            audience.tell(LeaveEvent::Warning { message });
        }
    }

    /// Takes everything back: `error` made the leave fail. When there is no way back any more it
    /// is completed, and is no failure.
    fn take_back(mut self, error: LeaveError) -> Result<(), LeaveError> {
        let Some(transaction) = self.transaction.take() else {
            return Err(error);
        };
        match transaction.roll_back(self.node.platform.as_ref()) {
            Ok(Ending::TakenBack) => Err(error),
            Ok(Ending::Completed) => Ok(()),
            Err(undo) if self.forgotten => Err(LeaveError::NotCompleted(undo)),
            Err(undo) => Err(LeaveError::NotTakenBack {
                error: Box::new(error),
                undo,
            }),
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(transaction) = self.transaction.take()
            && let Err(error) = transaction.roll_back(self.node.platform.as_ref())
        {
            tracing::error!(%error, "the changes of a leave cannot be taken back");
        }
    }
}

fn still_wanted(audience: &dyn Audience) -> Result<(), LeaveError> {
    if audience.has_left() {
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
fn ask_to_forget(node: &Node, own: &Forget, audience: &dyn Audience) -> Result<(), LeaveError> {
    let (host, backend) = (node.platform.as_ref(), node.layout.backend());
    let is_over = || audience.has_left();
    let ask = |limit| forget::ask(host, &backend, &own.own, limit, &is_over);
    let Err(first) = ask(ASK_LIMIT) else {
        return Ok(());
    };
    still_wanted(audience)?;
    let not_forgotten = |source| LeaveError::NotForgotten {
        contacted: own.contacted.clone(),
        source,
    };
    if !own.needs_own_vote {
        return Err(not_forgotten(first));
    }
    let with_own_vote = || -> Result<(), CommandError> {
        host.service(Action::Start, Service::K8sDqlite)?;
        ask(ASK_WITH_VOTE_LIMIT)?;
        host.service(Action::Stop, Service::K8sDqlite)
    };
    with_own_vote().map_err(|second| {
        tracing::debug!(%second, "nor with this node's own vote");
        not_forgotten(first)
    })
}

/// The nodes that this one let in are not in its cluster any more.
fn forget_nodes(tokens: Option<&Tokens>, audience: &mut dyn Audience) {
    let Some(tokens) = tokens else { return };
    let forgotten = tokens.admissions().nodes().and_then(|nodes| {
        nodes
            .iter()
            .try_for_each(|admitted| tokens.forget(&admitted.node.name).map(drop))
    });
    if let Err(error) = forgotten {
        audience.tell(LeaveEvent::Warning {
            message: format!("`microk8s nodes` may still list the cluster's nodes: {error}"),
        });
    }
}

/// Waits until the node's own API server answers, and gives it the manifest of the pod network.
/// The node has left, whatever comes of it.
fn start_alone(node: &Node, audience: &mut dyn Audience) {
    audience.tell(LeaveEvent::Waiting);
    let up = wait_until_up(node, audience);
    audience.tell(LeaveEvent::WaitingDone);
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
        Ok(false) if audience.has_left() => return,
        Ok(false) => format!(
            "this node has left, but its own API server did not answer within {} seconds; look into the log of {}",
            UP_LIMIT.as_secs(),
            Service::Kubelite.daemon()
        ),
        Err(error) => {
            format!("this node has left, but its own API server cannot be asked: {error}")
        }
    };
    audience.tell(LeaveEvent::Warning { message });
}

fn wait_until_up(node: &Node, audience: &mut dyn Audience) -> Result<bool, CommandError> {
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
        if now >= end || audience.has_left() {
            return Ok(false);
        }
        if now >= next_dot {
            audience.tell(LeaveEvent::NotUp);
            next_dot += UP_DOT;
        }
        wait::between_looks(pause.min(end - now));
        pause = (pause * 2).min(UP_LONGEST_PAUSE);
    }
}
