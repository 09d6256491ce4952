//! Where everything of a node lies: MicroK8s's own layout, and our state beside it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strum::IntoStaticStr;

use crate::base::env_vars;
use crate::base::secret::Secret;
use crate::store::file_cache::FileCache;
use crate::store::revision::{NotCurrent, Revision};

/// A node directory. The paths are MicroK8s's (recording `fresh-node.json`).
#[derive(Debug, Clone)]
pub struct Layout {
    snap: PathBuf,
    data: PathBuf,
    common: PathBuf,
    kind: Kind,
    revision: Option<Revision>,
    files: FileCache,
}

/// Whose node it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// MicroK8s's snap, or a directory laid out like it.
    Snap,
    /// Our own: no MicroK8s on this machine.
    Standalone,
}

/// No node directory can be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoNode {
    /// There is no place for one.
    #[error("no MicroK8s node on this machine, and no home directory to make one in")]
    NoHome,
    /// snapd has taken its link away, and makes it anew when it is done.
    #[error(
        "`{SNAP_DATA_DIR}` is not there: MicroK8s is being refreshed, or was removed in part; try again, or name a node directory with MICROK8S_NODE_DIR"
    )]
    NoRevision,
}

/// MicroK8s's places on a machine.
const SNAP_DIR: &str = "/snap/microk8s/current";
const SNAP_DATA_DIR: &str = "/var/snap/microk8s/current";
const SNAP_COMMON_DIR: &str = "/var/snap/microk8s/common";
/// The standalone node that the Debian package's units run; the package makes the directory.
const PACKAGE_DIR: &str = "/var/lib/microk8s";

/// Lock files below `var/lock` (recordings `fresh-node.json`, `*-stopped*`, `*-not-ha`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Lock {
    /// The node runs the control plane on dqlite.
    HaCluster,
    /// All of Kubernetes runs in one service, kubelite.
    #[strum(serialize = "lite.lock")]
    Lite,
    /// The node is a worker.
    #[strum(serialize = "clustered.lock")]
    Clustered,
    /// The node was stopped by `microk8s stop`.
    #[strum(serialize = "stopped.lock")]
    Stopped,
    /// Certificates are not re-issued when addresses change.
    NoCertReissue,
    /// The datastore service does not run here.
    #[strum(serialize = "no-k8s-dqlite")]
    NoK8sDqlite,
    /// The API server proxy does not run here.
    NoApiserverProxy,
    /// A join is under way.
    JoinInProgress,
    /// The node has little memory.
    #[strum(serialize = "low-memory-guard.lock")]
    LowMemoryGuard,
    /// Files are not shared with the group.
    CisHardening,
}

impl Layout {
    /// The node directory of a snap in these three places.
    pub fn new(
        snap: impl Into<PathBuf>,
        data: impl Into<PathBuf>,
        common: impl Into<PathBuf>,
    ) -> Self {
        Self {
            snap: snap.into(),
            data: data.into(),
            common: common.into(),
            kind: Kind::Snap,
            revision: None,
            files: FileCache::default(),
        }
    }

    /// The same node in the directory of another revision, current or not.
    pub(crate) fn at(&self, data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            revision: None,
            ..self.clone()
        }
    }

    /// A standalone node below `root`: `current` and `common`, as below `/var/snap/microk8s`.
    pub fn standalone(root: &Path) -> Self {
        Self {
            kind: Kind::Standalone,
            ..Self::new(SNAP_DIR, root.join("current"), root.join("common"))
        }
    }

    /// The node of this machine: `node_dir` where given, else the snap's by its variables or in
    /// its usual place, else that of the Debian package, else a standalone one below the user's data
    /// directory.
    pub(crate) fn find(node_dir: Option<&Path>) -> Result<Self, NoNode> {
        if let Some(root) = node_dir {
            return Ok(Self::standalone(root));
        }
        let data = env_vars::path(env_vars::SNAP_DATA);
        if let Some(root) = env_vars::path(env_vars::MICROK8S_NODE_DIR).filter(|_| data.is_none()) {
            return Ok(Self::standalone(&root));
        }
        if data.is_some() || Path::new(SNAP_DATA_DIR).is_dir() {
            let or = |name, default: &str| {
                env_vars::path(name).unwrap_or_else(|| PathBuf::from(default))
            };
            let data = data.unwrap_or_else(|| PathBuf::from(SNAP_DATA_DIR));
            // Links that are changed while this runs do not lead it into two directories.
            let revision = Revision::of(&data);
            return Ok(Self {
                revision: revision.clone(),
                ..Self::new(
                    or(env_vars::SNAP, SNAP_DIR),
                    revision.map_or(data, |revision| revision.directory().to_owned()),
                    or(env_vars::SNAP_COMMON, SNAP_COMMON_DIR),
                )
            });
        }
        if Path::new(SNAP_COMMON_DIR).is_dir() {
            return Err(NoNode::NoRevision);
        }
        if Path::new(PACKAGE_DIR).is_dir() {
            return Ok(Self::standalone(Path::new(PACKAGE_DIR)));
        }
        dirs::data_dir()
            .map(|home| Self::standalone(&home.join("microk8s")))
            .ok_or(NoNode::NoHome)
    }

    /// The revision of the snap that the directory belongs to, where it is one's.
    pub(crate) fn revision(&self) -> Option<&Revision> {
        self.revision.as_ref()
    }

    /// Looks whether the directory still is the node's.
    pub(crate) fn check_current(&self) -> Result<(), NotCurrent> {
        self.revision.as_ref().map_or(Ok(()), Revision::check)
    }

    /// Whose node it is.
    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is the standalone node that the Debian package's units run.
    pub(crate) fn is_packages(&self) -> bool {
        self.kind == Kind::Standalone && self.data.parent() == Some(Path::new(PACKAGE_DIR))
    }

    /// `$SNAP`: the snap's programs.
    pub(crate) fn snap(&self) -> &Path {
        &self.snap
    }

    /// `$SNAP_DATA`.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// `$SNAP_COMMON`.
    pub(crate) fn common(&self) -> &Path {
        &self.common
    }

    /// Whether there is a node directory at all.
    pub(crate) fn exists(&self) -> bool {
        self.args("cluster-agent").is_file() || self.cert("ca.crt").is_file()
    }

    /// The arguments of a service.
    pub(crate) fn args(&self, service: &str) -> PathBuf {
        self.data.join("args").join(service)
    }

    /// A file below `certs`.
    pub(crate) fn cert(&self, name: &str) -> PathBuf {
        self.data.join("certs").join(name)
    }

    /// A file below `credentials`.
    pub fn credential(&self, name: &str) -> PathBuf {
        self.data.join("credentials").join(name)
    }

    /// The phases of one of MicroK8s's supervised upgrades, as scripts.
    pub(crate) fn upgrade_scripts(&self, upgrade: &str) -> PathBuf {
        self.snap.join("upgrade-scripts").join(upgrade)
    }

    /// The folder of the datastore.
    pub(crate) fn backend(&self) -> PathBuf {
        self.data.join("var/kubernetes/backend")
    }

    /// Where the datastore's folder goes when the node joins another cluster.
    pub(crate) fn backend_backup(&self) -> PathBuf {
        self.data.join("var/kubernetes/backend.backup")
    }

    /// Where the folder of a new datastore is made ready, until it takes the place of the other.
    pub(crate) fn backend_next(&self) -> PathBuf {
        self.data.join("var/kubernetes/backend.next")
    }

    /// The manifest of the pod network.
    pub(crate) fn cni_manifest(&self) -> PathBuf {
        self.args("cni-network/cni.yaml")
    }

    /// The folder whose existence means that hostpath storage is enabled.
    pub(crate) fn hostpath_storage(&self) -> PathBuf {
        self.common.join("default-storage")
    }

    /// A lock file.
    pub(crate) fn lock(&self, lock: Lock) -> PathBuf {
        self.data.join("var/lock").join(<&str>::from(lock))
    }

    /// Whether a lock file is there.
    pub(crate) fn has(&self, lock: Lock) -> bool {
        self.lock(lock).exists()
    }

    /// The launch configurations that the agent applies.
    pub(crate) fn launch_configurations(&self) -> PathBuf {
        self.common.join("etc/launcher")
    }

    /// Our own state; mode 0700.
    pub(crate) fn own_state(&self) -> PathBuf {
        self.data.join("var/cluster-agent")
    }

    /// One agent a node directory.
    pub(crate) fn agent_lock(&self) -> PathBuf {
        self.own_state().join("agent.lock")
    }

    /// The tokens of the node's agent, and the nodes that it admitted.
    pub(crate) fn token_database(&self) -> PathBuf {
        self.own_state().join("tokens.redb")
    }

    /// How many changes the token database has had. It lies where no copy of the node directory, and
    /// no return to an older revision of the snap, takes it back.
    pub(crate) fn token_counter(&self) -> PathBuf {
        self.common.join("cluster-agent/tokens.counter")
    }

    /// The agent's socket.
    pub(crate) fn socket(&self, given: Option<&Path>) -> PathBuf {
        if let Some(path) = given {
            return path.to_owned();
        }
        if let Some(path) = env_vars::path(env_vars::MICROK8S_SOCKET) {
            return path;
        }
        let below_home = || dirs::data_dir().is_some_and(|home| self.data.starts_with(home));
        if self.kind == Kind::Standalone
            && let Some(runtime) = env_vars::path(env_vars::XDG_RUNTIME_DIR)
            && below_home()
        {
            return runtime.join("microk8s/cluster-agent.sock");
        }
        self.common.join("run/cluster-agent.sock")
    }

    /// Whether the node is a member of a cluster, by what MicroK8s's `leave` looks at
    /// (recording `leave-controlplane`).
    pub(crate) fn is_in_cluster(&self) -> bool {
        self.has(Lock::NoCertReissue)
            && (self.has(Lock::Clustered) || self.args("k8s-dqlite").exists())
    }

    /// Reads a file, with its path in the error.
    pub(crate) fn read_bytes(&self, path: &Path) -> Result<Vec<u8>, ReadError> {
        std::fs::read(path).map_err(|source| ReadError::new(path, source))
    }

    /// Reads a file as text, with its path in the error.
    pub(crate) fn read(&self, path: &Path) -> Result<String, ReadError> {
        std::fs::read_to_string(path).map_err(|source| ReadError::new(path, source))
    }

    /// What `parse` makes of a file, which is read again when it has changed.
    ///
    /// # Errors
    ///
    /// The file cannot be read; within that, what `parse` says.
    pub(crate) fn parsed<T: Send + Sync + 'static, E>(
        &self,
        path: &Path,
        parse: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<Result<Arc<T>, E>, ReadError> {
        let parsed = self.files.get(path, parse);
        parsed.map_err(|source| ReadError::new(path, source))
    }

    /// A file as text, which is read again when it has changed.
    pub(crate) fn text(&self, path: &Path) -> Result<Arc<Secret>, ReadError> {
        let parse = |content: &[u8]| std::str::from_utf8(content).map(Secret::new);
        self.parsed(path, parse)?.map_err(|_| {
            let why = "stream did not contain valid UTF-8";
            ReadError::new(path, io::Error::new(io::ErrorKind::InvalidData, why))
        })
    }
}

/// A file of the node cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{}`: {source}", path.display())]
pub(crate) struct ReadError {
    /// Which file.
    pub(crate) path: PathBuf,
    /// Why.
    #[source]
    pub(crate) source: io::Error,
}

/// What came of reading a file: `None` where it is not there.
pub(crate) fn none_if_missing<T>(read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

impl ReadError {
    fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self { path, source }
    }

    /// Whether the file is just not there.
    pub(crate) fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}
