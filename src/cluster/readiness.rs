//! Whether this node is ready for others, and for whom it was made so.
//!
//! What the first join changes here ([`first_join`]) is undone when that join fails, unless
//! somebody relies on it by then: a node that is being let in, one that has joined, or another
//! member of the datastore. It is looked at with the agent's sweep, so that a node that tries again at once
//! finds this one ready still.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cluster::first_join::{self, FirstJoinError, Needs};
use crate::cluster::node::Node;
use crate::cluster::{journal, turn};
use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::store::admissions::AdmittedNode;
use crate::store::dqlite;
use crate::store::tokens::Tokens;

/// Who may come to rely on what the first join changed.
#[derive(Default)]
pub struct Readiness(Mutex<State>);

#[derive(Default)]
struct State {
    /// How many joins are being answered.
    asking: usize,
    /// The nodes that got an answer while the changes could be undone, and have not said how their
    /// join ended.
    waiting: HashSet<JoiningNode>,
    /// These are all: no other agent of this node answered a join since the changes.
    knows_all: bool,
}

/// A join that is being answered. The node stays ready at least until it is dropped.
pub struct Asking<'a>(&'a Readiness);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.lock().asking -= 1;
    }
}

impl Readiness {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the node ready, one join at a time. Whoever is let in until `until`, in unix seconds,
    /// may rely on it.
    pub fn prepare(
        &self,
        node: &Node,
        needs: &Needs,
        until: i64,
    ) -> Result<Asking<'_>, FirstJoinError> {
        let mut state = self.lock();
        if first_join::make_ready(node, needs, until)? {
            state.waiting.clear();
            state.knows_all = true;
        }
        state.asking += 1;
        drop(state);
        Ok(Asking(self))
    }

    /// The node has its answer, and may rely on it until then.
    pub fn let_in(&self, node: &Node, joining: JoiningNode, until: i64) {
        let mut state = self.lock();
        if !journal::is_kept(&node.layout) {
            return;
        }
        state.waiting.insert(joining);
        if let Err(error) = journal::keep_until(&node.layout, until) {
            tracing::warn!(%error, "what the first join changed may be undone too soon");
        }
    }

    /// The node says how its join ended.
    pub fn has_ended(&self, joining: &JoiningNode) {
        self.lock().waiting.remove(joining);
    }

    /// Once no join is under way any more: undoes what the first one changed when nobody relies on
    /// it, and makes it final when somebody does.
    pub fn settle(&self, node: &Node, tokens: &Tokens) {
        if !journal::is_kept(&node.layout) {
            return;
        }
        let state = self.lock();
        if state.asking > 0 {
            return;
        }
        let until = journal::kept_until(&node.layout).unwrap_or_default();
        let nobody_waits = state.knows_all && state.waiting.is_empty();
        if !nobody_waits && tokens.now() < until {
            return;
        }
        let settled = match is_relied_on(node, tokens) {
            None => return,
            Some(true) => journal::drop_kept(&node.layout),
            Some(false) => {
                // While the node is being changed for another reason, it is not changed for this.
                let Ok(_turn) = turn::take_now(node) else {
                    return;
                };
                tracing::warn!(
                    "the first join failed, and nobody relies on what it changed here: that is undone"
                );
                journal::undo_kept(&node.layout, node.host.as_ref())
            }
        };
        if let Err(error) = settled {
            tracing::error!(%error, "what the first join changed cannot be settled");
        }
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
    let members = if node.host.has_datastore() {
        let answer = node.host.datastore_members(&node.layout.backend()).ok()?;
        dqlite::read_shell_answer(&answer).ok()?
    } else {
        first_join::datastore_members(node).ok()?
    };
    Some(members.len() > 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::journal::Journal;
    use crate::host::scripted::ScriptedHost;
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
        let node = Node::new(layout.clone(), Arc::new(ScriptedHost::default()));
        let readiness = Readiness::default();
        for number in 1..100 {
            readiness.let_in(&node, joining(number), 0);
        }
        assert_eq!(readiness.lock().waiting.len(), 0);

        let mut journal = Journal::begin(&layout).unwrap();
        journal.keep(&layout, 0).unwrap();
        readiness.let_in(&node, joining(1), 900);
        readiness.let_in(&node, joining(2), 900);
        readiness.has_ended(&joining(1));
        assert_eq!(readiness.lock().waiting, HashSet::from([joining(2)]));
        assert_eq!(journal::kept_until(&layout), Some(900));
    }
}
