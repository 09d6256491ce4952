//! Floor 3: keys, certificates and what is made of them. Everything happens in this process.

pub mod ca;
pub mod csr;
pub mod csr_policy;
pub mod key;
pub mod kubeconfig;
pub mod name;
mod profile;
mod public_key;

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
    #[error("the private key is not an RSA key of 2048 to 8192 bits")]
    UnsupportedKey,
    /// The cryptographic library failed.
    #[error("cannot {0}")]
    Crypto(&'static str),
    /// A structure could not be written as DER.
    #[error("cannot encode the certificate: {0}")]
    Encode(#[from] der::Error),
}

impl PkiError {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Self {
        Self::Malformed {
            what,
            why: why.to_string(),
        }
    }
}
