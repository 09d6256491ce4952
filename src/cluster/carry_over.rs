//! The tokens of a node go with it from one revision of the snap to the next, and back.
//!
//! snapd copies the node directory while an agent may run, and leads back to an older copy when the
//! snap is reverted. Which directory was used last is noted in a file that all revisions share; what
//! starts in another one takes the token database over from there first. So no token is lost, and none
//! that was used lives again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::atomic_file::{self, Access};
use crate::base::file_lock::{FileLock, FileLockError};
use crate::base::missing::none_if_missing;
use crate::cluster::join;
use crate::cluster::node::Node;
use crate::store::layout::Layout;
use crate::store::revision::NotCurrent;

/// Which node directory was used last.
const NOTE: &str = "run/cluster-agent.directory";

/// The tokens of the directory that was used last could not be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CarryOverError {
    /// Its agent still runs.
    #[error("an agent still runs in `{}`", .0.display())]
    InUse(PathBuf),
    /// The tokens are another revision's by now.
    #[error(transparent)]
    NotCurrent(#[from] NotCurrent),
    /// A file.
    #[error("cannot take the tokens over: `{}`: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes over the tokens of the node directory that was used last, where that is another one; gives
/// its path when there was something to take over.
///
/// A join that was interrupted there is taken back there, and the node that it contacted is told.
pub(crate) fn carry_over(node: &Node) -> Result<Option<PathBuf>, CarryOverError> {
    let Some(revision) = node.layout.revision() else {
        return Ok(None);
    };
    revision.check()?;
    let note = node.layout.common().join(NOTE);
    let own = revision.directory();
    let last = none_if_missing(fs::read_to_string(&note)).map_err(|error| file(&note, error))?;
    let last = last.map(|text| PathBuf::from(text.trim_end()));
    if last.as_deref() == Some(own) {
        return Ok(None);
    }
    let taken = match last {
        // Only revisions of one snap are the same node.
        Some(last) if last.parent() == own.parent() && last.is_dir() => {
            let old = Node::of_snap(node.layout.at(&last));
            take(&old, &node.layout)?.then_some(last)
        }
        _ => None,
    };
    let folder = note.parent().unwrap_or(&note);
    atomic_file::make_folder(folder, 0o755).map_err(|error| file(folder, error))?;
    let line = format!("{}\n", own.display());
    atomic_file::write(&note, line.as_bytes(), Access::mode(0o644))
        .map_err(|error| file(&note, error))?;
    Ok(taken)
}

fn take(old: &Node, new: &Layout) -> Result<bool, CarryOverError> {
    if !old.layout.own_state().is_dir() {
        return Ok(false);
    }
    let lock = old.layout.agent_lock();
    let _lock = FileLock::try_take(&lock).map_err(|error| match error {
        FileLockError::Held => CarryOverError::InUse(old.layout.data().to_owned()),
        FileLockError::Io(source) => file(&lock, source),
    })?;
    match join::recover(old) {
        Ok(Some(ending)) => tracing::warn!("in `{}`: {ending}", old.layout.data().display()),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "an earlier join or leave in `{}` cannot be undone", old.layout.data().display());
        }
    }
    let database = old.layout.token_database();
    let content = none_if_missing(fs::read(&database)).map_err(|error| file(&database, error))?;
    let Some(content) = content else {
        return Ok(false);
    };
    let own = new.own_state();
    atomic_file::make_folder(&own, 0o700).map_err(|error| file(&own, error))?;
    let database = new.token_database();
    atomic_file::write(&database, &content, Access::PRIVATE)
        .map_err(|error| file(&database, error))?;
    Ok(true)
}

fn file(path: &Path, source: io::Error) -> CarryOverError {
    CarryOverError::File {
        path: path.to_owned(),
        source,
    }
}
