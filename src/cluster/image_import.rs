//! An image for this node's container runtime, as it comes.

use std::io::Read;
use std::time::Duration;

use crate::cluster::node::Node;
use crate::platform::FeedError;

/// Why an image is not there (recording `http-image-import`).
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The container runtime did not take it.
    #[error("Failed to import the image: microk8s.ctr command failed: {0}")]
    NotTaken(#[source] FeedError),
    /// It did not come to its end.
    #[error("Failed to import the image: {0}")]
    CutOff(#[source] std::io::Error),
}

impl ImportError {
    /// All that is known, for the log of this node; what the runtime said is not for the caller.
    pub fn in_full(&self) -> String {
        match self {
            Self::NotTaken(FeedError::Failed { said, .. }) if !said.is_empty() => {
                format!("{self}: {said}")
            }
            other => other.to_string(),
        }
    }
}

/// Passes an image on to the container runtime, which may stand still for `stall_timeout`. What has not
/// come to its end is not imported.
pub fn import(
    node: &Node,
    image: &mut dyn Read,
    stall_timeout: Duration,
) -> Result<(), ImportError> {
    let taken = node.platform.import_image(image, stall_timeout);
    taken.map_err(|error| match error {
        FeedError::Input(error) => ImportError::CutOff(error),
        other => ImportError::NotTaken(other),
    })
}
