//! What is done when an answer has gone out, because it would cut the answer off.

use std::thread;

use axum::body::Body;
use axum::response::Response;
use http_body_util::BodyExt;
use tracing::Span;

use crate::cluster::node::Node;

/// The work is done, on a thread of its own, when the connection has all of the answer to send, or is
/// gone. What it logs is of the same request.
pub(crate) fn then(answer: Response, work: impl FnOnce() + Send + 'static) -> Response {
    let span = Span::current();
    let last = WhenDropped(Some(Box::new(move || span.in_scope(work))));
    answer.map(|body| {
        Body::new(body.map_err(move |error| {
            let _is_dropped_with_the_body = &last;
            error
        }))
    })
}

/// Restarts the agent, which ends this process.
pub(crate) fn restart_agent(node: &Node) {
    match node.platform.restart_agent() {
        Ok(()) => tracing::info!("the agent is restarted"),
        Err(error) => {
            tracing::error!(%error, "the agent cannot be restarted; its new arguments count from its next start");
        }
    }
}

struct WhenDropped(Option<Box<dyn FnOnce() + Send>>);

impl Drop for WhenDropped {
    fn drop(&mut self) {
        if let Some(work) = self.0.take() {
            thread::spawn(work);
        }
    }
}
