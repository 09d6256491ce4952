//! A token that is held for a node while that is being admitted, and the use that the node gets.

use super::{Members, Moment, Source, Tokens, issue_by_line, lock, look_up};
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_record::{
    Grant, JoinRequest, LEASE, Reason, Refusal, TokenEvent, TokenRecord,
};
use crate::store::admissions::{AdmittedNode, CertificatePurpose};
use crate::store::database::StoreError;
use crate::store::token_files::Listed;

/// A token that one joining node holds while it is being admitted; dropping it gives it back.
#[must_use]
pub(crate) struct Reservation<'a> {
    pub(super) tokens: &'a Tokens,
    pub(super) token: Token,
    pub(super) claim: JoinRequest,
    pub(super) source: Source,
    /// What the datastore says of the control plane nodes that joined with it.
    pub(super) members: Members,
    /// The record of the token when it was judged.
    pub(super) seen: Option<TokenRecord>,
    pub(super) is_committed: bool,
}

impl Reservation<'_> {
    /// Lets the node in: from now on the use is its own, durably, and it may have these
    /// certificates signed. `hands_out` tells whether the answer holds credentials.
    pub(crate) fn commit(
        mut self,
        certificates: &[CertificatePurpose],
        hands_out: bool,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let tokens = self.tokens;
        let digest = self.token.digest();
        let moment = tokens.moment();
        let now = moment.now;
        let in_file = || look_up(&tokens.cluster_file, &self.token, now);
        let has_line = match self.source {
            // Who has a token of the store in the file too has one token, not two.
            Source::Line | Source::Store(Grant::Counted) => in_file()? == Listed::Open,
            Source::Store(Grant::Open) => false,
            Source::OpenLine => {
                // It may have been taken out since it was looked up.
                let persistent = look_up(&tokens.persistent_file, &self.token, now)?;
                if !persistent.is_usable() && !matches!(in_file()?, Listed::Until(_)) {
                    return Ok(Err(Reason::Revoked.into()));
                }
                false
            }
        };
        let mut grant = Grant::Open;
        if self.source != Source::OpenLine {
            let (events, admitted) = self.admit(has_line, hands_out, moment.clone())?;
            tokens.note(&digest, &events)?;
            match admitted {
                Ok(found) => grant = found,
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        self.is_committed = true;
        let node = AdmittedNode {
            node: self.claim.node.clone(),
            role: self.claim.role,
            complete: certificates.is_empty(),
            join: digest,
            cluster: moment.cluster.id.clone(),
            since: now,
            join_id: self.claim.join_id.clone(),
        };
        let end = now.saturating_add(LEASE);
        let is_counted = grant == Grant::Counted;
        let written = tokens
            .admissions
            .admit(&digest, node, certificates, end, is_counted);
        if let Err(error) = written {
            if !certificates.is_empty() {
                // The lease gives the use back when this fails as well.
                let why = "it cannot be written down";
                let _ = tokens.release(&digest, &self.claim.node, None, why);
                return Err(error);
            }
            // The node is in; only its name is missing in the list of nodes.
            tracing::error!(%error, "an admitted node could not be recorded");
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
    pub(super) fn admit(
        &self,
        has_line: bool,
        hands_out: bool,
        moment: Moment,
    ) -> Result<(Vec<TokenEvent>, Result<Grant, Refusal>), StoreError> {
        let (claim, source) = (self.claim.clone(), self.source);
        let (members, seen) = (self.members.clone(), self.seen.clone());
        self.tokens
            .records
            .edit(&self.token.digest(), move |record| {
                let mut events = Vec::new();
                // A line issues the token once: not when it was used or revoked meanwhile.
                let is_issued = source == Source::Line && has_line && record == seen;
                let settled = record.map(|mut record| {
                    events = moment.reconcile(&mut record, |node| members.get(node).copied());
                    record
                });
                let record = if is_issued {
                    Some(issue_by_line(settled, &moment))
                } else {
                    settled
                };
                let Some(mut record) = record else {
                    return (None, (events, Err(Reason::Unknown.into())));
                };
                // It may have been revoked, or another node admitted, since it was reserved.
                match record.judge(&claim, &[], moment.now, moment.window) {
                    Ok(grant) => {
                        record.admit(&claim, grant, hands_out, moment.now);
                        record.set_has_line(has_line);
                        (Some(record), (events, Ok(grant)))
                    }
                    Err(refusal) => (Some(record), (events, Err(refusal))),
                }
            })
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
