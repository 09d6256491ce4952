//! What nodes of the cluster, and Cluster API, have this node do: `configure`, `upgrade`,
//! `image/import` and `dqlite/remove` (recordings `http-configure-*`, `http-upgrade`,
//! `http-image-import`, `http-dqlite-remove*`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::header::EXPECT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use http_body_util::BodyExt;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::Instrument;

use crate::agent::cluster_api::{Whole, in_time, only};
use crate::agent::concurrency_limits::{COME_AGAIN, RequestClass};
use crate::agent::connection_limiter::RequestPermit;
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::Limit;
use crate::agent::{Shared, after_response, status};
use crate::base::sanitize;
use crate::cluster::admission::Caller;
use crate::cluster::callback::Refused;
use crate::cluster::image_import::ImportError;
use crate::cluster::node::Node;
use crate::cluster::{capi, configure, upgrade};
use crate::model::token::Token;
use crate::wire::cluster_v1::{ConfigureRequest, UpgradeRequest};
use crate::wire::cluster_v2::RemoveRequest;
use crate::wire::error_body::ErrorBody;
use crate::wire::lenient::DecodeError;
use crate::wire::routes;

/// What the log calls an image.
const IMAGE_IMPORT: &str = "image-import";
/// How long an image that stands still is waited for, unless a request may take less.
const IMAGE_IDLE: Duration = Duration::from_secs(60);
/// How much of an image that is not taken is read all the same, and for how long: some clients see
/// no answer that comes before the end of what they send.
const LEFT_OVER: usize = 1 << 20;
const LEFT_OVER_TIME: Duration = Duration::from_secs(2);

/// The routes, for the router of the cluster API.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route(routes::V1_CONFIGURE, only(post(configure)))
        .route(routes::V1_UPGRADE, only(post(upgrade)))
        .route(routes::V2_IMAGE_IMPORT, only(post(import_image)))
        .route(
            routes::V2_DQLITE_REMOVE,
            post(remove_from_datastore).fallback(not_allowed),
        )
}

/// Of all paths this one says so (recording `http-wrong-method`).
async fn not_allowed(_body: Whole) -> StatusCode {
    StatusCode::METHOD_NOT_ALLOWED
}

/// Does what was asked for, when there is a place for it.
async fn answered<R: Send + 'static>(
    shared: &Arc<Shared>,
    name: &'static str,
    caller: Caller,
    request: Result<R, DecodeError>,
    work: impl FnOnce(&Shared, R) -> Result<Response, Refused> + Send + 'static,
) -> Response {
    let request = match request {
        Ok(request) => request,
        Err(error) => return not_understood(name, caller, &error),
    };
    let Some(place) = shared.concurrency_limits.take(RequestClass::Callback).await else {
        return busy(shared);
    };
    let own = shared.clone();
    let done = in_time(shared, move || {
        let answer = work(&own, request);
        let answer = answer.unwrap_or_else(|refused| refuse(&own, name, caller, &refused));
        drop(place);
        answer
    });
    done.await.unwrap_or_else(|answer| answer)
}

fn busy(shared: &Shared) -> Response {
    shared.metrics.limit_hit(Limit::Callbacks);
    if log_limit::is_written(Kind::Callback) {
        tracing::warn!(outcome = "refused", "too many callbacks are under way");
    }
    let body = ErrorBody::new(format!(
        "Too many requests are under way, try again in {COME_AGAIN} seconds"
    ));
    status::try_again(StatusCode::SERVICE_UNAVAILABLE, COME_AGAIN, &body)
}

async fn configure(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Response {
    const NAME: &str = "configure";
    let request = ConfigureRequest::read(&body);
    answered(&shared, NAME, caller, request, move |shared, request| {
        shared.callbacks.check(&request.callback, caller)?;
        let node = shared.callbacks.node();
        let done = configure::configure(node, &request, shared.settings.timeout);
        note(NAME, caller, &told(&request), done.as_ref().err());
        Ok(match done {
            Ok(done) if done.restarts_agent => then_restart(ok(), node.clone()),
            Ok(_) => ok(),
            Err(error) => status::not_configured(&error),
        })
    })
    .await
}

fn ok() -> Response {
    status::json(StatusCode::OK, &json!({"result": "ok"}))
}

/// The end of the agent is the end of its answers.
fn then_restart(answer: Response, node: Node) -> Response {
    after_response::then(answer, move || after_response::restart_agent(&node))
}

async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Response {
    const NAME: &str = "upgrade";
    let request = UpgradeRequest::read(&body);
    answered(&shared, NAME, caller, request, move |shared, request| {
        shared.callbacks.check(&request.callback, caller)?;
        let done = upgrade::run(shared.callbacks.node(), &request, shared.settings.timeout);
        let what = format!("{} {}", request.upgrade, request.phase);
        note(NAME, caller, &what, done.as_ref().err());
        Ok(done.map_or_else(|error| status::not_upgraded(&error), |()| ok()))
    })
    .await
}

/// The token is looked at before the body; of that no more is in memory than what is on its way.
async fn import_image(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Extension(permit): Extension<Arc<RequestPermit>>,
    headers: HeaderMap,
    mut body: Body,
) -> Response {
    let answer = match allow_image(&shared, caller, &permit, &headers).await {
        Err(refusal) => refusal,
        Ok(place) => {
            let own = shared.clone();
            // It is completed or ended in order also when its connection is gone.
            let import = async move {
                let (done, count) = take_image(&own, &mut body).await;
                let error = done.as_ref().err().map(ImportError::in_full);
                note(IMAGE_IMPORT, caller, &format!("{count} bytes"), error);
                drop(place);
                (done, body)
            };
            match shared.imports.spawn(import.in_current_span()).await {
                Ok((Ok(()), _)) => {
                    return status::json(StatusCode::OK, &json!({"status": "OK"}));
                }
                Ok((Err(error), rest)) => {
                    body = rest;
                    status::not_imported(&error)
                }
                Err(panic) => return status::unexpected(&panic),
            }
        }
    };
    // A client that waits to be asked for the body has not sent any.
    if !headers.contains_key(EXPECT) {
        let _ = timeout(LEFT_OVER_TIME, discard(&mut body)).await;
    }
    answer
}

/// The place of an image that may be sent, or the answer to one that may not.
async fn allow_image(
    shared: &Arc<Shared>,
    caller: Caller,
    permit: &RequestPermit,
    headers: &HeaderMap,
) -> Result<OwnedSemaphorePermit, Response> {
    let place = shared.concurrency_limits.take(RequestClass::Callback).await;
    let place = place.ok_or_else(|| busy(shared))?;
    let token = header(headers, routes::CALLBACK_TOKEN);
    let own = shared.clone();
    let checked = in_time(shared, move || own.callbacks.check(&token, caller)).await?;
    if let Err(refused) = checked {
        let mut answer = refuse(shared, IMAGE_IMPORT, caller, &refused);
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        return Err(answer);
    }
    // The caller is authorized: from here on its connection is not closed to make room for others.
    match permit.complete() {
        true => Ok(place),
        false => Err(busy(shared)),
    }
}

/// Passes an image on to the container runtime, and counts its bytes. What has not come to its end is
/// not imported.
async fn take_image(shared: &Shared, body: &mut Body) -> (Result<(), ImportError>, usize) {
    let mut count = 0;
    let take = async {
        let platform = &shared.callbacks.node().platform;
        let mut runtime = platform.start_image_import(shared.settings.timeout)?;
        let stall_timeout = shared.settings.timeout.min(IMAGE_IDLE);
        while let Some(piece) = next_piece(body, stall_timeout).await? {
            count += piece.len();
            if !runtime.write(&piece).await? {
                break;
            }
        }
        Ok(runtime.finish().await?)
    };
    let done = tokio::select! {
        done = take => done,
        () = shared.end_imports.cancelled() => {
            Err(ImportError::CutOff(io::Error::other("the agent ended")))
        }
    };
    (done, count)
}

/// The next piece of a body; `None` at its end.
async fn next_piece(
    body: &mut Body,
    stall_timeout: Duration,
) -> Result<Option<Bytes>, ImportError> {
    let piece = async {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    };
    match timeout(stall_timeout, piece).await {
        Ok(piece) => piece.map_err(|error: io::Error| {
            let error = format!("the image did not come to its end: {error}");
            ImportError::CutOff(io::Error::other(error))
        }),
        Err(_) => {
            let error = format!("nothing came for {} seconds", stall_timeout.as_secs());
            let error = io::Error::new(io::ErrorKind::TimedOut, error);
            Err(ImportError::CutOff(error))
        }
    }
}

async fn discard(body: &mut Body) {
    let mut count = 0;
    while let Some(Ok(frame)) = body.frame().await {
        count += frame.data_ref().map_or(0, |data| data.len());
        if count > LEFT_OVER {
            return;
        }
    }
}

async fn remove_from_datastore(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Whole(body): Whole,
) -> Response {
    const NAME: &str = "dqlite-remove";
    let request = RemoveRequest::read(&body);
    if let Err(error) = &request {
        let _logged = not_understood(NAME, caller, error);
        return status::removal_not_understood(error);
    }
    let token = header(&headers, routes::CAPI_TOKEN);
    answered(&shared, NAME, caller, request, move |shared, request| {
        let node = shared.callbacks.node();
        let done = capi::remove(node, &shared.settings.capi_token, &token, &request);
        // The text of the error shows the token that was presented.
        let error = done.as_ref().err().map(|error| match error {
            capi::RemoveError::InvalidToken(_) => "invalid CAPI auth token".to_owned(),
            other => other.to_string(),
        });
        note(NAME, caller, &request.remove_endpoint, error);
        Ok(match done {
            Ok(()) => status::json(StatusCode::OK, &()),
            Err(error) => status::not_removed(&error),
        })
    })
    .await
}

fn header(headers: &HeaderMap, name: &str) -> Token {
    let value = headers.get(name).map(|value| value.as_bytes());
    Token::presented(&String::from_utf8_lossy(value.unwrap_or_default()))
}

/// A stranger learns MicroK8s's text, and that there is a limit to unknown tokens, whatever the
/// reason is; that is in the log.
fn refuse(shared: &Shared, request: &str, caller: Caller, refused: &Refused) -> Response {
    let address = caller.remote;
    if !shared.token_rate_limit.is_over(address) && log_limit::is_written(Kind::Callback) {
        tracing::warn!(request, %address, outcome = "refused", reason = %refused, "Invalid token");
    }
    status::unknown_callback()
}

pub(super) fn not_understood(request: &str, caller: Caller, error: &DecodeError) -> Response {
    let address = caller.remote;
    if log_limit::is_written(Kind::NotUnderstood) {
        tracing::info!(request, %address, %error, outcome = "not understood");
    }
    status::failure(StatusCode::BAD_REQUEST, error)
}

/// What the log says of a request that was allowed.
fn note(request: &str, caller: Caller, what: &str, error: Option<impl ToString>) {
    let (address, what) = (caller.remote, sanitize::for_log(what, 200));
    match error {
        None => tracing::info!(request, %address, what, outcome = "done"),
        Some(error) => {
            let why = sanitize::for_log(&error.to_string(), 500);
            tracing::warn!(request, %address, what, outcome = "failed", "{why}");
        }
    }
}

/// Which services and add-ons a request is about. Values of arguments stay out of the log: they may
/// be secrets.
fn told(request: &ConfigureRequest) -> String {
    let services = request.services.iter().map(|service| {
        let keys = service.update.iter().map(|(key, _)| key.as_str());
        let keys: Vec<&str> = keys
            .chain(service.remove.iter().map(String::as_str))
            .collect();
        let restart = if service.restart { " restart" } else { "" };
        format!("{} [{}]{restart}", service.name, keys.join(" "))
    });
    let addons = request
        .addons
        .iter()
        .map(|addon| format!("addon {}", addon.name));
    services.chain(addons).collect::<Vec<_>>().join(", ")
}
