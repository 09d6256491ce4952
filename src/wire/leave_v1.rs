//! Leaving a cluster and removing nodes from one: the command line and the node's own agent, over
//! its socket. Part of version 1 of the local API.

use serde::{Deserialize, Serialize};

use crate::model::role::Role;
use crate::wire::operation::Failure;

/// `POST /local/v1/leave`, answered by a line of JSON for each [`LeaveEvent`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaveOrder {
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What happens while a node leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum LeaveEvent {
    /// The services of a worker become those of a node on its own.
    Configuring,
    /// The certificates of the cluster are replaced.
    Certificates,
    /// The node's own API server is waited for.
    Waiting,
    /// It does not answer yet.
    NotUp,
    /// The waiting is over.
    WaitingDone,
    /// What a program said on its standard error when it failed.
    Said {
        /// One line of it, or more.
        text: String,
    },
    /// Something to know that stops nothing.
    Warning {
        /// The warning.
        message: String,
    },
    /// What would be done, in order; nothing was.
    Would {
        /// What the node is in the cluster.
        role: Role,
        /// One line a step.
        steps: Vec<String>,
    },
    /// The node has left.
    Left {
        /// What it was in the cluster.
        role: Role,
    },
    /// The leave failed, and the node is as it was.
    Failed(Failure),
}

impl LeaveEvent {
    /// Whether nothing comes after it.
    pub const fn is_last(&self) -> bool {
        matches!(
            self,
            Self::Would { .. } | Self::Left { .. } | Self::Failed(_)
        )
    }
}

/// `POST /local/v1/remove-node`, answered by a line of JSON for each [`RemoveEvent`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoveOrder {
    /// The node's name or address, as it was typed.
    pub node: String,
    /// Remove it although the datastore lists it, or although Kubernetes does not know it.
    pub force: bool,
}

/// What happens while a node is removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RemoveEvent {
    /// Kubernetes has no such node; it is looked for elsewhere.
    NotInKubernetes {
        /// The node, as it was typed.
        node: String,
    },
    /// The datastore lists it.
    InDatastore,
    /// What a program said on its standard error when it failed.
    Said {
        /// One line of it, or more.
        text: String,
    },
    /// Something to know that stops nothing.
    Warning {
        /// The warning.
        message: String,
    },
    /// The node is gone, or there was none.
    Removed,
    /// The node was not removed.
    Failed(Failure),
}

impl RemoveEvent {
    /// Whether nothing comes after it.
    pub const fn is_last(&self) -> bool {
        matches!(self, Self::Removed | Self::Failed(_))
    }
}
