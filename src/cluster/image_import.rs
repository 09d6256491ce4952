//! An image for this node's container runtime, as it comes.

use crate::platform::FeedError;
use std::io;

/// Why an image is not there (recording `http-image-import`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The container runtime did not take it.
    #[error("Failed to import the image: microk8s.ctr command failed: {0}")]
    NotTaken(#[from] FeedError),
    /// It did not come to its end.
    #[error("Failed to import the image: {0}")]
    CutOff(#[source] io::Error),
}

impl ImportError {
    /// All that is known, for the log of this node; what the runtime said is not for the caller.
    pub(crate) fn in_full(&self) -> String {
        match self {
            Self::NotTaken(FeedError::Failed { said, .. }) if !said.is_empty() => {
                format!("{self}: {said}")
            }
            other => other.to_string(),
        }
    }
}
