//! The certificate that the agent shows, read again when its files change.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::base::mutex::lock;
use crate::model::fingerprint::Fingerprint;
use crate::pki::key::PrivateKey;

/// A file that changed less than this ago may change once more without its time telling: the
/// kernel's clock for files ticks some hundred times a second.
const TICK: Duration = Duration::from_secs(1);
/// Files that do not fit for as long are no pair that is just being written.
const HALF_WRITTEN: Duration = Duration::from_secs(5);
/// How often it is looked whether the files have changed. `add-node` looks by itself.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How often files that change while they are read are read again when the agent starts.
const TRIES: usize = 5;

/// The pair of files, and what was read from them.
#[derive(Debug, Clone)]
pub(crate) struct ServedCertificate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
    /// The state of the files that the log complained of.
    complained: Mutex<Option<Stamp>>,
}

#[derive(Debug)]
struct Current {
    stamp: Stamp,
    /// The files cannot have changed since without another stamp.
    settled: bool,
    pair: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
}

/// Tells whether a file was replaced or written to: device, inode, size, and the time of its last
/// status change, which no program can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([(u64, u64, u64, i64, i64); 2]);

impl Stamp {
    fn of(certificate: &Path, key: &Path) -> io::Result<Self> {
        let of = |path| {
            let found = fs::metadata(path)?;
            let (seconds, nanoseconds) = (found.ctime(), found.ctime_nsec());
            Ok::<_, io::Error>((found.dev(), found.ino(), found.size(), seconds, nanoseconds))
        };
        Ok(Self([of(certificate)?, of(key)?]))
    }

    /// Whether the last change was longer ago than this.
    fn is_older_than(&self, age: Duration) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        self.0.iter().all(|(.., seconds, nanoseconds)| {
            let changed = Duration::new(
                u64::try_from(*seconds).unwrap_or_default(),
                u32::try_from(*nanoseconds).unwrap_or_default(),
            );
            changed + age < now
        })
    }
}

/// Why a pair cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
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
    /// The files are being written.
    #[error("`{}` changes while it is read", .0.display())]
    Changing(PathBuf),
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
    pub(crate) fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let mut current = read(&certificate, &key);
        for _ in 1..TRIES {
            if !matches!(current, Err(CertificateError::Changing(_))) {
                break;
            }
            current = read(&certificate, &key);
        }
        Ok(Self(Arc::new(Inner {
            certificate,
            key,
            current: Mutex::new(current?),
            complained: Mutex::default(),
        })))
    }

    /// The fingerprint of what is served now.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.refresh();
        lock(&self.0.current).fingerprint
    }

    /// Reads the files again when they changed. A pair that does not belong together, because
    /// only one of them is written yet, or only a part of one, is not taken.
    pub(crate) fn refresh(&self) {
        let inner = &self.0;
        // A file that is away is about to be replaced.
        let Ok(seen) = Stamp::of(&inner.certificate, &inner.key) else {
            return;
        };
        let is_known = |current: &Current| current.settled && current.stamp == seen;
        if is_known(&lock(&inner.current)) || *lock(&inner.complained) == Some(seen) {
            return;
        }
        match read(&inner.certificate, &inner.key) {
            Ok(new) => {
                let fingerprint = new.fingerprint;
                let old = std::mem::replace(&mut *lock(&inner.current), new).fingerprint;
                if old != fingerprint {
                    tracing::info!(%fingerprint, "the served certificate changed");
                }
            }
            Err(error) if seen.is_older_than(HALF_WRITTEN) => {
                *lock(&inner.complained) = Some(seen);
                let fingerprint = lock(&inner.current).fingerprint;
                tracing::warn!(%error, %fingerprint, "the certificate's files changed, and cannot be served; the earlier one still is");
            }
            Err(error) => {
                tracing::debug!(%error, "the certificate's files changed, and do not fit yet");
            }
        }
    }
}

impl ResolvesServerCert for ServedCertificate {
    /// What was read last: a handshake waits for no file.
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(lock(&self.0.current).pair.clone())
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Current, CertificateError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| CertificateError::Read { path, source }
    };
    let bytes = |path: &Path| fs::read(path).map_err(unreadable(path));
    let before = Stamp::of(certificate, key);
    let malformed = |path: &Path, what, why: String| CertificateError::Malformed {
        path: path.to_owned(),
        what,
        why,
    };
    let certificate_bytes = bytes(certificate)?;
    let key_bytes = Zeroizing::new(bytes(key)?);
    let after = Stamp::of(certificate, key);
    let stamp = match (before, after) {
        (Ok(before), Ok(after)) if before == after => after,
        _ => return Err(CertificateError::Changing(certificate.to_owned())),
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate_bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed(certificate, "certificate", error.to_string()))?;
    let Some(first) = chain.first() else {
        return Err(malformed(certificate, "certificate", "it is empty".into()));
    };
    let fingerprint = Fingerprint::of(first);
    let key_text = Zeroizing::new(String::from_utf8_lossy(&key_bytes).into_owned());
    let private_key = PrivateKey::from_pem(&key_text)
        .map_err(|error| malformed(key, "private key", error.to_string()))?;
    let pair = CertifiedKey::new(chain, private_key.signing_key());
    pair.keys_match()
        .map_err(|why| CertificateError::Mismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            why,
        })?;
    Ok(Current {
        stamp,
        settled: stamp.is_older_than(TICK),
        pair: Arc::new(pair),
        fingerprint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::ca::{Profile, YEAR, self_signed};
    use crate::pki::key::Bits;
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
    fn two_changes_in_one_tick_of_the_clock_are_both_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("crt"), dir.path().join("key"));
        let (first, second) = (pair(), pair());
        let put = |pair: &(String, String)| {
            fs::write(&certificate, &pair.0).unwrap();
            fs::write(&key, &pair.1).unwrap();
        };
        put(&first);
        let served = ServedCertificate::load(certificate.clone(), key.clone()).unwrap();
        let first_print = served.fingerprint();
        put(&second);
        let second_print = served.fingerprint();
        assert_ne!(first_print, second_print);
        // Sizes and numbers of the files stay, and of twenty changes some share a time.
        for _ in 0..20 {
            put(&first);
            assert_eq!(served.fingerprint(), first_print);
            put(&second);
            assert_eq!(served.fingerprint(), second_print);
        }
    }

    #[test]
    fn a_part_of_a_file_is_not_served() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("crt"), dir.path().join("key"));
        let old = pair();
        fs::write(&certificate, &old.0).unwrap();
        fs::write(&key, &old.1).unwrap();
        let served = ServedCertificate::load(certificate.clone(), key.clone()).unwrap();
        let before = served.fingerprint();
        // The same key: whatever there is of the certificate fits it.
        let own = PrivateKey::from_pem(&old.1).unwrap();
        let subject = Subject::microk8s_server();
        let new = self_signed(&subject, &own, Profile::Server(vec![]), YEAR).unwrap();
        for length in (0..new.trim_end().len()).step_by(37) {
            fs::write(&certificate, &new[..length]).unwrap();
            assert_eq!(served.fingerprint(), before, "{length} bytes");
        }
        fs::write(&certificate, &new).unwrap();
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
