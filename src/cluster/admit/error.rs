//! Why a node is not let in, and what a stranger is told of it.

use std::net::IpAddr;

use crate::cluster::first_join::FirstJoinError;
use crate::cluster::kubernetes::ListError;
use crate::host::CommandError;
use crate::model::token_life::Refusal;
use crate::pki::PkiError;
use crate::pki::csr_policy::Violation;
use crate::store::database::StoreError;
use crate::store::layout::ReadError;

/// Why a node was not let in; the texts are MicroK8s's (`http-api.md`).
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The token.
    #[error("Invalid token")]
    InvalidToken(Refusal),
    /// This cluster has no high availability.
    #[error("Not possible to join. This is not an HA MicroK8s cluster")]
    NotHa,
    /// This cluster has, and the joining node's has not.
    #[error(
        "Failed to join the cluster. This is an HA MicroK8s cluster.\nPlease retry after enabling HA on this joining node with 'microk8s enable ha-cluster'"
    )]
    IsHa,
    /// The agents listen on different ports.
    #[error("The port of the cluster agent port has to be set to {0}")]
    Port(u16),
    /// The node joins itself.
    #[error("The joining node has the same IP ({0}) as the node we contact")]
    SameAddress(IpAddr),
    /// The node calls from an address that no other node could reach it at.
    #[error(
        "The joining node has the link-local address {0}, which is known on its own link only. Refusing join"
    )]
    LinkLocal(IpAddr),
    /// The node's name leads elsewhere, or nowhere.
    #[error(
        "The hostname ({name}) of the joining node does not resolve to the IP \"{address}\". Refusing join"
    )]
    Name {
        /// The name.
        name: String,
        /// Where the request came from.
        address: IpAddr,
    },
    /// A name that no node can have.
    #[error("The hostname ({0}) of the joining node is not a valid name. Refusing join")]
    NoName(String),
    /// The name of this node, or of one that was let in before.
    #[error("The hostname ({0}) of the joining node is taken by another node. Refusing join")]
    NameTaken(String),
    /// A value that would not fit into this node's files.
    #[error("The {0} of the joining node is not valid. Refusing join")]
    Unusable(&'static str),
    /// The datastore knows the address.
    #[error(
        "Failed to retrieve dqlite cluster nodes: the joining node ({0}) is already known to dqlite"
    )]
    AlreadyKnown(IpAddr),
    /// The node is too old.
    #[error(
        "Joining this MicroK8s cluster requires x509 authentication. update MicroK8s to version 1.28 or newer and retry the join operation"
    )]
    NeedsX509,
    /// The node is too old for an external etcd.
    #[error(
        "This MicroK8s cluster uses a custom etcd endpoint. update MicroK8s to version 1.28 or newer and retry the join operation"
    )]
    NeedsCustomEtcd,
    /// A certificate request that is none. The text is that of MicroK8s's helper program.
    #[error("Failed to sign certificate: sign_certificate failed: exit status 1")]
    Unsignable(#[source] PkiError),
    /// A certificate request that the policy refuses.
    #[error("Failed to sign certificate: {0}")]
    Policy(#[source] Violation),
    /// The list of control plane nodes.
    #[error("Failed to retrieve list of control plane nodes: {0}")]
    ControlPlane(#[from] ListError),
    /// This node could not be made ready for others.
    #[error("Failed to retrieve dqlite cluster nodes: {0}")]
    FirstJoin(#[from] FirstJoinError),
    /// A file of this node.
    #[error("Failed to read the files of this node: {0}")]
    Read(#[from] ReadError),
    /// The token store.
    #[error("Failed to use the token store: {0}")]
    Store(#[from] StoreError),
    /// A file of this node cannot be written.
    #[error("Failed to write `{path}`: {source}")]
    Write {
        /// Which one.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A user that token authentication needs.
    #[error("No known token found for user {0}")]
    NoKnownToken(&'static str),
    /// A service.
    #[error("Failed to restart apiserver service: {0}")]
    Service(#[from] CommandError),
}

impl AdmitError {
    /// What a stranger is told. Whatever is wrong with this node itself stays in its log.
    pub fn told(&self) -> String {
        match self {
            Self::Read(_) => "Failed to read the files of the contacted node".to_owned(),
            Self::Store(_) => "Failed to use the token store of the contacted node".to_owned(),
            Self::Write { .. } => "Failed to write the files of the contacted node".to_owned(),
            other => other.to_string(),
        }
    }
}
