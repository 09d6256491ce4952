//! What can be checked on the joining node alone.

use std::path::{Path, PathBuf};

use crate::base::disk;
use crate::base::exit_status::ExitStatus;
use crate::cluster::fresh_node::client_certificates;
use crate::cluster::identity::NodeKey;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::{is_guarded, role_here};
use crate::cluster::node::Node;
use crate::cluster::node_lock;
use crate::cluster::transaction;
use crate::model::endpoint;
use crate::model::join_stage::JoinStage;
use crate::model::node::NodeName;
use crate::model::role::Role;
use crate::store::layout::Lock;
use crate::wire::operation::JoinOrder;
use crate::wire::preflight_v1::Finding;
use crate::wire::preflight_v1::Machine::JoiningNode;

use super::{failed, told};

/// A check of this node alone, by its name: nothing where there is nothing to check.
type Check = (
    &'static str,
    fn(&Node, &JoinOrder) -> Result<Option<Finding>, JoinError>,
);

const DISK: &str = "disk";
const NODE_FILES: &str = "node-files";
const NODE_IP: &str = "node-ip";

/// The checks of a join and of its dry run, in the order in which a join would fail.
pub(super) const CHECKS: [Check; 3] = [
    (DISK, check_disk),
    (NODE_FILES, check_node),
    (NODE_IP, check_address),
];

/// How much room the changes of a join take at least, with what undoes them, in bytes.
const ROOM: u64 = 64 << 10;

pub(crate) fn check(node: &Node, order: &JoinOrder, tell: &mut dyn FnMut(Finding)) {
    for url in &order.urls {
        let fingerprint = match url.fingerprint {
            Some(_) => "with a fingerprint",
            None => "without a fingerprint",
        };
        let message = format!("leads to {}, {fingerprint}", url.endpoint());
        tell(Finding::ok("connection-string", message));
    }
    tell(memory_guard(node, order));
    for (name, check) in CHECKS {
        if let Some(checked) = check(node, order).transpose() {
            tell(told(name, checked, JoinStage::Preflight));
        }
        if name == DISK {
            tell(unfinished_change(node));
        }
    }
    tell(hostpath_storage(node));
}

fn memory_guard(node: &Node, order: &JoinOrder) -> Finding {
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
    if let Err(error) = node_lock::check(node) {
        return failed(CHECK, &error.into(), JoinStage::Preflight);
    }
    if transaction::is_open(&node.layout) {
        let message = "an earlier join or leave of this node was interrupted; what is checked here may change when that is seen to";
        return Finding::warning(CHECK, message).with_remedy(
            JoiningNode,
            "restart the agent, or run the join: either undoes or completes what was interrupted",
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

/// Makes sure that the files which a join changes can be changed.
pub(super) fn check_disk(node: &Node, order: &JoinOrder) -> Result<Option<Finding>, JoinError> {
    let layout = &node.layout;
    let unwritable = |path: &PathBuf| {
        let path = path.clone();
        move |source| JoinError::Unwritable { path, source }
    };
    let mut folders = vec![layout.data().to_owned()];
    folders.extend(["args", "certs", "credentials"].map(|name| layout.data().join(name)));
    let locks = layout.lock(Lock::NoCertReissue);
    folders.extend(locks.parent().map(Path::to_owned));
    folders.push(layout.own_state());
    for folder in folders.iter().filter(|path| path.is_dir()) {
        disk::check_folder(folder).map_err(unwritable(folder))?;
        disk::check_room(folder, ROOM).map_err(unwritable(folder))?;
    }
    for file in changed_files(node, role_here(node, order.role)) {
        disk::check_file(&file).map_err(unwritable(&file))?;
    }
    let message = "the files of this node can be changed";
    Ok(Some(Finding::ok(DISK, message)))
}

/// Files that a join in this role replaces, where they are there.
fn changed_files(node: &Node, role: Role) -> Vec<PathBuf> {
    let layout = &node.layout;
    let mut files: Vec<_> = ["kubelet", "kube-proxy", "kube-apiserver"]
        .map(|service| layout.args(service))
        .into();
    let (certs, credentials): (&[&str], &[&str]) = match role {
        Role::Worker => {
            files.push(layout.args("traefik/provider.yaml"));
            (
                &["ca.remote.crt", "kubelet.crt", "proxy.crt"],
                &["kubelet.config", "proxy.config"],
            )
        }
        Role::ControlPlane => (
            &[
                "ca.crt",
                "ca.key",
                "serviceaccount.key",
                "server.crt",
                "kubelet.crt",
            ],
            &["client.config", "kubelet.config", "proxy.config"],
        ),
    };
    files.extend(certs.iter().map(|name| layout.cert(name)));
    files.extend(credentials.iter().map(|name| layout.credential(name)));
    files
}

/// Makes sure that what the join reads and changes can be read and changed, before the contacted
/// node is asked for anything: a request may use its token up.
fn check_node(node: &Node, order: &JoinOrder) -> Result<Option<Finding>, JoinError> {
    let role = role_here(node, order.role);
    if role == Role::ControlPlane && !node.platform.has_datastore() {
        return Err(JoinError::NoDatastore);
    }
    for service in ["kube-apiserver", "kube-proxy", "kubelet"] {
        node.arguments(service)?;
    }
    if role == Role::Worker && node.layout.has(Lock::HaCluster) {
        let template = |name| node.layout.args("traefik").join(name);
        node.layout.read(&template("traefik-template.yaml"))?;
        node.layout.read(&template("provider-template.yaml"))?;
    }
    // Keys that the node has stay, and get certificates of the cluster.
    let keys = match role {
        Role::ControlPlane => client_certificates("", &[])
            .into_iter()
            .map(|certificate| certificate.file)
            .collect(),
        Role::Worker if node.layout.has(Lock::HaCluster) => vec!["kubelet", "proxy"],
        Role::Worker => vec!["kubelet", "proxy", "server"],
    };
    for key in keys {
        NodeKey::read(node, key)?;
    }
    NodeName::of_new_node(&node.name().map_err(JoinError::Machine)?)?;
    let message = format!("what a join as a {role} needs is there");
    Ok(Some(Finding::ok(NODE_FILES, message)))
}

/// A kubelet does not start with an address that is none of its machine's, or that no other
/// machine can reach.
fn check_address(node: &Node, order: &JoinOrder) -> Result<Option<Finding>, JoinError> {
    let Some(address) = order.node_ip else {
        return Ok(None);
    };
    let interfaces = node.platform.interfaces().map_err(JoinError::Machine)?;
    if !interfaces.iter().any(|own| own.address == address) {
        return Err(JoinError::NotOwnAddress(address));
    }
    if address.is_loopback() || endpoint::is_link_local(address) {
        return Err(JoinError::UnreachableAddress(address));
    }
    let message = format!("{address} is an address of this machine");
    Ok(Some(Finding::ok(NODE_IP, message)))
}
