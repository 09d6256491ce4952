//! What nodes of the cluster, and Cluster API, have this node do: `configure`, `upgrade`,
//! `image/import` and `dqlite/remove` (recordings `http-configure-*`, `http-upgrade`,
//! `http-image-import`, `http-dqlite-remove*`).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::header::EXPECT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::post;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::agent::cluster_api::{Whole, in_time, only};
use crate::agent::concurrency_limits::{COME_AGAIN, RequestClass};
use crate::agent::connection_limiter::RequestPermit;
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::Limit;
use crate::agent::{Shared, after_response, image_stream, request_log, status};
use crate::base::sanitize;
use crate::cluster::admission::Caller;
use crate::cluster::callback::Refused;
use crate::cluster::image_import::ImportError;
use crate::cluster::node::Node;
use crate::cluster::{capi, configure, image_import, upgrade};
use crate::model::token::Token;
use crate::wire::cluster_v1::{ConfigureRequest, Done, UpgradeRequest};
use crate::wire::cluster_v2::{Imported, RemoveRequest};
use crate::wire::error_body::ErrorBody;
use crate::wire::lenient::DecodeError;
use crate::wire::routes;

/// How long an image that stands still is waited for, unless a request may take less.
const IMAGE_IDLE: Duration = Duration::from_secs(60);
/// How much of an image that is not taken is read all the same, and for how long: some clients see
/// no answer that comes before the end of what they send.
const LEFT_OVER: usize = 1 << 20;
const LEFT_OVER_TIME: Duration = Duration::from_secs(2);

/// The routes, for the router of the cluster API.
pub fn routes() -> Router<Arc<Shared>> {
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
async fn answered(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Response + Send + 'static,
) -> Response {
    let Some(place) = shared.concurrency_limits.take(RequestClass::Callback).await else {
        return busy(shared);
    };
    let own = shared.clone();
    let done = in_time(shared, move || {
        let answer = work(&own);
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
    let request = match ConfigureRequest::read(&body) {
        Ok(request) => request,
        Err(error) => return not_understood(NAME, caller, &error),
    };
    answered(&shared, move |shared| {
        if let Err(refused) = shared.callbacks.check(&request.callback, caller) {
            return refuse(shared, NAME, caller, &refused);
        }
        let what = told(&request);
        let done = configure::configure(shared.callbacks.node(), &request, shared.timeout);
        note(NAME, caller, &what, done.as_ref().err());
        match done {
            Ok(done) => {
                let answer = status::json(StatusCode::OK, &Done::default());
                match done.restarts_agent {
                    true => then_restart(answer, shared.callbacks.node().clone()),
                    false => answer,
                }
            }
            Err(error) => status::not_configured(&error),
        }
    })
    .await
}

/// The end of the agent is the end of its answers.
fn then_restart(answer: Response, node: Node) -> Response {
    after_response::then(answer, move || match node.platform.restart_agent() {
        Ok(()) => tracing::info!("the agent is restarted"),
        Err(error) => {
            tracing::error!(%error, "the agent cannot be restarted; its new arguments count from its next start");
        }
    })
}

async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Response {
    const NAME: &str = "upgrade";
    let request = match UpgradeRequest::read(&body) {
        Ok(request) => request,
        Err(error) => return not_understood(NAME, caller, &error),
    };
    answered(&shared, move |shared| {
        if let Err(refused) = shared.callbacks.check(&request.callback, caller) {
            return refuse(shared, NAME, caller, &refused);
        }
        let what = format!("{} {}", request.upgrade, request.phase);
        let done = upgrade::run(shared.callbacks.node(), &request, shared.timeout);
        note(NAME, caller, &what, done.as_ref().err());
        match done {
            Ok(()) => status::json(StatusCode::OK, &Done::default()),
            Err(error) => status::not_upgraded(&error),
        }
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
    let answer = take_image(shared, caller, &permit, &headers, &mut body).await;
    // A client that waits to be asked for the body has not sent any.
    if answer.status() != StatusCode::OK && !headers.contains_key(EXPECT) {
        let _ = timeout(LEFT_OVER_TIME, discard(&mut body)).await;
    }
    answer
}

async fn take_image(
    shared: Arc<Shared>,
    caller: Caller,
    permit: &RequestPermit,
    headers: &HeaderMap,
    body: &mut Body,
) -> Response {
    const NAME: &str = "image-import";
    let Some(place) = shared.concurrency_limits.take(RequestClass::Callback).await else {
        return busy(&shared);
    };
    let token = header(headers, routes::CALLBACK_TOKEN);
    let own = shared.clone();
    let check = move || {
        let refused = own.callbacks.check(&token, caller).err()?;
        Some(refuse(&own, NAME, caller, &refused))
    };
    match in_time(&shared, check).await {
        Ok(None) => {}
        Ok(Some(mut refused)) => {
            *refused.status_mut() = StatusCode::UNAUTHORIZED;
            return refused;
        }
        Err(answer) => return answer,
    }
    // The caller is authorized: from here on its connection is not closed to make room for others.
    if !permit.complete() {
        return busy(&shared);
    }
    let limit = shared.timeout;
    let (mut image, pump) = image_stream::channel(body, limit.min(IMAGE_IDLE));
    let import = request_log::on_a_thread(move || {
        let done = image_import::import(shared.callbacks.node(), &mut image, limit);
        let what = format!("{} bytes", image.count());
        let error = done.as_ref().err().map(ImportError::in_full);
        note(NAME, caller, &what, error.as_ref());
        drop(place);
        done
    });
    match pump.until(import).await {
        Ok(Ok(())) => status::json(StatusCode::OK, &Imported::default()),
        Ok(Err(error)) => status::not_imported(&error),
        Err(panic) => status::unexpected(&panic),
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
    let request = match RemoveRequest::read(&body) {
        Ok(request) => request,
        Err(error) => {
            let _logged = not_understood(NAME, caller, &error);
            return status::removal_not_understood(&error);
        }
    };
    let token = header(&headers, routes::CAPI_TOKEN);
    answered(&shared, move |shared| {
        let node = shared.callbacks.node();
        let done = capi::remove(node, &shared.capi_token, &token, &request);
        // The text of the error shows the token that was presented.
        let error = done.as_ref().err().map(|error| match error {
            capi::RemoveError::InvalidToken(_) => "invalid CAPI auth token".to_owned(),
            other => other.to_string(),
        });
        note(NAME, caller, &request.remove_endpoint, error.as_ref());
        match done {
            Ok(()) => status::json(StatusCode::OK, &()),
            Err(error) => status::not_removed(&error),
        }
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
    let (address, reason) = (caller.remote, &refused.0);
    if !shared.token_rate_limit.is_over(address) && log_limit::is_written(Kind::Callback) {
        tracing::warn!(request, %address, outcome = "refused", %reason, "{refused}");
    }
    status::unknown_callback(refused)
}

fn not_understood(request: &str, caller: Caller, error: &DecodeError) -> Response {
    let address = caller.remote;
    if log_limit::is_written(Kind::NotUnderstood) {
        tracing::info!(request, %address, %error, outcome = "not understood");
    }
    status::json(StatusCode::BAD_REQUEST, &ErrorBody::new(error.to_string()))
}

/// What the log says of a request that was allowed.
fn note(request: &str, caller: Caller, what: &str, error: Option<&impl ToString>) {
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
