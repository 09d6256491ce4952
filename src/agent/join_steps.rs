//! What a node that wants to join may ask for: how each request is read, worked on, counted and
//! logged.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::{MethodRouter, post};
use serde::Serialize;

use crate::agent::callback_api::not_understood;
use crate::agent::cluster_api::{Whole, in_time, only};
use crate::agent::concurrency_limits::{COME_AGAIN, RequestClass};
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::{Limit, Metrics};
use crate::agent::{Shared, status, status_map};
use crate::base::sanitize;
use crate::cluster::admission::{Admission, AdmitError, Caller};
use crate::model::role::Role;
use crate::model::token::Token;
use crate::wire::error_body::ErrorBody;
use crate::wire::lenient::DecodeError;
use crate::wire::preflight_v1::JoinCheck;
use crate::wire::{cluster_v1, cluster_v2, routes};

/// A request that a node may send that wants to join, and how it is handled.
pub(super) struct Step<R, A> {
    /// What the log calls it.
    name: &'static str,
    /// What the log says when it is granted.
    granted: &'static str,
    class: RequestClass,
    read: fn(&[u8]) -> Result<R, DecodeError>,
    sender: fn(&R) -> Sender<'_>,
    perform: fn(&Admission, &R, Caller) -> Result<A, AdmitError>,
    /// Counts what came of it; the reason is why it was not granted.
    count: fn(&Metrics, &R, Option<&'static str>),
}

impl<R: Send + Sync + 'static, A: Serialize + Send + 'static> Step<R, A> {
    /// What serves it.
    pub(crate) fn route(&'static self) -> MethodRouter<Arc<Shared>> {
        only(post(move |shared, caller, body| {
            perform(self, shared, caller, body)
        }))
    }
}

/// What a request says of the node that sends it: the name that it gives itself, and the role that it
/// wants, where it says so.
struct Sender<'a> {
    token: &'a Token,
    name: &'a str,
    role: Option<Role>,
}

pub(super) static JOIN: Step<cluster_v2::JoinRequest, cluster_v2::JoinResponse> = Step {
    name: "join",
    granted: "admitted",
    class: RequestClass::Join,
    read: cluster_v2::JoinRequest::read,
    sender: of_v2,
    perform: Admission::join,
    count: |metrics, request, refused| metrics.join(request.worker.role(), refused),
};

pub(super) static JOIN_V1: Step<cluster_v1::JoinRequest, cluster_v1::JoinResponse> = Step {
    name: "join-etcd",
    granted: "admitted",
    class: RequestClass::Join,
    read: cluster_v1::JoinRequest::read,
    sender: of_v1,
    perform: Admission::join_v1,
    count: |metrics, _, refused| metrics.join(Role::Worker, refused),
};

/// A dry run says what the join would and asks for nothing. It counts as a request, not as a join.
pub(super) static CHECK: Step<cluster_v2::JoinRequest, JoinCheck> = Step {
    name: "join-check",
    granted: "looked at",
    class: RequestClass::DryRun,
    read: cluster_v2::JoinRequest::read,
    sender: of_v2,
    perform: Admission::preflight,
    count: |_, _, _| {},
};

pub(super) static CHECK_V1: Step<cluster_v1::JoinRequest, JoinCheck> = Step {
    name: "join-etcd-check",
    granted: "looked at",
    class: RequestClass::DryRun,
    read: cluster_v1::JoinRequest::read,
    sender: of_v1,
    perform: Admission::preflight_v1,
    count: |_, _, _| {},
};

pub(super) static SIGN: Step<cluster_v1::SignCertRequest, cluster_v1::SignCertResponse> = Step {
    name: "sign-cert",
    granted: "signed",
    class: RequestClass::Other,
    read: cluster_v1::SignCertRequest::read,
    sender: |request| Sender {
        token: &request.token,
        name: "",
        role: None,
    },
    perform: sign,
    count: |metrics, _, refused| metrics.certificate(refused),
};

pub(super) static OUTCOME: Step<cluster_v2::JoinOutcome, cluster_v2::OutcomeTaken> = Step {
    name: "join-outcome",
    granted: "noted",
    class: RequestClass::Other,
    read: cluster_v2::JoinOutcome::read,
    sender: |request| Sender {
        token: &request.token,
        name: &request.hostname,
        role: None,
    },
    perform: |admission, request, caller| {
        admission.report(request, caller)?;
        Ok(cluster_v2::OutcomeTaken {})
    },
    count: |metrics, request, refused| {
        if refused.is_none() {
            metrics.join_outcome(request.outcome);
        }
    },
};

fn of_v2(request: &cluster_v2::JoinRequest) -> Sender<'_> {
    Sender {
        token: &request.token,
        name: &request.hostname,
        role: Some(request.worker.role()),
    }
}

fn of_v1(request: &cluster_v1::JoinRequest) -> Sender<'_> {
    Sender {
        token: &request.token,
        name: &request.hostname,
        role: Some(Role::Worker),
    }
}

fn sign(
    admission: &Admission,
    request: &cluster_v1::SignCertRequest,
    caller: Caller,
) -> Result<cluster_v1::SignCertResponse, AdmitError> {
    let signed = admission.sign_certificate(request, caller)?;
    let (address, token) = (caller.remote, request.token.digest());
    tracing::info!(%address, %token, subject = signed.subject, "certificate signed");
    Ok(cluster_v1::SignCertResponse {
        certificate: Some(signed.certificate),
    })
}

/// Does what is asked for, and answers.
async fn perform<R: Send + Sync + 'static, A: Serialize + Send + 'static>(
    step: &'static Step<R, A>,
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Whole(body): Whole,
) -> Response {
    let request = match (step.read)(&body) {
        Ok(request) => request,
        Err(error) => return not_understood(step.name, caller, &error),
    };
    let Some(place) = shared.concurrency_limits.take(step.class).await else {
        return busy(step, &shared, &request, caller);
    };
    let own = shared.clone();
    let done = in_time(&shared, move || {
        let result = (step.perform)(&own.admission, &request, caller);
        let error = result.as_ref().err();
        let reason = error.map(|error| status_map::of(error).1);
        (step.count)(&own.metrics, &request, reason);
        // An address over the rate limit gets no further lines: it can present any number of tokens.
        let is_unknown = error.is_some_and(status_map::is_unknown_token);
        if !is_unknown || !own.token_rate_limit.is_over(caller.remote) {
            write_line(step, &request, caller, error);
        }
        drop(place);
        result
    });
    match done.await {
        Ok(Ok(value)) => {
            let mut answer = status::json(StatusCode::OK, &value);
            if step.class == RequestClass::Join {
                // The node may say later how its join ended.
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
fn busy<R, A>(step: &Step<R, A>, shared: &Shared, request: &R, caller: Caller) -> Response {
    const REASON: &str = "busy";
    shared.metrics.limit_hit(Limit::Joins);
    (step.count)(&shared.metrics, request, Some(REASON));
    let sender = (step.sender)(request);
    let node = sanitize::for_log(sender.name, 80);
    let (address, token, request) = (caller.remote, sender.token.digest(), step.name);
    if log_limit::is_written(Kind::Refused) {
        tracing::warn!(request, %address, node, %token, outcome = "refused", reason = REASON, "too many requests of joining nodes are under way");
    }
    let body = ErrorBody::new(format!(
        "Too many nodes are joining at the moment, try again in {COME_AGAIN} seconds"
    ));
    status::try_again(StatusCode::SERVICE_UNAVAILABLE, COME_AGAIN, &body)
}

/// What the log says of a request: the one place where an operator learns why a join failed.
fn write_line<R, A>(step: &Step<R, A>, request: &R, caller: Caller, error: Option<&AdmitError>) {
    if error.is_some() && !log_limit::is_written(Kind::Refused) {
        return;
    }
    let sender = (step.sender)(request);
    let node = sanitize::for_log(sender.name, 80);
    let role = sender
        .role
        .map_or_else(|| "-".to_owned(), |role| role.to_string());
    let (address, token, request) = (caller.remote, sender.token.digest(), step.name);
    match error {
        None => {
            let outcome = step.granted;
            tracing::info!(request, %address, node, role, %token, outcome);
        }
        Some(AdmitError::InvalidToken(refusal)) => {
            let reason = refusal.reason.into_str();
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
