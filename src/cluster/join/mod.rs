//! Joining a cluster: the joining side.
//!
//! Nothing of the node is changed before the contacted node has answered and everything that
//! the join needs is at hand. Then every change goes through the journal, and a join that fails
//! leaves the node as it was.

mod answer;
mod change;
mod control_plane;
mod endpoints;
mod error;
mod etcd;
mod membership;
mod outcome;
mod peer;
pub(crate) mod preflight;
mod proxy;
mod refusal;
mod report;
mod worker;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::base::wait;
use crate::client::remote::Wait;
use crate::cluster::node::Node;
use crate::cluster::node_lock::{self, NodeLockError};
use crate::cluster::operation::{Progress, RunsIn};
use crate::cluster::strictness;
use crate::cluster::transaction::{self, Ending};
use crate::model::join_stage::JoinStage;
use crate::model::join_url::JoinUrl;
use crate::model::role::Role;
use crate::store::layout::Lock;
use crate::wire::cluster_v2::{Outcome, RequestedRole};
use crate::wire::operation::{End, Event, JoinOrder};

pub(super) use change::Change;
pub(crate) use endpoints::{api_port, known as known_api_servers};
pub(crate) use error::JoinError;
use peer::Contact;
pub(crate) use report::{recover as recover_in_turn, settle_when_free};

/// Joins a cluster; says how that ended.
pub(super) fn join(
    node: &Node,
    urls: (&JoinUrl, &[JoinUrl]),
    order: &JoinOrder,
    runs_in: RunsIn,
    progress: &mut dyn Progress,
) -> End {
    let mut staged = Staged::new(progress);
    attempt(node, urls, order, runs_in, &mut staged)
        .unwrap_or_else(|error| End::Failed(error.outcome(staged.running)))
}

/// Passes on what happens, and knows which stage is under way.
pub(super) struct Staged<'a> {
    progress: &'a mut dyn Progress,
    pub(super) running: JoinStage,
}

impl<'a> Staged<'a> {
    /// No stage but the first one yet.
    pub(super) fn new(progress: &'a mut dyn Progress) -> Self {
        Self {
            progress,
            running: JoinStage::Preflight,
        }
    }
}

impl Progress for Staged<'_> {
    fn tell(&mut self, event: Event) {
        self.running = event.begins().unwrap_or(self.running);
        self.progress.tell(event);
    }

    fn changes_begin(&mut self) {
        self.progress.changes_begin();
    }

    fn cancelled(&self) -> &CancellationToken {
        self.progress.cancelled()
    }

    fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
    }
}

/// A stage begins of which nothing else tells.
pub(super) fn begin(stage: JoinStage, progress: &mut dyn Progress) {
    progress.tell(Event::stage(stage, stage.doing()));
}

fn attempt(
    node: &Node,
    urls: (&JoinUrl, &[JoinUrl]),
    order: &JoinOrder,
    runs_in: RunsIn,
    progress: &mut dyn Progress,
) -> Result<End, JoinError> {
    let end = wait::end_of(Duration::from_secs(order.timeout_seconds));
    if !node.layout.own_state().exists() {
        // The turn could not be taken on a disk that is read-only or full.
        preflight::require_disk(node, order)?;
    }
    let _turn =
        node_lock::lock_and_recover::<JoinError>(node, node_lock::COMMAND_LIMIT, report::recover)?;
    complete(Change::new(node, end), urls, order, runs_in, progress)
}

/// Joins as the last part of a change: with the join all of it becomes final, or is undone. The caller
/// holds the node lock.
pub(crate) fn complete(
    mut change: Change<'_>,
    urls: (&JoinUrl, &[JoinUrl]),
    order: &JoinOrder,
    runs_in: RunsIn,
    progress: &mut dyn Progress,
) -> Result<End, JoinError> {
    let node = change.node();
    let role = role_here(node, order.role);
    let mut contact = match meet(node, urls, order, runs_in, change.end, progress) {
        Ok(Met::Contact(contact)) => contact,
        Ok(Met::Member(role)) => {
            return match change.commit_if_begun(progress) {
                Ok(()) => Ok(End::AlreadyMember { role }),
                Err(error) => Err(change.take_back(error)),
            };
        }
        Err(error) => return Err(change.take_back(error)),
    };
    let done = carry_out(change, order, role, &mut contact, progress);
    let (outcome, limit) = match &done {
        Ok(()) => (Outcome::Joined, report::LIMIT),
        Err(JoinError::Interrupted) => (Outcome::Failed, report::SHORT_LIMIT),
        Err(_) => (Outcome::Failed, report::LIMIT),
    };
    contact.report(node, outcome, &Wait::within(limit));
    transaction::forget_report(&node.layout);
    done.map(|()| End::Joined {
        role,
        has_api_proxy: node.layout.has(Lock::HaCluster) && role == Role::Worker,
    })
}

/// What a join finds before it asks to be admitted.
enum Met {
    /// The node is a member already.
    Member(Role),
    /// The contacted node.
    Contact(Box<Contact>),
}

/// Looks at this node, and contacts the other one.
fn meet(
    node: &Node,
    urls: (&JoinUrl, &[JoinUrl]),
    order: &JoinOrder,
    runs_in: RunsIn,
    end: Instant,
    progress: &mut dyn Progress,
) -> Result<Met, JoinError> {
    preflight::require_local(node, order)?;

    let wait = Wait::until(end, progress.cancelled());
    let mut contact = reach(node, urls, order, runs_in, &wait, progress)?;
    if let Some(own_role) = membership::role_of(node) {
        if let Some(stale) = membership::confirm(node, own_role, &mut contact, &wait)? {
            endpoints::repair(node, &stale, order, end, progress)?;
            progress.tell(Event::warning(format!(
                "this worker did not reach the API servers that it knew; it is set to {} now",
                stale.new
            )));
        }
        if own_role != order.role {
            progress.tell(Event::warning(format!(
                "this node is a {own_role} node of the cluster, and stays one"
            )));
        }
        if order.node_ip.is_some() || !order.labels.is_empty() {
            progress.tell(Event::warning(
                "labels and address of the node are as they were",
            ));
        }
        return Ok(Met::Member(own_role));
    }
    contact.greet()?;
    preflight::require_greeted(node, order, &contact, progress)?;
    Ok(Met::Contact(Box::new(contact)))
}

/// Connects to the first node of the connection strings that can be reached. Nothing has been sent to
/// those before it.
fn reach(
    node: &Node,
    (mut url, mut others): (&JoinUrl, &[JoinUrl]),
    order: &JoinOrder,
    runs_in: RunsIn,
    wait: &Wait,
    progress: &mut dyn Progress,
) -> Result<Contact, JoinError> {
    loop {
        progress.tell(Event::Contacting {
            address: url.address,
            from_microk8s: node.layout.has(Lock::HaCluster),
        });
        let connecting = wait.share(others.len() + 1);
        match Contact::connect(node, url, order, &connecting, wait.clone()) {
            Ok(mut contact) => {
                contact.takes_digest = runs_in == RunsIn::Agent;
                if !order.skip_verify && order.fingerprints().next().is_none() {
                    progress.tell(Event::warning(format!(
                        "the connection string has no fingerprint, so the identity of {} is not verified",
                        url.address
                    )));
                }
                return Ok(contact);
            }
            Err(error) => match others {
                [next, rest @ ..] if error.is_unreachable() => {
                    let message = format!("{error}; trying {}", next.endpoint());
                    progress.tell(Event::warning(message));
                    (url, others) = (next, rest);
                }
                _ => return Err(error),
            },
        }
    }
}

/// Asks to be admitted, and makes the node a member. A node that cannot be made one is as it was
/// when this returns.
fn carry_out(
    mut change: Change<'_>,
    order: &JoinOrder,
    role: Role,
    contact: &mut Contact,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    let node = change.node();
    progress.changes_begin();
    let done = change
        .keep_report(&contact.report_to_keep())
        .and_then(|()| prepare(node, order, role, contact, progress))
        .and_then(|plan| {
            begin(JoinStage::Apply, progress);
            change.lock(Lock::JoinInProgress)?;
            // The certificates are the cluster's from now on, and follow no address.
            change.lock(Lock::NoCertReissue)?;
            change.forget_token_lines();
            match plan {
                Plan::Etcd(plan) => plan.apply(&mut change, order, progress),
                Plan::Worker(plan) => plan.apply(&mut change, order, progress),
                Plan::ControlPlane(plan) => plan.apply(&mut change, order, progress),
            }
        })
        .and_then(|()| still_wanted(progress))
        .and_then(|()| {
            node.layout
                .check_current()
                .map_err(|error| NodeLockError::from(error).into())
        })
        .and_then(|()| change.finish(order, progress));
    done.map_err(|error| change.take_back(error))
}

/// All that a join needs, before anything is changed.
enum Plan {
    Etcd(etcd::Plan),
    Worker(worker::Plan),
    ControlPlane(control_plane::Plan),
}

/// Asks the contacted node to let this one in, and gets everything ready.
fn prepare(
    node: &Node,
    order: &JoinOrder,
    role: Role,
    contact: &mut Contact,
    progress: &mut dyn Progress,
) -> Result<Plan, JoinError> {
    begin(JoinStage::Admission, progress);
    if !node.layout.has(Lock::HaCluster) {
        let plan = etcd::Plan::prepare(node, order, contact, progress)?;
        let seen = plan.answer.hostname_override.as_deref();
        check_answer(node, role, contact, seen, progress)?;
        warn_of_other_network(node, plan.answer.cluster_cidr.as_deref(), progress)?;
        return Ok(Plan::Etcd(plan));
    }
    let asked = requested_role(order.role, order.role_was_named);
    let answer = contact.join(node, asked)?;
    let seen = answer.hostname_override.as_deref();
    check_answer(node, role, contact, seen, progress)?;
    begin(JoinStage::Certificates, progress);
    let theirs = answer.cluster_cidr.clone();
    if role == Role::ControlPlane {
        // Another agent than ours does not tell.
        let silent = || contact.awaits_outcome.then(BTreeMap::new);
        let limits = answer.api_server_limits.clone().or_else(silent);
        warn_of_looser_api_server(node, contact.address(), limits, progress)?;
    }
    let plan = match role {
        Role::Worker => Plan::Worker(worker::Plan::prepare(node, order, answer, contact)?),
        Role::ControlPlane => Plan::ControlPlane(control_plane::Plan::prepare(
            node,
            answer,
            contact.address(),
        )?),
    };
    warn_of_other_network(node, theirs.as_deref(), progress)?;
    Ok(plan)
}

fn still_wanted(progress: &dyn Progress) -> Result<(), JoinError> {
    match progress.is_cancelled() {
        true => Err(JoinError::Interrupted),
        false => Ok(()),
    }
}

/// What the node joins as when this role is asked for: on etcd every node that joins is a worker.
fn role_here(node: &Node, role: Role) -> Role {
    match node.layout.has(Lock::HaCluster) {
        true => role,
        false => Role::Worker,
    }
}

fn requested_role(role: Role, was_named: bool) -> RequestedRole {
    match (role, was_named) {
        (Role::Worker, _) => RequestedRole::Worker,
        (Role::ControlPlane, true) => RequestedRole::ControlPlane,
        (Role::ControlPlane, false) => RequestedRole::Unsaid,
    }
}

/// The clock, and the address at which the contacted node sees this one, by its answer to the join
/// request: for agents whose first answer does not tell them.
fn check_answer(
    node: &Node,
    role: Role,
    contact: &Contact,
    seen: Option<&str>,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    let (clock, told) = contact.greeting;
    if clock.is_none() {
        let checked = preflight::judge_clock(contact.clock, role, contact.address());
        preflight::warn(checked, progress)?;
    }
    if told.is_none() {
        let seen = seen.and_then(|seen| seen.parse().ok());
        preflight::warn(preflight::own_address(node, role, seen), progress)?;
    }
    Ok(())
}

/// The node's API server will serve the cluster like the contacted one, and refuse less.
fn warn_of_looser_api_server(
    node: &Node,
    contacted: IpAddr,
    theirs: Option<BTreeMap<String, String>>,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    let Some(theirs) = theirs else { return Ok(()) };
    if let Some(why) = strictness::looser(&*node.arguments("kube-apiserver")?, &theirs) {
        progress.tell(Event::warning(format!(
            "the API server of this node admits more than that of {contacted}: {why}; set the same in `args/kube-apiserver` of this node as there"
        )));
    }
    Ok(())
}

/// MicroK8s's warning when the clusters' pod networks differ (`messages.md`, join).
fn warn_of_other_network(
    node: &Node,
    theirs: Option<&str>,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    let Some(theirs) = theirs else { return Ok(()) };
    let arguments = node.arguments("kube-proxy")?;
    let own = arguments.get("--cluster-cidr").unwrap_or_default();
    if theirs != own {
        progress.tell(Event::Warning {
            message: format!(
                "WARNING: Joining a cluster that has a different CIDR. The kube-proxy CIDR configuration will be overwritten.\n\
                 Cluster CIDR: {theirs} -- Node CIDR: {own}(will be overwritten)"
            ),
            from_microk8s: true,
        });
    }
    Ok(())
}

/// Sees to what an interrupted join or leave left behind on this node, unless one is under way right
/// now. What another node is to be told is left to [`settle_when_free`].
pub(crate) fn recover(node: &Node) -> Result<Option<Ending>, JoinError> {
    if !transaction::is_open(&node.layout) {
        return Ok(None);
    }
    let _turn = node_lock::take(node)?;
    Ok(node_lock::recover(node)?)
}

/// Whether the low memory guard keeps this node from running a control plane (recording
/// `join-guard`).
pub(crate) fn is_guarded(node: &Node, role: Role, disable_low_memory_guard: bool) -> bool {
    role == Role::ControlPlane && !disable_low_memory_guard && node.layout.has(Lock::LowMemoryGuard)
}

/// Where requests to other nodes come from: the address that the node's agent is bound to, when
/// it is one and can lead there. Nodes that share a machine are told apart by it.
fn source_address(node: &Node, to: IpAddr) -> Option<IpAddr> {
    let bind = node.agent_bind().ip();
    let fits = !bind.is_unspecified()
        && bind.is_ipv4() == to.is_ipv4()
        && bind.is_loopback() == to.is_loopback();
    fits.then_some(bind)
}
