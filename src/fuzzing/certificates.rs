//! Certificates and requests for them, as other nodes send them.

use std::net::IpAddr;
use std::sync::LazyLock;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use der::asn1::BitString;
use der::pem::LineEnding;
use der::{Decode, Encode};
use x509_cert::request::{CertReq, CertReqInfo};
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use crate::model::node::NodeName;
use crate::pki::ca;
use crate::pki::csr::ParsedRequest;
use crate::pki::csr_policy::{self, Expected, ReservedIdentity};
use crate::pki::key::PrivateKey;
use crate::pki::name::{AltName, Subject};

/// A key with which each request is signed, so that what is behind its signature is reached.
static KEY: LazyLock<PrivateKey> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a key");
    let der = pair.to_pkcs8v1().expect("its form");
    let pem = der::pem::encode_string("PRIVATE KEY", LineEnding::LF, der.as_ref());
    PrivateKey::from_pem(&pem.expect("its text")).expect("the key again")
});

const NODE: &str = "n2";
const OTHER: &str = "n1";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 12));
const OF_OTHERS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 11));
const SERVICES: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 152, 183, 0));
const BRIDGE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 17, 0, 1));

/// What is approved has only permitted names. The input is PEM, or what a request says of itself
/// (`CertificationRequestInfo`), which is signed then.
pub(super) fn request(input: &[u8]) {
    if let Ok(pem) = std::str::from_utf8(input)
        && let Ok(request) = ParsedRequest::from_pem(pem)
    {
        judge(&request);
    }
    if let Some(request) = signed(input).and_then(|pem| ParsedRequest::from_pem(&pem).ok()) {
        judge(&request);
    }
}

/// The request with this content and a right signature.
pub(super) fn signed(info: &[u8]) -> Option<String> {
    let mut info = CertReqInfo::from_der(info).ok()?;
    let key = KEY.public_key().ok()?;
    info.public_key = SubjectPublicKeyInfoOwned::from_der(&key).ok()?;
    let signature = KEY.sign(&info.to_der().ok()?).ok()?;
    let request = CertReq {
        info,
        algorithm: KEY.algorithm().ok()?,
        signature: BitString::from_bytes(&signature).ok()?,
    };
    let der = request.to_der().ok()?;
    der::pem::encode_string("CERTIFICATE REQUEST", LineEnding::LF, &der).ok()
}

fn judge(request: &ParsedRequest) {
    let reserved = |is_unknown| ReservedIdentity {
        names: vec![OTHER.to_owned()],
        addresses: vec![OF_OTHERS],
        networks: vec![(SERVICES, 24)],
        left_out: vec![BRIDGE],
        is_unknown,
    };
    for (node, is_unknown) in [(Some(NODE), false), (None, false), (Some(NODE), true)] {
        let expected = Expected::Kubelet {
            node: node.map(|name| NodeName::parse(name).expect("a name")),
            address: ADDRESS,
            reserved: reserved(is_unknown),
        };
        let Ok(approved) = csr_policy::judge(request, &expected) else {
            continue;
        };
        let cn = approved.subject().cn().expect("a kubelet has a name");
        let name = cn.strip_prefix("system:node:").expect("it is a kubelet's");
        assert!(
            approved
                .subject()
                .has_same_attributes(&Subject::kubelet(name))
        );
        assert!(node.is_none_or(|node| node == name) && name != OTHER);
        assert!(NodeName::parse(name).is_ok());
        for alternative in approved.names() {
            assert!(is_permitted(alternative, name, is_unknown), "{alternative}");
        }
    }
    if let Ok(approved) = csr_policy::judge(request, &Expected::Proxy) {
        assert_eq!(approved.subject().cn(), Some("system:kube-proxy"));
        assert!(approved.names().is_empty());
    }
    if let Ok(approved) = csr_policy::judge(request, &Expected::Etcd) {
        assert_eq!(*approved.subject(), Subject::microk8s_server());
        assert!(approved.names().is_empty());
    }
}

fn is_permitted(name: &AltName, node: &str, is_unknown: bool) -> bool {
    let ip = match name {
        AltName::Dns(name) => return name.eq_ignore_ascii_case(node),
        AltName::Ip(ip) => *ip,
    };
    let is_of_services = matches!(ip, IpAddr::V4(ip) if ip.octets()[..3] == [10, 152, 183]);
    let is_written_otherwise = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4().is_some());
    ip == ADDRESS
        || !(is_unknown
            || [OF_OTHERS, BRIDGE].contains(&ip)
            || is_of_services
            || is_written_otherwise
            || ip.is_loopback()
            || ip.is_multicast()
            || ip.is_unspecified())
}

/// A certificate, a chain of them, or a key, of another node.
pub(super) fn certificate(input: &[u8]) {
    let Ok(pem) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(der) = ca::certificate_der(pem) {
        let _ = ca::validity(&der);
        ca::is_signed_by(&der, pem);
    }
    let _ = ca::is_valid_now(pem);
    let _ = ca::alternative_names(pem);
    let _ = ca::cluster_of(pem);
    let _ = ca::subject_of(pem);
    let _ = ca::check_pair(pem, pem);
    if let Ok(key) = PrivateKey::from_pem(pem) {
        let written = key.to_pem().expect("a key that was read");
        let again = PrivateKey::from_pem(written.expose()).expect("a key that was written");
        assert_eq!(again.public_key().ok(), key.public_key().ok());
    }
}
