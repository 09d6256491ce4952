//! Taking back all that a journal holds.
//!
//! What cannot be taken back keeps nothing else from being taken back, but for what changed the same
//! place before. It stays in the journal and is named, and the next command tries again. Keys and
//! other credentials come first: what holds up the rest must not leave a cluster's secrets behind.

use std::path::{Path, PathBuf};

use super::undo::{self, Undo};
use super::{
    JournalError, REPORT, RESERVE, entries, file_error, finish, move_journal, unreported_in,
};
use crate::base::atomic_file::{self, Access};
use crate::platform::{Action, Platform, Service};

/// Beside the entries, and none of them: the services have been restarted since something was undone.
const RESTARTED: &str = "restarted";

/// A change that is still to be undone.
pub(super) struct Entry {
    pub path: PathBuf,
    pub undo: Undo,
}

impl Entry {
    /// Undoes the change, and removes the entry.
    fn undo(&self, host: &dyn Platform) -> Result<(), JournalError> {
        undo::undo(&self.undo, host)?;
        let restarted = self.path.with_file_name(RESTARTED);
        atomic_file::remove(&restarted).map_err(file_error("remove", &restarted))?;
        atomic_file::remove(&self.path).map_err(file_error("remove", &self.path))
    }
}

pub(super) fn undo_all(folder: &Path, host: &dyn Platform) -> Result<(), JournalError> {
    let reserve = folder.join(RESERVE);
    if let Err(error) = atomic_file::remove(&reserve) {
        tracing::warn!(%error, "cannot remove `{}`", reserve.display());
    }
    let mut changes = Vec::new();
    let mut services = Vec::new();
    let mut left = Vec::new();
    for path in entries(folder)?.into_iter().rev() {
        match Undo::read(&path) {
            Ok(Undo::Restart { service }) if services.contains(&service) => {}
            Ok(Undo::Restart { service }) => services.push(service),
            Ok(undo) => changes.push(Entry { path, undo }),
            Err(error) => left.push(error),
        }
    }
    left.extend(undo_changes(secrets_first(changes), host));
    let failed = restart(folder, &services, !left.is_empty(), host);
    if !left.is_empty() {
        left.extend(failed);
        return Err(JournalError::NotUndone(left));
    }
    // What is still to be told outlives the journal.
    let report = folder.join(REPORT);
    if report.exists() {
        let _ = move_journal(&report, &unreported_in(folder))?;
    }
    // Undone is undone; a journal that is back after a power loss finds nothing to do.
    let _ = finish(folder)?;
    match failed.into_iter().next() {
        Some(JournalError::Service(error)) => Err(JournalError::NotRestarted(error)),
        _ => Ok(()),
    }
}

/// Undoes these, the newest first, and says why some are left. As long as something is undone the rest
/// is tried again: on a full disk there is more room then.
fn undo_changes(mut changes: Vec<Entry>, host: &dyn Platform) -> Vec<JournalError> {
    loop {
        let before = changes.len();
        let mut errors = Vec::new();
        let mut left: Vec<Entry> = Vec::new();
        for entry in changes {
            let waits = |other: &Entry| other.undo.concerns_same_place(&entry.undo);
            if !left.iter().any(waits) {
                match entry.undo(host) {
                    Ok(()) => continue,
                    Err(error) => errors.push(error),
                }
            }
            left.push(entry);
        }
        if left.is_empty() || left.len() == before {
            return errors;
        }
        changes = left;
    }
}

/// Secrets come first, unless a newer change of another kind concerns the same place.
pub(super) fn secrets_first(changes: Vec<Entry>) -> Vec<Entry> {
    let (mut first, mut then) = (Vec::new(), Vec::<Entry>::new());
    for entry in changes {
        let waits = |newer: &Entry| newer.undo.concerns_same_place(&entry.undo);
        if entry.undo.is_of_secret() && !then.iter().any(waits) {
            first.push(entry);
        } else {
            then.push(entry);
        }
    }
    first.extend(then);
    first
}

/// Services come last, when the files are the old ones again; their entries stay until then. One that
/// does not come up must not keep the others down, nor the journal for ever. Where something `is_left`
/// they restart again once more of it is undone.
fn restart(
    folder: &Path,
    services: &[Service],
    is_left: bool,
    host: &dyn Platform,
) -> Vec<JournalError> {
    let restarted = folder.join(RESTARTED);
    if restarted.exists() {
        return Vec::new();
    }
    let failed = services
        .iter()
        .filter_map(|service| host.service(Action::Restart, *service).err())
        .map(JournalError::Service)
        .collect();
    if is_left && let Err(error) = atomic_file::write(&restarted, b"", Access::PRIVATE) {
        tracing::warn!(%error, "cannot write `{}`", restarted.display());
    }
    failed
}
