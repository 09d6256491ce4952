//! The socket for other nodes.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted; the kernel may allow fewer.
const BACKLOG: u32 = 1024;

/// Listens. "All addresses" means those of both kinds, however it is written: MicroK8s's agent with
/// its default of `0.0.0.0:25000` can be reached over IPv6 too, as Go has it, and `add-node` prints
/// such addresses.
pub fn listen(bind: SocketAddr) -> io::Result<TcpListener> {
    let dual = if bind.ip().is_unspecified() {
        dual_stack()
    } else {
        None
    };
    let (socket, address) = match (dual, bind) {
        (Some(socket), _) => (socket, (Ipv6Addr::UNSPECIFIED, bind.port()).into()),
        (None, SocketAddr::V4(_)) => (TcpSocket::new_v4()?, bind),
        (None, SocketAddr::V6(_)) => (TcpSocket::new_v6()?, bind),
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A socket for addresses of both kinds; `None` on a machine without IPv6.
fn dual_stack() -> Option<TcpSocket> {
    // Where IPv6 is turned off, a socket of its kind can be had, and bound to nothing.
    std::fs::read_to_string("/proc/net/if_inet6")
        .ok()
        .filter(|addresses| !addresses.is_empty())?;
    let socket = TcpSocket::new_v6().ok()?;
    setsockopt(&socket, sockopt::Ipv6V6Only, &false).ok()?;
    Some(socket)
}
