//! A token that is held for a node while that is being admitted, and the use that the node gets.

use super::{Found, Moment, Source, Tokens, by_open_line, lock};
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_record::{
    CertificatePurpose, Grant, JoinRequest, Reason, Refusal, TokenEvent, TokenRecord,
};
use crate::store::admissions::AdmittedNode;
use crate::store::database::{Flush, StoreError};
use crate::store::token_files::Listed;

/// A token that one joining node holds while it is being admitted; dropping it gives it back.
#[must_use]
pub(crate) struct Reservation<'a> {
    pub(super) tokens: &'a Tokens,
    pub(super) token: Token,
    pub(super) claim: JoinRequest,
    pub(super) found: Found,
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
        let in_file = || tokens.cluster_file.look_up(&self.token, now);
        let has_line = match self.found.source {
            // Who has a token of the store in the file too has one token, not two.
            Source::Line | Source::Store(Grant::Counted) => in_file()? == Listed::Open,
            Source::Store(Grant::Open) => false,
            Source::OpenLine => {
                // It may have been taken out since it was looked up.
                let persistent = tokens.persistent_file.look_up(&self.token, now)?;
                if !persistent.is_usable() && !matches!(in_file()?, Listed::Until(_)) {
                    return Ok(Err(Reason::Revoked.into()));
                }
                false
            }
        };
        let node = AdmittedNode {
            node: self.claim.node.clone(),
            role: self.claim.role,
            complete: certificates.is_empty(),
            join: digest,
            cluster: moment.cluster.id.clone(),
            since: now,
            join_id: self.claim.join_id.clone(),
        };
        // It comes to the disk with the record of the token.
        let before = tokens.admissions.admit(node.clone())?;
        let admitted = self.admit(certificates, has_line, hands_out, moment);
        if !matches!(admitted, Ok((_, Ok(Ok(())))))
            && let Err(error) = tokens.admissions.take_back(&node, before)
        {
            tracing::error!(%error, "a node that was not admitted is still in the list of nodes");
        }
        let (events, admitted) = admitted?;
        tokens.note(&digest, &events)?;
        match admitted? {
            Ok(()) => self.is_committed = true,
            Err(refusal) => return Ok(Err(refusal)),
        }
        // Then that was its earlier join.
        let was_released = events.contains(&TokenEvent::LeaseRanOut(node.node.clone()));
        let listed = match was_released {
            true => tokens.admissions.admit(node).map(drop),
            false => Ok(()),
        };
        // Where the record is in another store, this node's list is not on the disk yet.
        let listed = listed.and_then(|()| match tokens.are_shared() {
            true => tokens.database.flush(),
            false => Ok(()),
        });
        if let Err(error) = listed {
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

    /// Writes down that the use is the node's. Within the answer of the store is what the token says.
    pub(super) fn admit(
        &self,
        certificates: &[CertificatePurpose],
        has_line: bool,
        hands_out: bool,
        moment: Moment,
    ) -> Result<(Vec<TokenEvent>, Admitted), StoreError> {
        let (claim, certificates) = (self.claim.clone(), certificates.to_vec());
        let Found {
            source,
            members,
            stored,
        } = self.found.clone();
        let admit = move |slot: &mut Option<TokenRecord>| {
            let mut events = Vec::new();
            // A line issues the token once: not when it was used or revoked meanwhile.
            let is_unchanged = *slot == stored;
            if let Some(record) = slot {
                events = moment.reconcile(record, |node| members.get(node).copied());
            }
            let settled = slot.take().filter(|record| !record.is_empty());
            let is_issued =
                |record: &TokenRecord| record.is_of_lines() || !record.state(moment.now).is_over();
            *slot = match source {
                Source::Line if has_line && is_unchanged => Some(moment.issue_by_line(settled)),
                Source::OpenLine if is_unchanged || settled.is_none() => {
                    let issued = settled.filter(is_issued);
                    Some(issued.unwrap_or_else(|| by_open_line(&moment)))
                }
                _ => settled,
            };
            let Some(record) = slot else {
                return (events, Ok(Err(Reason::Unknown.into())));
            };
            // It may have been revoked, or another node admitted, since it was reserved.
            let judged = match source {
                Source::OpenLine if is_issued(record) => Ok(Grant::Open),
                Source::OpenLine => Err(Reason::Revoked.into()),
                Source::Line | Source::Store(_) => {
                    record.judge(&claim, &[], moment.now, moment.window)
                }
            };
            let admitted = match judged {
                Err(refusal) => Ok(Err(refusal)),
                Ok(_) if !record.has_room_for(&claim) => Err(StoreError::Full),
                Ok(grant) => {
                    record.admit(&claim, grant, &certificates, hands_out, moment.now);
                    if source != Source::OpenLine {
                        record.set_has_line(has_line);
                    }
                    Ok(Ok(()))
                }
            };
            (events, admitted)
        };
        let digest = self.token.digest();
        self.tokens.records.edit(Flush::Now, &digest, admit)
    }
}

/// Whether a node is admitted in the end.
type Admitted = Result<Result<(), Refusal>, StoreError>;

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let digest = self.token.digest();
        if self.found.source.is_counted() {
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
