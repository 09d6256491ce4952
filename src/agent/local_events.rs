//! Answers of the local API that grow while what was asked for goes on: an event a line of JSON.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::agent::Shared;
use crate::base::sanitize;
use crate::wire::local_v1::JoinFailure;

/// The client that something is done for.
pub(super) struct Client {
    events: UnboundedSender<Bytes>,
    left: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

impl Client {
    /// A client, and the answer that it reads.
    pub fn new(shared: Arc<Shared>) -> (Self, Response) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let left = Arc::new(AtomicBool::new(false));
        let body = Body::new(EventBody {
            events: receiver,
            left: left.clone(),
        });
        let response = ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response();
        let client = Self {
            events: sender,
            left,
            shared,
        };
        (client, response)
    }

    /// Sends one event.
    pub fn send(&self, event: &impl Serialize) {
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        line.push(b'\n');
        // A client that left is noticed by the flag.
        let _ = self.events.send(Bytes::from(line));
    }

    /// Whether nobody reads any more, or the agent is to end.
    pub fn is_gone(&self) -> bool {
        self.left.load(Ordering::SeqCst) || self.shared.is_stopping()
    }
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

/// The body of such an answer; a flag tells when nobody reads it.
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
