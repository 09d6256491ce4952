//! Distinguished names and alternative names, in the order in which they are written.

use std::fmt;
use std::net::IpAddr;

use der::asn1::{Any, Ia5String, PrintableStringRef, Utf8StringRef};
use der::oid::ObjectIdentifier;
use der::oid::db::rfc4519::{C, CN, L, O, OU, ST};
use der::{Decode, Encode, Tag, Tagged};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

use crate::pki::PkiError;

/// A subject: attributes in the order in which OpenSSL writes them for MicroK8s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject(Vec<(ObjectIdentifier, String)>);

impl Subject {
    /// `CN=…`.
    pub fn common_name(name: &str) -> Self {
        Self(vec![(CN, name.to_owned())])
    }

    /// `CN=…, O=…`: a Kubernetes user and its group.
    pub(crate) fn user_in_group(user: &str, group: &str) -> Self {
        Self(vec![(CN, user.to_owned()), (O, group.to_owned())])
    }

    /// The subject of MicroK8s's server certificates (`certs/csr.conf` of `fresh-node.json`).
    pub fn microk8s_server() -> Self {
        let canonical = || "Canonical".to_owned();
        Self(vec![
            (C, "GB".to_owned()),
            (ST, canonical()),
            (L, canonical()),
            (O, canonical()),
            (OU, canonical()),
            (CN, "127.0.0.1".to_owned()),
        ])
    }

    /// A kubelet's client certificate belongs to this user.
    pub fn kubelet(node: &str) -> Self {
        Self::user_in_group(&format!("system:node:{node}"), "system:nodes")
    }

    pub(crate) fn to_name(&self) -> Result<Name, PkiError> {
        let mut sequence = RdnSequence::default();
        for (oid, value) in &self.0 {
            let value = if *oid == C {
                Any::encode_from(&PrintableStringRef::new(value)?)?
            } else {
                Any::encode_from(&Utf8StringRef::new(value)?)?
            };
            sequence.push(RelativeDistinguishedName::try_from(vec![
                AttributeTypeAndValue { oid: *oid, value },
            ])?);
        }
        Ok(Name::from_der(&sequence.to_der()?)?)
    }

    /// Reads a name; `None` when it has something that none of ours has: an attribute twice,
    /// several in one place, or one that is no text.
    pub(crate) fn from_name(name: &Name) -> Option<Self> {
        let mut attributes: Vec<(ObjectIdentifier, String)> = Vec::new();
        for place in name.iter_rdn() {
            let mut in_place = place.iter();
            let (Some(only), None) = (in_place.next(), in_place.next()) else {
                return None;
            };
            if attributes.iter().any(|(oid, _)| *oid == only.oid) {
                return None;
            }
            let text = match only.value.tag() {
                Tag::Utf8String | Tag::PrintableString => {
                    std::str::from_utf8(only.value.value()).ok()?
                }
                _ => return None,
            };
            attributes.push((only.oid, text.to_owned()));
        }
        Some(Self(attributes))
    }

    /// Whether both have the same attributes, in whatever order. OpenSSL writes them as they are
    /// typed, and every program in Go writes `O` before `CN`.
    pub(crate) fn has_same_attributes(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().all(|one| other.0.contains(one))
    }

    /// The common name, when there is one.
    pub(crate) fn cn(&self) -> Option<&str> {
        self.0
            .iter()
            .find(|(oid, _)| *oid == CN)
            .map(|(_, value)| value.as_str())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (oid, value)) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            let key = match *oid {
                CN => "CN",
                O => "O",
                OU => "OU",
                C => "C",
                ST => "ST",
                L => "L",
                _ => "?",
            };
            write!(
                f,
                "{separator}{key}={}",
                crate::base::sanitize::for_log(value, 80)
            )?;
        }
        Ok(())
    }
}

/// An alternative name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AltName {
    /// A host name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl AltName {
    pub(crate) fn to_general_name(&self) -> Result<GeneralName, PkiError> {
        Ok(match self {
            Self::Dns(name) => GeneralName::DnsName(Ia5String::new(name)?),
            Self::Ip(address) => GeneralName::from(*address),
        })
    }

    /// `None` for a kind of name that no certificate of ours has.
    pub(crate) fn from_general_name(name: &GeneralName) -> Option<Self> {
        match name {
            GeneralName::DnsName(name) => Some(Self::Dns(name.as_str().to_owned())),
            GeneralName::IpAddress(octets) => {
                let octets = octets.as_bytes();
                let address = <[u8; 4]>::try_from(octets)
                    .map(IpAddr::from)
                    .or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
                    .ok()?;
                Some(Self::Ip(address))
            }
            _ => None,
        }
    }
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(f, "DNS:{}", crate::base::sanitize::for_log(name, 80)),
            Self::Ip(address) => write!(f, "IP:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_survives_its_der_form() {
        for subject in [
            Subject::microk8s_server(),
            Subject::kubelet("n2"),
            Subject::common_name("x"),
        ] {
            assert_eq!(
                Subject::from_name(&subject.to_name().unwrap()),
                Some(subject)
            );
        }
        assert_eq!(
            Subject::kubelet("n2").to_string(),
            "CN=system:node:n2, O=system:nodes"
        );
    }

    #[test]
    fn attributes_are_compared_whatever_their_order() {
        let swapped = Subject(vec![
            (O, "system:nodes".into()),
            (CN, "system:node:n2".into()),
        ]);
        let fewer = Subject(vec![(O, "system:nodes".into())]);
        let other = Subject(vec![
            (O, "system:masters".into()),
            (CN, "system:node:n2".into()),
        ]);
        let kubelet = Subject::kubelet("n2");
        assert!(kubelet.has_same_attributes(&swapped));
        assert!(swapped.has_same_attributes(&kubelet));
        for wrong in [fewer, other] {
            assert!(!kubelet.has_same_attributes(&wrong), "{wrong}");
            assert!(!wrong.has_same_attributes(&kubelet), "{wrong}");
        }
    }

    #[test]
    fn a_repeated_attribute_makes_a_subject_that_is_none() {
        let twice = Subject(vec![
            (O, "system:nodes".into()),
            (O, "system:masters".into()),
        ]);
        assert_eq!(Subject::from_name(&twice.to_name().unwrap()), None);
    }
}
