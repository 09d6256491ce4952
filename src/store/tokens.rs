//! The tokens of this node: who may join with which, and what became of it.
//!
//! A token is looked at first and taken last. While a join is being admitted its token is held in
//! memory, which a failure or the end of the program gives back. What the life of a token is, and
//! who may use it again, is [`Life`]'s business; here it is kept, together with MicroK8s's own
//! token files, and every step is written to the audit log.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::clock::Clock;
use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::model::token::{Token, TokenDigest};
use crate::model::token_life::{
    Added, Claim, Happening, Issuer, LEASE, Life, Reason, Refusal, Release, Way,
};
use crate::model::token_terms::{Lifetime, Terms};
use crate::store::admissions::{Admissions, AdmittedNode, CertificatePurpose, Right};
use crate::store::audit::{self, Actor};
use crate::store::database::{Database, StoreError};
use crate::store::layout::Layout;
use crate::store::token_file::TokenFile;
use crate::store::token_files::{self, Listed};
use crate::store::token_store::{self, LocalStore, TokenStore};

/// For how long, in seconds, a token is remembered after its end, so that whoever still uses it
/// is told what became of it.
const KEPT: i64 = 30 * 24 * 60 * 60;

/// How many tokens one pass of [`Tokens::sweep`] goes through at once.
const SWEEP_BATCH: usize = 1000;

/// The tokens of this node.
pub struct Tokens {
    store: Box<dyn TokenStore>,
    admissions: Admissions,
    cluster_file: TokenFile,
    persistent_file: TokenFile,
    certificate_file: TokenFile,
    clock: Arc<dyn Clock>,
    /// For how many seconds a node may use again what it used.
    window: i64,
    /// Who holds which token while it is being admitted, and in how many requests.
    held: Mutex<HashMap<TokenDigest, Vec<(JoiningNode, usize)>>>,
    /// Tokens with which control plane nodes join that the datastore does not list yet.
    awaited: Mutex<HashSet<TokenDigest>>,
}

/// A token that one joining node holds while it is being admitted; dropping it gives it back.
#[must_use]
pub struct Reservation<'a> {
    tokens: &'a Tokens,
    token: Token,
    claim: Claim,
    source: Source,
    /// The control plane nodes of this token that are members of the datastore by now.
    members: Vec<JoiningNode>,
    is_committed: bool,
}

/// Where a token was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// In the store.
    Store(Way),
    /// In MicroK8s's file, for one use.
    Line,
    /// In one of MicroK8s's files, for any number of uses.
    OpenLine,
}

impl Source {
    fn is_counted(self) -> bool {
        matches!(self, Self::Store(Way::Counted) | Self::Line)
    }
}

/// A certificate that a node may have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// What for.
    pub purpose: CertificatePurpose,
    /// Who; not known for a token that Canonical's agent issued.
    pub node: Option<JoiningNode>,
    /// The join token; not known for a token that Canonical's agent issued.
    join: Option<TokenDigest>,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedToken {
    /// Its SHA-256.
    pub digest: TokenDigest,
    /// What the store knows of it.
    pub life: Option<Life>,
    /// What stands in one of MicroK8s's files.
    pub in_file: Listed,
    /// Which file that is.
    pub file: Option<&'static str>,
}

impl Tokens {
    /// The node's tokens. Nothing is read before it is needed, so that a database of which nothing
    /// can be had keeps nobody from doing what can be done without it.
    pub fn new(layout: &Layout, clock: Arc<dyn Clock>, window: i64) -> Self {
        let database = Arc::new(Database::new(layout.token_database()));
        let time = clock.clone();
        let due = move |life: &Life| life.next_change(time.unix_seconds(), window, KEPT);
        let file = |name| TokenFile::new(layout.credential(name));
        Self {
            store: Box::new(LocalStore::new(database.clone(), due)),
            admissions: Admissions::new(database),
            cluster_file: file(token_files::CLUSTER_TOKENS),
            persistent_file: file(token_files::PERSISTENT_TOKENS),
            certificate_file: file(token_files::CERTIFICATE_TOKENS),
            clock,
            window,
            held: Mutex::default(),
            awaited: Mutex::default(),
        }
    }

    /// The nodes that were let in.
    pub fn admissions(&self) -> &Admissions {
        &self.admissions
    }

    /// The time by which tokens live.
    pub fn now(&self) -> i64 {
        self.clock.unix_seconds()
    }

    /// Issues a token, or issues it once more. What an earlier life of it left behind ends.
    pub fn add(&self, token: &Token, terms: &Terms, uid: u32) -> Result<(), StoreError> {
        let (digest, now, window) = (token.digest(), self.now(), self.window);
        let terms = terms.clone();
        let (happenings, added) = token_store::edit(self.store.as_ref(), &digest, move |life| {
            let Some(mut life) = life else {
                let life = Life::issue(&terms, now, Issuer::Uid(uid));
                return (Some(life), (Vec::new(), None));
            };
            let happenings = life.settle(now, window, |_| false);
            let added = life.add(&terms, now, Issuer::Uid(uid));
            (Some(life), (happenings, Some(added)))
        })?;
        audit_happenings(&digest, &happenings);
        if added == Some(Added::Revived) {
            self.admissions.end_rights(&[digest], None)?;
        }
        let event = match added {
            None => "issued",
            Some(Added::Renewed) => "renewed",
            Some(Added::Revived) => "revived",
        };
        audit::write(event, &digest, Actor::Uid(uid), None, "ok");
        Ok(())
    }

    /// Whether a token would let this node in now; changes nothing.
    pub fn check(
        &self,
        token: &Token,
        claim: &Claim,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let judged = self.judge(token, claim, &self.holders(&token.digest()), &is_member)?;
        Ok(judged.map(|_| ()))
    }

    /// Holds a token for a node. Of any number of nodes that present a one-time token at the same
    /// moment, one gets it. `is_member` tells whether the datastore lists a control plane node.
    pub fn reserve(
        &self,
        token: &Token,
        claim: &Claim,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<Result<Reservation<'_>, Refusal>, StoreError> {
        let digest = token.digest();
        let mut held = lock(&self.held);
        let holders: Vec<_> = held
            .get(&digest)
            .map(|all| nodes_of(all))
            .unwrap_or_default();
        let (source, members) = match self.judge(token, claim, &holders, &is_member)? {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if source.is_counted() {
            let all = held.entry(digest).or_default();
            match all.iter_mut().find(|(node, _)| *node == claim.node) {
                Some((_, requests)) => *requests += 1,
                None => all.push((claim.node.clone(), 1)),
            }
        }
        drop(held);
        self.audit_join("reserved", &digest, &claim.node, &claim.role.to_string());
        Ok(Ok(Reservation {
            tokens: self,
            token: token.clone(),
            claim: claim.clone(),
            source,
            members,
            is_committed: false,
        }))
    }

    fn judge(
        &self,
        token: &Token,
        claim: &Claim,
        holders: &[JoiningNode],
        is_member: &dyn Fn(&JoiningNode) -> bool,
    ) -> Result<Result<(Source, Vec<JoiningNode>), Refusal>, StoreError> {
        if token.expose().is_empty() {
            return Ok(Err(Reason::Unknown.into()));
        }
        let now = self.now();
        let digest = token.digest();
        let listed = look_up(&self.persistent_file, token, now)?;
        if matches!(listed, Listed::Open | Listed::Until(_)) {
            return Ok(Ok((Source::OpenLine, Vec::new())));
        }
        let stored = self.store.read(&digest)?;
        let mut life = stored.clone();
        let members: Vec<JoiningNode> = life
            .iter()
            .flat_map(Life::awaited)
            .filter(|node| is_member(node))
            .cloned()
            .collect();
        let mut refusal = None;
        if let Some(life) = &mut life {
            life.settle(now, self.window, |node| members.contains(node));
            match life.judge(claim, holders, now, self.window) {
                Ok(way) => return Ok(Ok((Source::Store(way), members))),
                Err(why) => refusal = Some(why),
            }
        }
        let mut in_file = look_up(&self.cluster_file, token, now)?;
        if in_file == Listed::Open && life.as_ref().is_some_and(Life::has_line) {
            // The line of a use that a crash kept from being taken out.
            self.take_line_out(token)?;
            in_file = Listed::Not;
        }
        // A line that was used up between the two looks has become a life of the token.
        if in_file == Listed::Not && self.store.read(&digest)? != stored {
            return self.judge(token, claim, holders, is_member);
        }
        Ok(match in_file {
            Listed::Until(_) => Ok((Source::OpenLine, members)),
            // The line counts from the moment it is written, also for a token used before.
            Listed::Open => issue_by_line(life, now)
                .judge(claim, holders, now, self.window)
                .map(|_| (Source::Line, members)),
            Listed::Expired => Err(refusal.unwrap_or_else(|| Reason::Expired.into())),
            Listed::Not => Err(refusal.unwrap_or_else(|| Reason::Unknown.into())),
        })
    }

    /// Whether a token gives any right to a certificate at all.
    pub fn gives_certificates(&self, token: &Token) -> Result<bool, StoreError> {
        let now = self.now();
        for (_, join) in join_tokens(token) {
            if self.admissions.has_right(&join.digest(), now)? {
                return Ok(true);
            }
        }
        Ok(self.right_in_file(token)?.is_some())
    }

    /// Finds the right to a certificate that this token gives to the node at `address`, without
    /// using it up. No other node's right counts.
    ///
    /// Several nodes may be joining with one token from one address: the one with the name in
    /// the request comes first. A kube-proxy names nobody; there a node comes first whose kubelet
    /// has no certificate yet.
    pub fn certificate_request(
        &self,
        token: &Token,
        address: IpAddr,
        name: Option<&str>,
    ) -> Result<Option<CertificateRequest>, StoreError> {
        let now = self.now();
        for (purpose, join) in join_tokens(token) {
            let join = join.digest();
            let found = self
                .admissions
                .rights(&join, address, now)?
                .into_iter()
                .filter(|right| right.purposes.contains(&purpose))
                .min_by_key(|right: &Right| {
                    let is_named = name == Some(right.node.name.as_str());
                    (
                        !is_named,
                        !right.purposes.contains(&CertificatePurpose::Kubelet),
                    )
                });
            if let Some(right) = found {
                return Ok(Some(CertificateRequest {
                    purpose,
                    node: Some(right.node),
                    join: Some(join),
                }));
            }
        }
        self.right_in_file(token)
    }

    /// The right that a line of Canonical's agent gives.
    fn right_in_file(&self, token: &Token) -> Result<Option<CertificateRequest>, StoreError> {
        let listed = look_up(&self.certificate_file, token, self.now())?;
        let purpose = CertificatePurpose::ALL
            .into_iter()
            .find(|purpose| token.expose().ends_with(purpose.suffix()));
        Ok(match (listed, purpose) {
            (Listed::Open | Listed::Until(_), Some(purpose)) => Some(CertificateRequest {
                purpose,
                node: None,
                join: None,
            }),
            _ => None,
        })
    }

    /// Uses the right up: the certificate is signed and may leave when this has returned `true`.
    /// The last one that the node needs completes its join.
    pub fn certificate_signed(
        &self,
        token: &Token,
        request: &CertificateRequest,
    ) -> Result<bool, StoreError> {
        let (Some(node), Some(join)) = (&request.node, &request.join) else {
            let file = &self.certificate_file;
            return file
                .consume(token)
                .map_err(|source| StoreError::file(file.path(), source));
        };
        let Some(left) = self.admissions.use_up(join, node, request.purpose)? else {
            return Ok(false);
        };
        if left == 0 {
            let by = node.clone();
            let used = self.change_try(join, node, move |life| life.serve(&by))?;
            self.admissions.set_complete(node, true)?;
            if used == Some(true) {
                self.audit_join("used", join, node, "its certificates are signed");
            }
        } else {
            let by = node.clone();
            self.change_try(join, node, move |life| life.hand_out(&by))?;
        }
        Ok(true)
    }

    /// A node that was let in says how its join ended. `None` when the token is not known, or did
    /// not let that node in.
    pub fn report(
        &self,
        token: &Token,
        node: &JoiningNode,
        has_joined: bool,
    ) -> Result<Option<Release>, StoreError> {
        let join = token.digest();
        let admitted = self
            .admissions
            .nodes_that(|other| other.node == *node && other.join == join)?;
        if admitted.is_empty() {
            return Ok(None);
        }
        let by = node.clone();
        if has_joined {
            let used = self.change_try(&join, node, move |life| life.complete(&by))?;
            self.admissions.set_complete(node, true)?;
            if used == Some(true) {
                self.audit_join("complete", &join, node, "the node says that it has joined");
            }
            return Ok(Some(Release::None));
        }
        let release = self
            .change_try(&join, node, move |life| life.fail(&by))?
            .unwrap_or(Release::None);
        self.admissions.end_rights(&[join], Some(node))?;
        self.admissions.set_complete(node, false)?;
        match release {
            Release::Free => self.audit_join(
                "released",
                &join,
                node,
                "the node says that its join failed",
            ),
            Release::KeptForNode => self.audit_join(
                "kept",
                &join,
                node,
                "the node says that its join failed; it may try again, and nobody else",
            ),
            Release::None => {}
        }
        Ok(Some(release))
    }

    /// Changes the life of a token when the node holds one of its counted uses.
    fn change_try<T: Send + 'static>(
        &self,
        join: &TokenDigest,
        node: &JoiningNode,
        mut change: impl FnMut(&mut Life) -> T + Send + 'static,
    ) -> Result<Option<T>, StoreError> {
        if !self
            .store
            .read(join)?
            .is_some_and(|life| life.has_try(node))
        {
            return Ok(None);
        }
        token_store::edit(self.store.as_ref(), join, move |life| {
            life.map_or((None, None), |mut life| {
                let value = change(&mut life);
                (Some(life), Some(value))
            })
        })
    }

    /// All tokens whose SHA-256 begins like this, those in MicroK8s's files as well.
    pub fn find(&self, beginning: &str) -> Result<Vec<ListedToken>, StoreError> {
        let now = self.now();
        let mut found: Vec<ListedToken> = self
            .store
            .find(beginning)?
            .into_iter()
            .map(|(digest, mut life)| {
                life.settle(now, self.window, |_| false);
                ListedToken {
                    digest,
                    life: Some(life),
                    in_file: Listed::Not,
                    file: None,
                }
            })
            .collect();
        let mut places: HashMap<TokenDigest, usize> = found
            .iter()
            .enumerate()
            .map(|(at, token)| (token.digest, at))
            .collect();
        for (file, name) in [
            (&self.cluster_file, token_files::CLUSTER_TOKENS),
            (&self.persistent_file, token_files::PERSISTENT_TOKENS),
        ] {
            let entries = file
                .entries(now)
                .map_err(|source| StoreError::file(file.path(), source))?;
            for (digest, in_file) in entries {
                if !digest.begins_with(beginning) {
                    continue;
                }
                let at = *places.entry(digest).or_insert_with(|| {
                    found.push(ListedToken {
                        digest,
                        life: None,
                        in_file,
                        file: None,
                    });
                    found.len() - 1
                });
                (found[at].in_file, found[at].file) = (in_file, Some(name));
            }
        }
        Ok(found)
    }

    /// Takes tokens back. Says which of them could still have let somebody in.
    pub fn revoke(&self, tokens: &[ListedToken], uid: u32) -> Result<Vec<TokenDigest>, StoreError> {
        let digests: Vec<TokenDigest> = tokens.iter().map(|token| token.digest).collect();
        let (now, window) = (self.now(), self.window);
        let was_alive = token_store::edit_all(self.store.as_ref(), &digests, move |life| {
            let mut life = life.unwrap_or_else(|| by_line(now));
            life.settle(now, window, |_| false);
            let was_alive = life.revoke(now, uid);
            (Some(life), was_alive)
        })?;
        let in_files: HashSet<TokenDigest> = tokens
            .iter()
            .filter(|token| token.in_file != Listed::Not)
            .map(|token| token.digest)
            .collect();
        for file in [&self.cluster_file, &self.persistent_file] {
            file.take_out(&in_files)
                .map_err(|source| StoreError::file(file.path(), source))?;
        }
        self.admissions.end_rights(&digests, None)?;
        let mut revoked = Vec::new();
        for token in tokens {
            let digest = token.digest;
            let is_listed = matches!(token.in_file, Listed::Open | Listed::Until(_));
            if is_listed || was_alive.get(&digest).copied().unwrap_or_default() {
                audit::write("revoked", &digest, Actor::Uid(uid), None, "ok");
                revoked.push(digest);
            }
        }
        Ok(revoked)
    }

    /// Forgets every token that is over, and takes expired lines out of MicroK8s's file. Says how
    /// many there were.
    pub fn prune(&self, uid: u32) -> Result<usize, StoreError> {
        let is_done = |life: &Life, now| life.state(now).is_over() && !life.has_tries();
        let mut over = Vec::new();
        for token in self.find("")? {
            if token.life.is_some_and(|life| is_done(&life, self.now())) {
                over.push(token.digest);
            }
        }
        let forgotten = self.forget_if(&over, Actor::Uid(uid), is_done)?;
        Ok(forgotten + self.blank_expired(self.now())?)
    }

    /// Does what time and the datastore have done to tokens meanwhile; to be called every now and
    /// then.
    pub fn sweep(&self, is_member: impl Fn(&JoiningNode) -> bool) -> Result<(), StoreError> {
        let awaited: Vec<TokenDigest> = lock(&self.awaited).iter().copied().collect();
        let still = self.settle(&awaited, &is_member)?;
        lock(&self.awaited).retain(|digest| still.contains(digest) || !awaited.contains(digest));
        loop {
            let due = self.store.due(self.now(), SWEEP_BATCH)?;
            self.settle(&due, &is_member)?;
            let forgotten = self.forget_if(&due, Actor::Agent, |life, now| {
                life.over_since(now)
                    .is_some_and(|since| since.saturating_add(KEPT) <= now)
            })?;
            // Those that expired have moved on as well: the next batch is another one.
            if due.len() < SWEEP_BATCH
                || (forgotten == 0 && self.store.due(self.now(), 1)? == due[..1])
            {
                break;
            }
        }
        self.admissions.forget_ended(self.now())?;
        // Until then the line tells why the token does not let anybody in.
        self.blank_expired(self.now().saturating_sub(KEPT))?;
        Ok(())
    }

    /// Settles tokens. Says by which of them control plane nodes are still awaited.
    fn settle(
        &self,
        digests: &[TokenDigest],
        is_member: &dyn Fn(&JoiningNode) -> bool,
    ) -> Result<HashSet<TokenDigest>, StoreError> {
        let mut members = HashSet::new();
        for digest in digests {
            let life = self.store.read(digest)?;
            let awaited = life.iter().flat_map(Life::awaited);
            members.extend(awaited.filter(|node| is_member(node)).cloned());
        }
        let (now, window) = (self.now(), self.window);
        let settled = token_store::edit_all(self.store.as_ref(), digests, move |life| {
            life.map_or((None, (Vec::new(), false)), |mut life| {
                let happenings = life.settle(now, window, |node| members.contains(node));
                let awaits = life.awaited().next().is_some();
                (Some(life), (happenings, awaits))
            })
        })?;
        let mut still = HashSet::new();
        for (digest, (happenings, awaits)) in settled {
            audit_happenings(&digest, &happenings);
            if awaits {
                still.insert(digest);
            }
        }
        Ok(still)
    }

    /// Forgets those of these tokens for which this holds, and says how many that were.
    fn forget_if(
        &self,
        digests: &[TokenDigest],
        actor: Actor,
        holds: impl Fn(&Life, i64) -> bool + Send + 'static,
    ) -> Result<usize, StoreError> {
        let (now, window) = (self.now(), self.window);
        let forgotten = token_store::edit_all(self.store.as_ref(), digests, move |life| {
            let forget = life.as_ref().is_some_and(|life| {
                let mut settled = life.clone();
                settled.settle(now, window, |_| false);
                holds(&settled, now)
            });
            (life.filter(|_| !forget), forget)
        })?;
        let mut count = 0;
        for (digest, _) in forgotten.iter().filter(|(_, forgotten)| **forgotten) {
            audit::write("pruned", digest, actor, None, "ok");
            count += 1;
        }
        Ok(count)
    }

    /// Takes lines out of MicroK8s's file whose time ran out until then.
    fn blank_expired(&self, until: i64) -> Result<usize, StoreError> {
        let file = &self.cluster_file;
        file.blank_expired(until)
            .map_err(|source| StoreError::file(file.path(), source))
    }

    /// Takes a token that was used out of MicroK8s's file, and remembers that it is.
    fn take_line_out(&self, token: &Token) -> Result<(), StoreError> {
        let file = &self.cluster_file;
        file.consume(token)
            .map_err(|source| StoreError::file(file.path(), source))?;
        token_store::edit(self.store.as_ref(), &token.digest(), |life| {
            let life = life.map(|mut life| {
                life.set_has_line(false);
                life
            });
            (life, ())
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

impl Reservation<'_> {
    /// Lets the node in: from now on the use is its own, durably, and it may have these
    /// certificates signed.
    pub fn commit(
        mut self,
        certificates: &[CertificatePurpose],
    ) -> Result<Result<(), Refusal>, StoreError> {
        let tokens = self.tokens;
        let digest = self.token.digest();
        let now = tokens.now();
        let has_line = match self.source {
            Source::Line => true,
            // Who has a token of the store in the file too has one token, not two.
            Source::Store(Way::Counted) => {
                look_up(&tokens.cluster_file, &self.token, now)? == Listed::Open
            }
            Source::Store(Way::Open) | Source::OpenLine => false,
        };
        if self.source != Source::OpenLine {
            let (happenings, admitted) = self.admit(has_line, now)?;
            audit_happenings(&digest, &happenings);
            if let Err(refusal) = admitted {
                return Ok(Err(refusal));
            }
        }
        self.is_committed = true;
        let node = AdmittedNode {
            node: self.claim.node.clone(),
            role: self.claim.role,
            complete: certificates.is_empty(),
            join: digest,
        };
        let end = now.saturating_add(LEASE);
        if let Err(error) = tokens.admissions.admit(&digest, node, certificates, end) {
            if !certificates.is_empty() {
                // The lease gives the use back when this fails as well.
                let _ = tokens.report(&self.token, &self.claim.node, false);
                return Err(error);
            }
            // The node is in; only its name is missing in the list of nodes.
            tracing::error!(%error, "a node that was let in cannot be written down");
        }
        if has_line && let Err(error) = tokens.take_line_out(&self.token) {
            // It is remembered that the line is a used one.
            tracing::error!(%error, "the line of a used token cannot be taken out");
        }
        if self.claim.role == Role::ControlPlane {
            lock(&tokens.awaited).insert(digest);
        }
        tokens.audit_join(
            "admitted",
            &digest,
            &self.claim.node,
            &self.claim.role.to_string(),
        );
        Ok(Ok(()))
    }

    /// Writes down that the use is the node's.
    fn admit(
        &self,
        has_line: bool,
        now: i64,
    ) -> Result<(Vec<Happening>, Result<(), Refusal>), StoreError> {
        let (claim, source, window) = (self.claim.clone(), self.source, self.tokens.window);
        let members = self.members.clone();
        token_store::edit(
            self.tokens.store.as_ref(),
            &self.token.digest(),
            move |life| {
                let mut happenings = Vec::new();
                let settled = life.map(|mut life| {
                    happenings = life.settle(now, window, |node| members.contains(node));
                    life
                });
                let life = match (settled, source) {
                    (life, Source::Line) => Some(issue_by_line(life, now)),
                    (life, _) => life,
                };
                let Some(mut life) = life else {
                    return (None, (happenings, Err(Reason::Unknown.into())));
                };
                // Nobody else can have got in between, but it may have been revoked.
                match life.judge(&claim, &[], now, window) {
                    Ok(way) => {
                        life.admit(&claim, way, now);
                        life.set_has_line(has_line);
                        (Some(life), (happenings, Ok(())))
                    }
                    Err(refusal) => (Some(life), (happenings, Err(refusal))),
                }
            },
        )
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let digest = self.token.digest();
        if self.source.is_counted() {
            let mut held = lock(&self.tokens.held);
            if let Some(all) = held.get_mut(&digest) {
                for (_, requests) in all.iter_mut().filter(|(node, _)| *node == self.claim.node) {
                    *requests -= 1;
                }
                all.retain(|(_, requests)| *requests > 0);
                if all.is_empty() {
                    held.remove(&digest);
                }
            }
        }
        if !self.is_committed {
            let outcome = "the join was not granted";
            self.tokens
                .audit_join("released", &digest, &self.claim.node, outcome);
        }
    }
}

/// A token that a line in MicroK8s's file issues, for one use.
fn by_line(now: i64) -> Life {
    Life::issue(&Terms::lasting(Lifetime::OneUse), now, Issuer::TokenFile)
}

/// The same, whatever the token was before.
fn issue_by_line(life: Option<Life>, now: i64) -> Life {
    match life {
        None => by_line(now),
        Some(mut life) => {
            life.add(&Terms::lasting(Lifetime::OneUse), now, Issuer::TokenFile);
            life
        }
    }
}

/// The join tokens to which this may be the token for a certificate.
fn join_tokens(token: &Token) -> impl Iterator<Item = (CertificatePurpose, Token)> {
    CertificatePurpose::ALL.into_iter().filter_map(|purpose| {
        let join = token.expose().strip_suffix(purpose.suffix())?;
        Some((purpose, Token::presented(join)))
    })
}

fn look_up(file: &TokenFile, token: &Token, now: i64) -> Result<Listed, StoreError> {
    file.look_up(token, now)
        .map_err(|source| StoreError::file(file.path(), source))
}

fn audit_happenings(digest: &TokenDigest, happenings: &[Happening]) {
    for happening in happenings {
        let (event, node, outcome) = match happening {
            Happening::LeaseRanOut(node) => {
                ("released", Some(node), "nothing more was heard of the join")
            }
            Happening::Listed(node) => ("used", Some(node), "the datastore lists the node"),
            Happening::WindowClosed(node) => ("used", Some(node), "the time to try again is over"),
            Happening::Expired => ("expired", None, "ok"),
        };
        audit::write(event, digest, Actor::Agent, node, outcome);
    }
}

fn nodes_of(held: &[(JoiningNode, usize)]) -> Vec<JoiningNode> {
    held.iter().map(|(node, _)| node.clone()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
