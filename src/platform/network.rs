//! What the machine says of itself: its name, addresses, routes and groups.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{SockaddrLike, SockaddrStorage};

use crate::platform::{Group, InterfaceAddress};

/// The machine's name, in lower case, as MicroK8s's tools send it.
pub(crate) fn host_name() -> io::Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().to_lowercase())
}

/// The addresses of the interfaces that are up.
pub(crate) fn interfaces() -> io::Result<Vec<InterfaceAddress>> {
    Ok(getifaddrs()?
        .filter(|entry| entry.flags.contains(InterfaceFlags::IFF_UP))
        .filter_map(|entry| {
            let address = ip(entry.address.as_ref()?)?;
            let mask = entry.netmask.as_ref().and_then(ip);
            Some(InterfaceAddress {
                interface: entry.interface_name,
                address,
                prefix: mask.map_or(0, prefix_length),
            })
        })
        .collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    use nix::sys::socket::AddressFamily;
    match address.family()? {
        AddressFamily::Inet => address.as_sockaddr_in().map(|v4| v4.ip().into()),
        AddressFamily::Inet6 => address.as_sockaddr_in6().map(|v6| v6.ip().into()),
        _ => None,
    }
}

fn prefix_length(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => mask.to_bits().leading_ones(),
        IpAddr::V6(mask) => mask.to_bits().leading_ones(),
    };
    u8::try_from(ones).unwrap_or(0)
}

/// The interface of the default route: IPv4's, else IPv6's.
pub(crate) fn default_interface() -> Option<String> {
    let v4 = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    default_in_v4(&v4).or_else(|| default_in_v6(&v6))
}

/// Lines are `interface destination gateway flags … mask …`, numbers in hexadecimal.
fn default_in_v4(table: &str) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.len() > 7 && fields[1] == "00000000" && fields[7] == "00000000")
            .then(|| fields[0].to_owned())
    })
}

/// Lines are `destination prefix … interface`; the loopback's are no routes to anywhere.
fn default_in_v6(table: &str) -> Option<String> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_default =
            fields.len() == 10 && fields[0].bytes().all(|b| b == b'0') && fields[1] == "00";
        (is_default && fields[9] != "lo").then(|| fields[9].to_owned())
    })
}

/// What the kernel has at a TCP port of this machine.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionsAt {
    /// A program listens there.
    pub(crate) listens: bool,
    /// Connections that were accepted there are open.
    pub(crate) are_open: bool,
}

/// What is at this port, whatever the address.
pub(crate) fn connections_at(port: u16) -> ConnectionsAt {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    let tables = tables.into_iter().flatten();
    tables.fold(ConnectionsAt::default(), |found, table| {
        let more = connections_in(&table, port);
        ConnectionsAt {
            listens: found.listens || more.listens,
            are_open: found.are_open || more.are_open,
        }
    })
}

/// Lines are `number address:port peer:port state …`, in hexadecimal.
fn connections_in(table: &str, port: u16) -> ConnectionsAt {
    const ESTABLISHED: &str = "01";
    const LISTEN: &str = "0A";
    let end = format!(":{port:04X}");
    let fields = table.lines().map(|line| line.split_whitespace());
    let states: Vec<_> = fields
        .filter_map(|mut fields| {
            let local = fields.nth(1)?;
            local.ends_with(&end).then(|| fields.nth(1)).flatten()
        })
        .collect();
    ConnectionsAt {
        listens: states.contains(&LISTEN),
        are_open: states.contains(&ESTABLISHED),
    }
}

/// What a name resolves to on this machine.
pub(crate) fn resolve(name: &str) -> Vec<IpAddr> {
    (name, 0)
        .to_socket_addrs()
        .map(|found| found.map(|address| address.ip()).collect())
        .unwrap_or_default()
}

/// A group by its name.
pub(crate) fn group(name: &'static str) -> Group {
    let gid = nix::unistd::Group::from_name(name)
        .ok()
        .flatten()
        .map(|group| group.gid.as_raw());
    Group { name, gid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_and_an_open_connection_are_seen_at_their_port_alone() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        let listener = "   0: 00000000:61A8 00000000:0000 0A 00000000:00000000\n";
        let open = "   1: 0B00630A:61A8 0C00630A:D431 01 00000000:00000000\n";
        let outgoing = "   2: 0B00630A:D432 0C00630A:61A8 01 00000000:00000000\n";
        let seen = |lines: &[&str]| {
            let found = connections_in(&format!("{head}{}", lines.concat()), 25000);
            (found.listens, found.are_open)
        };
        assert_eq!(seen(&[]), (false, false));
        assert_eq!(seen(&[listener, outgoing]), (true, false));
        assert_eq!(seen(&[outgoing, open]), (false, true));
    }

    #[test]
    fn the_default_route_is_found_in_the_kernels_tables() {
        let v4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                  eth1\t000A630A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  eth0\t00000000\t0100630A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(default_in_v4(v4).as_deref(), Some("eth0"));
        assert_eq!(default_in_v4(""), None);
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0\n\
                  00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        assert_eq!(default_in_v6(v6).as_deref(), Some("eth0"));
    }

    #[test]
    fn the_loopback_is_there() {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let found = interfaces().unwrap();
        assert!(
            found
                .iter()
                .any(|entry| entry.address == loopback && entry.prefix == 8),
            "{found:?}"
        );
    }
}
