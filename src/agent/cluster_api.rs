//! MicroK8s's cluster API: routes, statuses and bodies as recorded (`http-api.md`).

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Serialize;

use crate::agent::{Shared, status};
use crate::base::sanitize;
use crate::cluster::admit::{AdmitError, Caller, Gate};
use crate::model::token::Token;
use crate::wire::error_body::ErrorBody;
use crate::wire::lenient::DecodeError;
use crate::wire::{cluster_v1, cluster_v2, routes};

/// The largest body that is taken; a certificate request has two kilobytes.
const BODY_LIMIT: usize = 1 << 20;

/// The routes for other nodes.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(routes::HEALTH, only(get(health).head(wrong_method)))
        .route(routes::V1_JOIN, only(post(join_v1)))
        .route(routes::V1_SIGN_CERT, only(post(sign_cert)))
        .route(routes::V2_JOIN, only(post(join_v2)))
        .fallback(not_found)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(shared)
}

/// A known path with another method is 404 without a body (recording `http-wrong-method`).
fn only(methods: MethodRouter<Arc<Shared>>) -> MethodRouter<Arc<Shared>> {
    methods.fallback(wrong_method)
}

///
/// The body is read, and thrown away: over HTTP/2 an answer that comes before the end of the
/// request looks like a fault to some clients.
async fn wrong_method(_body: Bytes) -> StatusCode {
    StatusCode::NOT_FOUND
}

async fn health(_body: Bytes) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
    }
    status::json(StatusCode::OK, &Health { status: "OK" })
}

/// An unknown path, or one that is not written plainly: those are led to the plain one
/// (recording `http-http-1.1`, requests 7 and 8).
async fn not_found(method: Method, uri: Uri, _body: Bytes) -> Response {
    let path = uri.path();
    let plain = plain_path(path);
    if plain == path || method == Method::CONNECT {
        return status::json(StatusCode::NOT_FOUND, &ErrorBody::new("Not found"));
    }
    let location = match uri.query() {
        Some(query) => format!("{plain}?{query}"),
        None => plain,
    };
    let link = escape_html(&location);
    let body = if method == Method::GET {
        format!("<a href=\"{link}\">Moved Permanently</a>.\n\n")
    } else {
        String::new()
    };
    (
        StatusCode::MOVED_PERMANENTLY,
        [
            (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
            (LOCATION, location),
        ],
        body,
    )
        .into_response()
}

/// The path without `//`, `.` and `..`; a slash at its end stays.
fn plain_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", parts.join("/"))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
}

async fn join_v2(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let request = match cluster_v2::JoinRequest::read(&body) {
        Ok(request) => request,
        Err(error) => return undecodable(&error, caller, "join"),
    };
    let line = Line::new(
        "join",
        caller,
        &request.token,
        &request.hostname,
        Some(request.worker.role().to_string()),
    );
    answer(shared, line, move |gate| gate.join(&request, caller)).await
}

async fn join_v1(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let request = match cluster_v1::JoinRequest::read(&body) {
        Ok(request) => request,
        Err(error) => return undecodable(&error, caller, "join-etcd"),
    };
    let line = Line::new("join-etcd", caller, &request.token, &request.hostname, None);
    answer(shared, line, move |gate| gate.join_v1(&request, caller)).await
}

async fn sign_cert(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Response {
    let request = match cluster_v1::SignCertRequest::read(&body) {
        Ok(request) => request,
        Err(error) => return undecodable(&error, caller, "sign-cert"),
    };
    let line = Line::new("sign-cert", caller, &request.token, "", None);
    answer(shared, line, move |gate| {
        let signed = gate.sign_certificate(&request, caller)?;
        tracing::info!(address = %caller.remote, token = %request.token.digest(), subject = signed.subject, "certificate signed");
        Ok(cluster_v1::SignCertResponse {
            certificate: Some(signed.certificate),
        })
    })
    .await
}

fn undecodable(error: &DecodeError, caller: Caller, what: &'static str) -> Response {
    tracing::info!(request = what, address = %caller.remote, %error, outcome = "not understood");
    status::json(StatusCode::BAD_REQUEST, &ErrorBody::new(error.to_string()))
}

/// What the log says of a request: the one place where an operator learns why a join failed.
struct Line {
    request: &'static str,
    caller: Caller,
    token: String,
    node: String,
    role: Option<String>,
}

impl Line {
    fn new(
        request: &'static str,
        caller: Caller,
        token: &Token,
        node: &str,
        role: Option<String>,
    ) -> Self {
        Self {
            request,
            caller,
            token: token.digest().to_string(),
            node: sanitize::for_log(node, 80),
            role,
        }
    }

    fn write(&self, result: Result<(), &AdmitError>) {
        let Self {
            request,
            caller,
            token,
            node,
            role,
        } = self;
        let address = caller.remote;
        let role = role.as_deref().unwrap_or("-");
        match result {
            Ok(()) => tracing::info!(request, %address, node, role, token, outcome = "admitted"),
            Err(AdmitError::InvalidToken(reason)) => {
                let reason = reason.as_str();
                tracing::warn!(request, %address, node, role, token, outcome = "refused", reason, "Invalid token");
            }
            Err(error) => {
                let error = with_sources(error);
                tracing::warn!(request, %address, node, role, token, outcome = "refused", "{error}");
            }
        }
    }
}

fn with_sources(error: &AdmitError) -> String {
    let mut text = error.to_string();
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        let deeper_text = deeper.to_string();
        if !text.contains(&deeper_text) {
            text = format!("{text}: {deeper_text}");
        }
        cause = deeper;
    }
    sanitize::for_log(&text, 500)
}

/// Does the work on a thread of its own, because it reads and writes files and may wait for
/// services, and answers.
async fn answer<T: Serialize + Send + 'static>(
    shared: Arc<Shared>,
    line: Line,
    work: impl FnOnce(&Gate) -> Result<T, AdmitError> + Send + 'static,
) -> Response {
    let limit = shared.timeout;
    let task = tokio::task::spawn_blocking(move || {
        let result = work(&shared.gate);
        line.write(result.as_ref().map(|_| ()));
        result
    });
    match tokio::time::timeout(limit, task).await {
        Ok(Ok(Ok(value))) => status::json(StatusCode::OK, &value),
        Ok(Ok(Err(error))) => status::json(status::of(&error), &status::body(&error)),
        Ok(Err(panic)) => {
            tracing::error!(%panic, "a request failed unexpectedly");
            status::json(
                StatusCode::INTERNAL_SERVER_ERROR,
                &ErrorBody::new("Internal error"),
            )
        }
        Err(_) => status::json(
            StatusCode::SERVICE_UNAVAILABLE,
            &ErrorBody::new(format!(
                "The request took longer than {} seconds",
                limit.as_secs()
            )),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_plain() {
        for (path, plain) in [
            ("/cluster/api/v2.0//join", "/cluster/api/v2.0/join"),
            ("/cluster/../health", "/health"),
            ("/../../x/", "/x/"),
            ("//", "/"),
            ("/health", "/health"),
        ] {
            assert_eq!(plain_path(path), plain);
        }
    }
}
