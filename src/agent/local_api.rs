//! The local API: what the node's own command line asks for, over the socket.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::agent::local_events::{self, Client};
use crate::agent::local_socket::LocalCaller;
use crate::agent::{Shared, after_response, moved, request_log, status};
use crate::base::sanitize;
use crate::cluster::add_node::{self, AddNodeError, Serving};
use crate::cluster::operation::{self, RunsIn};
use crate::cluster::token_admin::{self, TakeTokens, TokenCareError};
use crate::cluster::{health, status as cluster_status};
use crate::wire::local_v1::{
    AddTokenRequest, Hello, NodeDirectory, PROTOCOL, PruneRequest, Pruned, TokenLine, TokenListEnd,
    TokenSelection,
};
use crate::wire::operation::Operation;
use crate::wire::routes;

/// The routes for the command line.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(routes::LOCAL_HELLO, get(hello))
        .route(routes::LOCAL_TOKENS, post(add_token))
        .route(routes::LOCAL_TOKENS_FIND, post(find_tokens))
        .route(routes::LOCAL_TOKENS_REVOKE, post(revoke_tokens))
        .route(routes::LOCAL_TOKENS_PRUNE, post(prune_tokens))
        .route(routes::LOCAL_OPERATION, post(operate))
        .route(routes::LOCAL_NODES, get(nodes))
        .route(routes::LOCAL_NODES_CHECK, get(check_nodes))
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
    Asked(request): Asked<AddTokenRequest>,
) -> Response {
    let pid = caller.pid;
    answer(move || {
        let serving = Serving {
            bind: shared.bind,
            fingerprint: shared.served.fingerprint(),
        };
        let admission = &shared.admission;
        let (node, tokens) = (admission.node(), admission.tokens());
        let issued = add_node::issue(node, tokens, serving, request, caller.uid)?;
        tracing::info!(token = %issued.token.digest(), uid = caller.uid, pid, "token issued");
        Ok::<_, AddNodeError>(issued)
    })
    .await
}

async fn find_tokens(
    State(shared): State<Arc<Shared>>,
    Asked(selection): Asked<TokenSelection>,
) -> Response {
    answer_with_tokens(selection, move |selection, take| {
        token_admin::find(shared.admission.tokens(), selection, take)
    })
}

async fn revoke_tokens(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    Asked(selection): Asked<TokenSelection>,
) -> Response {
    answer_with_tokens(selection, move |selection, take| {
        token_admin::revoke(shared.admission.tokens(), selection, caller.uid, take)
    })
}

/// Answers with tokens as they come, a line each, and no faster than they are read.
fn answer_with_tokens(
    selection: TokenSelection,
    work: impl FnOnce(&TokenSelection, &mut TakeTokens<'_>) -> Result<TokenListEnd, TokenCareError>
    + Send
    + 'static,
) -> Response {
    let (sender, mut receiver) = mpsc::channel(1);
    request_log::on_a_thread(move || {
        let send = |lines: &[TokenLine]| {
            let mut text = Vec::new();
            for line in lines {
                text.extend(serde_json::to_vec(line).unwrap_or_default());
                text.push(b'\n');
            }
            match sender.blocking_send(Bytes::from(text)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let ended = work(&selection, &mut |tokens| {
            let lines = tokens.into_iter().map(Box::new).map(TokenLine::Token);
            send(&lines.collect::<Vec<_>>())
        });
        let last = ended.map_or_else(
            |error| TokenLine::Failed(log_failure(&error.to_string())),
            TokenLine::End,
        );
        // The client may have left.
        let _: ControlFlow<()> = send(&[last]);
    });
    local_events::lines(move |context| receiver.poll_recv(context))
}

async fn prune_tokens(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    Asked(request): Asked<PruneRequest>,
) -> Response {
    answer(move || {
        let tokens = shared.admission.tokens();
        let pruned = tokens.prune(request.unused_seconds, caller.uid);
        pruned.map(|pruned| Pruned { pruned })
    })
    .await
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

async fn check_nodes(State(shared): State<Arc<Shared>>) -> Response {
    answer(move || health::check(shared.admission.node(), Some(shared.admission.tokens()))).await
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

/// Runs an operation, and sends each event as a line of JSON when it happens. A client that goes away
/// before the end does not want a join or a leave any more. A removal that has begun goes on: it is
/// most of the work, and can be repeated.
async fn operate(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    Asked(operation): Asked<Operation>,
) -> Response {
    log_begin(&operation, caller);
    let (mut client, response) = Client::new(shared.clone(), &operation);
    request_log::on_a_thread(move || {
        let is_dry_run = matches!(&operation, Operation::Join(order) if order.is_dry_run());
        if !is_dry_run {
            client.wait_for_departed();
        }
        let admission = &shared.admission;
        let (node, tokens) = (admission.node(), Some(admission.tokens()));
        if operation::run(node, tokens, &operation, RunsIn::Agent, &mut client).restarts_agent {
            let node = node.clone();
            // The client has the last event; its connection ends with the agent.
            drop(client);
            after_response::restart_agent(&node);
        }
    });
    response
}

fn log_begin(operation: &Operation, caller: LocalCaller) {
    let (uid, pid) = (caller.uid, caller.pid);
    match operation {
        Operation::Join(order) => {
            // Without a connection string only this node is checked.
            let Some(url) = order.urls.first() else {
                return;
            };
            let (to, token, role) = (url.endpoint(), url.token.digest(), order.role);
            match order.dry_run {
                true => tracing::info!(%to, %token, %role, uid, pid, "looking at a join"),
                false => tracing::info!(%to, %token, %role, uid, pid, "joining"),
            }
        }
        Operation::Leave { dry_run } => tracing::info!(dry_run, uid, pid, "leaving the cluster"),
        Operation::RemoveNode(order) => {
            let (node, force) = (sanitize::for_log(&order.node, 253), order.force);
            tracing::info!(%node, force, uid, pid, "removing a node");
        }
        Operation::Launch(_) => tracing::info!(uid, pid, "applying a launch configuration"),
    }
}

/// What is asked for, from a body of JSON.
struct Asked<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Asked<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(IntoResponse::into_response)?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            // The parser's text would quote the request, which holds a token.
            let column = error.column();
            let text = format!(
                "the request is not understood (column {column}); does the agent have another version?"
            );
            status::failure(StatusCode::BAD_REQUEST, text)
        })
    }
}

fn refuse(why: &str) -> Response {
    status::failure(StatusCode::INTERNAL_SERVER_ERROR, log_failure(why))
}

fn log_failure(why: &str) -> String {
    tracing::warn!(why, "a local request failed");
    why.to_owned()
}
