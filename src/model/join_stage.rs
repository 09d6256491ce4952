//! The stages of a join, in order, and what can be done when one of them fails.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use crate::base::exit_status::ExitStatus;

/// A part of a join that can fail. Its name stands in messages, in JSON and in the documents.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum JoinStage {
    /// This node, and what was typed, are looked at; nothing is sent.
    Preflight,
    /// The contacted node is connected to, and asked.
    Contact,
    /// It is made sure that the contacted node is the one that is meant.
    Identity,
    /// The contacted node decides whether it admits this one.
    Admission,
    /// What it answered is read.
    Answer,
    /// The node's certificates are signed.
    Certificates,
    /// Files of the node change.
    Apply,
    /// Services of the node start anew.
    Services,
    /// The datastore is waited for to list a control plane node.
    Datastore,
    /// The API server is waited for to answer through a worker's proxy.
    ApiServer,
    /// The join was interrupted, and taken back.
    Interrupted,
    /// What was changed is taken back.
    Undo,
}

/// Whether it is of use to try a join that failed once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// The same command may succeed the next time.
    TryAgain,
    /// The same command may succeed once the cause is cured.
    CureFirst,
    /// The same command will not succeed.
    NoRetry,
}

impl JoinStage {
    /// What is done in it, for people.
    pub(crate) const fn doing(self) -> &'static str {
        match self {
            Self::Preflight => "looking at this node",
            Self::Contact => "contacting the cluster",
            Self::Identity => "verifying the contacted node",
            Self::Admission => "asking to be admitted",
            Self::Answer => "reading the answer",
            Self::Certificates => "getting the certificates of the node",
            Self::Apply => "changing the files of the node",
            Self::Services => "restarting the services of the node",
            Self::Datastore => "waiting for the datastore to list this node",
            Self::ApiServer => "waiting for the API server to answer through this node's proxy",
            Self::Interrupted | Self::Undo => "bringing the node back to what it was",
        }
    }

    /// The exit code of a join that failed in it, unless MicroK8s has another for the case.
    pub const fn exit(self) -> ExitStatus {
        match self {
            Self::Preflight => ExitStatus::NotReady,
            Self::Contact => ExitStatus::Unreachable,
            Self::Identity => ExitStatus::PeerNotVerified,
            Self::Admission => ExitStatus::Refused,
            Self::Answer => ExitStatus::BadAnswer,
            Self::Certificates => ExitStatus::NoCertificates,
            Self::Apply => ExitStatus::NotApplied,
            Self::Services => ExitStatus::ServiceFailed,
            Self::Datastore => ExitStatus::NotListed,
            Self::ApiServer => ExitStatus::NoApiServer,
            Self::Interrupted => ExitStatus::Interrupted,
            Self::Undo => ExitStatus::NotTakenBack,
        }
    }
}

impl Retry {
    /// What it means, for people.
    pub(crate) const fn advice(self) -> &'static str {
        match self {
            Self::TryAgain => "trying the same command again can help",
            Self::CureFirst => "fix the cause, then try the same command again",
            Self::NoRetry => "trying the same command again will not help",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_stage_has_a_name_and_an_exit_code_of_its_own() {
        let names: HashSet<_> = JoinStage::VARIANTS
            .iter()
            .map(|stage| stage.into_str())
            .collect();
        let codes: HashSet<_> = JoinStage::VARIANTS
            .iter()
            .map(|stage| stage.exit())
            .collect();
        assert_eq!((names.len(), codes.len()), (12, 12));
        assert!(JoinStage::VARIANTS.is_sorted());
        for stage in JoinStage::VARIANTS {
            assert_eq!(
                serde_json::to_value(stage).unwrap(),
                serde_json::Value::from(stage.into_str())
            );
        }
    }
}
