//! Texts that several commands share, or that MicroK8s prints before a command begins.

use crate::model::join_url::InvalidJoinUrl;

/// Only members of the group may use the node (recording `add-node-no-kubeconfig`).
pub(crate) fn no_permission(user: &str, group: &str) -> String {
    format!(
        "Insufficient permissions to access MicroK8s.\n\
         You can either try again with sudo or add the user {user} to the '{group}' group:\n\
         \n    sudo usermod -a -G {group} {user}\n    sudo chown -R {user} ~/.kube\n\
         \nAfter this, reload the user groups either via a reboot or by running 'newgrp {group}'."
    )
}

/// Recording `add-node-clustered-lock`.
pub(crate) const ADD_NODE_ON_WORKER: &str = "This MicroK8s deployment is acting as a node in a cluster. Please use the microk8s add-node on the master.\n";

/// Recording `add-node-stopped-lock`.
pub(crate) const NOT_RUNNING: &str = "microk8s is not running, try microk8s start";

/// Recording `leave-not-in-cluster`.
pub(crate) const NOT_IN_CLUSTER: &str =
    "This MicroK8s deployment is not acting as a node in a cluster.\n";

/// Recording `remove-node-on-worker`.
pub(crate) const REMOVE_NODE_ON_WORKER: &str =
    "This MicroK8s deployment is acting as a node in a cluster. Please use microk8s leave.\n";

/// Recording `join-hostpath-warning`.
pub(crate) const HOSTPATH_WARNING: &str =
    "WARNING: Hostpath storage is enabled and is not suitable for multi node clusters.\n\n";

/// Recording `add-node-ca-127`.
pub(crate) fn old_ca(strict: bool) -> String {
    let classic = if strict { "" } else { " --classic" };
    format!(
        "Clustering requires a fresh MicroK8s installation. Reinstall with:\nsudo snap remove microk8s\nsudo snap install microk8s{classic}\n"
    )
}

/// What to do when a connection string is not understood.
pub(crate) const CONNECTION_HINT: &str =
    "take the string that `microk8s add-node` prints on a node of the cluster";

/// What was typed is no connection string (recordings `join-malformed-*`).
pub(crate) fn invalid_connection(error: InvalidJoinUrl) -> String {
    format!("Invalid connection: {error}")
}

/// A control plane node needs more memory (recording `join-guard`).
pub(crate) fn low_memory_guard(connection: &str) -> String {
    format!(
        "\nThis node does not have enough RAM to host the Kubernetes control plane services\n\
         and join the database quorum. You may consider joining this node as a worker instead:\n\
         \n    microk8s join {connection} --worker\n\
         \nIf you would still like to join the cluster as a control plane node, use:\n\
         \n    microk8s join {connection} --disable-low-memory-guard\n\n\n"
    )
}

/// The commands of MicroK8s's snap that this program passes to it.
pub(crate) const SNAP_COMMANDS: [&str; 22] = [
    "addons",
    "cilium",
    "config",
    "ctr",
    "dashboard-proxy",
    "dbctl",
    "disable",
    "enable",
    "helm",
    "helm3",
    "images",
    "inspect",
    "istioctl",
    "kubectl",
    "linkerd",
    "refresh-certs",
    "reset",
    "start",
    "status",
    "stop",
    "upgrade",
    "version",
];

/// What stands below the program's help where the snap is installed.
pub(crate) fn snap_commands() -> String {
    let mut text = "\nCommands of MicroK8s:\n".to_owned();
    for row in SNAP_COMMANDS.chunks(8) {
        text += &format!("  {}\n", row.join(", "));
    }
    text
}

/// No command, add-on or plugin has this name.
pub(crate) fn unknown_subcommand(name: &str) -> String {
    format!("'{name}' is not a valid MicroK8s subcommand.\n")
}
