//! One use of a token, how far the join of its node came, and what it may still have signed.

use serde::{Deserialize, Serialize};

use super::{CertificatePurpose, LEASE};
use crate::model::join_id::JoinId;
use crate::model::node::JoiningNode;
use crate::model::role::Role;

/// One use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TokenUse {
    pub(crate) node: JoiningNode,
    pub(crate) role: Role,
    pub(crate) at: i64,
    pub(crate) phase: Phase,
    /// The node got all that it needs once.
    #[serde(default)]
    pub(crate) was_served: bool,
    /// The join that was admitted last, where the node names its joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) join_id: Option<JoinId>,
    /// It is one of the counted uses, not one of any number.
    #[serde(default = "counted", skip_serializing_if = "Clone::clone")]
    pub(crate) is_counted: bool,
    /// The certificates that the node may have signed until [`LEASE`] after `at`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) grants: Vec<CertificatePurpose>,
}

const fn counted() -> bool {
    true
}

/// How far a join came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
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
    pub(crate) const fn is_used(self) -> bool {
        matches!(self, Self::Served | Self::Listed)
    }
}

impl TokenUse {
    /// Whether the node may use the token again in this role. A worker that has all that it needs is
    /// not to become a control plane node by what it joined with, unless it says that it has failed.
    pub(crate) fn may_be_repeated(&self, role: Role, now: i64, window: i64) -> bool {
        let in_window = now < self.at.saturating_add(window);
        match self.phase {
            Phase::Failed => !self.was_served || now < self.end(window),
            Phase::Admitted | Phase::HandedOut => in_window,
            Phase::Served => in_window && self.role == role,
            Phase::Listed => false,
        }
    }

    /// Whether time ends it. A node whose join failed before it had all may come back at any time.
    pub(crate) fn ends(&self) -> bool {
        self.phase != Phase::Failed || self.was_served
    }

    /// Until when more may be heard of it: its certificates may still be signed, and it may say
    /// that its join failed.
    pub(crate) fn end(&self, window: i64) -> i64 {
        let window = if self.is_counted { window } else { 0 };
        self.at.saturating_add(LEASE.max(window))
    }
}
