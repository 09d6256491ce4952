//! A fresh node directory, as MicroK8s's installation makes it (recording `fresh-node.json`).
//!
//! The one piece of code that lays out a node: standalone agents, `dev-cluster` and the tests
//! use it.

mod files;
mod unfinished;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::{io, iter, thread};

use rand::TryRng;

use crate::base::atomic_file::{self, Access};
use crate::base::file_lock::FileLock;
use crate::base::mutex::lock;
use crate::base::secret::Secret;
use crate::pki::PkiError;
use crate::pki::ca::{self, Ca, Profile};
use crate::pki::csr;
use crate::pki::key::{Bits, PrivateKey};
use crate::pki::kubeconfig::{self, Identity};
use crate::pki::name::{AltName, Subject};
use crate::store::dqlite::{self, DatastoreRole, Member};
use crate::store::layout::Layout;

/// With this key the API server calls kubelets.
const API_SERVER: &str = "apiserver-kubelet-client";

/// With this key the datastores of a cluster know each other.
pub(crate) const DATASTORE: &str = "cluster";

/// The private keys of a node of its own: a fresh one, and one that has left a cluster. The one that takes
/// longest to make is first.
const KEYS: [&str; 12] = [
    DATASTORE,
    "ca",
    "serviceaccount",
    "server",
    "front-proxy-ca",
    "front-proxy-client",
    "kubelet",
    "client",
    "proxy",
    "scheduler",
    "controller",
    API_SERVER,
];

/// What a node is to be like.
#[derive(Debug, Clone)]
pub struct FreshNode {
    /// Its host name.
    pub hostname: String,
    /// Its addresses, without the loopback's.
    pub addresses: Vec<IpAddr>,
    /// Where its agent listens: `address:port`.
    pub bind: String,
    /// Where its datastore listens.
    pub datastore: SocketAddr,
}

/// Why a node directory was not made.
#[derive(Debug, thiserror::Error)]
pub enum FreshNodeError {
    /// There is one already.
    #[error("`{}` holds a node already", .0.display())]
    Exists(PathBuf),
    /// A file or folder cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

/// The number of the node that begins a dqlite cluster; dqlite itself gives it no other.
const FIRST_MEMBER: u64 = 3_297_041_220_608_546_238;

/// The address of the API server's service, in every node's certificates.
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 152, 183, 1));

/// Makes the node directory, all of it or none.
///
/// It is put together beside its place and renamed, so that a crash leaves no half of one.
pub fn create(layout: &Layout, fresh: &FreshNode) -> Result<(), FreshNodeError> {
    if layout.exists() {
        return Err(FreshNodeError::Exists(layout.data().to_owned()));
    }
    let data = layout.data();
    let above = data.parent().unwrap_or(Path::new("/"));
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| FreshNodeError::Write { path, source }
    };
    atomic_file::make_folder(above, 0o755).map_err(at(above))?;
    atomic_file::make_folder(layout.common(), 0o755).map_err(at(layout.common()))?;
    unfinished::remove(above);
    let place = atomic_file::temporary_folder(above, unfinished::PREFIX).map_err(at(above))?;
    // Shows that it is being filled, wherever it is moved.
    let _lock = FileLock::try_take_folder(place.path())
        .map_err(|error| at(place.path())(io::Error::other(error)))?;
    let keys = NewKeys::generate(&KEYS)?;
    let mut writer = Writer {
        root: place.path(),
        keys,
    };
    writer.folder("", 0o755)?;
    for (path, mode) in files::FOLDERS {
        writer.folder(path, *mode)?;
    }
    writer.texts(fresh)?;
    writer.certificates(fresh)?;
    writer.datastore(fresh)?;
    // An empty folder may stand in its place; a full one makes this fail.
    atomic_file::rename(place.path(), data).map_err(at(data))?;
    let _ = place.keep();
    Ok(())
}

/// Removes what a process that was killed while it made this node's directory has left beside it.
pub(crate) fn remove_unfinished(layout: &Layout) {
    if let Some(above) = layout.data().parent() {
        unfinished::remove(above);
    }
}

struct Writer<'a> {
    root: &'a Path,
    keys: NewKeys,
}

impl Writer<'_> {
    fn folder(&mut self, path: &str, mode: u32) -> Result<(), FreshNodeError> {
        let path = self.root.join(path);
        let made = atomic_file::make_folder(&path, mode)
            .and_then(|()| atomic_file::set_access(&path, mode, None, None));
        made.map_err(|source| FreshNodeError::Write { path, source })
    }

    fn file(&mut self, path: &str, content: &str, mode: u32) -> Result<(), FreshNodeError> {
        let path = self.root.join(path);
        atomic_file::write(&path, content.as_bytes(), Access::mode(mode))
            .map_err(|source| FreshNodeError::Write { path, source })
    }

    fn texts(&mut self, fresh: &FreshNode) -> Result<(), FreshNodeError> {
        for (path, content) in files::TEXT_FILES {
            self.file(path, content, 0o644)?;
        }
        for path in files::LOCKS {
            self.file(path, "", 0o644)?;
        }
        let agent = format!(
            "--bind {}\n--keyfile \"${{SNAP_DATA}}/certs/server.key\"\n--certfile \"${{SNAP_DATA}}/certs/server.crt\"\n--timeout 240\n",
            fresh.bind
        );
        self.file("args/cluster-agent", &agent, 0o644)?;
        let request = render_request(fresh);
        self.file("certs/csr.conf", &request, 0o644)?;
        self.file("certs/csr.conf.rendered", &request, 0o644)?;
        let (path, template) = files::DATASTORE_REQUEST;
        self.file(path, &template.replace("HOSTNAME", &fresh.hostname), 0o644)
    }

    fn key(&mut self, name: &str, key: &PrivateKey) -> Result<Secret, FreshNodeError> {
        let pem = key.to_pem()?;
        self.file(&format!("certs/{name}.key"), pem.expose(), 0o600)?;
        Ok(pem)
    }

    /// An authority with this key, and its certificate as PEM.
    fn authority(
        &mut self,
        name: &str,
        key: PrivateKey,
        make: fn(PrivateKey) -> Result<(Ca, String), PkiError>,
    ) -> Result<(Ca, String), FreshNodeError> {
        self.key(name, &key)?;
        let (ca, pem) = make(key)?;
        self.file(&format!("certs/{name}.crt"), &pem, 0o644)?;
        self.file(&format!("certs/{name}.srl"), &random_serial()?, 0o644)?;
        Ok((ca, pem))
    }

    fn server(
        &mut self,
        name: &str,
        key: &PrivateKey,
        subject: &Subject,
        names: &[AltName],
        ca: &Ca,
    ) -> Result<(), FreshNodeError> {
        self.key(name, key)?;
        let request = csr::create(subject, names, key)?;
        self.file(&format!("certs/{name}.csr"), &request, 0o644)?;
        let profile = Profile::Server(names.to_vec());
        let certificate = ca.issue(subject, key, profile, ca::YEAR)?;
        self.file(&format!("certs/{name}.crt"), &certificate, 0o644)
    }

    fn certificates(&mut self, fresh: &FreshNode) -> Result<(), FreshNodeError> {
        let names = server_names(fresh);
        let key = self.keys.take("ca")?;
        let (ca, ca_pem) = self.authority("ca", key, authority)?;
        let key = self.keys.take("serviceaccount")?;
        self.key("serviceaccount", &key)?;
        let (key, subject) = (self.keys.take("server")?, Subject::microk8s_server());
        self.server("server", &key, &subject, &names, &ca)?;
        let key = self.keys.take("front-proxy-ca")?;
        let (ca_of_proxy, _) = self.authority("front-proxy-ca", key, front_proxy_authority)?;
        let name = "front-proxy-client";
        let key = self.keys.take(name)?;
        let subject = Subject::common_name(name);
        self.server(name, &key, &subject, &names, &ca_of_proxy)?;
        for client in client_certificates(&fresh.hostname, &fresh.addresses) {
            let name = client.file;
            let key = self.keys.take(name)?;
            let key_pem = self.key(name, &key)?;
            let profile = Profile::Client(client.names);
            let certificate = ca.issue(&client.subject, &key, profile, ca::LONG)?;
            self.file(&format!("certs/{name}.crt"), &certificate, 0o644)?;
            if let Some((name, user)) = client.kubeconfig {
                let identity = Identity::Certificate {
                    certificate: &certificate,
                    key: &key_pem,
                };
                let text = kubeconfig::text(&ca_pem, "https://127.0.0.1:16443", &user, &identity);
                self.file(&format!("credentials/{name}"), text.expose(), 0o600)?;
            }
        }
        Ok(())
    }

    fn datastore(&mut self, fresh: &FreshNode) -> Result<(), FreshNodeError> {
        let key = self.keys.take(DATASTORE)?;
        let (certificate, key) = datastore_identity(&fresh.hostname, &key)?;
        self.file("var/kubernetes/backend/cluster.key", key.expose(), 0o600)?;
        self.file("var/kubernetes/backend/cluster.crt", &certificate, 0o640)?;
        let member = Member {
            address: fresh.datastore.to_string(),
            id: FIRST_MEMBER,
            role: DatastoreRole::Voter,
        };
        self.file(
            "var/kubernetes/backend/info.yaml",
            &dqlite::info_yaml(&member),
            0o644,
        )?;
        self.file(
            "var/kubernetes/backend/cluster.yaml",
            &dqlite::cluster_yaml(&[member]),
            0o644,
        )
    }
}

/// The authority of a node with this key, and its certificate as PEM.
pub(crate) fn authority(key: PrivateKey) -> Result<(Ca, String), PkiError> {
    Ca::create(&Subject::common_name("10.152.183.1"), key)
}

/// The authority of a node's front proxy, and its certificate as PEM.
pub(crate) fn front_proxy_authority(key: PrivateKey) -> Result<(Ca, String), PkiError> {
    Ca::create(&Subject::common_name("front-proxy-ca"), key)
}

/// The certificate and key of a datastore that is new, both PEM.
pub(crate) fn datastore_identity(
    hostname: &str,
    key: &PrivateKey,
) -> Result<(String, Secret), PkiError> {
    let names = vec![
        AltName::Dns(hostname.to_owned()),
        AltName::Ip(IpAddr::from([127, 0, 0, 1])),
    ];
    let certificate = ca::self_signed(
        &Subject::common_name("k8s"),
        key,
        Profile::Server(names),
        ca::LONG,
    )?;
    Ok((certificate, key.to_pem()?))
}

/// A client of the API server that a node has a certificate for.
pub(crate) struct ClientCertificate {
    /// The name of its files below `certs`, without the ending.
    pub(crate) file: &'static str,
    /// The user that it is for.
    pub(crate) subject: Subject,
    /// The names that it carries.
    pub(crate) names: Vec<AltName>,
    /// The kubeconfig that holds it, and the user in there.
    pub(crate) kubeconfig: Option<(String, String)>,
}

/// The client certificates of a control plane node, in the order in which MicroK8s makes them.
pub(crate) fn client_certificates(hostname: &str, addresses: &[IpAddr]) -> Vec<ClientCertificate> {
    const ADMINISTRATORS: Option<&str> = Some("system:masters");
    let kubelet = format!("system:node:{hostname}");
    let clients = [
        ("kubelet", kubelet.as_str(), Some("system:nodes")),
        ("client", "admin", ADMINISTRATORS),
        ("proxy", "system:kube-proxy", None),
        ("scheduler", "system:kube-scheduler", None),
        ("controller", "system:kube-controller-manager", None),
        (API_SERVER, "kube-apiserver-kubelet-client", ADMINISTRATORS),
    ];
    let with_files = clients.map(|(file, user, group)| ClientCertificate {
        file,
        subject: match group {
            Some(group) => Subject::user_in_group(user, group),
            None => Subject::common_name(user),
        },
        names: match file {
            "kubelet" => node_names(hostname, addresses),
            _ => Vec::new(),
        },
        kubeconfig: (file != API_SERVER).then(|| (format!("{file}.config"), user.to_owned())),
    });
    with_files.into()
}

/// A node's own names: its host name and its addresses.
pub(crate) fn node_names(hostname: &str, addresses: &[IpAddr]) -> Vec<AltName> {
    iter::once(AltName::Dns(hostname.to_owned()))
        .chain(addresses.iter().copied().map(AltName::Ip))
        .collect()
}

fn server_names(fresh: &FreshNode) -> Vec<AltName> {
    const SERVICE: [&str; 5] = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster",
        "kubernetes.default.svc.cluster.local",
    ];
    let own = [IpAddr::from([127, 0, 0, 1]), SERVICE_ADDRESS];
    let others = fresh
        .addresses
        .iter()
        .copied()
        .filter(|address| !own.contains(address));
    SERVICE
        .iter()
        .map(|name| AltName::Dns((*name).to_owned()))
        .chain(own.into_iter().chain(others).map(AltName::Ip))
        .collect()
}

/// `csr.conf.template`, with these names and addresses beside those that every node has. Their numbers
/// are above those that MicroK8s gives the node's addresses.
pub(crate) fn request_template(extra: &[String]) -> String {
    let mut lines = String::new();
    for (place, name) in extra.iter().enumerate() {
        let kind = if name.parse::<IpAddr>().is_ok() {
            "IP"
        } else {
            "DNS"
        };
        lines += &format!("{kind}.{} = {name}\n", place + 1001);
    }
    files::SERVER_REQUEST.replace("#MOREIPS", &format!("{lines}#MOREIPS"))
}

/// `csr.conf`: the template with the node's addresses in it.
fn render_request(fresh: &FreshNode) -> String {
    let lines: Vec<String> = fresh
        .addresses
        .iter()
        .enumerate()
        .map(|(place, address)| format!("IP.{} = {address}", place + 3))
        .collect();
    files::SERVER_REQUEST.replace("#MOREIPS", &lines.join("\n"))
}

/// What OpenSSL would count on from, for tools that sign with it later.
fn random_serial() -> Result<String, FreshNodeError> {
    let mut bytes = [0u8; 20];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|_| PkiError::Crypto("get random bytes"))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(format!("{digits}\n"))
}

/// New private keys, by the names of their files.
pub(crate) enum NewKeys {
    /// Each one is another.
    Made(HashMap<&'static str, PrivateKey>),
    /// One in place of all: for a plan that nothing is done by.
    InPlaceOfAll(PrivateKey),
}

impl NewKeys {
    /// Those that a node of its own has beside these.
    pub(crate) fn all_but(others: &[&str]) -> Result<Self, PkiError> {
        let names: Vec<_> = KEYS
            .into_iter()
            .filter(|name| !others.contains(name))
            .collect();
        Self::generate(&names)
    }

    /// Makes these, on all processors at once: they are most of the work of a fresh node.
    fn generate(names: &[&'static str]) -> Result<Self, PkiError> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let at_once = processors.min(names.len());
        let names = Mutex::new(names.iter());
        let next = || lock(&names).next();
        let make = || {
            let made = iter::from_fn(next).map(|name| Ok((*name, new_key(name)?)));
            made.collect::<Result<Vec<_>, PkiError>>()
        };
        let keys = thread::scope(|scope| {
            let started: Vec<_> = (0..at_once).map(|_| scope.spawn(make)).collect();
            let made = started.into_iter().map(|share| {
                let failed = Err(PkiError::Crypto("generate RSA keys in parallel"));
                share.join().unwrap_or(failed)
            });
            made.collect::<Result<Vec<_>, PkiError>>()
        })?;
        Ok(Self::Made(keys.into_iter().flatten().collect()))
    }

    /// For a plan that nothing is done by.
    pub(crate) fn in_place_of_all() -> Result<Self, PkiError> {
        Ok(Self::InPlaceOfAll(PrivateKey::generate(Bits::Rsa2048)?))
    }

    /// A key that nothing else has.
    pub(crate) fn take(&mut self, name: &str) -> Result<PrivateKey, PkiError> {
        match self {
            Self::Made(keys) => keys.remove(name).map_or_else(|| new_key(name), Ok),
            Self::InPlaceOfAll(key) => Ok(key.clone()),
        }
    }
}

fn new_key(name: &str) -> Result<PrivateKey, PkiError> {
    // As long as those of MicroK8s.
    PrivateKey::generate(match name {
        DATASTORE => Bits::Rsa4096,
        _ => Bits::Rsa2048,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn new_keys_are_different_and_one_is_enough_where_nothing_is_done() {
        let others: Vec<&str> = KEYS.into_iter().skip(3).collect();
        let all_but = [&others[..], &[DATASTORE]].concat();
        let mut keys = NewKeys::all_but(&all_but).unwrap();
        assert!(matches!(&keys, NewKeys::Made(made) if made.len() == 2));
        let mut taken = |name| keys.take(name).unwrap().public_key().unwrap();
        // Once more is one that was not made ahead.
        let different = BTreeSet::from([taken("ca"), taken("serviceaccount"), taken("ca")]);
        assert_eq!(different.len(), 3);
        let mut keys = NewKeys::in_place_of_all().unwrap();
        let mut taken = |name| keys.take(name).unwrap().public_key().unwrap();
        assert_eq!(taken("ca"), taken(DATASTORE));
    }

    #[test]
    fn a_directory_that_holds_a_node_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::standalone(dir.path());
        std::fs::create_dir_all(layout.args("")).unwrap();
        std::fs::write(layout.args("cluster-agent"), "mine").unwrap();
        let fresh = FreshNode {
            hostname: "n2".into(),
            addresses: vec![],
            bind: "0.0.0.0:25000".into(),
            datastore: "127.0.0.1:19001".parse().unwrap(),
        };
        assert!(matches!(
            create(&layout, &fresh),
            Err(FreshNodeError::Exists(_))
        ));
        assert_eq!(
            std::fs::read_to_string(layout.args("cluster-agent")).unwrap(),
            "mine"
        );
    }
}
