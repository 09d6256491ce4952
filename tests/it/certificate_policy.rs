//! Whatever a request looks like, no certificate that comes of it is outside the policy. The
//! certificates are read back by a parser that the program itself does not use.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::OnceLock;

use microk8s::model::node::NodeName;
use microk8s::pki::ca::Ca;
use microk8s::pki::csr::ParsedRequest;
use microk8s::pki::csr_policy::{Expected, ReservedIdentity, judge};
use microk8s::pki::key::{Bits, PrivateKey};
use microk8s::pki::name::Subject;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::lab::pem;
use crate::lab::request::*;

fn key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(Bits::Rsa2048).unwrap())
}

fn authority() -> &'static Ca {
    static AUTHORITY: OnceLock<Ca> = OnceLock::new();
    AUTHORITY.get_or_init(|| {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        Ca::create(&Subject::common_name("10.152.183.1"), key)
            .unwrap()
            .0
    })
}

const OWN: &str = "10.99.0.12";
const OWN_V6: &str = "fd00:99::12";

/// What a token may be for.
fn expectations() -> impl Strategy<Value = Expected> {
    let kubelet = |node: Option<&str>, address: &str| Expected::Kubelet {
        node: node.map(|name| NodeName::parse(name).unwrap()),
        address: address.parse().unwrap(),
        reserved: ReservedIdentity {
            names: vec!["n1".into()],
            addresses: vec![
                "10.99.0.11".parse().unwrap(),
                "fd00:99::11".parse().unwrap(),
            ],
            networks: vec![
                ("10.152.183.0".parse().unwrap(), 24),
                ("fd98::".parse().unwrap(), 108),
            ],
            left_out: vec!["172.18.0.1".parse().unwrap()],
            is_unknown: false,
        },
    };
    prop_oneof![
        4 => Just(kubelet(Some("n2"), OWN)),
        2 => Just(kubelet(Some("n2"), OWN_V6)),
        1 => Just(kubelet(None, OWN)),
        2 => Just(Expected::Proxy),
        1 => Just(Expected::Etcd),
    ]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => select(vec![
            "system:node:n2", "system:node:n1", "system:node:", "system:node:n9", "n2", "n1",
            "system:nodes", "system:masters", "system:kube-proxy", "kubernetes", "*", "*.n2",
            "n2\0", "N2", "admin",
        ]).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..20),
    ]
}

/// An attribute of a subject: mostly one that a good subject has.
fn attributes() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![
        4 => Just(COMMON_NAME), 4 => Just(ORGANIZATION),
        1 => select(vec!["2.5.4.11", "2.5.4.6", "0.9.2342.19200300.100.1.1"]),
    ];
    let tag = prop_oneof![6 => Just(UTF8), 2 => Just(PRINTABLE), 1 => any::<u8>()];
    (kind, tag, values()).prop_map(|(kind, tag, value)| attribute_of_subject(kind, tag, &value))
}

fn subjects() -> impl Strategy<Value = Vec<u8>> {
    let place = vec(attributes(), 1..3).prop_map(|all| set(&all));
    prop_oneof![
        4 => Just(kubelet("n2")),
        1 => Just(subject(&[(ORGANIZATION, "system:nodes"), (COMMON_NAME, "system:node:n2")])),
        2 => Just(subject(&[(COMMON_NAME, "system:kube-proxy")])),
        1 => Just(kubelet("n9")),
        3 => vec(place, 0..4).prop_map(|places| sequence(&places)),
    ]
}

fn alternative_names() -> impl Strategy<Value = Vec<u8>> {
    let address = prop_oneof![
        4 => select(vec![
            OWN, OWN_V6, "10.99.0.11", "fd00:99::11", "10.152.183.1", "fd98::1", "::ffff:10.152.183.1",
            "127.0.0.1", "::1", "::", "172.18.0.1", "169.254.20.10", "fe80::1", "10.1.2.3", "ff02::1",
            "::10.152.183.1", "2001:db8::7",
        ]).prop_map(|text| match text.parse::<IpAddr>().unwrap() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }),
        1 => vec(any::<u8>(), 0..33),
    ];
    let name = prop_oneof![
        6 => address.prop_map(|bytes| tlv(IP, &bytes)),
        6 => prop_oneof![3 => Just(b"n2".to_vec()), 1 => values()].prop_map(|name| tlv(DNS, &name)),
        1 => (0x80u8..0xa9, values()).prop_map(|(tag, value)| tlv(tag, &value)),
    ];
    vec(name, 0..5).prop_map(|list| extension(ALTERNATIVE_NAMES, &sequence(&list)))
}

fn extensions() -> impl Strategy<Value = Vec<u8>> {
    let kind = select(vec![
        KEY_USAGE,
        EXTENDED_KEY_USAGE,
        BASIC_CONSTRAINTS,
        NAME_CONSTRAINTS,
        ALTERNATIVE_NAMES,
    ]);
    prop_oneof![
        10 => alternative_names(),
        2 => select(vec![vec![], vec![0xff], vec![0]]).prop_map(|authority| {
            let said = match authority[..] {
                [] => sequence(&[]),
                _ => sequence(&[tlv(BOOLEAN, &authority)]),
            };
            extension(BASIC_CONSTRAINTS, &said)
        }),
        2 => any::<[u8; 1]>().prop_map(|bits| {
            extension(KEY_USAGE, &tlv(BIT_STRING, &[0, bits[0]]))
        }),
        1 => (kind, vec(any::<u8>(), 0..12)).prop_map(|(kind, value)| extension(kind, &value)),
    ]
}

/// Requests that are well formed, whatever they ask for.
fn drafts() -> impl Strategy<Value = Draft> {
    let asked = vec(extensions(), 0..3);
    let further = prop_oneof![
        8 => Just(None),
        1 => values().prop_map(|value| Some(attribute(CHALLENGE_PASSWORD, &[tlv(UTF8, &value)]))),
        1 => asked_again().prop_map(Some),
    ];
    (subjects(), asked, further).prop_map(|(subject, asked, further)| {
        let mut draft = Draft::new(key(), subject, &asked);
        draft.attributes.extend(further);
        draft
    })
}

fn asked_again() -> impl Strategy<Value = Vec<u8>> {
    let kind = select(vec![EXTENSION_REQUEST, MICROSOFT_EXTENSION_REQUEST]);
    (kind, extensions()).prop_map(|(kind, extension)| attribute(kind, &[sequence(&[extension])]))
}

/// What is done to the bytes of a request before it is signed.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index),
}

/// To which of its bytes. Those around a part know nothing of the damage, and fit.
#[derive(Debug, Clone, Copy)]
enum Part {
    Subject,
    Attributes,
    All,
}

fn damages() -> impl Strategy<Value = (Part, Vec<Damage>)> {
    let part = prop_oneof![
        2 => Just(Part::Subject),
        4 => Just(Part::Attributes),
        1 => Just(Part::All),
    ];
    let one = prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        1 => (any::<Index>(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => any::<Index>().prop_map(Damage::Remove),
    ];
    (part, vec(one, 1..3))
}

/// The content of a request with the damage done.
fn damaged(mut draft: Draft, part: Part, damages: &[Damage]) -> Vec<u8> {
    match part {
        Part::Subject => inflict(&mut draft.subject, damages),
        Part::Attributes => {
            if let Some(first) = draft.attributes.first_mut() {
                inflict(first, damages);
            }
        }
        Part::All => {
            let mut info = draft.info();
            inflict(&mut info, damages);
            return info;
        }
    }
    draft.info()
}

fn inflict(bytes: &mut Vec<u8>, damages: &[Damage]) {
    for damage in damages {
        match damage {
            Damage::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Damage::Insert(at, more) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, more.iter().copied());
            }
            Damage::Remove(at) => {
                let at = at.index(bytes.len());
                bytes.remove(at);
            }
        }
    }
}

/// The certificate that comes of a request, DER.
fn certificate(request: &[u8], expected: &Expected) -> Option<Vec<u8>> {
    let parsed = ParsedRequest::from_pem(&request_pem(request)).ok()?;
    let approved = judge(&parsed, expected).ok()?;
    let certificate = authority().issue_approved(&approved).unwrap();
    Some(pem::blocks(certificate.as_bytes()).remove(0).der)
}

/// Holds a certificate against the rules, as they stand in SECURITY.md.
fn check(der: &[u8], expected: &Expected) {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    // The order of its parts is that of the request.
    let subject = match certificate.subject().to_string().split_once(", CN=") {
        Some((organisation, name)) if organisation.starts_with("O=") => {
            format!("CN={name}, {organisation}")
        }
        _ => certificate.subject().to_string(),
    };
    let allowed = match expected {
        Expected::Kubelet { node: Some(_), .. } => "CN=system:node:n2, O=system:nodes".to_owned(),
        Expected::Kubelet { node: None, .. } => {
            let node = node_of(&subject).unwrap();
            assert!(NodeName::parse(node).is_ok() && node != "n1", "{node}");
            format!("CN=system:node:{node}, O=system:nodes")
        }
        Expected::Proxy => "CN=system:kube-proxy".to_owned(),
        Expected::Etcd => {
            "C=GB, ST=Canonical, L=Canonical, O=Canonical, OU=Canonical, CN=127.0.0.1".to_owned()
        }
    };
    assert_eq!(subject, allowed);
    assert_eq!(certificate.issuer().to_string(), "CN=10.152.183.1");
    assert_eq!(certificate.public_key().raw, key().public_key().unwrap());
    let record = certificate.validity();
    let seconds = record.not_after.timestamp() - record.not_before.timestamp();
    assert_eq!(seconds, 3650 * 86_400);
    assert!(certificate.raw_serial().len() >= 16);

    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    check_name(name, node_of(&subject).unwrap(), expected);
                }
            }
            ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::AuthorityKeyIdentifier(_) => {}
            other => panic!("nobody may ask for {other:?}"),
        }
    }
    let has_names = !certificate.extensions().is_empty();
    assert_eq!(certificate.version() == X509Version::V3, has_names);
}

/// The node whose kubelet the subject is, whatever else it says.
fn node_of(subject: &str) -> Option<&str> {
    subject.strip_prefix("CN=system:node:")?.split(',').next()
}

fn check_name(name: &GeneralName<'_>, node: &str, expected: &Expected) {
    match name {
        GeneralName::DNSName(name) => assert!(name.eq_ignore_ascii_case(node), "{name}"),
        GeneralName::IPAddress(bytes) => {
            let ip: IpAddr = match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).unwrap().into(),
                _ => <[u8; 16]>::try_from(*bytes).unwrap().into(),
            };
            let Expected::Kubelet { address, .. } = expected else {
                panic!("{ip} in a certificate of no kubelet");
            };
            let is_foreign = match ip {
                IpAddr::V4(v4) => match v4.octets() {
                    [127, ..] | [169, 254, ..] | [10, 152, 183, _] => true,
                    other => [[10, 99, 0, 11], [172, 18, 0, 1]].contains(&other),
                },
                IpAddr::V6(v6) => match v6.segments() {
                    // The loopback, and IPv4 in disguise.
                    [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0xfe80..=0xfebf, ..] => true,
                    [0xfd98, 0, 0, 0, 0, 0, high, _] => high < 0x10,
                    other => other == [0xfd00, 0x99, 0, 0, 0, 0, 0, 0x11],
                },
            };
            assert!(ip == *address || !is_foreign, "{ip}");
            assert!(!ip.is_multicast(), "{ip}");
        }
        other => panic!("{other:?}"),
    }
}

/// Runs a test on many requests; among them must be some of which certificates come, or the test
/// would show nothing.
fn run(requests: impl Strategy<Value = (Vec<u8>, Expected)>, least_signed: u32) {
    let signed = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 2000,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&requests, |(request, expected)| {
        if let Some(certificate) = certificate(&request, &expected) {
            check(&certificate, &expected);
            signed.set(signed.get() + 1);
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(signed.get() >= least_signed, "{} signed", signed.get());
}

#[test]
fn no_well_formed_request_yields_a_certificate_outside_the_policy() {
    let requests =
        (drafts(), expectations()).prop_map(|(draft, expected)| (draft.signed(key()), expected));
    run(requests, 100);
}

#[test]
fn no_damaged_request_yields_a_certificate_outside_the_policy() {
    // Damaged first, then signed: its sender has the key, and may sign what it likes.
    let requests =
        (drafts(), damages(), expectations()).prop_map(|(draft, (part, damages), expected)| {
            let info = damaged(draft, part, &damages);
            (signed(&info, key()), expected)
        });
    run(requests, 1);
}
