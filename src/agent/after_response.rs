//! What is done when an answer has gone out, because it would cut the answer off.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tracing::Span;

/// The work is done, on a thread of its own, when the connection has all of the answer to send, or is
/// gone. What it logs is of the same request.
pub fn then(answer: Response, work: impl FnOnce() + Send + 'static) -> Response {
    let span = Span::current();
    let work = Box::new(move || span.in_scope(work));
    answer.map(|body| {
        Body::new(Followed {
            body,
            work: Some(work),
        })
    })
}

/// The body of an answer, and what comes after it.
struct Followed {
    body: Body,
    work: Option<Box<dyn FnOnce() + Send>>,
}

impl hyper::body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            thread::spawn(work);
        }
    }
}
