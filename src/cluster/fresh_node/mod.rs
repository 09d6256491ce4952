//! A fresh node directory, as MicroK8s's installation makes it (recording `fresh-node.json`).
//!
//! The one piece of code that lays out a node: standalone agents, `dev-cluster` and the tests
//! use it.

mod files;
mod unfinished;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

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

/// The private keys of a node of its own: a fresh one, and one that has left a cluster.
pub(super) const KEYS: [&str; 11] = [
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
    "apiserver-kubelet-client",
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
        #[source]
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
    let mut writer = Writer { root: place.path() };
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
        let access = Access::Set {
            mode,
            uid: None,
            gid: None,
        };
        atomic_file::write(&path, content.as_bytes(), access)
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

    fn key(&mut self, path: &str, key: &PrivateKey) -> Result<Secret, FreshNodeError> {
        let pem = key.to_pem()?;
        self.file(path, pem.expose(), 0o600)?;
        Ok(pem)
    }

    fn certificates(&mut self, fresh: &FreshNode) -> Result<(), FreshNodeError> {
        let mut keys = generate_keys(&KEYS)?;
        let mut take = |name: &str| {
            keys.remove(name)
                .ok_or(PkiError::Crypto("find a key that was made"))
        };

        let server_names = server_names(fresh);
        let ca_key = take("ca")?;
        self.key("certs/ca.key", &ca_key)?;
        let (ca, ca_pem) = authority(ca_key)?;
        self.file("certs/ca.crt", &ca_pem, 0o644)?;
        self.file("certs/ca.srl", &random_serial()?, 0o644)?;
        self.key("certs/serviceaccount.key", &take("serviceaccount")?)?;

        let server = take("server")?;
        self.key("certs/server.key", &server)?;
        let subject = Subject::microk8s_server();
        self.file(
            "certs/server.csr",
            &csr::create(&subject, &server_names, &server)?,
            0o644,
        )?;
        let certificate = ca.issue(
            &subject,
            &server,
            Profile::Server(server_names.clone()),
            ca::YEAR,
        )?;
        self.file("certs/server.crt", &certificate, 0o644)?;

        let front_key = take("front-proxy-ca")?;
        self.key("certs/front-proxy-ca.key", &front_key)?;
        let (front_ca, front_pem) = front_proxy_authority(front_key)?;
        self.file("certs/front-proxy-ca.crt", &front_pem, 0o644)?;
        self.file("certs/front-proxy-ca.srl", &random_serial()?, 0o644)?;
        let front = take("front-proxy-client")?;
        self.key("certs/front-proxy-client.key", &front)?;
        let subject = Subject::common_name("front-proxy-client");
        self.file(
            "certs/front-proxy-client.csr",
            &csr::create(&subject, &server_names, &front)?,
            0o644,
        )?;
        let certificate =
            front_ca.issue(&subject, &front, Profile::Server(server_names), ca::YEAR)?;
        self.file("certs/front-proxy-client.crt", &certificate, 0o644)?;

        for user in client_certificates(&fresh.hostname, &fresh.addresses) {
            let key = take(user.file)?;
            let key_pem = self.key(&format!("certs/{}.key", user.file), &key)?;
            let certificate =
                ca.issue(&user.subject, &key, Profile::Client(user.names), ca::LONG)?;
            self.file(&format!("certs/{}.crt", user.file), &certificate, 0o644)?;
            if let Some((name, user)) = user.kubeconfig {
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
        let (certificate, key) = datastore_identity(&fresh.hostname)?;
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
pub(crate) fn datastore_identity(hostname: &str) -> Result<(String, Secret), PkiError> {
    let key = PrivateKey::generate(Bits::Rsa4096)?;
    let names = vec![
        AltName::Dns(hostname.to_owned()),
        AltName::Ip(IpAddr::from([127, 0, 0, 1])),
    ];
    let certificate = ca::self_signed(
        &Subject::common_name("k8s"),
        &key,
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
    pub(crate) kubeconfig: Option<(&'static str, String)>,
}

/// The client certificates of a control plane node, in the order in which MicroK8s makes them.
pub(crate) fn client_certificates(hostname: &str, addresses: &[IpAddr]) -> Vec<ClientCertificate> {
    let plain = |file, subject, config: Option<(&'static str, &str)>| ClientCertificate {
        file,
        subject,
        names: Vec::new(),
        kubeconfig: config.map(|(name, user)| (name, user.to_owned())),
    };
    vec![
        ClientCertificate {
            file: "kubelet",
            subject: Subject::kubelet(hostname),
            names: node_names(hostname, addresses),
            kubeconfig: Some(("kubelet.config", format!("system:node:{hostname}"))),
        },
        plain(
            "client",
            Subject::user_in_group("admin", "system:masters"),
            Some(("client.config", "admin")),
        ),
        plain(
            "proxy",
            Subject::common_name("system:kube-proxy"),
            Some(("proxy.config", "system:kube-proxy")),
        ),
        plain(
            "scheduler",
            Subject::common_name("system:kube-scheduler"),
            Some(("scheduler.config", "system:kube-scheduler")),
        ),
        plain(
            "controller",
            Subject::common_name("system:kube-controller-manager"),
            Some(("controller.config", "system:kube-controller-manager")),
        ),
        plain(
            "apiserver-kubelet-client",
            Subject::user_in_group("kube-apiserver-kubelet-client", "system:masters"),
            None,
        ),
    ]
}

/// A node's own names: its host name and its addresses.
pub(crate) fn node_names(hostname: &str, addresses: &[IpAddr]) -> Vec<AltName> {
    std::iter::once(AltName::Dns(hostname.to_owned()))
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

/// New keys, made on all processors at once: they are most of the work of a fresh node.
pub(crate) fn generate_keys(
    names: &[&'static str],
) -> Result<HashMap<&'static str, PrivateKey>, PkiError> {
    let made = Mutex::new(HashMap::new());
    let wanted = Mutex::new(names.to_vec());
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(names.len());
    let work = || -> Result<(), PkiError> {
        loop {
            let next = lock(&wanted).pop();
            let Some(name) = next else { return Ok(()) };
            let key = PrivateKey::generate(Bits::Rsa2048)?;
            lock(&made).insert(name, key);
        }
    };
    thread::scope(|scope| {
        let started: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        started.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or(Err(PkiError::Crypto("generate RSA keys in parallel")))
        })
    })?;
    Ok(made
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

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
