//! The life of a token, as a state machine of its own: no clock, no disk, no network.
//!
//! ```text
//! issued --admit--> reserved --complete--> used
//!    ^                 |
//!    +-----failed------+   or the lease runs out
//! ```
//!
//! and from everywhere to `expired` and `revoked`. A token counts its uses. A node that was
//! admitted holds one of them: for good when its join is complete, and for a limited time when it
//! reports nothing.
//!
//! What a join handed out decides who may have a use back. A worker that never had a certificate
//! signed has nothing of the cluster, so its use is free again for everybody. A control plane
//! node has the cluster's key from the first answer on; when its join fails the use stays that
//! node's, so that one token never gives two nodes what only one of them should have.

mod granted_terms;
mod refusal;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use granted_terms::GrantedTerms;
pub use refusal::{Reason, Refusal};

use crate::model::cluster_id::{ClusterId, CurrentCluster};
use crate::model::join_id::JoinId;
use crate::model::node::{JoiningNode, NodeName};
use crate::model::role::Role;
use crate::model::token_terms::{Description, RoleLimit, Terms};

/// For how long, in seconds, an admitted worker may have its certificates signed. After that a use
/// that was not reported is free again.
pub const LEASE: i64 = 15 * 60;

/// For how long, in seconds, a node that used a token may use it again, unless told otherwise.
pub const RETRY_WINDOW: i64 = 15 * 60;

/// Who issued a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Issuer {
    /// A user of this machine, by `add-node`.
    Uid(u32),
    /// A line in MicroK8s's token file; its author is unknown.
    TokenFile,
}

/// All that is known of a token, but the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    issued_at: i64,
    issuer: Issuer,
    /// Until then any number of nodes may use it, and none of these uses is counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open_until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted: Option<Counted>,
    #[serde(default)]
    role: RoleLimit,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<NodeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<Description>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<Revoked>,
    /// Uses that are still pending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tries: Vec<TokenUse>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<LastUse>,
    /// How often it admitted a node.
    #[serde(default)]
    admissions: u64,
    /// Its end was noticed by [`TokenRecord::reconcile`].
    #[serde(default)]
    end_noticed: bool,
    /// The line by which it was issued may still stand in MicroK8s's file, as a used one.
    #[serde(default)]
    has_line: bool,
    /// The cluster in which it was issued; not known before [`TokenRecord::keep_to`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    void: Option<Void>,
}

/// Since when a token admits no node, although nothing was done with it, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void {
    /// When that was noticed, in unix seconds.
    pub at: i64,
    /// Why.
    pub why: VoidReason,
    /// It stays void, whatever becomes of the reason.
    is_final: bool,
}

/// Why a token is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoidReason {
    /// It was issued in another cluster than the one that the node is in.
    OtherCluster,
    /// It is known from an older copy of the database, and may have been used since.
    OlderCopy,
}

impl VoidReason {
    /// A few words for people and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OtherCluster => "it was issued in another cluster",
            Self::OlderCopy => {
                "the token database is an older copy, and it may have been used since"
            }
        }
    }
}

/// Uses that are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    uses: u32,
    /// Their end in unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    /// How many of them are used for good.
    spent: u32,
    /// How many were asked for, when the token was added last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<u32>,
}

/// When a token was revoked, and by which user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Unix seconds.
    pub at: i64,
    /// The user.
    pub uid: u32,
}

/// The node that was admitted last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// Who.
    pub node: JoiningNode,
    /// As what.
    pub role: Role,
    /// When, in unix seconds.
    pub at: i64,
}

/// One counted use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TokenUse {
    node: JoiningNode,
    role: Role,
    at: i64,
    phase: Phase,
    /// The node got all that it needs once.
    #[serde(default)]
    was_served: bool,
    /// The join that was admitted last, where the node names its joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    join_id: Option<JoinId>,
}

/// How far a join came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// The node has the answer, which opens nothing.
    Admitted,
    /// The node has a certificate or the cluster's key.
    HandedOut,
    /// The node reported that its join failed after that: only this node may try again.
    Failed,
    /// The node has all that it needs, and may have failed to make use of it: for others the token
    /// is used.
    Served,
    /// The datastore lists the control plane node. Its join may still fail, and be taken back.
    Listed,
}

impl Phase {
    /// Whether the use is used, as far as others are concerned.
    const fn is_used(self) -> bool {
        matches!(self, Self::Served | Self::Listed)
    }
}

/// A node that presents a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinRequest {
    /// Who.
    pub node: JoiningNode,
    /// As what it wants to join.
    pub role: Role,
    /// How it names this join, if it does.
    pub join_id: Option<JoinId>,
}

/// How a token admits a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// As one of any number.
    Open,
    /// By one of its counted uses.
    Counted,
}

/// Where a token is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It admits nodes.
    Issued,
    /// All its uses are taken, and not all for good.
    Reserved,
    /// All its uses are used.
    Used,
    /// Its time has run out.
    Expired,
    /// It was taken back.
    Revoked,
    /// It is not valid here any more.
    Void,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Issued,
        Self::Reserved,
        Self::Used,
        Self::Expired,
        Self::Revoked,
        Self::Void,
    ];

    /// One word for people and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Reserved => "reserved",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Void => "void",
        }
    }

    /// Whether it cannot let anybody in any more, whatever happens to the joins under way.
    pub const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Used | Self::Expired | Self::Revoked | Self::Void
        )
    }
}

/// What became of the use of a node whose join failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// It is free for every node.
    Free,
    /// It is that node's alone, which may try again at once.
    KeptForNode,
    /// That node has none.
    None,
    /// It is as it was: the report is about an earlier join of that node.
    Outdated,
}

/// What time, or the datastore, did to a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenEvent {
    /// A use is free again: nothing was heard of the join.
    LeaseRanOut(JoiningNode),
    /// The datastore lists the node: its join is complete.
    Listed(JoiningNode),
    /// The node did not say how its join went, and can no longer use the token again.
    WindowClosed(JoiningNode),
    /// The token's time ran out.
    Expired,
    /// The token is void.
    Void(VoidReason),
}

/// How adding a token again changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// It was over, and lives again.
    pub was_over: bool,
    /// The terms are those with which it was issued; an end moves on with them.
    pub has_same_terms: bool,
    /// What it was issued for before.
    pub before: GrantedTerms,
    /// What it is issued for now.
    pub after: GrantedTerms,
}

impl TokenRecord {
    /// A new token.
    pub fn issue(terms: &Terms, now: i64, issuer: Issuer) -> Self {
        let grant = GrantedTerms::asked_by(terms, now);
        let (open_until, counted) = match grant.uses {
            None => (grant.until, None),
            Some(uses) => (
                None,
                Some(Counted {
                    uses,
                    until: grant.until,
                    spent: 0,
                    asked: Some(uses),
                }),
            ),
        };
        Self {
            issued_at: now,
            issuer,
            open_until,
            counted,
            role: grant.role,
            node: grant.node,
            description: terms.description.clone(),
            revoked: None,
            tries: Vec::new(),
            last: None,
            admissions: 0,
            end_noticed: false,
            has_line: false,
            cluster: None,
            void: None,
        }
    }

    /// The token is issued once more: its terms become those that are given now. Expects a record that
    /// was [reconciled](TokenRecord::reconcile).
    ///
    /// A term that is not given keeps its value, unless the token would then be good for more than
    /// either of both requests; a token that was over lives again.
    pub fn add(&mut self, terms: &Terms, now: i64, issuer: Issuer) -> Added {
        let was_over = self.state(now).is_over();
        let before = self.grant(now);
        let fresh = GrantedTerms::asked_by(terms, now);
        let next = before.followed_by(terms, &fresh, now);
        if was_over {
            self.tries.clear();
            self.revoked = None;
            self.counted = None;
            self.void = None;
            self.cluster = None;
        }
        let is_count_kept =
            !was_over && terms.uses.is_none() && next.uses == before.uses && self.left(now) > 0;
        let spent = self.counted.as_ref().map_or(0, |counted| counted.spent);
        // A use that came back after an earlier addition is not one more than was asked for.
        let asked = self.taken().saturating_add(next.uses.unwrap_or_default());
        let total = match &self.counted {
            Some(counted) if is_count_kept => counted.uses.min(asked),
            _ => asked,
        };
        (self.open_until, self.counted) = match next.uses {
            None => (next.until, None),
            Some(asked) => (
                None,
                Some(Counted {
                    uses: total,
                    until: next.until,
                    spent,
                    asked: Some(asked),
                }),
            ),
        };
        self.role = next.role;
        self.node.clone_from(&next.node);
        if terms.description.is_some() {
            self.description.clone_from(&terms.description);
        }
        let later = now.saturating_sub(self.issued_at);
        self.issued_at = now;
        self.issuer = issuer;
        self.end_noticed = false;
        let after = self.grant(now);
        let moved = GrantedTerms {
            until: before.until.map(|until| until.saturating_add(later)),
            ..before.clone()
        };
        Added {
            was_over,
            has_same_terms: after == before || after == moved,
            before,
            after,
        }
    }

    /// What the token was issued for. An end that has passed is still its end.
    pub fn grant(&self, now: i64) -> GrantedTerms {
        let (uses, until) = match &self.counted {
            Some(counted) if !self.is_open(now) => {
                (Some(counted.asked.unwrap_or(counted.uses)), counted.until)
            }
            _ => (None, self.open_until),
        };
        GrantedTerms {
            uses,
            until,
            role: self.role,
            node: self.node.clone(),
        }
    }

    /// Whether the token admits this node now, while it is admitting `held`. Expects a
    /// record that was [reconciled](TokenRecord::reconcile).
    ///
    /// A node that used the token and did not complete its join may use it again for `window`
    /// seconds, and at any time when it said that its join failed.
    pub fn judge(
        &self,
        claim: &JoinRequest,
        held: &[JoiningNode],
        now: i64,
        window: i64,
    ) -> Result<Grant, Refusal> {
        if let Some(revoked) = self.revoked {
            return Err(Refusal {
                seconds_ago: Some(now - revoked.at),
                ..Reason::Revoked.into()
            });
        }
        if self.state(now) == State::Void {
            return Err(Refusal {
                seconds_ago: self.void.map(|void| now - void.at),
                ..Reason::Void.into()
            });
        }
        let is_open = self.is_open(now);
        if !is_open && self.live_count(now).is_none() {
            return Err(self.why_over(now));
        }
        let own = self.tries.iter().find(|other| other.node == claim.node);
        let may_retry = own.is_some_and(|own| own.may_be_repeated(claim.role, now, window));
        let others_held = held
            .iter()
            .filter(|node| **node != claim.node && !self.tries.iter().any(|t| t.node == **node))
            .count();
        let free = self
            .left(now)
            .saturating_sub(others_held.try_into().unwrap_or(u32::MAX));
        let has_use = is_open || may_retry || free > 0;
        if !has_use && self.state(now) == State::Used {
            return Err(self.used(now));
        }
        if !self.role.allows(claim.role) {
            return Err(Reason::WrongRole.into());
        }
        if let Some(node) = &self.node
            && !node.as_str().eq_ignore_ascii_case(&claim.node.name)
        {
            return Err(Refusal {
                node: Some(node.to_string()),
                ..Reason::WrongNode.into()
            });
        }
        if is_open {
            return Ok(Grant::Open);
        }
        if has_use {
            return Ok(Grant::Counted);
        }
        let holder = held
            .iter()
            .find(|node| **node != claim.node)
            .map(|node| (node, now))
            .or_else(|| self.tries.last().map(|other| (&other.node, other.at)));
        Err(Refusal {
            node: holder.map(|(node, _)| node.to_string()),
            seconds_ago: holder.map(|(_, at)| now - at),
            ..Reason::InUse.into()
        })
    }

    /// A node is admitted: from now on one use is its own.
    ///
    /// `hands_out` tells whether the answer itself holds what opens something in the cluster; that
    /// for a control plane node always does.
    pub fn admit(&mut self, claim: &JoinRequest, grant: Grant, hands_out: bool, now: i64) {
        self.admissions += 1;
        self.last = Some(LastUse {
            node: claim.node.clone(),
            role: claim.role,
            at: now,
        });
        if grant == Grant::Open {
            return;
        }
        let phase = match claim.role {
            Role::Worker if !hands_out => Phase::Admitted,
            Role::Worker | Role::ControlPlane => Phase::HandedOut,
        };
        match self.find(&claim.node) {
            Some(own) => {
                // What it was given before it still has.
                own.phase = match own.phase {
                    Phase::Admitted => phase,
                    Phase::Served => Phase::Served,
                    Phase::HandedOut | Phase::Failed | Phase::Listed => Phase::HandedOut,
                };
                own.role = claim.role;
                own.at = now;
                own.join_id.clone_from(&claim.join_id);
            }
            None => self.tries.push(TokenUse {
                node: claim.node.clone(),
                role: claim.role,
                at: now,
                phase,
                was_served: false,
                join_id: claim.join_id.clone(),
            }),
        }
    }

    /// A certificate leaves for the node.
    pub fn hand_out(&mut self, node: &JoiningNode) {
        if let Some(own) = self.find(node)
            && own.phase == Phase::Admitted
        {
            own.phase = Phase::HandedOut;
        }
    }

    /// The node has everything that it needs: the use is used. The node itself may still try again,
    /// because what it has to do with it may fail, and its client may not say so.
    pub fn serve(&mut self, node: &JoiningNode) -> bool {
        self.find(node)
            .map(|own| {
                own.phase = Phase::Served;
                own.was_served = true;
            })
            .is_some()
    }

    /// Whether the node holds a use, and by another join than this one.
    pub fn is_of_other_join(&self, node: &JoiningNode, join_id: Option<&JoinId>) -> bool {
        self.tries
            .iter()
            .any(|own| own.node == *node && JoinId::differ(own.join_id.as_ref(), join_id))
    }

    /// The node's join is complete, and its use used for good. Says whether the token had a use of
    /// it.
    pub fn complete(&mut self, node: &JoiningNode) -> bool {
        let before = self.tries.len();
        self.tries.retain(|other| other.node != *node);
        let had_one = self.tries.len() < before;
        self.spend(u32::from(had_one));
        had_one
    }

    /// The node says that its join failed.
    pub fn fail(&mut self, node: &JoiningNode) -> Release {
        let Some(own) = self.find(node) else {
            return Release::None;
        };
        if own.phase == Phase::Admitted {
            self.tries.retain(|other| other.node != *node);
            return Release::Free;
        }
        own.phase = Phase::Failed;
        Release::KeptForNode
    }

    /// Revokes the token, and returns whether it was still usable.
    pub fn revoke(&mut self, now: i64, uid: u32) -> bool {
        let was_over = self.state(now).is_over();
        self.tries.clear();
        if self.revoked.is_none() {
            self.revoked = Some(Revoked { at: now, uid });
        }
        !was_over
    }

    /// Does what time and the datastore did meanwhile. `is_member` tells whether the datastore
    /// lists a control plane node; nothing when that is not known here.
    pub fn reconcile(
        &mut self,
        now: i64,
        window: i64,
        is_member: impl Fn(&JoiningNode) -> Option<bool>,
    ) -> Vec<TokenEvent> {
        self.put_clock_right(now);
        let mut events = Vec::new();
        let mut spent = 0;
        self.tries.retain_mut(|other| {
            match (other.phase, is_member(&other.node)) {
                (Phase::HandedOut, Some(true)) if other.role == Role::ControlPlane => {
                    other.phase = Phase::Listed;
                    events.push(TokenEvent::Listed(other.node.clone()));
                }
                // It was taken back.
                (Phase::Listed, Some(false)) => other.phase = Phase::HandedOut,
                _ => {}
            }
            if !other.ends() || now < other.end(window) {
                return true;
            }
            if other.phase == Phase::Admitted {
                events.push(TokenEvent::LeaseRanOut(other.node.clone()));
                return false;
            }
            if !other.phase.is_used() {
                events.push(TokenEvent::WindowClosed(other.node.clone()));
            }
            spent += 1;
            false
        });
        self.spend(spent);
        if self.state(now) == State::Expired && !self.end_noticed {
            self.end_noticed = true;
            events.push(TokenEvent::Expired);
        }
        events
    }

    /// A token belongs to the cluster in which it was issued: it is void while the node is in
    /// another one, and stays so once the node's change to that one cannot be taken back.
    pub fn keep_to(&mut self, current: &CurrentCluster, now: i64) -> Option<TokenEvent> {
        if self.cluster.is_none() {
            self.cluster.clone_from(&current.id);
        }
        let is_other = current.is_other_than(self.cluster.as_ref());
        let before = self.void;
        match before {
            Some(void) if void.is_final => return None,
            _ if !is_other => self.void = None,
            _ => {
                self.void = Some(Void {
                    at: before.map_or(now, |void| void.at),
                    why: VoidReason::OtherCluster,
                    is_final: !current.is_changing,
                });
            }
        }
        let why = self.void.filter(|void| void.is_final)?.why;
        (self.state(now) == State::Void).then_some(TokenEvent::Void(why))
    }

    /// The token is void for good, and its pending uses end. Says whether it could have admitted a
    /// node.
    pub fn make_void(&mut self, why: VoidReason, now: i64) -> bool {
        self.tries.clear();
        let could_admit = !self.state(now).is_over();
        if could_admit {
            self.void = Some(Void {
                at: now,
                why,
                is_final: true,
            });
        }
        could_admit
    }

    /// What came about while the clock was ahead came about now at the latest: nothing may last until
    /// the clock is there again.
    fn put_clock_right(&mut self, now: i64) {
        let ahead = self.issued_at.saturating_sub(now);
        if ahead > 0 {
            self.issued_at = now;
            let ends = [
                self.open_until.as_mut(),
                self.counted
                    .as_mut()
                    .and_then(|counted| counted.until.as_mut()),
            ];
            for end in ends.into_iter().flatten() {
                *end = end.saturating_sub(ahead);
            }
        }
        let times = self
            .tries
            .iter_mut()
            .map(|other| &mut other.at)
            .chain(self.last.as_mut().map(|last| &mut last.at))
            .chain(self.revoked.as_mut().map(|revoked| &mut revoked.at))
            .chain(self.void.as_mut().map(|void| &mut void.at));
        for time in times {
            *time = (*time).min(now);
        }
    }

    /// Where the token is in its life.
    pub fn state(&self, now: i64) -> State {
        let state = self.state_in_its_cluster(now);
        if self.void.is_some() && !state.is_over() {
            return State::Void;
        }
        state
    }

    fn state_in_its_cluster(&self, now: i64) -> State {
        if self.revoked.is_some() {
            return State::Revoked;
        }
        if self.is_open(now) {
            return State::Issued;
        }
        let Some(counted) = &self.counted else {
            return State::Expired;
        };
        let is_complete = self.tries.iter().all(|other| other.phase.is_used());
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
    pub fn next_change(&self, now: i64, window: i64, kept: i64) -> Option<i64> {
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
    pub fn over_since(&self, now: i64) -> Option<i64> {
        match self.state(now) {
            State::Issued | State::Reserved => None,
            State::Used => Some(self.last.as_ref().map_or(self.issued_at, |last| last.at)),
            State::Expired => self.expires(),
            State::Revoked => self.revoked.map(|revoked| revoked.at),
            State::Void => self.void.map(|void| void.at),
        }
    }

    /// How many more nodes it admits; `None` while that is any number.
    pub fn uses_left(&self, now: i64) -> Option<u32> {
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
    pub fn expires(&self) -> Option<i64> {
        match &self.counted {
            None => self.open_until,
            Some(counted) => counted
                .until
                .map(|end| end.max(self.open_until.unwrap_or(end))),
        }
    }

    /// Whether its line in MicroK8s's file is still to be taken out.
    pub fn has_line(&self) -> bool {
        self.has_line
    }

    /// Remembers whether its line in MicroK8s's file is still to be taken out.
    pub fn set_has_line(&mut self, has_line: bool) {
        self.has_line = has_line;
    }

    /// When it was issued, in unix seconds.
    pub fn issued_at(&self) -> i64 {
        self.issued_at
    }

    /// When it was issued, or last used, in unix seconds.
    pub fn last_activity(&self) -> i64 {
        let last = self.last.as_ref().map(|last| last.at);
        last.max(Some(self.issued_at)).unwrap_or(self.issued_at)
    }

    /// Who issued it.
    pub fn issuer(&self) -> Issuer {
        self.issuer
    }

    /// As what nodes may join with it.
    pub fn role(&self) -> RoleLimit {
        self.role
    }

    /// The only node that it is for.
    pub fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    /// What the operator wrote down with it.
    pub fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    /// When it was revoked, and by which user.
    pub fn revoked(&self) -> Option<Revoked> {
        self.revoked
    }

    /// Since when it is void, and why; nothing where it is over for another reason, too.
    pub fn void(&self, now: i64) -> Option<Void> {
        self.void.filter(|_| self.state(now) == State::Void)
    }

    /// The node that it admitted last.
    pub fn last_use(&self) -> Option<&LastUse> {
        self.last.as_ref()
    }

    /// How often it admitted a node.
    pub fn admissions(&self) -> u64 {
        self.admissions
    }

    /// Whether the node holds one of its counted uses, and the last word on it is not said.
    pub fn has_try(&self, node: &JoiningNode) -> bool {
        self.tries.iter().any(|other| other.node == *node)
    }

    /// Whether any node does.
    pub fn has_tries(&self) -> bool {
        !self.tries.is_empty()
    }

    /// The control plane nodes that the datastore may know.
    pub fn awaited(&self) -> impl Iterator<Item = &JoiningNode> {
        self.tries
            .iter()
            .filter(|other| {
                other.role == Role::ControlPlane
                    && matches!(other.phase, Phase::HandedOut | Phase::Listed)
            })
            .map(|other| &other.node)
    }

    fn find(&mut self, node: &JoiningNode) -> Option<&mut TokenUse> {
        self.tries.iter_mut().find(|other| other.node == *node)
    }

    fn spend(&mut self, uses: u32) {
        if let Some(counted) = &mut self.counted {
            counted.spent = counted.spent.saturating_add(uses);
        }
    }

    fn taken(&self) -> u32 {
        let spent = self.counted.as_ref().map_or(0, |counted| counted.spent);
        spent.saturating_add(self.tries.len().try_into().unwrap_or(u32::MAX))
    }

    /// Whether any number of nodes may use it now.
    fn is_open(&self, now: i64) -> bool {
        self.open_until.is_some_and(|end| now < end)
    }

    /// The counted uses, unless their time has run out.
    fn live_count(&self, now: i64) -> Option<&Counted> {
        self.counted
            .as_ref()
            .filter(|counted| !is_over(counted.until, now))
    }

    /// How many counted uses are free.
    fn left(&self, now: i64) -> u32 {
        self.live_count(now)
            .map_or(0, |counted| counted.uses.saturating_sub(self.taken()))
    }

    fn why_over(&self, now: i64) -> Refusal {
        if self.state(now) == State::Used {
            return self.used(now);
        }
        Refusal {
            seconds_ago: self.expires().map(|end| now - end),
            ..Reason::Expired.into()
        }
    }

    fn used(&self, now: i64) -> Refusal {
        Refusal {
            node: self.last.as_ref().map(|last| last.node.to_string()),
            seconds_ago: self.last.as_ref().map(|last| now - last.at),
            ..Reason::Used.into()
        }
    }
}

impl TokenUse {
    /// Whether the node may use the token again in this role. A worker that has all that it needs is
    /// not to become a control plane node by what it joined with, unless it says that it has failed.
    fn may_be_repeated(&self, role: Role, now: i64, window: i64) -> bool {
        let in_window = now < self.at.saturating_add(window);
        match self.phase {
            Phase::Failed => !self.was_served || now < self.end(window),
            Phase::Admitted | Phase::HandedOut => in_window,
            Phase::Served => in_window && self.role == role,
            Phase::Listed => false,
        }
    }

    /// Whether time ends it. A node whose join failed before it had all may come back at any time.
    fn ends(&self) -> bool {
        self.phase != Phase::Failed || self.was_served
    }

    /// Until when more may be heard of it: its certificates may still be signed, and it may say
    /// that its join failed.
    fn end(&self, window: i64) -> i64 {
        self.at.saturating_add(LEASE.max(window))
    }
}

/// Whether an end has come; nothing without one ends.
fn is_over(end: Option<i64>, now: i64) -> bool {
    end.is_some_and(|end| now >= end)
}
