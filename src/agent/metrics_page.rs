//! `/metrics`, which `--enable-metrics` turns on.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use strum::VariantArray;
use tokio::sync::Mutex;

use crate::agent::cluster_api::{Whole, only, wrong_method};
use crate::agent::metrics::MEDIA_TYPE;
use crate::agent::{Shared, request_log};
use crate::model::token_record::State as TokenState;
use crate::store::database::StoreError;
use crate::store::tokens::Tokens;
use crate::wire::routes;

/// For how long tokens are not counted again: all of them are read for it.
const COUNT_PAUSE: Duration = Duration::from_secs(10);

/// When the tokens were counted last.
pub(crate) type Census = Mutex<Option<Instant>>;

/// The route; without it the path is as unknown as any other.
pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new().route(routes::METRICS, only(get(page).head(wrong_method)))
}

async fn page(State(shared): State<Arc<Shared>>, _body: Whole) -> Response {
    count_tokens(&shared).await;
    let headers = [(CONTENT_TYPE, MEDIA_TYPE)];
    (StatusCode::OK, headers, shared.metrics.text()).into_response()
}

/// Counts the tokens, unless that was done a moment ago. What cannot be counted keeps its last
/// number: the expiry of tokens says in the log what is wrong with the store.
async fn count_tokens(shared: &Arc<Shared>) {
    let mut counted = shared.census.lock().await;
    if counted.is_some_and(|at| at.elapsed() < COUNT_PAUSE) {
        return;
    }
    let admission = shared.clone();
    let found = request_log::on_a_thread(move || by_state(admission.admission.tokens())).await;
    if let Ok(Some(by_state)) = found {
        shared.metrics.set_tokens(by_state);
        *counted = Some(Instant::now());
    }
}

fn by_state(tokens: &Tokens) -> Option<BTreeMap<&'static str, i64>> {
    let mut counts: BTreeMap<_, _> = TokenState::VARIANTS
        .iter()
        .map(|state| (state.into_str(), 0))
        .collect();
    let now = tokens.now();
    let counted = tokens.find_in_batches("", |batch| {
        for token in batch {
            *counts.entry(token.state(now).into_str()).or_default() += 1;
        }
        Ok::<_, StoreError>(ControlFlow::Continue(()))
    });
    counted.ok().map(|()| counts)
}
