//! The text files of a fresh node, which are below `assets/fresh-node`.
//!
//! Where the recording `fresh-node.json` holds a file's content, this is that content, but for the
//! manifest of the pod network: there the recording is not complete, and no kubectl takes it. Files
//! that it names by their size alone belong to the container runtime and to git; a standalone
//! node runs neither, and gets short ones of our own.

/// A file below `assets/fresh-node`, by its path below `$SNAP_DATA`.
macro_rules! asset {
    ($path:literal) => {
        (
            $path,
            include_str!(concat!("../../../assets/fresh-node/", $path)),
        )
    };
}

/// Path below `$SNAP_DATA` and content, in the order of the recording; all mode 0644.
pub(super) const TEXT_FILES: &[(&str, &str)] = &[
    asset!("args/admission-control-config-file.yaml"),
    asset!("args/apiserver-proxy"),
    asset!("args/certs.d/docker.io/hosts.toml"),
    asset!("args/certs.d/localhost__32000/hosts.toml"),
    asset!("args/cni-env"),
    asset!("args/cni-network/cni.yaml"),
    asset!("args/cni-network/flannel.conflist"),
    asset!("args/containerd"),
    asset!("args/containerd-env"),
    asset!("args/containerd-template.toml"),
    asset!("args/ctr"),
    asset!("args/etcd"),
    asset!("args/eventconfig.yaml"),
    asset!("args/flannel-network-mgr-config"),
    asset!("args/flannel-template.conflist"),
    asset!("args/flanneld"),
    asset!("args/git/.gitconfig"),
    asset!("args/ha-conf"),
    asset!("args/k8s-dqlite"),
    asset!("args/k8s-dqlite-env"),
    asset!("args/kube-apiserver"),
    asset!("args/kube-controller-manager"),
    asset!("args/kube-proxy"),
    asset!("args/kube-scheduler"),
    asset!("args/kubectl"),
    asset!("args/kubectl-env"),
    asset!("args/kubelet"),
    asset!("args/kubelite"),
    asset!("args/traefik/provider-template.yaml"),
    asset!("args/traefik/traefik-template.yaml"),
    asset!("certs/csr.conf.template"),
];

/// The template of the API server's certificate request.
pub(super) const SERVER_REQUEST: &str = asset!("certs/csr.conf.template").1;

/// Folders below `$SNAP_DATA` and their modes.
pub(super) const FOLDERS: &[(&str, u32)] = &[
    ("args", 0o755),
    ("args/certs.d", 0o755),
    ("args/certs.d/docker.io", 0o755),
    ("args/certs.d/localhost__32000", 0o755),
    ("args/cni-network", 0o755),
    ("args/git", 0o755),
    ("args/traefik", 0o755),
    ("certs", 0o755),
    ("credentials", 0o755),
    ("var", 0o755),
    ("var/kubernetes", 0o755),
    ("var/kubernetes/backend", 0o750),
    ("var/lock", 0o755),
    ("var/tmp", 0o755),
];

/// Lock files of a node that runs its own control plane; empty, mode 0644.
pub(super) const LOCKS: &[&str] = &[
    "var/lock/ha-cluster",
    "var/lock/installed.lock",
    "var/lock/lite.lock",
    "var/lock/no-apiserver-proxy",
    "var/lock/no-etcd",
    "var/lock/no-flanneld",
];

/// The datastore's certificate was made by this: path and content, in which `HOSTNAME` stands for the
/// node's name.
pub(super) const DATASTORE_REQUEST: (&str, &str) = asset!("var/tmp/csr-dqlite.conf");
