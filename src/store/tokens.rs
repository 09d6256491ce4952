//! The tokens of this node: who may join with which, and what became of it.
//!
//! A token is looked at first and taken last. While a join is being admitted its token is held in
//! memory, which a failure or the end of the program gives back. What the life of a token is, and
//! who may use it again, is [`TokenRecord`]'s business; here it is kept, together with MicroK8s's own
//! token files, and every step is written to the audit log.

mod certificates;
mod expiry;
mod reports;
mod reservation;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::base::clock::Clock;
use crate::base::mutex::lock;
use crate::model::cluster_id::{ClusterId, CurrentCluster};
use crate::model::node::JoiningNode;
use crate::model::token::{Token, TokenDigest};
use crate::model::token_record::{
    Added, Grant, GrantedTerms, Issuer, JoinRequest, LEASE, Reason, Refusal, TokenEvent,
    TokenRecord,
};
use crate::model::token_terms::{Lifetime, Terms};
use crate::store::admissions::Admissions;
use crate::store::audit::{self, Actor};
use crate::store::database::{Database, Flush, StoreError};
use crate::store::layout::Layout;
use crate::store::token_file::TokenFile;
use crate::store::token_files::{self, Listed};
use crate::store::token_store::{self, LocalStore, NextChange, Place, Records, Stores, TokenStore};

use expiry::KEPT;
pub(crate) use expiry::ListedToken;
pub(crate) use reservation::Reservation;

/// The tokens of this node.
pub(crate) struct Tokens {
    records: Records,
    stores: Arc<Stores>,
    admissions: Admissions,
    database: Arc<Database>,
    cluster_file: TokenFile,
    persistent_file: TokenFile,
    certificate_file: TokenFile,
    clock: Arc<dyn Clock>,
    /// In which cluster the node is.
    cluster: AskCluster,
    /// For how many seconds a node may use again what it used.
    window: i64,
    /// How far the shared store of which cluster was seen to have come, and when that was written
    /// down.
    revision: Mutex<Option<(ClusterId, u64, i64)>>,
    /// What the whole store was last brought up to.
    settled_for: Mutex<Option<(CurrentCluster, i64)>>,
    /// Who holds which token while it is being admitted, and in how many requests.
    held: Mutex<HashMap<TokenDigest, Vec<(JoiningNode, usize)>>>,
    /// Tokens with which control plane nodes join that the datastore does not list yet.
    awaited: Mutex<HashSet<TokenDigest>>,
}

/// Tells in which cluster the node is.
pub(crate) type AskCluster = Arc<dyn Fn() -> CurrentCluster + Send + Sync>;

/// By what tokens are judged at some time.
#[derive(Clone)]
struct Moment {
    now: i64,
    window: i64,
    cluster: CurrentCluster,
    /// The name of this node.
    node: String,
}

impl Moment {
    /// Does what has happened to a token meanwhile.
    fn reconcile(
        &self,
        record: &mut TokenRecord,
        is_member: impl Fn(&JoiningNode) -> Option<bool>,
    ) -> Vec<TokenEvent> {
        let mut events = record.reconcile(self.now, self.window, is_member);
        events.extend(record.keep_to(&self.cluster, self.now));
        events
    }

    /// A token is issued in this cluster, perhaps once more.
    fn issue(
        &self,
        record: Option<TokenRecord>,
        terms: &Terms,
        issuer: Issuer,
    ) -> (TokenRecord, Option<Added>) {
        let (mut record, added) = match record {
            None => (TokenRecord::issue(terms, self.now, issuer), None),
            Some(mut record) => {
                let added = record.add(terms, self.now, issuer);
                (record, Some(added))
            }
        };
        record.keep_to(&self.cluster, self.now);
        record.set_issued_on(&self.node);
        (record, added)
    }

    /// A line in MicroK8s's file issues a token for one use, whatever it was before.
    fn issue_by_line(&self, record: Option<TokenRecord>) -> TokenRecord {
        let terms = Terms::lasting(Lifetime::OneUse);
        self.issue(record, &terms, Issuer::TokenFile).0
    }
}

/// Which control plane nodes the datastore lists, of those that were asked for.
type Members = HashMap<JoiningNode, bool>;

fn members_of(record: &TokenRecord, is_member: &dyn Fn(&JoiningNode) -> bool) -> Members {
    record
        .awaited()
        .map(|node| (node.clone(), is_member(node)))
        .collect()
}

/// A token that would admit a node, as it was judged.
#[derive(Clone)]
struct Found {
    source: Source,
    /// What the datastore says of the control plane nodes that joined with it.
    members: Members,
    /// Its record in the store.
    stored: Option<TokenRecord>,
}

/// Where a token was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// In the store.
    Store(Grant),
    /// In MicroK8s's file, for one use.
    Line,
    /// In one of MicroK8s's files, for any number of uses.
    OpenLine,
}

impl Source {
    fn is_counted(self) -> bool {
        matches!(self, Self::Store(Grant::Counted) | Self::Line)
    }
}

impl Tokens {
    /// The tokens of the node of this name; `make_shared` makes the store that the control planes of a
    /// cluster share. The database is opened lazily, so that an unusable one only affects what needs it.
    pub(crate) fn new(
        layout: &Layout,
        clock: Arc<dyn Clock>,
        window: i64,
        cluster: AskCluster,
        name: String,
        make_shared: impl FnOnce(NextChange) -> Box<dyn TokenStore>,
    ) -> Self {
        let time = clock.clone();
        let due: NextChange = Arc::new(move |record: &TokenRecord| {
            record.next_change(time.unix_seconds(), window, KEPT)
        });
        let (time, next, again) = (clock.clone(), due.clone(), due.clone());
        let void_all = move |transaction: &redb::WriteTransaction| {
            token_store::void_all(transaction, time.unix_seconds(), &*next)
        };
        let database = Arc::new(Database::new(
            layout.token_database(),
            layout.token_counter(),
            clock.clone(),
            Box::new(void_all),
            Box::new(move |transaction| token_store::carry_over(transaction, &*again)),
        ));
        let noted = database.clone();
        let stores = Arc::new(Stores::new(
            Box::new(LocalStore::new(database.clone(), due.clone())),
            make_shared(due),
            Box::new(move |place| token_store::place(&noted, place)),
            name,
        ));
        let file = |name| TokenFile::new(layout.credential(name));
        Self {
            records: Records::new(Box::new(stores.clone())),
            stores,
            admissions: Admissions::new(database.clone(), cluster.clone()),
            database,
            cluster_file: file(token_files::CLUSTER_TOKENS),
            persistent_file: file(token_files::PERSISTENT_TOKENS),
            certificate_file: file(token_files::CERTIFICATE_TOKENS),
            clock,
            cluster,
            window,
            revision: Mutex::default(),
            settled_for: Mutex::default(),
            held: Mutex::default(),
            awaited: Mutex::default(),
        }
    }

    /// What those who look after tokens have to know of the database.
    pub(crate) fn notices(&self) -> Vec<String> {
        let damaged = self.database.damaged_files();
        damaged
            .iter()
            .map(|(path, time)| {
                format!(
                    "the token database was damaged, and was set aside at {time} as `{}`: tokens that were issued before are unknown, add them again; remove that file when it is of no more use",
                    path.display()
                )
            })
            .collect()
    }

    /// Whether the control plane nodes of the cluster share their tokens, so that each admits nodes
    /// with a token that another one issued.
    pub(crate) fn are_shared(&self) -> bool {
        self.stores
            .place()
            .is_ok_and(|place| place == Place::Cluster)
    }

    /// The nodes that were admitted.
    pub(crate) fn admissions(&self) -> &Admissions {
        &self.admissions
    }

    /// The stores that they are in.
    pub(crate) fn stores(&self) -> &Stores {
        &self.stores
    }

    /// The clock that tokens live by.
    pub(crate) fn now(&self) -> i64 {
        self.clock.unix_seconds()
    }

    fn moment(&self) -> Moment {
        Moment {
            now: self.now(),
            window: self.window,
            cluster: (self.cluster)(),
            node: self.stores.name().to_owned(),
        }
    }

    /// When a node that is admitted now, and does not report, counts as failed.
    pub(crate) fn lease_end(&self) -> i64 {
        self.now().saturating_add(LEASE.max(self.window))
    }

    /// Issues a token and says what it is good for. Of one that is issued once more this tells how
    /// that changed it.
    pub(crate) fn add(
        &self,
        token: &Token,
        terms: &Terms,
        uid: u32,
    ) -> Result<(GrantedTerms, Option<Added>), StoreError> {
        let (digest, moment) = (token.digest(), self.moment());
        let terms = terms.clone();
        let issue = move |record: &mut Option<TokenRecord>| {
            let events = record
                .as_mut()
                .map_or_else(Vec::new, |record| moment.reconcile(record, |_| None));
            let (issued, added) = moment.issue(record.take(), &terms, Issuer::Uid(uid));
            let granted = issued.grant(moment.now);
            *record = Some(issued);
            (events, granted, added)
        };
        let (events, granted, added) = self.records.edit(Flush::Now, &digest, issue)?;
        self.note(&digest, &events)?;
        let event = match &added {
            None => "issued",
            Some(added) if added.was_over => "revived",
            Some(_) => "renewed",
        };
        audit::write(event, &digest, Actor::Uid(uid), None, "ok");
        Ok((granted, added))
    }

    /// Whether a token would let this node in now; changes nothing.
    pub(crate) fn check(
        &self,
        token: &Token,
        claim: &JoinRequest,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let (digest, holders) = (token.digest(), self.holders(&token.digest()));
        let stored = self.records.read(&digest)?;
        let judged = self.judge(token, claim, &holders, &is_member, stored)?;
        Ok(judged.map(|_| ()))
    }

    /// Holds a token for a node. Of any number of nodes that present a one-time token at the same
    /// moment, one gets it. `is_member` tells whether the datastore lists a control plane node.
    pub(crate) fn reserve(
        &self,
        token: &Token,
        claim: &JoinRequest,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<Result<Reservation<'_>, Refusal>, StoreError> {
        let digest = token.digest();
        let holders = self.holders(&digest);
        let stored = self.records.find(&digest, Some)?;
        let (found, record) = match self.judge(token, claim, &holders, &is_member, stored)? {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(record) = record
            && found.source.is_counted()
        {
            // Others may have come to hold it while files and the datastore were looked at. One that
            // was admitted meanwhile is noticed when the use is written down.
            let mut held = lock(&self.held);
            let all = held.entry(digest).or_default();
            if let Err(refusal) = record.judge(claim, &nodes_of(all), self.now(), self.window) {
                if all.is_empty() {
                    held.remove(&digest);
                }
                return Ok(Err(refusal));
            }
            match all.iter_mut().find(|(node, _)| *node == claim.node) {
                Some((_, requests)) => *requests += 1,
                None => all.push((claim.node.clone(), 1)),
            }
        }
        self.audit_join("reserved", &digest, &claim.node, &claim.role.to_string());
        Ok(Ok(Reservation {
            tokens: self,
            token: token.clone(),
            claim: claim.clone(),
            found,
            is_committed: false,
        }))
    }

    /// Finds what would admit the node, with the record that does; without one where a line does that
    /// admits any number.
    fn judge(
        &self,
        token: &Token,
        claim: &JoinRequest,
        holders: &[JoiningNode],
        is_member: &dyn Fn(&JoiningNode) -> bool,
        stored: Option<TokenRecord>,
    ) -> Result<Result<(Found, Option<TokenRecord>), Refusal>, StoreError> {
        if !token.is_well_formed() {
            return Ok(Err(Reason::Unknown.into()));
        }
        let moment = self.moment();
        let now = moment.now;
        let mut record = stored.clone();
        let mut found = Found {
            source: Source::OpenLine,
            members: Members::new(),
            stored,
        };
        if self.persistent_file.look_up(token, now)?.is_usable() {
            return Ok(Ok((found, None)));
        }
        let mut refusal = None;
        if let Some(record) = &mut record {
            found.members = members_of(record, is_member);
            moment.reconcile(record, |node| found.members.get(node).copied());
            match record.judge(claim, holders, now, self.window) {
                Ok(grant) => {
                    found.source = Source::Store(grant);
                    return Ok(Ok((found, Some(record.clone()))));
                }
                Err(why) => refusal = Some(why),
            }
        }
        let mut in_file = self.cluster_file.look_up(token, now)?;
        if in_file == Listed::Open && record.as_ref().is_some_and(TokenRecord::has_line) {
            // The line of a use that a crash kept from being taken out.
            self.take_line_out(token)?;
            in_file = Listed::Not;
        }
        // A line that was used up between the two looks has become a record of the token.
        if in_file == Listed::Not {
            let present = self.records.read(&token.digest())?;
            if present != found.stored {
                return self.judge(token, claim, holders, is_member, present);
            }
        }
        Ok(match in_file {
            Listed::Until(_) => Ok((found, None)),
            // The line counts from the moment it is written, also for a token used before.
            Listed::Open => {
                found.source = Source::Line;
                let issued = moment.issue_by_line(record);
                let judged = issued.judge(claim, holders, now, self.window);
                judged.map(|_| (found, Some(issued)))
            }
            Listed::Expired => Err(refusal.unwrap_or_else(|| Reason::Expired.into())),
            Listed::Not => Err(refusal.unwrap_or_else(|| Reason::Unknown.into())),
        })
    }

    /// Writes down what happened to a token by itself.
    fn note(&self, digest: &TokenDigest, events: &[TokenEvent]) -> Result<(), StoreError> {
        for event in events {
            audit_happening(digest, event);
            if let TokenEvent::LeaseRanOut(node) = event {
                self.admissions.fail(digest, node, true)?;
            }
        }
        Ok(())
    }

    /// Takes a token that was used out of MicroK8s's file, and remembers that it is.
    fn take_line_out(&self, token: &Token) -> Result<(), StoreError> {
        self.cluster_file.consume(token)?;
        self.records.edit(Flush::Soon, &token.digest(), |record| {
            if let Some(record) = record {
                record.set_has_line(false);
            }
        })
    }

    fn holders(&self, digest: &TokenDigest) -> Vec<JoiningNode> {
        lock(&self.held)
            .get(digest)
            .map(|all| nodes_of(all))
            .unwrap_or_default()
    }

    fn audit_join(
        &self,
        event: &'static str,
        token: &TokenDigest,
        node: &JoiningNode,
        outcome: &str,
    ) {
        audit::write(
            event,
            token,
            Actor::Address(node.address),
            Some(node),
            outcome,
        );
    }
}

/// A token that a line in one of MicroK8s's files issues for any number of uses.
fn by_open_line(moment: &Moment) -> TokenRecord {
    let mut record = TokenRecord::of_line(moment.now);
    record.keep_to(&moment.cluster, moment.now);
    record
}

fn audit_happening(digest: &TokenDigest, event: &TokenEvent) {
    let (event, node, outcome) = match event {
        TokenEvent::LeaseRanOut(node) => {
            ("released", Some(node), "nothing more was heard of the join")
        }
        TokenEvent::Listed(node) => ("used", Some(node), "the datastore lists the node"),
        TokenEvent::WindowClosed(node) => ("used", Some(node), "the time to try again is over"),
        TokenEvent::Expired => ("expired", None, "ok"),
        TokenEvent::Void(why) => ("void", None, why.as_str()),
    };
    audit::write(event, digest, Actor::Agent, node, outcome);
}

fn nodes_of(held: &[(JoiningNode, usize)]) -> Vec<JoiningNode> {
    held.iter().map(|(node, _)| node.clone()).collect()
}
