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
use crate::base::secret::Secret;
use crate::base::wait;
use crate::cluster::datastore_place;
use crate::host::{Action, CommandError, Host, Service};

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
    RestoreFile {
        path: PathBuf,
        mode: u32,
        uid: u32,
        gid: u32,
        content: Secret,
    },
    /// The folder was not there.
    RemoveFolder { path: PathBuf },
    /// What is at `to` was at `from`.
    MoveBack { from: PathBuf, to: PathBuf },
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
}

impl Undo {
    /// What makes the file what it is now, and how many bytes on the disk that takes.
    pub fn of_file(path: &Path) -> Result<(Self, usize), JournalError> {
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = path.to_owned();
                return Ok((Self::RemoveFile { path }, 0));
            }
            Err(error) => return Err(file_error("read", path)(error)),
        };
        let content = fs::read(path).map_err(file_error("read", path))?;
        let undo = Self::RestoreFile {
            path: path.to_owned(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            content: Secret::new(STANDARD.encode(&content)),
        };
        Ok((undo, content.len()))
    }
}

/// Undoes what one entry says, and removes the entry. Doing it twice does no harm, because the
/// entries before it are still to come.
pub(super) fn undo_one(
    path: &Path,
    host: &dyn Host,
    restarts: &mut Vec<Service>,
) -> Result<(), JournalError> {
    let unreadable = |why: String| JournalError::Entry {
        path: path.to_owned(),
        why,
    };
    let text = Secret::new(fs::read_to_string(path).map_err(file_error("read", path))?);
    let undo: Undo =
        serde_json::from_str(text.expose()).map_err(|error| unreadable(error.to_string()))?;
    match undo {
        Undo::RemoveFile { path } => {
            atomic_file::remove_unfinished(&path).map_err(file_error("tidy", &path))?;
            atomic_file::remove(&path).map_err(file_error("remove", &path))?;
        }
        Undo::RestoreFile {
            path,
            mode,
            uid,
            gid,
            content,
        } => {
            atomic_file::remove_unfinished(&path).map_err(file_error("tidy", &path))?;
            let content = STANDARD
                .decode(content.expose())
                .map_err(|error| unreadable(error.to_string()))?;
            let access = Access::Set {
                mode,
                uid: Some(uid),
                gid: Some(gid),
            };
            atomic_file::write(&path, &content, access).map_err(file_error("restore", &path))?;
        }
        Undo::RemoveFolder { path } => {
            atomic_file::remove_folder(&path).map_err(file_error("remove", &path))?;
        }
        Undo::MoveBack { from, to } => {
            if to.exists() {
                atomic_file::remove_folder(&from).map_err(file_error("remove", &from))?;
                atomic_file::rename(&to, &from).map_err(file_error("move back", &from))?;
            }
        }
        Undo::LeaveDatastore {
            backend,
            servers,
            own,
        } => {
            if let Err(error) = leave_datastore(host, &backend, &servers, &own) {
                tracing::warn!(%error, "the datastore may still list this node at {own}");
            }
        }
        Undo::MoveDatastore { backend, address } => {
            // One that stays where it is does no harm: whoever joins next finds it there.
            if let Err(error) = datastore_place::change(host, &backend, &address) {
                tracing::warn!(%error, "the datastore cannot be moved back to {address}");
            }
        }
        Undo::MarkManifest { mark } => {
            atomic_file::remove_unfinished(&mark).map_err(file_error("tidy", &mark))?;
            atomic_file::write(&mark, b"", Access::PRIVATE).map_err(file_error("write", &mark))?;
        }
        Undo::Restart { service } => {
            if !restarts.contains(&service) {
                restarts.push(service);
            }
            return Ok(());
        }
    }
    atomic_file::remove(path).map_err(file_error("remove", path))
}

/// Has the datastore forget this node. Its service is stopped before, or it might enter the node
/// right after; what it asked for last may still be on its way, so the datastore is asked twice.
fn leave_datastore(
    host: &dyn Host,
    backend: &Path,
    servers: &[String],
    own: &str,
) -> Result<(), CommandError> {
    host.service(Action::Stop, Service::K8sDqlite)?;
    let mut last = None;
    // While its members settle another change they refuse this one.
    let forgotten = wait::until(SETTLED, ON_ITS_WAY, || {
        match host.leave_datastore(backend, servers, own) {
            Err(error @ (CommandError::Failed { .. } | CommandError::TimedOut { .. })) => {
                last = Some(error);
                None
            }
            done => Some(done),
        }
    });
    match (forgotten, last) {
        (None, Some(error)) => return Err(error),
        (forgotten, _) => forgotten.unwrap_or(Ok(()))?,
    }
    wait::between_looks(ON_ITS_WAY);
    host.leave_datastore(backend, servers, own)
}
