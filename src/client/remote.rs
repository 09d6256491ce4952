//! Requests to the agent of another node.
//!
//! One connection serves all requests of a join; where the other side closes it, a new one is
//! made, and must show the same certificate as the first.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::base::secret::Secret;
use crate::base::wait;
use crate::client::clock_reading::{self, ClockReading};
use crate::client::pinned_tls;
use crate::wire::routes;

/// How long a connection may take to stand.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long an answer may take: the contacted node may have to move its datastore first.
const ANSWER_LIMIT: Duration = Duration::from_secs(240);
/// How long a connection may take to be ready for the next request.
const READY_LIMIT: Duration = Duration::from_secs(1);
/// How often it is asked whether the answer is still wanted.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The largest answer that is taken; real ones have a few kilobytes.
const ANSWER_SIZE: usize = 1 << 20;
/// The longest time, in seconds, after which a peer may ask to be asked again; one that names a longer
/// one is not believed.
const LONGEST_RETRY_AFTER: u64 = 24 * 60 * 60;

/// The agent of another node.
pub struct Peer {
    runtime: Runtime,
    endpoint: SocketAddr,
    from: Option<IpAddr>,
    certificate: Vec<u8>,
    connection: Option<Connection>,
}

/// How long a peer is waited for: until a time, whatever arrives meanwhile, and no longer than
/// the answer is wanted.
#[derive(Clone, Copy)]
pub struct Wait<'a> {
    end: Instant,
    is_over: &'a dyn Fn() -> bool,
}

impl<'a> Wait<'a> {
    /// Until `end`, or until `is_over` says that the answer is not wanted any more.
    pub fn until(end: Instant, is_over: &'a dyn Fn() -> bool) -> Self {
        Self { end, is_over }
    }

    /// For this long.
    pub fn within(limit: Duration) -> Self {
        Self::until(wait::end_of(limit), &|| false)
    }

    fn at_most(self, limit: Duration) -> Self {
        Self {
            end: self.end.min(wait::end_of(limit)),
            ..self
        }
    }

    /// Does the work; the error for work that takes too long is made from the seconds waited.
    async fn for_work<T>(
        self,
        work: impl Future<Output = Result<T, RemoteError>>,
        too_late: impl FnOnce(u64) -> RemoteError,
    ) -> Result<T, RemoteError> {
        let began = Instant::now();
        let mut work = pin!(work);
        loop {
            if (self.is_over)() {
                return Err(RemoteError::GivenUp);
            }
            let left = self.end.saturating_duration_since(Instant::now());
            match timeout(POLL_INTERVAL.min(left), work.as_mut()).await {
                Ok(result) => return result,
                Err(_) if left <= POLL_INTERVAL => {
                    return Err(too_late(began.elapsed().as_secs().max(1)));
                }
                Err(_) => {}
            }
        }
    }
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    beginning: Beginning,
    used: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Secret,
    /// The agent wants to hear how the join ends.
    pub takes_outcome: bool,
    /// The node which has the token, or which it is for.
    pub reason_node: Option<String>,
    /// How many seconds ago the token came to be of no use.
    pub reason_seconds: Option<i64>,
    /// After how many seconds the peer wants to be asked again: of status 429 or 503.
    pub retry_after: Option<u64>,
    /// The peer's clock, where it tells the time.
    pub clock: Option<ClockReading>,
    /// The address from which the peer sees this node call, where it tells.
    pub caller: Option<IpAddr>,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No connection.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where to.
        endpoint: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No answer to the attempt to connect.
    #[error("no connection to {endpoint} within {seconds} seconds")]
    NoConnection {
        /// Where to.
        endpoint: SocketAddr,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The connection was taken, and TLS was not answered.
    #[error("{endpoint} took the connection, but did not set up TLS within {seconds} seconds")]
    NoHandshake {
        /// Who.
        endpoint: SocketAddr,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The request was taken, and not answered, or not to its end.
    #[error("{endpoint} took the request, but did not answer it within {seconds} seconds")]
    NoAnswer {
        /// Who.
        endpoint: SocketAddr,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The peer speaks no TLS.
    #[error("the peer speaks no TLS")]
    NotTls,
    /// TLS failed.
    #[error("{0}")]
    Tls(String),
    /// The peer closed the connection without an answer.
    #[error("Remote end closed connection without response")]
    Closed,
    /// The answer is no HTTP; its first line.
    #[error("{0}")]
    NotHttp(String),
    /// The answer ended too early.
    #[error("IncompleteRead({read} bytes read{})", missing(.expected))]
    CutOff {
        /// How much came.
        read: usize,
        /// How much was announced beyond that.
        expected: Option<usize>,
    },
    /// The answer is too large.
    #[error("the answer is larger than {ANSWER_SIZE} bytes")]
    TooLarge,
    /// The caller no longer wants the answer.
    #[error("the request was given up")]
    GivenUp,
    /// Another certificate than on the first connection.
    #[error("the certificate of {0} changed during the join")]
    OtherCertificate(SocketAddr),
    /// The program's own TLS or runtime cannot be set up.
    #[error("cannot set up a client: {0}")]
    SetUp(String),
}

fn missing(expected: &Option<usize>) -> String {
    expected.map_or_else(String::new, |more| format!(", {more} more expected"))
}

/// Whether anything listens there; the connection is closed at once.
pub fn reach(endpoint: SocketAddr, from: Option<IpAddr>, limit: Duration) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let opened = runtime.block_on(async { timeout(limit, open_tcp(endpoint, from)).await });
    opened
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map(drop)
}

impl Peer {
    /// Connects, from this address of ours where given, and takes the certificate that the peer
    /// shows. Nothing is sent yet.
    pub fn connect(
        wait: Wait<'_>,
        endpoint: SocketAddr,
        from: Option<IpAddr>,
    ) -> Result<Self, RemoteError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| RemoteError::SetUp(error.to_string()))?;
        let (connection, certificate) = runtime.block_on(connect(wait, endpoint, from))?;
        Ok(Self {
            runtime,
            endpoint,
            from,
            certificate,
            connection: Some(connection),
        })
    }

    /// The certificate that the peer showed, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Sends a JSON body and takes the answer.
    pub fn post(
        &mut self,
        wait: Wait<'_>,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Reply, RemoteError> {
        let wait = wait.at_most(ANSWER_LIMIT);
        let body =
            serde_json::to_vec(body).map_err(|error| RemoteError::SetUp(error.to_string()))?;
        self.request(wait, path, Bytes::from(body))
    }

    /// Asks for what is at a path.
    pub fn get(&mut self, wait: Wait<'_>, path: &str) -> Result<Reply, RemoteError> {
        let result = self.request(wait.at_most(ANSWER_LIMIT), path, Bytes::new());
        if let Some(connection) = &mut self.connection {
            // What comes next may be acted on, and is not to be sent twice.
            connection.used = false;
        }
        result
    }

    /// A request; one without a body is a `GET`.
    fn request(&mut self, wait: Wait<'_>, path: &str, body: Bytes) -> Result<Reply, RemoteError> {
        let kept = match self.connection.take() {
            Some(mut open) => self.is_ready(&mut open).then_some(open),
            None => None,
        };
        let mut connection = match kept {
            Some(open) => open,
            None => self.reconnect(wait)?,
        };
        let was_used = connection.used;
        let mut result = self.send(wait, &mut connection, path, body.clone());
        // A connection that was kept open may be closed by the other side just as we send.
        if was_used && matches!(result, Err(RemoteError::Closed)) {
            connection = self.reconnect(wait)?;
            result = self.send(wait, &mut connection, path, body);
        }
        // An answer that is still to come must not be taken for that to the next request.
        self.connection = result.is_ok().then_some(connection);
        result
    }

    fn send(
        &self,
        wait: Wait<'_>,
        connection: &mut Connection,
        path: &str,
        body: Bytes,
    ) -> Result<Reply, RemoteError> {
        let endpoint = self.endpoint;
        self.runtime.block_on(
            wait.for_work(exchange(connection, endpoint, path, body), |seconds| {
                RemoteError::NoAnswer { endpoint, seconds }
            }),
        )
    }

    /// Whether a connection that was kept open still is.
    fn is_ready(&self, connection: &mut Connection) -> bool {
        let ready = async { timeout(READY_LIMIT, connection.sender.ready()).await };
        matches!(self.runtime.block_on(ready), Ok(Ok(())))
    }

    fn reconnect(&self, wait: Wait<'_>) -> Result<Connection, RemoteError> {
        let (connection, certificate) =
            self.runtime
                .block_on(connect(wait, self.endpoint, self.from))?;
        if certificate != self.certificate {
            return Err(RemoteError::OtherCertificate(self.endpoint));
        }
        Ok(connection)
    }
}

async fn connect(
    wait: Wait<'_>,
    endpoint: SocketAddr,
    from: Option<IpAddr>,
) -> Result<(Connection, Vec<u8>), RemoteError> {
    let wait = wait.at_most(CONNECT_LIMIT);
    let opened = async {
        open_tcp(endpoint, from)
            .await
            .map_err(|source| RemoteError::Connect { endpoint, source })
    };
    let tcp = wait
        .for_work(opened, |seconds| RemoteError::NoConnection {
            endpoint,
            seconds,
        })
        .await?;
    wait.for_work(set_up(tcp, endpoint), |seconds| RemoteError::NoHandshake {
        endpoint,
        seconds,
    })
    .await
}

/// Sets up TLS and HTTP on a connection.
async fn set_up(
    tcp: TcpStream,
    endpoint: SocketAddr,
) -> Result<(Connection, Vec<u8>), RemoteError> {
    let config = pinned_tls::config().map_err(|error| RemoteError::SetUp(error.to_string()))?;
    let name = ServerName::IpAddress(endpoint.ip().into());
    let tls = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(tls_error)?;
    let certificate = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or_else(|| RemoteError::Tls("the peer showed no certificate".into()))?
        .to_vec();
    let beginning = Beginning::default();
    let recorded = Recorded {
        stream: tls,
        beginning: beginning.clone(),
    };
    let (sender, driver) = http1::handshake(TokioIo::new(recorded))
        .await
        .map_err(|error| RemoteError::SetUp(error.to_string()))?;
    tokio::spawn(async move {
        // Its errors reach the sender too.
        let _ = driver.await;
    });
    Ok((
        Connection {
            sender,
            beginning,
            used: false,
        },
        certificate,
    ))
}

async fn open_tcp(endpoint: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(endpoint).await;
    };
    let socket = if endpoint.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(endpoint).await
}

fn tls_error(error: io::Error) -> RemoteError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return RemoteError::Tls("the connection was closed during the handshake".into());
    }
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidMessage(_)) => RemoteError::NotTls,
        _ => RemoteError::Tls(error.to_string()),
    }
}

async fn exchange(
    connection: &mut Connection,
    endpoint: SocketAddr,
    path: &str,
    body: Bytes,
) -> Result<Reply, RemoteError> {
    let method = if body.is_empty() {
        Method::GET
    } else {
        Method::POST
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, endpoint.to_string())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json")
        .body(Full::new(body))
        .map_err(|error| RemoteError::SetUp(error.to_string()))?;
    connection.beginning.clear();
    if connection.sender.ready().await.is_err() {
        return Err(RemoteError::Closed);
    }
    let began = SystemTime::now();
    let sent = connection.sender.send_request(request).await;
    let response = sent.map_err(|error| no_response(&error, &connection.beginning))?;
    connection.used = true;
    let clock = clock_reading::of(&response, began);
    Ok(Reply {
        clock,
        ..read_body(response).await?
    })
}

/// What MicroK8s's client says of an answer that is none (recordings `join-peer-closes`,
/// `join-peer-garbage`).
fn no_response(error: &hyper::Error, beginning: &Beginning) -> RemoteError {
    match beginning.first_line() {
        Some(line) if !error.is_timeout() => RemoteError::NotHttp(line),
        _ => RemoteError::Closed,
    }
}

async fn read_body(response: Response<Incoming>) -> Result<Reply, RemoteError> {
    let status = response.status().as_u16();
    let takes_outcome = response.headers().contains_key(routes::TAKES_OUTCOME);
    let header = |name: &str| -> Option<String> {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let number = |name: &str| header(name).and_then(|text| text.parse().ok());
    let caller = header(routes::CALLER).and_then(|text| text.parse().ok());
    let announced: Option<usize> = header(CONTENT_LENGTH.as_str()).and_then(|n| n.parse().ok());
    let (reason_node, reason_seconds) =
        (header(routes::REASON_NODE), number(routes::REASON_SECONDS));
    // Our agent gives seconds; the other form, a date, would need both clocks to agree.
    let retry_after = header(RETRY_AFTER.as_str())
        .filter(|text| matches!(status, 429 | 503) && text.bytes().all(|c| c.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|seconds| (1..=LONGEST_RETRY_AFTER).contains(seconds));
    let mut body = response.into_body();
    let mut bytes = zeroize::Zeroizing::new(Vec::new());
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
    Ok(Reply {
        status,
        body: Secret::new(String::from_utf8_lossy(&bytes)),
        takes_outcome,
        reason_node,
        reason_seconds,
        retry_after,
        clock: None,
        caller,
    })
}

/// The first bytes of an answer, kept for the message when it is no HTTP.
#[derive(Debug, Clone, Default)]
struct Beginning(Arc<Mutex<Vec<u8>>>);

impl Beginning {
    const LENGTH: usize = 256;

    fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn take_note(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = Self::LENGTH.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn first_line(&self) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = kept.split(|byte| *byte == b'\n').next()?;
        (!kept.is_empty()).then(|| String::from_utf8_lossy(line).trim_end().to_owned())
    }
}

/// A stream whose beginning is kept.
struct Recorded<S> {
    stream: S,
    beginning: Beginning,
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.beginning.take_note(&buffer.filled()[before..]);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
