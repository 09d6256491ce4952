//! The certificate that the agent shows, read again when its files change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::model::fingerprint::Fingerprint;

/// The pair of files, and what was read from them.
#[derive(Debug, Clone)]
pub struct ServedCertificate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    stamp: Option<Stamp>,
    pair: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

/// What tells that a file was replaced.
type Stamp = [(u64, u64, i64, i64); 2];

/// Why a pair cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds something else.
    #[error("`{}` holds no {what}: {why}", path.display())]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The files do not belong together.
    #[error("the key `{}` is not that of the certificate `{}`: {why}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// What the TLS library says.
        why: rustls::Error,
    },
}

impl ServedCertificate {
    /// Reads a certificate and its key.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let current = read(&certificate, &key)?;
        Ok(Self(Arc::new(Inner {
            certificate,
            key,
            current: RwLock::new(current),
        })))
    }

    /// The fingerprint of what is served now.
    pub fn fingerprint(&self) -> Fingerprint {
        self.refresh();
        self.read_current(|current| current.fingerprint)
    }

    /// Reads the files again when they changed. A pair that does not belong together, because
    /// only one of them is written yet, is not taken.
    fn refresh(&self) {
        let inner = &self.0;
        let seen = stamp(&inner.certificate, &inner.key);
        if seen.is_none() || self.read_current(|current| current.stamp == seen) {
            return;
        }
        match read(&inner.certificate, &inner.key) {
            Ok(new) => {
                tracing::info!(fingerprint = %new.fingerprint, "the served certificate changed");
                *inner
                    .current
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = new;
            }
            Err(error) => {
                tracing::debug!(%error, "the certificate's files changed, and do not fit yet");
            }
        }
    }

    fn read_current<T>(&self, look: impl FnOnce(&Current) -> T) -> T {
        look(
            &self
                .0
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.refresh();
        Some(self.read_current(|current| current.pair.clone()))
    }
}

fn stamp(certificate: &Path, key: &Path) -> Option<Stamp> {
    let of = |path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    Some([of(certificate)?, of(key)?])
}

fn read(certificate: &Path, key: &Path) -> Result<Current, CertificateError> {
    let stamp = stamp(certificate, key);
    let bytes = |path: &Path| {
        fs::read(path).map_err(|source| CertificateError::Read {
            path: path.to_owned(),
            source,
        })
    };
    let malformed = |path: &Path, what, why: String| CertificateError::Malformed {
        path: path.to_owned(),
        what,
        why,
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&bytes(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(certificate, "certificate", error.to_string()))?;
    let Some(first) = chain.first() else {
        return Err(malformed(certificate, "certificate", "it is empty".into()));
    };
    let fingerprint = Fingerprint::of(first);
    let key_bytes = zeroize::Zeroizing::new(bytes(key)?);
    let key_der = PrivateKeyDer::from_pem_slice(&key_bytes)
        .map_err(|error| malformed(key, "private key", error.to_string()))?;
    let signing_key = any_supported_type(&key_der)
        .map_err(|error| malformed(key, "private key", error.to_string()))?;
    let pair = CertifiedKey::new(chain, signing_key);
    pair.keys_match()
        .map_err(|why| CertificateError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            why,
        })?;
    Ok(Current {
        stamp,
        pair: Arc::new(pair),
        fingerprint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::ca::{Profile, YEAR, self_signed};
    use crate::pki::key::{Bits, PrivateKey};
    use crate::pki::name::Subject;

    fn pair() -> (String, String) {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let certificate = self_signed(
            &Subject::microk8s_server(),
            &key,
            Profile::Server(vec![]),
            YEAR,
        )
        .unwrap();
        (certificate, key.to_pem().unwrap().expose().to_owned())
    }

    #[test]
    fn a_replaced_pair_is_served_and_half_of_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("crt"), dir.path().join("key"));
        let (first, second) = (pair(), pair());
        fs::write(&certificate, &first.0).unwrap();
        fs::write(&key, &first.1).unwrap();
        let served = ServedCertificate::load(certificate.clone(), key.clone()).unwrap();
        let before = served.fingerprint();
        fs::write(&certificate, &second.0).unwrap();
        assert_eq!(served.fingerprint(), before);
        fs::write(&key, &second.1).unwrap();
        assert_ne!(served.fingerprint(), before);
        fs::remove_file(&certificate).unwrap();
        assert_ne!(served.fingerprint(), before);
    }

    #[test]
    fn a_pair_that_does_not_fit_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("crt"), dir.path().join("key"));
        fs::write(&certificate, pair().0).unwrap();
        fs::write(&key, pair().1).unwrap();
        let error = ServedCertificate::load(certificate, key).unwrap_err();
        assert!(
            matches!(error, CertificateError::Mismatch { .. }),
            "{error}"
        );
    }
}
