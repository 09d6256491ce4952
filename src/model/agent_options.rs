//! What the agent's command line chooses, and other layers act on.

use clap::ValueEnum;

/// From where callbacks are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CallbackFrom {
    /// The node itself and control plane nodes
    #[default]
    Cluster,
    /// All, as in MicroK8s
    Any,
}

/// Where tokens are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenStoreChoice {
    /// In the cluster's API when it has several control planes, on this node otherwise
    #[default]
    Auto,
    /// On this node, which is then the only one that accepts them
    Local,
    /// In the cluster's API: every control plane accepts them
    Cluster,
}
