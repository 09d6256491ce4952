//! What a refusal is on the wire: the one place where the rules meet HTTP.

use std::io::ErrorKind;

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::task::JoinError;

use crate::agent::status_map;
use crate::cluster::admission::AdmitError;
use crate::cluster::capi::RemoveError;
use crate::cluster::configure::ConfigureError;
use crate::cluster::image_import::ImportError;
use crate::cluster::upgrade::UpgradeError;
use crate::wire::error_body::ErrorBody;
use crate::wire::lenient::DecodeError;
use crate::wire::routes;

/// A mark on an answer that refuses an unknown token; it does not travel. The limit on unknown tokens
/// goes by it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnknownToken;

/// The answer to a request that failed.
pub(crate) fn refusal(error: &AdmitError) -> Response {
    let (status, _) = status_map::of(error);
    let mut answer = json(status, &body(error));
    if status_map::is_unknown_token(error) {
        answer.extensions_mut().insert(UnknownToken);
    }
    if let Some(seconds) = error.retry_after() {
        let headers = answer.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
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

fn body(error: &AdmitError) -> ErrorBody {
    let mut body = ErrorBody::new(error.told());
    if let AdmitError::InvalidToken(refusal) = error {
        body.reason = Some(refusal.reason);
    }
    body
}

/// An answer that asks the client to come again after so many seconds.
pub(crate) fn try_again(status: StatusCode, seconds: u64, body: &ErrorBody) -> Response {
    let mut answer = json(status, body);
    answer
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// The answer to a callback that is refused. It counts as an unknown token even where the token
/// is right, so that the caller does not learn the difference.
pub(crate) fn unknown_callback() -> Response {
    let mut answer = failure(StatusCode::INTERNAL_SERVER_ERROR, "Invalid token");
    answer.extensions_mut().insert(UnknownToken);
    answer
}

/// The answer to a callback that failed; a mistake of the caller's differs from trouble here.
pub(crate) fn not_configured(error: &ConfigureError) -> Response {
    let status = match error {
        ConfigureError::UnknownService(_)
        | ConfigureError::NoArguments(_)
        | ConfigureError::Argument { .. }
        | ConfigureError::Addon(_) => StatusCode::BAD_REQUEST,
        ConfigureError::Update { .. }
        | ConfigureError::Restart { .. }
        | ConfigureError::Switch { .. }
        | ConfigureError::NodeLock(_)
        | ConfigureError::Journal(_)
        | ConfigureError::NotTakenBack { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    };
    failure(status, error)
}

/// The answer to an upgrade that failed: always the same status (recording `http-upgrade`).
pub(crate) fn not_upgraded(error: &UpgradeError) -> Response {
    failure(StatusCode::INTERNAL_SERVER_ERROR, error)
}

/// The answer to an image that was not imported (recording `http-image-import`).
pub(crate) fn not_imported(error: &ImportError) -> Response {
    let status = match error {
        ImportError::CutOff(cause) if cause.kind() == ErrorKind::TimedOut => {
            StatusCode::REQUEST_TIMEOUT
        }
        ImportError::CutOff(_) => StatusCode::BAD_REQUEST,
        ImportError::NotTaken(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    failure(status, error)
}

/// The answer when the datastore was not asked to forget a member, or did not (recordings
/// `http-dqlite-remove*`).
pub(crate) fn not_removed(error: &RemoveError) -> Response {
    let status = match error {
        RemoveError::InvalidToken(_) => StatusCode::UNAUTHORIZED,
        RemoveError::NoEndpoint(_) => StatusCode::BAD_REQUEST,
        RemoveError::NoTokenFile(_)
        | RemoveError::LastMember(_)
        | RemoveError::MembersUnknown(_)
        | RemoveError::NotRemoved(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut answer = failure(status, error);
    if matches!(error, RemoveError::InvalidToken(_)) {
        answer.extensions_mut().insert(UnknownToken);
    }
    answer
}

/// A request to forget a member that is no JSON; MicroK8s puts something before its text
/// (recording `http-empty-body`).
pub(crate) fn removal_not_understood(error: &DecodeError) -> Response {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    let inner: String = first.into_iter().chain(letters).collect();
    failure(
        StatusCode::BAD_REQUEST,
        format!("Failed to unmarshal JSON: {inner}"),
    )
}

/// The answer when the work for a request panicked.
pub(crate) fn unexpected(panic: &JoinError) -> Response {
    tracing::error!(%panic, "a request failed unexpectedly");
    failure(StatusCode::INTERNAL_SERVER_ERROR, "Internal error")
}

/// An answer with the text of an error.
pub(crate) fn failure(status: StatusCode, error: impl ToString) -> Response {
    json(status, &ErrorBody::new(error.to_string()))
}

/// A JSON answer, without a newline at its end, as MicroK8s's.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], bytes).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
