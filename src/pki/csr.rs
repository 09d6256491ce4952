//! Certificate signing requests: writing ours, and reading those of others.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use der::asn1::{BitString, SetOfVec};
use der::oid::db::rfc2985::{PKCS_9_AT_CHALLENGE_PASSWORD, PKCS_9_AT_UNSTRUCTURED_NAME};
use der::oid::db::rfc5912::{
    ECDSA_WITH_SHA_256, ECDSA_WITH_SHA_384, ECDSA_WITH_SHA_512, ID_EXTENSION_REQ, RSA_ENCRYPTION,
    SECP_256_R_1, SECP_384_R_1, SECP_521_R_1, SHA_256_WITH_RSA_ENCRYPTION,
    SHA_384_WITH_RSA_ENCRYPTION, SHA_512_WITH_RSA_ENCRYPTION,
};
use der::oid::db::rfc8410::ID_ED_25519;
use der::pem::LineEnding;
use der::{Decode, Encode};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_cert::attr::Attribute;
use x509_cert::ext::Extensions;
use x509_cert::request::{CertReq, CertReqInfo, ExtensionReq, Version};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::pki::PkiError;
use crate::pki::key::PrivateKey;
use crate::pki::name::{AltName, Subject};
use crate::pki::profile::{alternative_names, extension};
use crate::pki::public_key;

/// The longest request that is read, in bytes of PEM. One with the longest key and as many names as
/// a node may have takes half of it.
const MAX_LEN: usize = 16 * 1024;

/// A request for these names, signed with the key; PEM.
pub fn create(subject: &Subject, names: &[AltName], key: &PrivateKey) -> Result<String, PkiError> {
    let mut attributes = SetOfVec::new();
    if !names.is_empty() {
        let request = ExtensionReq(vec![extension(false, &alternative_names(names)?)?]);
        attributes.insert(Attribute::try_from(request)?)?;
    }
    let info = CertReqInfo {
        version: Version::V1,
        subject: subject.to_name()?,
        public_key: SubjectPublicKeyInfoOwned::from_der(&key.public_key()?)?,
        attributes,
    };
    let signature = BitString::from_bytes(&key.sign(&info.to_der()?)?)?;
    let request = CertReq {
        info,
        algorithm: key.algorithm()?,
        signature,
    };
    der::pem::encode_string("CERTIFICATE REQUEST", LineEnding::LF, &request.to_der()?)
        .map_err(|error| PkiError::malformed("certificate request", error))
}

/// A request that was read, and whose signature is right.
#[derive(Debug)]
pub struct ParsedRequest {
    pub(super) info: CertReqInfo,
    pub(super) extensions: Extensions,
}

impl ParsedRequest {
    /// Reads a request from PEM and verifies that its sender has the key, which must be a strong
    /// one.
    ///
    /// Text around the PEM block is ignored, as by OpenSSL, which can write such text itself.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        let bad = |why: &dyn ToString| PkiError::malformed("certificate request", why.to_string());
        if pem.len() > MAX_LEN {
            return Err(bad(&format_args!(
                "it has {} bytes, more than {MAX_LEN}",
                pem.len()
            )));
        }
        let mut blocks = CertificateSigningRequestDer::pem_slice_iter(pem.as_bytes());
        let der = match (blocks.next(), blocks.next()) {
            (Some(Ok(only)), None) => only,
            (None, _) => return Err(bad(&"there is no PEM block `CERTIFICATE REQUEST`")),
            (Some(Err(error)), _) => return Err(bad(&error)),
            (Some(Ok(_)), Some(_)) => return Err(bad(&"something follows its PEM block")),
        };
        let request = CertReq::from_der(&der).map_err(|error| bad(&error))?;
        // What was read must be what was signed: there is one way to write it in DER.
        if request.to_der()? != *der {
            return Err(bad(&"it is not in DER"));
        }
        public_key::check(&request.info.public_key)?;
        verify(
            &request.info.public_key,
            &request.algorithm,
            &request.info.to_der()?,
            &request.signature,
        )?;
        let mut extensions = None;
        for attribute in request.info.attributes.iter() {
            match attribute.oid {
                ID_EXTENSION_REQ => {}
                // What OpenSSL asks its user for; nothing of it gets into a certificate.
                PKCS_9_AT_CHALLENGE_PASSWORD | PKCS_9_AT_UNSTRUCTURED_NAME => continue,
                other => return Err(bad(&format_args!("the attribute {other} is unknown"))),
            }
            let mut values = attribute.values.iter();
            let (Some(value), None, None) = (values.next(), values.next(), &extensions) else {
                return Err(bad(&"extensions are asked for more than once"));
            };
            let list = Extensions::from_der(&value.to_der()?).map_err(|error| bad(&error))?;
            extensions = Some(list);
        }
        Ok(Self {
            info: request.info,
            extensions: extensions.unwrap_or_default(),
        })
    }
}

/// Verifies a signature over SHA-2: RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521 with
/// whatever hash (`openssl req -sha256` takes SHA-256 for each), or Ed25519.
pub(super) fn verify(
    key: &SubjectPublicKeyInfoOwned,
    algorithm: &AlgorithmIdentifierOwned,
    message: &[u8],
    signature: &BitString,
) -> Result<(), PkiError> {
    let verification = verification(key, algorithm).ok_or_else(|| {
        PkiError::malformed(
            "signature that is understood",
            "only RSA, ECDSA on P-256, P-384 and P-521, with SHA-2, and Ed25519 are",
        )
    })?;
    let (Some(public_key), Some(signature)) =
        (key.subject_public_key.as_bytes(), signature.as_bytes())
    else {
        return Err(PkiError::malformed(
            "signature",
            "it does not fill its bytes",
        ));
    };
    UnparsedPublicKey::new(verification, public_key)
        .verify(message, signature)
        .map_err(|_| {
            PkiError::malformed(
                "right signature",
                "it does not match the key, or the key is too weak",
            )
        })
}

fn verification(
    key: &SubjectPublicKeyInfoOwned,
    algorithm: &AlgorithmIdentifierOwned,
) -> Option<&'static dyn VerificationAlgorithm> {
    Some(
        match (key.algorithm.oid, public_key::curve(key), algorithm.oid) {
            (RSA_ENCRYPTION, _, SHA_256_WITH_RSA_ENCRYPTION) => &RSA_PKCS1_2048_8192_SHA256,
            (RSA_ENCRYPTION, _, SHA_384_WITH_RSA_ENCRYPTION) => &RSA_PKCS1_2048_8192_SHA384,
            (RSA_ENCRYPTION, _, SHA_512_WITH_RSA_ENCRYPTION) => &RSA_PKCS1_2048_8192_SHA512,
            (_, Some(SECP_256_R_1), ECDSA_WITH_SHA_256) => &ECDSA_P256_SHA256_ASN1,
            (_, Some(SECP_256_R_1), ECDSA_WITH_SHA_384) => &ECDSA_P256_SHA384_ASN1,
            (_, Some(SECP_256_R_1), ECDSA_WITH_SHA_512) => &ECDSA_P256_SHA512_ASN1,
            (_, Some(SECP_384_R_1), ECDSA_WITH_SHA_256) => &ECDSA_P384_SHA256_ASN1,
            (_, Some(SECP_384_R_1), ECDSA_WITH_SHA_384) => &ECDSA_P384_SHA384_ASN1,
            (_, Some(SECP_384_R_1), ECDSA_WITH_SHA_512) => &ECDSA_P384_SHA512_ASN1,
            (_, Some(SECP_521_R_1), ECDSA_WITH_SHA_256) => &ECDSA_P521_SHA256_ASN1,
            (_, Some(SECP_521_R_1), ECDSA_WITH_SHA_384) => &ECDSA_P521_SHA384_ASN1,
            (_, Some(SECP_521_R_1), ECDSA_WITH_SHA_512) => &ECDSA_P521_SHA512_ASN1,
            (ID_ED_25519, _, ID_ED_25519) => &ED25519,
            _ => return None,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::key::Bits;

    #[test]
    fn what_we_write_is_read_back() {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let names = [
            AltName::Dns("n2".into()),
            AltName::Ip("10.99.0.12".parse().unwrap()),
        ];
        let pem = create(&Subject::kubelet("n2"), &names, &key).unwrap();
        let request = ParsedRequest::from_pem(&pem).unwrap();
        assert_eq!(
            Subject::from_name(&request.info.subject),
            Some(Subject::kubelet("n2"))
        );
        assert_eq!(request.extensions.len(), 1);
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let other = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let pem = create(&Subject::kubelet("n2"), &[], &key).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut request = CertReq::from_der(&der).unwrap();
        request.info.public_key =
            SubjectPublicKeyInfoOwned::from_der(&other.public_key().unwrap()).unwrap();
        let forged = der::pem::encode_string(
            "CERTIFICATE REQUEST",
            LineEnding::LF,
            &request.to_der().unwrap(),
        )
        .unwrap();
        assert!(ParsedRequest::from_pem(&forged).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let pem = der::pem::encode_string("CERTIFICATE REQUEST", LineEnding::LF, &bytes).unwrap();
            let _ = ParsedRequest::from_pem(&pem);
        }
    }
}
