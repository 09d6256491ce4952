//! One change of a node at a time.
//!
//! The lock is on the folder of our own state, where no other user can take it; the folder goes
//! with the lock when it holds nothing else.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::atomic_file;
use crate::base::file_lock::{FileLock, FileLockError};
use crate::base::wait;
use crate::cluster::node::Node;
use crate::cluster::transaction::{self, Ending, JournalError};
use crate::store::revision::NotCurrent;

/// How long another change of the node may take to end, and how often that is looked at.
pub(crate) const BUSY_LIMIT: Duration = Duration::from_secs(60);
/// How long a command waits for that: one that was ended is being taken back right now. It does not
/// wait for more in silence.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The right to change the node, until it is dropped.
#[derive(Debug)]
pub(crate) struct NodeLock {
    folder: PathBuf,
    _lock: FileLock,
}

/// Why the node cannot be changed now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeLockError {
    /// A join or leave of this node is under way.
    #[error("another join or leave of this node is under way")]
    Busy,
    /// The node's directory is no longer the one that is used.
    #[error(transparent)]
    Moved(#[from] NotCurrent),
    /// The node's directory is not there, or not ours.
    #[error("cannot use the node directory: `{}`: {source}", path.display())]
    NoNode {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl NodeLockError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Busy => Some("wait for it to finish and check its output"),
            Self::Moved(_) => {
                Some("run the command again when `snap changes` shows that it is done")
            }
            Self::NoNode { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(if nix::unistd::geteuid().is_root() {
                    "even root cannot write there: `lsattr -d` and `findmnt -T` show whether it is immutable or read-only"
                } else {
                    "run the command as root, or start the node's agent"
                })
            }
            Self::NoNode { .. } => None,
        }
    }
}

impl Drop for NodeLock {
    fn drop(&mut self) {
        atomic_file::remove_empty_folder(&self.folder);
    }
}

/// Whether the node lock could be taken now. Finding out changes nothing.
pub(crate) fn check(node: &Node) -> Result<(), NodeLockError> {
    node.layout.check_current()?;
    let folder = node.layout.own_state();
    match FileLock::try_take_folder(&folder) {
        Ok(_) => Ok(()),
        Err(FileLockError::Held) => Err(NodeLockError::Busy),
        Err(FileLockError::Io(source)) if source.kind() == io::ErrorKind::NotFound => {
            let above = folder.parent().unwrap_or(&folder);
            nix::unistd::access(above, nix::unistd::AccessFlags::W_OK).map_err(|error| {
                NodeLockError::NoNode {
                    path: above.to_owned(),
                    source: error.into(),
                }
            })
        }
        Err(FileLockError::Io(source)) => Err(NodeLockError::NoNode {
            path: folder,
            source,
        }),
    }
}

/// Waits for the node lock: a change that holds it may be one whose caller was killed, and that is
/// being taken back right now.
pub(crate) fn take(node: &Node) -> Result<NodeLock, NodeLockError> {
    take_within(node, BUSY_LIMIT)
}

/// Waits for the node lock, and then recovers from a change that was killed, with [`recover`] or a
/// function that calls it.
pub(crate) fn lock_and_recover<E: From<NodeLockError> + From<JournalError>>(
    node: &Node,
    limit: Duration,
    recover: impl FnOnce(&Node) -> Result<Option<Ending>, JournalError>,
) -> Result<NodeLock, E> {
    let node_lock = take_within(node, limit)?;
    if let Some(ending) = recover(node)? {
        tracing::warn!("{ending}");
    }
    Ok(node_lock)
}

/// Takes back, or completes, what an interrupted change of this node left behind.
pub(crate) fn recover(node: &Node) -> Result<Option<Ending>, JournalError> {
    transaction::recover(&node.layout, node.platform.as_ref())
}

/// Takes the node lock if it is free.
pub(crate) fn take_now(node: &Node) -> Result<NodeLock, NodeLockError> {
    take_within(node, Duration::ZERO)
}

fn take_within(node: &Node, limit: Duration) -> Result<NodeLock, NodeLockError> {
    node.layout.check_current()?;
    let folder = node.layout.own_state();
    let try_take = || match atomic_file::make_folder(&folder, 0o700)
        .map_err(FileLockError::Io)
        .and_then(|()| FileLock::try_take_folder(&folder))
    {
        Err(FileLockError::Held) => None,
        Ok(lock) => Some(Ok(lock)),
        Err(FileLockError::Io(source)) => Some(Err(source)),
    };
    match wait::until(limit, BUSY_PAUSE, try_take) {
        None => Err(NodeLockError::Busy),
        Some(Ok(lock)) => Ok(NodeLock {
            folder,
            _lock: lock,
        }),
        Some(Err(source)) => Err(NodeLockError::NoNode {
            path: folder,
            source,
        }),
    }
}
