//! Requests to the cluster's API, as the user of a kubeconfig, on one connection that is kept.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::base::runtime;
use crate::client::api_server::ApiServerError;
use crate::client::kubeconfig::{self, KubeconfigError};

/// How long a connection may take to stand, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take, further attempts included.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The pause before a request that was refused because the server is busy, where it names none.
const PAUSE: Duration = Duration::from_millis(500);
/// After this time without a sign of life the server is asked for one; without an answer to that for
/// as long the connection is closed.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest answer that is taken, in bytes.
const ANSWER_SIZE: usize = 32 << 20;

/// The API server that a kubeconfig leads to. The file is read for each new connection.
pub(crate) struct Kubernetes {
    kubeconfig: PathBuf,
    connection: Mutex<Option<Arc<Connection>>>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: String,
    authorization: Option<HeaderValue>,
}

/// An answer, and the connection on which it comes.
type Answer = (Arc<Connection>, Response<Incoming>);

/// A request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) path: &'a str,
    pub(crate) body: Bytes,
}

/// Why the API server did not do as it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubernetesError {
    /// It is not known where it is.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// Nothing was sent.
    #[error("no connection to the API server: {0}")]
    NoConnection(#[from] ApiServerError),
    /// The request was sent, and no answer came: it may have been done.
    #[error("the API server at {address} did not answer: {why}")]
    NoAnswer {
        /// Where it is.
        address: String,
        /// What happened instead.
        why: String,
    },
    /// It refused the request, or failed at it.
    #[error("the API server answered with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it says.
        message: String,
        /// After how many seconds it wants to be asked again.
        retry_after: Option<u64>,
        /// Where to go on with a list that was not read to its end in time.
        next: Option<String>,
    },
    /// The answer is not what was asked for.
    #[error("the API server gave an answer that cannot be read: {0}")]
    Unreadable(String),
}

impl KubernetesError {
    /// Whether it answered with this status.
    pub(crate) fn has_status(&self, expected: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == expected)
    }
}

/// What the API server says when it does not do what it was asked for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    message: String,
    metadata: ListPosition,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListPosition {
    #[serde(rename = "continue")]
    next: String,
}

impl Kubernetes {
    /// The one that this kubeconfig leads to.
    pub(crate) fn new(kubeconfig: PathBuf) -> Self {
        Self {
            kubeconfig,
            connection: Mutex::default(),
        }
    }

    /// The body of the answer.
    pub(crate) fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        call: &Call<'_>,
    ) -> Result<T, KubernetesError> {
        self.ask_within(ANSWER_LIMIT, call)
    }

    /// What is at this path, within this time.
    pub(crate) fn get<T: for<'de> Deserialize<'de>>(
        &self,
        limit: Duration,
        path: &str,
    ) -> Result<T, KubernetesError> {
        let call = Call {
            method: Method::GET,
            path,
            body: Bytes::new(),
        };
        self.ask_within(limit, &call)
    }

    fn ask_within<T: for<'de> Deserialize<'de>>(
        &self,
        limit: Duration,
        call: &Call<'_>,
    ) -> Result<T, KubernetesError> {
        let end = Instant::now() + limit;
        let read = async {
            let (connection, response) = self.open(call, end).await?;
            let body = timeout_at(end, read_body(response)).await;
            match body.unwrap_or_else(|_| Err("it did not end in time".to_owned())) {
                Ok(body) => Ok(body),
                Err(why) => Err(self.no_answer(&connection, why).await),
            }
        };
        let body = block_on(read)?;
        serde_json::from_slice(&body)
            .map_err(|error| KubernetesError::Unreadable(error.to_string()))
    }

    /// The beginning of a good answer. What the server was too busy for is asked for again.
    async fn open(&self, call: &Call<'_>, end: Instant) -> Result<Answer, KubernetesError> {
        let mut was_authorized_anew = false;
        loop {
            let (connection, response) = self.send(call, end).await?;
            let status = response.status();
            if status.is_success() {
                return Ok((connection, response));
            }
            let retry_after = response.headers().get(RETRY_AFTER);
            let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            if status == StatusCode::UNAUTHORIZED && !was_authorized_anew {
                // The kubeconfig may have changed since this connection was opened.
                was_authorized_anew = true;
                self.close(&connection).await;
                continue;
            }
            let pause = retry_after.map_or(PAUSE, Duration::from_secs);
            if status == StatusCode::TOO_MANY_REQUESTS && Instant::now() + pause < end {
                wait_for(pause).await;
                continue;
            }
            let body = timeout_at(end, read_body(response)).await;
            let body = body.unwrap_or_else(|late| Err(late.to_string()));
            let said: Status = body
                .ok()
                .and_then(|body| serde_json::from_slice(&body).ok())
                .unwrap_or_default();
            return Err(KubernetesError::Refused {
                status: status.as_u16(),
                message: said.message,
                retry_after,
                next: Some(said.metadata.next).filter(|next| !next.is_empty()),
            });
        }
    }

    /// Sends a request, a second time where the connection turns out to be closed.
    async fn send(&self, call: &Call<'_>, end: Instant) -> Result<Answer, KubernetesError> {
        let mut is_second = false;
        loop {
            let late = |_| Err(ApiServerError::TimedOut("the API server".to_owned()).into());
            let connection = timeout_at(end, self.connect()).await.unwrap_or_else(late)?;
            let request = connection.request(call)?;
            let mut sender = connection.sender.clone();
            match timeout_at(end, sender.try_send_request(request)).await {
                Ok(Ok(response)) => return Ok((connection, response)),
                Ok(Err(mut error)) => {
                    let was_sent = error.take_message().is_none();
                    let why = error.into_error().to_string();
                    let error = self.no_answer(&connection, why).await;
                    if was_sent || is_second {
                        return Err(error);
                    }
                    is_second = true;
                }
                Err(late) => return Err(self.no_answer(&connection, late.to_string()).await),
            }
        }
    }

    /// The error for an answer that did not come. The next request takes another connection.
    async fn no_answer(&self, connection: &Arc<Connection>, why: String) -> KubernetesError {
        self.close(connection).await;
        let address = connection.address.clone();
        KubernetesError::NoAnswer { address, why }
    }

    /// Keeps this connection no longer. Another one may have taken its place meanwhile.
    async fn close(&self, connection: &Arc<Connection>) {
        let mut kept = self.connection.lock().await;
        kept.take_if(|kept| Arc::ptr_eq(kept, connection));
    }

    async fn connect(&self) -> Result<Arc<Connection>, KubernetesError> {
        let mut kept = self.connection.lock().await;
        if let Some(open) = kept.as_ref().filter(|kept| !kept.sender.is_closed()) {
            return Ok(open.clone());
        }
        let access = kubeconfig::read(&self.kubeconfig)?;
        let address = access.server.address();
        let open = async {
            let tls = access.server.connect(&[b"h2"]).await?;
            let (sender, driver) = Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(SILENCE)
                .keep_alive_timeout(SILENCE)
                .keep_alive_while_idle(true)
                .handshake(TokioIo::new(tls))
                .await
                .map_err(|error| ApiServerError::no_http(&address, &error))?;
            // Its errors reach the sender too.
            tokio::spawn(async { drop(driver.await) });
            Ok::<_, ApiServerError>(sender)
        };
        let late = |_| Err(ApiServerError::TimedOut(address.clone()));
        let sender = timeout(CONNECT_LIMIT, open).await.unwrap_or_else(late)?;
        let authorization = match access.token {
            Some(token) => {
                let value = format!("Bearer {}", token.expose());
                let mut value = HeaderValue::from_str(&value).map_err(unusable)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let connection = Arc::new(Connection {
            sender,
            address,
            authorization,
        });
        Ok(kept.insert(connection).clone())
    }
}

impl Connection {
    fn request(&self, call: &Call<'_>) -> Result<Request<Full<Bytes>>, KubernetesError> {
        let uri = format!("https://{}{}", self.address, call.path);
        let request = Request::builder().method(&call.method).uri(uri);
        let request = request.header(CONTENT_TYPE, "application/json");
        let request = match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        };
        let request = request.body(Full::new(call.body.clone()));
        request.map_err(|error| unusable(error).into())
    }
}

fn unusable(error: impl std::fmt::Display) -> ApiServerError {
    ApiServerError::SetUp(error.to_string())
}

fn block_on<T>(
    work: impl Future<Output = Result<T, KubernetesError>>,
) -> Result<T, KubernetesError> {
    runtime::block_on(work).unwrap_or_else(|error| Err(unusable(error).into()))
}

#[expect(clippy::disallowed_methods, reason = "the server asks for this pause")]
async fn wait_for(pause: Duration) {
    sleep(pause).await;
}

async fn read_body(response: Response<Incoming>) -> Result<Vec<u8>, String> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > ANSWER_SIZE {
            return Err(format!("the answer is larger than {ANSWER_SIZE} bytes"));
        }
    }
    Ok(bytes)
}
