//! What a node does in the cluster.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

/// The role that a node joins in.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Display, IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum Role {
    /// Runs the API server and takes part in the datastore.
    ControlPlane,
    /// Runs workloads only.
    Worker,
}
