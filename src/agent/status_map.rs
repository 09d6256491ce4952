//! What a refusal is on the wire and in the metrics.

use axum::http::StatusCode;

use crate::cluster::admission::AdmitError;
use crate::model::token_record::Reason;
use crate::pki::csr_policy::Violation;

/// MicroK8s's status for a refusal (recording `http-join-check-order`), and a word for it, which
/// metrics count by.
pub(crate) fn of(error: &AdmitError) -> (StatusCode, &'static str) {
    const FAULT: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;
    const BUSY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    // What is refused for now is granted later.
    let fault_or_busy = error.retry_after().map_or(FAULT, |_| BUSY);
    match error {
        AdmitError::InvalidToken(refusal) => (FAULT, refusal.reason.into_str()),
        AdmitError::Worker(_) => (StatusCode::FORBIDDEN, "worker"),
        AdmitError::NotHa => (StatusCode::NOT_IMPLEMENTED, "not-ha"),
        AdmitError::IsHa => (FAULT, "is-ha"),
        AdmitError::Port(_) => (StatusCode::BAD_GATEWAY, "port"),
        AdmitError::SameAddress(_) => (BUSY, "same-address"),
        AdmitError::LinkLocal(_) => (StatusCode::BAD_REQUEST, "link-local"),
        AdmitError::Name { .. } => (StatusCode::BAD_REQUEST, "name-not-resolved"),
        AdmitError::NoName(_) => (StatusCode::BAD_REQUEST, "no-name"),
        AdmitError::NameTaken { .. } => (StatusCode::BAD_REQUEST, "name-taken"),
        AdmitError::Unusable(_) => (StatusCode::BAD_REQUEST, "unusable-value"),
        AdmitError::AlreadyKnown { .. } => (FAULT, "already-known"),
        AdmitError::NoDatastore => (StatusCode::NOT_IMPLEMENTED, "no-datastore"),
        AdmitError::NeedsX509 | AdmitError::NeedsCustomEtcd => (FAULT, "too-old"),
        AdmitError::Unsignable(_) => (FAULT, "unsignable"),
        AdmitError::Policy(violation) => (FAULT, of_policy(violation)),
        AdmitError::ControlPlane(_) | AdmitError::NotAsked(_) => (FAULT, "control-plane-list"),
        AdmitError::FirstJoin(_) => (fault_or_busy, "first-join"),
        AdmitError::Read { .. } => (FAULT, "read"),
        AdmitError::Store(_) => (fault_or_busy, "store"),
        AdmitError::Write { .. } => (FAULT, "write"),
        AdmitError::NoKnownToken(_) => (FAULT, "no-known-token"),
        AdmitError::Service(_) => (FAULT, "service"),
        AdmitError::TooManyRestarts(_) => (fault_or_busy, "too-many-restarts"),
    }
}

/// Whether a token that is not known was presented. A worker knows none, so every token counts there.
pub(crate) fn is_unknown_token(error: &AdmitError) -> bool {
    match error {
        AdmitError::InvalidToken(refusal) => refusal.reason == Reason::Unknown,
        AdmitError::Worker(_) => true,
        _ => false,
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
