//! The fingerprint of a certificate: how a joining node recognises the node that it contacts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::sha256;

/// The SHA-256 of a certificate's DER form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of this certificate.
    pub fn of(der: &[u8]) -> Self {
        Self(sha256::of(der))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sha256::digits(&self.0))
    }
}

/// What the operator typed as fingerprint: the beginning of one, of 12 characters at least.
///
/// It is compared as it stands: MicroK8s never takes upper-case digits for lower-case ones
/// (recording `join-fingerprint-upper`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct FingerprintPrefix(String);

/// A fingerprint of less than [`FingerprintPrefix::MIN_LEN`] characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Fingerprint should be at least {} bytes", FingerprintPrefix::MIN_LEN)]
pub struct FingerprintTooShort;

impl FingerprintPrefix {
    /// The shortest fingerprint that MicroK8s accepts, and as much as it prints of one (recording
    /// `add-node-pretty`).
    pub(crate) const MIN_LEN: usize = 12;
    /// The length of a whole fingerprint.
    pub(crate) const MAX_LEN: usize = 64;

    /// Takes what was typed.
    pub fn parse(text: &str) -> Result<Self, FingerprintTooShort> {
        if text.chars().count() < Self::MIN_LEN {
            return Err(FingerprintTooShort);
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether `fingerprint` begins with this.
    pub(crate) fn matches(&self, fingerprint: &Fingerprint) -> bool {
        fingerprint.to_string().starts_with(&self.0)
    }
}

impl From<Fingerprint> for FingerprintPrefix {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint.to_string())
    }
}

impl fmt::Display for FingerprintPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FingerprintPrefix {
    type Error = FingerprintTooShort;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_twelve_digits_or_all_of_them_match() {
        let fingerprint = Fingerprint::of(b"");
        for typed in ["e3b0c44298fc", &fingerprint.to_string()] {
            assert!(
                FingerprintPrefix::parse(typed)
                    .unwrap()
                    .matches(&fingerprint)
            );
        }
        for typed in ["E3B0C44298FC", "e3b0c44298fd", &format!("{fingerprint}0")] {
            assert!(
                !FingerprintPrefix::parse(typed)
                    .unwrap()
                    .matches(&fingerprint)
            );
        }
        assert_eq!(
            FingerprintPrefix::parse("e3b0c44298f"),
            Err(FingerprintTooShort)
        );
    }
}
