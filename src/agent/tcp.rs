//! The socket for other nodes, and what both listeners do with a connection.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::http::Extensions;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tower::ServiceExt;

use crate::agent::log_limit::{self, Kind};
use crate::agent::service_manager::Ping;

/// Connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: u32 = 1024;

/// Listens. "All addresses" means those of both kinds, however it is written: MicroK8s's agent with
/// its default of `0.0.0.0:25000` can be reached over IPv6 too, as Go has it, and `add-node` prints
/// such addresses.
fn listen(bind: SocketAddr) -> io::Result<TcpListener> {
    if !bind.ip().is_unspecified() {
        return listen_at(bind);
    }
    let both = (Ipv6Addr::UNSPECIFIED, bind.port()).into();
    let ipv4 = (Ipv4Addr::UNSPECIFIED, bind.port()).into();
    match has_ipv6() {
        true => listen_at_one(both, ipv4),
        false => listen_at(ipv4),
    }
}

/// Listens at the first address, or at the second one where the machine does not have the first:
/// some machines have IPv6 sockets that cannot be bound.
fn listen_at_one(first: SocketAddr, second: SocketAddr) -> io::Result<TcpListener> {
    match listen_at(first) {
        Err(error) if cannot_be_had(&error) => {
            tracing::warn!(%error, "cannot listen on {first}, so it is {second} alone");
            listen_at(second)
        }
        listener => listener,
    }
}

fn cannot_be_had(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(
        number,
        Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT)
    )
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Whether this machine has addresses of IPv6. Where it is turned off, a socket of its kind can be
/// had, and bound to nothing.
fn has_ipv6() -> bool {
    // What a unit with `ProcSubset=pid` sees as well.
    std::fs::read_to_string("/proc/self/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

/// The address is taken, or not ours.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {bind}: {source}")]
pub(crate) struct ListenError {
    /// Where.
    bind: SocketAddr,
    /// Why.
    pub(crate) source: io::Error,
}

/// A listener whose loop shows that it goes around.
pub(crate) struct Listener {
    listener: TcpListener,
    pings: mpsc::Receiver<Ping>,
}

impl Listener {
    /// Listens there, and the other end of its pings.
    pub(crate) fn new(bind: SocketAddr) -> Result<(Self, mpsc::Sender<Ping>), ListenError> {
        let (ping, pings) = mpsc::channel(1);
        let listener = listen(bind).map_err(|source| ListenError { bind, source })?;
        Ok((Self { listener, pings }, ping))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection, which is accepted when there is room for it, and what `room` gave.
    pub(crate) async fn accept<R, F: Future<Output = R>>(
        &mut self,
        room: impl Fn() -> F,
    ) -> (R, TcpStream, SocketAddr) {
        loop {
            let next = async {
                let room = room().await;
                (room, self.listener.accept().await)
            };
            tokio::select! {
                (room, accepted) = next => match accepted {
                    Ok((stream, peer)) => return (room, stream, peer),
                    Err(error) => not_accepted(&error).await,
                },
                Some(ping) = self.pings.recv() => {
                    // Who asked may have waited long enough.
                    let _ = ping.send(());
                }
            }
        }
    }
}

/// The router as a service for one connection; `extend` says of each request who is at its other end.
pub(crate) fn service(
    router: Router,
    extend: impl Fn(&mut Extensions) + Clone + Send + 'static,
) -> impl Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone
{
    let extend = move |mut request: Request<Incoming>| {
        extend(request.extensions_mut());
        request
    };
    TowerToHyperService::new(router.map_request(extend))
}

/// A connection could not be accepted: out of file descriptors, most likely. Those of ended
/// connections come back.
#[expect(
    clippy::disallowed_methods,
    reason = "the listener would say the same again at once; nothing tells when it will not"
)]
pub(crate) async fn not_accepted(error: &io::Error) {
    if log_limit::is_written(Kind::Connection) {
        tracing::warn!(%error, "cannot accept a connection");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_ipv6_cannot_be_bound_ipv4_is_and_a_port_that_is_taken_stays_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        // An address for documentation, which no machine has.
        let foreign = "[2001:db8::1]:0".parse().unwrap();
        let listener = listen_at_one(foreign, local).unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4());
        let taken = listener.local_addr().unwrap();
        let error = listen_at_one(taken, local).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        for wildcard in ["0.0.0.0:0", "[::]:0"] {
            let listener = listen(wildcard.parse().unwrap()).unwrap();
            let port = listener.local_addr().unwrap().port();
            std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        }
    }
}
