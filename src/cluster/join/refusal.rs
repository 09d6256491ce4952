//! Why a contacted node refused a join, and what helps.
//!
//! An agent of this project gives a reason where the token is at fault. Everything else, and all of
//! what MicroK8s's agent says, is told by the status and the text (recordings `http-join-*`).

use crate::base::{sanitize, time_text};
use crate::model::join_stage::Retry;
use crate::model::role::Role;
use crate::model::token_record::{Reason, Refusal};

/// Why a contacted node refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The token.
    Token,
    /// The joining node's name does not resolve to its address.
    NameNotResolved,
    /// Another node has the name, or the name is not one.
    NameUnusable,
    /// The datastore lists the address.
    AlreadyListed,
    /// The contacted node is the joining one, or seems to be.
    SameAddress,
    /// The joining node's address is of no use to other nodes.
    LinkLocal,
    /// The joining node's agent has another port.
    Port,
    /// The contacted node is a worker.
    Worker,
    /// The contacted node has no high availability.
    NotHa,
    /// The contacted node has high availability.
    IsHa,
    /// The joining node is too old for the cluster.
    TooOld,
    /// The request was not understood, or a value of it not taken.
    Request,
    /// No agent of MicroK8s answered.
    NoAgent,
    /// The contacted node does not reach the token store of the cluster.
    Store,
    /// Too many requests.
    Busy,
    /// Something is wrong on the contacted node.
    Fault,
}

/// Phrases of the refusals that are known, and what they mean.
const PHRASES: [(&str, Cause); 15] = [
    ("Invalid token", Cause::Token),
    ("does not resolve to the IP", Cause::NameNotResolved),
    ("is taken by another node", Cause::NameUnusable),
    ("is not a valid name", Cause::NameUnusable),
    ("is already known", Cause::AlreadyListed),
    ("has the same IP", Cause::SameAddress),
    ("has the link-local address", Cause::LinkLocal),
    ("The port of the cluster agent", Cause::Port),
    ("The contacted node is a worker", Cause::Worker),
    ("This is not an HA MicroK8s cluster", Cause::NotHa),
    ("This is an HA MicroK8s cluster", Cause::IsHa),
    ("update MicroK8s to version", Cause::TooOld),
    ("Failed to use the token store of the cluster", Cause::Store),
    ("Not found", Cause::NoAgent),
    ("Internal error", Cause::Fault),
];

// What helps. Hints hold no join command and no phrase that scripts look for in what commands print.
const ASK_CONTROL_PLANE: &str =
    "take a connection string that `microk8s add-node` prints on a control plane node";
const BUSY: &str = "the contacted node has too much to do; the token can still be used";
const ENABLE_HA: &str = "run `microk8s enable ha-cluster` on this node first";
const FORGET_ADDRESS: &str = "the datastore still lists this address: remove the node of that address with `microk8s remove-node ADDRESS --force` on a control plane node, if it is this one";
const ISSUE_TOKEN: &str = "the token is unknown there, was used or has expired: issue a new one on the contacted node with `microk8s add-node`";
const MATCH_HA: &str = "the contacted node's cluster runs without high availability: enable it there with `microk8s enable ha-cluster`, or disable it here";
const OTHER_ADDRESS: &str = "use an address of the contacted node that is reached from an address which other nodes can reach";
const OTHER_PROGRAM: &str = "something other than a cluster agent answers there, or one of another version; take a fresh connection string from `microk8s add-node`";
const READ_LOG: &str = "read the log of the contacted node's cluster agent, and fix what it names";
const RENAME: &str = "give this node a host name of its own, of lower-case letters, digits, `-` and `.`, or remove the other node from the cluster first";
const RESOLVE_NAME: &str = "have this node's host name resolve to that address on the contacted node, by its /etc/hosts or the DNS; the token can still be used where the contacted node runs this program";
const RUN_ELSEWHERE: &str = "run the command on the node that is to join, not on the one that issued the token; where these are two nodes, something between them translates addresses";
const SAME_VERSION: &str =
    "the contacted node did not take what this version sends: use the same version on both nodes";
const SET_PORT: &str = "have this node's agent listen on the port that the message names (`--bind` in args/cluster-agent), and restart it";
const STORE_IS_SILENT: &str = "the token store of the cluster does not answer the contacted node: its log says why; try again, here or with the connection string of another control plane node; the token can still be used";
const UPDATE: &str = "update MicroK8s on this node first";

impl Cause {
    /// The cause, from the status and the text of an answer.
    pub(crate) fn of(status: u16, text: Option<&str>) -> Self {
        let known = PHRASES
            .iter()
            .find(|(phrase, _)| text.is_some_and(|text| text.contains(phrase)));
        if let Some((_, cause)) = known {
            return *cause;
        }
        match (status, text) {
            (429 | 503, _) => Self::Busy,
            (400, Some(_)) => Self::Request,
            (500.., _) => Self::Fault,
            _ => Self::NoAgent,
        }
    }

    /// Whether the same command may succeed when it is run again, and what helps.
    pub(crate) const fn advice(self) -> (Retry, &'static str) {
        use Retry::{CureFirst, NoRetry, TryAgain};
        match self {
            Self::Token => (NoRetry, ISSUE_TOKEN),
            Self::NameNotResolved => (CureFirst, RESOLVE_NAME),
            Self::NameUnusable => (CureFirst, RENAME),
            Self::AlreadyListed => (CureFirst, FORGET_ADDRESS),
            Self::SameAddress => (NoRetry, RUN_ELSEWHERE),
            Self::LinkLocal => (CureFirst, OTHER_ADDRESS),
            Self::Port => (CureFirst, SET_PORT),
            Self::Worker => (NoRetry, ASK_CONTROL_PLANE),
            Self::NotHa => (CureFirst, MATCH_HA),
            Self::IsHa => (CureFirst, ENABLE_HA),
            Self::TooOld => (CureFirst, UPDATE),
            Self::Request => (NoRetry, SAME_VERSION),
            Self::NoAgent => (NoRetry, OTHER_PROGRAM),
            Self::Store => (TryAgain, STORE_IS_SILENT),
            Self::Busy => (TryAgain, BUSY),
            Self::Fault => (CureFirst, READ_LOG),
        }
    }
}

/// Why the token is of no use, as far as the contacted node tells, and the command that helps.
pub(crate) fn hint_of_token(refusal: &Refusal, role: Role) -> String {
    const ISSUE: &str = "issue a new one on the contacted node with `microk8s add-node`";
    let ago = refusal.seconds_ago.map_or_else(String::new, |seconds| {
        format!(" {} ago", time_text::span(seconds))
    });
    let node = refusal
        .node
        .as_deref()
        .map(|node| sanitize::for_log(node, 120));
    let by = node
        .as_ref()
        .map_or_else(String::new, |node| format!(" by {node}"));
    match refusal.reason {
        Reason::Unknown => {
            "the contacted node does not know this token: was it issued on another node, or mistyped? `microk8s token list` shows there which ones it knows".to_owned()
        }
        Reason::Expired => format!("the token expired{ago}; {ISSUE}"),
        Reason::Used => format!("the token was used{by}{ago}; {ISSUE}"),
        Reason::Revoked => format!("the token was revoked{ago}; {ISSUE}"),
        Reason::Void => format!(
            "the token is void: it was issued before the contacted node joined or left a cluster, or before its token database was replaced by an older copy; {ISSUE}"
        ),
        Reason::WrongRole => match role {
            Role::ControlPlane => format!(
                "the token is for workers only: add `--worker`, or {ISSUE} and its option `--role control-plane`"
            ),
            Role::Worker => format!(
                "the token is for control plane nodes only: leave `--worker` out, or {ISSUE} and its option `--role worker`"
            ),
        },
        Reason::WrongNode => {
            let node = node.unwrap_or_else(|| "another node".to_owned());
            format!("the token is for {node} only; {ISSUE}")
        }
        Reason::InUse => {
            let who = node.unwrap_or_else(|| "another node".to_owned());
            format!("the token was taken by {who}{ago}, whose join is not complete: that node may use it again; for this one {ISSUE}")
        }
        Reason::Other => "read the log of the contacted node's cluster agent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_refusal_is_told_by_its_text_and_then_by_its_status() {
        for (status, text, cause) in [
            (500, Some("Invalid token"), Cause::Token),
            (
                400,
                Some(
                    "The hostname (n2) of the joining node does not resolve to the IP \"10.99.0.12\". Refusing join",
                ),
                Cause::NameNotResolved,
            ),
            (
                500,
                Some(
                    "Failed to retrieve dqlite cluster nodes: the joining node (10.99.0.12) is already known to dqlite",
                ),
                Cause::AlreadyListed,
            ),
            (
                503,
                Some("The joining node has the same IP (10.99.0.11) as the node we contact"),
                Cause::SameAddress,
            ),
            (
                502,
                Some("The port of the cluster agent port has to be set to 25000"),
                Cause::Port,
            ),
            (
                403,
                Some(
                    "Not possible to join. The contacted node is a worker: ask a control plane node",
                ),
                Cause::Worker,
            ),
            (
                501,
                Some("Not possible to join. This is not an HA MicroK8s cluster"),
                Cause::NotHa,
            ),
            (
                500,
                Some("Failed to join the cluster. This is an HA MicroK8s cluster.\nPlease retry"),
                Cause::IsHa,
            ),
            (
                500,
                Some(
                    "Joining this MicroK8s cluster requires x509 authentication. update MicroK8s to version 1.28 or newer and retry the join operation",
                ),
                Cause::TooOld,
            ),
            (400, Some("Unexpected end of JSON input"), Cause::Request),
            (404, None, Cause::NoAgent),
            (201, None, Cause::NoAgent),
            (302, None, Cause::NoAgent),
            (503, None, Cause::Busy),
            (
                503,
                Some("Failed to use the token store of the cluster: try again in some seconds"),
                Cause::Store,
            ),
            (429, Some("too many"), Cause::Busy),
            (500, None, Cause::Fault),
            (500, Some("Failed reading cluster CA: open …"), Cause::Fault),
        ] {
            assert_eq!(Cause::of(status, text), cause, "{status} {text:?}");
        }
    }

    #[test]
    fn no_hint_holds_what_scripts_look_for() {
        for (_, cause) in PHRASES {
            for phrase in [
                "microk8s join ",
                ":25000/",
                "already known to dqlite",
                "acting as a node in a cluster",
            ] {
                assert!(!cause.advice().1.contains(phrase), "{cause:?}");
            }
        }
    }
}
