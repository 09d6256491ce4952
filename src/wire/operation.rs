//! What changes a node or its cluster, `join`, `leave`, `remove-node` and `init`, and dry runs: what
//! the command asks the node's own agent for, and what it is told while that goes on.
//!
//! Part of version 1 of the local API. The command and the agent are one program, and
//! [`super::local_v1::PROTOCOL`] grows with each change of this.

use std::fmt::Display;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::base::secret::Secret;
use crate::model::fingerprint::FingerprintPrefix;
use crate::model::join_stage::{JoinStage, Retry};
use crate::model::join_url::JoinUrl;
use crate::model::node_label::NodeLabel;
use crate::model::role::Role;
use crate::wire::preflight_v1::Finding;

/// `POST /local/v1/operation`, answered by a line of JSON for each [`Event`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// The node joins a cluster.
    Join(JoinOrder),
    /// The node leaves its cluster.
    Leave {
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Another node is removed from the cluster.
    RemoveNode(RemoveOrder),
    /// A launch configuration is applied to the node.
    Launch(LaunchOrder),
}

/// A launch configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchOrder {
    /// The YAML documents; they may hold tokens.
    pub(crate) configuration: Secret,
    /// The services do not run yet: none is restarted, no cluster is joined, and add-ons are left
    /// as they are.
    pub(crate) pre_init: bool,
}

/// A join.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinOrder {
    /// Whom to contact, and with what: the first of these nodes that can be reached. Without any the
    /// order is a dry run of this node alone.
    pub urls: Vec<JoinUrl>,
    /// Only say what stands in the way of the join.
    pub dry_run: bool,
    /// What to join as.
    pub role: Role,
    /// Whether the operator named the role; MicroK8s's client tells the contacted node.
    pub role_was_named: bool,
    /// Whether the contacted node's certificate may be any.
    pub skip_verify: bool,
    /// Whether the node joins although it has little memory.
    pub disable_low_memory_guard: bool,
    /// How many seconds the whole join may take, until the datastore lists the node, or the API
    /// server answers a worker through its proxy. Bringing the node back does not count.
    pub timeout_seconds: u64,
    /// Labels for the node, beside those that the join gives it.
    pub labels: Vec<NodeLabel>,
    /// The address under which the node registers itself with Kubernetes, one of its own; without
    /// one the kubelet chooses, as the contacted node's arguments say.
    pub node_ip: Option<IpAddr>,
}

/// A removal of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RemoveOrder {
    /// The node's name or address, as it was typed.
    pub(crate) node: String,
    /// Remove it although the datastore lists it, or although Kubernetes does not know it.
    pub(crate) force: bool,
    /// A node that is not there is no failure.
    pub(crate) if_present: bool,
}

impl JoinOrder {
    /// The fingerprints of which the contacted node's certificate is to have one; any certificate will
    /// do where there are none.
    pub(crate) fn fingerprints(&self) -> impl Iterator<Item = FingerprintPrefix> + '_ {
        let given = self.urls.iter().filter(|_| !self.skip_verify);
        given.filter_map(|url| url.fingerprint.clone())
    }

    /// Whether nothing is changed.
    pub(crate) const fn is_dry_run(&self) -> bool {
        self.dry_run || self.urls.is_empty()
    }
}

/// What happens during an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// A node of the cluster is contacted.
    Contacting {
        /// Its address.
        address: IpAddr,
        /// MicroK8s prints it too; it does not in the older flow, nor in a dry run.
        from_microk8s: bool,
    },
    /// A stage begins that no other event tells of.
    Stage {
        /// Which one.
        stage: JoinStage,
        /// What is done in it, for people.
        doing: String,
    },
    /// A line that MicroK8s prints on standard output.
    Line {
        /// The line.
        text: String,
    },
    /// Something to know that stops nothing.
    Warning {
        /// The warning; several lines where MicroK8s prints several.
        message: String,
        /// MicroK8s prints it too, on standard output.
        from_microk8s: bool,
    },
    /// What a program printed on its standard error when it failed.
    Stderr {
        /// One line of it, or more.
        text: String,
    },
    /// Something is waited for: by a join the datastore that lists the node, by a leave the node's own
    /// API server.
    Waiting {
        /// The stage that begins with it.
        stage: JoinStage,
        /// As MicroK8s says it.
        message: String,
    },
    /// It is not there yet.
    NotYet,
    /// It could not be asked.
    NotAnswering,
    /// The waiting is over.
    WaitingDone,
    /// A check of a dry run is done.
    Finding(Finding),
    /// The operation is over; the last event.
    End(End),
}

impl Event {
    /// A stage begins, in which this is done.
    pub(crate) fn stage(stage: JoinStage, doing: &str) -> Self {
        Self::Stage {
            stage,
            doing: doing.to_owned(),
        }
    }

    /// A line that MicroK8s prints.
    pub(crate) fn line(text: impl Into<String>) -> Self {
        Self::Line { text: text.into() }
    }

    /// A warning of this program's own.
    pub(crate) fn warning(message: impl Into<String>) -> Self {
        Self::Warning {
            message: message.into(),
            from_microk8s: false,
        }
    }

    /// The stage that begins with it.
    pub(crate) const fn begins(&self) -> Option<JoinStage> {
        match self {
            Self::Contacting { .. } => Some(JoinStage::Contact),
            Self::Stage { stage, .. } | Self::Waiting { stage, .. } => Some(*stage),
            Self::Line { .. }
            | Self::Warning { .. }
            | Self::Stderr { .. }
            | Self::NotYet
            | Self::NotAnswering
            | Self::WaitingDone
            | Self::Finding(_)
            | Self::End(_) => None,
        }
    }
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(tag = "end", rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub(crate) enum End {
    /// The node is a member.
    Joined {
        /// As what.
        role: Role,
        /// It reaches the API servers through a proxy of its own, which can be configured.
        has_api_proxy: bool,
    },
    /// The node was a member of this cluster before; nothing was changed.
    AlreadyMember {
        /// As what.
        role: Role,
    },
    /// The node is not in the cluster, which is no failure; nothing was changed.
    Absent {
        /// Which node.
        text: String,
    },
    /// All checks of a dry run of a join are done.
    Checked {
        /// As what the node is a member of that cluster already.
        member: Option<Role>,
    },
    /// The node has left.
    Left {
        /// What it was in the cluster.
        role: Role,
        /// The name under which Kubernetes lists it on the nodes that stay.
        listed_as: Option<String>,
    },
    /// What a leave would do, in order.
    Planned {
        /// What the node is in the cluster.
        role: Role,
        /// One line a step.
        steps: Vec<String>,
        /// The name under which Kubernetes lists it on the nodes that stay.
        listed_as: Option<String>,
    },
    /// The node is gone, or there was none.
    Removed,
    /// The launch configuration is applied.
    Launched,
    /// The operation failed.
    Failed(Failure),
}

impl End {
    /// What this node is in the cluster, was there, or would have been.
    pub(crate) const fn role(&self) -> Option<Role> {
        match self {
            Self::Joined { role, .. }
            | Self::AlreadyMember { role }
            | Self::Left { role, .. }
            | Self::Planned { role, .. } => Some(*role),
            Self::Checked { member } => *member,
            Self::Absent { .. } | Self::Removed | Self::Launched | Self::Failed(_) => None,
        }
    }

    /// What is left to do on another node after a leave.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Left { listed_as, .. } | Self::Planned { listed_as, .. } => {
                let name = listed_as.as_deref()?;
                Some(format!(
                    "run `microk8s remove-node {name}` on a node that stays in the cluster, where `microk8s nodes` still lists this node"
                ))
            }
            _ => None,
        }
    }
}

/// Why an operation failed, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Which part of it failed.
    pub(crate) stage: JoinStage,
    /// Whether it is of use to try again, where that is known.
    pub(crate) retry: Option<Retry>,
    /// MicroK8s's own line for this failure, for standard output.
    pub(crate) microk8s_text: Option<String>,
    /// What went wrong, in a line of this program's own.
    pub(crate) error: String,
    /// What to do. It holds no join command and no phrase that scripts look for in what commands
    /// print.
    pub(crate) hint: Option<String>,
    /// After how many seconds the contacted node wants to be asked again, where it said so.
    pub(crate) retry_after: Option<u64>,
    /// The contacted node does not know the token, perhaps not yet.
    pub(crate) is_token_unknown: bool,
    /// The exit code.
    pub(crate) exit: u8,
}

impl Failure {
    /// A failure of this stage, for which MicroK8s has no line. The text may come from another machine.
    pub(crate) fn new(stage: JoinStage, exit: ExitStatus, error: &dyn Display) -> Self {
        Self {
            stage,
            retry: None,
            microk8s_text: None,
            error: sanitize::for_terminal(&error.to_string()),
            hint: None,
            retry_after: None,
            is_token_unknown: false,
            exit: exit.code(),
        }
    }

    /// The same, with MicroK8s's own line beside the error.
    #[must_use]
    pub(crate) fn microk8s(mut self, text: &str) -> Self {
        self.microk8s_text = Some(sanitize::for_terminal(text));
        self
    }

    /// The same, with what to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, with another exit code than the stage has.
    #[must_use]
    pub(crate) fn exits(mut self, exit: ExitStatus) -> Self {
        self.exit = exit.code();
        self
    }

    /// Whether time alone may cure it, so that `join --wait` tries again.
    pub(crate) fn may_pass(&self) -> bool {
        let is_interrupted = self.stage == JoinStage::Interrupted;
        self.is_token_unknown || (self.retry == Some(Retry::TryAgain) && !is_interrupted)
    }

    /// What went wrong, in one text.
    pub(crate) fn message(&self) -> &str {
        self.microk8s_text.as_deref().unwrap_or(&self.error)
    }

    /// The exit status of the command.
    pub(crate) fn status(&self) -> ExitStatus {
        ExitStatus::from_repr(self.exit).unwrap_or(ExitStatus::Failure)
    }
}
