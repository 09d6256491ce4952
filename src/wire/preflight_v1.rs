//! What is found before a join: what the contacted node tells of its side, and what `join --dry-run`
//! asks of the node's own agent. A [`Finding`] is the same on both ways.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// The check: a stable name in kebab case.
    pub(crate) check: String,
    /// What it means for the join.
    pub(crate) severity: Severity,
    /// What was found, for people.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
    /// On which machine that is to be done, where it is one of the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on: Option<Machine>,
    /// The code with which a join would exit for this; its errors only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<u8>,
}

/// What a finding means for the join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub(crate) enum Severity {
    /// As it should be.
    Ok,
    /// It could not be checked.
    Unchecked,
    /// The join works, and something about it will not be as it should.
    Warning,
    /// The join would fail, or the node would not work.
    Error,
}

/// One of the two machines of a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Machine {
    /// The one that is to join.
    JoiningNode,
    /// The one that the connection string names.
    ContactedNode,
}

impl Finding {
    fn new(check: &str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            severity,
            message: message.into(),
            remedy: None,
            on: None,
            exit: None,
        }
    }

    /// All is well.
    pub(crate) fn ok(check: &str, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, message)
    }

    /// A check that could not be made, and why.
    pub(crate) fn unchecked(check: &str, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Unchecked, message)
    }

    /// Something to know.
    pub(crate) fn warning(check: &str, message: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, message)
    }

    /// Something for which a join would exit with this code.
    pub(crate) fn error(check: &str, message: impl Into<String>, exit: u8) -> Self {
        Self {
            exit: Some(exit),
            ..Self::new(check, Severity::Error, message)
        }
    }

    /// Something that is wrong outside of a join, and what to do about it.
    pub(crate) fn fault(
        check: &str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Severity::Error, message).with_remedy(None, remedy)
    }

    /// The same, with what to do about it.
    #[must_use]
    pub(crate) fn with_remedy(
        self,
        on: impl Into<Option<Machine>>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            remedy: Some(remedy.into()),
            on: on.into(),
            ..self
        }
    }
}

/// The answer to `POST /cluster/api/v2.0/join/check` and `POST /cluster/api/v1.0/join/check`, whose
/// requests are those of a join. MicroK8s's own agent knows neither.
///
/// It holds nothing that the answer to a join with the same token is worth something for, no key and
/// no token. The version, and what a finding says of a name, are more than that answer tells.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JoinCheck {
    /// MicroK8s's version on the contacted node.
    pub(crate) version: Option<String>,
    /// The port of its API server; none where it has none.
    pub(crate) apiport: Option<String>,
    /// The arguments in which its API server differs from that of a fresh node in what it admits.
    pub(crate) api_server_limits: BTreeMap<String, String>,
    /// The cluster's pod network.
    pub(crate) cluster_cidr: Option<String>,
    /// The datastore's voters, for a node that is to become one.
    pub(crate) voters: Vec<String>,
    /// Whether the cluster counts the asking node among its members.
    pub(crate) standing: Standing,
    /// What the contacted node found, in the order in which a join would fail.
    pub(crate) findings: Vec<Finding>,
}

/// What a contacted node knows of another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Standing {
    /// It is a member of the cluster.
    Member,
    /// It is none.
    NotMember,
    /// It cannot tell.
    #[default]
    #[serde(other)]
    Unknown,
}
