//! An address and a port, written the way MicroK8s's files and the wire have them.

use std::net::{IpAddr, SocketAddr};

/// The port on which cluster agents listen unless their arguments say otherwise.
pub const AGENT_PORT: u16 = 25000;

/// The port of MicroK8s's datastore.
pub const DATASTORE_PORT: u16 = 19001;

/// `host:port`, IPv6 in brackets.
pub fn join(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// An address without the mapping of IPv4 into IPv6 that a dual-stack socket reports.
pub fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Splits `host:port` at its last colon; brackets around the host are dropped.
pub fn split(endpoint: &str) -> Option<(&str, &str)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    Some((host, port))
}

/// The IP address in `host:port`, when the host is one.
pub fn address_of(endpoint: &str) -> Option<IpAddr> {
    split(endpoint)?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_stands_in_brackets() {
        assert_eq!(join("fd00::1".parse().unwrap(), 25000), "[fd00::1]:25000");
        assert_eq!(
            address_of("[fd00::1]:25000"),
            Some("fd00::1".parse().unwrap())
        );
        assert_eq!(split("[::]:25000"), Some(("::", "25000")));
    }
}
