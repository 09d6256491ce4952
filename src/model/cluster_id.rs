//! Which cluster a node is in: the one of its certificate authority.

use serde::{Deserialize, Serialize};

use crate::model::fingerprint::Fingerprint;

/// A cluster, known by the key of its certificate authority. A certificate that is renewed for the
/// same key is that of the same cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ClusterId(String);

impl ClusterId {
    /// The cluster whose authority has this public key, in DER.
    pub(crate) fn of_key(public_key: &[u8]) -> Self {
        Self(Fingerprint::of(public_key).to_string())
    }

    /// Its name in a table.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The cluster that a node is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CurrentCluster {
    /// Which one; nothing where the node cannot tell.
    pub(crate) id: Option<ClusterId>,
    /// The node is joining or leaving one, which may still be taken back.
    pub(crate) is_changing: bool,
}

impl CurrentCluster {
    /// Whether something of this cluster is of another one than the current. Nothing is, where one
    /// of both is not known.
    pub(crate) fn is_other_than(&self, cluster: Option<&ClusterId>) -> bool {
        self.id
            .as_ref()
            .zip(cluster)
            .is_some_and(|(current, other)| current != other)
    }
}
