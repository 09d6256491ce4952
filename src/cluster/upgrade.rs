//! A phase of one of MicroK8s's supervised upgrades, on this node: a script of the snap's.

use std::time::Duration;

use crate::cluster::node::Node;
use crate::wire::cluster_v1::UpgradeRequest;

/// Why a phase was not gone through; the texts are those of MicroK8s's agent (recording
/// `http-upgrade`).
#[derive(Debug, thiserror::Error)]
#[error("Failed to run upgrade {upgrade:?} phase {phase:?}: {why}")]
pub(crate) struct UpgradeError {
    upgrade: String,
    phase: String,
    why: String,
}

/// Goes through one phase. Its script may take `limit`, and is ended then.
pub(crate) fn run(
    node: &Node,
    request: &UpgradeRequest,
    limit: Duration,
) -> Result<(), UpgradeError> {
    attempt(node, request, limit).map_err(|why| UpgradeError {
        upgrade: request.upgrade.clone(),
        phase: request.phase.clone(),
        why,
    })
}

fn attempt(node: &Node, request: &UpgradeRequest, limit: Duration) -> Result<(), String> {
    let name = match request.phase.as_str() {
        "prepare" => "prepare-node.sh",
        "commit" => "commit-node.sh",
        "rollback" => "rollback-node.sh",
        other => return Err(format!("unknown upgrade phase {other:?}")),
    };
    if !is_name(&request.upgrade) {
        return Err(format!("unknown upgrade {:?}", request.upgrade));
    }
    let script = node.layout.upgrade_scripts(&request.upgrade).join(name);
    let shown = script.display();
    if !script.is_file() {
        return Err(format!("could not find script {shown}"));
    }
    node.platform
        .run_script(&script, limit)
        .map_err(|error| format!("failed to execute {shown}: {:?}", error.in_microk8s_words()))
}

/// The name of a folder beside the others, and no way out of there.
fn is_name(upgrade: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !upgrade.is_empty() && !upgrade.starts_with('.') && upgrade.chars().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_a_name_and_no_path() {
        for name in ["000-switch-to-calico", "no-such-upgrade", "x_1.2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "../x", "/x", "x/y", "x\0", "x y", ".hidden"] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
