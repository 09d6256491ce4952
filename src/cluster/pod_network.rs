//! The manifest of the pod network, once it has changed: Kubernetes has to be told of it.
//!
//! Its API server may be down just then, or this process may be killed before it is told. So a
//! mark stands beside the node's tokens from before the manifest changes until Kubernetes has
//! taken it; while it does, the agent tries again and again.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use crate::base::mutex::lock;
use crate::base::{atomic_file, wait};
use crate::cluster::node::Node;
use crate::cluster::node_lock;
use crate::platform::CommandError;

/// The mark, below our own state.
pub(crate) fn mark(node: &Node) -> PathBuf {
    node.layout.own_state().join("pod-network.changed")
}

/// How long the pause is between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether the API server is ready, which takes this long at most.
const READY_LIMIT: Duration = Duration::from_secs(7);

/// Tells Kubernetes, and takes the mark away. Waits for an API server that is not ready, for at most
/// `limit`; a manifest that a ready one refuses is not worth waiting for.
///
/// # Errors
///
/// What kubectl said last. The mark stays, and the agent tries on.
pub(crate) fn apply(node: &Node, limit: Duration) -> Result<(), CommandError> {
    let manifest = node.layout.cni_manifest();
    let mut was_ready = false;
    let mut last = Ok(());
    wait::until(limit, PAUSE, || {
        last = node.platform.apply_manifest(&manifest);
        // A program that is not there will not come.
        let Err(CommandError::Failed { .. }) = &last else {
            return Some(());
        };
        if was_ready {
            return Some(());
        }
        was_ready = !limit.is_zero() && is_ready(node);
        None
    });
    last?;
    if let Err(error) = atomic_file::remove(&mark(node)) {
        tracing::warn!(%error, "the manifest of the pod network will be applied once more");
    }
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let question = ["get", "--raw=/readyz", "--request-timeout=5s"];
    node.platform.kubectl_within(READY_LIMIT, &question).is_ok()
}

/// Why it could not be told the last time.
static LAST_LOGGED: Mutex<String> = Mutex::new(String::new());

/// Tells Kubernetes what it has not been told yet, once. The node can be changed meanwhile: the mark
/// goes only where the manifest is still the one that Kubernetes took.
pub(crate) fn catch_up(node: &Node) {
    // A worker has no manifest of its own; what it had when it was alone waits for its leave.
    if !mark(node).exists() || node.is_worker() {
        return;
    }
    // A change that is under way tells Kubernetes itself, or is taken back.
    if node_lock::check(node).is_err() {
        return;
    }
    let manifest = node.layout.cni_manifest();
    let told = std::fs::read(&manifest).ok();
    if let Err(error) = node.platform.apply_manifest(&manifest) {
        let text = error.to_string();
        let mut last_logged = lock(&LAST_LOGGED);
        // Once for each reason, not at every try.
        if *last_logged != text {
            tracing::warn!(%error, "the manifest of the pod network is not applied yet; the agent tries again");
            *last_logged = text;
        }
        return;
    }
    let Ok(_turn) = node_lock::take_now(node) else {
        return;
    };
    if std::fs::read(&manifest).ok() != told {
        return;
    }
    match atomic_file::remove(&mark(node)) {
        Ok(()) => tracing::info!("the manifest of the pod network is applied"),
        Err(error) => {
            tracing::warn!(%error, "the manifest of the pod network will be applied once more");
        }
    }
}
