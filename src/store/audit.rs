//! The audit log: a line for each step in the life of a token, written where the step is made,
//! after it is on disk.
//!
//! The lines go where the agent's log goes, whatever its level is, with the word `audit` in front.
//! They hold the token's id, never the token.

use std::fmt;
use std::net::IpAddr;

use crate::base::sanitize;
use crate::model::node::JoiningNode;
use crate::model::token::TokenDigest;

/// The target that marks these lines in the log.
pub(crate) const TARGET: &str = "audit";

/// Who brought a step about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    /// A user of this machine.
    Uid(u32),
    /// Another machine.
    Address(IpAddr),
    /// The agent itself, because time passed or the datastore said so.
    Agent,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid {uid}"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Agent => f.write_str("agent"),
        }
    }
}

/// Writes a line: what happened to all tokens at once.
pub(crate) fn database(event: &'static str, outcome: &str) {
    let actor = Actor::Agent;
    tracing::info!(target: TARGET, event, token = "-", %actor, node = "-", outcome, "audit");
}

/// Writes a line: what happened to the token, and what it came to.
pub(crate) fn write(
    event: &'static str,
    token: &TokenDigest,
    actor: Actor,
    node: Option<&JoiningNode>,
    outcome: &str,
) {
    // The name comes from the other machine.
    let node = node.map_or_else(
        || "-".to_owned(),
        |node| sanitize::for_log(&node.to_string(), 120),
    );
    tracing::info!(target: TARGET, event, %token, %actor, node, outcome, "audit");
}
