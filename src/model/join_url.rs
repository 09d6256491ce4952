//! The connection string: `<ip>:<port>/<token>[/<fingerprint>]`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;
use crate::model::endpoint;
use crate::model::fingerprint::FingerprintPrefix;
use crate::model::token::{MIN_LEN, Token, is_token_text};

/// A connection string that was understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinUrl {
    /// The node to contact.
    pub(crate) address: IpAddr,
    /// The port of its agent.
    pub(crate) port: u16,
    /// What admits this node.
    pub(crate) token: Token,
    /// Verifies the node; without one the node is not verified.
    pub(crate) fingerprint: Option<FingerprintPrefix>,
}

/// Why a connection string was not understood; the texts are MicroK8s's (recordings `join-malformed-*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJoinUrl {
    /// Not two or three parts, or no single `address:port` in front.
    #[error("Expected format: <master_IP>:<master_PORT>/<token>[/<fingerprint>]")]
    Format,
    /// The address is no IP address.
    #[error("Invalid master IP")]
    Address,
    /// An IPv6 address that leads nowhere without the name of an interface.
    #[error(
        "A link-local address is known on its own link only. Use another address of the master"
    )]
    LinkLocal,
    /// The port is a number that no port has.
    #[error("Master PORT not in range 1:65535")]
    PortRange,
    /// The port is no number.
    #[error("Master PORT not a number")]
    PortNumber,
    /// The token has fewer than 32 characters.
    #[error("Cluster token size should be at least {MIN_LEN} bytes")]
    ShortToken,
    /// The token holds what no token holds.
    #[error(
        "The token holds a character that is not allowed in a token. Only visible ASCII characters can stand in it"
    )]
    TokenCharacter,
    /// A token where none may stand.
    #[error("The token is given twice")]
    SecondToken,
    /// The fingerprint has fewer than 12 characters.
    #[error("{}", crate::model::fingerprint::FingerprintTooShort)]
    ShortFingerprint,
}

impl JoinUrl {
    /// Reads a connection string, with MicroK8s's checks in MicroK8s's order.
    ///
    /// Beyond MicroK8s, an IPv6 address in brackets is understood.
    pub fn parse(text: &str) -> Result<Self, InvalidJoinUrl> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [host_and_port, token] => Self::of_parts(host_and_port, token, None),
            [host_and_port, token, fingerprint] => {
                Self::of_parts(host_and_port, token, Some(fingerprint))
            }
            _ => Err(InvalidJoinUrl::Format),
        }
    }

    /// Reads a connection string without its token, `<ip>:<port>[/<fingerprint>]`, for a token
    /// that came another way.
    ///
    /// What stands behind the port is taken for a second token where it looks like one rather
    /// than like a fingerprint: it has a token's length, and is no whole fingerprint.
    pub(crate) fn parse_with_token(text: &str, token: &Secret) -> Result<Self, InvalidJoinUrl> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [host_and_port] => Self::of_parts(host_and_port, token.expose(), None),
            [_, second] if second.chars().count() >= MIN_LEN && !is_whole_fingerprint(second) => {
                Err(InvalidJoinUrl::SecondToken)
            }
            [host_and_port, fingerprint] => {
                Self::of_parts(host_and_port, token.expose(), Some(fingerprint))
            }
            [_, second, _] if !second.is_empty() => Err(InvalidJoinUrl::SecondToken),
            _ => Err(InvalidJoinUrl::Format),
        }
    }

    /// Reads the parts of a connection string, with the checks of [`Self::parse`].
    pub(crate) fn of_parts(
        host_and_port: &str,
        token: &str,
        fingerprint: Option<&str>,
    ) -> Result<Self, InvalidJoinUrl> {
        let (host, port) = if host_and_port.starts_with('[') {
            endpoint::split(host_and_port).ok_or(InvalidJoinUrl::Format)?
        } else {
            host_and_port
                .split_once(':')
                .filter(|(_, port)| !port.contains(':'))
                .ok_or(InvalidJoinUrl::Format)?
        };
        let address = parse_address(host)?;
        let port = parse_port(port)?;
        if token.chars().count() < MIN_LEN {
            return Err(InvalidJoinUrl::ShortToken);
        }
        if !is_token_text(token) {
            return Err(InvalidJoinUrl::TokenCharacter);
        }
        let fingerprint = fingerprint
            .map(FingerprintPrefix::parse)
            .transpose()
            .map_err(|_| InvalidJoinUrl::ShortFingerprint)?;
        Ok(Self {
            address,
            port,
            token: Token::presented(token),
            fingerprint,
        })
    }

    /// Where to connect to.
    pub(crate) fn endpoint(&self) -> std::net::SocketAddr {
        (self.address, self.port).into()
    }
}

/// A text without what copying it may have put around it: blanks, line ends, quotes, a byte order
/// mark. One that is nothing else stays.
pub(crate) fn without_wrapping(text: &str) -> &str {
    let is_wrapping = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || "\u{feff}\u{200b}\"'`\u{201c}\u{201d}\u{2018}\u{2019}".contains(c)
    };
    match text.trim_matches(is_wrapping) {
        "" => text,
        inner => inner,
    }
}

/// An address that other nodes can have as well: a cluster's nodes write it down for each other,
/// which those of a link, `fe80::1%eth0`, are not fit for.
fn parse_address(text: &str) -> Result<IpAddr, InvalidJoinUrl> {
    let (address, scope) = match text.split_once('%') {
        Some((address, _)) => (address, true),
        None => (text, false),
    };
    let address: IpAddr = address.parse().map_err(|_| InvalidJoinUrl::Address)?;
    match endpoint::plain(address) {
        address if endpoint::is_link_local_v6(address) => Err(InvalidJoinUrl::LinkLocal),
        _ if scope => Err(InvalidJoinUrl::Address),
        address => Ok(address),
    }
}

fn is_whole_fingerprint(text: &str) -> bool {
    text.len() == FingerprintPrefix::MAX_LEN && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A port, with the blanks around it and the underscores inside it that MicroK8s lets pass
/// (recordings `join-malformed-port-space`, `-port-underscore`).
fn parse_port(text: &str) -> Result<u16, InvalidJoinUrl> {
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let well_formed = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
    if !well_formed {
        return Err(InvalidJoinUrl::PortNumber);
    }
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    match digits.parse::<u16>() {
        Ok(port) if port > 0 && !negative => Ok(port),
        _ => Err(InvalidJoinUrl::PortRange),
    }
}

/// What `microk8s join` is told about one way to reach a node, as `add-node` prints it.
#[derive(Clone)]
pub(crate) struct PrintedUrl<'a> {
    /// The node's address.
    pub(crate) address: IpAddr,
    /// The port of its agent.
    pub(crate) port: u16,
    /// The token.
    pub(crate) token: &'a Token,
    /// The digits of the fingerprint.
    pub(crate) fingerprint: &'a str,
}

impl fmt::Display for PrintedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = endpoint::join(self.address, self.port);
        write!(f, "{endpoint}/{}/{}", self.token.expose(), self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_add_node_prints_is_understood() {
        let token = Token::preset(TOKEN).unwrap();
        for address in ["10.99.0.11", "fd00::1"] {
            let printed = PrintedUrl {
                address: address.parse().unwrap(),
                port: 25000,
                token: &token,
                fingerprint: "e3b0c44298fc",
            }
            .to_string();
            let url = JoinUrl::parse(&printed).unwrap();
            assert_eq!((url.address, url.port), (address.parse().unwrap(), 25000));
            assert_eq!(url.token.expose(), TOKEN);
            assert_eq!(url.fingerprint.unwrap().to_string(), "e3b0c44298fc");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_is_the_ipv4_address() {
        let url = JoinUrl::parse(&format!("[::ffff:10.99.0.11]:25000/{TOKEN}")).unwrap();
        assert_eq!(url.address, "10.99.0.11".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn malformed_strings_are_told_apart_as_microk8s_does() {
        use InvalidJoinUrl::*;
        for (text, why) in [
            ("", Format),
            ("10.99.0.11:25000", Format),
            ("10.99.0.11/T", Format),
            ("https://10.99.0.11:25000/T", Format),
            ("10.99.0.11:25000/T/000000000000/x", Format),
            ("fd00::1:25000/T", Format),
            ("[fd00::1]/T", Address),
            ("[fd00::1%eth0]:25000/T", Address),
            ("[fe80::1]:25000/T", LinkLocal),
            ("[fe80::1%eth0]:25000/T", LinkLocal),
            ("10.99.0.11%eth0:25000/T", Address),
            ("localhost:25000/T", Address),
            ("10.99.0.256:25000/T", Address),
            ("010.099.0.11:25000/T", Address),
            ("10.99.0.11:0/T", PortRange),
            ("10.99.0.11:-1/T", PortRange),
            ("10.99.0.11:70000/T", PortRange),
            ("10.99.0.11:99999999999999999999/T", PortRange),
            ("10.99.0.11:/T", PortNumber),
            ("10.99.0.11:abc/T", PortNumber),
            ("10.99.0.11:2_/T", PortNumber),
            (
                "10.99.0.11:25000/0123456789abcdef0123456789abcde",
                ShortToken,
            ),
            ("10.99.0.11:25000/T/00000000000", ShortFingerprint),
            ("10.99.0.11:25000/T/", ShortFingerprint),
        ] {
            let text = text.replace('T', TOKEN);
            assert_eq!(JoinUrl::parse(&text), Err(why), "{text}");
        }
    }

    #[test]
    fn without_its_token_a_connection_string_has_an_address_and_maybe_a_fingerprint() {
        use InvalidJoinUrl::*;
        let token = Secret::new(TOKEN);
        let read = |text: &str| JoinUrl::parse_with_token(text, &token);
        let whole = "0123456789abcdef".repeat(4);
        for (text, fingerprint) in [
            ("10.99.0.11:25000".to_owned(), None),
            (
                "10.99.0.11:25000/e3b0c44298fc".to_owned(),
                Some("e3b0c44298fc"),
            ),
            (format!("[fd00::1]:25000/{whole}"), Some(whole.as_str())),
        ] {
            let url = read(&text).unwrap();
            assert_eq!(url.token.expose(), TOKEN);
            assert_eq!(
                url.fingerprint.map(|print| print.to_string()).as_deref(),
                fingerprint
            );
        }
        for (text, why) in [
            ("", Format),
            ("10.99.0.11", Format),
            ("10.99.0.11:25000/", ShortFingerprint),
            ("10.99.0.11:25000//e3b0c44298fc", Format),
            ("10.99.0.11:25000/T", SecondToken),
            ("10.99.0.11:25000/T/e3b0c44298fc", SecondToken),
            ("10.99.0.11:25000/a/b/c", Format),
        ] {
            assert_eq!(read(&text.replace('T', TOKEN)), Err(why), "{text}");
        }
        assert_eq!(
            JoinUrl::parse_with_token("10.99.0.11:25000", &Secret::new("short")),
            Err(ShortToken)
        );
    }

    #[test]
    fn blanks_and_underscores_in_the_port_pass() {
        for port in [" 25000", "25_000", "+25000", "25000 "] {
            assert_eq!(
                JoinUrl::parse(&format!("10.99.0.11:{port}/{TOKEN}"))
                    .unwrap()
                    .port,
                25000
            );
        }
    }

    #[test]
    fn a_token_of_anything_but_visible_ascii_is_refused() {
        for token in [
            "\u{c}".repeat(32),
            format!("{TOKEN}\u{e9}"),
            format!("{TOKEN} x"),
        ] {
            let read = JoinUrl::parse(&format!("[::1]:05/{token}"));
            assert_eq!(read, Err(InvalidJoinUrl::TokenCharacter), "{token:?}");
        }
        for around in ["\r", "\u{feff}", " ", "'", "\"", "\u{201c}", "\n"] {
            let text = format!("{around}10.99.0.11:25000/{TOKEN}{around}");
            assert_eq!(without_wrapping(&text), format!("10.99.0.11:25000/{TOKEN}"));
        }
        assert_eq!(without_wrapping(" "), " ");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = JoinUrl::parse(&text);
        }
    }
}
