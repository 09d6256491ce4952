//! An answer of another node's agent: read in full, and no larger than real ones are.

use std::net::IpAddr;
use std::time::SystemTime;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, RETRY_AFTER};
use zeroize::Zeroizing;

use crate::base::secret::Secret;
use crate::client::clock_reading::{self, ClockReading};
use crate::client::remote::RemoteError;
use crate::wire::routes;

/// The largest answer that is taken, in bytes; real ones have a few kilobytes.
pub(crate) const ANSWER_SIZE: usize = 1 << 20;
/// The longest time, in seconds, after which a peer may ask to be asked again; one that names a longer
/// one is not believed.
const LONGEST_RETRY_AFTER: u64 = 24 * 60 * 60;

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Secret,
    /// The agent wants to hear how the join ends.
    pub(crate) takes_outcome: bool,
    /// The node which has the token, or which it is for.
    pub(crate) reason_node: Option<String>,
    /// How many seconds ago the token came to be of no use.
    pub(crate) reason_seconds: Option<i64>,
    /// After how many seconds the peer wants to be asked again: of status 429 or 503.
    pub(crate) retry_after: Option<u64>,
    /// The peer's clock, where it tells the time.
    pub(crate) clock: Option<ClockReading>,
    /// The address from which the peer sees this node call, where it tells.
    pub(crate) caller: Option<IpAddr>,
}

impl Reply {
    /// The answer to a request that was sent at this time.
    pub(crate) async fn read(
        response: Response<Incoming>,
        sent: SystemTime,
    ) -> Result<Self, RemoteError> {
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let number = |name: &str| header(name)?.parse().ok();
        // Our agent gives seconds; the other form, a date, would need both clocks to agree.
        let retry_after = header(RETRY_AFTER.as_str())
            .filter(|text| matches!(status, 429 | 503) && text.bytes().all(|c| c.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .filter(|seconds| (1..=LONGEST_RETRY_AFTER).contains(seconds));
        let announced: Option<usize> =
            header(CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
        Ok(Self {
            status,
            takes_outcome: response.headers().contains_key(routes::TAKES_OUTCOME),
            reason_node: header(routes::REASON_NODE).map(str::to_owned),
            reason_seconds: number(routes::REASON_SECONDS),
            retry_after,
            clock: clock_reading::of(&response, sent),
            caller: header(routes::CALLER).and_then(|text| text.parse().ok()),
            body: read_body(response.into_body(), announced).await?,
        })
    }
}

async fn read_body(mut body: Incoming, announced: Option<usize>) -> Result<Secret, RemoteError> {
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Err(RemoteError::CutOff {
                read: bytes.len(),
                expected: announced.map(|length| length.saturating_sub(bytes.len())),
            });
        };
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() > ANSWER_SIZE {
            return Err(RemoteError::TooLarge);
        }
    }
    Ok(Secret::new(String::from_utf8_lossy(&bytes)))
}
