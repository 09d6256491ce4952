//! Why a node is not admitted, and what the answer says of it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::io_error_text;
use crate::cluster::first_join::FirstJoinError;
use crate::cluster::first_join::history::TooOften;
use crate::cluster::kubernetes::ListError;
use crate::model::token_record::Refusal;
use crate::pki::PkiError;
use crate::pki::csr_policy::Violation;
use crate::platform::CommandError;
use crate::store::database::StoreError;
use crate::store::layout::ReadError;

/// Why a node was not admitted; the texts are MicroK8s's (recordings `http-join-*`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmitError {
    /// The token.
    #[error("Invalid token")]
    InvalidToken(Refusal),
    /// This node is a worker; the addresses are those of control plane nodes that it knows.
    #[error("Not possible to join. The contacted node is a worker: ask a control plane node{}", listed(.0))]
    Worker(Vec<IpAddr>),
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
    /// The name of this node, or of another one of the cluster.
    #[error("The hostname ({name}) of the joining node is taken by another node{}. Refusing join", at(.by.as_ref()))]
    NameTaken {
        /// The name.
        name: String,
        /// Where that node is, as far as it is known.
        by: Option<IpAddr>,
    },
    /// Whether another node has the name is unknown. The text is that of MicroK8s's agent where
    /// Kubernetes does not answer.
    #[error("Failed to retrieve list of control plane nodes: {0}")]
    NotAsked(String),
    /// A value that would not fit into this node's files.
    #[error("The {0} of the joining node is not valid. Refusing join")]
    Unusable(&'static str),
    /// The datastore knows the address.
    #[error(
        "Failed to retrieve dqlite cluster nodes: the joining node ({address}) is already known to dqlite{}",
        if *.is_confirmed { "" } else { " by its file, and does not answer" }
    )]
    AlreadyKnown {
        /// The address.
        address: IpAddr,
        /// The datastore itself says so. Otherwise it could not be asked, and its file says so.
        is_confirmed: bool,
    },
    /// Control plane nodes share a datastore, and this node runs none.
    #[error("Not possible to join as a control plane node. The contacted node runs no datastore")]
    NoDatastore,
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
    FirstJoin(#[source] Arc<FirstJoinError>),
    /// A file of this node.
    #[error("{what}: {source}")]
    Read {
        /// What it holds.
        what: NodeFile,
        /// Which file, and why.
        #[source]
        source: ReadError,
    },
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
    #[error("Failed to retrieve token for {0} user: no known token found for user {0}")]
    NoKnownToken(&'static str),
    /// A service.
    #[error("Failed to restart apiserver service: {0}")]
    Service(#[from] CommandError),
    /// A service would restart too often.
    #[error(
        "Failed to restart apiserver service: it was restarted for joining nodes as often as it is within an hour; the next time is in {} minutes",
        .0.seconds.div_ceil(60)
    )]
    TooManyRestarts(TooOften),
}

/// What a file of this node holds that a joining node needs. The first four texts are those of
/// MicroK8s's agent, the others are like them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub(crate) enum NodeFile {
    /// The certificate of the cluster's authority.
    #[strum(to_string = "Failed reading cluster CA")]
    ClusterCa,
    /// Its key.
    #[strum(to_string = "Failed to retrieve cluster CA key")]
    ClusterCaKey,
    /// The certificates and the key for an etcd outside.
    #[strum(to_string = "Failed to read etcd certificates")]
    EtcdCertificates,
    /// The tokens of users: this user's is in it.
    #[strum(to_string = "Failed to retrieve token for {0} user")]
    TokenOf(&'static str),
    /// The key of service accounts.
    #[strum(to_string = "Failed to retrieve service account key")]
    ServiceAccountKey,
    /// The certificate of the datastore, or its key.
    #[strum(to_string = "Failed to retrieve dqlite cluster certificate and key")]
    DatastoreCertificate,
    /// The token that this node's agent is called with.
    #[strum(to_string = "Failed to retrieve callback token")]
    CallbackToken,
    /// The arguments of a service.
    #[strum(to_string = "Failed to retrieve {0} arguments")]
    Arguments(&'static str),
}

impl NodeFile {
    /// The error of a file that cannot be read.
    pub(super) fn unreadable(self) -> impl FnOnce(ReadError) -> AdmitError {
        move |source| AdmitError::Read { what: self, source }
    }
}

impl From<FirstJoinError> for AdmitError {
    fn from(error: FirstJoinError) -> Self {
        Arc::new(error).into()
    }
}

impl From<Arc<FirstJoinError>> for AdmitError {
    fn from(error: Arc<FirstJoinError>) -> Self {
        match &*error {
            FirstJoinError::Worker(control_plane) => Self::Worker(control_plane.clone()),
            _ => Self::FirstJoin(error),
        }
    }
}

fn at(address: Option<&IpAddr>) -> String {
    address.map_or_else(String::new, |address| format!(" at {address}"))
}

fn listed(addresses: &[IpAddr]) -> String {
    match addresses {
        [] => String::new(),
        some => {
            let some: Vec<_> = some.iter().map(IpAddr::to_string).collect();
            format!(", for one at {}", some.join(" or "))
        }
    }
}

impl AdmitError {
    /// What a stranger is told: what failed. No path and no command line of this node is in it; its
    /// log has them.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Read { what, source } => format!("{what}: {}", io_error_text::of(&source.source)),
            Self::FirstJoin(error) => {
                format!("Failed to retrieve dqlite cluster nodes: {}", error.told())
            }
            Self::ControlPlane(error) => {
                let why = match error {
                    ListError::Command(error) => error.told(),
                    ListError::NoList => "its answer is not a list of nodes".to_owned(),
                };
                format!("Failed to retrieve list of control plane nodes: Kubernetes: {why}")
            }
            Self::NotAsked(_) => "Failed to retrieve list of control plane nodes: Kubernetes does not answer the contacted node".to_owned(),
            Self::Service(error) => {
                format!("Failed to restart apiserver service: {}", error.told())
            }
            Self::Store(StoreError::Full | StoreError::Contended) => {
                "Too many nodes are joining with this token at the moment, try again in 10 seconds"
                    .to_owned()
            }
            Self::Store(error) if error.retry_after().is_some() => "Failed to use the token store of the cluster: try again in some seconds".to_owned(),
            Self::Store(_) => "Failed to use the token store of the contacted node".to_owned(),
            Self::Write { .. } => "Failed to write the files of the contacted node".to_owned(),
            Self::InvalidToken(_)
            | Self::Worker(_)
            | Self::NotHa
            | Self::IsHa
            | Self::Port(_)
            | Self::SameAddress(_)
            | Self::LinkLocal(_)
            | Self::Name { .. }
            | Self::NoName(_)
            | Self::NameTaken { .. }
            | Self::Unusable(_)
            | Self::AlreadyKnown { .. }
            | Self::NoDatastore
            | Self::NeedsX509
            | Self::NeedsCustomEtcd
            | Self::Unsignable(_)
            | Self::Policy(_)
            | Self::NoKnownToken(_)
            | Self::TooManyRestarts(_) => self.to_string(),
        }
    }

    /// After how many seconds the same request may be granted, where that is known.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::FirstJoin(error) => error.retry_after(),
            Self::TooManyRestarts(too_often) => Some(too_often.seconds),
            Self::Store(error) => error.retry_after(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cluster::datastore_place::MoveError;
    use crate::cluster::node_lock::NodeLockError;
    use crate::cluster::transaction::JournalError;

    const PATH: &str = "/var/snap/microk8s/1/certs/ca.key";

    fn denied() -> io::Error {
        io::Error::from_raw_os_error(13)
    }

    fn unreadable() -> ReadError {
        ReadError {
            path: PATH.into(),
            source: denied(),
        }
    }

    fn command_errors() -> [CommandError; 3] {
        let command = format!("{PATH} get no -o json");
        [
            CommandError::NotStarted {
                command: command.clone(),
                source: denied(),
            },
            CommandError::TimedOut {
                command,
                seconds: 7,
            },
            CommandError::NotAvailable("there is no such service"),
        ]
    }

    /// Each error that comes of what is on this node.
    fn of_this_node() -> Vec<AdmitError> {
        let journal = || JournalError::File {
            doing: "write",
            path: PATH.into(),
            source: denied(),
        };
        let mut errors: Vec<AdmitError> = [
            NodeFile::ClusterCa,
            NodeFile::ClusterCaKey,
            NodeFile::EtcdCertificates,
            NodeFile::TokenOf("admin"),
            NodeFile::ServiceAccountKey,
            NodeFile::DatastoreCertificate,
            NodeFile::CallbackToken,
            NodeFile::Arguments("kubelet"),
        ]
        .map(|what| what.unreadable()(unreadable()))
        .into();
        errors.push(AdmitError::Write {
            path: PATH.to_owned(),
            source: denied(),
        });
        let first_joins = [
            FirstJoinError::Read(unreadable()),
            FirstJoinError::Journal(journal()),
            FirstJoinError::History(denied()),
            FirstJoinError::NodeLock(NodeLockError::Busy),
            FirstJoinError::NodeLock(NodeLockError::NoNode {
                path: PATH.into(),
                source: denied(),
            }),
            FirstJoinError::Move(MoveError::Write {
                path: PATH.into(),
                source: denied(),
            }),
            FirstJoinError::Move(MoveError::NotMoved("10.99.0.11:19001".to_owned())),
            FirstJoinError::Addresses(denied()),
            FirstJoinError::TooOften(TooOften { seconds: 61 }),
        ];
        errors.extend(first_joins.map(AdmitError::from));
        errors.push(AdmitError::TooManyRestarts(TooOften { seconds: 61 }));
        errors.push(AdmitError::ControlPlane(ListError::NoList));
        for error in command_errors() {
            errors.push(AdmitError::ControlPlane(error.into()));
        }
        errors.extend(command_errors().map(AdmitError::Service));
        errors.extend(
            command_errors()
                .map(|error| AdmitError::from(FirstJoinError::Move(MoveError::Service(error)))),
        );
        errors
    }

    #[test]
    fn what_a_joining_node_is_told_names_no_path_and_no_command_line_and_the_log_does() {
        for error in of_this_node() {
            let (told, logged) = (error.told(), error.to_string());
            assert!(!told.contains(['/', '`', '$']), "{told}");
            assert!(!told.contains("get no"), "{told}");
            if logged.contains("cannot") || logged.contains("get no") {
                assert!(
                    logged.contains(PATH) || logged.contains("denied"),
                    "{logged}"
                );
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_in_microk8s_words() {
        let told = |what: NodeFile| what.unreadable()(unreadable()).told();
        for (what, text) in [
            (NodeFile::ClusterCa, "Failed reading cluster CA"),
            (NodeFile::ClusterCaKey, "Failed to retrieve cluster CA key"),
            (
                NodeFile::EtcdCertificates,
                "Failed to read etcd certificates",
            ),
            (
                NodeFile::TokenOf("admin"),
                "Failed to retrieve token for admin user",
            ),
        ] {
            assert_eq!(told(what), format!("{text}: permission denied"));
        }
    }
}
