//! An independent look at PEM files: what a recording says of a certificate, request or key.
//!
//! Nothing here comes from the project's own `pki`: certificates are decoded with `x509-cert` and
//! their signatures checked with `aws-lc-rs`, so that a mistake in one is not hidden by the other.

use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, Uint, Utf8StringRef};
use x509_cert::der::{Decode, Encode, Tagged};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::name::Name;
use x509_cert::request::{CertReq, ExtensionReq};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

/// One block of a PEM file.
pub struct Block {
    pub label: String,
    pub der: Vec<u8>,
}

/// The blocks of a file, none if it holds no PEM.
pub fn blocks(text: &[u8]) -> Vec<Block> {
    let Ok(text) = str::from_utf8(text) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = marker(line, "-----BEGIN ") {
            open = Some((label.to_owned(), String::new()));
        } else if marker(line, "-----END ").is_some() {
            if let Some((label, body)) = open.take() {
                let der = STANDARD.decode(body).unwrap_or_default();
                found.push(Block { label, der });
            }
        } else if let Some((_, body)) = &mut open {
            body.push_str(line);
        }
    }
    found
}

fn marker<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.strip_prefix(start)?.strip_suffix("-----")
}

/// A certificate that others may be signed by, and what a recording calls it.
pub struct Authority {
    pub name: String,
    pub certificate: Vec<u8>,
}

/// The summary of the first certificate of a file.
pub fn certificate(text: &[u8], authorities: &[Authority]) -> Value {
    let blocks = blocks(text);
    let der = &blocks[0].der;
    let certificate = Certificate::from_der(der).unwrap();
    let fields = certificate.tbs_certificate();
    let extensions: &[Extension] = fields.extensions().map_or(&[], |list| list.as_slice());
    let validity = fields.validity();
    let seconds = validity.not_after.to_unix_duration() - validity.not_before.to_unix_duration();
    let is_ca = fields
        .get_extension::<BasicConstraints>()
        .unwrap()
        .is_some_and(|(_, constraints)| constraints.ca);
    json!({
        "subject": name(fields.subject()),
        "issuer": name(fields.issuer()),
        "version": format!("v{}", fields.version() as u8 + 1),
        "is_ca": is_ca,
        "sans": sans(extensions),
        "days": (seconds.as_secs_f64() / 86_400.0 * 100.0).round() / 100.0,
        "key_usage": fields.get_extension::<KeyUsage>().unwrap().map_or_else(Vec::new, |usage| key_usage(&usage.1)),
        "ext_key_usage": fields
            .get_extension::<ExtendedKeyUsage>()
            .unwrap()
            .map_or_else(Vec::new, |(_, usage)| usage.0.iter().map(|oid| extended_usage(&oid.to_string())).collect()),
        "extensions": extensions.iter().map(extension).collect::<Vec<_>>(),
        "signature_algorithm": signature_algorithm(&certificate.signature_algorithm().oid.to_string()),
        "public_key": public_key(fields.subject_public_key_info()),
        "signed_by": signer(der, authorities),
        "blocks": blocks.len(),
    })
}

/// The summary of a certificate request.
pub fn request(text: &[u8]) -> Value {
    let request = CertReq::from_der(&blocks(text)[0].der).unwrap();
    let mut extensions = Vec::new();
    for attribute in request.info.attributes.iter() {
        if attribute.oid.to_string() == "1.2.840.113549.1.9.14" {
            for value in attribute.values.iter() {
                extensions.extend(value.decode_as::<ExtensionReq>().unwrap().0);
            }
        }
    }
    json!({
        "subject": name(&request.info.subject),
        "sans": sans(&extensions),
        "signature_algorithm": signature_algorithm(&request.algorithm.oid.to_string()),
        "public_key": public_key(&request.info.public_key),
    })
}

/// The summary of a private key.
pub fn private_key(text: &[u8]) -> Value {
    let block = &blocks(text)[0];
    let bits = key_pair(block).map(|pair| pair.public_modulus_len() * 8);
    json!({ "type": "RSA", "bits": bits, "pem": block.label })
}

/// The public key of a private key's file.
pub fn public_half(key: &[u8]) -> Option<Vec<u8>> {
    Some(
        key_pair(blocks(key).first()?)?
            .public_key()
            .as_ref()
            .to_vec(),
    )
}

/// The public key in a certificate's file.
pub fn certified_key(certificate: &[u8]) -> Option<Vec<u8>> {
    let blocks = blocks(certificate);
    let block = blocks
        .first()
        .filter(|block| block.label == "CERTIFICATE")?;
    let certificate = Certificate::from_der(&block.der).ok()?;
    let info = certificate.tbs_certificate().subject_public_key_info();
    Some(info.subject_public_key.raw_bytes().to_vec())
}

fn key_pair(block: &Block) -> Option<aws_lc_rs::rsa::KeyPair> {
    match block.label.as_str() {
        "PRIVATE KEY" => aws_lc_rs::rsa::KeyPair::from_pkcs8(&block.der).ok(),
        "RSA PRIVATE KEY" => aws_lc_rs::rsa::KeyPair::from_der(&block.der).ok(),
        _ => None,
    }
}

/// Who signed a certificate, by checking the signature.
fn signer(der: &[u8], authorities: &[Authority]) -> String {
    let certificate = Certificate::from_der(der).unwrap();
    let own_key = certificate.tbs_certificate().subject_public_key_info();
    if is_signed_by(&certificate, own_key) {
        return "self".to_owned();
    }
    for authority in authorities {
        for block in blocks(&authority.certificate) {
            let Ok(parent) = Certificate::from_der(&block.der) else {
                continue;
            };
            let key = parent.tbs_certificate().subject_public_key_info();
            if is_signed_by(&certificate, key) {
                return authority.name.clone();
            }
        }
    }
    "nobody that is known".to_owned()
}

fn is_signed_by(certificate: &Certificate, key: &SubjectPublicKeyInfoOwned) -> bool {
    let message = certificate.tbs_certificate().to_der().unwrap();
    let key = UnparsedPublicKey::new(
        &RSA_PKCS1_2048_8192_SHA256,
        key.subject_public_key.raw_bytes(),
    );
    key.verify(&message, certificate.signature().raw_bytes())
        .is_ok()
}

fn name(name: &Name) -> String {
    let mut parts = Vec::new();
    for attribute in name.iter() {
        let oid = attribute.oid.to_string();
        let label = match oid.as_str() {
            "2.5.4.3" => "CN",
            "2.5.4.6" => "C",
            "2.5.4.7" => "L",
            "2.5.4.8" => "ST",
            "2.5.4.10" => "O",
            "2.5.4.11" => "OU",
            other => other,
        };
        let value = &attribute.value;
        let text = value
            .decode_as::<Utf8StringRef<'_>>()
            .map(|text| text.to_string())
            .or_else(|_| {
                value
                    .decode_as::<PrintableStringRef<'_>>()
                    .map(|text| text.to_string())
            })
            .or_else(|_| {
                value
                    .decode_as::<Ia5StringRef<'_>>()
                    .map(|text| text.to_string())
            })
            .unwrap_or_else(|_| format!("({})", value.tag()));
        parts.push(format!("{label}={text}"));
    }
    parts.join(", ")
}

fn sans(extensions: &[Extension]) -> Vec<String> {
    let Some(extension) = extensions
        .iter()
        .find(|one| one.extn_id.to_string() == "2.5.29.17")
    else {
        return Vec::new();
    };
    let names = SubjectAltName::from_der(extension.extn_value.as_bytes()).unwrap();
    names
        .0
        .iter()
        .map(|name| match name {
            GeneralName::DnsName(name) => format!("DNS:{}", name.as_str()),
            GeneralName::IpAddress(bytes) => match bytes.as_bytes().len() {
                4 => format!(
                    "IP:{}",
                    std::net::Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_bytes()).unwrap())
                ),
                _ => format!(
                    "IP:{}",
                    std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_bytes()).unwrap())
                ),
            },
            other => format!("{other:?}"),
        })
        .collect()
}

fn key_usage(usage: &KeyUsage) -> Vec<&'static str> {
    [
        (usage.digital_signature(), "digital_signature"),
        (usage.non_repudiation(), "content_commitment"),
        (usage.key_encipherment(), "key_encipherment"),
        (usage.data_encipherment(), "data_encipherment"),
        (usage.key_agreement(), "key_agreement"),
        (usage.key_cert_sign(), "key_cert_sign"),
        (usage.crl_sign(), "crl_sign"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect()
}

fn extended_usage(oid: &str) -> String {
    match oid {
        "1.3.6.1.5.5.7.3.1" => "serverAuth".to_owned(),
        "1.3.6.1.5.5.7.3.2" => "clientAuth".to_owned(),
        other => other.to_owned(),
    }
}

fn extension(extension: &Extension) -> String {
    let oid = extension.extn_id.to_string();
    let name = match oid.as_str() {
        "2.5.29.14" => "subjectKeyIdentifier",
        "2.5.29.15" => "keyUsage",
        "2.5.29.17" => "subjectAltName",
        "2.5.29.19" => "basicConstraints",
        "2.5.29.35" => "authorityKeyIdentifier",
        "2.5.29.37" => "extendedKeyUsage",
        other => other,
    };
    if extension.critical {
        format!("{name} (critical)")
    } else {
        name.to_owned()
    }
}

fn signature_algorithm(oid: &str) -> &str {
    match oid {
        "1.2.840.113549.1.1.11" => "sha256WithRSAEncryption",
        other => other,
    }
}

fn public_key(info: &SubjectPublicKeyInfoOwned) -> Value {
    if info.algorithm.oid.to_string() != "1.2.840.113549.1.1.1" {
        return json!({ "type": info.algorithm.oid.to_string() });
    }
    // An RSA key is a sequence of two integers, the first of them the modulus.
    let numbers = Vec::<Uint>::from_der(info.subject_public_key.raw_bytes()).unwrap();
    json!({ "type": "RSA", "bits": numbers[0].as_bytes().len() * 8 })
}

/// The SHA-256 of a certificate's DER form, in lower case hexadecimal digits.
pub fn fingerprint(text: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &blocks(text)[0].der);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn openssl(directory: &std::path::Path, line: &str) {
        let output = Command::new("sh")
            .args(["-ec", line])
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    #[test]
    fn a_certificate_made_by_openssl_is_summarised_as_the_recordings_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        openssl(
            path,
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 3650 \
                 -subj /CN=10.152.183.1 -addext keyUsage=critical,keyCertSign,cRLSign
             openssl req -newkey rsa:2048 -nodes -keyout node.key -out node.csr \
                 -subj /CN=system:node:n2/O=system:nodes -addext subjectAltName=DNS:n2,IP:10.99.0.12
             openssl x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
                 -copy_extensions copy -out node.crt",
        );
        let read = |name: &str| std::fs::read(path.join(name)).unwrap();
        let authorities = [Authority {
            name: "own ca".to_owned(),
            certificate: read("ca.crt"),
        }];

        let ca = certificate(&read("ca.crt"), &authorities);
        assert_eq!(ca["signed_by"], "self");
        assert_eq!(ca["is_ca"], true);
        assert_eq!(ca["key_usage"], json!(["key_cert_sign", "crl_sign"]));

        assert_eq!(
            certificate(&read("node.crt"), &authorities),
            json!({
                "subject": "CN=system:node:n2, O=system:nodes",
                "issuer": "CN=10.152.183.1",
                "version": "v3",
                "is_ca": false,
                "sans": ["DNS:n2", "IP:10.99.0.12"],
                "days": 3650.0,
                "key_usage": [],
                "ext_key_usage": [],
                "extensions": ["subjectAltName", "subjectKeyIdentifier", "authorityKeyIdentifier"],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
                "signed_by": "own ca",
                "blocks": 1,
            })
        );
        assert_eq!(
            request(&read("node.csr")),
            json!({
                "subject": "CN=system:node:n2, O=system:nodes",
                "sans": ["DNS:n2", "IP:10.99.0.12"],
                "signature_algorithm": "sha256WithRSAEncryption",
                "public_key": {"type": "RSA", "bits": 2048},
            })
        );
        assert_eq!(
            private_key(&read("node.key")),
            json!({"type": "RSA", "bits": 2048, "pem": "PRIVATE KEY"})
        );
        let public = public_half(&read("node.key"));
        assert!(public.is_some());
        assert_eq!(public, certified_key(&read("node.crt")));
        assert_ne!(public, certified_key(&read("ca.crt")));
    }

    #[test]
    fn a_certificate_of_an_unknown_authority_is_said_to_be_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        openssl(
            path,
            "for who in one two; do
                 openssl req -x509 -newkey rsa:2048 -nodes -keyout $who.key -out $who.crt \
                     -subj /CN=same
             done
             openssl req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=leaf
             openssl x509 -req -in leaf.csr -CA two.crt -CAkey two.key -CAcreateserial \
                 -out leaf.crt",
        );
        let read = |name: &str| std::fs::read(path.join(name)).unwrap();
        let one = Authority {
            name: "own ca".to_owned(),
            certificate: read("one.crt"),
        };
        assert_eq!(
            certificate(&read("leaf.crt"), &[one])["signed_by"],
            "nobody that is known"
        );
    }
}
