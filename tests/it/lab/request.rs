//! Certificate requests put together byte by byte, for what no tool would write.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use der::Encode;
use der::oid::ObjectIdentifier;
use microk8s::pki::key::PrivateKey;

/// Tags of DER that requests are made of.
pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const BIT_STRING: u8 = 0x03;
pub const OCTET_STRING: u8 = 0x04;
pub const UTF8: u8 = 0x0c;
pub const PRINTABLE: u8 = 0x13;
pub const TELETEX: u8 = 0x14;
pub const BMP: u8 = 0x1e;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;

/// Kinds of alternative names.
pub const EMAIL: u8 = 0x81;
pub const DNS: u8 = 0x82;
pub const DIRECTORY: u8 = 0xa4;
pub const URI: u8 = 0x86;
pub const IP: u8 = 0x87;
pub const REGISTERED_ID: u8 = 0x88;
pub const OTHER_NAME: u8 = 0xa0;

/// Attributes of subjects.
pub const COMMON_NAME: &str = "2.5.4.3";
pub const ORGANIZATION: &str = "2.5.4.10";

/// Extensions.
pub const KEY_USAGE: &str = "2.5.29.15";
pub const ALTERNATIVE_NAMES: &str = "2.5.29.17";
pub const BASIC_CONSTRAINTS: &str = "2.5.29.19";
pub const NAME_CONSTRAINTS: &str = "2.5.29.30";
pub const EXTENDED_KEY_USAGE: &str = "2.5.29.37";

/// Attributes of requests.
pub const EXTENSION_REQUEST: &str = "1.2.840.113549.1.9.14";
pub const CHALLENGE_PASSWORD: &str = "1.2.840.113549.1.9.7";
pub const MICROSOFT_EXTENSION_REQUEST: &str = "1.3.6.1.4.1.311.2.1.14";

const RSA_WITH_SHA256: &str = "1.2.840.113549.1.1.11";

/// A tag, the length in its shortest form, and the content.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let digits = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut bytes = vec![tag];
    match digits {
        [] => bytes.push(0),
        [short] if *short < 0x80 => bytes.push(*short),
        long => {
            bytes.push(0x80 | u8::try_from(long.len()).unwrap());
            bytes.extend(long);
        }
    }
    bytes.extend(content);
    bytes
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// A set, in the order that DER wants.
pub fn set(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut sorted = parts.to_vec();
    sorted.sort();
    tlv(SET, &sorted.concat())
}

pub fn oid(text: &str) -> Vec<u8> {
    ObjectIdentifier::new_unwrap(text).to_der().unwrap()
}

/// One attribute of a subject.
pub fn attribute_of_subject(kind: &str, tag: u8, value: &[u8]) -> Vec<u8> {
    sequence(&[oid(kind), tlv(tag, value)])
}

/// A subject of attributes that stand each in a place of its own, as UTF-8.
pub fn subject(attributes: &[(&str, &str)]) -> Vec<u8> {
    let places: Vec<_> = attributes
        .iter()
        .map(|(kind, value)| set(&[attribute_of_subject(kind, UTF8, value.as_bytes())]))
        .collect();
    sequence(&places)
}

/// The subject of a kubelet's certificate.
pub fn kubelet(node: &str) -> Vec<u8> {
    let user = format!("system:node:{node}");
    subject(&[(COMMON_NAME, &user), (ORGANIZATION, "system:nodes")])
}

/// An extension that is not critical.
pub fn extension(kind: &str, value: &[u8]) -> Vec<u8> {
    sequence(&[oid(kind), tlv(OCTET_STRING, value)])
}

/// The extension with these names.
pub fn names(names: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<_> = names.iter().map(|(tag, value)| tlv(*tag, value)).collect();
    extension(ALTERNATIVE_NAMES, &sequence(&list))
}

/// An attribute of a request.
pub fn attribute(kind: &str, values: &[Vec<u8>]) -> Vec<u8> {
    sequence(&[oid(kind), set(values)])
}

/// The attribute that asks for these extensions.
pub fn asking_for(extensions: &[Vec<u8>]) -> Vec<u8> {
    attribute(EXTENSION_REQUEST, &[sequence(extensions)])
}

/// The parts of a request, each in DER.
#[derive(Debug, Clone)]
pub struct Draft {
    pub version: Vec<u8>,
    pub subject: Vec<u8>,
    pub public_key: Vec<u8>,
    pub attributes: Vec<Vec<u8>>,
}

impl Draft {
    /// A request for this subject and these extensions.
    pub fn new(key: &PrivateKey, subject: Vec<u8>, extensions: &[Vec<u8>]) -> Self {
        Self {
            version: tlv(INTEGER, &[0]),
            subject,
            public_key: key.public_key().unwrap(),
            attributes: if extensions.is_empty() {
                Vec::new()
            } else {
                vec![asking_for(extensions)]
            },
        }
    }

    /// What is signed.
    pub fn info(&self) -> Vec<u8> {
        sequence(&[
            self.version.clone(),
            self.subject.clone(),
            self.public_key.clone(),
            [&[0xa0], &set(&self.attributes)[1..]].concat(),
        ])
    }

    /// The request, signed with the key.
    pub fn signed(&self, key: &PrivateKey) -> Vec<u8> {
        signed(&self.info(), key)
    }
}

/// A request of this content, whatever it is, with the right signature.
pub fn signed(info: &[u8], key: &PrivateKey) -> Vec<u8> {
    let mut signature = vec![0];
    signature.extend(key.sign(info).unwrap());
    sequence(&[
        info.to_vec(),
        sequence(&[oid(RSA_WITH_SHA256), tlv(0x05, &[])]),
        tlv(BIT_STRING, &signature),
    ])
}

/// A PEM block with this label.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem += str::from_utf8(line).unwrap();
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

/// A PEM block as requests have it.
pub fn request_pem(der: &[u8]) -> String {
    pem("CERTIFICATE REQUEST", der)
}
