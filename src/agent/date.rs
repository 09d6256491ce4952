//! The `Date` of an answer; a joining node compares its clock with it.
//!
//! hyper adds one where there is none, but repeats the last one until the clock is past it: for hours
//! after a clock was put back.

use axum::http::HeaderValue;
use axum::http::header::DATE;
use axum::response::Response;

use crate::base::clock::{Clock, SystemClock};
use crate::base::time_text;

/// Gives an answer the time of now.
pub(crate) async fn set(mut answer: Response) -> Response {
    let now = time_text::http_date(SystemClock.unix_seconds());
    if let Some(now) = now.and_then(|now| HeaderValue::try_from(now).ok()) {
        answer.headers_mut().insert(DATE, now);
    }
    answer
}
