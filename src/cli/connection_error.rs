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
    if typed.starts_with('-') {
        let hint = match cli::similar_option("join", typed) {
            Some(similar) => format!("did you mean `{similar}`?"),
            None => "`microk8s join --help` lists the options".to_owned(),
        };
        return (format!("`{}` is not an option", shown(typed)), hint);
    }
    let (text, first) = form_error(typed).unwrap_or_else(|| part_error(error, typed));
    let hint = match first.as_str() {
        "" => TYPE.to_owned(),
        first => format!("{first}; {TYPE}"),
    };
    (text, hint)
}

/// What is wrong, and what to do first.
type Told = (String, String);

fn told(text: impl Into<String>, first: &str) -> Told {
    (text.into(), first.to_owned())
}

/// What is wrong with the text as a whole.
fn form_error(typed: &str) -> Option<Told> {
    if let Some((scheme, _)) = typed.split_once("://") {
        let first = format!("leave out `{}://`", shown(scheme));
        return Some(told("the connection string is a URL", &first));
    }
    let placeholder = typed.split_once('<');
    if let Some((name, _)) = placeholder.and_then(|(_, rest)| rest.split_once('>')) {
        let name = shown(name);
        let text = format!("`<{name}>` is a placeholder: put the real value in its place");
        return Some(told(text, ""));
    }
    if typed.trim().is_empty() {
        return Some(told("the connection string is empty", ""));
    }
    typed.trim().contains(char::is_whitespace).then(|| {
        let first = "remove what is before and after it";
        told("the connection string has blanks in it", first)
    })
}

/// What is wrong with a part of it.
fn part_error(error: InvalidJoinUrl, typed: &str) -> Told {
    const PORT: &str = "it is 25000 unless it was changed";
    let (node, rest) = typed.split_once('/').unwrap_or((typed, ""));
    let token = rest.split('/').next().unwrap_or_default();
    let (host, port) = node.rsplit_once(':').unwrap_or((node, ""));
    let is_name =
        || host.contains(|c: char| c.is_ascii_alphabetic()) && host.parse::<IpAddr>().is_err();
    match error {
        InvalidJoinUrl::Format if rest.is_empty() => told("the token is missing", ""),
        InvalidJoinUrl::Format if node.matches(':').count() > 1 => told(
            "the address and the port cannot be told apart",
            "put an IPv6 address in brackets, as in [fd00::1]:PORT",
        ),
        InvalidJoinUrl::Format if !node.contains(':') => {
            told(format!("the port is missing after `{}`", shown(node)), PORT)
        }
        InvalidJoinUrl::Format => told("the connection string has more than three parts", ""),
        InvalidJoinUrl::Address if host.is_empty() => told("the address is missing", ""),
        InvalidJoinUrl::Address if is_name() => told(
            format!("`{}` is a name, and an IP address is needed", shown(host)),
            "type the address: `getent hosts NAME` shows that of a name",
        ),
        InvalidJoinUrl::Address => told(format!("`{}` is not an IP address", shown(host)), ""),
        InvalidJoinUrl::PortRange | InvalidJoinUrl::PortNumber => {
            let port = shown(port);
            let text = format!("`{port}` is not a port: a port is a number from 1 to 65535");
            told(text, PORT)
        }
        InvalidJoinUrl::ShortToken if token.is_empty() => told("the token is missing", ""),
        InvalidJoinUrl::ShortToken => {
            let length = token.chars().count();
            let text =
                format!("the token has {length} characters, and a token has {MIN_LEN} or more");
            told(text, "copy the whole string")
        }
        InvalidJoinUrl::ShortFingerprint => told(
            "the fingerprint is too short",
            "copy the whole string, or leave out the last `/` and what comes after it",
        ),
        InvalidJoinUrl::LinkLocal
        | InvalidJoinUrl::TokenCharacter
        | InvalidJoinUrl::SecondToken => told(error.to_string(), ""),
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
