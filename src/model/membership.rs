//! Whether a node is in a cluster, by its own files.

use serde::Serialize;
use strum::Display;

/// Whether a node is in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Membership {
    /// Whether it is in one with other nodes, as far as it knows.
    pub(crate) member: bool,
    /// As what.
    pub(crate) role: OwnRole,
    /// The SHA-256 of the cluster's certificate authority, 64 hexadecimal digits; of a node that is not
    /// in a cluster, that of the cluster which others would join through it.
    pub(crate) cluster: Option<String>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum OwnRole {
    /// A control plane node.
    ControlPlane,
    /// A worker.
    Worker,
    /// Not in a cluster with other nodes.
    None,
}
