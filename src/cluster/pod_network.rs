//! The manifest of the pod network, once it has changed: Kubernetes has to be told of it.
//!
//! Its API server may be down just then, or this process may be killed before it is told. So a
//! mark stands beside the node's tokens from before the manifest changes until Kubernetes has
//! taken it; while it does, the agent tries again and again.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::{atomic_file, wait};
use crate::cluster::node::Node;
use crate::cluster::turn;
use crate::host::CommandError;

/// The mark, below our own state.
pub fn mark(node: &Node) -> PathBuf {
    node.layout.own_state().join("pod-network.changed")
}

/// How long the pause is between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells Kubernetes, again and again for at most `limit`, and takes the mark away.
///
/// # Errors
///
/// What it said last. The mark stays, and the agent tries on.
pub fn apply(node: &Node, limit: Duration) -> Result<(), CommandError> {
    let manifest = node.layout.cni_manifest();
    let mut last = Ok(());
    wait::until(limit, PAUSE, || {
        last = node.host.apply_manifest(&manifest);
        // A program that is not there will not come.
        (!matches!(last, Err(CommandError::Failed { .. }))).then_some(())
    });
    last?;
    if let Err(error) = atomic_file::remove(&mark(node)) {
        tracing::warn!(%error, "the manifest of the pod network will be applied once more");
    }
    Ok(())
}

/// Tells Kubernetes what it has not been told yet, once, unless the node is being changed right
/// now.
pub fn catch_up(node: &Node) {
    if !mark(node).exists() {
        return;
    }
    let Ok(_turn) = turn::take_now(node) else {
        return;
    };
    // The change that was under way may have been taken back, or have told it.
    if !mark(node).exists() {
        return;
    }
    match apply(node, Duration::ZERO) {
        Ok(()) => tracing::info!("the manifest of the pod network is applied"),
        Err(error) => tracing::debug!(%error, "the manifest of the pod network waits"),
    }
}
