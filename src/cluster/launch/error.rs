//! Why a launch configuration was not applied, and what is said of it.

use std::path::PathBuf;

use crate::base::exit_status::ExitStatus;
use crate::cluster::join::JoinError;
use crate::model::join_stage::JoinStage;
use crate::model::launch_configuration::InvalidLaunchConfiguration;
use crate::platform::CommandError;
use crate::wire::operation::Failure;

/// Why a launch configuration was not applied. Nothing has changed, unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// It is not understood.
    #[error("the launch configuration is not understood: {0}")]
    Invalid(#[from] InvalidLaunchConfiguration),
    /// MicroK8s's own commands switch add-ons.
    #[error("`{name}` needs `microk8s {command}`, which is not on this machine")]
    NoMicroK8s {
        /// The command.
        command: &'static str,
        /// The add-on or repository.
        name: String,
    },
    /// Too little memory for a control plane node.
    #[error("this node has too little memory for a control plane node")]
    Guarded,
    /// Not a place for a file.
    #[error("cannot write `{}`: {why}", path.display())]
    Place {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file, a service, or the join.
    #[error(transparent)]
    Join(JoinError),
    /// It is not wanted any more.
    #[error("the launch configuration was interrupted")]
    Interrupted,
    /// A command of MicroK8s failed. All else of the configuration stands.
    #[error("`microk8s {command}` failed for `{name}`: {}", .source.in_microk8s_words())]
    Addon {
        /// The command.
        command: &'static str,
        /// The add-on or repository.
        name: String,
        /// Why.
        source: CommandError,
    },
}

/// What makes a join fail makes a launch fail.
impl<E: Into<JoinError>> From<E> for LaunchError {
    fn from(error: E) -> Self {
        Self::Join(error.into())
    }
}

impl LaunchError {
    /// How it ends; `running` is the last stage that began.
    pub(crate) fn outcome(&self, running: JoinStage) -> Failure {
        let at = |stage: JoinStage, hint: &str| Failure::new(stage, stage.exit(), self).hint(hint);
        match self {
            Self::Invalid(_) => Failure::new(JoinStage::Preflight, ExitStatus::Failure, self)
                .hint("nothing was changed; `docs/launch-configurations.md` has the fields"),
            Self::NoMicroK8s { .. } => at(
                JoinStage::Preflight,
                "nothing was changed; leave out `addons` and `addonRepositories`, or install MicroK8s's snap",
            ),
            Self::Guarded => at(
                JoinStage::Preflight,
                "nothing was changed; set `worker: true`, or join with `microk8s join --disable-low-memory-guard`",
            ),
            Self::Place { .. } => at(
                JoinStage::Preflight,
                "nothing was changed; files are written below their own folder only, and through no symbolic link",
            ),
            Self::Join(error) => error.outcome(running),
            Self::Interrupted => at(
                JoinStage::Interrupted,
                "this node is as it was, and the same command may be tried again",
            ),
            Self::Addon { .. } => at(
                JoinStage::Services,
                "all else of the configuration is applied; fix what the message names, and apply it again",
            ),
        }
    }
}
