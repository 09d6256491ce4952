//! The environment variables that the program reads.

use std::path::PathBuf;

/// The snap's read-only files; set by snapd inside the snap.
pub(crate) const SNAP: &str = "SNAP";
/// The snap's data of this revision: MicroK8s's node directory.
pub(crate) const SNAP_DATA: &str = "SNAP_DATA";
/// The snap's data that all revisions share.
pub(crate) const SNAP_COMMON: &str = "SNAP_COMMON";
/// The revision of the snap, as its directories are called.
pub(crate) const SNAP_REVISION: &str = "SNAP_REVISION";
/// Where the agent's socket is, when it is not in its usual place.
pub const MICROK8S_SOCKET: &str = "MICROK8S_SOCKET";
/// The node directory of a standalone node, as `--node-dir` gives it.
pub const MICROK8S_NODE_DIR: &str = "MICROK8S_NODE_DIR";
/// The user's directory for sockets.
pub(crate) const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// The name of the user who runs the program.
pub(crate) const USER: &str = "USER";
/// What the agent logs, in the syntax of `tracing-subscriber`'s filters.
pub const MICROK8S_LOG: &str = "MICROK8S_LOG";
/// The socket of the service manager that started the program (`sd_notify(3)`).
pub(crate) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// After how many microseconds without a sign of life the service manager takes the program for
/// dead (`sd_watchdog_enabled(3)`).
pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
/// The process from which the service manager expects signs of life.
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// The device and the inode of the journal's stream, where a service manager has connected the
/// program to one (systemd.exec(5)).
pub(crate) const JOURNAL_STREAM: &str = "JOURNAL_STREAM";
/// What is between this process and its service manager alone; no program that is started gets it.
pub(crate) const OF_SERVICE_MANAGER: [&str; 3] = [NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID];
/// The API server that `dev-cluster --kubernetes` runs.
pub(crate) const KUBE_APISERVER: &str = "KUBE_APISERVER";
/// How many times in a row a subcommand was handed over to the snap's own `microk8s`; the program
/// sets it itself, so that a command which leads back here is noticed.
pub(crate) const MICROK8S_HANDED_OVER: &str = "MICROK8S_HANDED_OVER";

/// The variable's value as a path; an empty one counts as not set.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
