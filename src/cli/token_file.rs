//! What `add-node` printed, read back from a file or from standard input: off the command line,
//! where every user of the machine could read it in the process list.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::base::exit_status::ExitStatus;
use crate::base::secret::Secret;
use crate::cli::hidden_input;
use crate::cli::output::{self, Printer};
use crate::model::join_url;
use crate::model::token::{MIN_LEN, Token, is_token_text};

/// The most bytes that a file may have: more than `add-node` prints on a node with 20 addresses.
const MAX_LEN: usize = 4096;
/// The bit of a file's mode that lets every user read it.
const READ_BY_ALL: u32 = 0o004;

/// What stands in one of the texts that `add-node` prints.
#[derive(Debug)]
pub(crate) struct TokenText {
    /// The connection strings, unchecked, where the text has any.
    pub(crate) urls: Vec<Secret>,
    /// The token, unchecked.
    pub(crate) token: Secret,
    /// The fingerprint beside a token alone, unchecked, where the text has it.
    pub(crate) fingerprint: Option<String>,
    /// It is a command that joins a worker.
    pub(crate) is_for_worker: bool,
}

impl TokenText {
    /// Reads the token, `TOKEN/FINGERPRINT`, a connection string, or a whole text of `add-node`:
    /// its commands, JSON or YAML.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let words: Vec<&str> = text
            .split_whitespace()
            .map(|word| join_url::without_wrapping(word.trim_end_matches(',')))
            .collect();
        if text.contains(|c: char| c.is_control() && !c.is_whitespace()) {
            return Err("holds control characters");
        }
        let parts: Vec<[&str; 3]> = match words[..] {
            [] => return Err("is empty"),
            [word] if word.contains("://") => {
                return Err("holds a URL instead of what `add-node` prints");
            }
            [word] => vec![split(word).ok_or("holds more than a connection string")?],
            [..] => words
                .iter()
                .copied()
                .filter_map(split)
                .filter(has_token)
                .collect(),
        };
        let [_, token, fingerprint] = *parts.first().ok_or("holds no token")?;
        if parts.iter().any(|other| other[1] != token) {
            return Err("holds more than one token");
        }
        let urls = parts.iter().filter(|parts| !parts[0].is_empty());
        let commands = words.iter().filter(|word| word.ends_with("join")).count();
        Ok(Self {
            urls: urls
                .map(|parts| Secret::new(parts.join("/").trim_end_matches('/')))
                .collect(),
            token: Secret::new(token),
            fingerprint: Some(fingerprint.to_owned()).filter(|part| !part.is_empty()),
            is_for_worker: words.contains(&"--worker") && commands <= 1,
        })
    }
}

/// The node, the token and the fingerprint of a word; empty where the word lacks them.
fn split(word: &str) -> Option<[&str; 3]> {
    match word.split('/').collect::<Vec<_>>()[..] {
        [token] => Some(["", token, ""]),
        [token, fingerprint] if token.len() >= MIN_LEN && !token.contains(':') => {
            Some(["", token, fingerprint])
        }
        [node, token] => Some([node, token, ""]),
        [node, token, fingerprint] => Some([node, token, fingerprint]),
        _ => None,
    }
}

/// Other words than tokens are shorter.
fn has_token(parts: &[&str; 3]) -> bool {
    parts[1].len() >= MIN_LEN && is_token_text(parts[1])
}

/// Why a file is of no use. Nothing of its content is in the text.
#[derive(Debug, thiserror::Error)]
enum TokenFileError {
    /// It cannot be opened or read.
    #[error("cannot read {place}: {source}")]
    Read { place: String, source: io::Error },
    /// It can be read, and is of no use.
    #[error("{place} {fault}")]
    Content { place: String, fault: String },
}

fn fail(error: &TokenFileError, printer: &mut dyn Printer) -> ExitStatus {
    let hint = match error {
        TokenFileError::Content { .. } => {
            "give what `microk8s add-node` printed: the token, TOKEN/FINGERPRINT, a connection string, or all of it"
        }
        TokenFileError::Read { .. } => {
            "give a file that this user can read, or `-` for standard input"
        }
    };
    output::fail(printer, error, Some(hint))
}

/// Reads a file, or standard input where its name is `-`. Warns of a file that every user can read; of
/// one that is of no use the reason is printed.
pub(crate) fn read(path: &Path, printer: &mut dyn Printer) -> Result<TokenText, ExitStatus> {
    try_read(path, printer).map_err(|error| fail(&error, printer))
}

fn try_read(path: &Path, printer: &mut dyn Printer) -> Result<TokenText, TokenFileError> {
    let place = place_of(path);
    if path == Path::new("-") && io::stdin().is_terminal() {
        printer.err("Type or paste the token; it is not shown:");
        let line = hidden_input::read_line(MAX_LEN + 1).map_err(|source| TokenFileError::Read {
            place: place.clone(),
            source,
        })?;
        return read_from(line.as_slice(), &place);
    }
    if path == Path::new("-") {
        return read_from(io::stdin().lock(), &place);
    }
    let failed = |source| TokenFileError::Read {
        place: place.clone(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    // Of what was opened: the name may lead elsewhere a moment later.
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(content(&place, "is a directory"));
    }
    let text = read_from(file, &place)?;
    // The mode of a pipe or a device says nothing about who has what runs through it.
    if metadata.is_file() && metadata.permissions().mode() & READ_BY_ALL != 0 {
        printer.err(&format!(
            "warning: every user of this machine can read {place}"
        ));
    }
    Ok(text)
}

/// Reads a token from any text of `add-node`; as [`read`].
pub(crate) fn read_token(path: &Path, printer: &mut dyn Printer) -> Result<Token, ExitStatus> {
    let text = read(path, printer)?;
    Some(Token::presented(text.token.expose()))
        .filter(Token::is_well_formed)
        .ok_or_else(|| {
            let fault = "holds a character that is not allowed in a token";
            fail(&content(&place_of(path), fault), printer)
        })
}

fn place_of(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => format!("the token file `{}`", path.display()),
    }
}

fn read_from(source: impl Read, place: &str) -> Result<TokenText, TokenFileError> {
    // With room for all, so that no copy stays behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    source
        .take(MAX_LEN as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| TokenFileError::Read {
            place: place.to_owned(),
            source,
        })?;
    if bytes.len() > MAX_LEN {
        let fault = format!("is longer than {MAX_LEN} bytes");
        return Err(content(place, &fault));
    }
    let text = str::from_utf8(&bytes).map_err(|_| content(place, "is not UTF-8 text"))?;
    TokenText::parse(text).map_err(|fault| content(place, fault))
}

fn content(place: &str, fault: &str) -> TokenFileError {
    TokenFileError::Content {
        place: place.to_owned(),
        fault: fault.to_owned(),
    }
}

/// A path as it would be typed into a shell.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn fault(bytes: &[u8]) -> String {
        read_from(bytes, "it").unwrap_err().to_string()
    }

    #[test]
    fn whatever_add_node_prints_is_taken() {
        let check = format!("{TOKEN}/e3b0c44298fc");
        let (v4, v6) = (
            format!("10.99.0.11:25000/{check}"),
            format!("[2001:db8:1234:5678:9abc:def0:1234:5678]:25000/{check}"),
        );
        let bare = format!("10.99.0.11:25000/{TOKEN}");
        let command = format!("microk8s join {v4}");
        for (text, urls, has_fingerprint, is_for_worker) in [
            (format!(" \r\n{TOKEN}\r\n"), vec![], false, false),
            (format!("\u{feff}'{TOKEN}'\n"), vec![], false, false),
            (check.clone(), vec![], true, false),
            (v4.clone(), vec![&v4], true, false),
            (bare.clone(), vec![&bare], false, false),
            (v6.clone(), vec![&v6], true, false),
            (format!("sudo {command}\n"), vec![&v4], true, false),
            (format!("{command} --worker\n"), vec![&v4], true, true),
            (
                format!("{command} {v6} --worker\n"),
                vec![&v4, &v6],
                true,
                true,
            ),
            (
                format!("run:\n{command}\n\nUse:\n{command} --worker\n\nmicrok8s join {v6}\n"),
                vec![&v4, &v4, &v6],
                true,
                false,
            ),
            (
                format!(
                    "{{\n  \"token\": \"{check}\",\n  \"urls\": [\n    \"{v4}\",\n    \"{v6}\"\n  ]\n}}\n"
                ),
                vec![&v4, &v6],
                true,
                false,
            ),
            (
                format!("token: {check}\nurls:\n- {v4}\n- '{v6}'\n\n"),
                vec![&v4, &v6],
                true,
                false,
            ),
        ] {
            let read = read_from(text.as_bytes(), "it").unwrap();
            assert_eq!(read.token.expose(), TOKEN, "{text}");
            let found: Vec<&str> = read.urls.iter().map(Secret::expose).collect();
            assert_eq!(found, urls, "{text}");
            assert_eq!(read.fingerprint.is_some(), has_fingerprint, "{text}");
            assert_eq!(read.is_for_worker, is_for_worker, "{text}");
        }
        let longest = format!("{}\n", "a".repeat(MAX_LEN - 1));
        assert!(read_from(longest.as_bytes(), "it").is_ok());
    }

    #[test]
    fn what_add_node_does_not_print_is_refused_without_being_shown() {
        let other = TOKEN.replace('0', "f");
        for (text, says) in [
            (&b""[..], "is empty"),
            (b" \n", "is empty"),
            (b"secret\xff", "is not UTF-8 text"),
            (&[b'a'; MAX_LEN + 1], "is longer than 4096 bytes"),
            (b"secret\0", "holds control characters"),
            (b"secret\nother", "holds no token"),
            (
                format!("{TOKEN}\n{other}").as_bytes(),
                "holds more than one token",
            ),
            (
                format!("https://10.99.0.11:25000/{TOKEN}").as_bytes(),
                "holds a URL instead of what `add-node` prints",
            ),
            (
                format!("10.99.0.11:25000/{TOKEN}/e3b0c44298fc/x").as_bytes(),
                "holds more than a connection string",
            ),
        ] {
            assert_eq!(fault(text), format!("it {says}"));
        }
    }

    #[test]
    fn a_path_can_be_typed_as_it_is_shown() {
        for (path, shown) in [
            ("-", "-"),
            ("/run/token", "/run/token"),
            ("my token", "'my token'"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(quoted(Path::new(path)), shown);
        }
    }
}
