//! What the agent does when its node directory is no longer the node's, because the snap is refreshed.
//!
//! From the moment that snapd takes its link away nothing is changed any more: it would not be in the
//! copy. When the link leads elsewhere, the agent ends and starts again there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use crate::agent::cluster_api::Whole;
use crate::agent::log_limit::{self, Kind};
use crate::agent::{Shared, status};
use crate::store::layout::Layout;
use crate::store::revision::NotCurrent;
use crate::wire::error_body::ErrorBody;
use crate::wire::routes;

/// How often it is looked where the node directory is.
const PAUSE: Duration = Duration::from_secs(1);
/// When a client that was refused is to come again, in seconds.
const COME_AGAIN: u64 = 5;

/// Refuses what would change a node that is being refreshed; to other nodes.
pub(crate) async fn remote(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    // How a join ended is noted beside the tokens, which go along.
    if request.uri().path() == routes::V2_JOIN_OUTCOME {
        return next.run(request).await;
    }
    let Some(why) = in_the_way(&shared, &request) else {
        return next.run(request).await;
    };
    // Over HTTP/2 an answer before the end of the request looks like a fault to some clients.
    let _ = Whole::from_request(request, &()).await;
    if log_limit::is_written(Kind::Refused) {
        tracing::warn!(%why, "a request was refused");
    }
    let body = ErrorBody::new("MicroK8s is being refreshed on this node");
    status::try_again(StatusCode::SERVICE_UNAVAILABLE, COME_AGAIN, &body)
}

/// The same, to the node's own command line.
pub(crate) async fn local(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(why) = in_the_way(&shared, &request) else {
        return next.run(request).await;
    };
    tracing::warn!(%why, "a local request was refused");
    let body = ErrorBody::new(why.to_string());
    status::try_again(StatusCode::SERVICE_UNAVAILABLE, COME_AGAIN, &body)
}

fn in_the_way(shared: &Shared, request: &Request) -> Option<NotCurrent> {
    if request.method() != Method::POST {
        return None;
    }
    shared.admission.node().layout.check_current().err()
}

/// The directory that the node is in, when that is another one.
pub(crate) fn elsewhere(layout: &Layout) -> Option<PathBuf> {
    led_to(layout.check_current().as_ref().err()?)
}

/// Waits until the node is in another directory, which is the value.
pub(crate) async fn wait_until_elsewhere(layout: &Layout) -> PathBuf {
    let mut was_missing = false;
    let mut pause = tokio::time::interval(PAUSE);
    loop {
        pause.tick().await;
        let missing = match layout.check_current() {
            Ok(()) => None,
            Err(why) => match led_to(&why) {
                Some(to) => return to,
                None => Some(why),
            },
        };
        match (&missing, was_missing) {
            (Some(why), false) => {
                tracing::warn!("{why}; nothing is changed until it leads here again");
            }
            (None, true) => tracing::info!("the node directory is back"),
            _ => {}
        }
        was_missing = missing.is_some();
    }
}

/// Where the link leads, when it leads elsewhere.
fn led_to(why: &NotCurrent) -> Option<PathBuf> {
    let NotCurrent::Elsewhere { to, .. } = why else {
        return None;
    };
    tracing::warn!("{why}; the agent starts again there");
    Some(to.clone())
}
