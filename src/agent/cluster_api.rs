//! MicroK8s's cluster API: routes, statuses and bodies as recorded (recordings `http-*`).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, FromRequest, Request};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use tokio::time::timeout;

use crate::agent::connection_limiter::RequestPermit;
use crate::agent::metrics::Limit;
use crate::agent::{
    Shared, callback_api, date, join_steps, metrics_page, moved, request_log, status,
    token_rate_limit,
};
use crate::cluster::admission::Caller;
use crate::wire::routes;

/// The largest body that is taken; a certificate request has two kilobytes.
const BODY_LIMIT: usize = 64 << 10;

/// How long a client may take to send the body of a request.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The routes for other nodes, and what is done around every request to one of them.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let metrics_page = if shared.settings.serves_metrics {
        metrics_page::router()
    } else {
        Router::new()
    };
    Router::new()
        .route(routes::HEALTH, only(get(health).head(wrong_method)))
        .route(routes::V1_JOIN, join_steps::JOIN_V1.route())
        .route(routes::V1_SIGN_CERT, join_steps::SIGN.route())
        .route(routes::V2_JOIN, join_steps::JOIN.route())
        .route(routes::V1_JOIN_CHECK, join_steps::CHECK_V1.route())
        .route(routes::V2_JOIN_CHECK, join_steps::CHECK.route())
        .route(routes::V2_JOIN_OUTCOME, join_steps::OUTCOME.route())
        .merge(metrics_page)
        .merge(callback_api::routes())
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(
            shared.clone(),
            moved::remote,
        ))
        .layer(middleware::from_fn_with_state(
            shared.clone(),
            token_rate_limit::layer,
        ))
        .layer(middleware::from_fn_with_state(
            shared.clone(),
            request_log::remote,
        ))
        .layer(middleware::map_response(date::set))
        .with_state(shared)
}

/// A known path with another method is 404 without a body (recording `http-wrong-method`).
pub(super) fn only(methods: MethodRouter<Arc<Shared>>) -> MethodRouter<Arc<Shared>> {
    methods.fallback(wrong_method)
}

/// The body is read, and thrown away: over HTTP/2 an answer that comes before the end of the
/// request looks like a fault to some clients.
pub(super) async fn wrong_method(_body: Whole) -> StatusCode {
    StatusCode::NOT_FOUND
}

async fn health(Extension(caller): Extension<Caller>, _body: Whole) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
    }
    let mut answer = status::json(StatusCode::OK, &Health { status: "OK" });
    if let Ok(address) = HeaderValue::from_str(&caller.remote.to_string()) {
        answer.headers_mut().insert(routes::CALLER, address);
    }
    answer
}

/// The body of a request, all of it and in time. With it the request is complete, so every handler
/// takes it ([`RequestPermit::complete`]), but for the one that reads its body piece by piece.
pub(super) struct Whole(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Whole {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let permit: Option<Arc<RequestPermit>> = request.extensions().get().cloned();
        let whole = Self::within(BODY_TIME, request.into_body()).await?;
        match permit.is_none_or(|permit| permit.complete()) {
            true => Ok(whole),
            // It reaches no client: the connection is being closed for another one.
            false => Err(StatusCode::SERVICE_UNAVAILABLE.into_response()),
        }
    }
}

impl Whole {
    async fn within(limit: Duration, body: Body) -> Result<Self, Response> {
        match timeout(limit, Self::collect(body)).await {
            Ok(collected) => collected,
            Err(_) => {
                let error = "The request did not come to its end in time";
                Err(status::failure(StatusCode::REQUEST_TIMEOUT, error))
            }
        }
    }

    /// Copies the pieces: each, be it a single byte, holds on to the whole buffer that it was read
    /// into.
    async fn collect(body: Body) -> Result<Self, Response> {
        let mut body = Limited::new(body, BODY_LIMIT);
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                let (status, error) = if error.is::<LengthLimitError>() {
                    let error = format!("The request's body is larger than {BODY_LIMIT} bytes");
                    (StatusCode::PAYLOAD_TOO_LARGE, error)
                } else {
                    let error = format!("The request's body cannot be read: {error}");
                    (StatusCode::BAD_REQUEST, error)
                };
                status::failure(status, error)
            })?;
            if let Some(piece) = frame.data_ref() {
                whole.extend_from_slice(piece);
            }
        }
        Ok(Self(whole.into()))
    }
}

/// An unknown path, or one that is not written plainly: those are led to the plain one
/// (recording `http-http-1.1`, requests 7 and 8).
async fn not_found(method: Method, uri: Uri, _body: Whole) -> Response {
    let path = uri.path();
    let plain = plain_path(path);
    if plain == path || method == Method::CONNECT {
        return status::failure(StatusCode::NOT_FOUND, "Not found");
    }
    let location = match uri.query() {
        Some(query) => format!("{plain}?{query}"),
        None => plain,
    };
    let link = escape_html(&location);
    let body = if method == Method::GET {
        format!("<a href=\"{link}\">Moved Permanently</a>.\n\n")
    } else {
        String::new()
    };
    (
        StatusCode::MOVED_PERMANENTLY,
        [
            (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
            (LOCATION, location),
        ],
        body,
    )
        .into_response()
}

/// The path without `//`, `.` and `..`; a slash at its end stays.
fn plain_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let end = if path.ends_with('/') && !parts.is_empty() {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", parts.join("/"))
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&#34;")
}

/// Does work on a thread of its own, because it reads and writes files and may wait for services.
///
/// # Errors
///
/// The answer when the work panics, or takes longer than a request may; it goes on then.
pub(super) async fn in_time<T: Send + 'static>(
    shared: &Shared,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Response> {
    let limit = shared.settings.timeout;
    match timeout(limit, request_log::on_a_thread(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(panic)) => Err(status::unexpected(&panic)),
        Err(_) => {
            shared.metrics.limit_hit(Limit::Timeout);
            let seconds = limit.as_secs();
            let error = format!("The request took longer than {seconds} seconds");
            Err(status::failure(StatusCode::SERVICE_UNAVAILABLE, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use hyper::body::Frame;

    use super::*;

    /// A body of these pieces that never ends.
    struct Endless(Vec<Bytes>);

    impl hyper::body::Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None => Poll::Pending,
            }
        }
    }

    fn refusal(body: Body) -> Option<StatusCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let limit = Duration::from_millis(10);
        let whole = runtime.block_on(Whole::within(limit, body));
        whole.err().map(|answer| answer.status())
    }

    #[test]
    fn a_body_that_does_not_come_to_its_end_is_not_waited_for() {
        let body = Body::new(Endless(Vec::new()));
        assert_eq!(refusal(body), Some(StatusCode::REQUEST_TIMEOUT));
    }

    #[test]
    fn a_body_is_as_large_as_may_be_and_no_larger() {
        assert_eq!(refusal(Body::from(vec![b' '; BODY_LIMIT])), None);
        let larger = Body::from(vec![b' '; BODY_LIMIT + 1]);
        assert_eq!(refusal(larger), Some(StatusCode::PAYLOAD_TOO_LARGE));
    }

    #[test]
    fn what_has_come_of_a_body_holds_on_to_nothing_else() {
        let read_into = Arc::new([b'{'; 8192]);
        let pieces = (0..4).map(|at| Bytes::from_owner(Held(read_into.clone())).slice(at..=at));
        let body = Body::new(Endless(pieces.collect()));
        let mut whole = pin!(Whole::collect(body));
        let mut context = Context::from_waker(Waker::noop());
        assert!(whole.as_mut().poll(&mut context).is_pending());
        assert_eq!(Arc::strong_count(&read_into), 1);
    }

    /// What a piece was cut from.
    struct Held(Arc<[u8; 8192]>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }

    #[test]
    fn paths_are_made_plain() {
        for (path, plain) in [
            ("/cluster/api/v2.0//join", "/cluster/api/v2.0/join"),
            ("/cluster/../health", "/health"),
            ("/../../x/", "/x/"),
            ("//", "/"),
            ("/health", "/health"),
        ] {
            assert_eq!(plain_path(path), plain);
        }
    }
}
