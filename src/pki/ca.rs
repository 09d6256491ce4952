//! Certificate authorities: making one, reading one, and what it signs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use der::asn1::BitString;
use der::pem::LineEnding;
use der::{Decode, Encode};
use rand::TryRng;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectAltName, SubjectKeyIdentifier};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::time::{Time, Validity};

use crate::model::cluster_id::ClusterId;
use crate::pki::PkiError;
use crate::pki::csr_policy::Approved;
use crate::pki::key::PrivateKey;
use crate::pki::name::{AltName, Subject};
pub use crate::pki::profile::Profile;
use crate::pki::profile::{Issuer, Signed, ToBeSigned, key_id};

/// How long certificates of clients and authorities are valid: ten years, as MicroK8s's.
pub(crate) const LONG: Duration = Duration::from_secs(3650 * 86_400);
/// How long certificates of servers are valid: one year, as MicroK8s's.
pub const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// New certificates are valid from a little before now, for nodes whose clocks are behind.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// A certificate authority with its key.
#[derive(Debug)]
pub struct Ca {
    certificate: Arc<Certificate>,
    key: Arc<PrivateKey>,
}

impl Ca {
    /// Makes a new one, and its certificate as PEM.
    pub fn create(subject: &Subject, key: PrivateKey) -> Result<(Self, String), PkiError> {
        let pem = self_signed(subject, &key, Profile::Authority, LONG)?;
        Ok((
            Self {
                certificate: Arc::new(parse(&pem)?),
                key: Arc::new(key),
            },
            pem,
        ))
    }

    /// Reads one from the PEM of its certificate and of its key, which must belong together.
    pub(crate) fn from_pem(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let (certificate, key) = (parse(certificate)?, PrivateKey::from_pem(key)?);
        Self::new(Arc::new(certificate), Arc::new(key))
    }

    /// The one of this certificate and key, which must belong together.
    pub(crate) fn new(
        certificate: Arc<Certificate>,
        key: Arc<PrivateKey>,
    ) -> Result<Self, PkiError> {
        let certified = certificate.tbs_certificate().subject_public_key_info();
        if key.public_key()? == certified.to_der()? {
            Ok(Self { certificate, key })
        } else {
            Err(PkiError::malformed(
                "pair",
                "the key is not that of the certificate",
            ))
        }
    }

    /// Signs a certificate for a key of this node; PEM.
    pub(crate) fn issue(
        &self,
        subject: &Subject,
        key: &PrivateKey,
        profile: Profile,
        life: Duration,
    ) -> Result<String, PkiError> {
        let public_key = SubjectPublicKeyInfoOwned::from_der(&key.public_key()?)?;
        self.sign(subject, public_key, profile, life)
    }

    /// Signs what the policy let through; PEM.
    pub fn issue_approved(&self, approved: &Approved) -> Result<String, PkiError> {
        self.sign(
            approved.subject(),
            approved.public_key().clone(),
            Profile::Client(approved.names().to_vec()),
            LONG,
        )
    }

    /// Signs anew what another authority signed, for this key where one is given: same subject and
    /// names, and the same key otherwise; PEM.
    pub(crate) fn reissue_server(
        &self,
        certificate: &str,
        key: Option<&PrivateKey>,
    ) -> Result<String, PkiError> {
        let old = parse(certificate)?;
        let old = old.tbs_certificate();
        let key = match key {
            Some(key) => SubjectPublicKeyInfoOwned::from_der(&key.public_key()?)?,
            None => old.subject_public_key_info().clone(),
        };
        let subject = Subject::from_name(old.subject()).ok_or_else(|| {
            PkiError::malformed(
                "server certificate",
                "its subject has attributes of an unknown kind",
            )
        })?;
        self.sign(&subject, key, Profile::Server(names_of(old)?), YEAR)
    }

    fn sign(
        &self,
        subject: &Subject,
        key: SubjectPublicKeyInfoOwned,
        profile: Profile,
        life: Duration,
    ) -> Result<String, PkiError> {
        let own = self.certificate.tbs_certificate();
        let key_id = own
            .get_extension::<SubjectKeyIdentifier>()?
            .map(|(_, identifier)| identifier.0);
        let issuer = Issuer {
            name: own.subject(),
            signed_by: own.issuer(),
            serial_number: own.serial_number(),
            key_id,
        };
        signed(
            subject,
            key,
            random_serial()?,
            &profile,
            life,
            &issuer,
            &self.key,
        )
    }
}

/// A certificate that a key signs for itself; PEM.
pub fn self_signed(
    subject: &Subject,
    key: &PrivateKey,
    profile: Profile,
    life: Duration,
) -> Result<String, PkiError> {
    let public_key = SubjectPublicKeyInfoOwned::from_der(&key.public_key()?)?;
    let serial_number = random_serial()?;
    let name = subject.to_name()?;
    let issuer = Issuer {
        name: &name,
        signed_by: &name,
        serial_number: &serial_number,
        key_id: Some(key_id(&public_key)?),
    };
    signed(
        subject,
        public_key,
        serial_number.clone(),
        &profile,
        life,
        &issuer,
        key,
    )
}

fn signed(
    subject: &Subject,
    public_key: SubjectPublicKeyInfoOwned,
    serial_number: SerialNumber,
    profile: &Profile,
    life: Duration,
    issuer: &Issuer<'_>,
    key: &PrivateKey,
) -> Result<String, PkiError> {
    let from = SystemTime::now() - CLOCK_TOLERANCE;
    let to_be_signed = ToBeSigned {
        version: profile.version(),
        serial_number,
        signature: key.algorithm()?,
        issuer: issuer.name.clone(),
        validity: Validity::new(Time::try_from(from)?, Time::try_from(from + life)?),
        subject: subject.to_name()?,
        extensions: profile.extensions(&public_key, issuer)?,
        subject_public_key_info: public_key,
    };
    let signature = BitString::from_bytes(&key.sign(&to_be_signed.to_der()?)?)?;
    let der = Signed {
        to_be_signed,
        algorithm: key.algorithm()?,
        signature,
    }
    .to_der()?;
    der::pem::encode_string("CERTIFICATE", LineEnding::LF, &der)
        .map_err(|error| PkiError::malformed("certificate", error))
}

/// 127 random bits: positive, and never the same twice.
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0u8; 16];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|_| PkiError::Crypto("get random bytes"))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::new(&bytes)?)
}

/// Makes sure that a key (PEM) is that of a certificate (PEM).
///
/// The TLS library would do that too, but for certificates of version 3 only.
pub fn check_pair(certificate: &str, key: &str) -> Result<(), PkiError> {
    Ca::from_pem(certificate, key).map(drop)
}

/// The DER of the first certificate in a PEM text.
pub fn certificate_der(pem: impl AsRef<[u8]>) -> Result<Vec<u8>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_ref())
        .map(|der| der.to_vec())
        .map_err(|error| PkiError::malformed("certificate", error))
}

/// Whether `certificate` (DER) carries the signature of `authority` (PEM).
pub fn is_signed_by(certificate: &[u8], authority: &str) -> bool {
    let verify = || -> Result<(), PkiError> {
        let certificate = Certificate::from_der(certificate)?;
        let authority = parse(authority)?;
        crate::pki::csr::verify(
            authority.tbs_certificate().subject_public_key_info(),
            certificate.signature_algorithm(),
            &certificate.tbs_certificate().to_der()?,
            certificate.signature(),
        )
    };
    verify().is_ok()
}

/// Makes sure that a certificate (PEM) that was asked for is for this subject and for no other names
/// than these, and that it is no authority. Names that were asked for may be missing: the authority
/// decides what it signs.
pub(crate) fn check_issued(
    pem: &str,
    subject: &Subject,
    names: &[AltName],
) -> Result<(), PkiError> {
    let bad = |why: String| PkiError::malformed("certificate", why);
    if CertificateDer::pem_slice_iter(pem.as_bytes()).count() != 1 {
        return Err(bad("it is not one certificate".to_owned()));
    }
    let certificate = parse(pem)?;
    let certificate = certificate.tbs_certificate();
    let found = Subject::from_name(certificate.subject());
    if !found.is_some_and(|found| found.has_same_attributes(subject)) {
        return Err(bad(format!("its subject is not `{subject}`")));
    }
    let present = certificate.get_extension::<SubjectAltName>()?;
    for name in present.iter().flat_map(|(_, present)| present.0.iter()) {
        let known = AltName::from_general_name(name);
        if !known.is_some_and(|name| names.contains(&name)) {
            return Err(bad("it is for a name that was not asked for".to_owned()));
        }
    }
    let constraints = certificate.get_extension::<BasicConstraints>()?;
    let usage = certificate.get_extension::<KeyUsage>()?;
    let is_authority = constraints.is_some_and(|(_, constraints)| constraints.ca)
        || usage.is_some_and(|(_, usage)| usage.key_cert_sign() || usage.crl_sign());
    if is_authority {
        return Err(bad("it makes an authority of this node".to_owned()));
    }
    Ok(())
}

/// Whether a certificate (PEM) is valid now. The signer's clock may be a little ahead.
pub(crate) fn is_valid_now(pem: &str) -> Result<bool, PkiError> {
    let certificate = parse(pem)?;
    let validity = certificate.tbs_certificate().validity();
    let begins = validity.not_before.to_system_time();
    let ends = validity.not_after.to_system_time();
    let now = SystemTime::now();
    Ok(begins <= now + CLOCK_TOLERANCE && now <= ends)
}

/// From when and until when a certificate (DER) is valid, in unix seconds.
pub(crate) fn validity(certificate: &[u8]) -> Result<(i64, i64), PkiError> {
    let certificate = Certificate::from_der(certificate)?;
    let validity = certificate.tbs_certificate().validity();
    let seconds = |time: &Time| i64::try_from(time.to_unix_duration().as_secs());
    let read = |time| seconds(time).map_err(|error| PkiError::malformed("certificate", error));
    Ok((read(&validity.not_before)?, read(&validity.not_after)?))
}

/// The host names and addresses that a certificate (PEM) is for.
pub(crate) fn alternative_names(pem: &str) -> Result<Vec<AltName>, PkiError> {
    names_of(parse(pem)?.tbs_certificate())
}

/// The cluster whose authority has this certificate (PEM).
pub(crate) fn cluster_of(pem: &str) -> Result<ClusterId, PkiError> {
    let key = parse(pem)?
        .tbs_certificate()
        .subject_public_key_info()
        .to_der()?;
    Ok(ClusterId::of_key(&key))
}

/// The subject of a certificate (PEM), for people.
pub(crate) fn subject_of(pem: &str) -> Result<String, PkiError> {
    Ok(parse(pem)?.tbs_certificate().subject().to_string())
}

/// The first certificate in a PEM text.
pub(crate) fn parse(pem: impl AsRef<[u8]>) -> Result<Certificate, PkiError> {
    Certificate::from_der(&certificate_der(pem)?)
        .map_err(|error| PkiError::malformed("certificate", error))
}

fn names_of(certificate: &x509_cert::TbsCertificate) -> Result<Vec<AltName>, PkiError> {
    let present = certificate.get_extension::<SubjectAltName>()?;
    let names = present.iter().flat_map(|(_, names)| names.0.iter());
    Ok(names.filter_map(AltName::from_general_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::key::Bits;

    fn ca() -> (Ca, String) {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        Ca::create(&Subject::common_name("10.152.183.1"), key).unwrap()
    }

    #[test]
    fn a_certificate_is_compared_with_what_was_asked_for() {
        let (ca, authority) = ca();
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let names = |names: &[&str]| -> Vec<AltName> {
            names
                .iter()
                .map(|name| AltName::Dns((*name).to_owned()))
                .collect()
        };
        let subject = Subject::kubelet("n2");
        let asked = names(&["n2", "n2.local"]);
        let issue = |subject: &Subject, given: &[&str]| {
            ca.issue(subject, &key, Profile::Client(names(given)), LONG)
                .unwrap()
        };
        for given in [&["n2", "n2.local"][..], &["n2"], &[]] {
            check_issued(&issue(&subject, given), &subject, &asked).unwrap();
        }
        let right = issue(&subject, &["n2"]);
        for wrong in [
            issue(&Subject::kubelet("n3"), &["n2"]),
            issue(&Subject::common_name("system:node:n2"), &["n2"]),
            issue(
                &Subject::user_in_group("system:node:n2", "system:masters"),
                &["n2"],
            ),
            issue(&subject, &["n2", "n1"]),
            authority.clone(),
            format!("{right}{right}"),
            String::new(),
        ] {
            assert!(check_issued(&wrong, &subject, &asked).is_err(), "{wrong}");
        }
        let (_, own) = Ca::create(&subject, PrivateKey::generate(Bits::Rsa2048).unwrap()).unwrap();
        assert!(check_issued(&own, &subject, &asked).is_err());
    }

    #[test]
    fn a_key_of_another_certificate_makes_no_authority() {
        let (_, certificate) = ca();
        let other = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let (ca, _) = ca();
        let other_pem = other.to_pem().unwrap();
        for profile in [Profile::Client(vec![]), Profile::Server(vec![])] {
            let own = ca
                .issue(&Subject::kubelet("n2"), &other, profile, LONG)
                .unwrap();
            check_pair(&own, other_pem.expose()).unwrap();
        }
        let other = other_pem;
        assert!(Ca::from_pem(&certificate, other.expose()).is_err());
    }

    #[test]
    fn a_certificate_knows_who_signed_it() {
        let (ca, ca_pem) = ca();
        let (_, other) = self::ca();
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        for profile in [
            Profile::Client(vec![]),
            Profile::Client(vec![
                AltName::Dns("n2".into()),
                AltName::Ip("10.99.0.12".parse().unwrap()),
            ]),
            Profile::Server(vec![AltName::Ip("fd00::1".parse().unwrap())]),
        ] {
            let pem = ca
                .issue(&Subject::kubelet("n2"), &key, profile, LONG)
                .unwrap();
            let der = certificate_der(&pem).unwrap();
            assert!(is_signed_by(&der, &ca_pem));
            assert!(!is_signed_by(&der, &other));
        }
    }

    #[test]
    fn a_reissued_server_certificate_keeps_key_subject_and_names() {
        let (first, _) = ca();
        let (second, second_pem) = ca();
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let names = vec![
            AltName::Dns("kubernetes".into()),
            AltName::Ip("10.99.0.12".parse().unwrap()),
        ];
        let old = first
            .issue(
                &Subject::microk8s_server(),
                &key,
                Profile::Server(names.clone()),
                YEAR,
            )
            .unwrap();
        let pem = second.reissue_server(&old, None).unwrap();
        assert!(is_signed_by(&certificate_der(&pem).unwrap(), &second_pem));
        let (old, new) = (parse(&old).unwrap(), parse(&pem).unwrap());
        assert_eq!(
            old.tbs_certificate().subject_public_key_info(),
            new.tbs_certificate().subject_public_key_info()
        );
        assert_eq!(names_of(new.tbs_certificate()).unwrap(), names);
        assert_eq!(alternative_names(&pem).unwrap(), names);
        assert_ne!(
            old.tbs_certificate().serial_number(),
            new.tbs_certificate().serial_number()
        );
    }
}
