//! What a record says of its token. Nothing here changes it.

use super::token_use::{Phase, TokenUse};
use super::{
    Counted, Issuer, LastUse, Reason, Refusal, Revoked, State, TokenRecord, Void, is_over,
};
use crate::model::node::{JoiningNode, NodeName};
use crate::model::role::Role;
use crate::model::token_terms::{Description, RoleLimit};

impl TokenRecord {
    /// Where the token is in its life.
    pub(crate) fn state(&self, now: i64) -> State {
        let state = self.state_in_its_cluster(now);
        if self.void.is_some() && !state.is_over() {
            return State::Void;
        }
        state
    }

    fn state_in_its_cluster(&self, now: i64) -> State {
        if let Some(revoked) = self.revoked {
            return match is_over(self.expires(), revoked.at) {
                true => State::Expired,
                false => State::Revoked,
            };
        }
        if self.is_open(now) {
            return State::Issued;
        }
        let Some(counted) = &self.counted else {
            return State::Expired;
        };
        let is_complete = self
            .tries
            .iter()
            .all(|other| !other.is_counted || other.phase.is_used());
        let is_taken = self.taken() >= counted.uses;
        if is_taken && is_complete {
            State::Used
        } else if is_over(counted.until, now) {
            State::Expired
        } else if is_taken {
            State::Reserved
        } else {
            State::Issued
        }
    }

    /// The next moment at which time alone changes something: what [`TokenRecord::reconcile`] has to see, or
    /// that a token was over for `kept` seconds and is forgotten.
    pub(crate) fn next_change(&self, now: i64, window: i64, kept: i64) -> Option<i64> {
        let ends = self
            .tries
            .iter()
            .filter(|other| other.ends())
            .map(|other| other.end(window));
        let ends_by_itself = !matches!(self.state(now), State::Used | State::Revoked | State::Void);
        let expiry = self
            .expires()
            .filter(|_| !self.end_noticed && ends_by_itself);
        let forgotten = self.over_since(now).map(|since| since.saturating_add(kept));
        ends.chain(expiry).chain(forgotten).min()
    }

    /// Since when the token is over, in unix seconds; `None` while it is not.
    pub(crate) fn over_since(&self, now: i64) -> Option<i64> {
        match self.state(now) {
            State::Issued | State::Reserved => None,
            State::Used => Some(self.last.as_ref().map_or(self.issued_at, |last| last.at)),
            State::Expired => self.expires(),
            State::Revoked => self.revoked.map(|revoked| revoked.at),
            State::Void => self.void.map(|void| void.at),
        }
    }

    /// How many more nodes it admits; `None` while that is any number.
    pub(crate) fn uses_left(&self, now: i64) -> Option<u32> {
        if self.revoked.is_none() && self.void.is_none() && self.is_open(now) {
            return None;
        }
        Some(if self.state(now).is_over() {
            0
        } else {
            self.left(now)
        })
    }

    /// Its end, in unix seconds; `None` when it has none.
    pub(crate) fn expires(&self) -> Option<i64> {
        match &self.counted {
            None => self.open_until,
            Some(counted) => counted
                .until
                .map(|end| end.max(self.open_until.unwrap_or(end))),
        }
    }

    /// Whether its line in MicroK8s's file is still to be taken out.
    pub(crate) fn has_line(&self) -> bool {
        self.has_line
    }

    /// When it was issued, in unix seconds.
    pub(crate) fn issued_at(&self) -> i64 {
        self.issued_at
    }

    /// When it was issued, or last used, in unix seconds.
    pub(crate) fn last_activity(&self) -> i64 {
        let last = self.last.as_ref();
        last.map_or(self.issued_at, |last| last.at.max(self.issued_at))
    }

    /// Who issued it.
    pub(crate) fn issuer(&self) -> Issuer {
        self.issuer
    }

    /// As what nodes may join with it.
    pub(crate) fn role(&self) -> RoleLimit {
        self.role
    }

    /// The only node that it is for.
    pub(crate) fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    /// What the operator wrote down with it.
    pub(crate) fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    /// When it was revoked, and by which user.
    pub(crate) fn revoked(&self) -> Option<Revoked> {
        self.revoked
    }

    /// Since when it is void, and why; nothing where it is over for another reason, too.
    pub(crate) fn void(&self, now: i64) -> Option<Void> {
        self.void.filter(|_| self.state(now) == State::Void)
    }

    /// The node that it admitted last.
    pub(crate) fn last_use(&self) -> Option<&LastUse> {
        self.last.as_ref()
    }

    /// How often it admitted a node.
    pub(crate) fn admissions(&self) -> u64 {
        self.admissions
    }

    /// Whether the node holds a use, and the last word on it is not said.
    pub(crate) fn has_use(&self, node: &JoiningNode) -> bool {
        self.tries.iter().any(|other| other.node == *node)
    }

    /// Whether the node holds a use, or was the last one that did.
    pub(crate) fn has_admitted(&self, node: &JoiningNode) -> bool {
        let is_last = self.last.as_ref().is_some_and(|last| last.node == *node);
        is_last || self.has_use(node)
    }

    /// Whether any node holds a use.
    pub(crate) fn has_uses(&self) -> bool {
        !self.tries.is_empty()
    }

    /// The nodes that do.
    pub(crate) fn users(&self) -> impl Iterator<Item = &JoiningNode> {
        self.tries.iter().map(|other| &other.node)
    }

    /// Whether it has no terms, because lines in files of MicroK8s have them.
    pub(crate) fn is_of_lines(&self) -> bool {
        self.open_until.is_none() && self.counted.is_none() && self.revoked.is_none()
    }

    /// Whether nothing is to be remembered of it: a line admitted nodes, and no join is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_of_lines() && !self.has_uses()
    }

    pub(super) fn counted_use(&self, node: &JoiningNode) -> Option<&TokenUse> {
        self.tries
            .iter()
            .find(|other| other.is_counted && other.node == *node)
    }

    /// The control plane nodes that the datastore may know.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &JoiningNode> {
        self.tries
            .iter()
            .filter(|other| {
                other.role == Role::ControlPlane
                    && matches!(other.phase, Phase::HandedOut | Phase::Listed)
            })
            .map(|other| &other.node)
    }

    pub(super) fn taken(&self) -> u32 {
        let spent = self.counted.as_ref().map_or(0, |counted| counted.spent);
        let pending = self.tries.iter().filter(|other| other.is_counted).count();
        spent.saturating_add(pending.try_into().unwrap_or(u32::MAX))
    }

    /// Whether any number of nodes may use it now.
    pub(super) fn is_open(&self, now: i64) -> bool {
        self.open_until.is_some_and(|end| now < end)
    }

    /// The counted uses, unless their time has run out.
    pub(super) fn live_count(&self, now: i64) -> Option<&Counted> {
        self.counted
            .as_ref()
            .filter(|counted| !is_over(counted.until, now))
    }

    /// How many counted uses are free.
    pub(super) fn left(&self, now: i64) -> u32 {
        self.live_count(now)
            .map_or(0, |counted| counted.uses.saturating_sub(self.taken()))
    }

    pub(super) fn why_over(&self, now: i64) -> Refusal {
        if self.state(now) == State::Used {
            return self.used(now);
        }
        Reason::Expired.since(self.expires(), now)
    }

    pub(super) fn used(&self, now: i64) -> Refusal {
        let last = self.last.as_ref();
        Refusal {
            node: last.map(|last| last.node.to_string()),
            ..Reason::Used.since(last.map(|last| last.at), now)
        }
    }
}
