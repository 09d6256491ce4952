//! Why a node was not removed, and what is said of it.

use crate::base::exit_status::ExitStatus;
use crate::cluster::leave::not_forgotten;
use crate::cluster::node::MembersError;
use crate::cluster::node_lock::NodeLockError;
use crate::cluster::transaction::JournalError;
use crate::model::join_stage::JoinStage;
use crate::platform::CommandError;
use crate::store::database::StoreError;
use crate::store::layout::ReadError;
use crate::wire::operation::Failure;

/// Why a node was not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoveError {
    /// Another change is under way, or the node's directory is not ours.
    #[error(transparent)]
    NodeLock(#[from] NodeLockError),
    /// A worker removes no node.
    #[error("a worker cannot remove nodes")]
    OnWorker,
    /// Kubernetes does not know the node.
    #[error("Kubernetes does not know node {0}")]
    NotInKubernetes(String),
    /// The node is unknown, on a cluster without high availability or without Kubernetes.
    #[error("there is no node {0}")]
    Unknown(String),
    /// The node has no address.
    #[error("node {0} has no address in Kubernetes")]
    NoAddress(String),
    /// The command runs on the node that is to be removed.
    #[error("{0} is this node, and a node cannot remove itself")]
    ThisNode(String),
    /// Several nodes say that they have the address.
    #[error("{address} is claimed in Kubernetes by {nodes}")]
    ClaimedAddress {
        /// The address that was typed.
        address: String,
        /// The nodes' names.
        nodes: String,
    },
    /// Which member of the datastore the node is cannot be told.
    #[error("{why}")]
    InDoubt {
        /// Why not.
        why: String,
        /// How to name the member.
        hint: String,
    },
    /// Kubernetes keeps the node.
    #[error("Kubernetes keeps node {node} until its finalizers are done: {finalizers}")]
    Finalizers {
        /// The node.
        node: String,
        /// Their names.
        finalizers: String,
    },
    /// The node is still a member of the datastore.
    #[error("node {0} is registered with the datastore")]
    Registered(String),
    /// Without it there is no cluster.
    #[error("node {0} is the last member of the datastore, which cannot be removed")]
    LastMember(String),
    /// Kubernetes could not be asked.
    #[error("cannot ask Kubernetes about node {node}: {source}")]
    NotAsked {
        /// The node.
        node: String,
        /// Why.
        source: CommandError,
    },
    /// The datastore did not say who is in the cluster.
    #[error("{}", .0.of_operation())]
    Members(#[from] MembersError),
    /// The datastore did not forget the node.
    #[error("the datastore did not forget the node: {source}")]
    NotForgotten {
        /// The member that was asked first.
        contacted: String,
        /// Why.
        source: CommandError,
    },
    /// Kubernetes did not delete the node.
    #[error("Kubernetes did not delete node {node}: {source}")]
    NotDeleted {
        /// The node.
        node: String,
        /// Why.
        source: CommandError,
    },
    /// A file of this node.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file of this node could not be changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The nodes that this one admitted.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoveError {
    /// How a removal ends that fails with this. The lines of MicroK8s are those of recordings
    /// `remove-node-*`; two of them end in a blank.
    pub(crate) fn outcome(&self) -> Failure {
        const VOTERS: &str = "make sure that most voters of the datastore run and reach each other on its port, 19001, then run the command again";
        const NOT_ALLOWED: &str = "the API server runs, and does not allow this node's administrator to do that: see `credentials/client.config` and the cluster's RBAC rules; what was removed before stays removed, and the same command removes the rest";
        let at = |stage| Failure::new(stage, ExitStatus::Failure, self);
        match self {
            Self::NodeLock(error) => Failure {
                hint: error.hint().map(str::to_owned),
                ..at(JoinStage::Preflight).exits(ExitStatus::NotReady)
            },
            Self::OnWorker => at(JoinStage::Preflight).microk8s(
                "This MicroK8s deployment is acting as a node in a cluster. Please use microk8s leave.",
            ),
            Self::Unknown(node) => {
                at(JoinStage::Preflight).microk8s(&format!("Node {node} does not exist.")).hint("`microk8s nodes` lists the nodes")
            }
            Self::NoAddress(node) => {
                at(JoinStage::Preflight).microk8s(&format!("Node {node} is not part of the cluster.")).hint("with --force it is removed all the same")
            }
            Self::NotInKubernetes(node) => at(JoinStage::Preflight).microk8s(&format!("Node {node} does not exist in Kubernetes.")).hint(
                "`microk8s kubectl get nodes` and `microk8s nodes` list the nodes; with --force a node that only the datastore or this node still knows is removed as well",
            ),
            Self::ClaimedAddress { .. } => at(JoinStage::Preflight).hint(
                "each node says itself which address it has: name the node by its name; with --force a member of the datastore at this address is removed, and no node of Kubernetes",
            ),
            Self::InDoubt { hint, .. } => at(JoinStage::Preflight).hint(hint),
            Self::Registered(node) => at(JoinStage::Preflight).microk8s(&format!(
                "Removal failed. Node {node} is registered with dqlite. Please, run first 'microk8s leave' on the departing node. \n\
                 If the node is not available anymore and will never attempt to join the cluster in the future use the '--force' flag \n\
                 to unregister the node while removing it."
            )),
            Self::LastMember(_) => at(JoinStage::Preflight)
                .hint("to take this node out of service, remove MicroK8s from it"),
            Self::NotAsked { source, .. } if is_refused(source) => at(JoinStage::Preflight).hint(NOT_ALLOWED),
            Self::NotAsked { .. } => at(JoinStage::Preflight).hint(
                "make sure that the API server runs; with --force the node is removed from the datastore all the same",
            ),
            Self::Members(MembersError::NoAnswer(_)) => at(JoinStage::Preflight).hint(VOTERS),
            Self::ThisNode(_) => at(JoinStage::Preflight).hint("to take this node out of its cluster, run `microk8s leave`"),
            Self::Members(MembersError::Malformed(_)) => at(JoinStage::Preflight),
            Self::NotForgotten { contacted, source } => at(JoinStage::Datastore)
                .exits(ExitStatus::NOT_REMOVED)
                .microk8s(&not_forgotten(contacted, source))
                .hint(VOTERS),
            Self::NotDeleted { source, .. } if is_refused(source) => at(JoinStage::ApiServer).hint(NOT_ALLOWED),
            Self::NotDeleted { .. } => at(JoinStage::ApiServer).hint(
                "the datastore does not list the node any more; run the command again when the API server answers",
            ),
            Self::Finalizers { node, .. } => at(JoinStage::ApiServer).hint(format!(
                "all else is removed. The node goes once the programs behind the finalizers are done with it; where they do not run any more, take them off: `microk8s kubectl patch node {node} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'`"
            )),
            Self::Journal(undo @ JournalError::NotUndone(_)) => at(JoinStage::Undo)
                .exits(ExitStatus::NotTakenBack)
                .hint(undo.hint_of_undoing()),
            Self::Read(_) | Self::Journal(_) | Self::Store(_) => at(JoinStage::Apply),
        }
    }
}

/// Whether the API server answered, and does not allow it.
fn is_refused(error: &CommandError) -> bool {
    matches!(error, CommandError::Failed { output, .. }
        if output.contains("(Forbidden)") || output.contains("(Unauthorized)") || output.contains("must be logged in"))
}
