//! How changes end.

use std::fmt;
use std::io;

/// Changes that are final.
#[derive(Debug)]
#[must_use]
pub(crate) struct Committed {
    /// The disk did not confirm it: after a power loss they may be taken back.
    pub(crate) unconfirmed: Option<io::Error>,
}

impl Committed {
    /// What there is to say of it, of a node that has done this.
    pub(crate) fn warning(&self, done: &str) -> Option<String> {
        let error = self.unconfirmed.as_ref()?;
        Some(format!(
            "this node has {done}, but the disk does not confirm that this is stored ({error}); check the disk: after a power loss the node may be as it was before"
        ))
    }
}

/// How a change that was not made final has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The node is as it was before.
    TakenBack,
    /// It could not be undone any more, and is complete.
    Completed,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TakenBack => {
                "an earlier join or leave was interrupted; the node is as it was before it"
            }
            Self::Completed => {
                "an earlier leave was interrupted after the datastore had forgotten this node; it is complete now"
            }
        })
    }
}
