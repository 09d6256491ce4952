//! Private keys: made new, and read in every form in which OpenSSL writes them.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeyPair;
pub use aws_lc_rs::rsa::KeySize as Bits;
use der::asn1::Any;
use der::oid::ObjectIdentifier;
use der::oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, SHA_256_WITH_RSA_ENCRYPTION,
};
use der::oid::db::rfc8410::ID_ED_25519;
use der::pem::LineEnding;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{Signer, SigningKey};
use x509_cert::spki::AlgorithmIdentifierOwned;
use zeroize::Zeroizing;

use crate::base::secret::Secret;
use crate::pki::PkiError;

/// How keys sign, one way a kind: what `openssl x509 -req -sha256` would do, but with the hash that
/// fits a curve's length.
const SCHEMES: [(SignatureScheme, ObjectIdentifier); 5] = [
    (
        SignatureScheme::RSA_PKCS1_SHA256,
        SHA_256_WITH_RSA_ENCRYPTION,
    ),
    (SignatureScheme::ECDSA_NISTP256_SHA256, ECDSA_WITH_SHA_256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, ECDSA_WITH_SHA_384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, ECDSA_WITH_SHA_512),
    (SignatureScheme::ED25519, ID_ED_25519),
];

/// A private key: RSA of 2048 to 8192 bits, on P-256, P-384 or P-521, or Ed25519.
pub struct PrivateKey {
    key: Arc<dyn SigningKey>,
    der: Zeroizing<PrivateKeyDer<'static>>,
}

impl Clone for PrivateKey {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            der: Zeroizing::new(self.der.clone_key()),
        }
    }
}

impl PrivateKey {
    /// A new key.
    pub fn generate(bits: Bits) -> Result<Self, PkiError> {
        let failed = |_| PkiError::Crypto("generate an RSA key");
        let pair = KeyPair::generate(bits).map_err(failed)?;
        let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
        Self::from_der(PrivatePkcs8KeyDer::from(der.as_ref().to_vec()).into())
    }

    /// Reads a key from PEM: PKCS#8, PKCS#1 or SEC1, with any text and other blocks around it.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || pem
                .lines()
                .any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
        {
            return Err(PkiError::EncryptedKey);
        }
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(der) => Self::from_der(der),
            // A kind of its own, such as DSA's, has a form of its own.
            Err(_) if pem.contains(" PRIVATE KEY-----") => Err(PkiError::UnsupportedKey),
            Err(error) => Err(PkiError::malformed("private key", error)),
        }
    }

    /// [`from_pem`](Self::from_pem), where it is not known to be text.
    pub(crate) fn from_pem_bytes(pem: &[u8]) -> Result<Self, PkiError> {
        let text = std::str::from_utf8(pem);
        Self::from_pem(text.map_err(|error| PkiError::malformed("private key", error))?)
    }

    fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, PkiError> {
        let der = Zeroizing::new(der);
        let key = any_supported_type(&der).map_err(|_| PkiError::UnsupportedKey)?;
        let key = Self { key, der };
        key.signer()?;
        Ok(key)
    }

    /// The key as PEM.
    pub fn to_pem(&self) -> Result<Secret, PkiError> {
        let label = match &*self.der {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        let pem = der::pem::encode_string(label, LineEnding::LF, self.der.secret_der())
            .map_err(|error| PkiError::malformed("private key", error))?;
        Ok(Secret::new(pem))
    }

    /// The public key, as the DER of a `SubjectPublicKeyInfo`.
    pub fn public_key(&self) -> Result<Vec<u8>, PkiError> {
        let key = self.key.public_key();
        let key = key.ok_or(PkiError::Crypto("write the public key"))?;
        Ok(key.to_vec())
    }

    /// The key as TLS uses it.
    pub(crate) fn signing_key(&self) -> Arc<dyn SigningKey> {
        self.key.clone()
    }

    /// Signs with SHA-2 as long as the key, or as Ed25519 does.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        let failed = |_| PkiError::Crypto("sign");
        self.signer()?.sign(message).map_err(failed)
    }

    /// The name of the algorithm that [`PrivateKey::sign`] signs by.
    pub(crate) fn algorithm(&self) -> Result<AlgorithmIdentifierOwned, PkiError> {
        let scheme = self.signer()?.scheme();
        let (_, oid) = SCHEMES
            .into_iter()
            .find(|(other, _)| *other == scheme)
            .ok_or(PkiError::UnsupportedKey)?;
        Ok(AlgorithmIdentifierOwned {
            oid,
            parameters: (oid == SHA_256_WITH_RSA_ENCRYPTION).then(Any::null),
        })
    }

    fn signer(&self) -> Result<Box<dyn Signer>, PkiError> {
        let offered = SCHEMES.map(|(scheme, _)| scheme);
        let signer = self.key.choose_scheme(&offered);
        signer.ok_or(PkiError::UnsupportedKey)
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
