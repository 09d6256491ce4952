//! What undoes one change, as it stands in the journal, and how that is done.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{JournalError, file_error};
use crate::base::atomic_file::{self, Access};
use crate::base::missing::none_if_missing;
use crate::base::secret::Secret;
use crate::base::wait;
use crate::cluster::{datastore_place, forget};
use crate::platform::{Action, CommandError, Platform, Service};

/// How long a request of a service that was stopped may take to reach the datastore.
const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// How long the datastore may take to settle what keeps it from forgetting this node.
const SETTLED: Duration = Duration::from_secs(5);

/// What undoes one change.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub(super) enum Undo {
    /// The file was not there.
    RemoveFile { path: PathBuf },
    /// The file was like this.
    RestoreFile(OldFile),
    /// The folder was not there.
    RemoveFolder { path: PathBuf },
    /// What is at `to` was at `from`, once what was at `to` is `aside`.
    MoveBack {
        from: PathBuf,
        to: PathBuf,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        aside: Option<PathBuf>,
    },
    /// The datastore does not know this node, once it is asked to forget it.
    LeaveDatastore {
        backend: PathBuf,
        servers: Vec<String>,
        own: String,
    },
    /// The datastore listened at this address, `address:port`.
    MoveDatastore { backend: PathBuf, address: String },
    /// Kubernetes has to be told of the manifest of the pod network again: this mark says so.
    MarkManifest { mark: PathBuf },
    /// The service ran with the old files.
    Restart { service: Service },
    /// Another node has to be told that nothing came of the changes.
    Tell { report: Secret },
}

/// A file as it was.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OldFile {
    path: PathBuf,
    mode: u32,
    uid: u32,
    gid: u32,
    /// In base64.
    content: Secret,
}

impl Undo {
    /// What it reads or changes.
    fn paths(&self) -> Vec<&Path> {
        match self {
            Self::RemoveFile { path }
            | Self::RestoreFile(OldFile { path, .. })
            | Self::RemoveFolder { path }
            | Self::MarkManifest { mark: path }
            | Self::LeaveDatastore { backend: path, .. }
            | Self::MoveDatastore { backend: path, .. } => vec![path],
            Self::MoveBack { from, to, .. } => vec![from, to],
            Self::Restart { .. } | Self::Tell { .. } => Vec::new(),
        }
    }

    /// Whether these two have to be undone in their order: one place lies in the other.
    pub(crate) fn concerns_same_place(&self, other: &Self) -> bool {
        self.paths().iter().any(|one| {
            let mut others = other.paths().into_iter();
            others.any(|other| one.starts_with(other) || other.starts_with(one))
        })
    }

    /// Whether a key or another credential is at its place now.
    pub(crate) fn is_of_secret(&self) -> bool {
        let (Self::RemoveFile { path } | Self::RestoreFile(OldFile { path, .. })) = self else {
            return false;
        };
        path.extension().is_some_and(|extension| extension == "key")
            || path
                .parent()
                .is_some_and(|folder| folder.ends_with("credentials"))
    }

    /// What makes the file what it is now, and how many bytes on the disk that takes.
    pub(crate) fn of_file(path: &Path) -> Result<(Self, usize), JournalError> {
        let found = none_if_missing(fs::metadata(path)).map_err(file_error("read", path))?;
        let path = path.to_owned();
        let Some(found) = found else {
            return Ok((Self::RemoveFile { path }, 0));
        };
        let content = fs::read(&path).map_err(file_error("read", &path))?;
        let undo = Self::RestoreFile(OldFile {
            path,
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            content: Secret::new(STANDARD.encode(&content)),
        });
        Ok((undo, content.len()))
    }
}

/// Undoes one change. One that was never made is none, and doing it twice does no harm, because the
/// changes before it are still to come.
pub(super) fn undo(change: &Undo, host: &dyn Platform) -> Result<(), JournalError> {
    match change {
        Undo::RemoveFile { path } => remove_file(path)?,
        Undo::RestoreFile(file) => restore_file(file)?,
        Undo::RemoveFolder { path } => {
            if path.exists() {
                atomic_file::remove_folder(path).map_err(file_error("remove", path))?;
            }
        }
        Undo::MoveBack { from, to, aside } => {
            let aside = aside.as_ref();
            if to.exists() && aside.is_none_or(|aside| aside.exists()) {
                atomic_file::remove_folder(from).map_err(file_error("remove", from))?;
                atomic_file::rename(to, from).map_err(file_error("move back", from))?;
            }
            if let Some(aside) = aside.filter(|aside| aside.exists()) {
                atomic_file::rename(aside, to).map_err(file_error("move back", to))?;
            }
        }
        Undo::LeaveDatastore {
            backend,
            servers,
            own,
        } => {
            if let Err(error) = leave_datastore(host, backend, servers, own) {
                tracing::warn!(%error, "the datastore may still list this node at {own}");
            }
        }
        Undo::MoveDatastore { backend, address } => {
            // One that stays where it is does no harm: the next join finds it there.
            if let Err(error) = datastore_place::change(host, backend, address) {
                tracing::warn!(%error, "the datastore cannot be moved back to {address}");
            }
        }
        Undo::MarkManifest { mark } => {
            atomic_file::remove_unfinished(mark).map_err(file_error("tidy", mark))?;
            atomic_file::write(mark, b"", Access::PRIVATE).map_err(file_error("write", mark))?;
        }
        // These come when all else is done.
        Undo::Restart { .. } | Undo::Tell { .. } => {}
    }
    Ok(())
}

fn is_missing(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Has the disk confirm what is as it should be.
fn confirm(path: &Path) {
    if let Err(error) = atomic_file::flush(path) {
        tracing::debug!(%error, "the disk does not confirm what `{}` is now", path.display());
    }
}

/// The file is as it should be, and the disk does not confirm it.
fn unconfirmed(path: &Path, error: &io::Error) -> Result<(), JournalError> {
    tracing::warn!(%error, "the disk does not confirm what `{}` is now", path.display());
    Ok(())
}

fn remove_file(path: &Path) -> Result<(), JournalError> {
    let tidied = atomic_file::remove_unfinished(path).map_err(file_error("tidy", path));
    // A file system that cannot be written refuses even to remove what is not there.
    if is_missing(path) {
        confirm(atomic_file::folder_of(path));
        return tidied;
    }
    atomic_file::remove(path).or_else(|error| {
        if is_missing(path) {
            return unconfirmed(path, &error);
        }
        // What was in it goes at least, where the folder alone cannot be changed.
        if let Err(error) = atomic_file::overwrite(path, b"") {
            tracing::debug!(%error, "`{}` cannot be emptied either", path.display());
        }
        Err(file_error("remove", path)(error))
    })?;
    tidied
}

fn restore_file(file: &OldFile) -> Result<(), JournalError> {
    let (path, mode, uid, gid) = (&file.path, file.mode, file.uid, file.gid);
    let tidied = atomic_file::remove_unfinished(path).map_err(file_error("tidy", path));
    let content = STANDARD.decode(file.content.expose()).map_err(|error| {
        file_error("restore", path)(io::Error::new(io::ErrorKind::InvalidData, error))
    })?;
    let is_as_it_was = || {
        fs::metadata(path)
            .is_ok_and(|now| (now.mode() & 0o7777, now.uid(), now.gid()) == (mode, uid, gid))
            && fs::read(path).is_ok_and(|now| now == content)
    };
    if is_as_it_was() {
        // An earlier attempt may have been cut off before the disk had it.
        confirm(path);
        confirm(atomic_file::folder_of(path));
        return tidied;
    }
    let access = Access::Set {
        mode,
        uid: Some(uid),
        gid: Some(gid),
    };
    let restored = atomic_file::write(path, &content, access).or_else(|error| {
        // A folder that cannot be changed still has files that can be written. On a full disk that
        // would lose what is there.
        if matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return Err(error);
        }
        atomic_file::overwrite(path, &content)
            .and_then(|()| atomic_file::set_access(path, mode, Some(uid), Some(gid)))
            .map_err(|_| error)
    });
    match restored {
        Err(error) if is_as_it_was() => unconfirmed(path, &error)?,
        other => other.map_err(file_error("restore", path))?,
    }
    tidied
}

/// Has the datastore forget this node. Its service is stopped before, or it might enter the node
/// right after; what it asked for last may still be on its way, so the datastore is asked twice.
fn leave_datastore(
    host: &dyn Platform,
    backend: &Path,
    servers: &[String],
    own: &str,
) -> Result<(), CommandError> {
    // One that does not stop is no reason not to ask.
    if let Err(error) = host.service(Action::Stop, Service::K8sDqlite) {
        tracing::warn!(%error, "the datastore of this node does not stop before it is forgotten");
    }
    let leave = || host.leave_datastore(backend, servers, own);
    forget::insist(SETTLED, ON_ITS_WAY, leave)?;
    wait::between_looks(ON_ITS_WAY);
    leave()
}
