//! What a node does in the cluster.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The role that a node joins in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the API server and takes part in the datastore.
    ControlPlane,
    /// Runs workloads only.
    Worker,
}

impl Role {
    /// The role in a word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
