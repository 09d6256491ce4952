//! What both listeners do with a connection: requests go to a router, with who sent them.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

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

/// The service, with a count of the requests that are under way.
pub fn counted<S>(
    service: S,
    under_way: watch::Sender<usize>,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>,
{
    service_fn(move |request| {
        let counted = Counted::new(under_way.clone());
        let answer = service.call(request);
        async move {
            let answer = answer.await;
            drop(counted);
            answer
        }
    })
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
            // The connection is gone, and whoever waits for its end learns so from itself.
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
    tracing::warn!(%error, "cannot accept a connection");
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
