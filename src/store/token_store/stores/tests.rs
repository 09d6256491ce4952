//! Moving tokens between two stores, cut off at every step.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::model::token_record::Issuer;
use crate::model::token_terms::{Lifetime, Terms};
use crate::store::token_store::Records;
use crate::store::token_store::tests::{Fate, Memory, key};

/// A store of an agent that dies at one of its changes.
struct Dying {
    store: Arc<Memory>,
    /// How many changes come before that, in both stores.
    left: Arc<AtomicUsize>,
    fate: Fate,
    meanwhile: Meanwhile,
}

/// What happens once, just before a store is read.
type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl Dying {
    fn dead() -> StoreError {
        StoreError::Interrupted
    }

    fn let_happen(&self) {
        let meanwhile = lock(&self.meanwhile).take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
    }

    fn is_dead(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }
}

impl TokenStore for Dying {
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError> {
        self.let_happen();
        match self.is_dead() {
            true => Err(Self::dead()),
            false => self.store.read(key),
        }
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<TokenDigest>, StoreError> {
        if self.is_dead() {
            return Err(Self::dead());
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) > 1 {
            return self.store.swap(swaps);
        }
        if matches!(self.fate, Fate::AnswerLost) {
            self.store.swap(swaps)?;
        }
        Err(Self::dead())
    }

    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, TokenRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.let_happen();
        self.store.list(beginning, take)
    }

    fn due(&self, _: i64, _: usize) -> Result<Vec<TokenDigest>, StoreError> {
        Ok(Vec::new())
    }
}

/// The disk and the cluster, which outlive an agent.
#[derive(Clone)]
struct World {
    local: Arc<Memory>,
    shared: Arc<Memory>,
    noted: Arc<Mutex<Place>>,
    before_local: Meanwhile,
    before_shared: Meanwhile,
}

impl World {
    fn new() -> Self {
        Self {
            local: Arc::default(),
            shared: Arc::default(),
            noted: Arc::new(Mutex::new(Place::Local)),
            before_local: Arc::default(),
            before_shared: Arc::default(),
        }
    }

    /// An agent of this node, which dies after so many changes.
    fn agent(&self, name: &str, left: usize, fate: Fate) -> Arc<Stores> {
        let left = Arc::new(AtomicUsize::new(left));
        let dying = |store: &Arc<Memory>, meanwhile: &Meanwhile| -> Box<dyn TokenStore> {
            Box::new(Dying {
                store: store.clone(),
                left: left.clone(),
                fate,
                meanwhile: meanwhile.clone(),
            })
        };
        let noted = self.noted.clone();
        let note = move |place: Option<Place>| {
            let mut noted = noted.lock().unwrap();
            *noted = place.unwrap_or(*noted);
            Ok(*noted)
        };
        let shared = dying(&self.shared, &self.before_shared);
        Arc::new(Stores::new(
            dying(&self.local, &self.before_local),
            shared,
            Box::new(note),
            name.to_owned(),
        ))
    }

    fn healthy(&self) -> Arc<Stores> {
        self.agent("n1", usize::MAX, Fate::Answered)
    }

    /// In how many stores the token counts.
    fn counts(&self) -> usize {
        let counts = |store: &Memory| {
            let records = store.records.lock().unwrap();
            records
                .values()
                .filter(|stored| stored.record.transit().is_none())
                .count()
        };
        counts(&self.local) + counts(&self.shared)
    }
}

fn use_store(stores: &Stores, place: Place) -> Result<usize, StoreError> {
    match place {
        Place::Cluster => stores.use_cluster()?,
        Place::Local | Place::ToLocal => stores.use_local(Taken::All)?,
    }
    stores.move_all()
}

fn issue(stores: &Arc<Stores>, key: &TokenDigest) {
    let issued = Records::new(Box::new(stores.clone())).edit(Flush::Now, key, |record| {
        let terms = Terms::lasting(Lifetime::OneUse);
        *record = Some(TokenRecord::issue(&terms, 0, Issuer::Uid(0)));
    });
    issued.unwrap();
}

fn revoke(stores: &Arc<Stores>, key: &TokenDigest) -> bool {
    let revoked = Records::new(Box::new(stores.clone())).edit(Flush::Now, key, |record| {
        let record = record.as_mut().expect("no token is lost");
        record.revoke(1, 0)
    });
    revoked.unwrap()
}

#[test]
fn a_token_counts_in_one_store_wherever_its_move_is_cut_off_and_is_lost_in_none() {
    let places = [Place::Local, Place::Cluster];
    for (from, to) in [
        (Place::Local, Place::Cluster),
        (Place::Cluster, Place::Local),
    ] {
        for fate in [Fate::RequestLost, Fate::AnswerLost] {
            let mut steps = 1;
            loop {
                let world = World::new();
                let first = world.healthy();
                use_store(&first, from).unwrap();
                issue(&first, &key());
                let cut_off = use_store(&world.agent("n1", steps, fate), to);
                assert!(world.counts() <= 1, "{to:?}, {steps}");
                for then in places {
                    let stores = world.healthy();
                    use_store(&stores, then).unwrap();
                    assert!(stores.read(&key()).unwrap().is_some(), "{to:?}, {steps}");
                    assert_eq!(world.counts(), 1, "{to:?}, {steps}");
                }
                assert!(revoke(&world.healthy(), &key()));
                assert!(!revoke(&world.healthy(), &key()));
                if cut_off.is_ok() {
                    break;
                }
                steps += 1;
            }
            assert_eq!(steps, 6, "each step was cut off once");
        }
    }
}

#[test]
fn a_token_that_is_needed_amid_its_move_is_moved_at_once_and_a_deleted_one_does_not_come_back() {
    for deleted in [false, true] {
        for steps in 1..=5 {
            let world = World::new();
            issue(&world.healthy(), &key());
            let _ = use_store(&world.agent("n1", steps, Fate::AnswerLost), Place::Cluster);
            let has_counted = world.counts() == 1;
            if deleted && has_counted {
                // By hand, or by a prune on another node.
                world.shared.records.lock().unwrap().clear();
            }
            let found = world.healthy().read(&key()).unwrap();
            assert_eq!(found.is_some(), !(deleted && has_counted), "{steps}");
        }
    }
}

#[test]
fn a_token_that_is_unknown_waits_for_no_token_that_is_moved() {
    let stores = World::new().healthy();
    use_store(&stores, Place::Cluster).unwrap();
    let _moving = stores.moving.lock().unwrap();
    let (told, answer) = std::sync::mpsc::channel();
    let reader = stores.clone();
    std::thread::spawn(move || told.send(reader.read(&key()).unwrap().is_none()));
    let limit = std::time::Duration::from_secs(10);
    assert_eq!(answer.recv_timeout(limit), Ok(true));
}

#[test]
fn a_token_that_moves_between_two_reads_is_found() {
    for (from, to) in [
        (Place::Local, Place::Cluster),
        (Place::Cluster, Place::Local),
    ] {
        let world = World::new();
        let stores = world.healthy();
        use_store(&stores, from).unwrap();
        issue(&stores, &key());
        let read_last = match from {
            Place::Cluster => &world.before_shared,
            Place::Local | Place::ToLocal => &world.before_local,
        };
        let mover = stores.clone();
        *lock(read_last) = Some(Box::new(move || {
            use_store(&mover, to).unwrap();
        }));
        assert!(stores.read(&key()).unwrap().is_some(), "{from:?}");
        assert!(lock(read_last).is_none());
    }
}

#[test]
fn a_list_misses_no_token_that_comes_to_the_own_store_meanwhile() {
    let world = World::new();
    let stores = world.healthy();
    use_store(&stores, Place::Cluster).unwrap();
    issue(&stores, &key());
    stores.use_local(Taken::All).unwrap();
    let mover = stores.clone();
    *lock(&world.before_shared) = Some(Box::new(move || {
        mover.read(&key()).unwrap();
    }));
    let mut listed = 0;
    let take = &mut |_, _| {
        listed += 1;
        ControlFlow::Continue(())
    };
    stores.list("", take).unwrap();
    assert_eq!(listed, 1);
}

#[test]
fn a_copy_that_arrives_when_the_token_is_gone_is_taken_away() {
    let world = World::new();
    let stores = world.healthy();
    issue(&stores, &key());
    let copy = stores.local.read(&key()).unwrap().unwrap().record;
    use_store(&stores, Place::Cluster).unwrap();
    world.shared.records.lock().unwrap().clear();
    let copy = copy.with_transit(stores.transit(TransitPhase::Arriving));
    swap(stores.shared.as_ref(), &key(), None, Some(copy)).unwrap();
    assert_eq!(stores.read(&key()).unwrap(), None);
    assert!(world.shared.records.lock().unwrap().is_empty());
}

#[test]
fn a_token_that_another_node_moves_can_be_asked_for_later_and_is_left_alone() {
    let world = World::new();
    issue(&world.healthy(), &key());
    let _ = use_store(&world.agent("n1", 2, Fate::AnswerLost), Place::Cluster);
    let other = World {
        local: Arc::default(),
        ..world.clone()
    };
    let stores = other.agent("n2", usize::MAX, Fate::Answered);
    let error = stores.read(&key()).unwrap_err();
    assert_eq!(error.retry_after(), Some(MOVED));
    stores.move_all().unwrap();
    use_store(&world.healthy(), Place::Cluster).unwrap();
    assert!(stores.read(&key()).unwrap().is_some());
}

#[test]
fn a_node_that_is_to_use_its_own_store_takes_what_it_issued_and_leaves_the_rest() {
    let world = World::new();
    let stores = world.healthy();
    use_store(&stores, Place::Cluster).unwrap();
    let keys = ["a", "b"].map(|letter| {
        let token = crate::model::token::Token::presented(&letter.repeat(32));
        token.digest()
    });
    for (key, node) in keys.iter().zip(["n1", "n2"]) {
        issue(&stores, key);
        let issued_on =
            Records::new(Box::new(stores.clone())).edit(Flush::Now, key, move |record| {
                record.as_mut().unwrap().set_issued_on(node);
            });
        issued_on.unwrap();
    }
    stores.use_local(Taken::Own).unwrap();
    stores.move_all().unwrap();
    assert_eq!(stores.place().unwrap(), Place::Local);
    assert!(stores.read(&keys[0]).unwrap().is_some());
    assert!(stores.read(&keys[1]).unwrap().is_none());
    assert!(world.shared.records.lock().unwrap().contains_key(&keys[1]));
}

#[test]
fn tokens_that_are_used_while_they_are_moved_to_and_fro_are_used_once_each() {
    const TOKENS: usize = 60;
    let world = World::new();
    let stores = world.healthy();
    let keys: Vec<TokenDigest> = (0..TOKENS)
        .map(|n| crate::model::token::Token::presented(&format!("{n:032}")).digest())
        .collect();
    for key in &keys {
        issue(&stores, key);
    }
    let used: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| keys.iter().filter(|key| revoke(&stores, key)).count()))
            .collect();
        for round in 0..10 {
            let place = [Place::Cluster, Place::Local][round % 2];
            use_store(&stores, place).unwrap();
        }
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!((used, world.counts()), (TOKENS, TOKENS));
}
