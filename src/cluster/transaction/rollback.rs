//! Taking back all that a journal holds.
//!
//! What cannot be undone keeps nothing else from being taken back, but for what changed the same
//! place before. It stays in the journal and is named, and the next command tries again. Keys and
//! other credentials come first: what holds up the rest must not leave a cluster's secrets behind.

use std::path::Path;

use super::journal::{self, Entry};
use super::undo::{self, Undo};
use super::{JournalError, RESERVE, file_error, finish, move_journal, unreported_in};
use crate::base::atomic_file::{self, Access};
use crate::platform::{Action, Platform, Service};

/// Beside the journal: the services have been restarted since something was undone.
const RESTARTED: &str = "restarted";
/// Beside the journal of version 0.1: what must be told when the changes are undone.
const REPORT: &str = "report";

impl Entry {
    /// Undoes the change, and notes that.
    fn undo(&self, folder: &Path, platform: &dyn Platform) -> Result<(), JournalError> {
        undo::undo(&self.undo, platform)?;
        let restarted = folder.join(RESTARTED);
        atomic_file::remove(&restarted).map_err(file_error("remove", &restarted))?;
        self.mark()
    }
}

/// Undoes all changes; of the services only those that were `touched`, where that is known.
pub(super) fn undo_all(
    folder: &Path,
    platform: &dyn Platform,
    touched: Option<&[Service]>,
) -> Result<(), JournalError> {
    let reserve = folder.join(RESERVE);
    if let Err(error) = atomic_file::remove(&reserve) {
        tracing::warn!(%error, "cannot remove `{}`", reserve.display());
    }
    let (entries, mut left) = journal::read(folder)?;
    let mut changes = Vec::new();
    let mut services = Vec::new();
    let mut told = None;
    for entry in entries.into_iter().rev() {
        match entry.undo {
            Undo::Restart { service } => {
                let is_touched = touched.is_none_or(|touched| touched.contains(&service));
                if is_touched && !services.contains(&service) {
                    services.push(service);
                }
            }
            Undo::Tell { report } => told = Some(report),
            _ => changes.push(entry),
        }
    }
    left.extend(undo_changes(folder, secrets_first(changes), platform));
    let failed = restart(folder, &services, !left.is_empty(), platform);
    if !left.is_empty() {
        left.extend(failed);
        return Err(JournalError::NotUndone(left));
    }
    // What is still to be told outlives the journal.
    let (report, unreported) = (folder.join(REPORT), unreported_in(folder));
    if let Some(told) = told {
        atomic_file::write(&unreported, told.expose().as_bytes(), Access::PRIVATE)
            .map_err(file_error("write", &unreported))?;
    } else if report.exists() {
        let _ = move_journal(&report, &unreported)?;
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
fn undo_changes(
    folder: &Path,
    mut changes: Vec<Entry>,
    platform: &dyn Platform,
) -> Vec<JournalError> {
    loop {
        let before = changes.len();
        let mut errors = Vec::new();
        let mut left: Vec<Entry> = Vec::new();
        for entry in changes {
            let waits = |other: &Entry| other.undo.concerns_same_place(&entry.undo);
            if !left.iter().any(waits) {
                match entry.undo(folder, platform) {
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
    platform: &dyn Platform,
) -> Vec<JournalError> {
    let restarted = folder.join(RESTARTED);
    if restarted.exists() {
        return Vec::new();
    }
    let failed = services
        .iter()
        .filter_map(|service| platform.service(Action::Restart, *service).err())
        .map(JournalError::Service)
        .collect();
    if is_left && let Err(error) = atomic_file::write(&restarted, b"", Access::PRIVATE) {
        tracing::warn!(%error, "cannot write `{}`", restarted.display());
    }
    failed
}
