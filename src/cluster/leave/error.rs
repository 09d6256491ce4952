//! Why a leave failed, and what is said of it.

use std::path::PathBuf;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cluster::identity::IdentityError;
use crate::cluster::node::MembersError;
use crate::cluster::node_lock::NodeLockError;
use crate::cluster::operation::Progress;
use crate::cluster::transaction::JournalError;
use crate::model::join_stage::JoinStage;
use crate::pki::PkiError;
use crate::platform::CommandError;
use crate::wire::operation::{Event, Failure};

/// Why a leave failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaveError {
    /// Another change is under way, or the node's directory is not ours.
    #[error(transparent)]
    NodeLock(#[from] NodeLockError),
    /// There is nothing to leave.
    #[error("this node is not in a cluster")]
    NotInCluster,
    /// The others would be left without the data.
    #[error("this node is the only voter of the datastore, and others depend on it")]
    OnlyVoter,
    /// Nothing of the cluster would be left.
    #[error(
        "this node has no datastore, so it is the only control plane node of its cluster, and cannot leave"
    )]
    OnlyControlPlane,
    /// A worker without the mark of one.
    #[error("this worker has no `{}`", .0.display())]
    NotMarked(PathBuf),
    /// The datastore did not say who is in the cluster.
    #[error("{}", .0.of_operation())]
    Members(#[from] MembersError),
    /// The datastore did not forget the node.
    #[error("the datastore did not forget this node: {source}")]
    NotForgotten {
        /// The member that was asked first.
        contacted: String,
        /// Why.
        source: CommandError,
    },
    /// A file of the node, a key or certificate, or what the machine does not know of itself.
    #[error(transparent)]
    Identity(IdentityError),
    /// A change.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The datastore has forgotten the node, and the rest is still to be done.
    #[error(
        "the cluster's datastore has forgotten this node, but it could not be made a single node again: {0}"
    )]
    NotCompleted(#[source] JournalError),
    /// The leave was interrupted by a signal, or its client has gone.
    #[error("interrupted")]
    Interrupted,
    /// The leave failed, and the node is not as it was.
    #[error("{error}; not everything could be undone: {undo}")]
    NotTakenBack {
        /// Why the leave failed.
        error: Box<LeaveError>,
        /// Why it could not be undone.
        undo: JournalError,
    },
}

/// What keeps a node from having an identity of its own keeps it from leaving.
impl<E: Into<IdentityError>> From<E> for LeaveError {
    fn from(error: E) -> Self {
        Self::Identity(error.into())
    }
}

impl LeaveError {
    /// How a leave ends that fails with this. The lines of MicroK8s are those of recordings `leave-*`.
    pub(crate) fn outcome(&self) -> Failure {
        let at = |stage| Failure::new(stage, ExitStatus::Failure, self);
        match self {
            Self::NodeLock(error) => Failure {
                hint: error.hint().map(str::to_owned),
                ..at(JoinStage::Preflight).exits(ExitStatus::NotReady)
            },
            Self::NotInCluster => at(JoinStage::Preflight)
                .microk8s("This MicroK8s deployment is not acting as a node in a cluster."),
            Self::OnlyVoter => at(JoinStage::Preflight).exits(ExitStatus::OnlyVoter).microk8s(
                "This node currently holds the only copy of the Kubernetes database so it cannot leave the cluster.\n\
                 To remove this node you can either first remove all other nodes with 'microk8s remove-node' or\n\
                 form a highly available cluster by adding at least three nodes.",
            ),
            Self::OnlyControlPlane => at(JoinStage::Preflight)
                .exits(ExitStatus::OnlyVoter)
                .hint("run `microk8s leave` on each worker, then `microk8s remove-node` for it here"),
            Self::NotMarked(_) => at(JoinStage::Preflight)
                .exits(ExitStatus::NOT_REMOVED)
                .microk8s("Not in clustering mode.")
                .hint("make that file, which marks a worker, and run the command again; nothing was changed"),
            Self::Members(MembersError::NoAnswer(_)) => at(JoinStage::Preflight).hint(
                "a leave needs a datastore that answers: read the log of this node's datastore, and whether most of the voters run",
            ),
            Self::Identity(IdentityError::Machine(_)) | Self::Members(MembersError::Malformed(_)) => at(JoinStage::Preflight),
            Self::NotForgotten { contacted, source } => at(JoinStage::Datastore)
                .exits(ExitStatus::NOT_REMOVED)
                .microk8s(&not_forgotten(contacted, source))
                .hint("this node is as it was; make sure that most voters of the datastore run and reach each other on its port, 19001, then run the command again"),
            Self::Identity(IdentityError::Pki(PkiError::KeyFile { .. })) => at(JoinStage::Apply).hint(
                "put a key that can be used there, or move the file away, and a new key is made; nothing was changed",
            ),
            Self::Journal(JournalError::Service(_)) => at(JoinStage::Apply).hint(
                "read the service's log; this node is as it was, and the same command may be tried again",
            ),
            Self::Journal(undo @ JournalError::NotUndone(_)) | Self::NotTakenBack { undo, .. } => {
                at(JoinStage::Undo)
                    .exits(ExitStatus::NotTakenBack)
                    .hint(undo.hint_of_undoing())
            }
            Self::Identity(_) | Self::Journal(_) => at(JoinStage::Apply),
            Self::NotCompleted(_) => at(JoinStage::Services).hint(
                "fix the cause; the next start of the node's agent, or the next command, completes the leave",
            ),
            Self::Interrupted => at(JoinStage::Interrupted),
        }
    }
}

/// Passes on what the shell of the datastore said, which MicroK8s's command lets through.
pub(crate) fn tell_what_it_said(error: &CommandError, progress: &mut dyn Progress) {
    if let CommandError::Failed { output, .. } = error
        && !output.trim().is_empty()
    {
        let text = sanitize::for_terminal(output.trim_end());
        progress.tell(Event::Stderr { text });
    }
}

/// MicroK8s's line when the shell cannot remove a member, and what was tried (recordings
/// `leave-dqlite-remove-fails` and `remove-node-remove-fails`).
pub(crate) fn not_forgotten(contacted: &str, source: &CommandError) -> String {
    let tried = match source {
        CommandError::Failed {
            command, status, ..
        } => format!("`{command}` failed ({status})"),
        other => other.to_string(),
    };
    let tried = sanitize::for_terminal(&tried);
    format!("Contacting node {contacted} failed. Error:\n{tried}")
}
