//! Where a token is in its life, what happens to it, and what a node asks of it.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use super::GrantedTerms;
use crate::model::join_id::JoinId;
use crate::model::node::JoiningNode;
use crate::model::role::Role;

/// Since when a token admits no node, although nothing was done with it, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Void {
    /// When that was noticed, in unix seconds.
    pub(crate) at: i64,
    /// Why.
    pub(crate) why: VoidReason,
    /// It stays void, whatever becomes of the reason.
    pub(super) is_final: bool,
}

/// Why a token is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum VoidReason {
    /// It was issued in another cluster than the one that the node is in.
    OtherCluster,
    /// It is known from an older copy of the database, and may have been used since.
    OlderCopy,
}

impl VoidReason {
    /// A few words for people and logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::OtherCluster => "it was issued in another cluster",
            Self::OlderCopy => {
                "the token database is an older copy, and it may have been used since"
            }
        }
    }
}

/// When a token was revoked, and by which user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revoked {
    /// Unix seconds.
    pub(crate) at: i64,
    /// The user.
    pub(crate) uid: u32,
}

/// The node that was admitted last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastUse {
    /// Who.
    pub(crate) node: JoiningNode,
    /// As what.
    pub(crate) role: Role,
    /// When, in unix seconds.
    pub(crate) at: i64,
}

/// How a token admits a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// As one of any number.
    Open,
    /// By one of its counted uses.
    Counted,
}

/// A node that presents a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinRequest {
    /// Who.
    pub(crate) node: JoiningNode,
    /// As what it wants to join.
    pub(crate) role: Role,
    /// How it names this join, if it does.
    pub join_id: Option<JoinId>,
}

/// Where a token is in its life.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr, VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub(crate) enum State {
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
    /// Whether it cannot let anybody in any more, whatever happens to the joins under way.
    pub(crate) const fn is_over(self) -> bool {
        matches!(
            self,
            Self::Used | Self::Expired | Self::Revoked | Self::Void
        )
    }
}

/// What became of the use of a node whose join failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
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
pub(crate) enum TokenEvent {
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
    pub(crate) was_over: bool,
    /// The terms are those with which it was issued; an end moves on with them.
    pub(crate) has_same_terms: bool,
    /// What it was issued for before.
    pub(crate) before: GrantedTerms,
    /// What it is issued for now.
    pub(crate) after: GrantedTerms,
}
