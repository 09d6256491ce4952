//! The listener for other nodes: TLS, limits on what a stranger may hold open, and the end of
//! it all.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::agent::MinTls;
use crate::agent::begun::Begun;
use crate::agent::certificate::ServedCertificate;
use crate::agent::connection_limiter::{ConnectionLimiter, ConnectionPermit};
use crate::agent::connections;
use crate::agent::log_limit::{self, Kind};
use crate::agent::metrics::{Limit, Metrics};
use crate::agent::service_manager::Ping;
use crate::cluster::admission::Caller;

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of its first request.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection on which something is asked waits when all that ask are at work.
const ACTIVE_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection on which nothing is asked stays open. A client that asks again opens
/// another one, at the cost of a handshake.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a client may take to hear that its connection is closed.
const HANG_UP_LIMIT: Duration = Duration::from_secs(1);
/// How long nothing is asked before a connection is quiet between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// [`IDLE_LIMIT`] once the agent was told to stop. Requests whose headers have arrived are allowed
/// to finish.
const LAST_IDLE_LIMIT: Duration = Duration::from_secs(1);
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
pub fn acceptor(served: &ServedCertificate, min_tls: MinTls) -> Result<TlsAcceptor, rustls::Error> {
    let versions: &[&rustls::SupportedProtocolVersion] = match min_tls {
        MinTls::Tls12 => &[&rustls::version::TLS12, &rustls::version::TLS13],
        MinTls::Tls13 => &[&rustls::version::TLS13],
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(served.clone()));
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What serving needs beside the listener.
pub struct Server {
    /// TLS.
    pub acceptor: TlsAcceptor,
    /// What answers.
    pub router: Router,
    /// For how many connections there is room.
    pub limiter: ConnectionLimiter,
    /// For how many of them there is on which something is asked.
    pub active_limiter: ConnectionLimiter,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
    /// Told when the agent is to stop.
    pub stopped: watch::Receiver<bool>,
}

/// What comes next.
enum Event {
    /// A connection, or why there is none.
    Accepted(io::Result<(TcpStream, SocketAddr)>),
    /// The watchdog asks whether connections are still accepted.
    Pinged(Ping),
}

/// Serves connections until told to stop; then lets the open ones end.
pub async fn serve(listener: TcpListener, server: Server, mut pings: mpsc::Receiver<Ping>) {
    let mut stopped = server.stopped.clone();
    let server = Arc::new(server);
    let graceful = GracefulShutdown::new();
    let mut complaints = Complaints::default();
    loop {
        let event = tokio::select! {
            accepted = next(&listener, &server.limiter) => Event::Accepted(accepted),
            Some(ping) = pings.recv() => Event::Pinged(ping),
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match event {
            // Who asked may have waited long enough.
            Event::Pinged(ping) => drop(ping.send(())),
            Event::Accepted(Ok((stream, peer))) => {
                let Some((permit, made_room)) = server.limiter.take(peer.ip()) else {
                    drop(stream);
                    if complaints.is_news() {
                        tracing::warn!(%peer, "too many connections, all of them at work: this one is closed");
                    }
                    continue;
                };
                if made_room && complaints.is_news() {
                    tracing::warn!(%peer, "too many connections: quiet ones are closed to make room for this one and others");
                }
                let (server, watcher) = (server.clone(), graceful.watcher());
                tokio::spawn(async move {
                    let _open = Open::new(&server.metrics);
                    if let Err(why) = connection(stream, permit, &server, watcher).await
                        && tracing::enabled!(tracing::Level::DEBUG)
                        && log_limit::is_written(Kind::Connection)
                    {
                        tracing::debug!(%peer, %why, "connection");
                    }
                });
            }
            Event::Accepted(Err(error)) => connections::not_accepted(&error).await,
        }
    }
    drop((listener, pings));
    graceful.shutdown().await;
}

/// A connection that is open until this is dropped.
struct Open(Arc<Metrics>);

impl Open {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.connection_opened();
        Self(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
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

/// The next connection, once those that had to go for others are gone.
async fn next(
    listener: &TcpListener,
    limiter: &ConnectionLimiter,
) -> io::Result<(TcpStream, SocketAddr)> {
    limiter.settled().await;
    listener.accept().await
}

/// In a box, because it is handed on a few times.
type BoxedStream = Box<TlsStream<TcpStream>>;

/// Why a connection without a request is closed.
const MAKES_ROOM: &str = "closed to make room for another one";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Each step is boxed, so that a connection uses no memory for a step before it gets there: a
/// silent connection has to be cheap.
async fn connection(
    stream: TcpStream,
    permit: Arc<ConnectionPermit>,
    server: &Server,
    watcher: Watcher,
) -> Result<(), Failure> {
    let caller = Caller::new(stream.peer_addr()?.ip(), stream.local_addr()?.ip());
    stream.set_nodelay(true)?;
    let Some(stream) = quietly(&permit, server, Box::pin(handshake(stream, server))).await? else {
        return Ok(());
    };
    permit.touch();
    // What was agreed on is known, so that no first bytes have to be looked at to find it out.
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    let mut stream = Begun::new(stream);
    let mut limit = HEADER_LIMIT;
    if speaks_http2 {
        if !Box::pin(asks(stream.something(), limit, &permit, server)).await? {
            return hang_up(stream, &permit).await;
        }
        let active = Box::pin(ActivePermit::free(&permit, caller, server)).await?;
        let served = Box::pin(http2(
            stream,
            caller,
            active.permit.clone(),
            server,
            watcher,
        ));
        return active.until_lost(served).await;
    }
    loop {
        if !Box::pin(asks(stream.head(), limit, &permit, server)).await? {
            return hang_up(stream, &permit).await;
        }
        let active = Box::pin(ActivePermit::free(&permit, caller, server)).await?;
        let served = Box::pin(http1(stream, caller, active.permit.clone(), server));
        let Some(quiet) = active.until_lost(served).await? else {
            return Ok(());
        };
        (stream, limit) = (quiet, IDLE_LIMIT);
    }
}

/// A step of a connection that has no whole request to be answered; `None` when the agent stops
/// before it is done.
async fn quietly<T>(
    permit: &ConnectionPermit,
    server: &Server,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    let mut stopped = server.stopped.clone();
    tokio::select! {
        // What is there is taken, whatever else is.
        biased;
        done = step => done.map(Some),
        () = permit.evicted() => Err(MAKES_ROOM.into()),
        _ = stopped.wait_for(|stop| *stop) => Ok(None),
    }
}

/// Sets up TLS.
async fn handshake(stream: TcpStream, server: &Server) -> Result<BoxedStream, Failure> {
    let end = Instant::now() + HANDSHAKE_LIMIT;
    let shaken = match timeout_at(end, stream.readable()).await {
        Ok(readable) => {
            readable?;
            timeout_at(end, Box::pin(accept(stream, server))).await
        }
        Err(late) => Err(late),
    };
    let Ok(stream) = shaken else {
        server.metrics.limit_hit(Limit::Handshake);
        return Err("the handshake took too long".into());
    };
    Ok(Box::new(stream?))
}

async fn accept(stream: TcpStream, server: &Server) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first[0] != TLS_HANDSHAKE {
        return Err(refuse_plain(stream).await);
    }
    server.acceptor.accept(stream).await
}

/// Waits until the client has asked for something; `false` when it goes away, or the agent stops.
async fn asks(
    asked: impl Future<Output = io::Result<bool>>,
    limit: Duration,
    permit: &ConnectionPermit,
    server: &Server,
) -> Result<bool, Failure> {
    let in_time = async {
        let Ok(asked) = timeout(limit, asked).await else {
            server.metrics.limit_hit(Limit::Idle);
            return Err("nothing is asked".into());
        };
        Ok(asked?)
    };
    Ok(quietly(permit, server, in_time).await?.unwrap_or(false))
}

/// The permit of a connection with a request. Such a connection takes more memory than an idle one,
/// and fewer are allowed. While it holds this permit, it does not lose the other one.
struct ActivePermit<'a> {
    quiet: &'a ConnectionPermit,
    permit: Arc<ConnectionPermit>,
}

impl<'a> ActivePermit<'a> {
    async fn free(
        quiet: &'a ConnectionPermit,
        caller: Caller,
        server: &Server,
    ) -> Result<Self, Failure> {
        quiet.touch();
        let active = tokio::select! {
            active = timeout(ACTIVE_LIMIT, server.active_limiter.free(caller.remote)) => active,
            () = quiet.evicted() => return Err(MAKES_ROOM.into()),
        };
        let Ok(permit) = active else {
            server.metrics.limit_hit(Limit::Connections);
            return Err("all that ask are at work".into());
        };
        if !quiet.begin() {
            return Err(MAKES_ROOM.into());
        }
        if quiet.is_trusted() {
            permit.trust();
        }
        Ok(Self { quiet, permit })
    }

    /// Serves the connection as long as it holds this permit.
    async fn until_lost<T>(
        self,
        served: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            ended = served => ended,
            () = self.permit.evicted() => Err("closed to make room for another one that asks".into()),
        }
    }
}

impl Drop for ActivePermit<'_> {
    fn drop(&mut self) {
        self.quiet.end(self.permit.is_trusted());
    }
}

/// Serves HTTP/2 until the connection ends.
async fn http2(
    stream: Begun<BoxedStream>,
    caller: Caller,
    permit: Arc<ConnectionPermit>,
    server: &Server,
    watcher: Watcher,
) -> Result<(), Failure> {
    let (under_way, requests) = watch::channel(0);
    let service = connections::seated(server.router.clone(), caller, permit, under_way);
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    until_idle(watcher.watch(served), &requests, server).await
}

/// Serves HTTP/1.1 until the connection ends, which is `None`, or is quiet between two requests.
/// Quiet it needs none of the memory that serving takes.
async fn http1(
    stream: Begun<BoxedStream>,
    caller: Caller,
    permit: Arc<ConnectionPermit>,
    server: &Server,
) -> Result<Option<Begun<BoxedStream>>, Failure> {
    let (under_way, requests) = watch::channel(0);
    let service = connections::seated(server.router.clone(), caller, permit, under_way);
    let mut unsent = stream.unsent();
    let mut served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut first = requests.clone();
    let quiet = async {
        // An error here and below is the end of the connection, of which it tells itself.
        let _ = first.changed().await;
        loop {
            connections::idle(first.clone(), PAUSE).await;
            // An answer counts as made before it is out.
            if !*unsent.borrow() {
                return;
            }
            let _ = unsent.wait_for(|unsent| !unsent).await;
        }
    };
    let until_quiet = async {
        tokio::select! {
            ended = &mut served => ended.map(|()| false),
            () = quiet => Ok(true),
        }
    };
    if !until_idle(until_quiet, &requests, server).await? {
        return Ok(None);
    }
    Pin::new(&mut served).graceful_shutdown();
    // Between two requests that is the end there and then, and nothing is left to be sent.
    match poll_fn(|context| Poll::Ready(served.poll_without_shutdown(context))).await {
        Poll::Ready(ended) => {
            ended?;
            let parts = served.into_parts();
            Ok(Some(parts.io.into_inner().behind(&parts.read_buf)))
        }
        Poll::Pending => {
            until_idle(served, &requests, server).await?;
            Ok(None)
        }
    }
}

/// Serves a connection until it ends, or until nothing was asked on it for a while: a client that
/// only answers pings or does not take its answer has no right to stay.
async fn until_idle<T>(
    served: impl Future<Output = hyper::Result<T>>,
    requests: &watch::Receiver<usize>,
    server: &Server,
) -> Result<T, Failure> {
    let mut stopped = server.stopped.clone();
    let last_idle = async {
        // An error means that the sender is gone, which is the same.
        let _ = stopped.wait_for(|stop| *stop).await;
        connections::idle(requests.clone(), LAST_IDLE_LIMIT).await;
    };
    tokio::select! {
        ended = served => Ok(ended?),
        () = connections::idle(requests.clone(), IDLE_LIMIT) => {
            server.metrics.limit_hit(Limit::Idle);
            Err("nothing is asked any more".into())
        }
        () = last_idle => Err("the agent stops, and nothing is asked".into()),
    }
}

/// Closes a connection on which nothing is asked. One that takes nothing is not waited for.
async fn hang_up(mut stream: Begun<BoxedStream>, permit: &ConnectionPermit) -> Result<(), Failure> {
    tokio::select! {
        closed = timeout(HANG_UP_LIMIT, stream.shutdown()) => Ok(closed??),
        () = permit.evicted() => Err(MAKES_ROOM.into()),
    }
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
