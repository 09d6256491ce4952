//! Requests to the agent of another node.
//!
//! One connection serves all requests of a join; where the other side closes it, a new one is made.
//! Behind a virtual address that may lead to another control plane node.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;

use crate::base::mutex::lock;
use crate::base::{runtime, wait};
use crate::client::connection;
use crate::client::pinned_tls::{self, Identity, OtherCertificate};
use crate::client::reply::{ANSWER_SIZE, Reply};

/// How long a connection may take to stand.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// How long an answer may take: the contacted node may have to move its datastore first.
const ANSWER_LIMIT: Duration = Duration::from_secs(240);
/// How long a connection may take to be ready for the next request.
const READY_LIMIT: Duration = Duration::from_secs(1);
/// How many bytes of an answer are kept for the message when it is no HTTP.
const BEGINNING: usize = 256;

/// The agent of another node.
pub struct Peer {
    endpoint: SocketAddr,
    from: Option<IpAddr>,
    expected: Identity,
    certificate: Vec<u8>,
    connection: Option<Connection>,
    /// The connection is not new, and a request on it may be sent a second time.
    may_repeat: bool,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    beginning: Beginning,
}

/// The first bytes of an answer.
#[derive(Clone, Default)]
struct Beginning(Arc<Mutex<Vec<u8>>>);

impl Beginning {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        lock(&self.0)
    }

    fn add(&self, bytes: &[u8]) {
        let mut kept = self.lock();
        let room = BEGINNING.saturating_sub(kept.len());
        kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn first_line(&self) -> Option<String> {
        let kept = self.lock();
        let line = kept.split(|byte| *byte == b'\n').next()?;
        (!kept.is_empty()).then(|| String::from_utf8_lossy(line).trim_end().to_owned())
    }
}

/// How long a peer is waited for: until a time, whatever arrives meanwhile, and no longer than
/// the answer is wanted.
#[derive(Clone)]
pub struct Wait {
    end: Instant,
    cancelled: CancellationToken,
}

impl Wait {
    /// Until `end`, or until the answer is not wanted any more.
    pub(crate) fn until(end: Instant, cancelled: &CancellationToken) -> Self {
        let cancelled = cancelled.clone();
        Self { end, cancelled }
    }

    /// For this long.
    pub fn within(limit: Duration) -> Self {
        Self::until(wait::end_of(limit), &CancellationToken::new())
    }

    /// The same, and no longer than this from now.
    pub(crate) fn at_most(&self, limit: Duration) -> Self {
        Self::until(self.end.min(wait::end_of(limit)), &self.cancelled)
    }

    /// The same, and no longer than one of so many equal parts of the time that is left.
    pub(crate) fn share(&self, parts: usize) -> Self {
        let left = self.end.saturating_duration_since(Instant::now());
        self.at_most(left / u32::try_from(parts).unwrap_or(u32::MAX).max(1))
    }

    /// Whether there is no time left.
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Pauses as long as it is waited; says whether it still is.
    pub(crate) fn pause(&self, pause: Duration) -> bool {
        let left = self.end.saturating_duration_since(Instant::now());
        !wait::pause_unless(pause.min(left), &self.cancelled) && !self.is_over()
    }

    /// Does the work; the error for work that takes too long is made from the seconds waited.
    async fn for_work<T>(
        &self,
        work: impl Future<Output = Result<T, RemoteError>>,
        too_late: impl FnOnce(u64) -> RemoteError,
    ) -> Result<T, RemoteError> {
        let began = Instant::now();
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(RemoteError::GivenUp),
            done = timeout_at(self.end.into(), work) => {
                done.unwrap_or_else(|_| Err(too_late(began.elapsed().as_secs().max(1))))
            }
        }
    }
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
    #[error("no connection to {0} within {1} seconds")]
    NoConnection(SocketAddr, u64),
    /// The connection was taken, and TLS was not answered.
    #[error("{0} took the connection, but did not set up TLS within {1} seconds")]
    NoHandshake(SocketAddr, u64),
    /// The request was taken, and not answered, or not to its end.
    #[error("{0} took the request, but did not answer it within {1} seconds")]
    NoAnswer(SocketAddr, u64),
    /// The peer speaks no TLS.
    #[error("the peer does not speak TLS")]
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
    /// Another certificate than the expected one, or than those that the cluster's nodes may show.
    #[error("the certificate of {endpoint} changed during the join")]
    OtherCertificate {
        /// Who.
        endpoint: SocketAddr,
        /// Which certificates.
        source: OtherCertificate,
    },
    /// The program's own TLS or runtime cannot be set up.
    #[error("cannot set up a client: {0}")]
    SetUp(String),
}

impl RemoteError {
    fn set_up(error: impl Display) -> Self {
        Self::SetUp(error.to_string())
    }
}

fn missing(expected: &Option<usize>) -> String {
    expected.map_or_else(String::new, |more| format!(", {more} more expected"))
}

/// Whether anything listens there; the connection is closed at once.
pub(crate) fn reach(endpoint: SocketAddr, from: Option<IpAddr>, limit: Duration) -> io::Result<()> {
    let opened = runtime::block_on(async { timeout(limit, open_tcp(endpoint, from)).await })?;
    opened
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map(drop)
}

impl Peer {
    /// Connects to the peer, which is to be this one, from this address of ours where given. Nothing
    /// is sent yet.
    pub fn connect(
        wait: &Wait,
        endpoint: SocketAddr,
        from: Option<IpAddr>,
        expected: Identity,
    ) -> Result<Self, RemoteError> {
        let mut peer = Self {
            endpoint,
            from,
            expected,
            certificate: Vec::new(),
            connection: None,
            may_repeat: false,
        };
        peer.connection = Some(block_on(peer.open(wait))?);
        Ok(peer)
    }

    /// The certificate that the peer showed last, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// From now on it is the one that is connected now, or a control plane node under this authority
    /// (PEM), which that one has named: behind a virtual address the next connection may lead to
    /// another one. An authority that is of no use names no other.
    pub(crate) fn trust(&mut self, authority: Option<&str>) {
        let others = Identity::control_plane(authority.unwrap_or_default()).unwrap_or_default();
        self.expected = others.or(&self.certificate);
    }

    /// Sends a JSON body and takes the answer.
    pub(crate) fn post(
        &mut self,
        wait: &Wait,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Reply, RemoteError> {
        let body = serde_json::to_vec(body).map_err(RemoteError::set_up)?;
        self.request(wait, path, Bytes::from(body))
    }

    /// Asks for what is at a path.
    pub(crate) fn get(&mut self, wait: &Wait, path: &str) -> Result<Reply, RemoteError> {
        let result = self.request(wait, path, Bytes::new());
        // What comes next may be acted on, and is not to be sent twice.
        self.may_repeat = false;
        result
    }

    /// A request; one without a body is a `GET`.
    fn request(&mut self, wait: &Wait, path: &str, body: Bytes) -> Result<Reply, RemoteError> {
        let wait = wait.at_most(ANSWER_LIMIT);
        block_on(async {
            let mut result = self.exchange(&wait, path, body.clone()).await;
            // A connection that was kept open may be closed by the other side just as we send.
            if self.may_repeat && matches!(result, Err(RemoteError::Closed)) {
                result = self.exchange(&wait, path, body).await;
            }
            self.may_repeat = result.is_ok();
            result
        })
    }

    async fn exchange(
        &mut self,
        wait: &Wait,
        path: &str,
        body: Bytes,
    ) -> Result<Reply, RemoteError> {
        let endpoint = self.endpoint;
        let mut connection = self.open(wait).await?;
        let asked = ask(&mut connection, endpoint, path, body);
        let no_answer = |seconds| RemoteError::NoAnswer(endpoint, seconds);
        let reply = wait.for_work(asked, no_answer).await?;
        // An answer that is still to come must not be taken for that to the next request.
        self.connection = Some(connection);
        Ok(reply)
    }

    /// The connection that was kept, where it still is open, or a new one.
    async fn open(&mut self, wait: &Wait) -> Result<Connection, RemoteError> {
        if let Some(mut kept) = self.connection.take()
            && let Ok(Ok(())) = timeout(READY_LIMIT, kept.sender.ready()).await
        {
            return Ok(kept);
        }
        self.may_repeat = false;
        let (endpoint, from) = (self.endpoint, self.from);
        let wait = wait.at_most(CONNECT_LIMIT);
        let opened = async {
            open_tcp(endpoint, from)
                .await
                .map_err(|source| RemoteError::Connect { endpoint, source })
        };
        let no_connection = |seconds| RemoteError::NoConnection(endpoint, seconds);
        let tcp = wait.for_work(opened, no_connection).await?;
        let no_handshake = |seconds| RemoteError::NoHandshake(endpoint, seconds);
        wait.for_work(self.set_up(tcp), no_handshake).await
    }

    /// Sets up TLS and HTTP on a connection.
    async fn set_up(&mut self, tcp: TcpStream) -> Result<Connection, RemoteError> {
        let config = pinned_tls::config(self.expected.clone()).map_err(RemoteError::set_up)?;
        let name = ServerName::IpAddress(self.endpoint.ip().into());
        let tls = TlsConnector::from(config)
            .connect(name, tcp)
            .await
            .map_err(|error| tls_error(self.endpoint, &error))?;
        let (_, session) = tls.get_ref();
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate
            .ok_or_else(|| RemoteError::Tls("the peer showed no certificate".into()))?
            .to_vec();
        let beginning = Beginning::default();
        let kept = beginning.clone();
        let tls = InspectReader::new(tls, move |bytes: &[u8]| kept.add(bytes));
        let sender = connection::over(tls).await.map_err(RemoteError::set_up)?;
        self.certificate = certificate;
        Ok(Connection { sender, beginning })
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, RemoteError>>) -> Result<T, RemoteError> {
    runtime::block_on(work).unwrap_or_else(|error| Err(RemoteError::set_up(error)))
}

async fn open_tcp(endpoint: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if endpoint.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(endpoint).await
}

fn tls_error(endpoint: SocketAddr, error: &io::Error) -> RemoteError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return RemoteError::Tls("the connection was closed during the handshake".into());
    }
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(rustls::Error::InvalidMessage(_)) = inner {
        return RemoteError::NotTls;
    }
    if let Some(other) = inner.and_then(OtherCertificate::of) {
        return RemoteError::OtherCertificate {
            endpoint,
            source: other.clone(),
        };
    }
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(error)) => unverified(error),
        _ => None,
    };
    RemoteError::Tls(why.map_or_else(|| error.to_string(), str::to_owned))
}

/// Why a certificate is not that of a control plane node of the cluster.
fn unverified(error: &CertificateError) -> Option<&'static str> {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
        NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    Some(match error {
        BadSignature | UnknownIssuer => "its certificate is not signed by the cluster's authority",
        Expired | ExpiredContext { .. } => "its certificate has expired",
        NotValidYet | NotValidYetContext { .. } => "its certificate is not valid yet",
        NotValidForName | NotValidForNameContext { .. } => {
            "its certificate is not that of a control plane node"
        }
        _ => return None,
    })
}

async fn ask(
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
        .map_err(RemoteError::set_up)?;
    let Connection { sender, beginning } = connection;
    beginning.lock().clear();
    let began = SystemTime::now();
    let sent = sender.send_request(request).await;
    let response = sent.map_err(|error| no_response(&error, beginning))?;
    Reply::read(response, began).await
}

/// What MicroK8s's client says of an answer that is none (recordings `join-peer-closes`,
/// `join-peer-garbage`).
fn no_response(error: &hyper::Error, beginning: &Beginning) -> RemoteError {
    match beginning.first_line() {
        Some(line) if !error.is_timeout() => RemoteError::NotHttp(line),
        _ => RemoteError::Closed,
    }
}
