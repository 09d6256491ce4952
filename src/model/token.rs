//! Join tokens: what a node shows to be admitted to the cluster.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use rand::TryRng;
use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;
use crate::base::sha256;

/// The fewest characters of a token (recordings `add-node-token-short`, `join-malformed-short-token`).
pub(crate) const MIN_LEN: usize = 32;
/// The most characters of a token that is preset.
pub(crate) const MAX_LEN: usize = 256;

/// A token. `Debug` shows its id, never the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(Secret);

/// Why a preset token cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidToken {
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
        Ok(Self(Secret::new(sha256::digits(bytes.as_ref()))))
    }

    /// A token that the operator chose.
    pub(crate) fn preset(text: &str) -> Result<Self, InvalidToken> {
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

    /// A token as it was presented, unchecked, without the blanks around it (recording
    /// `http-join-token-spaces`).
    pub fn presented(text: &str) -> Self {
        Self(Secret::new(text.trim()))
    }

    /// The token with a suffix: `-kubelet` and `-proxy` make the tokens with which a worker
    /// has its certificates signed.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self(Secret::new(format!("{}{suffix}", self.expose())))
    }

    /// Whether it is made of what tokens are made of: visible ASCII, without a `/`. Any other is no
    /// token anywhere.
    pub(crate) fn is_well_formed(&self) -> bool {
        is_token_text(self.expose())
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// Under what the store keeps the token.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest(sha256::of(self.expose().as_bytes()))
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
    /// How many of its digits are the token's id.
    pub(crate) const ID_DIGITS: usize = 12;

    /// All bytes, as the store keeps them.
    pub(crate) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes the bytes that the store kept; `None` when these are no 32.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The first of all digests that begin with these hexadecimal digits; `None` for other text.
    pub(crate) fn first_with(digits: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if digits.len() > 2 * bytes.len() {
            return None;
        }
        for (at, digit) in digits.chars().enumerate() {
            let value = u8::try_from(digit.to_digit(16)?).ok()?;
            bytes[at / 2] |= if at % 2 == 0 { value << 4 } else { value };
        }
        Some(Self(bytes))
    }

    /// All 64 hexadecimal digits.
    pub(crate) fn digits(&self) -> String {
        sha256::digits(&self.0)
    }

    /// Reads what [`Self::digits`] wrote; `None` for anything else.
    pub(crate) fn from_digits(text: &str) -> Option<Self> {
        Self::first_with(text).filter(|_| text.len() == 64)
    }

    /// Whether both are the same, found out in a time that does not depend on where they differ.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    /// Whether it begins with these hexadecimal digits.
    pub(crate) fn begins_with(&self, digits: &str) -> bool {
        sha256::digits(&self.0).starts_with(&digits.to_ascii_lowercase())
    }
}

impl Serialize for TokenDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.digits())
    }
}

impl<'de> Deserialize<'de> for TokenDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_digits(&text)
            .ok_or_else(|| serde::de::Error::custom("a digest has 64 hexadecimal digits"))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sha256::digits(&self.0[..Self::ID_DIGITS / 2]))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether a text is visible ASCII, without a `/`, and not empty.
pub(crate) fn is_token_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
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
    fn a_digest_is_found_by_its_first_digits() {
        let digest = Token::presented("0123456789abcdef0123456789abcdef").digest();
        for length in 0..13 {
            let digits = &digest.to_string()[..length.min(12)];
            let first = TokenDigest::first_with(digits).unwrap();
            assert!(first <= digest && first.begins_with(digits) && digest.begins_with(digits));
        }
        assert!(!digest.begins_with(&"f".repeat(64)));
        for bad in ["xyz", "é", &"0".repeat(65)] {
            assert_eq!(TokenDigest::first_with(bad), None, "{bad}");
        }
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
}
