//! The body of an answer that says no: `{"error": "…"}`.

use serde::{Deserialize, Serialize};

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// MicroK8s's text, with its first letter in upper case.
    pub error: String,
    /// Why a token is of no use; MicroK8s's client ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<TokenRefusal>,
}

impl ErrorBody {
    /// A body with this text.
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            reason: None,
        }
    }
}

/// Why a token does not let a node in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenRefusal {
    /// Nothing is known of it here.
    Unknown,
    /// Its time has run out.
    Expired,
    /// It was used, by another node.
    Used,
    /// Another node is joining with it now.
    InUse,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

impl TokenRefusal {
    /// One word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::InUse => "in-use",
            Self::Other => "other",
        }
    }
}
