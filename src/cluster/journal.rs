//! Changes to a node that can be taken back.
//!
//! Before a file, folder or service is changed, what undoes the change is written to
//! `var/cluster-agent/journal`, durably. A join that fails replays it backwards; a join that was
//! killed is taken back by the next command that looks, or by the agent when it starts. An entry
//! goes when it is undone, so an undo that is cut off itself goes on where it stopped. The
//! journal holds old keys: its folder is 0700, its entries 0600, and it is removed when done.
//!
//! What cannot be undone, the datastore's forgetting this node, is entered with the steps that
//! lead on from there ([`Onward`]); once it has happened, these are taken instead.

mod kept;
mod moved;
mod onward;
mod replay;
mod undo;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::atomic_file::{self, Access};
use crate::base::secret::Secret;
use crate::platform::{Action, CommandError, Platform, Service};
use crate::store::layout::Layout;

pub use kept::{drop_kept, is_kept, keep_until, kept_until, undo_kept};
pub use onward::{Ahead, Onward};
use undo::Undo;

/// What must be told when the changes are taken back; beside the entries, and none of them.
const REPORT: &str = "report";
/// Room on the disk for undoing.
const RESERVE: &str = "reserve";
/// What is set aside beyond the largest file: for the folders, and for what small files take.
const LEAST_RESERVE: usize = 8192;

/// Changes that are under way.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    entries: usize,
    /// How many bytes are set aside for undoing.
    reserve: usize,
}

/// A change could not be made, or not be taken back.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file or folder.
    #[error("cannot {doing} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
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
    pub fn hint_of_undoing(&self) -> &'static str {
        match self {
            Self::NotRestarted(_) => "look into the service's log, and start it again",
            Self::NotUndone(_) => {
                "cure what is named; all else is as it was, and the next command, or the start of the node's agent, takes the rest back"
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

/// Changes that are final.
#[derive(Debug)]
#[must_use]
pub struct Committed {
    /// The disk did not confirm it: after a power loss they may be taken back.
    pub unconfirmed: Option<io::Error>,
}

impl Committed {
    /// What there is to say of it, of a node that has done this.
    pub fn warning(&self, done: &str) -> Option<String> {
        let error = self.unconfirmed.as_ref()?;
        Some(format!(
            "this node has {done}, but the disk does not confirm that this is stored ({error}); look after the disk: after a power loss the node may be as it was before"
        ))
    }
}

/// How a change that was not made final has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
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

fn file_error<'a>(
    doing: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> JournalError + 'a {
    move |source| JournalError::File {
        doing,
        path: path.to_owned(),
        source,
    }
}

impl Journal {
    /// Begins to record changes. What an interrupted change left behind must be taken back
    /// before, with [`recover`].
    pub fn begin(layout: &Layout) -> Result<Self, JournalError> {
        let own = layout.own_state();
        atomic_file::make_folder(&own, 0o700).map_err(file_error("make", &own))?;
        // From now on the node is changed for another reason, which relies on what it is.
        drop_kept(layout)?;
        let folder = folder_of(layout);
        atomic_file::make_folder(&folder, 0o700).map_err(|error| {
            // It may be there, and unconfirmed.
            atomic_file::remove_empty_folder(&folder);
            file_error("make", &folder)(error)
        })?;
        Ok(Self {
            folder,
            entries: 0,
            reserve: 0,
        })
    }

    /// Replaces or creates a file.
    pub fn write(
        &mut self,
        path: &Path,
        content: &[u8],
        access: Access,
    ) -> Result<(), JournalError> {
        self.remember_file(path)?;
        atomic_file::write(path, content, access).map_err(file_error("write", path))
    }

    /// Removes a file; one that is not there is no change.
    pub fn remove(&mut self, path: &Path) -> Result<(), JournalError> {
        if !path.exists() {
            return Ok(());
        }
        self.remember_file(path)?;
        atomic_file::remove(path).map_err(file_error("remove", path))
    }

    /// Makes a folder; one that is there is no change.
    pub fn make_folder(&mut self, path: &Path, mode: u32) -> Result<(), JournalError> {
        if path.exists() {
            return Ok(());
        }
        self.record(&Undo::RemoveFolder {
            path: path.to_owned(),
        })?;
        atomic_file::make_folder(path, mode).map_err(file_error("make", path))
    }

    /// Moves a folder. What stands at its new place is kept until the changes are final.
    pub fn move_folder(&mut self, from: &Path, to: &Path) -> Result<(), JournalError> {
        if to.exists() {
            let aside = self.folder.join(format!("{:04}.kept", self.entries));
            self.record(&Undo::MoveBack {
                from: to.to_owned(),
                to: aside.clone(),
            })?;
            atomic_file::rename(to, &aside).map_err(file_error("move", to))?;
        }
        if !from.exists() {
            return Ok(());
        }
        self.record(&Undo::MoveBack {
            from: from.to_owned(),
            to: to.to_owned(),
        })?;
        atomic_file::rename(from, to).map_err(file_error("move", from))
    }

    /// Starts, stops or restarts a service.
    pub fn service(
        &mut self,
        host: &dyn Platform,
        action: Action,
        service: Service,
    ) -> Result<(), JournalError> {
        self.record(&Undo::Restart { service })?;
        Ok(host.service(action, service)?)
    }

    /// The datastore is about to learn of this node at `own`, from these members.
    pub fn enter_datastore(
        &mut self,
        backend: &Path,
        servers: &[String],
        own: &str,
    ) -> Result<(), JournalError> {
        self.record(&Undo::LeaveDatastore {
            backend: backend.to_owned(),
            servers: servers.to_vec(),
            own: own.to_owned(),
        })
    }

    /// Keeps, until the changes are final, what must be told to another node when they are taken
    /// back.
    pub fn keep_report(&mut self, report: &Secret) -> Result<(), JournalError> {
        let path = self.folder.join(REPORT);
        atomic_file::write(&path, report.expose().as_bytes(), Access::PRIVATE)
            .map_err(file_error("write", &path))
    }

    /// The datastore, which listens at `address`, is about to be moved.
    pub fn move_datastore(&mut self, backend: &Path, address: &str) -> Result<(), JournalError> {
        self.record(&Undo::MoveDatastore {
            backend: backend.to_owned(),
            address: address.to_owned(),
        })
    }

    /// The manifest of the pod network is about to change; `mark` has Kubernetes told of it.
    pub fn mark_manifest(&mut self, mark: &Path) -> Result<(), JournalError> {
        self.record(&Undo::MarkManifest {
            mark: mark.to_owned(),
        })?;
        atomic_file::write(mark, b"", Access::PRIVATE).map_err(file_error("write", mark))
    }

    /// Makes the changes final. When this fails they can still be taken back.
    pub fn commit(&mut self) -> Result<Committed, JournalError> {
        finish(&self.folder)
    }

    /// Takes all changes back, unless the point from which there is no way back has been passed:
    /// then they are completed.
    pub fn roll_back(self, host: &dyn Platform) -> Result<Ending, JournalError> {
        end(&self.folder, host)
    }

    /// The datastore is about to be asked to forget this node, or has done so.
    pub fn enter_onward(&mut self, onward: &Onward) -> Result<(), JournalError> {
        onward.write(&self.folder)
    }

    /// Takes the steps that lead on.
    pub fn go_on(&mut self, onward: &Onward, host: &dyn Platform) -> Result<(), JournalError> {
        onward.go(&self.folder, host)
    }

    fn remember_file(&mut self, path: &Path) -> Result<(), JournalError> {
        let (undo, bytes) = Undo::of_file(path)?;
        self.set_aside(bytes)?;
        self.record(&undo)
    }

    /// Takes room on the disk that is given back before anything is undone: a disk that is full then
    /// must not keep an old file from being written beside the new one.
    fn set_aside(&mut self, bytes: usize) -> Result<(), JournalError> {
        if bytes <= self.reserve {
            return Ok(());
        }
        let path = self.folder.join(RESERVE);
        // Written out: a file system may keep no room for a hole, nor for zeros.
        let room = vec![b'#'; bytes + LEAST_RESERVE];
        atomic_file::write(&path, &room, Access::PRIVATE).map_err(file_error("write", &path))?;
        self.reserve = bytes;
        Ok(())
    }

    fn record(&mut self, undo: &Undo) -> Result<(), JournalError> {
        let path = self.folder.join(format!("{:04}.json", self.entries));
        let text =
            Secret::new(
                serde_json::to_string(undo).map_err(|error| JournalError::Entry {
                    path: path.clone(),
                    why: error.to_string(),
                })?,
            );
        atomic_file::write(&path, text.expose().as_bytes(), Access::PRIVATE)
            .map_err(file_error("write", &path))?;
        self.entries += 1;
        Ok(())
    }
}

fn folder_of(layout: &Layout) -> PathBuf {
    layout.own_state().join("journal")
}

/// Where what is still to be told is, beside the journal.
fn unreported_in(folder: &Path) -> PathBuf {
    folder.with_file_name("unreported")
}

/// What another node is still to be told of changes that were taken back.
pub fn unreported(layout: &Layout) -> Option<Secret> {
    std::fs::read_to_string(unreported_in(&folder_of(layout)))
        .ok()
        .map(Secret::new)
}

/// It was told, or never will be.
pub fn forget_report(layout: &Layout) {
    let path = unreported_in(&folder_of(layout));
    if let Err(error) = atomic_file::remove(&path) {
        tracing::warn!(%error, "cannot remove `{}`", path.display());
    }
}

/// Whether changes are under way, or were interrupted.
pub fn is_open(layout: &Layout) -> bool {
    let folder = folder_of(layout);
    folder.exists() || done(&folder).exists()
}

/// Takes back, or completes, what an interrupted change left behind; `None` when there is nothing.
pub fn recover(layout: &Layout, host: &dyn Platform) -> Result<Option<Ending>, JournalError> {
    let folder = folder_of(layout);
    // A change that became final just before the power went needs no more than tidying up, and what
    // cannot be tidied up now keeps nothing from being taken back.
    if let Err(error) = remove_done(&folder) {
        tracing::warn!(%error, "the journal of a change that is complete is still there");
    }
    if !folder.exists() {
        return Ok(None);
    }
    moved::settle_in(layout, &folder)?;
    end(&folder, host).map(Some)
}

fn end(folder: &Path, host: &dyn Platform) -> Result<Ending, JournalError> {
    if let Some(onward) = Onward::read(folder)? {
        if onward.has_happened(host) {
            onward.complete(folder, host)?;
            return Ok(Ending::Completed);
        }
        // Which way it goes is decided once: half of it undone, there is no way on any more.
        Onward::give_up(folder)?;
    }
    replay::undo_all(folder, host)?;
    Ok(Ending::TakenBack)
}

/// The journal is moved away before it is deleted: half a journal must never be replayed.
fn finish(folder: &Path) -> Result<Committed, JournalError> {
    let committed = move_journal(folder, &done(folder))?;
    // From here on the changes are final, whether their traces go now or later.
    if let Err(error) = remove_done(folder) {
        tracing::warn!(%error, "the journal of a change that is complete is still there");
    }
    Ok(committed)
}

/// Gives a journal, or a part of it, its next place. Once it has the name the move is made, whatever the disk says
/// when it is to confirm that.
fn move_journal(from: &Path, to: &Path) -> Result<Committed, JournalError> {
    let unconfirmed = match atomic_file::rename(from, to) {
        Ok(()) => None,
        Err(error) if !from.exists() && to.exists() => Some(error),
        Err(error) => return Err(file_error("move", from)(error)),
    };
    if let Some(error) = &unconfirmed {
        tracing::warn!(%error, "the disk does not confirm that `{}` has moved", from.display());
    }
    Ok(Committed { unconfirmed })
}

fn done(folder: &Path) -> PathBuf {
    folder.with_extension("done")
}

fn remove_done(folder: &Path) -> Result<(), JournalError> {
    let done = done(folder);
    atomic_file::remove_folder(&done).map_err(file_error("remove", &done))
}

/// The entries, the oldest first.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(file_error("read", folder))? {
        let path = entry.map_err(file_error("read", folder))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            entries.push(path);
        }
    }
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests;
