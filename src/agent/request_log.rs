//! What the log and the metrics say of every request, whatever it asks for: who asked, for what,
//! and how it was answered, with an id that is in each line of the log about it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use rand::RngExt;
use tokio::task::JoinHandle;
use tracing::{Instrument, Span};

use crate::agent::Shared;
use crate::agent::connection_limiter::RequestPermit;
use crate::agent::local_socket::LocalCaller;
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::Metrics;
use crate::base::sanitize;
use crate::cluster::admission::Caller;
use crate::store::audit;
use crate::wire::routes;

/// How much of a path is in the log.
const SHOWN_PATH: usize = 200;
/// How much of a method's name is in the log.
const SHOWN_METHOD: usize = 16;

/// Watches a request from another node.
pub(crate) async fn remote(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    // The handler drops its own when it has the body.
    let _under_way: Option<Arc<RequestPermit>> = request.extensions().get().cloned();
    let metrics = shared.metrics.clone();
    watch(caller.remote.to_string(), Some(metrics), request, next).await
}

/// Watches a request of the node's own command line.
pub(crate) async fn local(
    Extension(caller): Extension<LocalCaller>,
    request: Request,
    next: Next,
) -> Response {
    watch(format!("uid {}", caller.uid), None, request, next).await
}

/// Each log line of the request has an id, and so has the answer ([`routes::REQUEST_ID`]), so that a
/// client can refer to it.
async fn watch(
    asker: String,
    metrics: Option<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let id = format!("{:012x}", rand::rng().random::<u64>() >> 16);
    // Among the lines that no level of the log leaves out are some about requests, and they too
    // need the id: hence the target.
    let span = tracing::info_span!(target: audit::TARGET, "request", %id);
    let watched = Watched::new(asker, metrics, &request, span.clone());
    let mut answer = next.run(request).instrument(span).await;
    if let Ok(id) = HeaderValue::try_from(id) {
        answer.headers_mut().insert(routes::REQUEST_ID, id);
    }
    watched.answered(answer.status());
    answer
}

/// Does what may wait for files or services on a thread of its own; what it logs is still of the
/// request that it is done for.
pub(crate) fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}

/// A request under way; when it is dropped, the request is over.
struct Watched {
    asker: String,
    /// Nothing for a request over the local API.
    metrics: Option<Arc<Metrics>>,
    method: Method,
    path: String,
    endpoint: Option<MatchedPath>,
    span: Span,
    began: Instant,
    status: Option<StatusCode>,
}

impl Watched {
    fn new(asker: String, metrics: Option<Arc<Metrics>>, request: &Request, span: Span) -> Self {
        if let Some(metrics) = &metrics {
            metrics.request_began();
        }
        Self {
            asker,
            metrics,
            method: request.method().clone(),
            // What is after a `?` may be anything, and means nothing here.
            path: sanitize::for_log(request.uri().path(), SHOWN_PATH),
            endpoint: request.extensions().get().cloned(),
            span,
            began: Instant::now(),
            status: None,
        }
    }

    fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Whether its line only helps to find a fault, and is otherwise noise: what monitoring asks
    /// for every few seconds, what the local API logs itself, and requests of an address that was
    /// told to ask less often.
    fn is_noise(&self) -> bool {
        let is_look = self.method == Method::GET && self.status == Some(StatusCode::OK);
        is_look || self.metrics.is_none() || self.status == Some(StatusCode::TOO_MANY_REQUESTS)
    }

    fn write_line(&self, took: Duration) {
        let (address, path) = (&self.asker, &self.path);
        let method = sanitize::for_log(self.method.as_str(), SHOWN_METHOD);
        let milliseconds = took.as_micros() as f64 / 1000.0;
        let is_success = self.status.is_some_and(|status| status.is_success());
        if !is_success && !self.is_noise() && !log_limit::is_written(Kind::Unsuccessful) {
            return;
        }
        let Some(status) = self.status.map(|status| status.as_u16()) else {
            tracing::info!(%address, method, path, milliseconds, "not answered: the connection ended");
            return;
        };
        if self.is_noise() {
            tracing::debug!(%address, method, path, status, milliseconds, "answered");
        } else {
            tracing::info!(%address, method, path, status, milliseconds, "answered");
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.span.in_scope(|| self.write_line(took));
        if let Some(metrics) = &self.metrics {
            let endpoint = self.endpoint.as_ref().map(MatchedPath::as_str);
            metrics.request_ended(endpoint, self.status, took);
        }
    }
}
