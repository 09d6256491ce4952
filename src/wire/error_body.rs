//! The body of an answer that says no: `{"error": "…"}`.

use serde::{Deserialize, Serialize};

use crate::model::token_record::Reason;

/// Why a request was refused. MicroK8s's client reads `error` and passes over the rest.
///
/// What more can be told of a token is in headers ([`routes::REASON_NODE`],
/// [`routes::REASON_SECONDS`]), so that the body stays as near to MicroK8s's as can be.
///
/// [`routes::REASON_NODE`]: crate::wire::routes::REASON_NODE
/// [`routes::REASON_SECONDS`]: crate::wire::routes::REASON_SECONDS
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorBody {
    /// MicroK8s's text, with its first letter in upper case.
    pub(crate) error: String,
    /// Why a token is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<Reason>,
}

impl ErrorBody {
    /// A body with this text.
    pub(crate) fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            reason: None,
        }
    }
}
