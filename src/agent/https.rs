//! The listener for other nodes: TLS, limits on what a stranger may hold open, and the end of
//! it all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::agent::MinTls;
use crate::agent::certificate::ServedCertificate;
use crate::agent::connections;
use crate::cluster::admit::Caller;

/// How long a TLS handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// The first byte of every TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

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
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
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
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (acceptor, router, watcher) =
                    (acceptor.clone(), router.clone(), graceful.watcher());
                tokio::spawn(async move {
                    if let Err(why) = connection(stream, peer, acceptor, router, watcher).await {
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
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), Failure> {
    let caller = Caller::new(peer.ip(), stream.local_addr()?.ip());
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
    let service = connections::service(router, caller);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    watcher.watch(served).await
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
