//! What stands in a certificate besides names and keys: the extensions that MicroK8s's have.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use der::asn1::{BitString, OctetString};
use der::oid::AssociatedOid;
use der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use der::{Encode, Sequence};
use x509_cert::certificate::Version;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages,
    SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::ext::{Extension, Extensions};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::Validity;

use crate::pki::PkiError;
use crate::pki::name::AltName;

/// A certificate before it is signed.
///
/// The type of the same name in `x509-cert` can be read but not put together; its builder
/// writes version 3 only, and MicroK8s's client certificates are version 1.
#[derive(Sequence)]
pub(super) struct ToBeSigned {
    #[asn1(context_specific = "0", default = "Default::default")]
    pub(crate) version: Version,
    pub(crate) serial_number: SerialNumber,
    pub(crate) signature: AlgorithmIdentifierOwned,
    pub(crate) issuer: Name,
    pub(crate) validity: Validity,
    pub(crate) subject: Name,
    pub(crate) subject_public_key_info: SubjectPublicKeyInfoOwned,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    pub(crate) extensions: Option<Extensions>,
}

/// A certificate.
#[derive(Sequence)]
pub(super) struct Signed {
    pub(crate) to_be_signed: ToBeSigned,
    pub(crate) algorithm: AlgorithmIdentifierOwned,
    pub(crate) signature: BitString,
}

/// Who signs: what the extensions of the certificate say of it.
pub(super) struct Issuer<'a> {
    pub(crate) name: &'a Name,
    /// Who signed the issuer's certificate. With the serial number, which that one gave, it tells the
    /// certificate from any other of the same authority.
    pub(crate) signed_by: &'a Name,
    pub(crate) serial_number: &'a SerialNumber,
    pub(crate) key_id: Option<OctetString>,
}

/// The kinds of certificates of a MicroK8s node (recording `fresh-node.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// A certificate authority.
    Authority,
    /// A server, which may also be a client: the API server, the datastore.
    Server(Vec<AltName>),
    /// A client of the API server. Without names it is a version 1 certificate.
    Client(Vec<AltName>),
}

impl Profile {
    pub(super) fn version(&self) -> Version {
        match self {
            Self::Client(names) if names.is_empty() => Version::V1,
            _ => Version::V3,
        }
    }

    /// The extensions, in the order in which OpenSSL writes them for MicroK8s.
    pub(super) fn extensions(
        &self,
        key: &SubjectPublicKeyInfoOwned,
        issuer: &Issuer<'_>,
    ) -> Result<Option<Extensions>, PkiError> {
        let own_key_id = SubjectKeyIdentifier(key_id(key)?);
        let constraints = |ca| BasicConstraints {
            ca,
            path_len_constraint: None,
        };
        let authority = |with_name: bool| AuthorityKeyIdentifier {
            key_identifier: issuer.key_id.clone(),
            authority_cert_issuer: with_name
                .then(|| vec![GeneralName::DirectoryName(issuer.signed_by.clone())]),
            authority_cert_serial_number: with_name.then(|| issuer.serial_number.clone()),
        };
        Ok(match self {
            Self::Authority => Some(vec![
                extension(true, &constraints(true))?,
                extension(true, &KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign))?,
                extension(false, &own_key_id)?,
                extension(false, &authority(false))?,
            ]),
            Self::Server(names) => Some(vec![
                extension(false, &authority(true))?,
                extension(false, &constraints(false))?,
                extension(
                    false,
                    &KeyUsage(
                        KeyUsages::KeyEncipherment
                            | KeyUsages::DataEncipherment
                            | KeyUsages::DigitalSignature,
                    ),
                )?,
                extension(
                    false,
                    &ExtendedKeyUsage(vec![ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH]),
                )?,
                extension(false, &alternative_names(names)?)?,
                extension(false, &own_key_id)?,
            ]),
            Self::Client(names) if names.is_empty() => None,
            Self::Client(names) => {
                let mut extensions = vec![
                    extension(false, &alternative_names(names)?)?,
                    extension(false, &own_key_id)?,
                ];
                if issuer.key_id.is_some() {
                    extensions.push(extension(false, &authority(false))?);
                }
                Some(extensions)
            }
        })
    }
}

pub(super) fn alternative_names(names: &[AltName]) -> Result<SubjectAltName, PkiError> {
    let names = names.iter().map(AltName::to_general_name);
    Ok(SubjectAltName(names.collect::<Result<_, _>>()?))
}

/// The identifier of a key: the SHA-1 of its bits, as RFC 5280 has it (4.2.1.2, method 1).
pub(super) fn key_id(key: &SubjectPublicKeyInfoOwned) -> Result<OctetString, PkiError> {
    let bits = key.subject_public_key.raw_bytes();
    Ok(OctetString::new(
        digest(&SHA1_FOR_LEGACY_USE_ONLY, bits).as_ref(),
    )?)
}

pub(super) fn extension<T: AssociatedOid + Encode>(
    critical: bool,
    value: &T,
) -> Result<Extension, PkiError> {
    Ok(Extension {
        extn_id: T::OID,
        critical,
        extn_value: OctetString::new(value.to_der()?)?,
    })
}
