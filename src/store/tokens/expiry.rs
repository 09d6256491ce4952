//! Tokens looked after: listed, taken back, forgotten, and kept up with the time.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::model::token::TokenDigest;
use crate::model::token_record::{LEASE, State, TokenRecord, VoidReason};
use crate::store::admissions::AdmittedNode;
use crate::store::audit::{self, Actor};
use crate::store::database::StoreError;
use crate::store::token_files::{self, Listed};
use crate::store::token_store;
use crate::store::tokens::{Members, Tokens, lock, members_of};

/// For how long, in seconds, a token is kept after its end, so that a node that still presents it
/// is told why it is refused.
pub(super) const KEPT: i64 = 30 * 24 * 60 * 60;

/// How often, in seconds, it is written down how far the shared store has come.
const REVISION_WRITTEN: i64 = 60;

/// How many tokens one pass of [`Tokens::expire_tokens`] goes through at once.
pub(super) const EXPIRY_BATCH: usize = 1000;

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedToken {
    /// Its SHA-256.
    pub(crate) digest: TokenDigest,
    /// What the store knows of it.
    pub(crate) record: Option<TokenRecord>,
    /// What stands in one of MicroK8s's files.
    pub(crate) in_file: Listed,
    /// Which file that is.
    pub(crate) file: Option<&'static str>,
}

impl ListedToken {
    /// Where the token is in its life. A line in MicroK8s's file admits nodes whatever became of the
    /// token before.
    pub(crate) fn state(&self, now: i64) -> State {
        let is_listed = self.in_file.is_usable();
        match &self.record {
            None if is_listed => State::Issued,
            None => State::Expired,
            Some(record) => match record.state(now) {
                state if state.is_over() && is_listed => State::Issued,
                state => state,
            },
        }
    }
}

impl Tokens {
    /// All tokens whose SHA-256 begins like this, those in MicroK8s's files as well.
    pub(crate) fn find(&self, beginning: &str) -> Result<Vec<ListedToken>, StoreError> {
        let mut found = Vec::new();
        self.find_in_batches(beginning, |batch| {
            found.extend(batch);
            Ok::<_, StoreError>(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// The same, some at a time, until `work` breaks off. What MicroK8s's files hold is in memory
    /// meanwhile, and of the store no more than these few.
    pub(crate) fn find_in_batches<E: From<StoreError>>(
        &self,
        beginning: &str,
        mut work: impl FnMut(Vec<ListedToken>) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let moment = self.moment();
        // The files first: a line that is used up meanwhile has become a record.
        let mut in_files = HashMap::new();
        for (file, name) in [
            (&self.cluster_file, token_files::CLUSTER_TOKENS),
            (&self.persistent_file, token_files::PERSISTENT_TOKENS),
        ] {
            let entries = file.entries(moment.now)?.into_iter();
            let entries = entries.filter(|(digest, _)| digest.begins_with(beginning));
            in_files.extend(entries.map(|(digest, in_file)| (digest, (in_file, Some(name)))));
        }
        let flow = token_store::in_batches(self.records.store(), beginning, |batch| {
            let mut listed = Vec::with_capacity(batch.len());
            for (digest, mut record) in batch {
                moment.reconcile(&mut record, |_| None);
                if record.is_of_lines() {
                    continue;
                }
                let (in_file, file) = in_files.remove(&digest).unwrap_or((Listed::Not, None));
                listed.push(ListedToken {
                    digest,
                    record: Some(record),
                    in_file,
                    file,
                });
            }
            work(listed)
        })?;
        if flow.is_continue() && !in_files.is_empty() {
            let rest = in_files
                .into_iter()
                .map(|(digest, (in_file, file))| ListedToken {
                    digest,
                    record: None,
                    in_file,
                    file,
                });
            // Nothing comes after them.
            let _: ControlFlow<()> = work(rest.collect())?;
        }
        Ok(())
    }

    /// Looks into the node's own database, to see whether it can be looked into at all.
    pub(crate) fn look(&self) {
        // What it answers is of no interest, nor whether that is an error.
        let _ = token_store::noted_revision(&self.database, "");
    }

    /// Revokes tokens and returns those that were still usable.
    pub(crate) fn revoke(
        &self,
        tokens: &[ListedToken],
        uid: u32,
    ) -> Result<Vec<TokenDigest>, StoreError> {
        let digests: Vec<TokenDigest> = tokens.iter().map(|token| token.digest).collect();
        let moment = self.moment();
        let was_alive = self.records.edit_all(&digests, false, |record| {
            let record = record.get_or_insert_with(|| moment.issue_by_line(None));
            moment.reconcile(record, |_| None);
            record.revoke(moment.now, uid)
        })?;
        let in_files: HashSet<TokenDigest> = tokens
            .iter()
            .filter(|token| token.in_file != Listed::Not)
            .map(|token| token.digest)
            .collect();
        for file in [&self.cluster_file, &self.persistent_file] {
            file.take_out(&in_files)?;
        }
        let mut revoked = Vec::new();
        for token in tokens {
            let digest = token.digest;
            if token.in_file.is_usable() || was_alive.get(&digest).copied().unwrap_or_default() {
                audit::write("revoked", &digest, Actor::Uid(uid), None, "ok");
                revoked.push(digest);
            }
        }
        Ok(revoked)
    }

    /// Forgets every token that is over, and takes expired lines out of MicroK8s's file. Usable
    /// tokens go, too, where no node has joined with them for `unused` seconds, but none that stands
    /// in one of MicroK8s's files. Says how many there were.
    pub(crate) fn prune(&self, unused: Option<u64>, uid: u32) -> Result<usize, StoreError> {
        let unused = unused.map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
        let is_done = move |record: &TokenRecord, now: i64| {
            let end = |seconds| record.last_activity().saturating_add(seconds);
            (record.state(now).is_over() || unused.is_some_and(|seconds| end(seconds) <= now))
                && !record.has_uses()
                && !record.has_line()
        };
        let now = self.now();
        let mut forgotten = 0;
        self.find_in_batches("", |batch| {
            let over: Vec<TokenDigest> = batch
                .into_iter()
                .filter(|token| {
                    let is_listed = token.in_file.is_usable();
                    token.record.as_ref().is_some_and(|record| {
                        is_done(record, now) && (record.state(now).is_over() || !is_listed)
                    })
                })
                .map(|token| token.digest)
                .collect();
            forgotten += self.forget_if(&over, Actor::Uid(uid), is_done)?;
            Ok::<_, StoreError>(ControlFlow::Continue(()))
        })?;
        Ok(forgotten + self.blank_expired(self.now())?)
    }

    /// Does what time and the datastore have done to tokens meanwhile; to be called every now and
    /// then.
    pub(crate) fn expire_tokens(
        &self,
        is_member: impl Fn(&JoiningNode) -> bool,
    ) -> Result<(), StoreError> {
        self.notice_older_copy()?;
        self.settle_all(&is_member)?;
        let awaited: Vec<TokenDigest> = lock(&self.awaited).iter().copied().collect();
        let still = self.reconcile(self.read_all(&awaited)?, &is_member)?;
        lock(&self.awaited).retain(|digest| still.contains(digest) || !awaited.contains(digest));
        loop {
            let due = self.records.store().due(self.now(), EXPIRY_BATCH)?;
            self.reconcile(self.read_all(&due)?, &is_member)?;
            let forgotten = self.forget_if(&due, Actor::Agent, |record, now| {
                !record.has_line()
                    && record
                        .over_since(now)
                        .is_some_and(|since| since.saturating_add(KEPT) <= now)
            })?;
            // Those that expired have moved on as well: the next batch is another one.
            if due.len() < EXPIRY_BATCH
                || (forgotten == 0 && self.records.store().due(self.now(), 1)? == due[..1])
            {
                break;
            }
        }
        let end = self.now().saturating_sub(LEASE.max(self.window));
        let never_came = |other: &AdmittedNode| {
            other.role == Role::Worker && !other.complete && other.since <= end
        };
        let gone = self.admissions.nodes_that(never_came)?;
        if !gone.is_empty() {
            self.admissions.forget(&gone)?;
        }
        // Until then the line tells why the token does not let anybody in.
        self.blank_expired(self.now().saturating_sub(KEPT))?;
        Ok(())
    }

    /// Makes all tokens void when the store that several nodes share was replaced by an older copy,
    /// in which used ones may be valid.
    fn notice_older_copy(&self) -> Result<(), StoreError> {
        let moment = self.moment();
        let cluster = moment.cluster.id.filter(|_| !moment.cluster.is_changing);
        let store = self.records.store();
        let Some((revision, cluster)) = store.revision()?.zip(cluster) else {
            return Ok(());
        };
        let last = lock(&self.revision)
            .clone()
            .filter(|(of, ..)| *of == cluster);
        let (seen, written) = match last {
            Some((_, seen, written)) => (Some(seen), written),
            None => {
                let noted = token_store::noted_revision(&self.database, cluster.as_str())?;
                (noted, i64::MIN)
            }
        };
        let is_older = seen.is_some_and(|seen| revision < seen);
        if is_older {
            let mut count = 0;
            let _: ControlFlow<()> = token_store::in_batches(store, "", |batch| {
                let digests: Vec<_> = batch.iter().map(|(digest, _)| *digest).collect();
                let voided = self.records.edit_all(&digests, false, |record| {
                    let make_void = |record: &mut TokenRecord| {
                        record.make_void(VoidReason::OlderCopy, moment.now)
                    };
                    record.as_mut().is_some_and(make_void)
                })?;
                count += voided.values().filter(|voided| **voided).count();
                Ok::<_, StoreError>(ControlFlow::Continue(()))
            })?;
            tracing::error!(
                "the cluster's token store is an older copy, at {revision} after {}: {count} tokens in it are void, because they may have been used since",
                seen.unwrap_or_default()
            );
            audit::database("older-copy", &format!("{count} tokens are void"));
        }
        let is_written = !is_older && moment.now.saturating_sub(written) < REVISION_WRITTEN;
        if !is_written {
            token_store::note_revision(&self.database, cluster.as_str(), revision)?;
        }
        let written = if is_written { written } else { moment.now };
        *lock(&self.revision) = Some((cluster, revision, written));
        Ok(())
    }

    /// Those of these tokens that are in the store.
    fn read_all(
        &self,
        digests: &[TokenDigest],
    ) -> Result<Vec<(TokenDigest, TokenRecord)>, StoreError> {
        let read = digests.iter().map(|digest| {
            let record = self.records.read(digest)?;
            Ok(record.map(|record| (*digest, record)))
        });
        read.filter_map(Result::transpose).collect()
    }

    /// Brings all that is stored up to the cluster that the node is in and to its clock: once after
    /// each start, after each change of the cluster, and when the clock was put back.
    fn settle_all(&self, is_member: &dyn Fn(&JoiningNode) -> bool) -> Result<(), StoreError> {
        let moment = self.moment();
        let (current, now) = (&moment.cluster, moment.now);
        // What a join or leave has begun may be taken back.
        if current.is_changing {
            return Ok(());
        }
        if let Some((cluster, last)) = &mut *lock(&self.settled_for)
            && cluster == current
            && *last <= now
        {
            *last = now;
            return Ok(());
        }
        let is_changing = |(_, record): &(TokenDigest, TokenRecord)| {
            let mut next = record.clone();
            moment.reconcile(&mut next, |node| Some(is_member(node)));
            next != *record
        };
        let _: ControlFlow<()> = token_store::in_batches(self.records.store(), "", |batch| {
            let changing = batch.into_iter().filter(is_changing).collect();
            self.reconcile(changing, is_member)?;
            Ok::<_, StoreError>(ControlFlow::Continue(()))
        })?;
        self.admissions.keep_to(current)?;
        *lock(&self.settled_for) = Some((current.clone(), now));
        Ok(())
    }

    /// Settles tokens, whose records these are. Returns those with which control plane nodes are still
    /// joining.
    fn reconcile(
        &self,
        records: Vec<(TokenDigest, TokenRecord)>,
        is_member: &dyn Fn(&JoiningNode) -> bool,
    ) -> Result<HashSet<TokenDigest>, StoreError> {
        let moment = self.moment();
        let mut members = Members::new();
        let mut still = HashSet::new();
        let mut changing = Vec::new();
        for (digest, mut record) in records {
            members.extend(members_of(&record, is_member));
            let before = record.clone();
            moment.reconcile(&mut record, |node| members.get(node).copied());
            if record.awaited().next().is_some() {
                still.insert(digest);
            }
            // One that is due is written again also when only the moment has changed.
            let is_due = record
                .next_change(moment.now, moment.window, KEPT)
                .is_none_or(|at| at <= moment.now);
            if record != before || is_due {
                changing.push(digest);
            }
        }
        let settled = self.records.edit_all(&changing, true, |record| {
            record.as_mut().map_or_else(Vec::new, |record| {
                moment.reconcile(record, |node| members.get(node).copied())
            })
        })?;
        for (digest, events) in settled {
            self.note(&digest, &events)?;
        }
        Ok(still)
    }

    /// Forgets those of these tokens for which this holds, and says how many that were.
    fn forget_if(
        &self,
        digests: &[TokenDigest],
        actor: Actor,
        holds: impl Fn(&TokenRecord, i64) -> bool,
    ) -> Result<usize, StoreError> {
        let moment = self.moment();
        let forgotten = self.records.edit_all(digests, false, |record| {
            let forgotten = record.take_if(|record| {
                let mut settled = record.clone();
                moment.reconcile(&mut settled, |_| None);
                holds(&settled, moment.now)
            });
            forgotten.is_some()
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
        self.cluster_file.blank_expired(until)
    }
}
