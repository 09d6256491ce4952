//! The point from which a leave cannot be undone, and the way on from there.
//!
//! Only the datastore's other members can let this node in again, and only by a new join. So
//! everything is prepared first, then the steps that are left are entered here, and then the
//! datastore is asked to forget the node. A process that finds the journal after that asks the
//! datastore: it undoes the leave when the node is listed, and completes it otherwise.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{JournalError, Step, file_error, finish};
use crate::base::atomic_file::{self, Access};
use crate::base::missing::none_if_missing;
use crate::base::wait;
use crate::cluster::forget;
use crate::platform::{Action, Platform, Service};

/// Beside the entries, and none of them.
const FILE: &str = "onward";
/// Where the folder that is replaced is kept until the end.
const REPLACED: &str = "replaced.kept";
/// How long a datastore that was started may take to answer, and how often it is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_PAUSE: Duration = Duration::from_millis(250);

/// What is left to do once the datastore has forgotten this node.
#[derive(Serialize, Deserialize)]
pub(crate) struct CommitPoint {
    /// The datastore is known to have forgotten it.
    pub(crate) forgotten: bool,
    /// The folder of the datastore.
    pub(crate) backend: PathBuf,
    /// The node's address there, `address:port`.
    pub(crate) own: String,
    /// What is left: services, and one folder at most.
    pub(crate) steps: Vec<Step>,
}

impl CommitPoint {
    pub(super) fn write(&self, folder: &Path) -> Result<(), JournalError> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec(self).map_err(|error| JournalError::Entry {
            path: path.clone(),
            why: error.to_string(),
        })?;
        atomic_file::write(&path, &text, Access::PRIVATE).map_err(file_error("write", &path))
    }

    pub(super) fn read(folder: &Path) -> Result<Option<Self>, JournalError> {
        let path = folder.join(FILE);
        let text = none_if_missing(std::fs::read(&path)).map_err(file_error("read", &path))?;
        let Some(text) = text else { return Ok(None) };
        let read = serde_json::from_slice(&text).map_err(|error| JournalError::Entry {
            path,
            why: error.to_string(),
        })?;
        Ok(Some(read))
    }

    /// The leave is taken back from here on.
    pub(super) fn give_up(folder: &Path) -> Result<(), JournalError> {
        let path = folder.join(FILE);
        atomic_file::remove(&path).map_err(file_error("remove", &path))
    }

    /// Whether the datastore has forgotten the node. Without an answer the node counts as listed:
    /// the leave is undone then, and can be repeated.
    pub(super) fn has_happened(&self, platform: &dyn Platform) -> bool {
        if self.forgotten {
            return true;
        }
        let lists = || forget::lists(platform, &self.backend, &self.own);
        let lists = lists().or_else(|| {
            // Without this node's vote the others may be too few to answer.
            platform.service(Action::Start, Service::K8sDqlite).ok()?;
            wait::until(ANSWER_LIMIT, ANSWER_PAUSE, lists)
        });
        lists == Some(false)
    }

    /// Takes the steps.
    pub(super) fn go(&self, folder: &Path, platform: &dyn Platform) -> Result<(), JournalError> {
        let mut failed = None;
        for step in &self.steps {
            match step {
                Step::MoveFolder { from, to } => replace(folder, from, to)?,
                // One service that does not come up must not keep the others down.
                Step::Service { action, service } => {
                    if let Err(error) = platform.service(*action, *service) {
                        failed.get_or_insert(error);
                    }
                }
                // These cannot be written down behind a commit point.
                Step::Write { .. }
                | Step::AddToken { .. }
                | Step::Remove(_)
                | Step::MakeFolder(_)
                | Step::MarkManifest(_) => {}
            }
        }
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Takes the steps of a leave that was interrupted, and drops its journal.
    pub(super) fn complete(
        mut self,
        folder: &Path,
        platform: &dyn Platform,
    ) -> Result<(), JournalError> {
        // The datastore need not be asked again, should this be interrupted as well.
        self.forgotten = true;
        self.write(folder)?;
        // It may run on the folder that is going to be replaced.
        platform.service(Action::Stop, Service::K8sDqlite)?;
        match self.go(folder, platform) {
            Err(JournalError::Service(error)) => {
                tracing::warn!(%error, "a service did not come up after this node had left");
            }
            other => other?,
        }
        finish(folder).map(drop)
    }
}

/// Puts the folder `from` in the place of `to`, or has done so already.
fn replace(journal: &Path, from: &Path, to: &Path) -> Result<(), JournalError> {
    if !from.exists() {
        return Ok(());
    }
    if to.exists() {
        let aside = journal.join(REPLACED);
        atomic_file::rename(to, &aside).map_err(file_error("move", to))?;
    }
    atomic_file::rename(from, to).map_err(file_error("move", from))
}
