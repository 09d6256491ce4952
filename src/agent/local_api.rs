//! The local API: what the node's own command line asks for, over the socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Serialize;

use crate::agent::local_events::{Client, log_failure};
use crate::agent::local_socket::LocalCaller;
use crate::agent::{Shared, local_departure, moved, request_log, status};
use crate::cluster::add_node::{self, AddNodeError, Serving};
use crate::cluster::join::{self, Audience, RunsIn, preflight};
use crate::cluster::{status as cluster_status, token_admin};
use crate::wire::error_body::ErrorBody;
use crate::wire::local_v1::{
    AddTokenRequest, Hello, JoinEvent, JoinOrder, NodeDirectory, PROTOCOL, TokenSelection,
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
        .layer(middleware::from_fn_with_state(shared.clone(), moved::local))
        .layer(middleware::from_fn(request_log::local))
        .with_state(shared)
}

async fn hello(State(shared): State<Arc<Shared>>) -> Response {
    let revision = shared.admission.node().layout.revision();
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        directory: revision.map(|revision| NodeDirectory {
            path: revision.directory().to_string_lossy().into_owned(),
            identity: revision.identity(),
        }),
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
        let admission = &shared.admission;
        let (node, tokens) = (admission.node(), admission.tokens());
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
        Ok(selection) => {
            answer(move || token_admin::find(shared.admission.tokens(), &selection)).await
        }
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
            answer(move || token_admin::revoke(shared.admission.tokens(), &selection, caller.uid))
                .await
        }
        Err(error) => not_understood(&error),
    }
}

async fn prune_tokens(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
) -> Response {
    answer(move || token_admin::prune(shared.admission.tokens(), caller.uid)).await
}

async fn nodes(State(shared): State<Arc<Shared>>) -> Response {
    answer(move || {
        cluster_status::nodes(
            shared.admission.node(),
            shared.admission.tokens(),
            shared.bind.ip(),
        )
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
    let (mut client, response) = Client::new(shared.clone());
    request_log::on_a_thread(move || {
        client.wait_for_departed();
        join::join(shared.admission.node(), &order, RunsIn::Agent, &mut client);
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
    let (client, response) = Client::new(shared.clone());
    request_log::on_a_thread(move || {
        preflight::check(shared.admission.node(), &order, |event| client.send(&event));
    });
    response
}

impl Audience for Client {
    fn tell(&mut self, event: JoinEvent) {
        match &event {
            JoinEvent::Failed(failure) => log_failure("the join failed", failure),
            event => tracing::info!(?event, "join"),
        }
        self.send(&event);
    }

    fn has_left(&self) -> bool {
        self.is_gone()
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
