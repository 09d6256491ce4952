//! The local API: what the node's own command line asks for, over the socket.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::agent::local_socket::LocalCaller;
use crate::agent::{Shared, local_departure, request_log, status};
use crate::base::sanitize;
use crate::cluster::add_node::{self, AddNodeError, Serving};
use crate::cluster::join::{self, Audience, RunsIn, preflight};
use crate::cluster::{status as cluster_status, token_care};
use crate::wire::error_body::ErrorBody;
use crate::wire::local_v1::{
    AddTokenRequest, Hello, JoinEvent, JoinFailure, JoinOrder, PROTOCOL, TokenSelection,
};
use crate::wire::preflight_v1::CheckOrder;
use crate::wire::routes;

/// The routes for the command line.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(routes::LOCAL_HELLO, get(hello))
        .route(routes::LOCAL_TOKENS, post(add_token))
        .route(routes::LOCAL_TOKENS_FIND, post(find_tokens))
        .route(routes::LOCAL_TOKENS_REVOKE, post(revoke_tokens))
        .route(routes::LOCAL_TOKENS_PRUNE, post(prune_tokens))
        .route(routes::LOCAL_JOIN, post(join))
        .route(routes::LOCAL_JOIN_CHECK, post(check_join))
        .route(routes::LOCAL_NODES, get(nodes))
        .merge(local_departure::router())
        .layer(middleware::from_fn(request_log::local))
        .with_state(shared)
}

async fn hello() -> Response {
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    status::json(StatusCode::OK, &hello)
}

async fn add_token(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    body: Bytes,
) -> Response {
    let request: AddTokenRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return not_understood(&error),
    };
    let pid = caller.pid;
    answer(move || {
        let serving = Serving {
            bind: shared.bind,
            fingerprint: shared.served.fingerprint(),
        };
        let gate = &shared.gate;
        let (node, tokens) = (gate.node(), gate.tokens());
        let issued = add_node::issue(
            node,
            tokens,
            serving,
            request.token,
            &request.terms,
            caller.uid,
        )?;
        tracing::info!(token = %issued.token.digest(), uid = caller.uid, pid, "token issued");
        Ok::<_, AddNodeError>(issued)
    })
    .await
}

async fn find_tokens(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    match serde_json::from_slice::<TokenSelection>(&body) {
        Ok(selection) => answer(move || token_care::find(shared.gate.tokens(), &selection)).await,
        Err(error) => not_understood(&error),
    }
}

async fn revoke_tokens(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    body: Bytes,
) -> Response {
    match serde_json::from_slice::<TokenSelection>(&body) {
        Ok(selection) => {
            answer(move || token_care::revoke(shared.gate.tokens(), &selection, caller.uid)).await
        }
        Err(error) => not_understood(&error),
    }
}

async fn prune_tokens(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
) -> Response {
    answer(move || token_care::prune(shared.gate.tokens(), caller.uid)).await
}

async fn nodes(State(shared): State<Arc<Shared>>) -> Response {
    answer(move || {
        cluster_status::nodes(shared.gate.node(), shared.gate.tokens(), shared.bind.ip())
    })
    .await
}

/// Does what may wait for the disk on a thread of its own, and answers with what came of it.
async fn answer<T: Serialize + Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Response {
    match request_log::on_a_thread(work).await {
        Ok(Ok(value)) => status::json(StatusCode::OK, &value),
        Ok(Err(error)) => refuse(&error.to_string()),
        Err(panic) => refuse(&panic.to_string()),
    }
}

/// Joins, and sends each event as a line of JSON when it happens. A client that goes away
/// before the end does not want the join any more.
async fn join(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    body: Bytes,
) -> Response {
    let order: JoinOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return not_understood(&error),
    };
    tracing::info!(
        to = %order.url.endpoint(),
        token = %order.url.token.digest(),
        role = %order.role,
        uid = caller.uid,
        pid = caller.pid,
        "joining"
    );
    let (events, left, response) = stream();
    let mut client = Client {
        events,
        left,
        shared: shared.clone(),
    };
    request_log::on_a_thread(move || {
        join::join(shared.gate.node(), &order, RunsIn::Agent, &mut client);
    });
    response
}

/// Looks what stands in the way of a join, and sends each finding when it is there.
async fn check_join(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    body: Bytes,
) -> Response {
    let order: CheckOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return not_understood(&error),
    };
    if let Some(url) = &order.url {
        let (to, token) = (url.endpoint(), url.token.digest());
        let (uid, pid) = (caller.uid, caller.pid);
        tracing::info!(%to, %token, role = %order.role, uid, pid, "looking at a join");
    }
    let (events, _, response) = stream();
    request_log::on_a_thread(move || {
        preflight::check(shared.gate.node(), &order, |event| send(&events, &event));
    });
    response
}

/// The client that a join is for.
struct Client {
    events: UnboundedSender<Bytes>,
    left: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Audience for Client {
    fn tell(&mut self, event: JoinEvent) {
        match &event {
            JoinEvent::Failed(failure) => log_failure("the join failed", failure),
            event => tracing::info!(?event, "join"),
        }
        send(&self.events, &event);
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst) || self.shared.is_stopping()
    }
}

/// A way for events to an answer that grows with them, and a flag that tells when nobody reads.
pub(super) fn stream() -> (UnboundedSender<Bytes>, Arc<AtomicBool>, Response) {
    let (sender, receiver): (_, UnboundedReceiver<Bytes>) = mpsc::unbounded_channel();
    let left = Arc::new(AtomicBool::new(false));
    let body = Body::new(EventBody {
        events: receiver,
        left: left.clone(),
    });
    let response = ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response();
    (sender, left, response)
}

/// Sends one event as a line of JSON.
pub(super) fn send(events: &UnboundedSender<Bytes>, event: &impl Serialize) {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    // A client that left is noticed by the flag.
    let _ = events.send(Bytes::from(line));
}

/// What the log says of something that failed; the text may come from another node.
pub(super) fn log_failure(what: &str, failure: &JoinFailure) {
    let why = failure
        .microk8s_text
        .as_deref()
        .or(failure.error.as_deref())
        .unwrap_or_default();
    let why = sanitize::for_log(why, 500);
    tracing::warn!(stage = failure.stage, exit = failure.exit, "{what}: {why}");
}

/// The body of an answer that grows while what was asked for goes on.
struct EventBody {
    events: UnboundedReceiver<Bytes>,
    left: Arc<AtomicBool>,
}

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.events
            .poll_recv(context)
            .map(|event| event.map(|line| Ok(Frame::data(line))))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        self.left.store(true, Ordering::SeqCst);
    }
}

/// The parser's text would quote the request, which holds a token.
pub(super) fn not_understood(error: &serde_json::Error) -> Response {
    let text = format!(
        "the request is not understood (column {}); does the agent have another version?",
        error.column()
    );
    status::json(StatusCode::BAD_REQUEST, &ErrorBody::new(text))
}

fn refuse(why: &str) -> Response {
    tracing::warn!(why, "a local request failed");
    status::json(StatusCode::INTERNAL_SERVER_ERROR, &ErrorBody::new(why))
}
