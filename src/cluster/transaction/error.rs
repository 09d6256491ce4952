//! Why a change could not be made, or not be undone.

use std::io;
use std::path::{Path, PathBuf};

use crate::platform::CommandError;

/// A change could not be made, or not be taken back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// A file or folder.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A service.
    #[error(transparent)]
    Service(#[from] CommandError),
    /// The files are the old ones again, and a service did not come up with them.
    #[error("the files are as they were, but a service did not come up again: {0}")]
    NotRestarted(#[source] CommandError),
    /// These changes are kept, to be taken back later; all others were taken back.
    #[error("{}", named(.0))]
    NotUndone(Vec<JournalError>),
    /// An entry that this version cannot read.
    #[error("the journal entry `{}` cannot be read: {why}", path.display())]
    Entry {
        /// Which one.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl JournalError {
    /// What to do when it kept a change from being taken back.
    pub(crate) fn hint_of_undoing(&self) -> &'static str {
        match self {
            Self::NotRestarted(_) => "read the service's log, and start it again",
            Self::NotUndone(_) => {
                "fix what is named; all else is as it was, and the next command, or the start of the node's agent, undoes the rest"
            }
            Self::File { .. } | Self::Service(_) | Self::Entry { .. } => {
                "the journal below var/cluster-agent holds what is missing; the next command tries again to bring the node back"
            }
        }
    }
}

/// How many changes that could not be taken back are named.
const NAMED: usize = 5;

fn named(left: &[JournalError]) -> String {
    let mut texts: Vec<String> = left.iter().take(NAMED).map(ToString::to_string).collect();
    if left.len() > NAMED {
        texts.push(format!("and {} more", left.len() - NAMED));
    }
    texts.join("; ")
}

pub(super) fn file_error<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::File {
        doing,
        path: path.to_owned(),
        source,
    }
}
