//! Tokens in a real database and real files.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::expiry::EXPIRY_BATCH;
use super::*;
use crate::base::clock::ManualClock;
use crate::model::cluster_id::ClusterId;
use crate::model::join_id::JoinId;
use crate::model::role::Role;
use crate::model::token_record::{CertificatePurpose, RETRY_WINDOW, Release, State};
use crate::model::token_terms::RoleLimit;
use crate::store::database::Flush;
use crate::store::token_store::tests::Memory;
use crate::store::token_store::{ChangeId, Stored, Swap, TokenStore};

struct Fixture {
    layout: Layout,
    _dir: tempfile::TempDir,
    tokens: Tokens,
    clock: Arc<ManualClock>,
    cluster: Arc<Mutex<CurrentCluster>>,
}

fn cluster(name: &str) -> CurrentCluster {
    CurrentCluster {
        id: Some(ClusterId::of_key(name.as_bytes())),
        is_changing: false,
    }
}

fn open(layout: &Layout, clock: &Arc<ManualClock>, cluster: &Arc<Mutex<CurrentCluster>>) -> Tokens {
    let cluster = cluster.clone();
    let ask = move || lock(&cluster).clone();
    let (clock, name) = (clock.clone(), "n1".to_owned());
    Tokens::new(layout, clock, RETRY_WINDOW, Arc::new(ask), name, |_| {
        Box::new(Arc::new(Memory::default()))
    })
}

/// A control plane node that shares this store with others.
fn control_plane(name: &str, store: &Arc<Memory>) -> Fixture {
    let f = fixture();
    let Fixture { tokens, .. } = f;
    drop(tokens);
    let tokens = open_shared(&f.layout, &f.clock, name, store);
    Fixture { tokens, ..f }
}

fn open_shared(
    layout: &Layout,
    clock: &Arc<ManualClock>,
    name: &str,
    store: &Arc<Memory>,
) -> Tokens {
    let ask = Arc::new(|| cluster("first"));
    let (clock, name) = (clock.clone(), name.to_owned());
    let tokens = Tokens::new(layout, clock, RETRY_WINDOW, ask, name, |_| {
        Box::new(store.clone())
    });
    tokens.stores().use_cluster().unwrap();
    tokens
}

#[test]
fn a_token_of_one_control_plane_admits_at_another_and_its_certificates_are_signed_at_a_third() {
    let store = Arc::new(Memory::default());
    let [a, b, c] = ["a", "b", "c"].map(|name| control_plane(name, &store));
    for terms in [one_use(), lasting(60)] {
        a.add(&terms);
        assert_eq!(b.join(&node(2)), Ok(()));
        assert!(a.sign("-proxy", &node(2)) && c.sign("-kubelet", &node(2)));
        assert!(!b.sign("-proxy", &node(2)) && !b.sign("-kubelet", &node(2)));
        let report = |f: &Fixture, joined| f.tokens.report(&token(), &node(2), None, joined);
        assert_eq!(report(&c, true).unwrap(), Some(Release::None));
        let listed = c.tokens.find("").unwrap();
        assert_eq!(listed[0].record.as_ref().unwrap().issued_on(), Some("a"));
    }
    // What one revokes or forgets, none knows any more.
    let all = c.tokens.find("").unwrap();
    assert_eq!(c.tokens.revoke(&all, 0).unwrap().len(), 1);
    assert_eq!(a.join(&node(3)), Err(Reason::Revoked));
}

#[test]
fn of_many_nodes_at_three_control_planes_one_gets_a_one_time_token() {
    let store = Arc::new(Memory::default());
    let planes = ["a", "b", "c"].map(|name| control_plane(name, &store));
    planes[0].add(&one_use());
    let admitted: usize = std::thread::scope(|scope| {
        let joins: Vec<_> = (2..20)
            .map(|n| {
                let plane = &planes[usize::from(n) % 3];
                scope.spawn(move || usize::from(plane.join(&node(n)).is_ok()))
            })
            .collect();
        joins.into_iter().map(|join| join.join().unwrap()).sum()
    });
    assert_eq!(admitted, 1);
}

#[test]
fn an_older_copy_of_the_shared_store_makes_no_used_token_valid_again() {
    for restarted in [false, true] {
        let store = Arc::new(Memory::default());
        store.revision.store(100, Ordering::SeqCst);
        let f = control_plane("a", &store);
        f.add(&one_use());
        let copy = lock(&store.records).clone();
        assert_eq!(f.join(&node(2)), Ok(()));
        assert!(f.sign("-kubelet", &node(2)) && f.sign("-proxy", &node(2)));
        f.tokens.expire_tokens(|_| false).unwrap();
        assert_eq!(f.state(), State::Used);
        *lock(&store.records) = copy;
        store.revision.store(90, Ordering::SeqCst);
        let f = if restarted {
            let Fixture { tokens, .. } = f;
            drop(tokens);
            let tokens = open_shared(&f.layout, &f.clock, "a", &store);
            Fixture { tokens, ..f }
        } else {
            f
        };
        f.tokens.expire_tokens(|_| false).unwrap();
        assert_eq!(f.join(&node(3)), Err(Reason::Void));
        // A token that is issued after that is as good as any.
        f.add(&one_use());
        f.tokens.expire_tokens(|_| false).unwrap();
        assert_eq!(f.join(&node(3)), Ok(()));
    }
}

#[test]
fn clocks_of_control_planes_that_differ_by_ten_minutes_cost_no_join_and_give_no_use_twice() {
    for difference in [-600, 600] {
        let store = Arc::new(Memory::default());
        let [a, b] = ["a", "b"].map(|name| control_plane(name, &store));
        b.clock.advance(difference);
        a.add(&Terms {
            uses: Some(1.try_into().unwrap()),
            ..lasting(3600)
        });
        assert_eq!(b.join(&node(2)), Ok(()));
        a.tokens.expire_tokens(|_| false).unwrap();
        assert!(a.sign("-proxy", &node(2)) && b.sign("-kubelet", &node(2)));
        assert_eq!(a.join(&node(3)), Err(Reason::Used), "{difference}");
        assert_eq!(b.join(&node(3)), Err(Reason::Used), "{difference}");
    }
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::standalone(dir.path());
    std::fs::create_dir_all(layout.own_state()).unwrap();
    std::fs::create_dir_all(layout.credential("")).unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let cluster = Arc::new(Mutex::new(cluster("first")));
    let tokens = open(&layout, &clock, &cluster);
    Fixture {
        layout,
        _dir: dir,
        tokens,
        clock,
        cluster,
    }
}

fn node(n: u8) -> JoiningNode {
    JoiningNode {
        name: format!("n{n}"),
        address: IpAddr::from([10, 99, 0, 10 + n]),
    }
}

fn token() -> Token {
    Token::preset("0123456789abcdef0123456789abcdef").unwrap()
}

fn worker(n: u8) -> JoinRequest {
    as_worker(&node(n))
}

fn as_worker(node: &JoiningNode) -> JoinRequest {
    JoinRequest {
        node: node.clone(),
        role: Role::Worker,
        join_id: None,
    }
}

fn lasting(seconds: u32) -> Terms {
    Terms::lasting(Lifetime::Seconds(seconds))
}

fn one_use() -> Terms {
    Terms::lasting(Lifetime::OneUse)
}

const WORKER: [CertificatePurpose; 2] = [CertificatePurpose::Kubelet, CertificatePurpose::Proxy];

impl Fixture {
    fn add(&self, terms: &Terms) {
        self.tokens.add(&token(), terms, 0).unwrap();
    }

    fn reserve(&self, n: u8) -> Result<Reservation<'_>, Reason> {
        let reserved = self.tokens.reserve(&token(), &worker(n), |_| false);
        reserved.unwrap().map_err(|refusal| refusal.reason)
    }

    fn join(&self, node: &JoiningNode) -> Result<(), Reason> {
        self.join_as(&as_worker(node))
    }

    fn join_as(&self, claim: &JoinRequest) -> Result<(), Reason> {
        let reserved = self.tokens.reserve(&token(), claim, |_| false);
        let committed = reserved
            .unwrap()
            .and_then(|reservation| reservation.commit(&WORKER, false).unwrap());
        committed.map_err(|refusal| refusal.reason)
    }

    /// The agent ends and starts again.
    fn restart(self) -> Self {
        drop(self.tokens);
        Self {
            tokens: open(&self.layout, &self.clock, &self.cluster),
            ..self
        }
    }

    fn state(&self) -> State {
        let found = self.tokens.find(&token().digest().to_string()).unwrap();
        found[0].record.as_ref().unwrap().state(self.tokens.now())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.layout.credential(name)
    }

    /// One of MicroK8s's files holds the token, and nothing else.
    fn write_line(&self, file: &str) -> std::path::PathBuf {
        let path = self.path(file);
        std::fs::write(&path, format!("{}\n", token().expose())).unwrap();
        path
    }

    /// A node is admitted, and the agent dies before the token's line is taken out.
    fn admit_and_crash(&self, n: u8) {
        let reservation = self.reserve(n).unwrap();
        let (_, admitted) = reservation
            .admit(&WORKER, true, false, self.tokens.moment())
            .unwrap();
        admitted.unwrap().unwrap();
    }

    fn sign(&self, suffix: &str, node: &JoiningNode) -> bool {
        let token = token().with_suffix(suffix);
        match self
            .tokens
            .certificate_request(&token, node.address, Some(&node.name))
            .unwrap()
        {
            Some(request) => self.tokens.certificate_signed(&token, &request).unwrap(),
            None => false,
        }
    }
}

#[test]
fn a_reservation_that_is_dropped_gives_the_token_back() {
    let f = fixture();
    f.add(&one_use());
    let held = f.reserve(2).unwrap();
    assert_eq!(f.reserve(3).err(), Some(Reason::InUse));
    drop(held);
    assert_eq!(f.join(&node(3)), Ok(()));
}

#[test]
fn the_same_node_may_retry_for_a_while_and_no_other() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    assert_eq!(f.join(&node(3)), Err(Reason::InUse));
    assert_eq!(f.join(&node(2)), Ok(()));
    assert!(f.sign("-proxy", &node(2)));
    assert!(f.sign("-kubelet", &node(2)));
    assert!(!f.sign("-kubelet", &node(2)));
    // What follows the certificates may fail as well, and is not reported.
    assert_eq!(f.join(&node(3)), Err(Reason::Used));
    assert_eq!(f.join(&node(2)), Ok(()));
    assert!(f.sign("-kubelet", &node(2)) && f.sign("-proxy", &node(2)));
    f.clock.advance(RETRY_WINDOW);
    assert_eq!(f.join(&node(2)), Err(Reason::Used));
    assert_eq!(f.join(&node(3)), Err(Reason::Used));
}

#[test]
fn a_use_of_which_nothing_comes_is_free_again_and_its_certificates_are_not() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    f.clock.advance(LEASE);
    assert!(!f.sign("-kubelet", &node(2)));
    assert_eq!(f.join(&node(3)), Ok(()));
    assert!(!f.sign("-kubelet", &node(2)) && f.sign("-kubelet", &node(3)));
    f.clock.advance(LEASE);
    assert_eq!(f.join(&node(4)), Err(Reason::Used), "n3 has a certificate");
}

#[test]
fn a_member_of_the_datastore_does_not_use_its_token_again() {
    let f = fixture();
    f.add(&one_use());
    let n2 = JoinRequest {
        node: node(2),
        role: Role::ControlPlane,
        join_id: None,
    };
    let reserved = f.tokens.reserve(&token(), &n2, |_| false).unwrap();
    reserved.unwrap().commit(&[], false).unwrap().unwrap();
    let check = |is_member| {
        let checked = f.tokens.check(&token(), &n2, |_| is_member).unwrap();
        checked.map_err(|refusal| refusal.reason)
    };
    assert_eq!(check(false), Ok(()));
    assert_eq!(check(true), Err(Reason::Used));
    f.tokens.expire_tokens(|node| *node == n2.node).unwrap();
    assert_eq!(f.state(), State::Used);
    assert_eq!(check(true), Err(Reason::Used));
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(
        check(false),
        Ok(()),
        "it was taken out of the datastore again"
    );
    f.clock.advance(RETRY_WINDOW);
    assert_eq!(check(false), Err(Reason::Used));
}

#[test]
fn an_empty_token_is_unknown_whatever_the_database_holds() {
    let f = fixture();
    let empty = Token::presented("");
    f.tokens.add(&empty, &one_use(), 0).unwrap();
    let checked = f.tokens.check(&empty, &worker(2), |_| false).unwrap();
    assert_eq!(checked, Err(Reason::Unknown.into()));
    let reserved = f.tokens.reserve(&empty, &worker(2), |_| false).unwrap();
    assert_eq!(reserved.err(), Some(Reason::Unknown.into()));
}

#[test]
fn rights_to_certificates_end_with_the_window() {
    let f = fixture();
    f.add(&lasting(9999));
    assert_eq!(f.join(&node(2)), Ok(()));
    f.clock.advance(RETRY_WINDOW - 1);
    assert!(f.sign("-proxy", &node(2)));
    f.clock.advance(1);
    assert!(!f.sign("-kubelet", &node(2)));
}

#[test]
fn a_new_admission_replaces_the_rights_of_an_earlier_one() {
    let f = fixture();
    f.add(&lasting(60));
    assert_eq!(f.join(&node(2)), Ok(()));
    f.reserve(2).unwrap().commit(&[], false).unwrap().unwrap();
    assert!(!f.sign("-kubelet", &node(2)));
}

#[test]
fn issuing_a_used_token_again_takes_the_rights_of_its_last_user() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    assert!(f.sign("-proxy", &node(2)));
    f.add(&one_use());
    assert!(f.sign("-kubelet", &node(2)), "the join is under way");
    assert_eq!(f.join(&node(3)), Ok(()));
    assert!(f.sign("-proxy", &node(3)) && f.sign("-kubelet", &node(3)));
    assert_eq!(f.join(&node(2)), Ok(()), "it may try again");
    f.add(&one_use());
    assert!(!f.sign("-kubelet", &node(2)));
}

#[test]
fn a_token_that_is_issued_for_longer_leaves_those_alone_who_are_joining_with_it() {
    let f = fixture();
    f.add(&lasting(60));
    assert_eq!(f.join(&node(2)), Ok(()));
    f.add(&lasting(600));
    assert!(f.sign("-kubelet", &node(2)));
}

#[test]
fn a_right_is_of_no_use_at_another_address() {
    let f = fixture();
    f.add(&lasting(60));
    assert_eq!(f.join(&node(2)), Ok(()));
    let elsewhere = JoiningNode {
        address: node(3).address,
        ..node(2)
    };
    assert!(!f.sign("-kubelet", &elsewhere) && !f.sign("-proxy", &elsewhere));
    assert!(f.sign("-kubelet", &node(2)) && f.sign("-proxy", &node(2)));
}

#[test]
fn nodes_behind_one_address_get_their_own_certificates_each() {
    let f = fixture();
    f.add(&lasting(60));
    let behind = |n| JoiningNode {
        address: node(9).address,
        ..node(n)
    };
    for n in [2, 3] {
        assert_eq!(f.join(&behind(n)), Ok(()));
    }
    for n in [3, 2] {
        for suffix in ["-proxy", "-kubelet"] {
            let token = token().with_suffix(suffix);
            let name = (suffix == "-kubelet").then(|| behind(n).name);
            let right = f
                .tokens
                .certificate_request(&token, behind(n).address, name.as_deref())
                .unwrap()
                .unwrap();
            if name.is_some() {
                assert_eq!(right.node, Some(behind(n)));
            }
            assert!(f.tokens.certificate_signed(&token, &right).unwrap());
        }
    }
    let admitted = f.tokens.admissions().nodes().unwrap();
    assert_eq!(admitted.len(), 2);
    assert!(admitted.iter().all(|node| node.complete), "{admitted:?}");
}

#[test]
fn admitted_nodes_are_found_by_their_names_and_addresses_also_after_a_restart() {
    let node = |n: u8| JoiningNode {
        // The first two share an address.
        address: [10, 99, 0, n.max(3)].into(),
        ..node(n)
    };
    let mut f = fixture();
    f.add(&Terms::lasting(Lifetime::Seconds(600)));
    for n in [2, 3] {
        assert_eq!(f.join(&node(n)), Ok(()));
    }
    assert_eq!(f.join(&node(4)), Ok(()));
    for _ in 0..2 {
        let admissions = f.tokens.admissions();
        let found = admissions.named(&node(2).name).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].node, node(2));
        assert_eq!(admissions.named("n").unwrap(), []);
        let is_others =
            |address, name: &str| admissions.is_address_of_other(address, name).unwrap();
        assert!(
            is_others(node(2).address, &node(2).name),
            "the third is there as well"
        );
        assert!(!is_others(node(4).address, &node(4).name));
        assert!(is_others(node(4).address, "another"));
        assert!(!is_others(node(5).address, "another"));
        f = f.restart();
    }
    f.tokens.forget(&node(4).name).unwrap();
    assert!(
        !f.tokens
            .admissions()
            .is_address_of_other(node(4).address, "another")
            .unwrap()
    );
}

#[test]
fn as_many_nodes_behind_one_address_get_a_certificate_of_kube_proxy_as_were_let_in() {
    let counted = Terms {
        uses: Some(3.try_into().unwrap()),
        ..lasting(60)
    };
    for terms in [lasting(60), counted] {
        let f = fixture();
        f.add(&terms);
        let behind = |n, address: u8| JoiningNode {
            address: node(address).address,
            ..node(n)
        };
        for (n, address) in [(2, 9), (3, 9), (4, 8)] {
            assert_eq!(f.join(&behind(n, address)), Ok(()));
        }
        let proxy = token().with_suffix("-proxy");
        let find = |suffix: &str, name: Option<&str>| {
            let token = token().with_suffix(suffix);
            let found = f.tokens.certificate_request(&token, node(9).address, name);
            found.unwrap().unwrap()
        };
        // All of them were found good before the first one was signed.
        let at_once = [(); 4].map(|()| find("-proxy", None));
        let kubelet = [(); 2].map(|()| find("-kubelet", Some(&node(2).name)));
        let signed = at_once.map(|right| f.tokens.certificate_signed(&proxy, &right).unwrap());
        assert_eq!(signed, [true, true, false, false]);
        // A kubelet's names its node, and there is one.
        let signed = kubelet.map(|right| f.tokens.certificate_signed(&proxy, &right).unwrap());
        assert_eq!(signed, [true, false]);
        assert!(f.sign("-proxy", &behind(4, 8)), "elsewhere none was taken");
    }
}

#[test]
fn a_token_in_the_database_and_in_the_file_admits_one_node() {
    let f = fixture();
    let path = f.write_line(token_files::CLUSTER_TOKENS);
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
    assert_eq!(f.join(&node(3)), Err(Reason::InUse));
}

#[test]
fn a_token_with_a_life_is_used_by_many_until_it_ends() {
    let f = fixture();
    f.add(&lasting(60));
    for n in 2..6 {
        assert_eq!(f.join(&node(n)), Ok(()));
    }
    // Each of them has certificates of its own, although they share the token.
    for n in 2..6 {
        assert!(
            f.sign("-kubelet", &node(n)) && f.sign("-proxy", &node(n)),
            "{n}"
        );
    }
    f.clock.advance(60);
    assert_eq!(f.join(&node(7)), Err(Reason::Expired));
}

#[test]
fn adding_a_token_again_sets_its_end_and_makes_it_live_again() {
    let f = fixture();
    f.add(&lasting(60));
    f.add(&lasting(600));
    f.clock.advance(599);
    assert_eq!(f.join(&node(2)), Ok(()));
    f.clock.advance(1);
    assert_eq!(f.join(&node(2)), Err(Reason::Expired));
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    f.sign("-kubelet", &node(2));
    f.sign("-proxy", &node(2));
    f.add(&one_use());
    assert_eq!(f.join(&node(3)), Ok(()));
}

#[test]
fn tokens_outlive_the_program() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    let f = f.restart();
    assert_eq!(f.join(&node(3)), Err(Reason::InUse));
    assert!(f.sign("-proxy", &node(2)) && f.sign("-kubelet", &node(2)));
    let f = f.restart();
    assert_eq!(f.join(&node(3)), Err(Reason::Used));
    assert_eq!(f.tokens.admissions().nodes().unwrap().len(), 1);
}

#[test]
fn lines_in_the_files_of_microk8s_count() {
    let f = fixture();
    let path = f.write_line(token_files::CLUSTER_TOKENS);
    assert_eq!(f.join(&node(2)), Ok(()));
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
    assert_eq!(f.join(&node(3)), Err(Reason::InUse));
    // Who appends a line issues a token, also one that was used before.
    f.write_line(token_files::CLUSTER_TOKENS);
    assert_eq!(f.join(&node(3)), Ok(()));
    f.write_line(token_files::PERSISTENT_TOKENS);
    for n in 2..9 {
        assert_eq!(f.join(&node(n)), Ok(()));
    }
}

#[test]
fn nodes_that_join_at_once_by_a_line_for_any_number_get_their_certificates_each() {
    for revived in [false, true] {
        let f = fixture();
        if revived {
            f.add(&one_use());
            f.tokens.revoke(&f.tokens.find("").unwrap(), 0).unwrap();
        }
        f.write_line(token_files::PERSISTENT_TOKENS);
        let (first, second) = (f.reserve(2).unwrap(), f.reserve(3).unwrap());
        first.commit(&WORKER, false).unwrap().unwrap();
        second.commit(&WORKER, false).unwrap().unwrap();
        let listed = f.tokens.find("").unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].record, None, "it is the line's, as before");
        for n in [2, 3] {
            assert!(f.sign("-kubelet", &node(n)) && f.sign("-proxy", &node(n)));
            assert!(!f.sign("-proxy", &node(n)));
        }
        // Nothing is left behind when the joins have ended.
        std::fs::write(f.path(token_files::PERSISTENT_TOKENS), "").unwrap();
        assert_eq!(f.tokens.find("").unwrap(), []);
        assert_eq!(f.join(&node(4)), Err(Reason::Unknown));
    }
}

#[test]
fn a_line_that_a_crash_kept_from_being_blanked_admits_no_other_node() {
    let f = fixture();
    let path = f.write_line(token_files::CLUSTER_TOKENS);
    f.admit_and_crash(2);
    assert_eq!(f.join(&node(3)), Err(Reason::InUse));
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
    assert_eq!(f.join(&node(2)), Ok(()));
}

#[test]
fn two_requests_of_one_node_hold_a_token_until_both_have_ended() {
    let f = fixture();
    f.add(&one_use());
    let first = f.reserve(2).unwrap();
    let second = f.reserve(2).unwrap();
    drop(first);
    assert_eq!(f.reserve(3).err(), Some(Reason::InUse));
    drop(second);
    assert!(f.reserve(3).is_ok());
}

#[test]
fn a_certificate_token_of_canonicals_agent_works_once() {
    let f = fixture();
    let path = f.path(token_files::CERTIFICATE_TOKENS);
    std::fs::write(&path, format!("{}-kubelet\n", token().expose())).unwrap();
    assert!(f.sign("-kubelet", &node(2)));
    assert!(!f.sign("-kubelet", &node(2)));
}

#[test]
fn of_many_nodes_at_once_one_gets_a_one_time_token() {
    let f = fixture();
    f.add(&one_use());
    let admitted: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = (2..18)
            .map(|n| {
                scope.spawn({
                    let f = &f;
                    move || f.join(&node(n)).is_ok()
                })
            })
            .collect();
        tries
            .into_iter()
            .map(|t| usize::from(t.join().unwrap()))
            .sum()
    });
    assert_eq!(admitted, 1);
}

#[test]
fn no_token_is_on_disk_in_clear() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    let bytes = std::fs::read(f.layout.own_state().join("tokens.redb")).unwrap();
    let needle = token();
    assert!(
        !bytes
            .windows(32)
            .any(|window| window == needle.expose().as_bytes())
    );
}

#[test]
fn a_node_that_says_that_its_join_failed_gives_back_what_it_can() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    let report = |n, joined| f.tokens.report(&token(), &node(n), None, joined).unwrap();
    assert_eq!(report(3, false), None, "it was not admitted");
    assert_eq!(report(2, false), Some(Release::Free));
    assert!(!f.sign("-proxy", &node(2)), "its rights have ended");
    assert_eq!(f.join(&node(3)), Ok(()));
    assert!(f.sign("-proxy", &node(3)));
    assert_eq!(report(3, false), Some(Release::KeptForNode));
    assert_eq!(f.join(&node(2)), Err(Reason::InUse));
    f.clock.advance(10 * RETRY_WINDOW);
    assert_eq!(f.join(&node(3)), Ok(()));
    assert_eq!(report(3, true), Some(Release::None));
    assert_eq!(f.state(), State::Used);
    assert_eq!(report(3, false), Some(Release::None), "it is too late");
    assert_eq!(f.join(&node(3)), Err(Reason::Used));
    let other = Token::presented("fedcba9876543210fedcba9876543210");
    assert_eq!(
        f.tokens.report(&other, &node(3), None, false).unwrap(),
        None
    );
}

#[test]
fn a_report_of_an_earlier_join_ends_nothing_of_a_later_one_whatever_the_token_is_good_for() {
    for terms in [one_use(), lasting(600)] {
        let f = fixture();
        f.add(&terms);
        let [first, second] = ["a", "b"].map(|letter| JoinId::read(&letter.repeat(16)));
        let claim = |join_id: &Option<JoinId>| JoinRequest {
            join_id: join_id.clone(),
            ..worker(2)
        };
        let report = |join_id: &Option<JoinId>, joined| {
            let told = f
                .tokens
                .report(&token(), &node(2), join_id.as_ref(), joined);
            told.unwrap()
        };
        assert_eq!(f.join_as(&claim(&first)), Ok(()));
        assert_eq!(f.join_as(&claim(&second)), Ok(()));
        assert!(f.sign("-kubelet", &node(2)));
        for joined in [false, true] {
            assert_eq!(report(&first, joined), Some(Release::Outdated));
        }
        assert!(f.sign("-proxy", &node(2)));
        assert_eq!(f.tokens.admissions().nodes().unwrap().len(), 1);
        assert_ne!(report(&second, false), Some(Release::Outdated));
        assert_eq!(f.join_as(&claim(&first)), Ok(()));
    }
}

#[test]
fn a_revoked_token_admits_no_node_and_signs_nothing() {
    let f = fixture();
    let path = f.path(token_files::CLUSTER_TOKENS);
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    let in_file = Token::presented("fedcba9876543210fedcba9876543210");
    std::fs::write(&path, format!("{}|9999999999\n", in_file.expose())).unwrap();
    let all = f.tokens.find("").unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(f.tokens.revoke(&all, 1000).unwrap().len(), 2);
    assert_eq!(f.tokens.revoke(&f.tokens.find("").unwrap(), 0).unwrap(), []);
    assert_eq!(f.join(&node(2)), Err(Reason::Revoked));
    assert!(!f.sign("-kubelet", &node(2)));
    let checked = f.tokens.check(&in_file, &worker(3), |_| false).unwrap();
    assert_eq!(checked.unwrap_err().reason, Reason::Revoked);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
    // Writing the line again issues it again.
    f.write_line(token_files::CLUSTER_TOKENS);
    assert_eq!(f.join(&node(3)), Ok(()));
}

#[test]
fn a_token_that_came_from_the_file_keeps_the_limits_it_was_given() {
    let f = fixture();
    f.add(&Terms {
        role: Some(RoleLimit::ControlPlane),
        ..one_use()
    });
    let path = f.write_line(token_files::CLUSTER_TOKENS);
    assert_eq!(f.join(&node(2)), Err(Reason::WrongRole));
    assert_ne!(std::fs::read_to_string(&path).unwrap().trim(), "");
}

#[test]
fn what_is_over_is_pruned_and_nothing_else() {
    let f = fixture();
    let tokens: Vec<Token> = (0..4)
        .map(|n| Token::presented(&format!("{n:032}")))
        .collect();
    f.tokens.add(&tokens[0], &one_use(), 0).unwrap();
    f.tokens.add(&tokens[1], &lasting(60), 0).unwrap();
    f.tokens.add(&tokens[2], &lasting(600), 0).unwrap();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    let path = f.path(token_files::CLUSTER_TOKENS);
    let end = f.tokens.now() + 60;
    std::fs::write(&path, format!("{}|{end}\n", tokens[3].expose())).unwrap();
    assert_eq!(f.tokens.prune(None, 0).unwrap(), 0);
    f.clock.advance(60);
    assert_eq!(f.tokens.prune(None, 0).unwrap(), 2);
    assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), "");
    let left: HashSet<_> = f
        .tokens
        .find("")
        .unwrap()
        .iter()
        .map(|t| t.digest)
        .collect();
    assert_eq!(
        left,
        [&tokens[0], &tokens[2], &token()].map(Token::digest).into()
    );
}

#[test]
fn expiry_forgets_what_was_over_for_long_and_only_that() {
    let f = fixture();
    let dead = Token::presented("fedcba9876543210fedcba9876543210");
    f.tokens.add(&dead, &lasting(60), 0).unwrap();
    f.add(&one_use());
    let known = || f.tokens.find("").unwrap().len();
    f.clock.advance(60);
    f.tokens.expire_tokens(|_| false).unwrap();
    f.clock.advance(KEPT - 1);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(known(), 2);
    f.clock.advance(1);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(known(), 1);
    assert_eq!(f.join(&node(2)), Ok(()));
}

#[test]
fn expiry_gets_through_more_tokens_than_it_takes_at_once() {
    let f = fixture();
    let tokens: Vec<TokenDigest> = (0..2 * EXPIRY_BATCH + 1)
        .map(|n| Token::presented(&format!("{n:032}")).digest())
        .collect();
    let now = f.tokens.now();
    let issue = |record: &mut Option<TokenRecord>| {
        *record = Some(TokenRecord::issue(&lasting(60), now, Issuer::Uid(0)));
    };
    f.tokens.records.edit_all(&tokens, false, issue).unwrap();
    f.clock.advance(60);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(
        f.tokens.records.store().due(f.tokens.now(), 10).unwrap(),
        []
    );
    f.clock.advance(KEPT);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(f.tokens.find("").unwrap(), []);
}

/// A database of the version before, made by that version's agent at `SCHEMA_2_MADE`: a token of one
/// use with which n2 joins, and has one of its two certificates; one of any number with which n2 and
/// n3 join; an unused one; and a line in MicroK8s's file with which n3 joins.
const SCHEMA_2: &str = include_str!("../token_store/schema-2.hex");
const SCHEMA_2_MADE: i64 = 1_795_803_779;

fn of_schema_2() -> Vec<u8> {
    let mut lines = SCHEMA_2.lines();
    let number = |digits: &str| usize::from_str_radix(digits, 16).unwrap();
    let mut bytes = vec![0; number(lines.next().unwrap())];
    // Where a pattern begins, how often it is repeated, and the pattern; the rest is zero.
    for line in lines {
        let [at, times, pattern] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let digits = |place| u8::try_from(number(&pattern[place..place + 2])).unwrap();
        let pattern: Vec<u8> = (0..pattern.len()).step_by(2).map(digits).collect();
        let repeated = pattern.repeat(number(times));
        bytes[number(at)..][..repeated.len()].copy_from_slice(&repeated);
    }
    bytes
}

#[test]
fn a_database_of_the_version_before_is_carried_over_with_all_joins_that_are_under_way() {
    let f = fixture();
    let Fixture { tokens, .. } = f;
    drop(tokens);
    std::fs::write(f.layout.token_database(), of_schema_2()).unwrap();
    f.clock.advance(SCHEMA_2_MADE - 1_000_000);
    *lock(&f.cluster) = CurrentCluster::default();
    let tokens = open(&f.layout, &f.clock, &f.cluster);
    let f = Fixture { tokens, ..f }.restart();
    let sign = |letter: &str, suffix: &str, n: u8| {
        let token = Token::presented(&letter.repeat(32)).with_suffix(suffix);
        let found = f.tokens.certificate_request(&token, node(n).address, None);
        let found = found.unwrap();
        found.is_some_and(|request| f.tokens.certificate_signed(&token, &request).unwrap())
    };
    // The rights that were left, and no other.
    assert!(!sign("a", "-proxy", 2) && !sign("a", "-kubelet", 3) && sign("a", "-kubelet", 2));
    for (letter, n) in [("b", 2), ("b", 3), ("c", 3)] {
        assert!(
            sign(letter, "-proxy", n) && sign(letter, "-kubelet", n),
            "{letter}{n}"
        );
        assert!(!sign(letter, "-proxy", n), "{letter}{n}");
    }
    assert!(!sign("c", "-proxy", 2) && !sign("d", "-proxy", 2));
    let check = |letter: &str| {
        let token = Token::presented(&letter.repeat(32));
        let checked = f.tokens.check(&token, &worker(9), |_| false).unwrap();
        checked.map_err(|refusal| refusal.reason)
    };
    assert_eq!(check("a"), Err(Reason::Used));
    assert_eq!((check("b"), check("d")), (Ok(()), Ok(())));
    let admitted = f.tokens.admissions().nodes().unwrap();
    assert!(
        admitted.len() == 2 && admitted.iter().all(|node| node.complete),
        "{admitted:?}"
    );
}

#[test]
fn a_damaged_database_is_set_aside_and_its_tokens_are_unknown() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    assert_eq!(f.tokens.notices(), Vec::<String>::new());
    std::fs::write(f.layout.token_database(), "no database at all").unwrap();
    let f = f.restart();
    assert_eq!(f.join(&node(2)), Err(Reason::Unknown));
    assert_eq!(f.tokens.admissions().nodes().unwrap(), []);
    let notices = f.tokens.notices();
    assert!(notices[0].contains("tokens.redb.damaged-"), "{notices:?}");
    f.add(&one_use());
    assert_eq!(f.join(&node(3)), Ok(()));
}

#[test]
fn the_tokens_of_an_older_copy_are_void() {
    let f = fixture();
    let copy = f.layout.own_state().join("copy");
    f.add(&one_use());
    let f = f.restart();
    let Fixture { tokens, .. } = f;
    drop(tokens);
    std::fs::copy(f.layout.token_database(), &copy).unwrap();
    let tokens = open(&f.layout, &f.clock, &f.cluster);
    let f = Fixture { tokens, ..f };
    assert_eq!(f.join(&node(2)), Ok(()));
    assert!(f.sign("-kubelet", &node(2)) && f.sign("-proxy", &node(2)));
    let Fixture { tokens, .. } = f;
    drop(tokens);
    std::fs::copy(&copy, f.layout.token_database()).unwrap();
    let tokens = open(&f.layout, &f.clock, &f.cluster);
    let f = Fixture { tokens, ..f };
    assert_eq!(f.join(&node(3)), Err(Reason::Void));
    assert_eq!(f.state(), State::Void);
    f.tokens.expire_tokens(|_| false).unwrap();
    f.add(&one_use());
    assert_eq!(f.join(&node(3)), Ok(()));
}

#[test]
fn nothing_is_signed_for_a_use_that_was_given_back() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    let proxy = token().with_suffix("-proxy");
    let request = |n: u8| {
        let found = f.tokens.certificate_request(&proxy, node(n).address, None);
        found.unwrap().unwrap()
    };
    // The request was found good, and then the node says that its join failed.
    let late = request(2);
    assert_eq!(
        f.tokens.report(&token(), &node(2), None, false).unwrap(),
        Some(Release::Free)
    );
    assert!(!f.tokens.certificate_signed(&proxy, &late).unwrap());
    assert_eq!(f.join(&node(3)), Ok(()));
    // The same when the time to sign has run out meanwhile.
    let late = request(3);
    f.clock.advance(LEASE);
    assert_eq!(f.join(&node(4)), Ok(()));
    assert!(!f.tokens.certificate_signed(&proxy, &late).unwrap());
    assert!(f.sign("-proxy", &node(4)));
}

#[test]
fn signing_and_giving_back_at_once_never_leave_two_nodes_with_certificates() {
    for _ in 0..40 {
        let f = fixture();
        f.add(&one_use());
        assert_eq!(f.join(&node(2)), Ok(()));
        let signed = std::thread::scope(|scope| {
            let signs = scope.spawn(|| f.sign("-proxy", &node(2)));
            f.tokens.report(&token(), &node(2), None, false).unwrap();
            signs.join().unwrap()
        });
        assert!(!(signed && f.join(&node(3)).is_ok()));
    }
}

#[test]
fn two_requests_of_one_node_with_a_line_use_it_once() {
    let f = fixture();
    f.write_line(token_files::CLUSTER_TOKENS);
    let (first, second) = (f.reserve(2).unwrap(), f.reserve(2).unwrap());
    first.commit(&WORKER, false).unwrap().unwrap();
    second.commit(&WORKER, false).unwrap().unwrap();
    assert_eq!(f.join(&node(3)), Err(Reason::InUse));
}

#[test]
fn a_token_that_is_revoked_while_a_node_is_let_in_lets_it_in_no_more() {
    for file in [token_files::CLUSTER_TOKENS, token_files::PERSISTENT_TOKENS] {
        let f = fixture();
        f.write_line(file);
        let reservation = f.reserve(2).unwrap();
        let all = f.tokens.find("").unwrap();
        assert_eq!(f.tokens.revoke(&all, 0).unwrap().len(), 1);
        let refused = reservation.commit(&[], false).unwrap().unwrap_err();
        assert_eq!(refused.reason, Reason::Revoked, "{file}");
        assert_eq!(f.join(&node(3)), Err(Reason::Revoked), "{file}");
    }
}

#[test]
fn a_node_that_was_removed_does_not_come_back_with_its_token() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    assert!(f.sign("-proxy", &node(2)) && f.sign("-kubelet", &node(2)));
    assert!(f.tokens.forget("n2").unwrap());
    assert_eq!(f.join(&node(2)), Err(Reason::Used));
    assert!(!f.tokens.forget("n2").unwrap());
}

#[test]
fn a_node_by_which_nothing_came_of_its_token_is_forgotten() {
    let f = fixture();
    f.add(&one_use());
    for n in 2..9 {
        assert_eq!(f.join(&node(n)), Ok(()));
        f.tokens.report(&token(), &node(n), None, false).unwrap();
    }
    assert_eq!(f.join(&node(9)), Ok(()));
    f.clock.advance(LEASE);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(f.tokens.admissions().nodes().unwrap(), []);
}

#[test]
fn a_token_that_no_node_has_joined_with_for_so_long_is_pruned_where_that_is_asked_for() {
    let f = fixture();
    let tokens: Vec<Token> = (0..3)
        .map(|n| Token::presented(&format!("{n:032}")))
        .collect();
    f.tokens.add(&tokens[0], &one_use(), 0).unwrap();
    f.tokens.add(&tokens[1], &lasting(u32::MAX), 0).unwrap();
    // One in MicroK8s's file is the file's to end.
    f.tokens.add(&tokens[2], &one_use(), 0).unwrap();
    let path = f.path(token_files::PERSISTENT_TOKENS);
    std::fs::write(&path, format!("{}\n", tokens[2].expose())).unwrap();
    f.add(&lasting(u32::MAX));
    f.clock.advance(50);
    assert_eq!(f.join(&node(2)), Ok(()));
    f.tokens.add(&tokens[1], &one_use(), 0).unwrap();
    f.clock.advance(50);
    assert_eq!(f.tokens.prune(Some(101), 0).unwrap(), 0);
    assert_eq!(f.tokens.prune(Some(100), 0).unwrap(), 1);
    let claim = worker(3);
    let refused = f.tokens.check(&tokens[0], &claim, |_| false).unwrap();
    assert_eq!(refused.unwrap_err().reason, Reason::Unknown);
    for token in [&tokens[1], &tokens[2], &token()] {
        assert_eq!(f.tokens.check(token, &claim, |_| false).unwrap(), Ok(()));
    }
}

#[test]
fn a_token_whose_line_is_still_to_go_is_not_pruned() {
    let f = fixture();
    f.write_line(token_files::CLUSTER_TOKENS);
    f.admit_and_crash(2);
    f.clock.advance(LEASE);
    f.tokens.revoke(&f.tokens.find("").unwrap(), 0).unwrap();
    f.write_line(token_files::CLUSTER_TOKENS);
    assert_eq!(f.tokens.prune(None, 0).unwrap(), 0);
    assert_eq!(f.join(&node(3)), Err(Reason::Revoked));
}

type Overtaking = Box<dyn FnOnce(&dyn TokenStore) + Send>;

/// A store that another writer changes between a read and the next change.
struct Overtaken {
    store: LocalStore,
    overtaking: Mutex<Option<Overtaking>>,
}

impl TokenStore for Overtaken {
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError> {
        self.store.read(key)
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<TokenDigest>, StoreError> {
        if let Some(first) = lock(&self.overtaking).take() {
            first(&self.store);
        }
        self.store.swap(swaps)
    }

    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, TokenRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.store.list(beginning, take)
    }

    fn due(&self, now: i64, limit: usize) -> Result<Vec<TokenDigest>, StoreError> {
        self.store.due(now, limit)
    }
}

#[test]
fn nothing_is_signed_for_a_use_that_is_given_back_at_that_very_moment() {
    for revoked in [false, true] {
        let mut f = fixture();
        f.add(&one_use());
        assert_eq!(f.join(&node(2)), Ok(()));
        let now = f.tokens.now();
        let give_back = move |store: &dyn TokenStore| {
            let key = token().digest();
            let Stored {
                mut record,
                version,
                ..
            } = store.read(&key).unwrap().unwrap();
            if revoked {
                record.revoke(now, 0);
            } else {
                assert_eq!(record.fail(&node(2)), Release::Free);
            }
            let swap = Swap {
                key,
                expected: Some(version),
                next: Some(record),
                change: ChangeId::new(),
                flush: Flush::Now,
            };
            assert_eq!(store.swap(&[swap]).unwrap(), []);
        };
        f.tokens.records = Records::new(Box::new(Overtaken {
            store: LocalStore::new(f.tokens.database.clone(), Arc::new(|_| None)),
            overtaking: Mutex::new(Some(Box::new(give_back))),
        }));
        assert!(!f.sign("-proxy", &node(2)), "revoked: {revoked}");
    }
}

#[test]
fn a_token_admits_to_the_cluster_in_which_it_was_issued_and_to_no_other() {
    let f = fixture();
    f.add(&lasting(9999));
    assert_eq!(f.join(&node(2)), Ok(()));
    let reservation = f.reserve(3).unwrap();
    *lock(&f.cluster) = cluster("second");
    // Nothing that came about in the first cluster counts in the second one.
    let late = reservation.commit(&WORKER, false).unwrap();
    assert_eq!(late.unwrap_err().reason, Reason::Void);
    assert_eq!(f.join(&node(3)), Err(Reason::Void));
    assert!(!f.sign("-kubelet", &node(2)));
    assert!(
        !f.tokens
            .gives_certificates(&token().with_suffix("-proxy"))
            .unwrap()
    );
    assert_eq!(f.tokens.admissions().nodes().unwrap(), []);
    assert_eq!(f.state(), State::Void);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(f.state(), State::Void);
    f.add(&lasting(9999));
    assert_eq!(f.join(&node(3)), Ok(()));
    // Back in the first one, what was void stays so.
    *lock(&f.cluster) = cluster("first");
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(f.join(&node(4)), Err(Reason::Void));
    assert_eq!(f.tokens.admissions().nodes().unwrap(), []);
    assert_eq!(f.tokens.prune(None, 0).unwrap(), 1);
}

#[test]
fn a_join_of_this_node_that_is_taken_back_leaves_its_tokens_as_they_were() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    *lock(&f.cluster) = CurrentCluster {
        is_changing: true,
        ..cluster("second")
    };
    assert_eq!(f.join(&node(2)), Err(Reason::Void));
    let reserved = f.tokens.reserve(&token(), &worker(2), |_| false).unwrap();
    assert_eq!(reserved.err().unwrap().reason, Reason::Void);
    f.tokens.expire_tokens(|_| false).unwrap();
    *lock(&f.cluster) = cluster("first");
    assert_eq!(f.tokens.admissions().nodes().unwrap().len(), 1);
    assert!(f.sign("-kubelet", &node(2)));
    assert_eq!(f.join(&node(2)), Ok(()));
}

#[test]
fn a_node_that_cannot_tell_its_cluster_voids_no_token() {
    let f = fixture();
    f.add(&one_use());
    *lock(&f.cluster) = CurrentCluster::default();
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(f.state(), State::Issued);
    assert_eq!(f.join(&node(2)), Ok(()));
    *lock(&f.cluster) = cluster("first");
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(f.join(&node(2)), Ok(()));
}

#[test]
fn a_clock_that_was_far_ahead_and_is_put_right_keeps_no_use_and_no_right_until_then() {
    let f = fixture();
    f.add(&one_use());
    let years = 50 * 365 * 86_400;
    f.clock.advance(years);
    assert_eq!(f.join(&node(2)), Ok(()));
    f.tokens.expire_tokens(|_| false).unwrap();
    f.clock.advance(-years);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert!(!f.sign("-kubelet", &node(2)));
    f.clock.advance(LEASE);
    f.tokens.expire_tokens(|_| false).unwrap();
    assert_eq!(f.join(&node(3)), Ok(()));
}

#[test]
fn a_certificate_token_with_a_blank_in_it_is_none() {
    let f = fixture();
    f.add(&one_use());
    assert_eq!(f.join(&node(2)), Ok(()));
    assert!(!f.sign(" -kubelet", &node(2)));
    assert!(f.sign("-kubelet", &node(2)));
}

#[test]
fn of_the_workers_with_a_token_that_lives_on_only_those_with_certificates_are_remembered() {
    let f = fixture();
    f.add(&Terms::lasting(Lifetime::Seconds(1_000_000)));
    for n in 2..6 {
        assert_eq!(f.join(&node(n)), Ok(()));
    }
    assert!(f.sign("-proxy", &node(2)) && f.sign("-kubelet", &node(2)));
    f.tokens.report(&token(), &node(3), None, false).unwrap();
    f.clock.advance(LEASE.max(RETRY_WINDOW));
    f.tokens.expire_tokens(|_| false).unwrap();
    let left = f.tokens.admissions().nodes().unwrap();
    assert_eq!(
        left.iter().map(|left| &left.node).collect::<Vec<_>>(),
        [&node(2)]
    );
}
