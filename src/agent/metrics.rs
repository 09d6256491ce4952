//! What the agent counts, for `/metrics`; `docs/metrics.md` lists all of it.
//!
//! A label's value is always a word of this program, never a caller's, so that requests cannot
//! add series without limit.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};
use strum::{IntoStaticStr, VariantArray};

use crate::model::role::Role;
use crate::wire::cluster_v2::Outcome;

/// The media type of what [`Metrics::text`] gives.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds: from a look at a token to a datastore that is moved first.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 240.0,
];

type Words<const N: usize> = [(&'static str, &'static str); N];
type Route<const N: usize> = [(&'static str, Cow<'static, str>); N];
type Count = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// What the agent counts.
pub(crate) struct Metrics {
    registry: Registry,
    joins: Family<Words<3>, Count>,
    join_outcomes: Family<Words<1>, Count>,
    certificates: Family<Words<2>, Count>,
    tokens: Family<Words<1>, Level>,
    requests: Family<Route<2>, Count>,
    durations: Family<Route<1>, Histogram, fn() -> Histogram>,
    under_way: Level,
    connections: Level,
    accepted: Count,
    limits: Family<Words<1>, Count>,
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub(crate) enum Limit {
    /// A connection was closed to make room for another one.
    Evicted,
    /// A connection was closed at once, since every other one was at work.
    Connections,
    /// The TLS handshake did not come to its end in time.
    Handshake,
    /// Nothing was asked on a connection for too long.
    Idle,
    /// A body was too large.
    BodySize,
    /// A body did not come to its end in time.
    BodyTime,
    /// An address presented too many unknown tokens.
    UnknownTokens,
    /// Too many requests of joining nodes were under way.
    Joins,
    /// Too many requests of the cluster's other nodes were under way.
    Callbacks,
    /// A request took longer than `--timeout` allows.
    Timeout,
}

impl Metrics {
    /// Nothing has been counted yet.
    pub(crate) fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("microk8s_agent");
        let add = &mut registry;
        let joins = registered(add, "joins", "Join requests answered");
        let told = "Joins whose end the joining node told";
        let join_outcomes = registered(add, "join_outcomes", told);
        let requested = "Certificate requests of joining nodes answered";
        let certificates = registered(add, "certificates", requested);
        let tokens = registered(add, "tokens", "Tokens that this node knows");
        let requests = registered(add, "requests", "Requests answered");
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let durations = Family::new_with_constructor(histogram);
        add.register_with_unit(
            "request_duration",
            "From the head of a request to the head of its answer",
            Unit::Seconds,
            durations.clone(),
        );
        let under_way = registered(add, "requests_in_progress", "Requests under way");
        let connections = registered(add, "connections", "Connections open now");
        let accepted = registered(add, "connections_accepted", "Connections accepted");
        let limits = registered(add, "limits_hit", "Limits that were reached");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The program", Info::new(version));
        let metrics = Self {
            registry,
            joins,
            join_outcomes,
            certificates,
            tokens,
            requests,
            durations,
            under_way,
            connections,
            accepted,
            limits,
        };
        metrics.begin();
        Arc::new(metrics)
    }

    /// What is counted from the first is there with a zero, so that a rise from nothing shows.
    fn begin(&self) {
        for limit in Limit::VARIANTS {
            drop(self.limits.get_or_create(&[("limit", limit.into_str())]));
        }
        for role in [Role::ControlPlane, Role::Worker] {
            let [outcome, reason] = outcome("admitted", None);
            drop(
                self.joins
                    .get_or_create(&[("role", role.into_str()), outcome, reason]),
            );
        }
        drop(self.certificates.get_or_create(&outcome("signed", None)));
        for outcome in [Outcome::Joined, Outcome::Failed] {
            drop(
                self.join_outcomes
                    .get_or_create(&[("outcome", outcome.into_str())]),
            );
        }
    }

    /// A join request was answered; `refused` says why not with yes.
    pub(crate) fn join(&self, role: Role, refused: Option<&'static str>) {
        let [outcome, reason] = outcome("admitted", refused);
        self.joins
            .get_or_create(&[("role", role.into_str()), outcome, reason])
            .inc();
    }

    /// A joining node said how its join ended.
    pub(crate) fn join_outcome(&self, outcome: Outcome) {
        self.join_outcomes
            .get_or_create(&[("outcome", outcome.into_str())])
            .inc();
    }

    /// A certificate was signed; `refused` says why not.
    pub(crate) fn certificate(&self, refused: Option<&'static str>) {
        self.certificates
            .get_or_create(&outcome("signed", refused))
            .inc();
    }

    /// How many tokens there are in each state.
    pub(crate) fn set_tokens(&self, by_state: impl IntoIterator<Item = (&'static str, i64)>) {
        for (state, count) in by_state {
            self.tokens.get_or_create(&[("state", state)]).set(count);
        }
    }

    /// A request began.
    pub(crate) fn request_began(&self) {
        self.under_way.inc();
    }

    /// A request ended: with this status, or because the client went away. The endpoint is the
    /// route's path; `None` is one that does not exist.
    pub(crate) fn request_ended(
        &self,
        endpoint: Option<&str>,
        status: Option<StatusCode>,
        took: Duration,
    ) {
        match status {
            Some(StatusCode::PAYLOAD_TOO_LARGE) => self.limit_hit(Limit::BodySize),
            Some(StatusCode::REQUEST_TIMEOUT) => self.limit_hit(Limit::BodyTime),
            _ => {}
        }
        let endpoint: Cow<'static, str> =
            endpoint.map_or("other".into(), |path| path.to_owned().into());
        let status = status.map_or("none".into(), |status| status.as_str().to_owned().into());
        self.under_way.dec();
        self.durations
            .get_or_create(&[("endpoint", endpoint.clone())])
            .observe(took.as_secs_f64());
        self.requests
            .get_or_create(&[("endpoint", endpoint), ("status", status)])
            .inc();
    }

    /// A connection was accepted, and is open until [`Metrics::connection_closed`].
    pub(crate) fn connection_opened(&self) {
        self.accepted.inc();
        self.connections.inc();
    }

    /// A connection is gone.
    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    /// A limit was reached.
    pub(crate) fn limit_hit(&self, limit: Limit) {
        self.limits_hit(limit, 1);
    }

    /// A limit was reached so often at once.
    pub(crate) fn limits_hit(&self, limit: Limit, times: usize) {
        // One that was never reached is not listed.
        if times > 0 {
            self.limits
                .get_or_create(&[("limit", limit.into_str())])
                .inc_by(times.try_into().unwrap_or(u64::MAX));
        }
    }

    /// All of it in the text format of OpenMetrics, which Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        match text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // A `String` takes all that is written to it.
            Err(std::fmt::Error) => String::new(),
        }
    }
}

/// A metric that the registry has.
fn registered<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

fn outcome(good: &'static str, refused: Option<&'static str>) -> Words<2> {
    [
        ("outcome", refused.map_or(good, |_| "refused")),
        ("reason", refused.unwrap_or_default()),
    ]
}
