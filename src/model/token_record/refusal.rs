//! Why a token does not admit a node.

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// Why a token does not admit a node, and what its holder may learn about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) reason: Reason,
    /// The node that has it, or that it is for.
    pub(crate) node: Option<String>,
    /// How many seconds ago that came about.
    pub(crate) seconds_ago: Option<i64>,
}

/// Why a token does not admit a node, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub(crate) enum Reason {
    /// Nothing is known of it here.
    Unknown,
    /// Its time has run out.
    Expired,
    /// It was used.
    Used,
    /// It was taken back.
    Revoked,
    /// It is for another role.
    WrongRole,
    /// It is for another node.
    WrongNode,
    /// Another node is joining with it now.
    InUse,
    /// It is not valid any more: it was issued in another cluster, or comes from an older copy.
    Void,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

impl Reason {
    /// The refusal for this reason, which came about at `at`.
    pub(super) fn since(self, at: Option<i64>, now: i64) -> Refusal {
        Refusal {
            // A clock that was ahead may have written the time.
            seconds_ago: at.map(|at| now.saturating_sub(at).max(0)),
            ..self.into()
        }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            node: None,
            seconds_ago: None,
        }
    }
}
