//! The life of a token, one case after the other, and any sequence of events.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::model::token_terms::{Lifetime, Terms, Uses};

const NOW: i64 = 1_000_000;

fn claim(n: u8, role: Role) -> JoinRequest {
    JoinRequest {
        node: JoiningNode {
            name: format!("n{n}"),
            address: [10, 99, 0, n].into(),
        },
        role,
        join_id: None,
    }
}

fn worker(n: u8) -> JoinRequest {
    claim(n, Role::Worker)
}

fn one_use() -> TokenRecord {
    TokenRecord::issue(&Terms::lasting(Lifetime::OneUse), NOW, Issuer::Uid(0))
}

fn judge(record: &TokenRecord, claim: &JoinRequest, now: i64) -> Result<Grant, Reason> {
    record
        .judge(claim, &[], now, RETRY_WINDOW)
        .map_err(|refusal| refusal.reason)
}

fn admit(record: &mut TokenRecord, claim: &JoinRequest, now: i64) {
    let grant = judge(record, claim, now).unwrap();
    record.admit(claim, grant, certificates(claim), false, now);
}

const WORKER: [CertificatePurpose; 2] = [CertificatePurpose::Kubelet, CertificatePurpose::Proxy];

fn certificates(claim: &JoinRequest) -> &'static [CertificatePurpose] {
    match claim.role {
        Role::Worker => &WORKER,
        Role::ControlPlane => &[],
    }
}

/// The node has this certificate signed; says whether it may.
fn sign(record: &mut TokenRecord, n: u8, purpose: CertificatePurpose, now: i64) -> bool {
    record.hand_out(&worker(n).node, purpose, now).is_some()
}

/// The node has all its certificates signed.
fn serve(record: &mut TokenRecord, n: u8, now: i64) {
    for purpose in WORKER {
        assert!(sign(record, n, purpose, now));
    }
}

fn reconcile(record: &mut TokenRecord, now: i64) -> Vec<TokenEvent> {
    record.reconcile(now, RETRY_WINDOW, |_| None)
}

#[test]
fn one_node_gets_a_one_time_token_and_may_try_again() {
    let mut record = one_use();
    admit(&mut record, &worker(2), NOW);
    assert_eq!(record.state(NOW), State::Reserved);
    assert_eq!(judge(&record, &worker(3), NOW), Err(Reason::InUse));
    admit(&mut record, &worker(2), NOW + 60);
    assert!(sign(&mut record, 2, CertificatePurpose::Kubelet, NOW));
    assert!(record.complete(&worker(2).node));
    assert_eq!(record.state(NOW + 60), State::Used);
    for n in [2, 3] {
        assert_eq!(judge(&record, &worker(n), NOW + 60), Err(Reason::Used));
    }
}

#[test]
fn a_worker_with_its_certificates_may_try_again_for_a_while_as_a_worker() {
    let mut record = one_use();
    admit(&mut record, &worker(2), NOW);
    serve(&mut record, 2, NOW);
    assert_eq!(record.state(NOW), State::Used);
    assert_eq!(judge(&record, &worker(3), NOW), Err(Reason::Used));
    let other_role = claim(2, Role::ControlPlane);
    assert_eq!(judge(&record, &other_role, NOW), Err(Reason::Used));
    admit(&mut record, &worker(2), NOW + 60);
    assert_eq!(record.state(NOW + 60), State::Used, "others have lost it");
    let late = NOW + 60 + RETRY_WINDOW;
    reconcile(&mut record, late);
    assert_eq!(judge(&record, &worker(2), late), Err(Reason::Used));
}

#[test]
fn a_worker_that_got_nothing_gives_its_use_back() {
    let mut record = one_use();
    admit(&mut record, &worker(2), NOW);
    assert_eq!(record.fail(&worker(2).node), Release::Free);
    admit(&mut record, &worker(3), NOW);
    let late = NOW + LEASE;
    assert_eq!(
        reconcile(&mut record, late),
        [TokenEvent::LeaseRanOut(worker(3).node)]
    );
    assert_eq!(judge(&record, &worker(4), late), Ok(Grant::Counted));
}

#[test]
fn what_was_handed_out_stays_with_the_node_that_has_it() {
    for (role, with_certificate) in [(Role::Worker, true), (Role::ControlPlane, false)] {
        let (mut record, n2) = (one_use(), claim(2, role));
        admit(&mut record, &n2, NOW);
        if with_certificate {
            assert!(sign(&mut record, 2, CertificatePurpose::Kubelet, NOW));
        }
        assert_eq!(record.fail(&n2.node), Release::KeptForNode);
        let late = NOW + 100 * RETRY_WINDOW;
        assert!(reconcile(&mut record, late).is_empty());
        assert_eq!(judge(&record, &worker(3), late), Err(Reason::InUse));
        assert_eq!(judge(&record, &n2, late), Ok(Grant::Counted));
    }
}

#[test]
fn a_control_plane_node_of_which_nothing_is_heard_has_used_the_token() {
    let n2 = claim(2, Role::ControlPlane);
    let mut record = one_use();
    admit(&mut record, &n2, NOW);
    assert_eq!(
        judge(&record, &n2, NOW + RETRY_WINDOW - 1),
        Ok(Grant::Counted),
        "its client does not say how the join went"
    );
    let late = NOW + RETRY_WINDOW;
    assert_eq!(
        reconcile(&mut record, late),
        [TokenEvent::WindowClosed(n2.node.clone())]
    );
    assert_eq!(judge(&record, &n2, late), Err(Reason::Used));

    let mut record = one_use();
    admit(&mut record, &n2, NOW);
    let listed = record.reconcile(NOW, RETRY_WINDOW, |node| Some(*node == n2.node));
    assert_eq!(listed, [TokenEvent::Listed(n2.node.clone())]);
    assert_eq!(judge(&record, &n2, NOW), Err(Reason::Used));
}

#[test]
fn without_a_window_no_node_tries_again_unless_its_join_is_known_to_have_failed() {
    let n2 = claim(2, Role::ControlPlane);
    let mut record = one_use();
    record.admit(&n2, Grant::Counted, &[], false, NOW);
    record.reconcile(NOW, 0, |_| None);
    let again = |record: &TokenRecord| record.judge(&n2, &[], NOW, 0).map_err(|why| why.reason);
    assert_eq!(again(&record), Err(Reason::InUse));
    record.fail(&n2.node);
    record.reconcile(NOW, 0, |_| None);
    assert_eq!(again(&record), Ok(Grant::Counted));
}

#[test]
fn a_join_that_fails_after_the_datastore_listed_the_node_costs_it_nothing() {
    let n2 = claim(2, Role::ControlPlane);
    let mut record = one_use();
    admit(&mut record, &n2, NOW);
    record.reconcile(NOW, RETRY_WINDOW, |_| Some(true));
    assert_eq!(judge(&record, &n2, NOW), Err(Reason::Used));
    assert_eq!(record.fail(&n2.node), Release::KeptForNode);
    // A list that is some seconds old changes nothing.
    assert_eq!(record.reconcile(NOW, RETRY_WINDOW, |_| Some(true)), []);
    assert_eq!(judge(&record, &n2, NOW), Ok(Grant::Counted));
    let mut taken_back = one_use();
    admit(&mut taken_back, &n2, NOW);
    taken_back.reconcile(NOW, RETRY_WINDOW, |_| Some(true));
    taken_back.reconcile(NOW, RETRY_WINDOW, |_| Some(false));
    assert_eq!(judge(&taken_back, &n2, NOW), Ok(Grant::Counted));
}

#[test]
fn a_worker_that_says_that_it_failed_after_all_keeps_no_way_in_for_ever() {
    let mut record = one_use();
    admit(&mut record, &worker(2), NOW);
    serve(&mut record, 2, NOW);
    assert_eq!(record.fail(&worker(2).node), Release::KeptForNode);
    let other_role = claim(2, Role::ControlPlane);
    for claim in [&other_role, &worker(2)] {
        assert_eq!(judge(&record, claim, NOW), Ok(Grant::Counted));
    }
    reconcile(&mut record, NOW + LEASE);
    assert_eq!(judge(&record, &worker(2), NOW + LEASE), Err(Reason::Used));
}

#[test]
fn an_answer_with_credentials_in_it_is_handed_out() {
    let mut record = one_use();
    record.admit(&worker(2), Grant::Counted, &WORKER, true, NOW);
    assert_eq!(record.fail(&worker(2).node), Release::KeptForNode);
}

#[test]
fn a_token_is_for_its_role_and_its_node() {
    let terms = Terms {
        role: Some(RoleLimit::Worker),
        node: Some(NodeName::parse("N2").unwrap()),
        ..Terms::lasting(Lifetime::OneUse)
    };
    let record = TokenRecord::issue(&terms, NOW, Issuer::Uid(0));
    assert_eq!(
        judge(&record, &claim(2, Role::ControlPlane), NOW),
        Err(Reason::WrongRole)
    );
    assert_eq!(judge(&record, &worker(3), NOW), Err(Reason::WrongNode));
    assert_eq!(judge(&record, &worker(2), NOW), Ok(Grant::Counted));
}

#[test]
fn a_refusal_tells_who_and_when() {
    let mut record = one_use();
    admit(&mut record, &worker(2), NOW);
    record.complete(&worker(2).node);
    let refusal = record
        .judge(&worker(3), &[], NOW + 120, RETRY_WINDOW)
        .unwrap_err();
    assert_eq!(refusal.node.as_deref(), Some("n2 (10.99.0.2)"));
    assert_eq!(refusal.seconds_ago, Some(120));
    let record = TokenRecord::issue(&Terms::lasting(Lifetime::Seconds(60)), NOW, Issuer::Uid(0));
    let refusal = record
        .judge(&worker(3), &[], NOW + 180, RETRY_WINDOW)
        .unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.seconds_ago),
        (Reason::Expired, Some(120))
    );
}

#[test]
fn a_report_of_an_earlier_join_is_told_from_one_of_the_last_join() {
    let [first, second] = ["a", "b"].map(|letter| JoinId::read(&letter.repeat(16)));
    let by = |join_id: &Option<JoinId>| JoinRequest {
        join_id: join_id.clone(),
        ..worker(2)
    };
    let mut record = one_use();
    admit(&mut record, &by(&first), NOW);
    record.fail(&worker(2).node);
    admit(&mut record, &by(&second), NOW + 1);
    let is_other = |record: &TokenRecord, id: &Option<JoinId>| {
        record.is_of_other_join(&worker(2).node, id.as_ref())
    };
    assert!(is_other(&record, &first));
    // A report that names no join is about any, as is one about a join that was not named.
    assert!(!is_other(&record, &second) && !is_other(&record, &None));
    admit(&mut record, &worker(2), NOW + 2);
    assert!(!is_other(&record, &first) && !is_other(&record, &second));
}

fn seconds(number: u32) -> Terms {
    Terms::lasting(Lifetime::Seconds(number))
}

/// Terms that name nothing.
const UNNAMED: Terms = Terms {
    lifetime: None,
    uses: None,
    role: None,
    node: None,
    description: None,
};

fn for_role(role: RoleLimit) -> Terms {
    Terms {
        role: Some(role),
        ..UNNAMED
    }
}

#[test]
fn adding_a_token_again_sets_the_terms_that_are_given_and_keeps_the_others() {
    let mut record = TokenRecord::issue(&seconds(600), NOW, Issuer::Uid(0));
    let added = record.add(&seconds(60), NOW, Issuer::Uid(0));
    assert!(!added.was_over);
    assert_eq!(
        (added.before.until, added.after.until),
        (Some(NOW + 600), Some(NOW + 60))
    );
    let worker_only = record
        .add(&for_role(RoleLimit::Worker), NOW + 1, Issuer::Uid(0))
        .after;
    let expected = GrantedTerms {
        uses: None,
        until: Some(NOW + 60),
        role: RoleLimit::Worker,
        node: None,
    };
    assert_eq!(worker_only, expected);
    // Adding it without any terms widens nothing.
    assert_eq!(
        record.add(&UNNAMED, NOW + 2, Issuer::Uid(0)).after,
        expected
    );
    assert_eq!(judge(&record, &worker(2), NOW + 59), Ok(Grant::Open));
    assert_eq!(
        judge(&record, &claim(2, Role::ControlPlane), NOW),
        Err(Reason::WrongRole)
    );
    assert_eq!(judge(&record, &worker(2), NOW + 60), Err(Reason::Expired));
}

#[test]
fn a_token_of_many_workers_that_is_added_for_control_plane_nodes_is_for_one_of_them() {
    let terms = Terms {
        role: Some(RoleLimit::Worker),
        ..seconds(60)
    };
    for role in [RoleLimit::ControlPlane, RoleLimit::Any] {
        let mut record = TokenRecord::issue(&terms, NOW, Issuer::Uid(0));
        let after = record.add(&for_role(role), NOW, Issuer::Uid(0)).after;
        assert_eq!(
            (after.uses, after.until, after.role),
            (Some(1), Some(NOW + 60), role)
        );
        admit(&mut record, &claim(2, Role::ControlPlane), NOW);
        assert_eq!(
            judge(&record, &claim(3, Role::ControlPlane), NOW),
            Err(Reason::InUse)
        );
    }
}

#[test]
fn a_token_that_is_used_up_or_expired_stays_that_when_it_is_revoked() {
    let mut used = one_use();
    admit(&mut used, &worker(2), NOW);
    used.complete(&worker(2).node);
    assert!(!used.revoke(NOW, 0));
    assert_eq!(used.state(NOW), State::Used);
    let mut expired = TokenRecord::issue(&seconds(600), NOW, Issuer::Uid(0));
    assert!(!expired.revoke(NOW + 700, 0));
    assert_eq!(expired.state(NOW + 700), State::Expired);
    // Nor does it live again when the clock is put back.
    assert!(judge(&expired, &worker(2), NOW).is_err());
}

#[test]
fn a_revoked_used_or_expired_token_that_is_added_lives_again_and_for_no_more_than_before() {
    let mut revoked = TokenRecord::issue(&seconds(600), NOW, Issuer::Uid(0));
    revoked.revoke(NOW, 0);
    assert_eq!(judge(&revoked, &worker(2), NOW), Err(Reason::Revoked));
    assert!(revoked.add(&UNNAMED, NOW, Issuer::Uid(0)).was_over);
    assert_eq!(revoked.grant(NOW).until, Some(NOW + 600));
    assert_eq!(judge(&revoked, &worker(2), NOW), Ok(Grant::Open));

    let two = Terms {
        uses: Some(Uses::try_from(2).unwrap()),
        ..for_role(RoleLimit::Worker)
    };
    let mut used = TokenRecord::issue(&two, NOW, Issuer::Uid(0));
    for n in [2, 3] {
        admit(&mut used, &worker(n), NOW);
        used.complete(&worker(n).node);
    }
    assert_eq!(used.state(NOW), State::Used);
    assert!(used.add(&UNNAMED, NOW, Issuer::Uid(0)).was_over);
    assert_eq!(
        (used.uses_left(NOW), used.role()),
        (Some(2), RoleLimit::Worker)
    );

    // An end that has passed cannot be kept, and none is made up.
    let mut expired = TokenRecord::issue(&seconds(60), NOW, Issuer::Uid(0));
    reconcile(&mut expired, NOW + 60);
    let after = expired.add(&UNNAMED, NOW + 60, Issuer::Uid(0)).after;
    assert_eq!((after.uses, after.until), (Some(1), None));
}

#[test]
fn a_token_whose_only_use_is_pending_has_another_when_it_is_added_again() {
    let mut record = one_use();
    record.add(&UNNAMED, NOW, Issuer::Uid(0));
    assert_eq!(
        record.uses_left(NOW),
        Some(1),
        "twice added is not two uses"
    );
    admit(&mut record, &worker(2), NOW);
    assert!(sign(&mut record, 2, CertificatePurpose::Kubelet, NOW));
    record.add(&UNNAMED, NOW, Issuer::Uid(0));
    assert_eq!(judge(&record, &worker(3), NOW), Ok(Grant::Counted));
    assert_eq!(
        judge(&record, &worker(2), NOW),
        Ok(Grant::Counted),
        "its use is still its own"
    );
    record.add(&UNNAMED, NOW, Issuer::Uid(0));
    assert_eq!(record.uses_left(NOW), Some(1));
}

#[test]
fn uses_are_counted_within_their_time() {
    let terms = Terms {
        uses: Some(Uses::try_from(2).unwrap()),
        ..Terms::lasting(Lifetime::Seconds(60))
    };
    let mut record = TokenRecord::issue(&terms, NOW, Issuer::Uid(0));
    admit(&mut record, &worker(2), NOW);
    assert_eq!(record.uses_left(NOW), Some(1));
    let held = [worker(3).node];
    let refusal = record
        .judge(&worker(4), &held, NOW, RETRY_WINDOW)
        .unwrap_err();
    assert_eq!(refusal.reason, Reason::InUse);
    assert_eq!(judge(&record, &worker(4), NOW), Ok(Grant::Counted));
    assert_eq!(judge(&record, &worker(4), NOW + 60), Err(Reason::Expired));
    assert_eq!(reconcile(&mut record, NOW + 60), [TokenEvent::Expired]);
    assert!(
        reconcile(&mut record, NOW + 61).is_empty(),
        "an end is told once"
    );
}

#[test]
fn nothing_lasts_until_a_clock_that_was_ahead_is_there_again() {
    let years = 50 * 365 * 86_400;
    let mut record = one_use();
    admit(&mut record, &worker(2), NOW + years);
    reconcile(&mut record, NOW);
    let released = reconcile(&mut record, NOW + LEASE);
    assert_eq!(released, [TokenEvent::LeaseRanOut(worker(2).node)]);
    assert_eq!(judge(&record, &worker(3), NOW + LEASE), Ok(Grant::Counted));

    let mut record = TokenRecord::issue(&seconds(60), NOW + years, Issuer::Uid(0));
    reconcile(&mut record, NOW);
    assert_eq!(judge(&record, &worker(2), NOW + 59), Ok(Grant::Open));
    assert_eq!(judge(&record, &worker(2), NOW + 60), Err(Reason::Expired));
}

#[test]
fn a_node_of_any_number_has_each_certificate_once_and_then_leaves_no_trace() {
    let mut record = TokenRecord::issue(&seconds(600), NOW, Issuer::Uid(0));
    admit(&mut record, &worker(2), NOW);
    assert!(sign(&mut record, 2, CertificatePurpose::Proxy, NOW));
    assert!(!sign(&mut record, 2, CertificatePurpose::Proxy, NOW));
    assert!(!sign(&mut record, 3, CertificatePurpose::Kubelet, NOW));
    assert!(sign(&mut record, 2, CertificatePurpose::Kubelet, NOW));
    assert!(!record.has_uses());
    admit(&mut record, &worker(2), NOW);
    assert!(!sign(
        &mut record,
        2,
        CertificatePurpose::Proxy,
        NOW + LEASE
    ));
    reconcile(&mut record, NOW + LEASE);
    assert!(!record.has_uses());
}

#[test]
fn the_record_of_a_token_with_as_many_nodes_as_have_room_fits_into_an_object_of_kubernetes() {
    let mut record = TokenRecord::issue(&seconds(600), NOW, Issuer::Uid(0));
    let long = |n: usize| JoinRequest {
        node: JoiningNode {
            name: format!("{n:0253}"),
            address: "2001:0db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
        },
        join_id: JoinId::read(&"a".repeat(32)),
        role: Role::Worker,
    };
    let mut nodes = 0;
    while record.has_room_for(&long(nodes)) {
        record.admit(
            &long(nodes),
            Grant::Open,
            &CertificatePurpose::ALL,
            false,
            NOW,
        );
        nodes += 1;
    }
    assert!(nodes > 500 && record.has_room_for(&long(0)), "{nodes}");
    assert!(serde_json::to_string(&record).unwrap().len() < 600_000);
    reconcile(&mut record, NOW + LEASE);
    assert!(record.has_room_for(&long(nodes)));
}

#[test]
fn clocks_that_differ_by_ten_minutes_cost_a_join_nothing() {
    for difference in [-600, 600] {
        let mut record = one_use();
        admit(&mut record, &worker(2), NOW + difference);
        reconcile(&mut record, NOW);
        assert!(sign(&mut record, 2, CertificatePurpose::Proxy, NOW));
        assert_eq!(judge(&record, &worker(3), NOW), Err(Reason::InUse));
    }
}

#[derive(Debug, Clone)]
enum Event {
    Join(u8, Role),
    Sign(u8, Vec<CertificatePurpose>),
    Complete(u8),
    Fail(u8),
    Listed(u8),
    Wait(i64),
    Revoke,
    Add(Terms),
}

fn terms() -> impl Strategy<Value = Terms> {
    let lifetime = prop_oneof![
        2 => Just(None),
        2 => Just(Some(Lifetime::OneUse)),
        1 => (1..2000u32).prop_map(|seconds| Some(Lifetime::Seconds(seconds)))
    ];
    let role = proptest::option::of(proptest::sample::select(vec![
        RoleLimit::Any,
        RoleLimit::Worker,
        RoleLimit::ControlPlane,
    ]));
    let uses = proptest::option::of(1..4u32);
    let node = proptest::option::weighted(0.1, 2..4u8);
    (lifetime, uses, role, node).prop_map(|(lifetime, uses, role, node)| Terms {
        lifetime,
        uses: uses.and_then(|uses| Uses::try_from(uses).ok()),
        role,
        node: node.map(|n| NodeName::parse(&format!("n{n}")).unwrap()),
        description: None,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let node = 2..6u8;
    let role = prop_oneof![Just(Role::Worker), Just(Role::ControlPlane)];
    prop_oneof![
        6 => (node.clone(), role).prop_map(|(n, role)| Event::Join(n, role)),
        5 => (node.clone(), proptest::sample::subsequence(WORKER.to_vec(), 1..=2))
            .prop_map(|(n, purposes)| Event::Sign(n, purposes)),
        3 => node.clone().prop_map(Event::Complete),
        2 => node.clone().prop_map(Event::Fail),
        1 => node.prop_map(Event::Listed),
        2 => (0..2 * LEASE).prop_map(Event::Wait),
        1 => Just(Event::Revoke),
        1 => terms().prop_map(Event::Add),
    ]
}

#[test]
fn a_use_that_came_back_is_not_one_more_than_was_asked_for() {
    let terms = Terms::lasting(Lifetime::OneUse);
    let mut record = one_use();
    admit(&mut record, &worker(2), NOW);
    record.add(&terms, NOW, Issuer::Uid(0));
    record.fail(&worker(2).node);
    let added = record.add(&terms, NOW, Issuer::Uid(0));
    assert_eq!((added.after.uses, record.left(NOW)), (Some(1), 1));
}

proptest! {
    /// From any sequence of events: no more nodes have something of the cluster by a token
    /// than it has uses, and no use is lost: a use that no node holds can still be taken.
    #[test]
    fn no_use_is_taken_twice_and_none_is_lost(
        first in terms(),
        events in proptest::collection::vec(event(), 0..40),
        window in prop_oneof![Just(0), Just(RETRY_WINDOW), Just(10 * RETRY_WINDOW)],
    ) {
        let mut now = NOW;
        let mut record = TokenRecord::issue(&first, now, Issuer::Uid(0));
        // The uses that were ever granted, and those that handed something out.
        let mut granted = i64::from(record.left(now));
        let mut handed_out = 0;
        // The nodes whose present use is among the latter.
        let mut holders: HashSet<u8> = HashSet::new();
        // The certificates that a node was admitted for, and has not had signed.
        let mut rights: HashSet<(u8, CertificatePurpose)> = HashSet::new();
        let has_time = |terms: &Terms| matches!(terms.lifetime, Some(Lifetime::Seconds(_)));
        let mut had_time = has_time(&first);
        for event in events {
            record.reconcile(now, window, |_| None);
            match event {
                Event::Join(n, role) => {
                    let claim = claim(n, role);
                    if record.counted_use(&claim.node).is_none() {
                        holders.remove(&n);
                    }
                    if let Ok(grant) = record.judge(&claim, &[], now, window) {
                        record.admit(&claim, grant, certificates(&claim), false, now);
                        rights.retain(|(other, _)| *other != n);
                        rights.extend(certificates(&claim).iter().map(|purpose| (n, *purpose)));
                        let has_counted = record.counted_use(&claim.node).is_some();
                        prop_assert!(has_counted || grant == Grant::Open);
                        if has_counted && role == Role::ControlPlane && holders.insert(n) {
                            handed_out += 1;
                        }
                    }
                }
                Event::Sign(n, purposes) => {
                    for purpose in purposes {
                        if let Some(served) = record.hand_out(&worker(n).node, purpose, now) {
                            prop_assert!(rights.remove(&(n, purpose)), "twice: {record:?}");
                            if served.is_counted && holders.insert(n) {
                                handed_out += 1;
                            }
                        }
                    }
                }
                Event::Complete(n) => {
                    if record.complete(&worker(n).node) && holders.insert(n) {
                        handed_out += 1;
                    }
                    rights.retain(|(other, _)| *other != n);
                }
                Event::Fail(n) => {
                    record.fail(&worker(n).node);
                    rights.retain(|(other, _)| *other != n);
                }
                Event::Listed(n) => {
                    record.reconcile(now, window, |node| Some(*node == worker(n).node));
                }
                Event::Wait(seconds) => now += seconds,
                Event::Revoke => {
                    record.revoke(now, 0);
                    rights.clear();
                }
                Event::Add(terms) => {
                    had_time |= has_time(&terms);
                    let (taken, left) = (record.taken(), record.left(now));
                    let added = record.add(&terms, now, Issuer::Uid(0));
                    let fresh = GrantedTerms::asked_by(&terms, now);
                    let after = &added.after;
                    prop_assert!(after.is_within(&added.before) || after.is_within(&fresh));
                    prop_assert_eq!(after.role, terms.role.unwrap_or(added.before.role));
                    prop_assert!(!record.state(now).is_over());
                    if let Some(uses) = after.uses {
                        prop_assert!(record.left(now) <= uses);
                    }
                    if added.was_over {
                        (granted, handed_out) = (record.left(now).into(), 0);
                        holders.clear();
                        rights.clear();
                    } else {
                        if after.uses.is_some() && added.before.uses.is_some() {
                            prop_assert_eq!(record.taken(), taken);
                        }
                        granted += i64::from(record.left(now)) - i64::from(left);
                    }
                }
            }
            record.reconcile(now, window, |_| None);
            prop_assert!(handed_out <= granted, "{handed_out} of {granted}: {record:?}");
            let is_over = record.state(now).is_over();
            let free = record.left(now);
            let newcomer = JoinRequest {
                node: JoiningNode {
                    name: record.node().map_or_else(|| "n99".to_owned(), ToString::to_string),
                    address: [10, 99, 0, 99].into(),
                },
                role: match record.role() {
                    RoleLimit::ControlPlane => Role::ControlPlane,
                    RoleLimit::Any | RoleLimit::Worker => Role::Worker,
                },
                join_id: None,
            };
            let admitted = record.judge(&newcomer, &[], now, window);
            prop_assert_eq!(admitted.is_ok(), !is_over && (free > 0 || record.is_open(now)));
            for failed in record.tries.iter().filter(|t| t.phase == Phase::Failed) {
                let claim = JoinRequest { node: failed.node.clone(), role: failed.role, join_id: None };
                let may = record.judge(&claim, &[], now, window);
                // New terms may be for another role or node than the one that failed.
                let is_meant = record.role().allows(failed.role)
                    && record.node().is_none_or(|node| node.as_str() == failed.node.name);
                prop_assert!(may.is_ok() || is_over || !is_meant, "{record:?}");
            }
            // What is not counted is there only while certificates may be signed.
            for open in record.tries.iter().filter(|own| !own.is_counted) {
                prop_assert!(now < open.at + LEASE && !open.grants.is_empty(), "{record:?}");
            }
            // Written down and read again it is the same.
            let text = serde_json::to_string(&record).unwrap();
            prop_assert_eq!(&serde_json::from_str::<TokenRecord>(&text).unwrap(), &record);
            // Something is due for as long as time can change something.
            let is_settling = record.tries.iter().any(|t| t.phase != Phase::Failed);
            if is_settling || is_over {
                prop_assert!(record.next_change(now, window, 0).is_some());
            }
        }
        // When nothing more happens, a use that no node holds is free in the end, unless it had a time.
        now += 20 * RETRY_WINDOW;
        record.reconcile(now, window, |_| None);
        if !had_time && record.revoked.is_none() {
            prop_assert!(i64::from(record.left(now)) + handed_out >= granted, "{handed_out} of {granted}: {record:?}");
        }
    }
}
