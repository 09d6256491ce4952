//! Answers of the local API that grow while what was asked for goes on: an event a line of JSON.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::mpsc::{self, UnboundedSender};
use tokio_util::sync::CancellationToken;

use crate::agent::Shared;
use crate::base::mutex::lock;
use crate::base::{sanitize, wait};
use crate::cluster::operation::Progress;
use crate::wire::operation::{End, Event, Operation};

/// How long what a client that has left began may take to be taken back.
const TAKE_BACK_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Those for whom something is done right now: a token each, cancelled when it has left.
pub(super) type Clients = Mutex<Vec<CancellationToken>>;

/// The client that something is done for.
pub(super) struct Client {
    events: UnboundedSender<Bytes>,
    left: CancellationToken,
    shared: Arc<Shared>,
    words: Option<LogWords>,
}

/// What the log calls an operation, and what it says when it failed.
pub(super) struct LogWords {
    name: &'static str,
    failed: &'static str,
}

impl LogWords {
    /// The findings of a dry run are for its client alone.
    pub(super) fn of(operation: &Operation) -> Option<Self> {
        let (name, failed) = match operation {
            Operation::Join(order) if order.is_dry_run() => return None,
            Operation::Join(_) => ("join", "the join failed"),
            Operation::Leave { .. } => ("leave", "the leave failed"),
            Operation::RemoveNode(_) => ("remove-node", "the node was not removed"),
            Operation::Launch(_) => ("init", "the launch configuration was not applied"),
        };
        Some(Self { name, failed })
    }

    /// What is logged of a failure may come from another node.
    pub(super) fn log(&self, event: &Event) {
        let Self { name, failed } = self;
        let Event::End(End::Failed(failure)) = event else {
            if let Some((step, about)) = step_of(event) {
                tracing::info!(step, about, "{name}");
            }
            return;
        };
        let (stage, exit) = (failure.stage.into_str(), failure.exit);
        let why = sanitize::for_log(&failure.error, 500);
        tracing::warn!(stage, exit, "{failed}: {why}");
    }
}

/// What the log says of an event, and what it is about.
fn step_of(event: &Event) -> Option<(&'static str, String)> {
    let text = |text: &str| sanitize::for_log(text, 500);
    Some(match event {
        Event::Contacting { address, .. } => ("contact", address.to_string()),
        Event::Stage { stage, .. } => ("stage", stage.into_str().to_owned()),
        Event::Line { text: line } => ("message", text(line)),
        Event::Warning { message, .. } => ("warning", text(message)),
        Event::Stderr { text: output } => ("output", text(output)),
        Event::Waiting { message, .. } => ("wait", text(message)),
        Event::End(End::Checked { .. } | End::Failed(_)) => return None,
        Event::End(End::Absent { text: why }) => ("absent", text(why)),
        Event::End(end) => {
            let role = end.role().map(|role| role.to_string());
            (end.into_str(), role.unwrap_or_default())
        }
        Event::NotYet | Event::NotAnswering | Event::WaitingDone | Event::Finding(_) => {
            return None;
        }
    })
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut clients = lock(&self.shared.clients);
        clients.retain(|other| *other != self.left);
    }
}

impl Client {
    /// A client of this operation, and the answer that it reads.
    pub(crate) fn new(shared: Arc<Shared>, operation: &Operation) -> (Self, Response) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let left = shared.stopping.child_token();
        // Cancels what the client waits for when nothing reads it any more.
        let guard = left.clone().drop_guard();
        let response = lines(move |context| {
            let _ = &guard;
            receiver.poll_recv(context)
        });
        lock(&shared.clients).push(left.clone());
        let client = Self {
            events: sender,
            left,
            shared,
            words: LogWords::of(operation),
        };
        (client, response)
    }

    /// Waits until all is taken back that was begun for clients that have left: the command of this
    /// one may be the next try of an operator who killed the first.
    pub(crate) fn wait_for_departed(&self) {
        wait::until(TAKE_BACK_LIMIT, PAUSE, || {
            let clients = lock(&self.shared.clients);
            let is_departed =
                |other: &CancellationToken| *other != self.left && other.is_cancelled();
            let is_free = !clients.iter().any(is_departed);
            (is_free || self.is_cancelled()).then_some(())
        });
    }
}

impl Progress for Client {
    fn tell(&mut self, event: Event) {
        if let Some(words) = &self.words {
            words.log(&event);
        }
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        // A client that left is noticed when its body is dropped.
        let _ = self.events.send(Bytes::from(line));
    }

    /// The client has gone, or the agent is stopping.
    fn cancelled(&self) -> &CancellationToken {
        &self.left
    }

    fn is_cancelled(&self) -> bool {
        self.left.is_cancelled() || self.shared.is_stopping()
    }
}

/// An answer of lines that are received one after the other.
pub(super) fn lines(
    receive: impl FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Unpin + Send + 'static,
) -> Response {
    let headers = [(CONTENT_TYPE, "application/x-ndjson")];
    (headers, Body::new(Lines(receive))).into_response()
}

/// The body of such an answer.
struct Lines<F>(F);

impl<F: FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Unpin> hyper::body::Body for Lines<F> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        (self.0)(context).map(|lines| lines.map(|lines| Ok(Frame::data(lines))))
    }
}
