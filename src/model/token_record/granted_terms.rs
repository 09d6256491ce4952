//! What a token is good for, and what becomes of it when the token is added again.

use serde::{Deserialize, Serialize};

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
