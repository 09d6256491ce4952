//! Join tokens: what a node shows to be let into the cluster.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use rand::TryRng;
use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;

/// The fewest characters of a token (`messages.md`, add-node and join).
pub const MIN_LEN: usize = 32;
/// The most characters of a token that is preset.
pub const MAX_LEN: usize = 256;

/// A token. `Debug` shows its id, never the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(Secret);

/// Why a preset token cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Below 32 characters; the text is MicroK8s's (recording `add-node-token-short`).
    #[error("Invalid token size.  It must be {MIN_LEN} characters long.")]
    TooShort,
    /// Above 256 characters.
    #[error("the token is longer than {MAX_LEN} characters")]
    TooLong,
    /// A character that a join string or a token file cannot carry.
    #[error("the token may hold only letters, digits, `-`, `.` and `_`")]
    Character,
}

/// The machine gave no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gave no random bytes: {0}")]
pub struct NoRandomness(String);

impl Token {
    /// A new token: 16 random bytes from the operating system, as 32 hexadecimal digits.
    pub fn generate() -> Result<Self, NoRandomness> {
        let mut bytes = zeroize::Zeroizing::new([0u8; 16]);
        rand::rngs::SysRng
            .try_fill_bytes(bytes.as_mut())
            .map_err(|error| NoRandomness(error.to_string()))?;
        Ok(Self(Secret::new(hex(bytes.as_ref()))))
    }

    /// A token that the operator chose.
    pub fn preset(text: &str) -> Result<Self, InvalidToken> {
        let len = text.chars().count();
        if len < MIN_LEN {
            return Err(InvalidToken::TooShort);
        }
        if len > MAX_LEN {
            return Err(InvalidToken::TooLong);
        }
        if !text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            return Err(InvalidToken::Character);
        }
        Ok(Self(Secret::new(text)))
    }

    /// What somebody presents as a token, not checked at all; blanks around it do not count
    /// (recording `http-join-token-spaces`).
    pub fn presented(text: &str) -> Self {
        Self(Secret::new(text.trim()))
    }

    /// The token with a suffix: `-kubelet` and `-proxy` make the tokens with which a worker
    /// has its certificates signed.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self(Secret::new(format!("{}{suffix}", self.expose())))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Under what the store keeps the token.
    pub fn digest(&self) -> TokenDigest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, self.expose().as_bytes()).as_ref());
        TokenDigest(bytes)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.digest())
    }
}

/// The SHA-256 of a token: enough to recognise it, useless to present it.
///
/// Shown as its first 12 digits, the token's id in logs and listings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// All bytes, as the store keeps them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..6]))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How long a token can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// By one node, whenever that is.
    OneUse,
    /// By any number of nodes, for so many seconds.
    Seconds(u32),
}

/// A time to live that gives a token nobody could use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLifetime {
    /// Zero, or below zero and not -1.
    #[error(
        "a token that lives {0} seconds could never be used; give a positive number, or -1 for one use"
    )]
    Dead(i64),
    /// Beyond [`u32::MAX`] seconds, 136 years.
    #[error("{0} seconds is more than the {max} that a token can live", max = u32::MAX)]
    TooLong(i64),
}

impl Lifetime {
    /// Takes MicroK8s's `--token-ttl`: seconds, or -1 for one use.
    pub fn from_ttl(ttl: i64) -> Result<Self, InvalidLifetime> {
        match ttl {
            -1 => Ok(Self::OneUse),
            ..=0 => Err(InvalidLifetime::Dead(ttl)),
            _ => u32::try_from(ttl)
                .map(Self::Seconds)
                .map_err(|_| InvalidLifetime::TooLong(ttl)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_is_32_hexadecimal_digits() {
        let token = Token::generate().unwrap();
        assert_eq!(token.expose().len(), 32);
        assert!(
            token
                .expose()
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        );
        assert_ne!(token, Token::generate().unwrap());
    }

    #[test]
    fn debug_shows_the_id_and_not_the_token() {
        let token = Token::preset("0123456789abcdef0123456789abcdef").unwrap();
        let shown = format!("{token:?}");
        assert!(!shown.contains("0123456789abcdef"), "{shown}");
        assert_eq!(shown, format!("Token({})", token.digest()));
    }

    #[test]
    fn preset_tokens_of_the_field_are_fine_and_unusable_ones_are_not() {
        for fine in [
            "microk8sisgreatushouldgiveitatry",
            "0b3c5d7e-1f2a-4b6c-8d9e-0a1b2c3d",
            "12345678901234567890123456789012",
            "handwritten-token_0123456789abcdef.0",
        ] {
            Token::preset(fine).unwrap();
        }
        for (bad, why) in [
            ("", InvalidToken::TooShort),
            ("0123456789abcdef0123456789abcde", InvalidToken::TooShort),
            ("0123456789abcdef0123456789abcde|", InvalidToken::Character),
            ("0123456789abcdef0123456789abcde/", InvalidToken::Character),
            ("0123456789abcdef 123456789abcdef", InvalidToken::Character),
            (
                "0123456789abcdef0123456789abcdef\n",
                InvalidToken::Character,
            ),
        ] {
            assert_eq!(Token::preset(bad), Err(why), "{bad:?}");
        }
        assert_eq!(Token::preset(&"a".repeat(257)), Err(InvalidToken::TooLong));
    }

    #[test]
    fn a_time_to_live_that_never_lets_anybody_in_is_refused() {
        assert_eq!(Lifetime::from_ttl(-1), Ok(Lifetime::OneUse));
        assert_eq!(
            Lifetime::from_ttl(4_294_967_295),
            Ok(Lifetime::Seconds(u32::MAX))
        );
        for bad in [0, -2, -5, i64::MIN] {
            assert_eq!(Lifetime::from_ttl(bad), Err(InvalidLifetime::Dead(bad)));
        }
        assert!(Lifetime::from_ttl(i64::MAX).is_err());
    }
}
