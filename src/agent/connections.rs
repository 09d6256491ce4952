//! What both listeners do with a connection: requests go to a router, with who sent them.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

use crate::agent::connection_limiter::{self, ConnectionPermit};
use crate::agent::log_limit::{self, Kind};

/// So much of a body between two looks shows that it flows.
const FLOW: usize = 64 << 10;

/// The router as a service for one connection; each request learns who is at its other end.
pub fn service<C: Clone + Send + Sync + 'static>(
    router: Router,
    caller: C,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> {
    service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        let router = router.clone();
        async move {
            let response = router.oneshot(request.map(Body::new)).await;
            Ok(response.unwrap_or_else(|never| match never {}))
        }
    })
}

/// [`service`] for a connection that has a permit, with a count of the requests under way. While a
/// request is being handled, the permit is not lost.
pub fn seated<C: Clone + Send + Sync + Unpin + 'static>(
    router: Router,
    caller: C,
    permit: Arc<ConnectionPermit>,
    under_way: watch::Sender<usize>,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send + Unpin> + Unpin
{
    service_fn(move |mut request: Request<Incoming>| {
        let counted = Counted::new(under_way.clone());
        let whole = Arc::new(connection_limiter::Request::new(permit.clone()));
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(whole.clone());
        let is_order = request.method() == Method::POST;
        let request = request.map(|body| Body::new(Arriving::new(body, whole.clone())));
        let answer = router.clone().oneshot(request);
        Box::pin(async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            // Every order needs a token.
            whole.is_over(is_order && answer.status().is_success());
            drop(counted);
            Ok(answer)
        })
    })
}

/// A body that tells the permit of its connection when it is complete.
struct Arriving {
    body: Incoming,
    request: Arc<connection_limiter::Request>,
    since_look: usize,
}

impl Arriving {
    fn new(body: Incoming, request: Arc<connection_limiter::Request>) -> Self {
        if body.is_end_stream() {
            request.is_whole();
        }
        Self {
            body,
            request,
            since_look: 0,
        }
    }
}

impl hyper::body::Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.since_look += frame.data_ref().map_or(0, Bytes::len);
                if self.since_look >= FLOW {
                    self.since_look = 0;
                    self.request.permit().touch();
                }
            }
            // A connection that is about to be closed for another one begins nothing any more.
            Poll::Ready(None) if !self.request.is_whole() => return Poll::Pending,
            Poll::Ready(_) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // The end is to be polled for: it is noticed there.
        false
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One request under way; no longer so when this is dropped.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(under_way: watch::Sender<usize>) -> Self {
        under_way.send_modify(|count| *count += 1);
        Self(under_way)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Ends when no request was under way, and none came, for as long as `limit`.
pub async fn idle(mut under_way: watch::Receiver<usize>, limit: Duration) {
    loop {
        if under_way.wait_for(|count| *count == 0).await.is_err() {
            // The connection is gone, and its own future ends.
            std::future::pending::<()>().await;
        }
        if timeout(limit, under_way.changed()).await.is_err() {
            return;
        }
    }
}

/// A connection could not be accepted: out of file descriptors, most likely. Those of ended
/// connections come back.
#[expect(
    clippy::disallowed_methods,
    reason = "the listener would say the same again at once; nothing tells when it will not"
)]
pub async fn not_accepted(error: &io::Error) {
    if log_limit::is_written(Kind::Connection) {
        tracing::warn!(%error, "cannot accept a connection");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_with_a_request_under_way_is_not_idle() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (under_way, requests) = watch::channel(0);
            let request = Counted::new(under_way.clone());
            let limit = Duration::from_millis(20);
            let early = timeout(5 * limit, idle(requests.clone(), limit)).await;
            assert!(early.is_err());
            drop(request);
            idle(requests, limit).await;
        });
    }
}
