//! Requests as nodes make them, and requests that go beyond what was granted.

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
