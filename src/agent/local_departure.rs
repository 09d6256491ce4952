//! The part of the local API by which nodes leave and are removed.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::post;

use crate::agent::local_api::not_understood;
use crate::agent::local_events::{Client, log_failure};
use crate::agent::local_socket::LocalCaller;
use crate::agent::{Shared, request_log};
use crate::base::sanitize;
use crate::cluster::leave::{self, Audience};
use crate::cluster::remove_node;
use crate::wire::leave_v1::{LeaveEvent, LeaveOrder, RemoveEvent, RemoveOrder};
use crate::wire::routes;

/// The routes.
pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route(routes::LOCAL_LEAVE, post(leave))
        .route(routes::LOCAL_REMOVE_NODE, post(remove_node))
}

/// Leaves, and sends each event as a line of JSON when it happens. A client that goes away before
/// the end does not want the leave any more.
async fn leave(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    body: Bytes,
) -> Response {
    let order: LeaveOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return not_understood(&error),
    };
    tracing::info!(
        dry_run = order.dry_run,
        uid = caller.uid,
        pid = caller.pid,
        "leaving the cluster"
    );
    let (mut client, response) = Client::new(shared.clone());
    request_log::on_a_thread(move || {
        client.wait_for_departed();
        let admission = &shared.admission;
        leave::leave(
            admission.node(),
            Some(admission.tokens()),
            &order,
            &mut client,
        );
    });
    response
}

/// Removes a node, and sends each event as a line of JSON when it happens. A removal that has begun
/// is not cut short when the client goes away: it is most of the work, and can be repeated.
async fn remove_node(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<LocalCaller>,
    body: Bytes,
) -> Response {
    let order: RemoveOrder = match serde_json::from_slice(&body) {
        Ok(order) => order,
        Err(error) => return not_understood(&error),
    };
    tracing::info!(
        node = %sanitize::for_log(&order.node, 253),
        force = order.force,
        uid = caller.uid,
        pid = caller.pid,
        "removing a node"
    );
    let (client, response) = Client::new(shared.clone());
    request_log::on_a_thread(move || {
        client.wait_for_departed();
        let admission = &shared.admission;
        remove_node::remove_node(
            admission.node(),
            Some(admission.tokens()),
            &order,
            &mut |event| {
                match &event {
                    RemoveEvent::Failed(failure) => {
                        log_failure("the node was not removed", failure);
                    }
                    event => tracing::info!(?event, "remove-node"),
                }
                client.send(&event);
            },
        );
    });
    response
}

impl Audience for Client {
    fn tell(&mut self, event: LeaveEvent) {
        match &event {
            LeaveEvent::Failed(failure) => log_failure("the leave failed", failure),
            event => tracing::info!(?event, "leave"),
        }
        self.send(&event);
    }

    fn has_left(&self) -> bool {
        self.is_gone()
    }
}
