//! A phase of one of MicroK8s's supervised upgrades, on this node: a script of the snap's.

use std::time::Duration;

use crate::cluster::node::Node;
use crate::platform::CommandError;
use crate::wire::cluster_v1::UpgradeRequest;

/// Why a phase was not gone through; the texts are those of MicroK8s's agent (recording
/// `http-upgrade`).
#[derive(Debug, thiserror::Error)]
#[error("Failed to run upgrade {upgrade:?} phase {phase:?}: {why}")]
pub(crate) struct UpgradeError {
    upgrade: String,
    phase: String,
    why: Box<Why>,
}

/// What went wrong in an upgrade.
#[derive(Debug, thiserror::Error)]
enum Why {
    /// No phase of that name.
    #[error("unknown upgrade phase {0:?}")]
    UnknownPhase(String),
    /// Not the name of a folder: a path leads anywhere.
    #[error("unknown upgrade {0:?}")]
    NoName(String),
    /// MicroK8s has no such upgrade, or not this phase of it.
    #[error("could not find script {0}")]
    NoScript(String),
    /// The script.
    #[error("failed to execute {script}: {:?}", .source.in_microk8s_words())]
    Failed {
        /// Which one.
        script: String,
        /// How it ended.
        #[source]
        source: CommandError,
    },
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
        why: Box::new(why),
    })
}

fn attempt(node: &Node, request: &UpgradeRequest, limit: Duration) -> Result<(), Why> {
    let name = match request.phase.as_str() {
        "prepare" => "prepare-node.sh",
        "commit" => "commit-node.sh",
        "rollback" => "rollback-node.sh",
        other => return Err(Why::UnknownPhase(other.to_owned())),
    };
    if !is_name(&request.upgrade) {
        return Err(Why::NoName(request.upgrade.clone()));
    }
    let script = node.layout.upgrade_scripts(&request.upgrade).join(name);
    let shown = script.display().to_string();
    if !script.is_file() {
        return Err(Why::NoScript(shown));
    }
    node.platform
        .run_script(&script, limit)
        .map_err(|source| Why::Failed {
            script: shown,
            source,
        })
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
