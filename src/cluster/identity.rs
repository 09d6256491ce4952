//! The keys of a node, and the certificates and kubeconfigs that an authority gives it.

use std::io;
use std::net::IpAddr;

use crate::base::secret::Secret;
use crate::cluster::fresh_node::client_certificates;
use crate::cluster::node::Node;
use crate::cluster::transaction::Steps;
use crate::pki::PkiError;
use crate::pki::ca::{Ca, LONG, Profile};
use crate::pki::key::{Bits, PrivateKey};
use crate::pki::kubeconfig::{self, Identity};
use crate::store::layout::{ReadError, none_if_missing};

/// Why an identity cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// A file of the node.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A key or certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The machine does not know its name or addresses.
    #[error("cannot tell this machine's name and addresses: {0}")]
    Machine(#[source] io::Error),
}

/// A key of the node.
pub(crate) struct NodeKey {
    /// The key.
    pub(crate) key: PrivateKey,
    /// The key as PEM.
    pub(crate) pem: Secret,
    /// It was made just now, and is nowhere else yet.
    pub(crate) is_new: bool,
}

impl NodeKey {
    /// The node's key of this name, or a new one. A key that is there stays, whatever its kind; one
    /// that is of no use is an error.
    pub(crate) fn read_or_make(node: &Node, name: &str) -> Result<Self, IdentityError> {
        if let Some(found) = Self::read(node, name)? {
            return Ok(found);
        }
        Ok(Self::new(PrivateKey::generate(Bits::Rsa2048)?)?)
    }

    /// The node's key of this name, where it has one.
    pub(crate) fn read(node: &Node, name: &str) -> Result<Option<Self>, IdentityError> {
        let path = node.layout.cert(&format!("{name}.key"));
        let Some(pem) = none_if_missing(node.layout.read(&path))? else {
            return Ok(None);
        };
        let pem = Secret::new(pem);
        let unusable = |source| PkiError::KeyFile {
            path,
            source: Box::new(source),
        };
        Ok(Some(Self {
            key: PrivateKey::from_pem(pem.expose()).map_err(unusable)?,
            pem,
            is_new: false,
        }))
    }

    /// A key that was made just now.
    pub(crate) fn new(key: PrivateKey) -> Result<Self, PkiError> {
        let pem = key.to_pem()?;
        Ok(Self {
            key,
            pem,
            is_new: true,
        })
    }

    /// A kubeconfig for the user of a certificate of this key.
    pub(crate) fn kubeconfig(
        &self,
        ca: &str,
        server: &str,
        user: &str,
        certificate: &str,
    ) -> Secret {
        let identity = Identity::Certificate {
            certificate,
            key: &self.pem,
        };
        kubeconfig::text(ca, server, user, &identity)
    }
}

/// The URL of an API server.
pub(crate) fn api_server_url(host: &str, port: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("https://[{address}]:{port}"),
        _ => format!("https://{host}:{port}"),
    }
}

/// A certificate and kubeconfig of the node under an authority.
pub(crate) struct Renewed {
    /// The name of its files below `certs`, without the ending.
    name: &'static str,
    key: NodeKey,
    /// PEM.
    certificate: String,
    /// The kubeconfig that holds it: name and text.
    kubeconfig: Option<(String, Secret)>,
}

impl Renewed {
    /// Writes all of it. A key that the node had stays as it is.
    pub(crate) fn write(&self, steps: &mut Steps<'_>) {
        if self.key.is_new {
            steps.key(self.name, &self.key.pem);
        }
        let path = steps.node().layout.cert(&format!("{}.crt", self.name));
        steps.rewrite(&path, &self.certificate, 0o644);
        if let Some((name, text)) = &self.kubeconfig {
            steps.kubeconfig(name, text);
        }
    }
}

/// The node's client certificates under this authority, for the keys that `key` gives by their names.
/// `port` is that of its API server; without one the node's own arguments say it.
pub(crate) fn renew(
    node: &Node,
    ca: &Ca,
    ca_pem: &str,
    port: Option<&str>,
    key: &mut dyn FnMut(&str) -> Result<NodeKey, IdentityError>,
) -> Result<Vec<Renewed>, IdentityError> {
    let hostname = node.name().map_err(IdentityError::Machine)?;
    let addresses = node
        .addresses(node.agent_bind().ip())
        .map_err(IdentityError::Machine)?;
    let arguments = node.arguments("kube-apiserver")?;
    let port = port
        .filter(|port| !port.is_empty())
        .or_else(|| arguments.get("--secure-port"))
        .unwrap_or("16443");
    let server = api_server_url("127.0.0.1", port);
    client_certificates(&hostname, &addresses)
        .into_iter()
        .map(|client| {
            let key = key(client.file)?;
            let certificate = ca.issue(
                &client.subject,
                &key.key,
                Profile::Client(client.names),
                LONG,
            )?;
            let kubeconfig = client
                .kubeconfig
                .map(|(name, user)| (name, key.kubeconfig(ca_pem, &server, &user, &certificate)));
            Ok(Renewed {
                name: client.file,
                key,
                certificate,
                kubeconfig,
            })
        })
        .collect()
}
