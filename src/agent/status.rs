//! What a refusal is on the wire: the one place where the rules meet HTTP.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::agent::reasons;
use crate::cluster::admit::AdmitError;
use crate::wire::error_body::ErrorBody;
use crate::wire::routes;

/// MicroK8s's status for each refusal (`http-api.md`; recording `http-join-check-order`).
fn of(error: &AdmitError) -> StatusCode {
    match error {
        AdmitError::NotHa => StatusCode::NOT_IMPLEMENTED,
        AdmitError::Port(_) => StatusCode::BAD_GATEWAY,
        AdmitError::SameAddress(_) => StatusCode::SERVICE_UNAVAILABLE,
        AdmitError::Name { .. }
        | AdmitError::NoName(_)
        | AdmitError::NameTaken(_)
        | AdmitError::Unusable(_) => StatusCode::BAD_REQUEST,
        AdmitError::InvalidToken(_)
        | AdmitError::IsHa
        | AdmitError::AlreadyKnown(_)
        | AdmitError::NeedsX509
        | AdmitError::NeedsCustomEtcd
        | AdmitError::Unsignable(_)
        | AdmitError::Policy(_)
        | AdmitError::ControlPlane(_)
        | AdmitError::FirstJoin(_)
        | AdmitError::Read(_)
        | AdmitError::Store(_)
        | AdmitError::Write { .. }
        | AdmitError::NoKnownToken(_)
        | AdmitError::Service(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Why a request was refused, in a word; a mark on its answer that does not travel. The limit on
/// unknown tokens goes by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// The answer to a request that failed.
pub fn refusal(error: &AdmitError) -> Response {
    let mut answer = json(of(error), &body(error));
    answer.extensions_mut().insert(Refused(reasons::of(error)));
    if let AdmitError::InvalidToken(refusal) = error {
        let seconds = refusal.seconds_ago.map(|seconds| seconds.to_string());
        for (name, value) in [
            (routes::REASON_NODE, refusal.node.clone()),
            (routes::REASON_SECONDS, seconds),
        ] {
            // A name that no header can carry is not told.
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                answer.headers_mut().insert(name, value);
            }
        }
    }
    answer
}

/// What a stranger is told. Whatever is wrong with this node itself stays in its log.
fn body(error: &AdmitError) -> ErrorBody {
    let text = match error {
        AdmitError::Read(_) => "Failed to read the files of the contacted node".to_owned(),
        AdmitError::Store(_) => "Failed to use the token store of the contacted node".to_owned(),
        AdmitError::Write { .. } => "Failed to write the files of the contacted node".to_owned(),
        other => other.to_string(),
    };
    let mut body = ErrorBody::new(text);
    if let AdmitError::InvalidToken(refusal) = error {
        body.reason = Some(refusal.reason);
    }
    body
}

/// An answer that asks the client to come again after so many seconds.
pub fn try_again(status: StatusCode, seconds: u64, body: &ErrorBody) -> Response {
    let mut answer = json(status, body);
    answer
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// A JSON answer, without a newline at its end, as MicroK8s's.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
