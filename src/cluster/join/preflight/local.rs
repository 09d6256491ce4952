//! What can be checked on the joining node alone.

use crate::base::exit_status::ExitStatus;
use crate::cluster::join::{check_address, check_node, is_guarded, role_here};
use crate::cluster::journal;
use crate::cluster::node::Node;
use crate::cluster::turn;
use crate::model::join_stage::JoinStage;
use crate::wire::preflight_v1::Machine::JoiningNode;
use crate::wire::preflight_v1::{CheckOrder, Finding};

use super::failed;

pub fn check(node: &Node, order: &CheckOrder, tell: &mut dyn FnMut(Finding)) {
    if let Some(url) = &order.url {
        let fingerprint = match url.fingerprint {
            Some(_) => "with a fingerprint",
            None => "without a fingerprint",
        };
        let message = format!("leads to {}, {fingerprint}", url.endpoint());
        tell(Finding::ok("connection-string", message));
    }
    tell(memory_guard(node, order));
    tell(unfinished_change(node));
    let role = role_here(node, order.role);
    tell(match check_node(node, role) {
        Ok(()) => Finding::ok(
            "node-files",
            format!("what a join as a {role} needs is there"),
        ),
        Err(error) => failed("node-files", &error, JoinStage::Preflight),
    });
    if let Some(address) = order.node_ip {
        tell(match check_address(node, order.node_ip) {
            Ok(()) => Finding::ok(
                "node-ip",
                format!("{address} is an address of this machine"),
            ),
            Err(error) => failed("node-ip", &error, JoinStage::Preflight),
        });
    }
    tell(hostpath_storage(node));
}

fn memory_guard(node: &Node, order: &CheckOrder) -> Finding {
    const CHECK: &str = "memory-guard";
    if !is_guarded(node, order.role, order.disable_low_memory_guard) {
        return Finding::ok(
            CHECK,
            "this node may join in this role with the memory it has",
        );
    }
    let message = "this node does not have enough RAM to host the Kubernetes control plane services and join the database quorum";
    Finding::error(CHECK, message, ExitStatus::Failure.code()).with_remedy(
        JoiningNode,
        "join with `--worker`, or with `--disable-low-memory-guard`",
    )
}

/// A join or leave that is under way, or that was interrupted.
fn unfinished_change(node: &Node) -> Finding {
    const CHECK: &str = "unfinished-change";
    if let Err(error) = turn::look(node) {
        return failed(CHECK, &error.into(), JoinStage::Preflight);
    }
    if journal::is_open(&node.layout) {
        let message = "an earlier join or leave of this node was interrupted; what is checked here may change when that is seen to";
        return Finding::warning(CHECK, message).with_remedy(
            JoiningNode,
            "restart the agent, or go on with the join: either takes back, or completes, what was interrupted",
        );
    }
    Finding::ok(CHECK, "no other join or leave of this node is under way")
}

fn hostpath_storage(node: &Node) -> Finding {
    const CHECK: &str = "hostpath-storage";
    if !node.layout.hostpath_storage().is_dir() {
        return Finding::ok(CHECK, "hostpath storage is not enabled here");
    }
    let message = "hostpath storage is enabled and is not suitable for multi node clusters";
    Finding::warning(CHECK, message).with_remedy(
        JoiningNode,
        "move what it holds to storage that all nodes share, then run `microk8s disable hostpath-storage`",
    )
}
