//! What a token is good for, and what becomes of it when the token is added again.

use serde::{Deserialize, Serialize};

use super::{Added, Counted, Issuer, TokenRecord};
use crate::model::node::NodeName;
use crate::model::token_terms::{Lifetime, RoleLimit, Terms, Uses};

/// What a token is issued for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedTerms {
    /// For how many nodes; `None` for any number.
    pub(crate) uses: Option<u32>,
    /// Its end in unix seconds; `None` when it has none.
    pub(crate) until: Option<i64>,
    /// As what nodes may join.
    pub(crate) role: RoleLimit,
    /// The only node that may use it.
    pub(crate) node: Option<NodeName>,
}

impl GrantedTerms {
    /// What a new token is good for that is issued with these terms.
    pub fn asked_by(terms: &Terms, now: i64) -> Self {
        let until = match terms.lifetime {
            None | Some(Lifetime::OneUse) => None,
            Some(Lifetime::Seconds(seconds)) => Some(now.saturating_add(seconds.into())),
        };
        let uses = match (terms.uses, until) {
            (None, Some(_)) => None,
            (uses, _) => Some(uses.unwrap_or(Uses::ONE).get()),
        };
        Self {
            uses,
            until,
            role: terms.role.unwrap_or_default(),
            node: terms.node.clone(),
        }
    }

    /// What the token is good for when these terms are given for it; a new token would be
    /// `fresh`. What they do not name stays, so far as that makes the token good for no more than
    /// one of both requests.
    pub(crate) fn followed_by(&self, terms: &Terms, fresh: &Self, now: i64) -> Self {
        // An end that has passed is no term to keep.
        let is_past = self.until.is_some_and(|end| end <= now);
        let is_counted_by_its_time = self.uses == Some(1) && self.until.is_none();
        let next = Self {
            uses: match terms.lifetime {
                _ if terms.uses.is_some() => fresh.uses,
                Some(_) if self.uses.is_none() || is_counted_by_its_time => fresh.uses,
                _ => self.uses,
            },
            until: match terms.lifetime {
                None if !is_past => self.until,
                _ => fresh.until,
            },
            role: terms.role.unwrap_or(self.role),
            node: terms.node.clone().or_else(|| self.node.clone()),
        };
        if next.is_within(self) || next.is_within(fresh) {
            return next;
        }
        let shorter = |one: Option<i64>, other: Option<i64>| one.into_iter().chain(other).min();
        Self {
            uses: next.uses.into_iter().chain(fresh.uses).min(),
            until: shorter(next.until, fresh.until),
            ..next
        }
    }

    /// Whether the other one is good for all that this one is good for.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let no_more = |own: Option<i64>, others: Option<i64>| {
            others.is_none_or(|others| own.is_some_and(|own| own <= others))
        };
        no_more(self.uses.map(Into::into), other.uses.map(Into::into))
            && no_more(self.until, other.until)
            && (other.role == RoleLimit::Any || self.role == other.role)
            && (other.node.is_none() || self.node == other.node)
    }
}

impl TokenRecord {
    /// A new token.
    pub(crate) fn issue(terms: &Terms, now: i64, issuer: Issuer) -> Self {
        let granted = GrantedTerms::asked_by(terms, now);
        let mut record = Self {
            description: terms.description.clone(),
            ..Self::without_terms(now, issuer)
        };
        let uses = granted.uses.unwrap_or_default();
        record.set_terms(granted, uses, 0);
        record
    }

    /// What is known of a token that a line in a file of MicroK8s issues for any number of nodes: the
    /// line has its terms, the record the nodes that are joining with it.
    pub(crate) fn of_line(now: i64) -> Self {
        Self::without_terms(now, Issuer::TokenFile)
    }

    fn without_terms(now: i64, issuer: Issuer) -> Self {
        Self {
            issued_at: now,
            issuer,
            open_until: None,
            counted: None,
            role: RoleLimit::default(),
            node: None,
            description: None,
            revoked: None,
            tries: Vec::new(),
            last: None,
            admissions: 0,
            end_noticed: false,
            has_line: false,
            cluster: None,
            void: None,
            issued_on: None,
            transit: None,
        }
    }

    /// Of the counted uses there are `uses` in all, and `spent` are used for good.
    fn set_terms(&mut self, granted: GrantedTerms, uses: u32, spent: u32) {
        (self.open_until, self.counted) = match granted.uses {
            None => (granted.until, None),
            Some(_) => (
                None,
                Some(Counted {
                    uses,
                    until: granted.until,
                    spent,
                    asked: granted.uses,
                }),
            ),
        };
        self.role = granted.role;
        self.node = granted.node;
    }

    /// The token is issued once more: its terms become those that are given now. Expects a record that
    /// was [reconciled](TokenRecord::reconcile).
    ///
    /// A term that is not given keeps its value, unless the token would then be good for more than
    /// either of both requests; a token that was over lives again.
    pub(crate) fn add(&mut self, terms: &Terms, now: i64, issuer: Issuer) -> Added {
        let was_over = self.state(now).is_over();
        let before = self.grant(now);
        let fresh = GrantedTerms::asked_by(terms, now);
        let next = before.followed_by(terms, &fresh, now);
        if was_over {
            self.tries.clear();
            self.revoked = None;
            self.counted = None;
            self.void = None;
            self.cluster = None;
        }
        let is_count_kept =
            !was_over && terms.uses.is_none() && next.uses == before.uses && self.left(now) > 0;
        let spent = self.counted.as_ref().map_or(0, |counted| counted.spent);
        // A use that came back after an earlier addition is not one more than was asked for.
        let asked = self.taken().saturating_add(next.uses.unwrap_or_default());
        let total = match &self.counted {
            Some(counted) if is_count_kept => counted.uses.min(asked),
            _ => asked,
        };
        self.set_terms(next, total, spent);
        if terms.description.is_some() {
            self.description.clone_from(&terms.description);
        }
        let later = now.saturating_sub(self.issued_at);
        self.issued_at = now;
        self.issuer = issuer;
        self.end_noticed = false;
        let after = self.grant(now);
        let moved = GrantedTerms {
            until: before.until.map(|until| until.saturating_add(later)),
            ..before.clone()
        };
        Added {
            was_over,
            has_same_terms: after == before || after == moved,
            before,
            after,
        }
    }

    /// What the token was issued for. An end that has passed is still its end.
    pub(crate) fn grant(&self, now: i64) -> GrantedTerms {
        let (uses, until) = match &self.counted {
            Some(counted) if !self.is_open(now) => {
                (Some(counted.asked.unwrap_or(counted.uses)), counted.until)
            }
            _ => (None, self.open_until),
        };
        GrantedTerms {
            uses,
            until,
            role: self.role,
            node: self.node.clone(),
        }
    }
}
