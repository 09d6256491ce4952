//! The certificate that the agent shows: replaced while nodes join, in every way in which somebody
//! might, and pinned by a part of its fingerprint or by all of it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use microk8s::client::pinned_tls::Identity;
use microk8s::client::remote::{Peer, RemoteError, Wait};
use microk8s::model::fingerprint::{Fingerprint, FingerprintPrefix};
use microk8s::model::role::Role;
use microk8s::pki::ca::{Profile, YEAR, self_signed};
use microk8s::pki::key::{Bits, PrivateKey};
use microk8s::pki::name::Subject;

use crate::lab::network::inside;
use crate::lab::swarm::agent::new_tokens;
use crate::lab::swarm::{Attempt, Outcome, Swarm};
use crate::lab::{Host, Lab, STALL_TIMEOUT, pem};

/// Where n1's agent is.
const AGENT: &str = "10.99.0.11:25000";

/// More tokens than nodes join meanwhile.
const TOKENS: usize = 50_000;

/// How often the pair is replaced under load.
const REPLACEMENTS: usize = 100;

fn endpoint() -> SocketAddr {
    AGENT.parse().unwrap()
}

/// The fingerprint of what a handshake shows, seen from this host.
fn shown(from: &Host) -> String {
    inside(from.namespace(), || {
        let wait = Wait::within(STALL_TIMEOUT);
        let peer = Peer::connect(&wait, endpoint(), None, Identity::default()).unwrap();
        Fingerprint::of(peer.certificate()).to_string()
    })
}

#[test]
fn a_node_with_another_certificate_is_refused_in_the_handshake_and_both_fingerprints_are_named() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let served = pem::fingerprint(n1.read("certs/server.crt").as_bytes());
    let expected = FingerprintPrefix::parse("0123456789ab").unwrap();
    let refused = inside(n2.namespace(), || {
        let wait = Wait::within(STALL_TIMEOUT);
        Peer::connect(&wait, endpoint(), None, Identity::of([expected.clone()])).err()
    });
    let Some(RemoteError::OtherCertificate { source, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(source.expected, expected.to_string());
    assert_eq!(source.served.to_string(), served);

    let line = n1.join_line();
    let (front, _) = line.rsplit_once('/').unwrap();
    let output = n2.shell(&format!("{front}/0123456789ab --worker"));
    assert_eq!(output.code, Some(4), "{output:?}");
    for fingerprint in ["0123456789ab", &served[..12]] {
        assert!(output.stderr.contains(fingerprint), "{output:?}");
    }
}

/// The fingerprint that `add-node` prints.
fn printed(host: &Host) -> String {
    let line = "microk8s add-node --full-fingerprint --format token-check";
    let said = host.shell(line).ok();
    said.trim().split_once('/').unwrap().1.to_owned()
}

struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn of(key: &PrivateKey) -> Self {
        let (subject, profile) = (Subject::microk8s_server(), Profile::Server(vec![]));
        Self {
            certificate: self_signed(&subject, key, profile, YEAR).unwrap(),
            key: key.to_pem().unwrap().expose().to_owned(),
        }
    }

    fn fingerprint(&self) -> String {
        pem::fingerprint(self.certificate.as_bytes())
    }
}

/// The ways to replace a pair.
#[derive(Debug, Clone, Copy)]
enum Grant {
    CertificateFirst,
    KeyFirst,
    Renamed,
    Linked,
    InPieces,
    CertificateAlone,
}

const WAYS: [Grant; 6] = [
    Grant::CertificateFirst,
    Grant::KeyFirst,
    Grant::Renamed,
    Grant::Linked,
    Grant::InPieces,
    Grant::CertificateAlone,
];

impl Grant {
    /// Replaces the pair; `between` is called wherever one of the files is new, or half of one is.
    fn replace(self, folder: &Path, new: &Pair, number: usize, between: impl Fn()) {
        let (certificate, key) = (folder.join("server.crt"), folder.join("server.key"));
        match self {
            Self::CertificateFirst => {
                fs::write(&certificate, &new.certificate).unwrap();
                between();
                fs::write(&key, &new.key).unwrap();
            }
            Self::KeyFirst => {
                fs::write(&key, &new.key).unwrap();
                between();
                fs::write(&certificate, &new.certificate).unwrap();
            }
            Self::Renamed => {
                for (file, text) in [(&key, &new.key), (&certificate, &new.certificate)] {
                    let beside = folder.join("beside");
                    fs::write(&beside, text).unwrap();
                    between();
                    fs::rename(&beside, file).unwrap();
                }
            }
            Self::Linked => {
                for (file, text) in [(&certificate, &new.certificate), (&key, &new.key)] {
                    let name = format!("{number}-{}", file.file_name().unwrap().to_str().unwrap());
                    let (target, link) = (folder.join(&name), folder.join("link"));
                    fs::write(&target, text).unwrap();
                    symlink(&name, &link).unwrap();
                    between();
                    fs::rename(&link, file).unwrap();
                }
            }
            Self::InPieces => {
                fs::write(&key, &new.key[..new.key.len() / 2]).unwrap();
                between();
                fs::write(&key, &new.key).unwrap();
                fs::write(&certificate, "").unwrap();
                between();
                fs::write(&certificate, &new.certificate[..200]).unwrap();
                between();
                fs::write(&certificate, &new.certificate).unwrap();
            }
            Self::CertificateAlone => {
                fs::write(&certificate, &new.certificate[..200]).unwrap();
                between();
                fs::write(&certificate, &new.certificate).unwrap();
            }
        }
    }
}

/// No request fails: every handshake ends, and every connection is served to its end whatever the
/// files become meanwhile. What is shown, and what `add-node` prints, is the old certificate until
/// the new pair is whole, and the new one from that moment.
#[test]
fn the_pair_is_replaced_a_hundred_times_while_nodes_join_and_add_node_prints_what_is_shown() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let tokens = new_tokens(TOKENS);
    n1.write(
        "credentials/cluster-tokens.txt",
        &(tokens.join("\n") + "\n"),
        0o660,
    );
    let keys: Vec<_> = (0..4)
        .map(|_| PrivateKey::generate(Bits::Rsa2048).unwrap())
        .collect();
    let is_over = AtomicBool::new(false);
    let outcomes = thread::scope(|scope| {
        let load = scope.spawn(|| {
            inside(n2.namespace(), || {
                let swarm = Swarm::new(endpoint());
                let attempts = tokens
                    .iter()
                    .take_while(|_| !is_over.load(Ordering::SeqCst))
                    .map(|token| Attempt {
                        node: swarm.newcomer(Role::Worker),
                        token: token.clone(),
                    });
                swarm.join(attempts, 4)
            })
        });
        let replaced = thread::Builder::new()
            .spawn_scoped(scope, || replace_again_and_again(n1, n2, &keys))
            .unwrap()
            .join();
        is_over.store(true, Ordering::SeqCst);
        replaced.unwrap();
        load.join().unwrap()
    });
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|outcome| **outcome != Outcome::Admitted)
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let count = outcomes.len();
    assert!((REPLACEMENTS..TOKENS).contains(&count), "{count} joins");
}

fn replace_again_and_again(n1: &Host, n2: &Host, keys: &[PrivateKey]) {
    let folder = n1.path("certs");
    let mut before = shown(n2);
    for number in 0..REPLACEMENTS {
        let way = WAYS[number % WAYS.len()];
        // Of one way the key stays the one that the way before has written.
        let key = match way {
            Grant::CertificateAlone => (number - 1) % keys.len(),
            _ => number % keys.len(),
        };
        let new = Pair::of(&keys[key]);
        way.replace(&folder, &new, number, || {
            assert_eq!(shown(n2), before, "{way:?}");
        });
        let after = new.fingerprint();
        assert_ne!(before, after);
        assert_eq!(printed(n1), after, "{way:?}");
        assert_eq!(shown(n2), after, "{way:?}");
        before = after;
    }
}

#[test]
fn a_pair_that_stays_unfit_is_complained_of_once_and_the_earlier_one_is_shown() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let before = shown(n2);
    let key = n1.read("certs/server.key");
    n1.write("certs/server.key", &n1.read("certs/kubelet.key"), 0o600);
    agent.wait_for("the earlier one still is");
    assert_eq!((shown(n2), printed(n1)), (before.clone(), before.clone()));
    n1.write("certs/server.key", &key, 0o600);
    assert_eq!(shown(n2), before);
    let log = agent.log();
    assert_eq!(log.matches("the earlier one still is").count(), 1, "{log}");
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[test]
fn a_fingerprint_of_full_length_is_printed_on_demand_and_pinned_as_a_whole() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let whole = pem::fingerprint(n1.read("certs/server.crt").as_bytes());
    assert_eq!(whole.len(), 64);
    for format in ["pretty", "short", "token-check", "json", "yaml"] {
        let add_node = format!("microk8s add-node --format {format}");
        let short = n1.shell(&add_node).ok();
        let short = short.matches(&whole[..12]).count();
        let full = n1.shell(&format!("{add_node} --full-fingerprint")).ok();
        assert_eq!(full.matches(&whole).count(), short, "{full}");
        assert!(short > 0 && !full.contains(&format!("{whole}0")), "{full}");
    }
    let add_node = "microk8s add-node --format short --full-fingerprint";
    let line = n1.shell(add_node).ok();
    let line = line.trim();
    // One digit at the end, which twelve would not show.
    let other = if line.ends_with('0') { '1' } else { '0' };
    let wrong = format!("{}{other}", &line[..line.len() - 1]);
    let refused = n2.shell(&format!("{wrong} --worker"));
    assert_eq!(refused.code, Some(4), "{refused:?}");
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn a_handshake_waits_for_no_file() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let before = shown(n2);
    let key = n1.read("certs/server.key");
    // Who reads a pipe waits until it is written to.
    n1.shell(
        "mkfifo $SNAP_DATA/certs/pipe && mv $SNAP_DATA/certs/pipe $SNAP_DATA/certs/server.key",
    )
    .ok();
    let pipe = n1.path("certs/server.key");
    // It can be opened for writing when the agent reads it.
    let mut opened = fs::File::options().write(true).open(&pipe).unwrap();
    assert_eq!(shown(n2), before);
    n1.remove("certs/server.key");
    n1.write("certs/server.key", &key, 0o600);
    std::io::Write::write_all(&mut opened, b"no key").unwrap();
    drop(opened);
    assert_eq!(shown(n2), before);
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}
