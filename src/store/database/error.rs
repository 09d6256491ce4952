//! What can be wrong with the token database, and with MicroK8s's files of tokens.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::DatabaseError;

use crate::base::disk;
use crate::store::database::file::SCHEMA;

/// The formats of redb's files that this program may meet when a later version of it wrote them.
const LATER_FORMATS: std::ops::RangeInclusive<u8> = 4..=9;

/// The database, or a file of MicroK8s's, cannot be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database.
    #[error("cannot use the token database `{}`: I/O error: {source}{}", path.display(), disk::cure_of(source))]
    Database {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Another process has it open.
    #[error(
        "the token database `{}` is in use by another process: wait until that has ended, or restart an agent whose socket is gone", path.display()
    )]
    InUse {
        /// Where it is.
        path: PathBuf,
    },
    /// The file is no database any more. It is set aside, and this reaches no caller.
    #[error("the token database `{}` is damaged ({why})", path.display())]
    Damaged {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// One of its records is not as this program writes it.
    #[error("a record of the token database `{}` cannot be read: {why}", path.display())]
    Record {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The library that reads it gave up.
    #[error("cannot use the token database `{}`: {why}", path.display())]
    Failed {
        /// Where it is.
        path: PathBuf,
        /// What it said.
        why: String,
    },
    /// The file was written by a later version.
    #[error(
        "the token database `{}` was written by a newer version of this program (its format is {found}, this program knows {SCHEMA}): use that version", path.display()
    )]
    Newer {
        /// Where it is.
        path: PathBuf,
        /// The version that it has.
        found: String,
    },
    /// A file.
    #[error("cannot use `{}`: {source}{}", path.display(), disk::cure_of(source))]
    File {
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// Nothing writes to the database any more.
    #[error("the token database is closed")]
    Interrupted,
    /// The cluster's store does not answer, or asks for later.
    #[error("the cluster's token store cannot be used now: {why}")]
    Unavailable {
        /// What it, or the way to it, says.
        why: String,
        /// After how many seconds it may answer.
        seconds: u64,
        /// A change may have been done all the same.
        is_unsure: bool,
    },
    /// The cluster's store knows this node, and does not let it do that (401 and 403).
    #[error(
        "the cluster's token store refuses this node ({why}): its administrator kubeconfig needs the right to {rights}"
    )]
    Forbidden {
        /// The rights that are missing, such as `get secrets in the namespace kube-system`.
        rights: String,
        /// What the store says.
        why: String,
    },
    /// A Secret is not as this program writes it, or cannot be written.
    #[error(
        "the Secret `{name}` is no record of a token ({why}): its token admits no node; delete it with `microk8s kubectl delete secret`, and add the token again"
    )]
    Secret {
        /// Its namespace and name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A record has no room for another node.
    #[error("too many nodes are joining with this token at the moment")]
    Full,
    /// Others changed the record each time that a change was tried.
    #[error("the record of this token is being changed by others all the time")]
    Contended,
}

/// After how many seconds a request may be granted that a store could not serve, where the store
/// does not say.
const COME_AGAIN: u64 = 10;

impl StoreError {
    /// Whether a change may have been done although this is its answer.
    pub(crate) fn is_unsure(&self) -> bool {
        matches!(self, Self::Unavailable { is_unsure, .. } if *is_unsure)
    }

    /// After how many seconds the same may succeed; `None` where this node has to be put right first.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Unavailable { seconds, .. } => Some(*seconds),
            Self::Forbidden { .. } | Self::Full | Self::Contended => Some(COME_AGAIN),
            Self::Database { .. }
            | Self::InUse { .. }
            | Self::Damaged { .. }
            | Self::Record { .. }
            | Self::Failed { .. }
            | Self::Newer { .. }
            | Self::File { .. }
            | Self::Secret { .. }
            | Self::Interrupted => None,
        }
    }

    /// A file that cannot be used.
    pub(crate) fn file(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File {
            path: path.into(),
            source: Arc::new(source),
        }
    }
}

/// Why something in a transaction failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The database.
    Database(redb::Error),
    /// A record is not as this program writes it.
    Record(String),
    /// The library panicked.
    Panicked(String),
}

impl Fault {
    /// The error of this database.
    pub(crate) fn into_error(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Self::Record(why) => StoreError::Record { path, why },
            Self::Panicked(why) => StoreError::Failed { path, why },
            Self::Database(redb::Error::Io(error)) => StoreError::Database {
                path,
                source: Arc::new(error),
            },
            Self::Database(error) => StoreError::Failed {
                path,
                why: error.to_string(),
            },
        }
    }
}

/// The library has an error type for each step.
impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

/// What an error at the opening of a database means.
pub(crate) fn of_opening(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    let damaged = |why: String| StoreError::Damaged {
        path: path.clone(),
        why,
    };
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        DatabaseError::Storage(redb::StorageError::Corrupted(why)) => match later_format(&why) {
            Some(found) => StoreError::Newer {
                path,
                found: format!("file version {found}"),
            },
            None => damaged(why),
        },
        DatabaseError::Storage(redb::StorageError::Io(error))
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            damaged(error.to_string())
        }
        DatabaseError::Storage(redb::StorageError::Io(error)) => StoreError::Database {
            path,
            source: Arc::new(error),
        },
        other => damaged(other.to_string()),
    }
}

/// The format of a file that only a later version can have written.
fn later_format(why: &str) -> Option<u8> {
    let found = why.strip_prefix("Expected file format version")?;
    let (_, found) = found.rsplit_once("found ")?;
    found
        .parse()
        .ok()
        .filter(|found| LATER_FORMATS.contains(found))
}
