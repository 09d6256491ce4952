//! What a node that wants to join may ask for: how each request is read, worked on, counted and
//! logged.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;

use crate::agent::cluster_api::{Whole, in_time};
use crate::agent::concurrency_limits::{COME_AGAIN, RequestClass};
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::{Limit, Metrics};
use crate::agent::{Shared, status, status_map};
use crate::base::sanitize;
use crate::cluster::admission::{Admission, AdmitError, Caller};
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_record::Reason;
use crate::wire::error_body::ErrorBody;
use crate::wire::lenient::DecodeError;
use crate::wire::preflight_v1::JoinCheck;
use crate::wire::{cluster_v1, cluster_v2, routes};

/// A request that a node who wants to join may send.
pub(super) trait JoinStep: Sized + Send + Sync + 'static {
    /// What the log calls it.
    const NAME: &'static str;

    /// What the log says when it is granted.
    const GRANTED: &'static str;

    /// What it needs a place for.
    const CLASS: RequestClass = RequestClass::Other;

    /// Whether a node that this was granted may say later how its join ended.
    const TAKES_OUTCOME: bool = false;

    /// What comes back when it is granted.
    type Answer: Serialize + Send + 'static;

    fn read(body: &[u8]) -> Result<Self, DecodeError>;

    fn token(&self) -> &Token;

    /// The name that the node gives itself, and the role that it wants, where it says so.
    fn who(&self) -> (&str, Option<Role>);

    fn perform(&self, admission: &Admission, caller: Caller) -> Result<Self::Answer, AdmitError>;

    /// Counts what came of it; `refused` says why it was not granted.
    fn count(&self, metrics: &Metrics, refused: Option<&'static str>);
}

impl JoinStep for cluster_v2::JoinRequest {
    const NAME: &'static str = "join";
    const GRANTED: &'static str = "admitted";
    const CLASS: RequestClass = RequestClass::Join;
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

    fn perform(&self, admission: &Admission, caller: Caller) -> Result<Self::Answer, AdmitError> {
        admission.join(self, caller)
    }

    fn count(&self, metrics: &Metrics, refused: Option<&'static str>) {
        metrics.join(self.worker.role(), refused);
    }
}

impl JoinStep for cluster_v1::JoinRequest {
    const NAME: &'static str = "join-etcd";
    const GRANTED: &'static str = "admitted";
    const CLASS: RequestClass = RequestClass::Join;
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

    fn perform(&self, admission: &Admission, caller: Caller) -> Result<Self::Answer, AdmitError> {
        admission.join_v1(self, caller)
    }

    fn count(&self, metrics: &Metrics, refused: Option<&'static str>) {
        metrics.join(Role::Worker, refused);
    }
}

/// A look at a join, which says what the join would and asks for nothing.
pub(super) struct DryRun<R>(R);

impl JoinStep for DryRun<cluster_v2::JoinRequest> {
    const NAME: &'static str = "join-check";
    const GRANTED: &'static str = "looked at";
    const CLASS: RequestClass = RequestClass::DryRun;
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

    fn perform(&self, admission: &Admission, caller: Caller) -> Result<Self::Answer, AdmitError> {
        admission.preflight(&self.0, caller)
    }

    /// A look is no join; it counts as a request.
    fn count(&self, _: &Metrics, _: Option<&'static str>) {}
}

impl JoinStep for DryRun<cluster_v1::JoinRequest> {
    const NAME: &'static str = "join-etcd-check";
    const GRANTED: &'static str = "looked at";
    const CLASS: RequestClass = RequestClass::DryRun;
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

    fn perform(&self, admission: &Admission, caller: Caller) -> Result<Self::Answer, AdmitError> {
        admission.preflight_v1(&self.0, caller)
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

    fn perform(&self, admission: &Admission, caller: Caller) -> Result<Self::Answer, AdmitError> {
        let signed = admission.sign_certificate(self, caller)?;
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

    fn perform(&self, admission: &Admission, caller: Caller) -> Result<Self::Answer, AdmitError> {
        admission.report(self, caller)?;
        Ok(cluster_v2::OutcomeTaken {})
    }

    fn count(&self, metrics: &Metrics, refused: Option<&'static str>) {
        if refused.is_none() {
            metrics.join_outcome(self.outcome);
        }
    }
}

/// Does what is asked for, and answers.
pub(super) async fn perform<R: JoinStep>(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Response {
    let request = match R::read(&body) {
        Ok(request) => request,
        Err(error) => {
            let address = caller.remote;
            if log_limit::is_written(Kind::NotUnderstood) {
                tracing::info!(request = R::NAME, %address, %error, outcome = "not understood");
            }
            return status::json(StatusCode::BAD_REQUEST, &ErrorBody::new(error.to_string()));
        }
    };
    let Some(place) = shared.concurrency_limits.take(R::CLASS).await else {
        return busy(&shared, &request, caller);
    };
    let own = shared.clone();
    let done = in_time(&shared, move || {
        let result = request.perform(&own.admission, caller);
        let error = result.as_ref().err();
        request.count(&own.metrics, error.map(|error| status_map::of(error).1));
        // An address over the rate limit gets no further lines: it can present any number of tokens.
        let is_unknown = match error {
            Some(AdmitError::InvalidToken(refusal)) => refusal.reason == Reason::Unknown,
            Some(AdmitError::Worker(_)) => true,
            _ => false,
        };
        if !is_unknown || !own.token_rate_limit.is_over(caller.remote) {
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

/// The answer when no place got free; nothing was done, and the token was not looked at.
fn busy<R: JoinStep>(shared: &Shared, request: &R, caller: Caller) -> Response {
    const REASON: &str = "busy";
    shared.metrics.limit_hit(Limit::Joins);
    request.count(&shared.metrics, Some(REASON));
    let node = sanitize::for_log(request.who().0, 80);
    let (address, token, request) = (caller.remote, request.token().digest(), R::NAME);
    if log_limit::is_written(Kind::Refused) {
        tracing::warn!(request, %address, node, %token, outcome = "refused", reason = REASON, "too many requests of joining nodes are under way");
    }
    let body = ErrorBody::new(format!(
        "Too many nodes are joining at the moment, try again in {COME_AGAIN} seconds"
    ));
    status::try_again(StatusCode::SERVICE_UNAVAILABLE, COME_AGAIN, &body)
}

/// What the log says of a request: the one place where an operator learns why a join failed.
fn write_line<R: JoinStep>(request: &R, caller: Caller, error: Option<&AdmitError>) {
    if error.is_some() && !log_limit::is_written(Kind::Refused) {
        return;
    }
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
