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
