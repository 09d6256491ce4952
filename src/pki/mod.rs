//! Layer 3: keys, certificates and what is made of them. Everything happens in this process.

pub mod ca;
pub mod csr;
pub mod csr_policy;
pub mod key;
pub(crate) mod kubeconfig;
pub mod name;
mod profile;
mod public_key;

use std::path::PathBuf;

/// Why something about keys or certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The text holds no such thing.
    #[error("not a {what}: {why}")]
    Malformed {
        /// What was expected.
        what: &'static str,
        /// What the parser says.
        why: String,
    },
    /// A kind of key that this program does not sign with.
    #[error(
        "the private key is of a kind that is not supported; RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519 are"
    )]
    UnsupportedKey,
    /// A key that needs a passphrase.
    #[error("the private key is encrypted")]
    EncryptedKey,
    /// A key of the node that is of no use.
    #[error("cannot use `{}`: {source}", path.display())]
    KeyFile {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<PkiError>,
    },
    /// The cryptographic library failed.
    #[error("cannot {0}")]
    Crypto(&'static str),
    /// A structure could not be written as DER.
    #[error("cannot encode the certificate: {0}")]
    Encode(#[from] der::Error),
}

impl PkiError {
    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::KeyFile { source, .. } => Some(match **source {
                Self::EncryptedKey => {
                    "write it without its passphrase, with `openssl pkey -in FILE -out FILE`; the token can still be used"
                }
                _ => {
                    "put a key of another kind there, or move the file away, and a new key is made; the token can still be used"
                }
            }),
            _ => None,
        }
    }

    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed {
            what,
            why: why.to_string(),
        }
    }
}
