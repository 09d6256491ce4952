//! What a joining node may have signed.
//!
//! MicroK8s's agent signs any subject for the holder of a certificate token, cluster
//! administrators included. Here a kubelet gets its own node's certificate and kube-proxy gets
//! kube-proxy's; the signer accepts only what this policy approved.

use std::net::IpAddr;

use der::Decode;
use der::oid::AssociatedOid;
use x509_cert::ext::pkix::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use crate::model::endpoint;
use crate::model::node::NodeName;
use crate::pki::csr::ParsedRequest;
use crate::pki::name::{AltName, Subject};

/// The most names that a certificate may carry.
const MAX_NAMES: usize = 64;

/// What a request must be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// The kubelet of a node.
    Kubelet {
        /// The node's name; not known for tokens that Canonical's agent issued.
        node: Option<NodeName>,
        /// The address that the node joined from.
        address: IpAddr,
        /// Names and addresses of other nodes and of services.
        reserved: ReservedIdentity,
    },
    /// kube-proxy.
    Proxy,
    /// Access to the etcd of a cluster without high availability.
    ///
    /// MicroK8s's client asks with the request of its server certificate, whose names would let
    /// the node pose as the API server. They are left out: etcd looks at the signature only.
    Etcd,
}

/// Who else there is: what no joining node may claim to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReservedIdentity {
    /// Names that are taken.
    pub names: Vec<String>,
    /// Addresses of others.
    pub addresses: Vec<IpAddr>,
    /// Networks of services, as base address and prefix length.
    pub networks: Vec<(IpAddr, u8)>,
    /// Addresses that this node answers to, and that the other may have on a network of its own:
    /// Docker's bridge has the same one on every machine. They are left out of what is signed.
    pub left_out: Vec<IpAddr>,
    /// Who else there is could not be found out: every address but the one that the node joined from
    /// is left out of what is signed.
    pub is_unknown: bool,
}

/// A request that the policy let through.
#[derive(Debug)]
pub struct Approved {
    subject: Subject,
    names: Vec<AltName>,
    public_key: SubjectPublicKeyInfoOwned,
}

impl Approved {
    /// The node or user that the certificate is for.
    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The names that it carries.
    pub(crate) fn names(&self) -> &[AltName] {
        &self.names
    }

    pub(super) fn public_key(&self) -> &SubjectPublicKeyInfoOwned {
        &self.public_key
    }
}

/// Why a request was not let through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The subject is not the one that the token is for.
    #[error("the subject is `{found}`, and only `{allowed}` is allowed")]
    Subject {
        /// What was asked for.
        found: String,
        /// What would have been right.
        allowed: String,
    },
    /// A name that is not the node's.
    #[error("the alternative name `{0}` is not the node's own")]
    Name(String),
    /// Names where there must be none.
    #[error("a kube-proxy certificate carries no alternative names")]
    NamesOfProxy,
    /// More names than any node has.
    #[error("more than {MAX_NAMES} alternative names")]
    TooManyNames,
    /// The request is for a certificate authority.
    #[error("the request is for a certificate authority")]
    Authority,
    /// An extension that is not understood, malformed or repeated.
    #[error("the extension {0} is repeated, malformed or unknown")]
    Extension(String),
}

/// Judges a request.
pub fn judge(request: &ParsedRequest, expected: &Expected) -> Result<Approved, Violation> {
    let subject = Subject::from_name(&request.info.subject);
    let names = alternative_names(request)?;
    let (subject, names) = match expected {
        Expected::Kubelet {
            node,
            address,
            reserved,
        } => {
            let (subject, node) = kubelet_subject(subject, node.as_ref())?;
            if reserved.names.iter().any(|name| *name == node.as_str()) {
                return Err(Violation::Name(node.to_string()));
            }
            let address = address.to_canonical();
            if let Some(other) = names
                .iter()
                .find(|name| !is_own(name, &node, address, reserved))
            {
                return Err(Violation::Name(other.to_string()));
            }
            // Nodes with a cache for names on a link-local address ask for it as well.
            let is_left_out = |name: &AltName| {
                matches!(name, AltName::Ip(ip) if *ip != address
                    && (reserved.is_unknown || endpoint::is_link_local(*ip) || is_among(*ip, &reserved.left_out)))
            };
            let names = names.into_iter().filter(|name| !is_left_out(name));
            (subject, names.collect())
        }
        Expected::Proxy => {
            let allowed = Subject::common_name("system:kube-proxy");
            if subject.as_ref() != Some(&allowed) {
                return Err(wrong_subject(subject, &allowed.to_string()));
            }
            if !names.is_empty() {
                return Err(Violation::NamesOfProxy);
            }
            (allowed, names)
        }
        Expected::Etcd => (Subject::microk8s_server(), Vec::new()),
    };
    Ok(Approved {
        subject,
        names,
        public_key: request.info.public_key.clone(),
    })
}

fn wrong_subject(found: Option<Subject>, allowed: &str) -> Violation {
    Violation::Subject {
        found: found.map_or_else(
            || "of an unknown kind".to_owned(),
            |subject| subject.to_string(),
        ),
        allowed: allowed.to_owned(),
    }
}

/// The addresses that a request asks for.
pub(crate) fn claimed_addresses(request: &ParsedRequest) -> Result<Vec<IpAddr>, Violation> {
    let names = alternative_names(request)?;
    let addresses = names.iter().filter_map(|name| match name {
        AltName::Ip(ip) => Some(*ip),
        AltName::Dns(_) => None,
    });
    Ok(addresses.collect())
}

/// The node whose kubelet a request says that it is for.
pub(crate) fn claimed_node(request: &ParsedRequest) -> Option<NodeName> {
    node_in(Subject::from_name(&request.info.subject).as_ref())
}

fn node_in(subject: Option<&Subject>) -> Option<NodeName> {
    let name = subject?.cn()?.strip_prefix("system:node:")?;
    NodeName::parse(name).ok()
}

/// The subject must be `CN=system:node:<name>, O=system:nodes`, case-sensitive. The certificate
/// keeps the order of the request, as with OpenSSL.
fn kubelet_subject(
    subject: Option<Subject>,
    node: Option<&NodeName>,
) -> Result<(Subject, NodeName), Violation> {
    let claimed = node_in(subject.as_ref());
    let (Some(node), true) = (
        node.or(claimed.as_ref()),
        node.is_none() || node == claimed.as_ref(),
    ) else {
        let name = node.map_or("<host name>", NodeName::as_str);
        return Err(wrong_subject(subject, &Subject::kubelet(name).to_string()));
    };
    let allowed = Subject::kubelet(node.as_str());
    match subject {
        Some(subject) if subject.has_same_attributes(&allowed) => Ok((subject, node.clone())),
        other => Err(wrong_subject(other, &allowed.to_string())),
    }
}

/// A node's names are its host name and its addresses. The signer does not know which addresses
/// the node has, but it knows addresses that belong to others.
fn is_own(name: &AltName, node: &NodeName, address: IpAddr, reserved: &ReservedIdentity) -> bool {
    match name {
        AltName::Dns(name) => name.eq_ignore_ascii_case(node.as_str()),
        AltName::Ip(ip) if is_disguised(*ip) => false,
        AltName::Ip(ip) if *ip == address => true,
        AltName::Ip(ip) => {
            let in_network = |(base, prefix): &(IpAddr, u8)| contains(*base, *prefix, *ip);
            !is_special(*ip)
                && !is_among(*ip, &reserved.addresses)
                && !reserved.networks.iter().any(in_network)
        }
    }
}

/// Whether an IPv6 address is an IPv4 address written otherwise, mapped or compatible: no node
/// writes its own so, and those who verify certificates take a mapped one for the IPv4 address.
fn is_disguised(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4().is_some())
}

/// Whether an address is no single node's.
fn is_special(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    is_broadcast || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()
}

fn is_among(ip: IpAddr, addresses: &[IpAddr]) -> bool {
    addresses.iter().any(|other| other.to_canonical() == ip)
}

/// Whether `address` is in the network of `base`.
fn contains(base: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let shared = |base: u128, address: u128, bits: u32| {
        let shift = bits.saturating_sub(prefix.into());
        shift >= bits || base >> shift == address >> shift
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            shared(base.to_bits().into(), address.to_bits().into(), 32)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => shared(base.to_bits(), address.to_bits(), 128),
        _ => false,
    }
}

/// The requested names. Requested usages are ignored, as by MicroK8s, except those of an
/// authority, which are refused like a request to be one.
fn alternative_names(request: &ParsedRequest) -> Result<Vec<AltName>, Violation> {
    let mut seen = Vec::new();
    let mut names = Vec::new();
    for extension in &request.extensions {
        let oid = extension.extn_id;
        let bad = || Violation::Extension(oid.to_string());
        if seen.contains(&oid) {
            return Err(bad());
        }
        seen.push(oid);
        let value = extension.extn_value.as_bytes();
        if oid == SubjectAltName::OID {
            let list = SubjectAltName::from_der(value).map_err(|_| bad())?;
            if list.0.len() > MAX_NAMES {
                return Err(Violation::TooManyNames);
            }
            for name in &list.0 {
                names.push(
                    AltName::from_general_name(name)
                        .ok_or_else(|| Violation::Name("of an unknown kind".into()))?,
                );
            }
        } else if oid == BasicConstraints::OID {
            if BasicConstraints::from_der(value).map_err(|_| bad())?.ca {
                return Err(Violation::Authority);
            }
        } else if oid == KeyUsage::OID {
            let usage = KeyUsage::from_der(value).map_err(|_| bad())?;
            if usage.key_cert_sign() || usage.crl_sign() {
                return Err(Violation::Authority);
            }
        } else if oid == ExtendedKeyUsage::OID {
            ExtendedKeyUsage::from_der(value).map_err(|_| bad())?;
        } else if oid == SubjectKeyIdentifier::OID {
            SubjectKeyIdentifier::from_der(value).map_err(|_| bad())?;
        } else {
            return Err(bad());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
