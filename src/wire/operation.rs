//! How a join, leave or removal failed: from the node's own agent to the command. Part of version 1 of
//! the local API.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::model::join_stage::Retry;

/// Why an operation failed, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Which part of it failed; of a join, the name of a stage.
    pub stage: String,
    /// Whether it is of use to try again, where that is known.
    pub retry: Option<Retry>,
    /// MicroK8s's own line for this failure, for standard output.
    pub microk8s_text: Option<String>,
    /// What went wrong, where MicroK8s has no line for it.
    pub error: Option<String>,
    /// What to do. It holds no join command and no phrase that scripts look for in what commands
    /// print.
    pub hint: Option<String>,
    /// After how many seconds the contacted node wants to be asked again, where it said so.
    pub retry_after: Option<u64>,
    /// The exit code.
    pub exit: u8,
}

impl Failure {
    /// A failure of this stage, for which MicroK8s has no line. The text may come from another machine.
    pub fn new(stage: &str, exit: ExitStatus, error: &dyn Display) -> Self {
        Self {
            stage: stage.to_owned(),
            retry: None,
            microk8s_text: None,
            error: Some(sanitize::for_terminal(&error.to_string())),
            hint: None,
            retry_after: None,
            exit: exit.code(),
        }
    }

    /// The same, with MicroK8s's own line in place of the error.
    #[must_use]
    pub fn microk8s(self, text: &str) -> Self {
        Self {
            microk8s_text: Some(sanitize::for_terminal(text)),
            error: None,
            ..self
        }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same, with another exit code than the stage has.
    #[must_use]
    pub fn exits(self, exit: ExitStatus) -> Self {
        Self {
            exit: exit.code(),
            ..self
        }
    }

    /// What went wrong, in one text.
    pub fn message(&self) -> Option<&str> {
        self.microk8s_text.as_deref().or(self.error.as_deref())
    }

    /// The exit status of the command.
    pub fn status(&self) -> ExitStatus {
        ExitStatus::from_code(self.exit).unwrap_or(ExitStatus::Failure)
    }
}
