//! All that a leave is going to do, before anything is changed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::base::secret::Secret;
use crate::cluster::first_join::random_text;
use crate::cluster::fresh_node::{self, NewKeys};
use crate::cluster::identity::{self, IdentityError, NodeKey};
use crate::cluster::leave::datastore::{Forget, Others, check_voters, other_members};
use crate::cluster::leave::error::LeaveError;
use crate::cluster::node::{Node, Privacy};
use crate::cluster::transaction::{self, Step};
use crate::model::endpoint;
use crate::model::role::Role;
use crate::pki::ca::{self, Ca};
use crate::platform::{Action, Service};
use crate::store::dqlite;
use crate::store::known_users;
use crate::store::layout::Lock;
use crate::store::token_files::{self, CALLBACK_DIGEST, CALLBACK_TOKEN, CALLBACK_TOKENS};

/// The kubelet's labels and authority on a node of its own (recording `leave-worker`).
const OWN_LABELS: &str =
    "\"microk8s.io/cluster=true,node.kubernetes.io/microk8s-controlplane=microk8s-controlplane\"";
const OWN_CA: &str = "${SNAP_DATA}/certs/ca.crt";
/// Where the API server of a fresh node keeps its data (recording `fresh-node.json`).
const OWN_DATASTORE: &str = "\"unix://${SNAP_DATA}/var/kubernetes/backend/kine.sock:12379\"";

/// The keys of an authority and of what it alone vouches for.
const AUTHORITY: [&str; 2] = ["ca", "serviceaccount"];

/// What a leave does, in order.
pub(super) struct Plan {
    pub(crate) role: Role,
    /// What can be undone.
    pub(crate) before: Vec<Step>,
    /// What cannot; nothing where no other member is left with the datastore.
    pub(crate) forget: Option<Forget>,
    /// What comes last.
    pub(crate) after: Vec<Step>,
    /// The cluster's data goes, because no other node has it.
    pub(crate) ends_cluster: bool,
    /// Kubernetes lists the node on other nodes when it has left.
    pub(crate) stays_listed: bool,
}

impl Plan {
    /// Looks at the node, and makes the keys and certificates that it will have. Those of a dry run are of
    /// no use.
    pub(crate) fn prepare(node: &Node, dry_run: bool) -> Result<Self, LeaveError> {
        if !node.layout.is_in_cluster() {
            return Err(LeaveError::NotInCluster);
        }
        if node.layout.has(Lock::Clustered) {
            Self::worker(node, dry_run)
        } else {
            Self::control_plane(node, dry_run)
        }
    }

    /// The order is that of recording `leave-worker`; all of it can be undone.
    fn worker(node: &Node, dry_run: bool) -> Result<Self, LeaveError> {
        let layout = &node.layout;
        let mark = layout.lock(Lock::NoK8sDqlite);
        if !mark.exists() {
            return Err(LeaveError::NotMarked(mark));
        }
        let theirs = layout.cert("ca.remote.crt");
        let certificate = layout.read(&layout.cert("ca.crt"))?;
        // Who was a control plane node of the same cluster before has the cluster's authority.
        let is_clusters = layout.read(&theirs).is_ok_and(|theirs| {
            ca::certificate_der(&theirs).ok() == ca::certificate_der(&certificate).ok()
        });
        let kept: &[&str] = if is_clusters { &[] } else { &AUTHORITY };
        let mut steps = Steps::new(node, kept, dry_run)?;
        steps.steps.service(Action::Stop, Service::ApiserverProxy);
        steps.steps.service(Action::Stop, Service::Kubelite);
        steps.steps.service(Action::Stop, Service::K8sDqlite);
        steps.steps.arguments("kubelet", |arguments| {
            arguments.set("--client-ca-file", OWN_CA);
            arguments.set("--node-labels", OWN_LABELS);
        })?;
        steps.steps.remove(&layout.lock(Lock::Clustered));
        steps.steps.remove(&mark);
        let no_proxy = layout.lock(Lock::NoApiserverProxy);
        if !no_proxy.exists() {
            steps.steps.rewrite(&no_proxy, "", 0o644);
        }
        steps.steps.remove(&theirs);
        steps.steps.remove(&layout.args("traefik/provider.yaml"));
        if is_clusters {
            steps.new_authority()?;
        } else {
            let key = Secret::new(layout.read(&layout.cert("ca.key"))?);
            steps.renew(&Ca::from_pem(&certificate, key.expose())?, &certificate)?;
        }
        steps.forget_tokens()?;
        let after = steps.new_datastore()?;
        Ok(Self {
            role: Role::Worker,
            before: steps.steps.take(),
            forget: None,
            after,
            ends_cluster: false,
            stays_listed: true,
        })
    }

    /// The order is that of recording `leave-controlplane`, but for what cannot be undone, which
    /// comes last.
    fn control_plane(node: &Node, dry_run: bool) -> Result<Self, LeaveError> {
        if node.uses_dqlite() && !node.platform.has_datastore() {
            return Err(LeaveError::OnlyControlPlane);
        }
        let (forget, ends_cluster, stays_listed) = if node.uses_dqlite() {
            check_voters(node)?;
            match other_members(node)? {
                Others::Remain(forget) => (Some(forget), false, true),
                Others::HaveForgotten => (None, false, false),
                Others::None => (None, true, false),
            }
        } else {
            (None, false, true)
        };
        let mut steps = Steps::new(node, &[], dry_run)?;
        steps.steps.service(Action::Stop, Service::Kubelite);
        steps.steps.service(Action::Stop, Service::K8sDqlite);
        if !node.uses_dqlite() {
            steps.own_datastore()?;
        }
        steps.new_authority()?;
        steps.forget_tokens()?;
        let after = steps.new_datastore()?;
        Ok(Self {
            role: Role::ControlPlane,
            before: steps.steps.take(),
            forget,
            after,
            ends_cluster,
            stays_listed,
        })
    }

    /// The steps in words, one line each.
    pub(crate) fn in_words(&self, data: &Path) -> Vec<String> {
        let short = |path: &Path| {
            let path = path.strip_prefix(data).unwrap_or(path);
            path.display().to_string()
        };
        let words = |step: &Step| match step {
            Step::Service { action, service } => {
                format!("{} the service {}", action.verb(), service.daemon())
            }
            Step::Write { path, .. } | Step::AddToken { path, .. } => {
                format!("write {}", short(path))
            }
            Step::Remove(path) => format!("remove {}", short(path)),
            Step::MakeFolder(path) => format!("make {}", short(path)),
            Step::MarkManifest(mark) => format!("write {}", short(mark)),
            Step::MoveFolder { from, to } => {
                format!("put {} in place of {}", short(from), short(to))
            }
        };
        let forget = self.forget.iter().map(|forget| {
            format!(
                "have the datastore forget {}; from here on there is no way back",
                forget.own
            )
        });
        let end = self
            .ends_cluster
            .then(|| "drop the cluster's data, which no other node has".to_owned());
        let before = self.before.iter().map(words).chain(forget).chain(end);
        before.chain(self.after.iter().map(words)).collect()
    }
}

/// The steps so far.
struct Steps<'a> {
    steps: transaction::Steps<'a>,
    /// Keys that the cluster does not know.
    keys: NewKeys,
    /// The certificate and key of the node's own datastore, where it still has them.
    datastore: Option<(String, Secret)>,
}

impl<'a> Steps<'a> {
    /// The node keeps these keys.
    fn new(node: &'a Node, kept: &[&str], dry_run: bool) -> Result<Self, LeaveError> {
        let datastore = own_identity(node);
        let mut kept = kept.to_vec();
        if datastore.is_some() {
            kept.push(fresh_node::DATASTORE);
        }
        Ok(Self {
            steps: transaction::Steps::new(node),
            keys: match dry_run {
                true => NewKeys::in_place_of_all()?,
                false => NewKeys::all_but(&kept)?,
            },
            datastore,
        })
    }

    /// A new authority, and everything that the old one signed.
    fn new_authority(&mut self) -> Result<(), LeaveError> {
        let layout = &self.steps.node().layout;
        let key = self.keys.take("ca")?;
        let pem = key.to_pem()?;
        let accounts = self.keys.take("serviceaccount")?.to_pem()?;
        let (ca, certificate) = fresh_node::authority(key)?;
        self.steps
            .rewrite(&layout.cert("ca.crt"), &certificate, 0o644);
        self.steps.key("ca", &pem);
        self.steps.key("serviceaccount", &accounts);
        self.renew(&ca, &certificate)
    }

    /// A certificate of a server, where the node has one, and its key.
    fn renew_server(&mut self, name: &str, ca: &Ca) -> Result<(), LeaveError> {
        let layout = &self.steps.node().layout;
        let path = layout.cert(&format!("{name}.crt"));
        let Ok(old) = layout.read(&path) else {
            return Ok(());
        };
        let key = self.keys.take(name)?;
        self.steps.key(name, &key.to_pem()?);
        self.steps
            .rewrite(&path, &ca.reissue_server(&old, Some(&key))?, 0o644);
        Ok(())
    }

    /// The API servers of the cluster trust this node's authority for their front proxies, so the
    /// node gets another.
    fn renew_front_proxy(&mut self) -> Result<(), LeaveError> {
        let layout = &self.steps.node().layout;
        let path = layout.cert("front-proxy-ca.crt");
        if !path.exists() {
            return Ok(());
        }
        let key = self.keys.take("front-proxy-ca")?;
        let pem = key.to_pem()?;
        let (ca, certificate) = fresh_node::front_proxy_authority(key)?;
        self.steps.key("front-proxy-ca", &pem);
        self.steps.rewrite(&path, &certificate, 0o644);
        self.renew_server("front-proxy-client", &ca)
    }

    /// New keys, certificates and kubeconfigs of the node's own services, signed by `ca`.
    fn renew(&mut self, ca: &Ca, ca_pem: &str) -> Result<(), LeaveError> {
        self.renew_server("server", ca)?;
        self.renew_front_proxy()?;
        let (node, keys) = (self.steps.node(), &mut self.keys);
        let mut new_key = |name: &str| Ok(NodeKey::new(keys.take(name)?)?);
        for renewed in identity::renew(node, ca, ca_pem, None, &mut new_key)? {
            renewed.write(&mut self.steps);
        }
        Ok(())
    }

    /// The tokens with which members call each other, and those of the cluster's users.
    fn forget_tokens(&mut self) -> Result<(), LeaveError> {
        let layout = &self.steps.node().layout;
        self.steps.remove(&layout.credential(CALLBACK_TOKEN));
        self.steps.remove(&layout.credential(CALLBACK_DIGEST));
        self.steps.remove(&layout.credential(CALLBACK_TOKENS));
        for name in token_files::OF_THE_CLUSTER {
            self.steps.remove(&layout.credential(name));
        }
        let users = layout.credential(known_users::FILE);
        let arguments = self.steps.node().arguments("kube-apiserver")?;
        if arguments.get("--token-auth-file").is_some() {
            let administrator = known_users::with_admin_token("", &random_text(32));
            self.steps.write(&users, &administrator, Privacy::Group);
        } else {
            self.steps.remove(&users);
        }
        self.steps.remove(&layout.lock(Lock::NoCertReissue));
        Ok(())
    }

    /// An API server that used an etcd of the cluster's uses the node's own datastore again.
    fn own_datastore(&mut self) -> Result<(), LeaveError> {
        let layout = &self.steps.node().layout;
        self.steps.arguments("kube-apiserver", |arguments| {
            arguments.set("--etcd-servers", OWN_DATASTORE);
            for key in ["--etcd-cafile", "--etcd-certfile", "--etcd-keyfile"] {
                arguments.remove(key);
            }
        })?;
        for name in ["remote-etcd-ca.crt", "remote-etcd.crt", "remote-etcd.key"] {
            self.steps.remove(&layout.cert(name));
        }
        self.steps.remove(&layout.lock(Lock::NoK8sDqlite));
        Ok(())
    }

    /// A new, empty datastore is made ready beside the old one; what puts it to use comes last.
    fn new_datastore(&mut self) -> Result<Vec<Step>, LeaveError> {
        let layout = &self.steps.node().layout;
        let (backend, next) = (layout.backend(), layout.backend_next());
        let (certificate, key, mode) = match self.datastore.take() {
            Some((certificate, key)) => (certificate, key, 0o640),
            None => {
                let platform = &self.steps.node().platform;
                let hostname = platform.host_name().map_err(IdentityError::Machine)?;
                let key = self.keys.take(fresh_node::DATASTORE)?;
                let (certificate, key) = fresh_node::datastore_identity(&hostname, &key)?;
                (certificate, key, 0o644)
            }
        };
        self.steps.make_folder(&next);
        self.steps
            .rewrite(&next.join("cluster.crt"), &certificate, mode);
        self.steps
            .rewrite(&next.join("cluster.key"), key.expose(), 0o600);
        let init = dqlite::address_yaml(&lonely_address(self.steps.node()));
        self.steps.rewrite(&next.join("init.yaml"), &init, 0o644);
        let start = |service| Step::Service {
            action: Action::Start,
            service,
        };
        Ok(vec![
            Step::MoveFolder {
                from: next,
                to: backend,
            },
            start(Service::K8sDqlite),
            start(Service::Kubelite),
        ])
    }
}

/// The certificate and key of the datastore that the node had before it joined, where they are
/// still there and not those that the cluster uses.
fn own_identity(node: &Node) -> Option<(String, Secret)> {
    let layout = &node.layout;
    let read = |folder: PathBuf, name: &str| layout.read(&folder.join(name)).ok();
    let certificate = read(layout.backend_backup(), "cluster.crt")?;
    let key = Secret::new(read(layout.backend_backup(), "cluster.key")?);
    ca::check_pair(&certificate, key.expose()).ok()?;
    let used = read(layout.backend(), "cluster.crt").map(Secret::new);
    let is_clusters = used.is_some_and(|used| ca::check_pair(used.expose(), key.expose()).is_ok());
    (!is_clusters).then_some((certificate, key))
}

/// Where the datastore of a node on its own listens: on the loopback (recording `leave-alone`),
/// but beside a standalone agent that shares the machine with others, at that one's address.
fn lonely_address(node: &Node) -> String {
    let port = node
        .own_member()
        .map_or(endpoint::DATASTORE_PORT, |own| own.port());
    let bind = node.agent_bind().ip();
    let address = if node.is_standalone() && !bind.is_unspecified() {
        bind
    } else {
        IpAddr::from([127, 0, 0, 1])
    };
    endpoint::join(address, port)
}
