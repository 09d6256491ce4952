//! Version 1 of the local API: the command line and the node's own agent, over its socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_record::{Added, GrantedTerms, State};
use crate::model::token_terms::{RoleLimit, Terms};

/// The version of the local protocol. It grows when an older program would misunderstand.
pub const PROTOCOL: u32 = 6;

/// `GET /local/hello`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// The agent's version, for people.
    pub version: String,
    /// The node directory that it works in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<NodeDirectory>,
}

/// A node directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeDirectory {
    /// Its path, as the agent sees it.
    pub path: String,
    /// Its device and inode.
    pub identity: (u64, u64),
}

/// `POST /local/v1/tokens`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddTokenRequest {
    /// The token to add, unchecked; without one a new one is made.
    pub token: Option<Token>,
    /// What it is for.
    pub terms: Terms,
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
    /// The cluster takes workers: it runs on dqlite.
    pub takes_workers: bool,
    /// What it is good for.
    pub granted: GrantedTerms,
    /// The token was known before; how adding it again changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_again: Option<Added>,
    /// What the operator should know of the token database.
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

/// The tokens that were found (`POST /local/v1/tokens/find`) or taken back
/// (`POST /local/v1/tokens/revoke`); the request is a [`TokenSelection`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TokenList {
    /// The agent's time, in unix seconds.
    pub now: i64,
    /// The tokens.
    pub tokens: Vec<TokenEntry>,
    /// What the operator should know of the token database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// What can be told of a token. The token itself is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEntry {
    /// The first digits of its SHA-256.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// As what nodes may join with it.
    pub role: RoleLimit,
    /// How many more nodes it admits; `null` while that is any number.
    pub uses_left: Option<u32>,
    /// Its end in unix seconds; `null` when it has none.
    pub expires: Option<i64>,
    /// The only node that it is for.
    pub node: Option<String>,
    /// When it was issued, in unix seconds; `null` for one that only stands in MicroK8s's file.
    pub issued_at: Option<i64>,
    /// The user who issued it; `null` for one from MicroK8s's file.
    pub issued_by: Option<u32>,
    /// MicroK8s's file in which it stands.
    pub file: Option<String>,
    /// How many nodes it admitted.
    pub admissions: u64,
    /// The node that was admitted last.
    pub last_use: Option<TokenUse>,
    /// When it was taken back, in unix seconds.
    pub revoked_at: Option<i64>,
    /// The user who took it back.
    pub revoked_by: Option<u32>,
    /// When it was noticed that it is void, in unix seconds.
    #[serde(default)]
    pub void_since: Option<i64>,
    /// Why it is void.
    #[serde(default)]
    pub void_because: Option<String>,
    /// What the operator wrote down with it.
    pub description: Option<String>,
}

/// A use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The host name of the node.
    pub node: String,
    /// Its address.
    pub address: IpAddr,
    /// What it joined as.
    pub role: Role,
    /// When, in unix seconds.
    pub at: i64,
}

/// `POST /local/v1/tokens/prune`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct PruneRequest {
    /// Tokens that are still usable go, too, where no node has joined with them for so many seconds.
    pub unused_seconds: Option<u64>,
}

/// The answer to a [`PruneRequest`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Pruned {
    /// How many tokens were removed.
    pub pruned: usize,
}

/// `GET /local/v1/nodes`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeList {
    /// The nodes of the cluster, as this node knows them.
    pub nodes: Vec<NodeEntry>,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its host name, where known.
    pub name: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// Its role.
    pub role: Role,
}
