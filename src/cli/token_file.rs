//! The file of `--token-file`: a token, or a whole connection string, that is kept off the command
//! line, where every user of the machine could read it in the process list.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::base::secret::Secret;
use crate::model::join_url;
use crate::model::token::Token;

/// What a file may hold for `join`.
const TOKEN_OR_CONNECTION: &str = "a token or a connection string";
/// What standard input is called.
const STANDARD_INPUT: &str = "standard input";
/// The most bytes that a file may have: more than any connection string has.
const MAX_LEN: usize = 4096;
/// The bit of a file's mode that lets everybody read it.
const READ_BY_ALL: u32 = 0o004;

/// What a file holds.
#[derive(Debug)]
pub struct TokenText {
    /// One word: a token or a connection string, unchecked.
    pub text: Secret,
    /// Everybody on the machine can read the file.
    pub is_public: bool,
}

/// Why a file is of no use. Nothing of its content is in the text.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be opened or read.
    #[error("cannot read {place}: {source}")]
    Read {
        /// Which file.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// It can be read, and is of no use.
    #[error("{place} {fault}")]
    Content {
        /// Which file.
        place: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// Reads a file, or standard input where its name is `-`. Blanks and line ends around the text do
/// not count.
pub fn read(path: &Path) -> Result<TokenText, TokenFileError> {
    if path == Path::new("-") {
        let text = read_from(io::stdin().lock(), STANDARD_INPUT, TOKEN_OR_CONNECTION)?;
        return Ok(TokenText {
            text,
            is_public: false,
        });
    }
    let place = format!("the token file `{}`", path.display());
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
    Ok(TokenText {
        text: read_from(file, &place, TOKEN_OR_CONNECTION)?,
        // The mode of a pipe or a device says nothing about who has what runs through it.
        is_public: metadata.is_file() && metadata.permissions().mode() & READ_BY_ALL != 0,
    })
}

/// Reads a token, and nothing but one, from standard input.
pub fn read_token() -> Result<Token, TokenFileError> {
    token_from(io::stdin().lock())
}

fn token_from(source: impl Read) -> Result<Token, TokenFileError> {
    let place = STANDARD_INPUT;
    let text = read_from(source, place, "a token")?;
    let text = join_url::without_wrapping(text.expose());
    if text.contains('/') {
        return Err(content(place, "holds more than a token"));
    }
    Some(Token::presented(text))
        .filter(Token::is_well_formed)
        .ok_or_else(|| content(place, "holds a character that no token has"))
}

/// The text of a source, which may hold what is `expected`.
fn read_from(source: impl Read, place: &str, expected: &str) -> Result<Secret, TokenFileError> {
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
    match text.split_whitespace().collect::<Vec<_>>()[..] {
        [] => Err(content(place, "is empty")),
        [word] if !word.contains(char::is_control) => Ok(Secret::new(word)),
        [_] => Err(content(place, "holds control characters")),
        [..] => Err(content(place, &format!("holds more than {expected}"))),
    }
}

fn content(place: &str, fault: &str) -> TokenFileError {
    TokenFileError::Content {
        place: place.to_owned(),
        fault: fault.to_owned(),
    }
}

/// A path as it would be typed into a shell.
pub fn quoted(path: &Path) -> String {
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

    fn fault(bytes: &[u8]) -> String {
        let read = read_from(bytes, "it", TOKEN_OR_CONNECTION);
        read.unwrap_err().to_string()
    }

    #[test]
    fn blanks_around_the_text_do_not_count() {
        let read = |bytes: &[u8]| read_from(bytes, "it", TOKEN_OR_CONNECTION).unwrap();
        assert_eq!(read(b" \r\n abc/def\r\n\n").expose(), "abc/def");
        let longest = format!("{}\n", "a".repeat(MAX_LEN - 1));
        assert_eq!(read(longest.as_bytes()).expose().len(), MAX_LEN - 1);
    }

    #[test]
    fn what_is_no_single_word_of_text_is_refused_without_being_shown() {
        assert_eq!(fault(b""), "it is empty");
        assert_eq!(fault(b" \n"), "it is empty");
        assert_eq!(fault(b"secret\xff"), "it is not UTF-8 text");
        assert_eq!(fault(&[b'a'; MAX_LEN + 1]), "it is longer than 4096 bytes");
        assert_eq!(fault(b"secret\0"), "it holds control characters");
        assert_eq!(
            fault(b"secret\nother"),
            "it holds more than a token or a connection string"
        );
    }

    #[test]
    fn a_token_alone_is_no_connection_string_and_nothing_that_no_token_has() {
        let token = "0123456789abcdef0123456789abcdef";
        let pasted = format!("\u{feff}'{token}'\r\n");
        assert_eq!(token_from(pasted.as_bytes()).unwrap().expose(), token);
        let fault = |text: &str| token_from(text.as_bytes()).unwrap_err().to_string();
        for (text, says) in [
            (format!("{token} {token}"), "holds more than a token"),
            (
                format!("10.99.0.11:25000/{token}"),
                "holds more than a token",
            ),
            (
                format!("{token}\u{e9}"),
                "holds a character that no token has",
            ),
        ] {
            assert_eq!(fault(&text), format!("standard input {says}"));
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
