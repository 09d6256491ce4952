//! MicroK8s's cluster API: routes, statuses and bodies as recorded (`http-api.md`).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, FromRequest, Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use tokio::time::timeout;

use crate::agent::metrics::{Limit, Metrics};
use crate::agent::places::{COME_AGAIN, Work};
use crate::agent::{Shared, callback_api, guesses, metrics_page, reasons, request_log, status};
use crate::base::sanitize;
use crate::cluster::admit::{AdmitError, Caller, Gate};
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_life::Reason;
use crate::wire::error_body::ErrorBody;
use crate::wire::lenient::DecodeError;
use crate::wire::preflight_v1::JoinCheck;
use crate::wire::{cluster_v1, cluster_v2, routes};

/// The largest body that is taken; a certificate request has two kilobytes.
const BODY_LIMIT: usize = 64 << 10;

/// How long a client may take to send the body of a request.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The routes for other nodes, and what is done around every request to one of them.
pub fn router(shared: Arc<Shared>) -> Router {
    let metrics_page = if shared.serves_metrics {
        metrics_page::router()
    } else {
        Router::new()
    };
    let watch = guesses::Watch {
        guesses: shared.guesses.clone(),
        metrics: shared.metrics.clone(),
    };
    Router::new()
        .route(routes::HEALTH, only(get(health).head(wrong_method)))
        .route(
            routes::V1_JOIN,
            only(post(perform::<cluster_v1::JoinRequest>)),
        )
        .route(
            routes::V1_SIGN_CERT,
            only(post(perform::<cluster_v1::SignCertRequest>)),
        )
        .route(
            routes::V2_JOIN,
            only(post(perform::<cluster_v2::JoinRequest>)),
        )
        .route(
            routes::V1_JOIN_CHECK,
            only(post(perform::<Look<cluster_v1::JoinRequest>>)),
        )
        .route(
            routes::V2_JOIN_CHECK,
            only(post(perform::<Look<cluster_v2::JoinRequest>>)),
        )
        .route(
            routes::V2_JOIN_OUTCOME,
            only(post(perform::<cluster_v2::JoinOutcome>)),
        )
        .merge(metrics_page)
        .merge(callback_api::routes())
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(watch, guesses::layer))
        .layer(middleware::from_fn_with_state(
            shared.metrics.clone(),
            request_log::remote,
        ))
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

async fn health(_body: Whole) -> Response {
    #[derive(Serialize)]
    struct Health {
        status: &'static str,
    }
    status::json(StatusCode::OK, &Health { status: "OK" })
}

/// The body of a request, all of it and in time.
pub(super) struct Whole(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Whole {
    type Rejection = Response;

    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        Self::within(BODY_TIME, request.into_body()).await
    }
}

impl Whole {
    async fn within(limit: Duration, body: Body) -> Result<Self, Response> {
        match timeout(limit, Self::collect(body)).await {
            Ok(collected) => collected,
            Err(_) => {
                let error = ErrorBody::new("The request did not come to its end in time");
                Err(status::json(StatusCode::REQUEST_TIMEOUT, &error))
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
                status::json(status, &ErrorBody::new(error))
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
        return status::json(StatusCode::NOT_FOUND, &ErrorBody::new("Not found"));
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

/// A request that a node who wants to join may send.
trait JoinStep: Sized + Send + Sync + 'static {
    /// What the log calls it.
    const NAME: &'static str;

    /// What the log says when it is granted.
    const GRANTED: &'static str;

    /// What it needs a place for.
    const WORK: Work = Work::Other;

    /// Whether a node that this was granted may say later how its join ended.
    const TAKES_OUTCOME: bool = false;

    /// What comes back when it is granted.
    type Answer: Serialize + Send + 'static;

    fn read(body: &[u8]) -> Result<Self, DecodeError>;

    fn token(&self) -> &Token;

    /// The name that the node gives itself, and the role that it wants, where it says so.
    fn who(&self) -> (&str, Option<Role>);

    fn perform(&self, gate: &Gate, caller: Caller) -> Result<Self::Answer, AdmitError>;

    /// Counts what came of it; `refused` says why it was not granted.
    fn count(&self, metrics: &Metrics, refused: Option<&'static str>);
}

impl JoinStep for cluster_v2::JoinRequest {
    const NAME: &'static str = "join";
    const GRANTED: &'static str = "admitted";
    const WORK: Work = Work::Join;
    const TAKES_OUTCOME: bool = true;
    type Answer = cluster_v2::JoinResponse;

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        Self::read(body)
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn who(&self) -> (&str, Option<Role>) {
        (&self.hostname, Some(self.worker.role()))
    }

    fn perform(&self, gate: &Gate, caller: Caller) -> Result<Self::Answer, AdmitError> {
        gate.join(self, caller)
    }

    fn count(&self, metrics: &Metrics, refused: Option<&'static str>) {
        metrics.join(self.worker.role(), refused);
    }
}

impl JoinStep for cluster_v1::JoinRequest {
    const NAME: &'static str = "join-etcd";
    const GRANTED: &'static str = "admitted";
    const WORK: Work = Work::Join;
    const TAKES_OUTCOME: bool = true;
    type Answer = cluster_v1::JoinResponse;

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        Self::read(body)
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn who(&self) -> (&str, Option<Role>) {
        (&self.hostname, Some(Role::Worker))
    }

    fn perform(&self, gate: &Gate, caller: Caller) -> Result<Self::Answer, AdmitError> {
        gate.join_v1(self, caller)
    }

    fn count(&self, metrics: &Metrics, refused: Option<&'static str>) {
        metrics.join(Role::Worker, refused);
    }
}

/// A look at a join, which says what the join would and asks for nothing.
struct Look<R>(R);

impl JoinStep for Look<cluster_v2::JoinRequest> {
    const NAME: &'static str = "join-check";
    const GRANTED: &'static str = "looked at";
    const WORK: Work = Work::Look;
    type Answer = JoinCheck;

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        cluster_v2::JoinRequest::read(body).map(Self)
    }

    fn token(&self) -> &Token {
        self.0.token()
    }

    fn who(&self) -> (&str, Option<Role>) {
        self.0.who()
    }

    fn perform(&self, gate: &Gate, caller: Caller) -> Result<Self::Answer, AdmitError> {
        gate.look(&self.0, caller)
    }

    /// A look is no join; it counts as a request.
    fn count(&self, _: &Metrics, _: Option<&'static str>) {}
}

impl JoinStep for Look<cluster_v1::JoinRequest> {
    const NAME: &'static str = "join-etcd-check";
    const GRANTED: &'static str = "looked at";
    const WORK: Work = Work::Look;
    type Answer = JoinCheck;

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        cluster_v1::JoinRequest::read(body).map(Self)
    }

    fn token(&self) -> &Token {
        self.0.token()
    }

    fn who(&self) -> (&str, Option<Role>) {
        self.0.who()
    }

    fn perform(&self, gate: &Gate, caller: Caller) -> Result<Self::Answer, AdmitError> {
        gate.look_v1(&self.0, caller)
    }

    /// A look is no join; it counts as a request.
    fn count(&self, _: &Metrics, _: Option<&'static str>) {}
}

impl JoinStep for cluster_v1::SignCertRequest {
    const NAME: &'static str = "sign-cert";
    const GRANTED: &'static str = "signed";
    type Answer = cluster_v1::SignCertResponse;

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        Self::read(body)
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn who(&self) -> (&str, Option<Role>) {
        ("", None)
    }

    fn perform(&self, gate: &Gate, caller: Caller) -> Result<Self::Answer, AdmitError> {
        let signed = gate.sign_certificate(self, caller)?;
        let (address, token) = (caller.remote, self.token.digest());
        tracing::info!(%address, %token, subject = signed.subject, "certificate signed");
        Ok(cluster_v1::SignCertResponse {
            certificate: Some(signed.certificate),
        })
    }

    fn count(&self, metrics: &Metrics, refused: Option<&'static str>) {
        metrics.certificate(refused);
    }
}

impl JoinStep for cluster_v2::JoinOutcome {
    const NAME: &'static str = "join-outcome";
    const GRANTED: &'static str = "noted";
    type Answer = cluster_v2::OutcomeTaken;

    fn read(body: &[u8]) -> Result<Self, DecodeError> {
        Self::read(body)
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn who(&self) -> (&str, Option<Role>) {
        (&self.hostname, None)
    }

    fn perform(&self, gate: &Gate, caller: Caller) -> Result<Self::Answer, AdmitError> {
        gate.report(self, caller)?;
        Ok(cluster_v2::OutcomeTaken {})
    }

    fn count(&self, metrics: &Metrics, refused: Option<&'static str>) {
        if refused.is_none() {
            metrics.join_outcome(self.outcome);
        }
    }
}

/// Does what is asked for, and answers.
async fn perform<R: JoinStep>(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Response {
    let request = match R::read(&body) {
        Ok(request) => request,
        Err(error) => {
            let address = caller.remote;
            tracing::info!(request = R::NAME, %address, %error, outcome = "not understood");
            return status::json(StatusCode::BAD_REQUEST, &ErrorBody::new(error.to_string()));
        }
    };
    let Some(place) = shared.places.take(R::WORK).await else {
        return busy(&shared, &request, caller);
    };
    let own = shared.clone();
    let done = in_time(&shared, move || {
        let result = request.perform(&own.gate, caller);
        let error = result.as_ref().err();
        request.count(&own.metrics, error.map(reasons::of));
        // Whoever presents one unknown token after the other has no claim to a line for each.
        let is_unknown = matches!(error, Some(AdmitError::InvalidToken(refusal)) if refusal.reason == Reason::Unknown);
        if !is_unknown || !own.guesses.is_over(caller.remote) {
            write_line(&request, caller, error);
        }
        drop(place);
        result
    });
    match done.await {
        Ok(Ok(value)) => {
            let mut answer = status::json(StatusCode::OK, &value);
            if R::TAKES_OUTCOME {
                let yes = HeaderValue::from_static("yes");
                answer.headers_mut().insert(routes::TAKES_OUTCOME, yes);
            }
            answer
        }
        Ok(Err(error)) => status::refusal(&error),
        Err(answer) => answer,
    }
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
    let limit = shared.timeout;
    match timeout(limit, request_log::on_a_thread(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(panic)) => Err(status::unexpected(&panic)),
        Err(_) => {
            shared.metrics.limit_hit(Limit::Timeout);
            let seconds = limit.as_secs();
            let error = ErrorBody::new(format!("The request took longer than {seconds} seconds"));
            Err(status::json(StatusCode::SERVICE_UNAVAILABLE, &error))
        }
    }
}

/// The answer when no place got free; nothing was done, and the token was not looked at.
fn busy<R: JoinStep>(shared: &Shared, request: &R, caller: Caller) -> Response {
    const REASON: &str = "busy";
    shared.metrics.limit_hit(Limit::Joins);
    request.count(&shared.metrics, Some(REASON));
    let node = sanitize::for_log(request.who().0, 80);
    let (address, token, request) = (caller.remote, request.token().digest(), R::NAME);
    tracing::warn!(request, %address, node, %token, outcome = "refused", reason = REASON, "too many requests of joining nodes are under way");
    let body = ErrorBody::new(format!(
        "Too many nodes are joining at the moment, try again in {COME_AGAIN} seconds"
    ));
    status::try_again(StatusCode::SERVICE_UNAVAILABLE, COME_AGAIN, &body)
}

/// What the log says of a request: the one place where an operator learns why a join failed.
fn write_line<R: JoinStep>(request: &R, caller: Caller, error: Option<&AdmitError>) {
    let (node, role) = request.who();
    let node = sanitize::for_log(node, 80);
    let role = role.map_or_else(|| "-".to_owned(), |role| role.to_string());
    let (address, token, request) = (caller.remote, request.token().digest(), R::NAME);
    match error {
        None => {
            let outcome = R::GRANTED;
            tracing::info!(request, %address, node, role, %token, outcome);
        }
        Some(AdmitError::InvalidToken(refusal)) => {
            let reason = refusal.reason.as_str();
            let of = refusal.node.as_deref().unwrap_or("-");
            let of = sanitize::for_log(of, 120);
            let seconds_ago = refusal.seconds_ago.unwrap_or_default();
            tracing::warn!(request, %address, node, role, %token, outcome = "refused", reason, of, seconds_ago, "Invalid token");
        }
        Some(error) => {
            let why = with_sources(error);
            tracing::warn!(request, %address, node, role, %token, outcome = "refused", "{why}");
        }
    }
}

fn with_sources(error: &AdmitError) -> String {
    let mut text = error.to_string();
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        let deeper_text = deeper.to_string();
        if !text.contains(&deeper_text) {
            text = format!("{text}: {deeper_text}");
        }
        cause = deeper;
    }
    sanitize::for_log(&text, 500)
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
