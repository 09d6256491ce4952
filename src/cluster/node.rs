//! A node: its directory and the machine that it is on.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::base::atomic_file::Access;
use crate::client::kubernetes::Kubernetes;
use crate::model::endpoint;
use crate::model::role::Role;
use crate::platform::snap::SnapPlatform;
use crate::platform::{self, CommandError, Platform};
use crate::store::args_file::ArgsFile;
use crate::store::dqlite::{self, Malformed, Member};
use crate::store::layout::{Kind, Layout, Lock, ReadError};
use crate::store::token_files::Sharing;

/// The node that a command is about.
#[derive(Clone)]
pub(crate) struct Node {
    /// Its directory.
    pub(crate) layout: Layout,
    /// Its machine.
    pub(crate) platform: Arc<dyn Platform>,
    /// The API server that the node's own kubeconfig leads to.
    api: Arc<Kubernetes>,
}

/// How long an API server may take to answer over the connection that is kept.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How certificates, arguments and credentials of the node may be shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privacy {
    /// With the group: MicroK8s's tools read and write these without being root.
    Group,
    /// Readable by the group: MicroK8s asks for it to tell who may use the node.
    GroupReads,
    /// Root alone: private keys, and credentials that only services use.
    Root,
}

/// Why the members of the datastore are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembersError {
    /// The datastore gave no answer.
    #[error(transparent)]
    NoAnswer(#[from] CommandError),
    /// The answer is no list of members.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl MembersError {
    /// Why an operation that has to know the members fails.
    pub(crate) fn of_operation(&self) -> String {
        match self {
            Self::NoAnswer(error) => {
                format!("cannot ask the datastore who is in the cluster: {error}")
            }
            Self::Malformed(error) => error.to_string(),
        }
    }
}

impl Node {
    /// The node of a snap, or a standalone one.
    pub(crate) fn new(layout: Layout, platform: Arc<dyn Platform>) -> Self {
        let api = Kubernetes::new(layout.credential("client.config"));
        Self {
            layout,
            platform,
            api: Arc::new(api),
        }
    }

    /// What the API server has at this path, which costs no process. `None` where it gives no such
    /// answer: then `kubectl` is to be asked, which tells why.
    pub(crate) fn in_api(&self, path: &str) -> Option<Value> {
        if self.is_standalone() {
            return None;
        }
        let found = self.api.get(ANSWER_LIMIT, path);
        found
            .inspect_err(|error| tracing::debug!(%error, path, "kubectl is asked in its place"))
            .ok()
    }

    /// The node of MicroK8s's snap, or of a directory laid out like it.
    pub(crate) fn of_snap(layout: Layout) -> Self {
        let platform = SnapPlatform::new(layout.snap(), layout.data(), layout.common());
        Self::new(layout, Arc::new(platform))
    }

    /// The mode and owners that a file of the node gets.
    ///
    /// As in MicroK8s, the lock `cis-hardening` takes files away from the group (recording
    /// `join-cis-hardening`).
    pub(crate) fn access(&self, privacy: Privacy) -> Access {
        let Sharing { mode, gid } = self.sharing(privacy);
        Access::Set {
            mode,
            uid: None,
            gid,
        }
    }

    /// How a token file is shared.
    pub(crate) fn token_file_sharing(&self) -> Sharing {
        self.sharing(Privacy::Group)
    }

    fn sharing(&self, privacy: Privacy) -> Sharing {
        let gid = self.platform.group().gid;
        let (mode, gid) = match privacy {
            _ if self.layout.has(Lock::CisHardening) => (0o600, None),
            Privacy::Root => (0o600, None),
            Privacy::Group => (0o660, gid),
            Privacy::GroupReads if gid.is_some() => (0o640, gid),
            Privacy::GroupReads => (0o600, None),
        };
        let gid = gid.or(Some(nix::unistd::getegid().as_raw()));
        Sharing { mode, gid }
    }

    /// The arguments of a service.
    pub(crate) fn arguments(&self, service: &str) -> Result<Arc<ArgsFile>, ReadError> {
        let parse = |content: &[u8]| Ok::<_, Infallible>(ArgsFile::parse(content));
        let Ok(arguments) = self.layout.parsed(&self.layout.args(service), parse)?;
        Ok(arguments)
    }

    /// The node's name, as its kubelet has it: what its arguments say, else the machine's name; trimmed
    /// and in lower case.
    pub(crate) fn name(&self) -> io::Result<String> {
        let name = match self.overriding_name() {
            Some(name) => name,
            None => self.platform.host_name()?,
        };
        Ok(name.trim().to_lowercase())
    }

    /// The name that the kubelet's arguments give the node in place of the machine's.
    pub(crate) fn overriding_name(&self) -> Option<String> {
        let arguments = self.arguments("kubelet").ok()?;
        let name = arguments.get("--hostname-override")?.trim();
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// Where this node's agent listens, by its arguments: MicroK8s's default where they do not
    /// say.
    pub(crate) fn agent_bind(&self) -> SocketAddr {
        let unspecified = SocketAddr::from(([0, 0, 0, 0], endpoint::AGENT_PORT));
        let parse = |content: &[u8]| {
            let bind = self.bind_in(&ArgsFile::parse(content));
            Ok::<_, Infallible>(bind.unwrap_or(unspecified))
        };
        match self
            .layout
            .parsed(&self.layout.args("cluster-agent"), parse)
        {
            Ok(Ok(bind)) => *bind,
            Err(_) => unspecified,
        }
    }

    fn bind_in(&self, arguments: &ArgsFile) -> Option<SocketAddr> {
        let words = self.command_line(arguments);
        let mut words = words.iter().map(String::as_str);
        let mut bind = None;
        // In every spelling that the agent takes; the last one counts.
        while let Some(word) = words.next() {
            match word.strip_prefix("--").or(word.strip_prefix('-')) {
                Some("bind") => bind = words.next(),
                Some(flag) => bind = flag.strip_prefix("bind=").or(bind),
                None => {}
            }
        }
        bind.and_then(parse_bind)
    }

    /// A service's arguments as it gets them.
    pub(crate) fn command_line(&self, arguments: &ArgsFile) -> Vec<String> {
        let variables: HashMap<&str, String> = self
            .variables()
            .into_iter()
            .map(|(name, path)| (name, path.to_string_lossy().into_owned()))
            .collect();
        arguments.to_command_line(&variables)
    }

    /// The addresses under which other nodes may reach this one, the one to prefer first.
    ///
    /// An agent that is bound to one address can be reached there only.
    pub(crate) fn addresses(&self, bind: IpAddr) -> io::Result<Vec<IpAddr>> {
        if !bind.is_unspecified() {
            return Ok(vec![bind]);
        }
        let interfaces = self.platform.interfaces()?;
        let mut addresses = platform::reachable_addresses(&interfaces);
        if let Some(default) = platform::default_address(self.platform.as_ref(), &interfaces) {
            addresses.retain(|address| *address != default);
            addresses.insert(0, default);
        }
        Ok(addresses)
    }

    /// Every address of this node. Standalone nodes share machines, and are told apart by theirs.
    pub(crate) fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let bind = self.agent_bind().ip();
        if self.is_standalone() && !bind.is_unspecified() {
            return BTreeSet::from([endpoint::plain(bind)]);
        }
        let interfaces = self.platform.interfaces().unwrap_or_default();
        let addresses = interfaces.into_iter().map(|entry| entry.address);
        addresses.map(endpoint::plain).collect()
    }

    /// Expands `$SNAP_DATA` and its like, as MicroK8s's services find them in their arguments.
    pub(crate) fn expand(&self, text: &str) -> PathBuf {
        let mut expanded = text.to_owned();
        for (name, value) in self.variables() {
            let value = value.to_string_lossy();
            expanded = expanded
                .replace(&format!("${{{name}}}"), &value)
                .replace(&format!("${name}"), &value);
        }
        PathBuf::from(expanded)
    }

    /// The variables that arguments may hold; longer names first, because `$SNAP` begins others.
    pub(crate) fn variables(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("SNAP_COMMON", self.layout.common().to_owned()),
            ("SNAP_DATA", self.layout.data().to_owned()),
            ("SNAP", self.layout.snap().to_owned()),
        ]
    }

    /// Whether this node keeps the datastore of Kubernetes in MicroK8s's dqlite.
    pub(crate) fn uses_dqlite(&self) -> bool {
        self.arguments("kube-apiserver").is_ok_and(|arguments| {
            arguments
                .get("--etcd-servers")
                .is_some_and(|servers| servers.contains("/var/kubernetes/backend/kine.sock:12379"))
        })
    }

    /// Whether that datastore runs here.
    pub(crate) fn runs_datastore(&self) -> bool {
        self.uses_dqlite() && self.platform.has_datastore() && !self.layout.has(Lock::NoK8sDqlite)
    }

    /// Whether the node is a worker: it admits no other nodes, and issues no tokens.
    pub(crate) fn is_worker(&self) -> bool {
        self.layout.has(Lock::Clustered)
    }

    /// The members of the datastore, as it lists them itself.
    pub(crate) fn datastore_members(&self) -> Result<Vec<Member>, MembersError> {
        let answer = self.platform.datastore_members(&self.layout.backend())?;
        Ok(dqlite::read_shell_answer(&answer)?)
    }

    /// This node, as its datastore knows itself.
    pub(crate) fn own_member(&self) -> Option<Member> {
        let path = self.layout.backend().join("info.yaml");
        dqlite::read_info(&self.layout.read(&path).ok()?).ok()
    }

    /// What the node is, in a cluster or on its own.
    pub(crate) fn role(&self) -> Role {
        match self.is_worker() {
            true => Role::Worker,
            false => Role::ControlPlane,
        }
    }

    /// Whether the node stands alone, without MicroK8s.
    pub(crate) fn is_standalone(&self) -> bool {
        self.layout.kind() == Kind::Standalone
    }
}

/// `address:port`, `[v6]:port` or `:port`.
pub(crate) fn parse_bind(text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        return Some(SocketAddr::from(([0, 0, 0, 0], port.parse().ok()?)));
    }
    text.parse().ok()
}
