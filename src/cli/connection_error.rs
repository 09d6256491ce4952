//! What is wrong with a connection string, and what to type in its place.

use std::net::IpAddr;

use crate::base::sanitize;
use crate::cli;
use crate::model::join_url::InvalidJoinUrl;
use crate::model::token::MIN_LEN;

/// What to type where nothing more can be said.
const TYPE: &str =
    "type ADDRESS:PORT/TOKEN/FINGERPRINT, as `add-node` prints it on a node of the cluster";

/// Says what is wrong with a text that is no connection string, and what to do. The token is not
/// repeated.
pub(crate) fn explain(error: InvalidJoinUrl, typed: &str) -> (String, String) {
    let (node, rest) = typed.split_once('/').unwrap_or((typed, ""));
    let token = rest.split('/').next().unwrap_or_default();
    let (host, port) = node.rsplit_once(':').unwrap_or((node, ""));
    let error_and = |hint: &str| (error.to_string(), hint.to_owned());
    if typed.starts_with('-') {
        let hint = match cli::similar_option("join", typed) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => "`microk8s join --help` lists the options".to_owned(),
        };
        return (format!("`{}` is not an option", shown(typed)), hint);
    }
    if let Some((scheme, _)) = typed.split_once("://") {
        let hint = format!("leave out `{}://`; {TYPE}", shown(scheme));
        return ("the connection string is a URL".to_owned(), hint);
    }
    if let Some((name, _)) = typed
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
    {
        let text = format!(
            "`<{}>` is a placeholder: put the real value in its place",
            shown(name)
        );
        return (text, TYPE.to_owned());
    }
    if typed.trim().is_empty() {
        return ("the connection string is empty".to_owned(), TYPE.to_owned());
    }
    if typed.trim().contains(char::is_whitespace) {
        let text = "the connection string has blanks in it".to_owned();
        return (text, format!("remove what is before and after it; {TYPE}"));
    }
    match error {
        InvalidJoinUrl::Format if rest.is_empty() => {
            ("the token is missing".to_owned(), TYPE.to_owned())
        }
        InvalidJoinUrl::Format if node.matches(':').count() > 1 => (
            "the address and the port cannot be told apart".to_owned(),
            format!("put an IPv6 address in brackets, as in [fd00::1]:PORT; {TYPE}"),
        ),
        InvalidJoinUrl::Format if !node.contains(':') => (
            format!("the port is missing after `{}`", shown(node)),
            format!("it is 25000 unless it was changed; {TYPE}"),
        ),
        InvalidJoinUrl::Format => (
            "the connection string has more than three parts".to_owned(),
            TYPE.to_owned(),
        ),
        InvalidJoinUrl::Address if host.is_empty() => {
            ("the address is missing".to_owned(), TYPE.to_owned())
        }
        InvalidJoinUrl::Address => {
            let is_name =
                host.contains(|c: char| c.is_ascii_alphabetic()) && host.parse::<IpAddr>().is_err();
            let text = match is_name {
                true => format!("`{}` is a name, and an IP address is needed", shown(host)),
                false => format!("`{}` is not an IP address", shown(host)),
            };
            let hint = match is_name {
                true => {
                    format!("type the address: `getent hosts NAME` shows that of a name; {TYPE}")
                }
                false => TYPE.to_owned(),
            };
            (text, hint)
        }
        InvalidJoinUrl::PortRange | InvalidJoinUrl::PortNumber => (
            format!(
                "`{}` is not a port: a port is a number from 1 to 65535",
                shown(port)
            ),
            format!("it is 25000 unless it was changed; {TYPE}"),
        ),
        InvalidJoinUrl::ShortToken if token.is_empty() => {
            ("the token is missing".to_owned(), TYPE.to_owned())
        }
        InvalidJoinUrl::ShortToken => (
            format!(
                "the token has {} characters, and a token has {MIN_LEN} or more",
                token.chars().count()
            ),
            format!("copy the whole string; {TYPE}"),
        ),
        InvalidJoinUrl::ShortFingerprint => (
            "the fingerprint is too short".to_owned(),
            format!(
                "copy the whole string, or leave out the last `/` and what comes after it; {TYPE}"
            ),
        ),
        InvalidJoinUrl::LinkLocal
        | InvalidJoinUrl::TokenCharacter
        | InvalidJoinUrl::SecondToken => error_and(TYPE),
    }
}

/// A part of what was typed, unless it is as long as a token.
fn shown(part: &str) -> String {
    match part.chars().count() < MIN_LEN {
        true => sanitize::for_log(part, MIN_LEN),
        false => "…".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::join_url::JoinUrl;

    #[test]
    fn what_is_wrong_is_named_and_the_token_is_not_repeated() {
        let token = "0123456789abcdef0123456789abcdef";
        for (typed, says) in [
            ("https://10.1.2.3:25000/TOKEN", "is a URL"),
            ("10.1.2.3:25000/<token>", "`<token>` is a placeholder"),
            ("<ip>:25000/TOKEN", "`<ip>` is a placeholder"),
            ("", "is empty"),
            ("join 10.1.2.3:25000/TOKEN now", "has blanks in it"),
            ("10.1.2.3:25000", "the token is missing"),
            ("10.1.2.3:25000/", "the token is missing"),
            ("TOKEN", "the token is missing"),
            ("10.1.2.3/TOKEN", "the port is missing after `10.1.2.3`"),
            ("TOKEN/10.1.2.3", "the port is missing after `…`"),
            ("fd00::1:25000/TOKEN", "cannot be told apart"),
            (
                "10.1.2.3:25000/TOKEN/abcdefabcdef/x",
                "more than three parts",
            ),
            ("n1:25000/TOKEN", "`n1` is a name"),
            (
                "10.1.2.300:25000/TOKEN",
                "`10.1.2.300` is not an IP address",
            ),
            (":25000/TOKEN", "the address is missing"),
            ("10.1.2.3:70000/TOKEN", "`70000` is not a port"),
            ("10.1.2.3:x/TOKEN", "`x` is not a port"),
            ("10.1.2.3:25000/0123", "the token has 4 characters"),
            ("10.1.2.3:25000/TOKEN/abc", "the fingerprint is too short"),
        ] {
            let typed = typed.replace("TOKEN", token);
            let error = JoinUrl::parse(&typed).unwrap_err();
            let (text, hint) = explain(error, &typed);
            assert!(text.contains(says), "{typed}: {text}");
            assert!(!text.contains(token) && !hint.contains(token), "{typed}");
            assert!(
                hint.contains("ADDRESS:PORT/TOKEN/FINGERPRINT"),
                "{typed}: {hint}"
            );
        }
    }
}
