//! The two stores of a node: its own database, and the one that the control planes of a cluster
//! share.
//!
//! One of them is in use. When that changes, the tokens move, each on its own, when it is needed or
//! when its turn comes. A token counts in one store at any moment, wherever the move ends:
//!
//! 1. its record is marked as leaving, and does not count from then on;
//! 2. a copy is made in the other store, marked as arriving, which does not count yet;
//! 3. the record is marked as left, after which no copy is made of it again;
//! 4. the mark of the copy is taken away: the copy counts;
//! 5. the record is deleted.
//!
//! Each step is one compare-and-swap, and the marks tell which one is next. Who moves a token is
//! noted, and no other node goes on with it.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard};

use strum::FromRepr;

use crate::base::mutex::lock;
use crate::model::token::TokenDigest;
use crate::model::token_record::{TokenRecord, Transit, TransitPhase};
use crate::store::database::{Flush, StoreError};
use crate::store::token_store::{self, ChangeId, Stored, Swap, TokenStore};

/// After how many seconds a token is there again that another node moves.
const MOVED: u64 = 5;
/// How many steps a move has at most, those included that another node's change has repeated.
const STEPS: usize = 50;

/// Which store is in use. The numbers are those in the database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromRepr)]
#[repr(u8)]
pub(crate) enum Place {
    /// The node's own.
    #[default]
    Local = 0,
    /// The cluster's.
    Cluster = 1,
    /// The node's own, and tokens may still be in the cluster's.
    ToLocal = 2,
}

impl Place {
    /// What the log says.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "tokens are kept on this node",
            Self::Cluster => {
                "tokens are kept in the cluster's API: every control plane accepts them"
            }
            Self::ToLocal => {
                "tokens are kept on this node, and those in the cluster's API are fetched"
            }
        }
    }
}

/// Which tokens of the cluster's store come to this node's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Those that this node issued.
    #[default]
    Own,
    /// All: there is no other control plane.
    All,
}

/// Remembers which store is in use, also when the agent is started again: writes it, where one is
/// given, and reads it.
pub(crate) type Note = Box<dyn Fn(Option<Place>) -> Result<Place, StoreError> + Send + Sync>;

/// Both stores.
pub(crate) struct Stores {
    local: Box<dyn TokenStore>,
    shared: Box<dyn TokenStore>,
    note: Note,
    /// This node's name.
    name: String,
    state: Mutex<State>,
    /// One token at a time is moved, and none while the store in use changes.
    moving: Mutex<()>,
}

#[derive(Default)]
struct State {
    place: Option<Place>,
    /// How often that was changed.
    changes: u64,
    logged: Option<Place>,
    taken: Taken,
    /// The cluster's store was searched for what this node began to move before.
    is_searched: bool,
}

/// One of the stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Local,
    Shared,
}

impl Side {
    /// A version of a record there, as callers know it.
    fn version(self, version: &str) -> String {
        match self {
            Self::Local => format!("l{version}"),
            Self::Shared => format!("s{version}"),
        }
    }

    /// Where a record is of this version, and its version there.
    fn of(version: &str) -> Option<(Self, &str)> {
        match version.split_at_checked(1)? {
            ("l", version) => Some((Self::Local, version)),
            (_, version) => Some((Self::Shared, version)),
        }
    }
}

impl Stores {
    /// The stores of the node of this name; `shared` is the cluster's.
    pub(crate) fn new(
        local: Box<dyn TokenStore>,
        shared: Box<dyn TokenStore>,
        note: Note,
        name: String,
    ) -> Self {
        Self {
            local,
            shared,
            note,
            name,
            state: Mutex::default(),
            moving: Mutex::default(),
        }
    }

    /// The name of this node.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Which store is in use.
    pub(crate) fn place(&self) -> Result<Place, StoreError> {
        if let Some(place) = self.state().place {
            return Ok(place);
        }
        let place = (self.note)(None)?;
        Ok(*self.state().place.get_or_insert(place))
    }

    /// Uses the cluster's store from now on.
    pub(crate) fn use_cluster(&self) -> Result<(), StoreError> {
        self.change(Place::Cluster, Taken::Own)
    }

    /// Uses this node's own store from now on. `taken` tells which tokens come to it.
    pub(crate) fn use_local(&self, taken: Taken) -> Result<(), StoreError> {
        match self.place()? {
            Place::Local => Ok(()),
            Place::Cluster | Place::ToLocal => self.change(Place::ToLocal, taken),
        }
    }

    fn change(&self, place: Place, taken: Taken) -> Result<(), StoreError> {
        let _moving = lock(&self.moving);
        let is_new = self.place()? != place;
        if is_new {
            (self.note)(Some(place))?;
        }
        let mut state = self.state();
        (state.place, state.taken) = (Some(place), taken);
        state.changes += u64::from(is_new);
        Ok(())
    }

    /// Logs which store is in use, unless that was logged last.
    pub(crate) fn log_place(&self) -> Result<(), StoreError> {
        let place = self.place()?;
        if self.state().logged.replace(place) != Some(place) {
            tracing::info!("{}", place.as_str());
        }
        Ok(())
    }

    /// Whether the cluster's store answers.
    pub(crate) fn answers(&self) -> bool {
        self.shared.revision().is_ok()
    }

    /// Moves what is still in the store that is not in use. Says how many tokens that were.
    pub(crate) fn move_all(&self) -> Result<usize, StoreError> {
        let place = self.place()?;
        if place == Place::Local {
            return Ok(0);
        }
        let mut moved = self.settle_those(self.local.as_ref(), |record| {
            place == Place::Cluster || record.transit().is_some()
        })?;
        let is_searched = self.state().is_searched;
        if place == Place::ToLocal || !is_searched {
            moved += self.settle_those(self.shared.as_ref(), |record| {
                let transit = record.transit();
                let is_own = transit.is_some_and(|transit| transit.by == self.name);
                is_own || (place == Place::ToLocal && self.takes(record))
            })?;
        }
        self.state().is_searched = true;
        if place == Place::ToLocal && self.place()? == place {
            let taken = self.state().taken;
            self.change(Place::Local, taken)?;
        }
        Ok(moved)
    }

    /// Brings the tokens in a store for which this holds to the one in use; says how many.
    fn settle_those(
        &self,
        store: &dyn TokenStore,
        holds: impl Fn(&TokenRecord) -> bool,
    ) -> Result<usize, StoreError> {
        let mut settled = 0;
        let _: ControlFlow<()> = token_store::in_batches(store, "", |batch| {
            for (key, _) in batch.iter().filter(|(_, record)| holds(record)) {
                self.settle(key)?;
                settled += 1;
            }
            Ok::<_, StoreError>(ControlFlow::Continue(()))
        })?;
        Ok(settled)
    }

    /// Whether a token of the cluster's store comes to this node.
    fn takes(&self, record: &TokenRecord) -> bool {
        self.state().taken == Taken::All || record.issued_on() == Some(&self.name)
    }

    /// The record of a token, wherever it counts.
    fn find(&self, key: &TokenDigest) -> Result<Option<(Side, Stored)>, StoreError> {
        let changes = self.state().changes;
        let place = self.place()?;
        // The own store is read first: what is not there any more is in the other one by then.
        let own = self.local.read(key)?;
        let (side, found) = match (place, own) {
            (Place::Cluster, None) => (Side::Shared, self.shared.read(key)?),
            (Place::Cluster, Some(_)) => return self.settle(key),
            (Place::Local | Place::ToLocal, own) => (Side::Local, own),
        };
        match found {
            Some(stored) if stored.record.transit().is_none() => Ok(Some((side, stored))),
            // Had the store in use changed meanwhile, the token could have moved past both reads.
            None if place != Place::ToLocal && self.state().changes == changes => Ok(None),
            _ => self.settle(key),
        }
    }

    /// Brings a token to the store in use, by as many steps as are left, and gives its record.
    fn settle(&self, key: &TokenDigest) -> Result<Option<(Side, Stored)>, StoreError> {
        let (own, clusters) = (self.local.as_ref(), self.shared.as_ref());
        let _moving = lock(&self.moving);
        for _ in 0..STEPS {
            let place = self.place()?;
            let (local, away) = (own.read(key)?, clusters.read(key)?);
            let phase = |stored: &Option<Stored>| {
                let transit = stored.as_ref()?.record.transit()?;
                Some(transit.phase)
            };
            let is_others = away.as_ref().is_some_and(|stored| {
                let transit = stored.record.transit();
                transit.is_some_and(|transit| transit.by != self.name)
            });
            if is_others {
                return Err(StoreError::Unavailable {
                    why: "another node moves the token to another store".to_owned(),
                    seconds: MOVED,
                    is_unsure: false,
                });
            }
            let leaves = |phase| matches!(phase, Some(TransitPhase::Leaving | TransitPhase::Left));
            match (local, away) {
                (local, away) if leaves(phase(&local)) => {
                    self.step(key, (own, local), (clusters, away))?;
                }
                (local, away) if leaves(phase(&away)) => {
                    self.step(key, (clusters, away), (own, local))?;
                }
                // A copy whose original is gone: it was deleted by hand, or the copy was made late.
                (Some(copy), _) if copy.record.transit().is_some() => {
                    swap(own, key, Some(copy), None)?;
                }
                (_, Some(copy)) if copy.record.transit().is_some() => {
                    swap(clusters, key, Some(copy), None)?;
                }
                (None, None) => return Ok(None),
                (Some(local), None) if place == Place::Cluster => {
                    self.leave(own, key, local)?;
                }
                // It was issued on two nodes: the one in the cluster's store counts.
                (Some(local), Some(_)) if place == Place::Cluster => {
                    tracing::warn!(
                        "the token {key} was issued on another node as well: what that one says of it counts"
                    );
                    swap(own, key, Some(local), None)?;
                }
                (_, Some(away)) if place == Place::Cluster => {
                    return Ok(Some((Side::Shared, away)));
                }
                (None, Some(away)) if place == Place::ToLocal && self.takes(&away.record) => {
                    self.leave(clusters, key, away)?;
                }
                (local, _) => return Ok(local.map(|stored| (Side::Local, stored))),
            }
        }
        Err(StoreError::Contended)
    }

    /// Begins to move a token.
    fn leave(
        &self,
        from: &dyn TokenStore,
        key: &TokenDigest,
        stored: Stored,
    ) -> Result<(), StoreError> {
        let mut next = stored.record.clone();
        if next.issued_on().is_none() {
            next.set_issued_on(&self.name);
        }
        let next = next.with_transit(self.transit(TransitPhase::Leaving));
        swap(from, key, Some(stored), Some(next))
    }

    /// Takes the next step of moving a token.
    fn step(
        &self,
        key: &TokenDigest,
        (from, original): (&dyn TokenStore, Option<Stored>),
        (to, copy): (&dyn TokenStore, Option<Stored>),
    ) -> Result<(), StoreError> {
        let Some(original) = original else {
            return Ok(());
        };
        let phase = |stored: &Stored| stored.record.transit().map(|transit| transit.phase);
        let has_left = phase(&original) == Some(TransitPhase::Left);
        let is_arriving = copy.as_ref().and_then(phase) == Some(TransitPhase::Arriving);
        match copy {
            Some(copy) if is_arriving && has_left => {
                let record = copy.record.clone().with_transit(None);
                swap(to, key, Some(copy), Some(record))
            }
            Some(_) if is_arriving => {
                let left = self.transit(TransitPhase::Left);
                let record = original.record.clone().with_transit(left);
                swap(from, key, Some(original), Some(record))
            }
            None if !has_left => {
                let arriving = self.transit(TransitPhase::Arriving);
                swap(to, key, None, Some(original.record.with_transit(arriving)))
            }
            // What is there counts; or it counted, and is gone.
            Some(_) | None => swap(from, key, Some(original), None),
        }
    }

    fn transit(&self, phase: TransitPhase) -> Option<Transit> {
        Some(Transit {
            phase,
            by: self.name.clone(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn side(&self, side: Side) -> &dyn TokenStore {
        match side {
            Side::Local => self.local.as_ref(),
            Side::Shared => self.shared.as_ref(),
        }
    }
}

/// One step; whether another one was first is seen at the next look.
fn swap(
    store: &dyn TokenStore,
    key: &TokenDigest,
    old: Option<Stored>,
    next: Option<TokenRecord>,
) -> Result<(), StoreError> {
    let swap = Swap {
        key: *key,
        expected: old.map(|stored| stored.version),
        next,
        change: ChangeId::new(),
        flush: Flush::Now,
    };
    store.swap(&[swap]).map(drop)
}

impl TokenStore for Arc<Stores> {
    fn read(&self, key: &TokenDigest) -> Result<Option<Stored>, StoreError> {
        Ok(self.find(key)?.map(|(side, stored)| Stored {
            version: side.version(&stored.version),
            ..stored
        }))
    }

    fn remembered(&self, key: &TokenDigest) -> Option<Stored> {
        let stored = self.shared.remembered(key)?;
        let is_there = self.place().ok()? == Place::Cluster
            && self.local.read(key).ok()?.is_none()
            && stored.record.transit().is_none();
        let version = Side::Shared.version(&stored.version);
        is_there.then_some(Stored { version, ..stored })
    }

    fn swap(&self, swaps: &[Swap]) -> Result<Vec<TokenDigest>, StoreError> {
        let in_use = match self.place()? {
            Place::Cluster => Side::Shared,
            Place::Local | Place::ToLocal => Side::Local,
        };
        let (mut local, mut shared) = (Vec::new(), Vec::new());
        for swap in swaps {
            let read = swap.expected.as_deref().and_then(Side::of);
            let swap = Swap {
                expected: read.map(|(_, version)| version.to_owned()),
                ..swap.clone()
            };
            match read.map_or(in_use, |(side, _)| side) {
                Side::Local => local.push(swap),
                Side::Shared => shared.push(swap),
            }
        }
        let mut conflicts = Vec::new();
        for (side, swaps) in [(Side::Local, local), (Side::Shared, shared)] {
            if !swaps.is_empty() {
                conflicts.extend(self.side(side).swap(&swaps)?);
            }
        }
        Ok(conflicts)
    }

    fn list(
        &self,
        beginning: &str,
        take: &mut dyn FnMut(TokenDigest, TokenRecord) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let place = self.place()?;
        let mut given = HashSet::new();
        let mut is_over = false;
        // What comes to the own store meanwhile may be missed in both: it is looked for once more.
        let sides: &[Side] = match place {
            Place::Local => &[Side::Local],
            Place::Cluster => &[Side::Local, Side::Shared],
            Place::ToLocal => &[Side::Local, Side::Shared, Side::Local],
        };
        for &side in sides {
            if is_over {
                break;
            }
            self.side(side).list(beginning, &mut |key, record| {
                // One that is on its way may be in both.
                let is_elsewhere =
                    side == Side::Shared && place == Place::ToLocal && !self.takes(&record);
                if is_elsewhere || given.contains(&key) {
                    return ControlFlow::Continue(());
                }
                if place == Place::ToLocal || (side == Side::Local && place == Place::Cluster) {
                    given.insert(key);
                }
                let flow = take(key, record);
                is_over = flow.is_break();
                flow
            })?;
        }
        Ok(())
    }

    fn due(&self, now: i64, limit: usize) -> Result<Vec<TokenDigest>, StoreError> {
        let side = match self.place()? {
            Place::Cluster => Side::Shared,
            Place::Local | Place::ToLocal => Side::Local,
        };
        self.side(side).due(now, limit)
    }

    fn revision(&self) -> Result<Option<u64>, StoreError> {
        match self.place()? {
            Place::Cluster => self.shared.revision(),
            Place::Local | Place::ToLocal => Ok(None),
        }
    }
}
