//! A token on its way from one store to another. Meanwhile it admits no node by either.

use serde::{Deserialize, Serialize};

use super::TokenRecord;

/// How far a token is on its way, and whose agent moves it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transit {
    /// What the record is.
    pub(crate) phase: TransitPhase,
    /// The name of the node.
    pub(crate) by: String,
}

/// What the record of a token is that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TransitPhase {
    /// The one that is moved: there may be a copy in the other store.
    Leaving,
    /// The one that was moved: there was a copy in the other store, which counts.
    Left,
    /// The copy, which does not count yet.
    Arriving,
}

impl TokenRecord {
    /// Whether it is on its way.
    pub(crate) fn transit(&self) -> Option<&Transit> {
        self.transit.as_ref()
    }

    /// The same record, on its way or not.
    pub(crate) fn with_transit(mut self, transit: Option<Transit>) -> Self {
        self.transit = transit;
        self
    }

    /// The node that issued it, where it is known.
    pub(crate) fn issued_on(&self) -> Option<&str> {
        self.issued_on.as_deref()
    }

    /// Notes which node issued it.
    pub(crate) fn set_issued_on(&mut self, node: &str) {
        self.issued_on = Some(node.to_owned());
    }
}
