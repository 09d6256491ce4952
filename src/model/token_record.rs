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

mod certificates;
mod granted_terms;
mod queries;
mod refusal;
mod state;
#[cfg(test)]
mod tests;
mod token_use;
mod transit;

use serde::{Deserialize, Serialize};

pub(crate) use certificates::CertificatePurpose;
pub use granted_terms::GrantedTerms;
pub(crate) use refusal::{Reason, Refusal};
pub(crate) use state::{
    Added, Grant, JoinRequest, LastUse, Release, Revoked, State, TokenEvent, Void, VoidReason,
};
use token_use::{Phase, TokenUse};
pub(crate) use transit::{Transit, TransitPhase};

use crate::model::cluster_id::{ClusterId, CurrentCluster};
use crate::model::join_id::JoinId;
use crate::model::node::{JoiningNode, NodeName};
use crate::model::role::Role;
use crate::model::token_terms::{Description, RoleLimit};

/// For how long, in seconds, an admitted worker may have its certificates signed. After that a use
/// that was not reported is free again.
pub(crate) const LEASE: i64 = 15 * 60;

/// How far, in seconds, the clocks of two control plane nodes that share a token may differ, and a
/// clock may be put back, without an effect on joins under way.
pub(crate) const CLOCK_DIFFERENCE: i64 = LEASE;

/// For how long, in seconds, a node that used a token may use it again, unless told otherwise.
pub(crate) const RETRY_WINDOW: i64 = 15 * 60;

/// Who issued a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Issuer {
    /// A user of this machine, by `add-node`.
    Uid(u32),
    /// A line in MicroK8s's token file; its author is unknown.
    TokenFile,
}

/// All that is known of a token, but the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
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
    /// Uses that are still pending. Those that are not counted are here for as long as the node may
    /// have certificates signed.
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
    /// The node that issued it; an earlier version did not note that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    issued_on: Option<String>,
    /// It is on its way from one store to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transit: Option<Transit>,
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

impl TokenRecord {
    /// Whether the token admits this node now, while it is admitting `held`. Expects a
    /// record that was [reconciled](TokenRecord::reconcile).
    ///
    /// A node that used the token and did not complete its join may use it again for `window`
    /// seconds, and at any time when it said that its join failed.
    pub(crate) fn judge(
        &self,
        claim: &JoinRequest,
        held: &[JoiningNode],
        now: i64,
        window: i64,
    ) -> Result<Grant, Refusal> {
        if let Some(revoked) = self.revoked {
            return Err(Reason::Revoked.since(Some(revoked.at), now));
        }
        if self.state(now) == State::Void {
            return Err(Reason::Void.since(self.void.map(|void| void.at), now));
        }
        let is_open = self.is_open(now);
        if !is_open && self.live_count(now).is_none() {
            return Err(self.why_over(now));
        }
        let own = self.counted_use(&claim.node);
        let may_retry = own.is_some_and(|own| own.may_be_repeated(claim.role, now, window));
        let others_held = held
            .iter()
            .filter(|node| **node != claim.node && self.counted_use(node).is_none())
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
            .or_else(|| {
                let last = self.tries.iter().rfind(|other| other.is_counted);
                last.map(|other| (&other.node, other.at))
            });
        Err(Refusal {
            node: holder.map(|(node, _)| node.to_string()),
            ..Reason::InUse.since(holder.map(|(_, at)| at), now)
        })
    }

    /// A node is admitted: from now on one use is its own, and it may have these certificates signed
    /// for a while. What it could have signed before it can no longer.
    ///
    /// `hands_out` tells whether the answer itself holds what opens something in the cluster; that
    /// for a control plane node always does.
    pub(crate) fn admit(
        &mut self,
        claim: &JoinRequest,
        grant: Grant,
        certificates: &[CertificatePurpose],
        hands_out: bool,
        now: i64,
    ) {
        self.admissions = self.admissions.saturating_add(1);
        self.last = Some(LastUse {
            node: claim.node.clone(),
            role: claim.role,
            at: now,
        });
        self.tries
            .retain(|other| other.is_counted || other.node != claim.node);
        let phase = match claim.role {
            Role::Worker if !hands_out => Phase::Admitted,
            Role::Worker | Role::ControlPlane => Phase::HandedOut,
        };
        if let Some(own) = self.find(&claim.node) {
            // What it was given before it still has.
            own.phase = match own.phase {
                Phase::Admitted => phase,
                Phase::Served => Phase::Served,
                Phase::HandedOut | Phase::Failed | Phase::Listed => Phase::HandedOut,
            };
            own.role = claim.role;
            own.at = now;
            own.join_id.clone_from(&claim.join_id);
            own.grants = certificates.to_vec();
        } else if grant == Grant::Counted || !certificates.is_empty() {
            self.tries.push(TokenUse {
                node: claim.node.clone(),
                role: claim.role,
                at: now,
                phase,
                was_served: false,
                join_id: claim.join_id.clone(),
                is_counted: grant == Grant::Counted,
                grants: certificates.to_vec(),
            });
        }
    }

    /// Whether the node holds a use, and by another join than this one.
    pub(crate) fn is_of_other_join(&self, node: &JoiningNode, join_id: Option<&JoinId>) -> bool {
        self.tries
            .iter()
            .any(|own| own.node == *node && JoinId::differ(own.join_id.as_ref(), join_id))
    }

    /// The node's join is complete, and its use used for good. Says whether it was a counted one.
    pub(crate) fn complete(&mut self, node: &JoiningNode) -> bool {
        let had_one = self.counted_use(node).is_some();
        self.tries.retain(|other| other.node != *node);
        self.spend(u32::from(had_one));
        had_one
    }

    /// The node says that its join failed: nothing is signed for it any more.
    pub(crate) fn fail(&mut self, node: &JoiningNode) -> Release {
        let Some(own) = self.find(node) else {
            return Release::None;
        };
        own.grants.clear();
        let (is_counted, phase) = (own.is_counted, own.phase);
        if is_counted && phase != Phase::Admitted {
            own.phase = Phase::Failed;
            return Release::KeptForNode;
        }
        self.tries.retain(|other| other.node != *node);
        match is_counted {
            true => Release::Free,
            false => Release::None,
        }
    }

    /// Revokes the token, and returns whether it was still usable. One that is used up stays that; one
    /// that has expired does too, and cannot be used again when the clock is put back.
    pub(crate) fn revoke(&mut self, now: i64, uid: u32) -> bool {
        let was_over = self.state(now).is_over();
        self.tries.clear();
        if self.revoked.is_none() && self.state(now) != State::Used {
            self.revoked = Some(Revoked { at: now, uid });
        }
        !was_over
    }

    /// Does what time and the datastore did meanwhile. `is_member` tells whether the datastore
    /// lists a control plane node; nothing when that is not known here.
    pub(crate) fn reconcile(
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
            if !other.is_counted {
                return false;
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
        if self.state(now) == State::Expired && !self.end_noticed && !self.is_of_lines() {
            self.end_noticed = true;
            events.push(TokenEvent::Expired);
        }
        events
    }

    /// A token belongs to the cluster in which it was issued: it is void while the node is in
    /// another one, and stays so once the node's change to that one cannot be undone.
    pub(crate) fn keep_to(&mut self, current: &CurrentCluster, now: i64) -> Option<TokenEvent> {
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
        self.tries.clear();
        (self.state(now) == State::Void).then_some(TokenEvent::Void(why))
    }

    /// The token is void for good, and its pending uses end. Says whether it could have admitted a
    /// node.
    pub(crate) fn make_void(&mut self, why: VoidReason, now: i64) -> bool {
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

    /// What came about while the clock was far ahead came about now at the latest: nothing may last
    /// until the clock is there again. Of a time that is ahead by no more than the clocks of two
    /// control plane nodes may differ, nothing is changed.
    fn put_clock_right(&mut self, now: i64) {
        let is_ahead = |time: i64| time > now.saturating_add(CLOCK_DIFFERENCE);
        if is_ahead(self.issued_at) {
            let ahead = self.issued_at.saturating_sub(now);
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
        for own in self.tries.iter_mut().filter(|own| is_ahead(own.at)) {
            own.at = now;
            own.grants.clear();
        }
        let times = [
            self.last.as_mut().map(|last| &mut last.at),
            self.revoked.as_mut().map(|revoked| &mut revoked.at),
            self.void.as_mut().map(|void| &mut void.at),
        ];
        for time in times.into_iter().flatten().filter(|time| is_ahead(**time)) {
            *time = now;
        }
    }

    /// Remembers whether its line in MicroK8s's file is still to be taken out.
    pub(crate) fn set_has_line(&mut self, has_line: bool) {
        self.has_line = has_line;
    }

    fn find(&mut self, node: &JoiningNode) -> Option<&mut TokenUse> {
        self.tries.iter_mut().find(|other| other.node == *node)
    }

    fn spend(&mut self, uses: u32) {
        if let Some(counted) = &mut self.counted {
            counted.spent = counted.spent.saturating_add(uses);
        }
    }
}

/// Whether an end has come; nothing without one ends.
fn is_over(end: Option<i64>, now: i64) -> bool {
    end.is_some_and(|end| now >= end)
}
