//! An address and a port, written the way MicroK8s's files and the wire have them.

use std::net::{IpAddr, SocketAddr};

/// The port on which cluster agents listen unless their arguments say otherwise.
pub const AGENT_PORT: u16 = 25000;

/// The port of MicroK8s's API servers, unless their arguments say otherwise.
pub(crate) const API_SERVER_PORT: u16 = 16443;

/// The port of MicroK8s's datastore.
pub(crate) const DATASTORE_PORT: u16 = 19001;

/// `host:port`, IPv6 in brackets.
pub(crate) fn join(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// An address without the mapping of IPv4 into IPv6 that a dual-stack socket reports.
pub(crate) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Whether an address means another machine on each link: `169.254.0.0/16`, `fe80::/10`.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_link_local()) || is_link_local_v6(address)
}

/// Whether an IPv6 address means another machine on each link. (IPv4 has such addresses too; those
/// are unique on the one network where they are used.)
pub(crate) fn is_link_local_v6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The address in a text, however it is spelled, with or without brackets.
pub(crate) fn read_address(text: &str) -> Option<IpAddr> {
    let inner = text
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'));
    inner.unwrap_or(text).parse().ok().map(plain)
}

/// Splits `host:port` at its last colon; brackets around the host are dropped.
pub(crate) fn split(endpoint: &str) -> Option<(&str, &str)> {
    let (host, port) = endpoint.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(host);
    Some((host, port))
}

/// The IP address in `host:port`, when the host is one.
pub(crate) fn address_of(endpoint: &str) -> Option<IpAddr> {
    split(endpoint)?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_many_spellings() {
        let address: IpAddr = "fd00::a".parse().unwrap();
        for text in ["fd00::a", "FD00::A", "[fd00:0:0::a]", "fd00::0.0.0.10"] {
            assert_eq!(read_address(text), Some(address), "{text}");
        }
        assert_eq!(
            read_address("::ffff:10.99.0.12"),
            Some("10.99.0.12".parse().unwrap())
        );
        for text in ["n2", "[fd00::a", "fd00::a%eth0", "10.99.0.12:25000"] {
            assert_eq!(read_address(text), None, "{text}");
        }
    }

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
