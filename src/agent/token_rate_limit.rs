//! How many unknown tokens an address may present.
//!
//! A token is checked first, and only an unknown one counts: a valid one is never refused because
//! of others, since many nodes may share an address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use crate::agent::Shared;
use crate::agent::connection_limiter::peer;
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::Limit;
use crate::agent::status::{self, UnknownToken};
use crate::base::mutex::lock;
use crate::cluster::admission::Caller;
use crate::model::token_record::Reason;
use crate::wire::error_body::ErrorBody;

/// So many unknown tokens may come in a row: a rack of machines with an old token behind one
/// address, each of which tries a few times.
const BURST: u32 = 30;
/// One more may come each time that this has passed.
const PAUSE: Duration = Duration::from_secs(6);
/// How often at most the log speaks of one address.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);
/// How many addresses are remembered, with a hundred bytes each. An attacker with more addresses
/// is not limited by this; a token cannot be guessed in any case.
const REMEMBERED: usize = 4096;

/// What is known of addresses that presented unknown tokens.
#[derive(Debug, Default)]
pub(crate) struct TokenRateLimit {
    by_machine: Mutex<HashMap<IpAddr, Record>>,
}

#[derive(Debug)]
struct Record {
    /// When all that was presented is forgiven.
    forgiven: Instant,
    /// When the log last spoke of it.
    said: Option<Instant>,
}

/// What becomes of one more unknown token.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    /// Nothing in particular.
    Counted,
    /// It is one too many.
    TooMany {
        /// After how long another one counts.
        again: Duration,
        /// Whether the log should say so.
        is_news: bool,
    },
}

impl TokenRateLimit {
    /// Whether an address has to wait before it may present another unknown token.
    pub(crate) fn is_over(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let records = lock(&self.by_machine);
        let record = records.get(&peer(address));
        record.is_some_and(|record| !has_room(record.forgiven, now))
    }

    fn count(&self, address: IpAddr, now: Instant) -> Judged {
        let mut records = lock(&self.by_machine);
        let address = peer(address);
        if !records.contains_key(&address) {
            make_room(&mut records, now);
        }
        let record = records.entry(address).or_insert(Record {
            forgiven: now,
            said: None,
        });
        if has_room(record.forgiven, now) {
            record.forgiven = record.forgiven.max(now) + PAUSE;
            return Judged::Counted;
        }
        let is_news = record
            .said
            .is_none_or(|said| now.duration_since(said) >= COMPLAINT_PAUSE);
        if is_news && log_limit::is_written(Kind::UnknownTokens) {
            record.said = Some(now);
        }
        Judged::TooMany {
            again: record.forgiven.duration_since(now) + PAUSE - BURST * PAUSE,
            is_news,
        }
    }
}

fn has_room(forgiven: Instant, now: Instant) -> bool {
    forgiven.saturating_duration_since(now) + PAUSE <= BURST * PAUSE
}

/// When there is no room, forgets those who are forgiven, and the half who would be first: then there is
/// room for a while.
fn make_room(records: &mut HashMap<IpAddr, Record>, now: Instant) {
    if records.len() < REMEMBERED {
        return;
    }
    let mut ends: Vec<Instant> = records.values().map(|record| record.forgiven).collect();
    let (_, middle, _) = ends.select_nth_unstable(REMEMBERED / 2);
    let end = now.max(*middle);
    records.retain(|_, record| record.forgiven > end);
}

/// Looks at the answers: one that refuses an unknown token becomes status 429, with `Retry-After`,
/// for an address that presented too many of them.
pub(crate) async fn layer(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    let address = caller.remote;
    let answer = next.run(request).await;
    if answer.extensions().get::<UnknownToken>().is_none() {
        return answer;
    }
    let Judged::TooMany { again, is_news } = shared.token_rate_limit.count(address, Instant::now())
    else {
        return answer;
    };
    shared.metrics.limit_hit(Limit::UnknownTokens);
    let seconds = again.as_secs().max(1);
    if is_news {
        tracing::warn!(%address, seconds, "too many unknown tokens from this address: further ones are answered with status 429, and no more logged");
    }
    let mut body = ErrorBody::new(format!(
        "Invalid token. Too many unknown tokens came from this address, try again in {seconds} seconds"
    ));
    body.reason = Some(Reason::Unknown);
    status::try_again(StatusCode::TOO_MANY_REQUESTS, seconds, &body)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn an_address_may_present_some_unknown_tokens_and_then_one_now_and_then() {
        let token_rate_limit = TokenRateLimit::default();
        let now = Instant::now();
        for _ in 0..BURST {
            assert_eq!(token_rate_limit.count(ADDRESS, now), Judged::Counted);
        }
        let too_many = |is_news| Judged::TooMany {
            again: PAUSE,
            is_news,
        };
        assert_eq!(token_rate_limit.count(ADDRESS, now), too_many(true));
        assert_eq!(
            token_rate_limit.count(ADDRESS, now),
            too_many(false),
            "is said once"
        );
        let other = "10.0.0.2".parse().unwrap();
        assert_eq!(token_rate_limit.count(other, now), Judged::Counted);
        assert_eq!(
            token_rate_limit.count(ADDRESS, now + PAUSE),
            Judged::Counted
        );
        let next = token_rate_limit.count(ADDRESS, now + PAUSE);
        assert_eq!(
            next,
            too_many(false),
            "what is refused is not held against it"
        );
        let later = now + COMPLAINT_PAUSE;
        for _ in 0..9 {
            assert_eq!(token_rate_limit.count(ADDRESS, later), Judged::Counted);
        }
        assert_eq!(
            token_rate_limit.count(ADDRESS, later),
            too_many(true),
            "a minute has passed"
        );
    }

    #[test]
    fn a_machine_with_ipv6_has_no_more_than_one_with_ipv4() {
        let token_rate_limit = TokenRateLimit::default();
        let now = Instant::now();
        for number in 0..BURST {
            let address = format!("fd00:0:0:1::{number:x}").parse().unwrap();
            assert_eq!(token_rate_limit.count(address, now), Judged::Counted);
        }
        let same: IpAddr = "fd00:0:0:1:ffff::1".parse().unwrap();
        assert!(matches!(
            token_rate_limit.count(same, now),
            Judged::TooMany { .. }
        ));
        let other: IpAddr = "fd00:0:0:2::1".parse().unwrap();
        assert_eq!(token_rate_limit.count(other, now), Judged::Counted);
    }

    #[test]
    fn an_attacker_with_many_addresses_takes_no_more_memory_and_frees_no_other() {
        let token_rate_limit = TokenRateLimit::default();
        let now = Instant::now();
        for _ in 0..BURST {
            token_rate_limit.count(ADDRESS, now);
        }
        for number in 0..3 * REMEMBERED {
            let address = Ipv4Addr::from_bits(0x0b00_0000 + u32::try_from(number).unwrap());
            token_rate_limit.count(address.into(), now);
        }
        assert!((1..=REMEMBERED).contains(&lock(&token_rate_limit.by_machine).len()));
        let judged = token_rate_limit.count(ADDRESS, now);
        assert!(matches!(judged, Judged::TooMany { .. }), "{judged:?}");
    }
}
