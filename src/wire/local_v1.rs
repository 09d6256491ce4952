//! Version 1 of the local API: the command line and the node's own agent, over its socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_record::{Added, GrantedTerms, State};
use crate::model::token_terms::{RoleLimit, Terms};
use crate::wire::preflight_v1::Finding;

/// The version of the local protocol. It grows when an older program would misunderstand.
pub(crate) const PROTOCOL: u32 = 8;

/// `GET /local/hello`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`PROTOCOL`] of the agent.
    pub(crate) protocol: u32,
    /// The agent's version, for people.
    pub(crate) version: String,
    /// The node directory that it works in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) directory: Option<NodeDirectory>,
}

/// A node directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct NodeDirectory {
    /// Its path, as the agent sees it.
    pub(crate) path: String,
    /// Its device and inode.
    pub(crate) identity: (u64, u64),
}

/// `POST /local/v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddTokenRequest {
    /// The token to add, unchecked; without one a new one is made.
    pub token: Option<Token>,
    /// What it is for.
    pub terms: Terms,
    /// The other control plane nodes of the cluster are wanted, too.
    pub all: bool,
}

/// A token, and how to reach the node that issued it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The token.
    pub token: Token,
    /// The fingerprint of the served certificate, all of its digits.
    pub fingerprint: String,
    /// The port that the agent is bound to.
    pub port: u16,
    /// The address of the default interface.
    pub default_address: IpAddr,
    /// Every address of the node that others may reach.
    pub addresses: Vec<IpAddr>,
    /// The other control plane nodes, where they were asked for: the address of each, and the
    /// fingerprint of the certificate that it serves, all of its digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub others: Option<Vec<(IpAddr, String)>>,
    /// The cluster takes workers: it runs on dqlite.
    pub takes_workers: bool,
    /// What it is good for.
    pub granted: GrantedTerms,
    /// The token was known before; how adding it again changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_again: Option<Added>,
    /// What the operator should know of the token database, and of the other control plane nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// Which tokens are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenSelection {
    /// All.
    All,
    /// Those with these ids, or beginnings of ids.
    Ids(Vec<String>),
    /// This one.
    Token(Token),
}

/// A line of the answer to `POST /local/v1/tokens/find` or `POST /local/v1/tokens/revoke`, which has
/// the tokens that were found or revoked; the request is a [`TokenSelection`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TokenLine {
    /// A token.
    Token(Box<TokenEntry>),
    /// The last line.
    End(TokenListEnd),
    /// The last line when it failed: why.
    Failed(String),
}

/// What is said when all tokens were.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TokenListEnd {
    /// The agent's time, in unix seconds.
    pub(crate) now: i64,
    /// What the operator should know of the token database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notices: Vec<String>,
}

/// What can be told of a token. The token itself is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenEntry {
    /// The first digits of its SHA-256.
    pub(crate) id: String,
    /// Where it is in its life.
    pub(crate) state: State,
    /// As what nodes may join with it.
    pub(crate) role: RoleLimit,
    /// How many more nodes it admits; `null` while that is any number.
    pub(crate) uses_left: Option<u32>,
    /// Its end in unix seconds; `null` when it has none.
    pub(crate) expires: Option<i64>,
    /// The only node that it is for.
    pub(crate) node: Option<String>,
    /// When it was issued, in unix seconds; `null` for one that only stands in MicroK8s's file.
    pub(crate) issued_at: Option<i64>,
    /// The user who issued it; `null` for one from MicroK8s's file.
    pub(crate) issued_by: Option<u32>,
    /// The node that issued it, where that is known.
    pub(crate) issued_on: Option<String>,
    /// MicroK8s's file in which it stands.
    pub(crate) file: Option<String>,
    /// How many nodes it admitted.
    pub(crate) admissions: u64,
    /// The node that was admitted last.
    pub(crate) last_use: Option<TokenUse>,
    /// When it was taken back, in unix seconds.
    pub(crate) revoked_at: Option<i64>,
    /// The user who took it back.
    pub(crate) revoked_by: Option<u32>,
    /// When it was noticed that it is void, in unix seconds.
    pub(crate) void_since: Option<i64>,
    /// Why it is void.
    pub(crate) void_because: Option<String>,
    /// What the operator wrote down with it.
    pub(crate) description: Option<String>,
}

/// A use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenUse {
    /// The host name of the node.
    pub(crate) node: String,
    /// Its address.
    pub(crate) address: IpAddr,
    /// What it joined as.
    pub(crate) role: Role,
    /// When, in unix seconds.
    pub(crate) at: i64,
}

/// `POST /local/v1/tokens/prune`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct PruneRequest {
    /// Tokens that are still usable go, too, where no node has joined with them for so many seconds.
    pub(crate) unused_seconds: Option<u64>,
}

/// The answer to a [`PruneRequest`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Pruned {
    /// How many tokens were removed.
    pub(crate) pruned: usize,
}

/// `GET /local/v1/nodes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct NodeList {
    /// The nodes of the cluster, as this node knows them.
    pub(crate) nodes: Vec<NodeEntry>,
}

/// `GET /local/v1/nodes/check`: what was found of each node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ClusterHealth {
    /// Whether no finding is an error.
    pub(crate) ok: bool,
    /// The nodes, this one first.
    pub(crate) nodes: Vec<NodeHealth>,
}

/// What was found of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeHealth {
    /// Its host name, where known.
    pub(crate) name: Option<String>,
    /// The address at which it was called.
    pub(crate) address: Option<IpAddr>,
    /// Its role.
    pub(crate) role: Role,
    /// For how many more days the certificate of its agent is valid; `null` where it was not seen.
    pub(crate) certificate_days: Option<i64>,
    /// The findings, one for each check.
    pub(crate) checks: Vec<Finding>,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeEntry {
    /// Its host name, where known.
    pub(crate) name: Option<String>,
    /// Its address.
    pub(crate) address: IpAddr,
    /// Its role.
    pub(crate) role: Role,
}
