//! Public keys of others: which ones are strong enough for a certificate.

use der::asn1::UintRef;
use der::oid::db::rfc5912::{
    ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1, SECP_521_R_1,
};
use der::oid::db::rfc8410::ID_ED_25519;
use der::{Decode, Sequence, Tag, Tagged};
use x509_cert::spki::{ObjectIdentifier, SubjectPublicKeyInfoOwned};

use crate::pki::PkiError;

/// The lengths of RSA keys that are taken, in bits.
const LEAST_BITS: usize = 2048;
const MOST_BITS: usize = 8192;
/// The smallest exponent that is taken. Every tool makes keys with this one; smaller ones have been
/// the way in wherever a verifier was careless.
const LEAST_EXPONENT: u64 = 65_537;

fn refused(why: impl ToString) -> PkiError {
    PkiError::malformed("key for a certificate", why)
}

fn malformed() -> PkiError {
    refused("a key that is malformed")
}

/// RFC 8017, A.1.1.
#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    exponent: UintRef<'a>,
}

/// Makes sure that a key may be certified: RSA of 2048 to 8192 bits, on P-256, P-384 or P-521, or Ed25519.
pub(crate) fn check(key: &SubjectPublicKeyInfoOwned) -> Result<(), PkiError> {
    let parameters = key.algorithm.parameters.as_ref();
    let bits = key.subject_public_key.as_bytes().ok_or_else(malformed)?;
    match key.algorithm.oid {
        RSA_ENCRYPTION => {
            if parameters.map(Tagged::tag) != Some(Tag::Null) {
                return Err(malformed());
            }
            check_rsa(bits)
        }
        ID_EC_PUBLIC_KEY => {
            let length = match curve(key) {
                Some(SECP_256_R_1) => 65,
                Some(SECP_384_R_1) => 97,
                Some(SECP_521_R_1) => 133,
                _ => {
                    return Err(refused(
                        "a key on an elliptic curve that is not P-256, P-384 or P-521",
                    ));
                }
            };
            // The point is written out, as every tool does.
            match bits {
                [4, ..] if bits.len() == length => Ok(()),
                _ => Err(malformed()),
            }
        }
        ID_ED_25519 if parameters.is_none() && bits.len() == 32 => Ok(()),
        ID_ED_25519 => Err(malformed()),
        _ => Err(refused("a key that is neither RSA nor ECDSA nor Ed25519")),
    }
}

/// The curve of an elliptic key, where it names one.
pub(crate) fn curve(key: &SubjectPublicKeyInfoOwned) -> Option<ObjectIdentifier> {
    let algorithm = &key.algorithm;
    let named = algorithm.parameters.as_ref();
    let named = named.filter(|_| algorithm.oid == ID_EC_PUBLIC_KEY)?;
    named.decode_as().ok()
}

fn check_rsa(bits: &[u8]) -> Result<(), PkiError> {
    let key = RsaPublicKey::from_der(bits).map_err(|_| malformed())?;
    let modulus = key.modulus.as_bytes();
    let length = modulus.first().map_or(0, |first| {
        modulus.len() * 8 - first.leading_zeros() as usize
    });
    if !(LEAST_BITS..=MOST_BITS).contains(&length) {
        return Err(refused(format_args!(
            "an RSA key of {length} bits, and only {LEAST_BITS} to {MOST_BITS} bits are taken"
        )));
    }
    // An even modulus is the product of no two large primes.
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return Err(malformed());
    }
    let exponent = key.exponent.as_bytes();
    let value = exponent
        .iter()
        .try_fold(0u64, |value, byte| {
            Some(value.checked_mul(256)? + u64::from(*byte))
        })
        .filter(|value| *value >= LEAST_EXPONENT && value % 2 == 1);
    value.map(drop).ok_or_else(|| {
        refused(format_args!(
            "an RSA key with an unusual exponent, and only odd ones from {LEAST_EXPONENT} to 64 bits are taken"
        ))
    })
}
