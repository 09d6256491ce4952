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
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Frame;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::agent::local_socket::LocalCaller;
use crate::agent::{Shared, local_departure, status};
use crate::base::sanitize;
use crate::cluster::add_node::{self, Serving};
use crate::cluster::join::{self, Audience};
use crate::cluster::status as cluster_status;
use crate::wire::error_body::ErrorBody;
use crate::wire::local_v1::{AddTokenRequest, Hello, JoinEvent, JoinOrder, PROTOCOL};
use crate::wire::routes;

/// The routes for the command line.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(routes::LOCAL_HELLO, get(hello))
        .route(routes::LOCAL_TOKENS, post(add_token))
        .route(routes::LOCAL_JOIN, post(join))
        .route(routes::LOCAL_NODES, get(nodes))
        .merge(local_departure::router())
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
    let issued = tokio::task::spawn_blocking(move || {
        let serving = Serving {
            bind: shared.bind,
            fingerprint: shared.served.fingerprint(),
        };
        let gate = &shared.gate;
        add_node::issue(
            gate.node(),
            gate.tokens(),
            serving,
            request.token,
            request.lifetime,
        )
    })
    .await;
    match issued {
        Ok(Ok(issued)) => {
            tracing::info!(token = %issued.token.digest(), uid = caller.uid, pid = caller.pid, "token issued");
            status::json(StatusCode::OK, &issued)
        }
        Ok(Err(error)) => refuse(&error.to_string()),
        Err(panic) => refuse(&panic.to_string()),
    }
}

async fn nodes(State(shared): State<Arc<Shared>>) -> Response {
    let listed = tokio::task::spawn_blocking(move || {
        cluster_status::nodes(shared.gate.node(), shared.gate.tokens(), shared.bind.ip())
    })
    .await;
    match listed {
        Ok(Ok(list)) => status::json(StatusCode::OK, &list),
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
    let (sender, receiver) = mpsc::unbounded_channel();
    let left = Arc::new(AtomicBool::new(false));
    let mut client = Client {
        events: sender,
        left: left.clone(),
        shared: shared.clone(),
    };
    tokio::task::spawn_blocking(move || join::join(shared.gate.node(), &order, &mut client));
    let body = Body::new(EventBody {
        events: receiver,
        left,
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
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
            JoinEvent::Failed(failure) => {
                let why = failure
                    .microk8s_text
                    .as_deref()
                    .or(failure.error.as_deref())
                    .unwrap_or_default();
                // It may come from the other node.
                let why = sanitize::for_log(why, 500);
                tracing::warn!(
                    stage = failure.stage,
                    exit = failure.exit,
                    "the join failed: {why}"
                );
            }
            event => tracing::info!(?event, "join"),
        }
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        // A client that left is noticed by the flag.
        let _ = self.events.send(Bytes::from(line));
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::SeqCst) || self.shared.stopping.load(Ordering::SeqCst)
    }
}

/// The body of an answer that grows while what was asked for goes on.
pub(super) struct EventBody {
    pub(super) events: UnboundedReceiver<Bytes>,
    pub(super) left: Arc<AtomicBool>,
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
