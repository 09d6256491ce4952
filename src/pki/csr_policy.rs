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
    /// Names of other nodes.
    pub names: Vec<String>,
    /// Addresses of other nodes.
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
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::pki::csr;
    use crate::pki::key::{Bits, PrivateKey};

    fn key() -> &'static PrivateKey {
        static KEY: OnceLock<PrivateKey> = OnceLock::new();
        KEY.get_or_init(|| PrivateKey::generate(Bits::Rsa2048).unwrap())
    }

    fn request(subject: &Subject, names: &[AltName]) -> ParsedRequest {
        ParsedRequest::from_pem(&csr::create(subject, names, key()).unwrap()).unwrap()
    }

    fn kubelet() -> Expected {
        Expected::Kubelet {
            node: Some(NodeName::parse("n2").unwrap()),
            address: "10.99.0.12".parse().unwrap(),
            reserved: ReservedIdentity {
                names: vec!["n1".into()],
                addresses: vec!["10.99.0.11".parse().unwrap()],
                networks: vec![("10.152.183.0".parse().unwrap(), 24)],
                left_out: vec!["172.18.0.1".parse().unwrap()],
                is_unknown: false,
            },
        }
    }

    fn dns(name: &str) -> AltName {
        AltName::Dns(name.into())
    }

    fn ip(address: &str) -> AltName {
        AltName::Ip(address.parse().unwrap())
    }

    #[test]
    fn a_node_gets_its_own_certificates() {
        let names = [dns("n2"), ip("10.99.0.12"), ip("172.17.0.1"), ip("fd00::2")];
        let approved = judge(&request(&Subject::kubelet("n2"), &names), &kubelet()).unwrap();
        assert_eq!(approved.subject(), &Subject::kubelet("n2"));
        assert_eq!(approved.names(), names);
        judge(
            &request(&Subject::common_name("system:kube-proxy"), &[]),
            &Expected::Proxy,
        )
        .unwrap();
    }

    #[test]
    fn no_node_becomes_an_administrator_or_another_node() {
        for subject in [
            Subject::user_in_group("system:node:n2", "system:masters"),
            Subject::user_in_group("admin", "system:masters"),
            Subject::kubelet("n1"),
            Subject::kubelet("N2"),
            Subject::common_name("system:node:n2"),
            Subject::common_name("system:kube-proxy"),
            Subject::microk8s_server(),
        ] {
            let outcome = judge(&request(&subject, &[]), &kubelet());
            assert!(
                matches!(outcome, Err(Violation::Subject { .. })),
                "{subject}: {outcome:?}"
            );
        }
        let outcome = judge(&request(&Subject::kubelet("n2"), &[]), &Expected::Proxy);
        assert!(matches!(outcome, Err(Violation::Subject { .. })));
    }

    #[test]
    fn no_node_gets_the_names_of_another_one() {
        for name in [
            dns("n1"),
            dns("kubernetes"),
            dns("*"),
            dns("*.n2"),
            dns("n2.example"),
            ip("10.99.0.11"),
            ip("10.152.183.1"),
            ip("127.0.0.1"),
            ip("0.0.0.0"),
            ip("224.0.0.1"),
            ip("255.255.255.255"),
            ip("::1"),
            ip("::ffff:10.152.183.1"),
            ip("::ffff:127.0.0.1"),
            ip("::ffff:10.99.0.12"),
            ip("::10.152.183.1"),
        ] {
            let outcome = judge(
                &request(&Subject::kubelet("n2"), &[dns("n2"), name.clone()]),
                &kubelet(),
            );
            assert!(
                matches!(outcome, Err(Violation::Name(_))),
                "{name}: {outcome:?}"
            );
        }
        let proxy = Subject::common_name("system:kube-proxy");
        assert_eq!(
            judge(&request(&proxy, &[dns("n2")]), &Expected::Proxy).unwrap_err(),
            Violation::NamesOfProxy
        );
    }

    #[test]
    fn other_nodes_are_recognised_however_their_addresses_are_written() {
        let mut expected = kubelet();
        let Expected::Kubelet {
            address, reserved, ..
        } = &mut expected
        else {
            unreachable!()
        };
        *address = "::ffff:10.99.0.12".parse().unwrap();
        reserved.addresses = vec!["::ffff:10.99.0.11".parse().unwrap()];
        let asking = |address| request(&Subject::kubelet("n2"), &[ip(address)]);
        judge(&asking("10.99.0.12"), &expected).unwrap();
        assert!(judge(&asking("10.99.0.11"), &expected).is_err());
    }

    #[test]
    fn a_node_keeps_the_address_that_it_comes_from_even_a_link_local_one() {
        let mut expected = kubelet();
        let Expected::Kubelet { address, .. } = &mut expected else {
            unreachable!()
        };
        *address = "169.254.0.2".parse().unwrap();
        let own = request(&Subject::kubelet("n2"), &[ip("169.254.0.2")]);
        judge(&own, &expected).unwrap();
    }

    #[test]
    fn addresses_that_several_nodes_have_are_left_out() {
        let shared = [ip("172.18.0.1"), ip("169.254.20.10"), ip("fe80::1")];
        let names: Vec<_> = [dns("n2"), ip("10.99.0.12")]
            .into_iter()
            .chain(shared)
            .collect();
        let approved = judge(&request(&Subject::kubelet("n2"), &names), &kubelet()).unwrap();
        assert_eq!(approved.names(), [dns("n2"), ip("10.99.0.12")]);
    }

    #[test]
    fn where_the_other_identities_are_unknown_a_node_gets_only_the_address_that_it_comes_from() {
        let mut expected = kubelet();
        let Expected::Kubelet { reserved, .. } = &mut expected else {
            unreachable!()
        };
        reserved.is_unknown = true;
        let names = [dns("n2"), ip("10.99.0.12"), ip("10.1.2.3"), ip("fd00::2")];
        let approved = judge(&request(&Subject::kubelet("n2"), &names), &expected).unwrap();
        assert_eq!(approved.names(), [dns("n2"), ip("10.99.0.12")]);
    }

    #[test]
    fn a_node_whose_name_is_not_known_still_gets_one_node_only() {
        let Expected::Kubelet {
            address, reserved, ..
        } = kubelet()
        else {
            unreachable!()
        };
        let expected = Expected::Kubelet {
            node: None,
            address,
            reserved,
        };
        judge(&request(&Subject::kubelet("n7"), &[dns("n7")]), &expected).unwrap();
        for (subject, names) in [
            (Subject::kubelet("n7"), vec![dns("n8")]),
            (Subject::kubelet("n1"), vec![]),
            (
                Subject::user_in_group("system:node:n7", "system:masters"),
                vec![],
            ),
            (Subject::kubelet("a b"), vec![]),
        ] {
            assert!(
                judge(&request(&subject, &names), &expected).is_err(),
                "{subject}"
            );
        }
    }

    #[test]
    fn etcd_access_carries_neither_the_wanted_subject_nor_the_names() {
        let approved = judge(
            &request(
                &Subject::user_in_group("admin", "system:masters"),
                &[dns("kubernetes")],
            ),
            &Expected::Etcd,
        )
        .unwrap();
        assert_eq!(approved.subject(), &Subject::microk8s_server());
        assert!(approved.names().is_empty());
    }

    #[test]
    fn too_many_names_are_refused() {
        let names: Vec<_> = (0..65)
            .map(|n| AltName::Ip(IpAddr::from([10, 1, 0, n])))
            .collect();
        let outcome = judge(&request(&Subject::kubelet("n2"), &names), &kubelet());
        assert_eq!(outcome.unwrap_err(), Violation::TooManyNames);
    }
}
