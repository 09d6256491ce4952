//! The listener for other nodes: TLS, limits on what a stranger may hold open, and the end of
//! it all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown, Watcher};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::agent::MinTls;
use crate::agent::certificate::ServedCertificate;
use crate::agent::connections;
use crate::agent::seats::{Seat, Seats};
use crate::cluster::admit::Caller;

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request, or its first one.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// How long a connection on which nothing is asked stays open. A client that asks again opens
/// another one, at the cost of a handshake.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long an HTTP/2 connection is silent before its other end is asked whether it is there, and
/// how long that may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
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

/// Serves connections until told to stop; then lets the open ones end.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let seats = Seats::for_this_process();
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = seats.take(peer.ip()) else {
                    drop(stream);
                    if complained.is_none_or(|last| last.elapsed() > COMPLAINT_PAUSE) {
                        complained = Some(Instant::now());
                        tracing::warn!(%peer, "too many connections; this one is closed");
                    }
                    continue;
                };
                let (acceptor, router, watcher) =
                    (acceptor.clone(), router.clone(), graceful.watcher());
                tokio::spawn(async move {
                    if let Err(why) = connection(stream, seat, acceptor, router, watcher).await {
                        tracing::debug!(%peer, %why, "connection");
                    }
                });
            }
            Err(error) => connections::not_accepted(&error).await,
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    _seat: Seat,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: Watcher,
) -> Result<(), Failure> {
    let caller = Caller::new(stream.peer_addr()?.ip(), stream.local_addr()?.ip());
    stream.set_nodelay(true)?;
    let mut first = [0];
    let stream = timeout(HANDSHAKE_LIMIT, async {
        stream.peek(&mut first).await?;
        if first[0] != TLS_HANDSHAKE {
            return Err(refuse_plain(stream).await);
        }
        acceptor.accept(stream).await
    })
    .await??;
    let (under_way, requests) = watch::channel(0);
    let service = connections::counted(connections::service(router, caller), under_way);
    // What was agreed on is known, so that no first bytes have to be waited for to find it out.
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
    let stream = TokioIo::new(stream);
    if speaks_http2 {
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(64)
            .serve_connection(stream, service);
        until_idle(watcher, served, requests).await
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .serve_connection(stream, service);
        until_idle(watcher, served, requests).await
    }
}

/// Serves a connection until it ends, or until nothing was asked on it for a while: a client that
/// only answers pings, sends the head of a request byte by byte or does not take its answer has
/// no right to stay.
async fn until_idle<C>(
    watcher: Watcher,
    served: C,
    requests: watch::Receiver<usize>,
) -> Result<(), Failure>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    tokio::select! {
        ended = watcher.watch(served) => Ok(ended?),
        () = connections::idle(requests, IDLE_LIMIT) => Err("nothing is asked any more".into()),
    }
}

/// What MicroK8s's agent says to a client that speaks no TLS (`http-api.md`, Transport).
async fn refuse_plain(mut stream: TcpStream) -> std::io::Error {
    const ANSWER: &[u8] =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    match stream.write_all(ANSWER).await {
        Ok(()) => std::io::Error::other("the client speaks no TLS"),
        Err(error) => error,
    }
}
