//! The listener for other nodes: TLS, HTTP, and the end of it all.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::{CipherSuite, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::certificate::ServedCertificate;
use crate::agent::connection_limiter::{ConnectionLimiter, ConnectionPermit, RequestPermit};
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::{Limit, Metrics};
use crate::agent::tcp::{self, Listener};
use crate::cluster::admission::Caller;

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long an HTTP/2 connection is silent before its other end is asked whether it is there, and
/// how long that may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How much of a request's head, or of an answer, is in memory for one connection, in bytes.
const BUFFER: usize = 64 << 10;
/// How many requests one HTTP/2 connection may have under way.
const STREAMS: u32 = 4;
/// How much of a body may come over HTTP/2 before it is taken, in bytes, and of all bodies.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 512 << 10;
/// How often at most the log says that connections are refused.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);
/// The first byte of every TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// How HTTP/2 and HTTP/1.1 are called in the TLS handshake.
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// TLS with the certificate that is served.
pub(crate) fn acceptor(
    served: &ServedCertificate,
    has_tls12: bool,
) -> Result<TlsAcceptor, rustls::Error> {
    let versions: &[&rustls::SupportedProtocolVersion] = match has_tls12 {
        true => &[&rustls::version::TLS12, &rustls::version::TLS13],
        false => &[&rustls::version::TLS13],
    };
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // As MicroK8s's agent does: processors know SHA-256, which the others of TLS 1.3 do without.
    let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != first);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(served.clone()));
    config.ignore_client_order = true;
    // A ticket is paid for at each connection, and no client of a join comes back with one.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What serving needs beside the listener.
pub(crate) struct Server {
    /// TLS.
    pub(crate) acceptor: TlsAcceptor,
    /// What answers.
    pub(crate) router: Router,
    /// For how many connections there is room.
    pub(crate) limiter: Arc<ConnectionLimiter>,
    /// Where it is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled when the agent is to stop.
    pub(crate) stop: CancellationToken,
}

/// Serves connections until told to stop; then lets the open ones end.
pub(crate) async fn serve(listener: Listener, server: Server) {
    let server = Arc::new(server);
    tokio::select! {
        () = server.limiter.close_idle(&server.stop) => {}
        () = accept_until_stopped(listener, &server) => {}
    }
}

async fn accept_until_stopped(mut listener: Listener, server: &Arc<Server>) {
    let connections = TaskTracker::new();
    let mut complaints = Complaints::default();
    loop {
        let ((), stream, peer) = tokio::select! {
            // Those that had to go for others are gone first.
            accepted = listener.accept(|| server.limiter.settled()) => accepted,
            () = server.stop.cancelled() => break,
        };
        let Some((permit, has_evicted)) = server.limiter.acquire(peer.ip()) else {
            if complaints.is_news() {
                tracing::warn!(%peer, "too many connections, all of them at work: this one is closed");
            }
            continue;
        };
        if has_evicted && complaints.is_news() {
            tracing::warn!(%peer, "too many connections: idle ones are closed to make room for this one and others");
        }
        let server = server.clone();
        connections.spawn(async move {
            if let Err(why) = connection(stream, permit, &server).await
                && tracing::enabled!(tracing::Level::DEBUG)
                && log_limit::is_written(Kind::Connection)
            {
                tracing::debug!(%peer, %why, "connection");
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// When the log last said that there are too many connections.
#[derive(Default)]
struct Complaints(Option<Instant>);

impl Complaints {
    fn is_news(&mut self) -> bool {
        let is_news = self.0.is_none_or(|last| last.elapsed() > COMPLAINT_PAUSE);
        if is_news {
            self.0 = Some(Instant::now());
        }
        is_news
    }
}

/// Why a connection without a request is closed.
const EVICTED: &str = "closed because it is idle";

/// In a box, because it is handed on a few times, and each step would keep room for it.
type BoxedStream = Box<TlsStream<TcpStream>>;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Each step is boxed, so that a connection uses no memory for a step before it gets there: an idle
/// connection has to be cheap.
async fn connection(
    stream: TcpStream,
    permit: Arc<ConnectionPermit>,
    server: &Server,
) -> Result<(), Failure> {
    let caller = Caller::new(stream.peer_addr()?.ip(), stream.local_addr()?.ip());
    stream.set_nodelay(true)?;
    let asked = async {
        let mut stream = handshake(stream, server).await?;
        permit.touch();
        // What serves HTTP takes as much memory as TLS does, and as soon as it is made.
        let is_over = stream.fill_buf().await?.is_empty();
        if is_over {
            return Ok::<_, Failure>(None);
        }
        permit.begin();
        Ok(Some(stream))
    };
    let stream = tokio::select! {
        // What is there is taken, whatever else is.
        biased;
        stream = asked => stream?,
        () = permit.evicted() => return Err(EVICTED.into()),
        () = server.stop.cancelled() => None,
    };
    match stream {
        Some(stream) => Box::pin(http(stream, caller, permit, server)).await,
        None => Ok(()),
    }
}

/// Sets up TLS.
async fn handshake(stream: TcpStream, server: &Server) -> Result<BoxedStream, Failure> {
    let shaken = async {
        stream.readable().await?;
        Box::pin(accept(stream, server)).await
    };
    match timeout(HANDSHAKE_LIMIT, shaken).await {
        Ok(stream) => Ok(stream?),
        Err(_) => {
            server.metrics.limit_hit(Limit::Handshake);
            Err("the handshake took too long".into())
        }
    }
}

async fn accept(stream: TcpStream, server: &Server) -> io::Result<BoxedStream> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first[0] != TLS_HANDSHAKE {
        return Err(refuse_plain(stream).await);
    }
    server.acceptor.accept(stream).await.map(Box::new)
}

/// Serves HTTP until the connection ends, is evicted, or has answered what was asked when the agent
/// stops.
async fn http(
    stream: BoxedStream,
    caller: Caller,
    permit: Arc<ConnectionPermit>,
    server: &Server,
) -> Result<(), Failure> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(BUFFER);
    // What was agreed on is known, so that no first bytes have to be looked at to find it out.
    let builder = match stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
        true => builder.http2_only(),
        false => builder.http1_only(),
    };
    let of_connection = permit.clone();
    let service = tcp::service(server.router.clone(), move |extensions| {
        extensions.insert(caller);
        extensions.insert(Arc::new(RequestPermit::new(of_connection.clone())));
    });
    let mut served = Box::pin(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = &mut served => return ended,
        () = permit.evicted() => {}
        () = server.stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = &mut served => return ended,
                () = permit.evicted() => {}
            }
        }
    }
    // It is told that its connection is closed, as far as that can be done at once.
    served.as_mut().graceful_shutdown();
    let _ = poll_fn(|context| Poll::Ready(served.as_mut().poll(context))).await;
    Err(EVICTED.into())
}

/// What MicroK8s's agent says to a client that speaks no TLS (recording `join-plain-http`).
async fn refuse_plain(mut stream: TcpStream) -> io::Error {
    const ANSWER: &[u8] =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    match stream.write_all(ANSWER).await {
        Ok(()) => io::Error::other("the client speaks no TLS"),
        Err(error) => error,
    }
}
