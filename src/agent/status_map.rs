//! Why a node was not let in, in a word: what metrics count by.

use crate::cluster::admission::AdmitError;
use crate::pki::csr_policy::Violation;

/// The word for a refusal.
pub fn of(error: &AdmitError) -> &'static str {
    match error {
        AdmitError::InvalidToken(refusal) => refusal.reason.as_str(),
        AdmitError::Worker(_) => "worker",
        AdmitError::NotHa => "not-ha",
        AdmitError::IsHa => "is-ha",
        AdmitError::Port(_) => "port",
        AdmitError::SameAddress(_) => "same-address",
        AdmitError::LinkLocal(_) => "link-local",
        AdmitError::Name { .. } => "name-not-resolved",
        AdmitError::NoName(_) => "no-name",
        AdmitError::NameTaken { .. } => "name-taken",
        AdmitError::Unusable(_) => "unusable-value",
        AdmitError::AlreadyKnown { .. } => "already-known",
        AdmitError::NoDatastore => "no-datastore",
        AdmitError::NeedsX509 | AdmitError::NeedsCustomEtcd => "too-old",
        AdmitError::Unsignable(_) => "unsignable",
        AdmitError::Policy(violation) => of_policy(violation),
        AdmitError::ControlPlane(_) | AdmitError::NotAsked(_) => "control-plane-list",
        AdmitError::FirstJoin(_) => "first-join",
        AdmitError::Read { .. } => "read",
        AdmitError::Store(_) => "store",
        AdmitError::Write { .. } => "write",
        AdmitError::NoKnownToken(_) => "no-known-token",
        AdmitError::Service(_) => "service",
        AdmitError::TooManyRestarts(_) => "too-many-restarts",
    }
}

/// The word for what a certificate request asks for against the policy.
fn of_policy(violation: &Violation) -> &'static str {
    match violation {
        Violation::Subject { .. } => "policy-subject",
        Violation::Name(_) | Violation::NamesOfProxy | Violation::TooManyNames => "policy-names",
        Violation::Authority => "policy-authority",
        Violation::Extension(_) => "policy-extension",
    }
}
