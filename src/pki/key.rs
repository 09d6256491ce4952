//! RSA private keys, in the PEM form that MicroK8s's files have.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use der::pem::LineEnding;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::base::secret::Secret;
use crate::pki::PkiError;

/// How long a new key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// What everything but the datastore uses.
    Rsa2048,
    /// The datastore's key (recording `fresh-node.json`).
    Rsa4096,
}

/// An RSA private key.
pub struct PrivateKey(KeyPair);

impl PrivateKey {
    /// A new key.
    pub fn generate(bits: Bits) -> Result<Self, PkiError> {
        let size = match bits {
            Bits::Rsa2048 => KeySize::Rsa2048,
            Bits::Rsa4096 => KeySize::Rsa4096,
        };
        KeyPair::generate(size)
            .map(Self)
            .map_err(|_| PkiError::Crypto("generate an RSA key"))
    }

    /// Reads a key from PEM, PKCS#8 or PKCS#1.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| PkiError::malformed("private key", error))?;
        let key = match &der {
            PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()),
            _ => return Err(PkiError::UnsupportedKey),
        };
        key.map(Self).map_err(|_| PkiError::UnsupportedKey)
    }

    /// The key as PKCS#8 PEM.
    pub fn to_pem(&self) -> Result<Secret, PkiError> {
        let der: Pkcs8V1Der<'_> = self
            .0
            .as_der()
            .map_err(|_| PkiError::Crypto("write the private key"))?;
        let der = Zeroizing::new(der.as_ref().to_vec());
        let pem = der::pem::encode_string("PRIVATE KEY", LineEnding::LF, &der)
            .map_err(|error| PkiError::malformed("private key", error))?;
        Ok(Secret::new(pem))
    }

    /// The public key, as the DER of a `SubjectPublicKeyInfo`.
    pub fn public_key(&self) -> Result<Vec<u8>, PkiError> {
        let der: PublicKeyX509Der<'_> = self
            .0
            .public_key()
            .as_der()
            .map_err(|_| PkiError::Crypto("write the public key"))?;
        Ok(der.as_ref().to_vec())
    }

    /// Signs with RSA PKCS#1 v1.5 and SHA-256.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        self.0
            .sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
            .map_err(|_| PkiError::Crypto("sign"))?;
        Ok(signature)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_form_and_never_shows() {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let pem = key.to_pem().unwrap();
        assert!(pem.expose().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let again = PrivateKey::from_pem(pem.expose()).unwrap();
        assert_eq!(again.public_key().unwrap(), key.public_key().unwrap());
        assert_eq!(format!("{key:?}"), "PrivateKey");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "nope",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(PrivateKey::from_pem(text).is_err(), "{text}");
        }
    }
}
