//! Whether this node is ready for others, and for which node it was made ready.
//!
//! What the first join changes here ([`first_join`]) is undone when that join fails, unless another
//! node depends on it by then: one that is being admitted, one that has joined, or another member
//! of the datastore. The agent decides it periodically, so that a node that tries again at once
//! still finds this one ready.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::mutex::lock;
use crate::cluster::first_join::history::{History, REMEMBERED, Undo};
use crate::cluster::first_join::{self, FirstJoinError, Needs, Presented};
use crate::cluster::node::Node;
use crate::cluster::{node_lock, transaction};
use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::model::token::TokenDigest;
use crate::store::admissions::AdmittedNode;
use crate::store::tokens::Tokens;

/// Who may come to rely on what the first join changed.
///
/// The lock is for the few fields here, and is never held while a file or a program is waited for. One at
/// a time makes the node ready, or undoes that; the others wait for the end of this step.
#[derive(Default)]
pub(crate) struct FirstJoinTracker {
    state: Mutex<State>,
    step_ended: Condvar,
}

#[derive(Default)]
struct State {
    /// How many joins are being answered.
    asking: usize,
    /// How many joins have been answered or are being answered.
    asked: u64,
    /// The nodes that got an answer while the changes could be undone, and have not said how their
    /// join ended.
    waiting: HashSet<JoiningNode>,
    /// These are all: no other agent of this node answered a join since the changes.
    knows_all: bool,
    /// Until when the changes are kept, as far as this agent wrote it.
    rolls_back_after: i64,
    /// The tokens that are written down as ones that asked for the changes.
    noted: HashSet<TokenDigest>,
    /// The log says that the changes are undone later.
    logged_later: bool,
    /// The node is being made ready, or that is being undone.
    in_step: bool,
    /// How many such steps have ended, and why the last one failed.
    steps: u64,
    failure: Option<Arc<FirstJoinError>>,
}

/// A join that is being answered. The node stays ready at least until it is dropped.
pub(crate) struct Asking<'a>(&'a FirstJoinTracker);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().asking -= 1;
    }
}

/// A step is under way until this is dropped.
struct Step<'a> {
    first_join_tracker: &'a FirstJoinTracker,
    failure: Option<Arc<FirstJoinError>>,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut state = self.first_join_tracker.lock();
        state.in_step = false;
        state.steps += 1;
        state.failure = self.failure.take();
        drop(state);
        self.first_join_tracker.step_ended.notify_all();
    }
}

/// The end of the lease is written down rounded up to this, in seconds, so that not each admission
/// writes it.
const ROUND: i64 = 60;

impl FirstJoinTracker {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Makes the node ready. Those who need the same meanwhile wait for the one that sees to it, and
    /// share its failure.
    pub(crate) fn prepare(
        &self,
        node: &Node,
        needs: &Needs,
        presented: &Presented,
    ) -> Result<Asking<'_>, Arc<FirstJoinError>> {
        let asking = self.begin_to_ask();
        while !first_join::is_ready(node, needs)? {
            let mut step = match self.begin_step() {
                Ok(step) => step,
                // Only the node that asked failed: it was contacted at another address.
                Err(Some(failure)) if matches!(*failure, FirstJoinError::NotOurs(_)) => continue,
                Err(Some(failure)) => return Err(failure),
                Err(None) => continue,
            };
            match first_join::make_ready(node, needs, presented) {
                Ok(false) => {}
                Ok(true) => {
                    let mut state = self.lock();
                    state.waiting.clear();
                    state.knows_all = true;
                    state.rolls_back_after = presented.until;
                    state.noted = HashSet::from([presented.token]);
                    state.logged_later = false;
                    return Ok(asking);
                }
                Err(error) => {
                    let error = Arc::new(error);
                    step.failure = Some(error.clone());
                    return Err(error);
                }
            }
        }
        if transaction::is_deferred(&node.layout) && self.is_news(&presented.token) {
            let _step = self.wait_for_step();
            if let Err(error) = History::of_first_joins(&node.layout).note_asked(&presented.token) {
                tracing::warn!(%error, "the token of a join cannot be written down");
            }
        }
        Ok(asking)
    }

    /// Whether a token is to be written down as one that asked. Of very many the rest does not count.
    fn is_news(&self, token: &TokenDigest) -> bool {
        let mut state = self.lock();
        state.noted.len() < REMEMBERED && state.noted.insert(*token)
    }

    /// Waits until nothing is being undone; from then on nothing is, until what is given is dropped.
    fn begin_to_ask(&self) -> Asking<'_> {
        let mut state = self.lock();
        while state.in_step && state.asking == 0 {
            state = self.wait_for_end_of_step(state);
        }
        state.asking += 1;
        state.asked += 1;
        Asking(self)
    }

    /// Begins a step. Where one is under way, waits for its end, and gives its failure.
    fn begin_step(&self) -> Result<Step<'_>, Option<Arc<FirstJoinError>>> {
        let mut state = self.lock();
        if !state.in_step {
            state.in_step = true;
            return Ok(self.step());
        }
        let steps = state.steps;
        while state.in_step && state.steps == steps {
            state = self.wait_for_end_of_step(state);
        }
        Err(state.failure.clone())
    }

    /// Also where a thread that had the lock has panicked, after which `wait_while` would not wait.
    fn wait_for_end_of_step<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let ended = self.step_ended.wait(state);
        ended.unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a step when none is under way any more.
    fn wait_for_step(&self) -> Step<'_> {
        loop {
            if let Ok(step) = self.begin_step() {
                return step;
            }
        }
    }

    fn step(&self) -> Step<'_> {
        Step {
            first_join_tracker: self,
            failure: None,
        }
    }

    /// The node has its answer, and may rely on it until then.
    pub(crate) fn admitted(&self, node: &Node, joining: JoiningNode, until: i64) {
        if !transaction::is_deferred(&node.layout) {
            return;
        }
        let mut state = self.lock();
        state.waiting.insert(joining);
        if until <= state.rolls_back_after {
            return;
        }
        state.rolls_back_after = until.saturating_add(ROUND - 1) / ROUND * ROUND;
        drop(state);
        let _step = self.wait_for_step();
        let until = self.lock().rolls_back_after;
        if let Err(error) = transaction::extend_deferred(&node.layout, until) {
            self.lock().rolls_back_after = 0;
            tracing::warn!(%error, "what the first join changed may be undone too soon");
        }
    }

    /// The node says how its join ended.
    pub(crate) fn has_ended(&self, joining: &JoiningNode) {
        self.lock().waiting.remove(joining);
    }

    /// Once no join is under way any more: makes what the first one changed final when another
    /// node depends on it, and undoes it otherwise.
    pub(crate) fn reconcile(&self, node: &Node, tokens: &Tokens) {
        if !transaction::is_deferred(&node.layout) {
            return;
        }
        let state = self.lock();
        let asked = state.asked;
        let none_waits = state.knows_all && state.waiting.is_empty();
        if state.asking > 0 {
            return;
        }
        drop(state);
        let until = transaction::rolls_back_after(&node.layout).unwrap_or_default();
        if !none_waits && tokens.now() < until {
            return;
        }
        let joins = || History::of_first_joins(&node.layout);
        let undo = joins().undo(tokens.now());
        if undo == Undo::Later {
            if !std::mem::replace(&mut self.lock().logged_later, true) {
                tracing::info!(
                    "what the first join changed is undone later: it was undone just now, or the datastore restarted too often"
                );
            }
            return;
        }
        let Some(is_relied_on) = is_relied_on(node, tokens) else {
            return;
        };
        let Some(_step) = self.begin_to_settle(asked) else {
            return;
        };
        let settled = match (is_relied_on, undo) {
            (true, _) => transaction::drop_deferred(&node.layout),
            (false, Undo::Never) => {
                tracing::warn!(
                    "a first join failed with a token whose first join was undone before: what it changed here stays"
                );
                transaction::drop_deferred(&node.layout)
            }
            (false, Undo::Now | Undo::Later) => {
                // While the node is being changed for another reason, it is not changed for this.
                let Ok(_turn) = node_lock::take_now(node) else {
                    return;
                };
                if let Err(error) = joins().note_undo(tokens.now()) {
                    tracing::error!(%error, "what the first join changed is not undone: it cannot be written down");
                    return;
                }
                tracing::warn!(
                    "the first join failed, and no node relies on what it changed here: that is undone"
                );
                transaction::roll_back_deferred(&node.layout, node.platform.as_ref())
            }
        };
        if let Err(error) = settled {
            tracing::error!(%error, "what the first join changed cannot be settled");
        }
    }

    /// Begins the step that settles, unless a node has asked meanwhile.
    fn begin_to_settle(&self, asked: u64) -> Option<Step<'_>> {
        let mut state = self.lock();
        if state.asking > 0 || state.asked != asked || state.in_step {
            return None;
        }
        state.in_step = true;
        Some(self.step())
    }
}

/// Whether a node has joined since; nothing when the datastore does not say.
fn is_relied_on(node: &Node, tokens: &Tokens) -> Option<bool> {
    // Of control plane nodes the datastore knows better, where there is one.
    let uses_dqlite = node.uses_dqlite();
    let has_joined =
        |other: &AdmittedNode| other.complete && (other.role == Role::Worker || !uses_dqlite);
    if !tokens.admissions().nodes_that(has_joined).ok()?.is_empty() {
        return Some(true);
    }
    if !uses_dqlite {
        return Some(false);
    }
    let members = if node.platform.has_datastore() {
        node.datastore_members().ok()?
    } else {
        first_join::datastore_members(node).ok()?
    };
    Some(members.len() > 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::transaction::Transaction;
    use crate::platform::scripted::ScriptedPlatform;
    use crate::store::layout::Layout;

    fn joining(number: u8) -> JoiningNode {
        JoiningNode {
            name: format!("n{number}"),
            address: [10, 99, 0, number].into(),
        }
    }

    #[test]
    fn nodes_are_waited_for_only_where_something_can_still_be_undone() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::new(root.path(), root.path(), root.path());
        let node = Node::new(layout.clone(), Arc::new(ScriptedPlatform::default()));
        let first_join_tracker = FirstJoinTracker::default();
        for number in 1..100 {
            first_join_tracker.admitted(&node, joining(number), 0);
        }
        assert_eq!(first_join_tracker.lock().waiting.len(), 0);

        let mut journal = Transaction::begin(&node).unwrap();
        journal.defer_rollback(&layout, 0).unwrap();
        first_join_tracker.admitted(&node, joining(1), 901);
        first_join_tracker.admitted(&node, joining(2), 959);
        first_join_tracker.has_ended(&joining(1));
        assert_eq!(
            first_join_tracker.lock().waiting,
            HashSet::from([joining(2)])
        );
        assert_eq!(transaction::rolls_back_after(&layout), Some(960));
    }
}
