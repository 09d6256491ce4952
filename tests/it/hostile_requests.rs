//! Certificate requests by which a worker would become something else, or by which the reader of
//! requests would trip: each one is refused, the log says why, and the worker's right to its own
//! certificates stays.

use std::time::Duration;

use microk8s::base::wait;
use microk8s::pki::key::{Bits, PrivateKey};
use serde_json::json;

use crate::compat::requests::curl;
use crate::lab::agent::Agent;
use crate::lab::request::*;
use crate::lab::{Host, Lab, STALL_TIMEOUT};
use crate::signing::{SIGN, joining_worker};

/// For which of a worker's two certificates a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    Kubelet,
    Proxy,
}
use For::{Kubelet, Proxy};

impl For {
    fn token(self, token: &str) -> String {
        match self {
            Kubelet => format!("{token}-kubelet"),
            Proxy => format!("{token}-proxy"),
        }
    }
}

/// A request, and a part of the reason that the log must give.
struct Case {
    what: &'static str,
    wants: For,
    request: String,
    reason: &'static str,
}

fn case(what: &'static str, wants: For, request: String, reason: &'static str) -> Case {
    Case {
        what,
        wants,
        request,
        reason,
    }
}

const N2: [u8; 4] = [10, 99, 0, 12];

/// The names that n2 may have.
fn own_names() -> Vec<u8> {
    names(&[(DNS, b"n2"), (IP, &N2)])
}

fn proxy_subject() -> Vec<u8> {
    subject(&[(COMMON_NAME, "system:kube-proxy")])
}

fn user(tag: u8, name: &[u8]) -> Vec<u8> {
    attribute_of_subject(COMMON_NAME, tag, name)
}

fn group(tag: u8, name: &[u8]) -> Vec<u8> {
    attribute_of_subject(ORGANIZATION, tag, name)
}

/// Requests whose subject is not the worker's.
fn of_other_subjects(key: &PrivateKey) -> Vec<Case> {
    const WHY: &str = "the subject is";
    let ask = |subject| request_pem(&Draft::new(key, subject, &[own_names()]).signed(key));
    let bare = |subject| request_pem(&Draft::new(key, subject, &[]).signed(key));
    let me = b"system:node:n2";
    let nodes = b"system:nodes";
    let wide: Vec<u8> = "system:node:n2"
        .encode_utf16()
        .flat_map(u16::to_be_bytes)
        .collect();
    vec![
        case(
            "an administrator",
            Kubelet,
            bare(subject(&[
                (COMMON_NAME, "admin"),
                (ORGANIZATION, "system:masters"),
            ])),
            WHY,
        ),
        case(
            "this node among the administrators",
            Kubelet,
            ask(subject(&[
                (COMMON_NAME, "system:node:n2"),
                (ORGANIZATION, "system:masters"),
            ])),
            "O=system:masters",
        ),
        case(
            "another node",
            Kubelet,
            ask(kubelet("n1")),
            "system:node:n1",
        ),
        case(
            "a node that nobody knows",
            Kubelet,
            ask(kubelet("n9")),
            "system:node:n9",
        ),
        case(
            "this node in other letters",
            Kubelet,
            ask(kubelet("N2")),
            WHY,
        ),
        case("a node without a name", Kubelet, ask(kubelet("")), WHY),
        case("no subject at all", Kubelet, ask(sequence(&[])), WHY),
        case(
            "no organisation",
            Kubelet,
            ask(subject(&[(COMMON_NAME, "system:node:n2")])),
            WHY,
        ),
        case(
            "an organisation alone",
            Kubelet,
            ask(subject(&[(ORGANIZATION, "system:nodes")])),
            WHY,
        ),
        case(
            "a second organisation",
            Kubelet,
            ask(subject(&[
                (COMMON_NAME, "system:node:n2"),
                (ORGANIZATION, "system:nodes"),
                (ORGANIZATION, "system:masters"),
            ])),
            "of an unknown kind",
        ),
        case(
            "the same organisation twice",
            Kubelet,
            ask(subject(&[
                (COMMON_NAME, "system:node:n2"),
                (ORGANIZATION, "system:nodes"),
                (ORGANIZATION, "system:nodes"),
            ])),
            "of an unknown kind",
        ),
        case(
            "a second name",
            Kubelet,
            ask(subject(&[
                (COMMON_NAME, "system:node:n2"),
                (ORGANIZATION, "system:nodes"),
                (COMMON_NAME, "admin"),
            ])),
            "of an unknown kind",
        ),
        case(
            "two organisations in one place",
            Kubelet,
            ask(sequence(&[
                set(&[user(UTF8, me)]),
                set(&[group(UTF8, nodes), group(UTF8, b"system:masters")]),
            ])),
            "of an unknown kind",
        ),
        case(
            "name and organisation in one place",
            Kubelet,
            ask(sequence(&[set(&[user(UTF8, me), group(UTF8, nodes)])])),
            "of an unknown kind",
        ),
        case(
            "an attribute more",
            Kubelet,
            ask(subject(&[
                (COMMON_NAME, "system:node:n2"),
                (ORGANIZATION, "system:nodes"),
                ("2.5.4.11", "operations"),
            ])),
            WHY,
        ),
        case(
            "a zero byte in the name",
            Kubelet,
            ask(sequence(&[
                set(&[user(UTF8, b"system:node:n2\0.example")]),
                set(&[group(UTF8, nodes)]),
            ])),
            WHY,
        ),
        case(
            "bytes that are no UTF-8",
            Kubelet,
            ask(sequence(&[
                set(&[user(UTF8, b"system:node:n2\xff")]),
                set(&[group(UTF8, nodes)]),
            ])),
            "of an unknown kind",
        ),
        case(
            "a name in UTF-16",
            Kubelet,
            ask(sequence(&[
                set(&[user(BMP, &wide)]),
                set(&[group(UTF8, nodes)]),
            ])),
            "of an unknown kind",
        ),
        case(
            "a name in Teletex",
            Kubelet,
            ask(sequence(&[
                set(&[user(TELETEX, me)]),
                set(&[group(UTF8, nodes)]),
            ])),
            "of an unknown kind",
        ),
        case(
            "a name that is a number",
            Kubelet,
            ask(sequence(&[
                set(&[user(INTEGER, &[1])]),
                set(&[group(UTF8, nodes)]),
            ])),
            "of an unknown kind",
        ),
        case("blanks around the name", Kubelet, ask(kubelet(" n2 ")), WHY),
        case(
            "kube-proxy's subject for a kubelet",
            Kubelet,
            bare(proxy_subject()),
            "CN=system:kube-proxy",
        ),
        case(
            "a kubelet's subject for kube-proxy",
            Proxy,
            bare(kubelet("n2")),
            WHY,
        ),
        case(
            "kube-proxy among the administrators",
            Proxy,
            bare(subject(&[
                (COMMON_NAME, "system:kube-proxy"),
                (ORGANIZATION, "system:masters"),
            ])),
            "O=system:masters",
        ),
        case(
            "the controller manager",
            Proxy,
            bare(subject(&[(COMMON_NAME, "system:kube-controller-manager")])),
            "system:kube-controller-manager",
        ),
    ]
}

/// Requests for names that are not the worker's.
fn for_other_names(key: &PrivateKey) -> Vec<Case> {
    const WHY: &str = "is not the node's own";
    let ask = |list: &[(u8, &[u8])]| {
        request_pem(&Draft::new(key, kubelet("n2"), &[names(list)]).signed(key))
    };
    let mapped: Vec<u8> = [&[0; 10][..], &[0xff, 0xff], &[10, 152, 183, 1]].concat();
    let other_name = [
        oid("1.3.6.1.4.1.311.20.2.3"),
        tlv(0xa0, &tlv(UTF8, b"admin")),
    ]
    .concat();
    let many: Vec<[u8; 4]> = (0..65).map(|last| [10, 1, 0, last]).collect();
    let many: Vec<(u8, &[u8])> = many.iter().map(|ip| (IP, &ip[..])).collect();
    vec![
        case(
            "the API server's name",
            Kubelet,
            ask(&[(DNS, b"n2"), (DNS, b"kubernetes.default.svc")]),
            "DNS:kubernetes.default.svc",
        ),
        case(
            "the contacted node's name",
            Kubelet,
            ask(&[(DNS, b"n1")]),
            "DNS:n1",
        ),
        case("any name", Kubelet, ask(&[(DNS, b"*")]), WHY),
        case(
            "any name below the own",
            Kubelet,
            ask(&[(DNS, b"*.n2")]),
            WHY,
        ),
        case("a name of no characters", Kubelet, ask(&[(DNS, b"")]), WHY),
        case(
            "a name with a dot at its end",
            Kubelet,
            ask(&[(DNS, b"n2.")]),
            WHY,
        ),
        case(
            "a name with a zero byte",
            Kubelet,
            ask(&[(DNS, b"n2\0kubernetes")]),
            WHY,
        ),
        case(
            "a name that is no ASCII",
            Kubelet,
            ask(&[(DNS, "n２".as_bytes())]),
            "2.5.29.17",
        ),
        case(
            "the contacted node's address",
            Kubelet,
            ask(&[(IP, &[10, 99, 0, 11])]),
            "IP:10.99.0.11",
        ),
        case(
            "the address of the API server's service",
            Kubelet,
            ask(&[(IP, &[10, 152, 183, 1])]),
            "IP:10.152.183.1",
        ),
        case(
            "the same, dressed as IPv6",
            Kubelet,
            ask(&[(IP, &mapped)]),
            WHY,
        ),
        case("the loopback", Kubelet, ask(&[(IP, &[127, 0, 0, 1])]), WHY),
        case("every address", Kubelet, ask(&[(IP, &[0; 4])]), WHY),
        case(
            "an address of five bytes",
            Kubelet,
            ask(&[(IP, &[10, 99, 0, 12, 0])]),
            "of an unknown kind",
        ),
        case(
            "an address with a mask",
            Kubelet,
            ask(&[(IP, &[10, 99, 0, 12, 255, 255, 255, 0])]),
            "of an unknown kind",
        ),
        case(
            "a URI",
            Kubelet,
            ask(&[(URI, b"spiffe://cluster.local/ns/kube-system/sa/default")]),
            "of an unknown kind",
        ),
        case(
            "a mail address",
            Kubelet,
            ask(&[(EMAIL, b"root@n2")]),
            "of an unknown kind",
        ),
        case(
            "a name of another kind",
            Kubelet,
            ask(&[(OTHER_NAME, &other_name)]),
            "of an unknown kind",
        ),
        case(
            "a name in a directory",
            Kubelet,
            ask(&[(DIRECTORY, &kubelet("n1"))]),
            "of an unknown kind",
        ),
        case(
            "a registered identifier",
            Kubelet,
            ask(&[(REGISTERED_ID, &[0x2a, 0x03])]),
            "of an unknown kind",
        ),
        case(
            "more names than a node has",
            Kubelet,
            ask(&many),
            "more than 64",
        ),
        case(
            "names for kube-proxy",
            Proxy,
            request_pem(&Draft::new(key, proxy_subject(), &[own_names()]).signed(key)),
            "no alternative names",
        ),
    ]
}

/// Requests for powers, and with extensions that are not what they should be.
fn for_other_extensions(key: &PrivateKey) -> Vec<Case> {
    let with = |extensions: &[Vec<u8>]| {
        let all = [&[own_names()], extensions].concat();
        request_pem(&Draft::new(key, kubelet("n2"), &all).signed(key))
    };
    let attributes = |attributes: Vec<Vec<u8>>| {
        let mut draft = Draft::new(key, kubelet("n2"), &[]);
        draft.attributes = attributes;
        request_pem(&draft.signed(key))
    };
    let authority = sequence(&[tlv(BOOLEAN, &[0xff])]);
    let critical = sequence(&[
        oid(BASIC_CONSTRAINTS),
        tlv(BOOLEAN, &[0xff]),
        tlv(OCTET_STRING, &authority),
    ]);
    let again = names(&[(DNS, b"kubernetes")]);
    vec![
        case(
            "an authority",
            Kubelet,
            with(&[extension(BASIC_CONSTRAINTS, &authority)]),
            "for a certificate authority",
        ),
        case(
            "an authority, said critically",
            Kubelet,
            with(&[critical]),
            "for a certificate authority",
        ),
        case(
            "an authority for kube-proxy",
            Proxy,
            request_pem(
                &Draft::new(
                    key,
                    proxy_subject(),
                    &[extension(BASIC_CONSTRAINTS, &authority)],
                )
                .signed(key),
            ),
            "for a certificate authority",
        ),
        case(
            "the right to sign certificates",
            Kubelet,
            with(&[extension(KEY_USAGE, &tlv(BIT_STRING, &[2, 0x04]))]),
            "for a certificate authority",
        ),
        case(
            "constraints that are none",
            Kubelet,
            with(&[extension(BASIC_CONSTRAINTS, b"CA:TRUE")]),
            "2.5.29.19 is repeated, malformed or unknown",
        ),
        case(
            "usages that are none",
            Kubelet,
            with(&[extension(EXTENDED_KEY_USAGE, &tlv(UTF8, b"any"))]),
            "2.5.29.37 is repeated, malformed or unknown",
        ),
        case(
            "an extension that an authority has",
            Kubelet,
            with(&[extension(NAME_CONSTRAINTS, &sequence(&[]))]),
            "2.5.29.30 is repeated, malformed or unknown",
        ),
        case(
            "an extension that nobody knows",
            Kubelet,
            with(&[extension("1.3.6.1.4.1.99999.1", &tlv(UTF8, b"x"))]),
            "1.3.6.1.4.1.99999.1 is repeated, malformed or unknown",
        ),
        case(
            "names twice",
            Kubelet,
            with(&[again]),
            "2.5.29.17 is repeated, malformed or unknown",
        ),
        case(
            "something behind the names",
            Kubelet,
            attributes(vec![asking_for(&[extension(
                ALTERNATIVE_NAMES,
                &[sequence(&[tlv(DNS, b"n2")]), vec![0, 0]].concat(),
            )])]),
            "2.5.29.17 is repeated, malformed or unknown",
        ),
        case(
            "two lists of extensions",
            Kubelet,
            attributes(vec![
                asking_for(&[own_names()]),
                asking_for(&[names(&[(DNS, b"kubernetes")])]),
            ]),
            "asked for more than once",
        ),
        case(
            "a list of extensions with two values",
            Kubelet,
            attributes(vec![attribute(
                EXTENSION_REQUEST,
                &[
                    sequence(&[names(&[(DNS, b"kubernetes")])]),
                    sequence(&[own_names()]),
                ],
            )]),
            "asked for more than once",
        ),
        case(
            "extensions in Microsoft's attribute",
            Kubelet,
            attributes(vec![attribute(
                MICROSOFT_EXTENSION_REQUEST,
                &[sequence(&[names(&[(DNS, b"kubernetes")])])],
            )]),
            "the attribute 1.3.6.1.4.1.311.2.1.14 is unknown",
        ),
    ]
}

/// Requests that are not written as requests are.
fn in_other_forms(key: &PrivateKey) -> Vec<Case> {
    const WHY: &str = "not a certificate request";
    let draft = Draft::new(key, kubelet("n2"), &[own_names()]);
    let der = draft.signed(key);
    let body = &der[4..];
    assert_eq!(der[..2], [SEQUENCE, 0x82], "the length has two bytes");
    let long_length = [&[SEQUENCE, 0x83, 0], &der[2..]].concat();
    let indefinite = [&[SEQUENCE, 0x80], body, &[0, 0]].concat();
    let too_long = [&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff], body].concat();
    let text = request_pem(&der);
    let version = |number: u8| {
        let mut draft = draft.clone();
        draft.version = tlv(INTEGER, &[number]);
        request_pem(&draft.signed(key))
    };
    let mut unsorted = draft.clone();
    let mut pair = [user(UTF8, b"system:node:n2"), group(UTF8, b"system:nodes")];
    pair.sort();
    pair.reverse();
    unsorted.subject = sequence(&[tlv(SET, &pair.concat())]);
    // Each of a thousand sequences holds the next one.
    let nested = (0..1000).fold(Vec::new(), |inner, _| tlv(SEQUENCE, &inner));
    let mut long = draft.clone();
    long.attributes
        .push(attribute(CHALLENGE_PASSWORD, &[tlv(UTF8, &[b'x'; 40_000])]));
    vec![
        case("nothing", Kubelet, String::new(), WHY),
        case("no PEM", Kubelet, "nope".to_owned(), WHY),
        case("another label", Kubelet, pem("CERTIFICATE", &der), WHY),
        case(
            "two requests",
            Kubelet,
            text.clone() + &text,
            "something follows its PEM block",
        ),
        case(
            "no end",
            Kubelet,
            text.replace("-----END CERTIFICATE REQUEST-----\n", ""),
            WHY,
        ),
        case(
            "something that is no base64",
            Kubelet,
            text.replacen("MII", "M!I", 1),
            WHY,
        ),
        case("an empty block", Kubelet, request_pem(&[]), WHY),
        case(
            "bytes behind the request",
            Kubelet,
            request_pem(&[&der[..], &[0; 4]].concat()),
            WHY,
        ),
        case(
            "bytes missing at its end",
            Kubelet,
            request_pem(&der[..der.len() - 9]),
            WHY,
        ),
        case(
            "a length with a zero before it",
            Kubelet,
            request_pem(&long_length),
            WHY,
        ),
        case(
            "a length that is found at the end",
            Kubelet,
            request_pem(&indefinite),
            WHY,
        ),
        case(
            "a length of four gigabytes",
            Kubelet,
            request_pem(&too_long),
            WHY,
        ),
        case(
            "a set in another order",
            Kubelet,
            request_pem(&unsorted.signed(key)),
            "it is not in DER",
        ),
        case("sequences in sequences", Kubelet, request_pem(&nested), WHY),
        case("version 2", Kubelet, version(1), WHY),
        case(
            "a request of 50 kilobytes",
            Kubelet,
            request_pem(&long.signed(key)),
            "more than 16384",
        ),
    ]
}

/// Requests that their sender could not sign, or signed with too little.
fn with_other_signatures(host: &Host, key: &PrivateKey) -> Vec<Case> {
    let own = Draft::new(key, kubelet("n2"), &[own_names()]);
    let other = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let mut changed = own.signed(key);
    *changed.last_mut().unwrap() ^= 1;
    let other_content = {
        let der = Draft::new(key, proxy_subject(), &[]).signed(key);
        // The signature of another request with the same key.
        let signature = &own.signed(key)[own.signed(key).len() - 256..];
        [&der[..der.len() - 256], signature].concat()
    };
    let openssl = |make_key: &str, options: &str| {
        let file = host.scratch().join("weak.key");
        let line = format!(
            "{make_key} 2>/dev/null >{file} && openssl req -new -key {file} {options} \
             -subj /CN=system:node:n2/O=system:nodes -addext subjectAltName=DNS:n2,IP:10.99.0.12",
            file = file.display()
        );
        host.shell(&line).ok()
    };
    let curve = |name: &str| format!("openssl ecparam -genkey -noout -name {name}");
    vec![
        case(
            "a signature with one bit changed",
            Kubelet,
            request_pem(&changed),
            "not a right signature",
        ),
        case(
            "the signature of another key",
            Kubelet,
            request_pem(&own.signed(&other)),
            "not a right signature",
        ),
        case(
            "the signature of another request",
            Proxy,
            request_pem(&other_content),
            "not a right signature",
        ),
        case(
            "an RSA key of 1024 bits",
            Kubelet,
            openssl("openssl genrsa 1024", "-sha256"),
            "RSA key of 1024 bits",
        ),
        case(
            "an RSA key of 2040 bits",
            Kubelet,
            openssl("openssl genrsa 2040", "-sha256"),
            "RSA key of 2040 bits",
        ),
        case(
            "an RSA key with exponent 3",
            Kubelet,
            openssl("openssl genrsa -3 2048", "-sha256"),
            "unusual exponent",
        ),
        case(
            "a curve of Bitcoin's",
            Kubelet,
            openssl(&curve("secp256k1"), "-sha256"),
            "elliptic curve that is not",
        ),
        case(
            "a curve of 192 bits",
            Kubelet,
            openssl(&curve("prime192v1"), "-sha256"),
            "elliptic curve that is not",
        ),
        case(
            "a longer Edwards curve",
            Kubelet,
            openssl("openssl genpkey -algorithm ed448", ""),
            "neither RSA nor",
        ),
        case(
            "a DSA key",
            Kubelet,
            openssl(
                "openssl genpkey -genparam -algorithm DSA -pkeyopt dsa_paramgen_bits:1024 \
                 | openssl genpkey -paramfile /dev/stdin",
                "-sha256",
            ),
            "neither RSA nor",
        ),
        case(
            "a signature over MD5",
            Kubelet,
            openssl("openssl genrsa 2048", "-md5"),
            "not a signature that is understood",
        ),
        case(
            "a signature over SHA-1",
            Kubelet,
            openssl("openssl genrsa 2048", "-sha1"),
            "not a signature that is understood",
        ),
    ]
}

#[test]
fn hostile_requests_are_refused_with_their_reason_in_the_log_and_cost_the_worker_nothing() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let token = joining_worker(&lab);
    let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let cases: Vec<Case> = [
        of_other_subjects(&key),
        for_other_names(&key),
        for_other_extensions(&key),
        in_other_forms(&key),
        with_other_signatures(n2, &key),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(cases.len() >= 50);
    let sign = |wants: For, request: &str| {
        let body = json!({"token": wants.token(&token), "request": request});
        curl(n2, &["-X", "POST", SIGN], &body.to_string())
    };
    let mut wrong = String::new();
    for (number, case) in cases.iter().enumerate() {
        let answer = sign(case.wants, &case.request);
        let line = refusal(&agent, number);
        let is_right = answer.status == 500
            && answer
                .body
                .starts_with("{\"error\":\"Failed to sign certificate: ")
            && line.contains(case.reason)
            && line.contains("address=10.99.0.12")
            && !line.contains(&token);
        if !is_right {
            wrong += &format!(
                "{}: {} {}\n  {line}\n",
                case.what, answer.status, answer.body
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    for (wants, subject, extensions) in [
        (Kubelet, kubelet("n2"), vec![own_names()]),
        (Proxy, proxy_subject(), vec![]),
    ] {
        let request = Draft::new(&key, subject, &extensions).signed(&key);
        let answer = sign(wants, &request_pem(&request));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// The line of the log about the refused request of this number, counted from zero.
fn refusal(agent: &Agent, number: usize) -> String {
    let found = wait::until(STALL_TIMEOUT, Duration::from_millis(1), || {
        let log = agent.log();
        let mut refused = log
            .lines()
            .filter(|line| line.contains("sign-cert") && line.contains("refused"));
        refused.nth(number).map(str::to_owned)
    });
    found.unwrap_or_else(|| panic!("no line about refusal {number}:\n{}", agent.log()))
}

#[test]
fn what_honest_clients_send_is_signed() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let _agent = lab.host("n1").agent();
    let n2 = lab.host("n2");
    let curve = |name: &str| format!("openssl ecparam -genkey -noout -name {name}");
    for (what, make_key, options) in [
        (
            "the own key",
            "cat $SNAP_DATA/certs/kubelet.key".to_owned(),
            "-sha256",
        ),
        (
            "a text before it",
            "openssl genrsa 2048".to_owned(),
            "-text",
        ),
        ("a longer key", "openssl genrsa 3072".to_owned(), "-sha512"),
        ("P-256", curve("prime256v1"), "-sha256"),
        ("P-384", curve("secp384r1"), "-sha384"),
        (
            "P-384 as MicroK8s's client signs with it",
            curve("secp384r1"),
            "-sha256",
        ),
        ("P-521", curve("secp521r1"), "-sha256"),
        (
            "an Edwards curve",
            "openssl genpkey -algorithm ed25519".to_owned(),
            "",
        ),
        (
            "usages",
            "openssl genrsa 2048".to_owned(),
            "-addext keyUsage=digitalSignature,keyEncipherment -addext extendedKeyUsage=clientAuth,serverAuth \
             -addext basicConstraints=CA:FALSE -addext subjectKeyIdentifier=hash",
        ),
    ] {
        let token = joining_worker(&lab);
        let line = format!(
            "{make_key} 2>/dev/null >{file} && openssl req -new -key {file} {options} \
             -subj /CN=system:node:n2/O=system:nodes -addext subjectAltName=DNS:n2,IP:10.99.0.12",
            file = n2.scratch().join("honest.key").display()
        );
        let body = json!({"token": Kubelet.token(&token), "request": n2.shell(&line).ok()});
        let answer = curl(n2, &["-X", "POST", SIGN], &body.to_string());
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
    }
}

/// Every program in Go writes its organisation before its name, as text of the older kind.
#[test]
fn the_parts_of_a_subject_may_come_in_any_order() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let _agent = lab.host("n1").agent();
    let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let token = joining_worker(&lab);
    let asked = sequence(&[
        set(&[group(PRINTABLE, b"system:nodes")]),
        set(&[user(PRINTABLE, b"system:node:n2")]),
    ]);
    let request = Draft::new(&key, asked, &[own_names()]).signed(&key);
    let body = json!({"token": Kubelet.token(&token), "request": request_pem(&request)});
    let answer = curl(lab.host("n2"), &["-X", "POST", SIGN], &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let signed = body["certificate"].as_str().unwrap();
    // As MicroK8s's agent, by OpenSSL, the agent keeps the order.
    let subject = lab.host("n2").run_with_input(
        &["openssl", "x509", "-noout", "-subject"],
        signed.as_bytes(),
    );
    assert_eq!(
        subject.ok().trim(),
        "subject=O = system:nodes, CN = system:node:n2"
    );
}

#[test]
fn a_challenge_password_is_passed_over() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let _agent = lab.host("n1").agent();
    let token = joining_worker(&lab);
    let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let mut draft = Draft::new(&key, kubelet("n2"), &[own_names()]);
    draft.attributes.insert(
        0,
        attribute(CHALLENGE_PASSWORD, &[tlv(PRINTABLE, b"secret")]),
    );
    let body = json!({
        "token": Kubelet.token(&token),
        "request": request_pem(&draft.signed(&key)),
    });
    let answer = curl(lab.host("n2"), &["-X", "POST", SIGN], &body.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
}
