//! Changes to a node that are made together, or undone.
//!
//! Before files, folders and services are changed, what undoes the changes is written to
//! `var/cluster-agent/journal`, durably: once for all steps that are known by then. The changes
//! themselves wait for the disk at the end only, in [`Transaction::commit`]: until then the journal
//! undoes them, also after a power loss. A join that fails replays it backwards; a join that was
//! killed is undone by the next command that looks, or by the agent when it starts. The journal holds
//! old keys: its folder is 0700, its files 0600, and it is removed when done.
//!
//! What another node is told, or learns from a service that starts, cannot be undone by a journal:
//! [`Transaction::enter_datastore`], [`Transaction::defer_rollback`] and
//! [`Transaction::enter_commit_point`] flush before it what it relies on.
//!
//! What cannot be undone at all, the datastore's forgetting this node, is entered with the steps that
//! lead on from there ([`CommitPoint`]); once it has happened, these are taken instead.

mod deferred_rollback;
mod ending;
mod error;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod journal;
mod moved;
mod roll_forward;
mod rollback;
mod steps;
mod undo;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::atomic_file::{self, Access};
use crate::base::secret::Secret;
use crate::cluster::node::Node;
use crate::platform::{Action, Platform, Service};
use crate::store::layout::Layout;
use crate::store::token_files;

pub(crate) use deferred_rollback::{
    drop_deferred, extend_deferred, is_deferred, roll_back_deferred, rolls_back_after,
};
pub(crate) use ending::{Committed, Ending};
pub(crate) use error::JournalError;
use error::file_error;
pub(crate) use roll_forward::CommitPoint;
pub(crate) use steps::{Step, Steps};
use undo::Undo;

/// Room on the disk for undoing.
const RESERVE: &str = "reserve";
/// How much is set aside at least: for most files, for the folders, and for what small files take.
const LEAST_RESERVE: usize = 64 << 10;

/// Changes that are under way. They are undone when this is dropped before they are final, as by a panic.
pub(crate) struct Transaction {
    platform: Arc<dyn Platform>,
    folder: PathBuf,
    has_ended: bool,
    /// Whether the journal has its file.
    is_recorded: bool,
    /// Files, and folders with all that they hold, whose changes the journal undoes.
    covered: Vec<PathBuf>,
    /// Services that the journal restarts.
    services: Vec<Service>,
    /// Those of them that were started, stopped or restarted.
    touched: Vec<Service>,
    /// Files and folders that the disk may not have as they are now.
    unflushed: BTreeSet<PathBuf>,
    /// How many bytes are set aside for undoing.
    reserve: usize,
}

impl Transaction {
    /// Begins to record changes. What an interrupted change left behind must be undone before, with
    /// [`recover`].
    pub(crate) fn begin(node: &Node) -> Result<Self, JournalError> {
        let layout = &node.layout;
        let own = layout.own_state();
        atomic_file::make_folder(&own, 0o700).map_err(file_error("make", &own))?;
        // From now on the node is changed for another reason, which relies on what it is.
        drop_deferred(layout)?;
        let folder = folder_of(layout);
        atomic_file::make_folder(&folder, 0o700).map_err(|error| {
            // It may be there, and unconfirmed.
            atomic_file::remove_empty_folder(&folder);
            file_error("make", &folder)(error)
        })?;
        Ok(Self {
            platform: node.platform.clone(),
            folder,
            has_ended: false,
            is_recorded: false,
            covered: Vec::new(),
            services: Vec::new(),
            touched: Vec::new(),
            unflushed: BTreeSet::new(),
            reserve: 0,
        })
    }

    /// Takes these steps. What undoes them is recorded before the first one. `before` is called with the
    /// number of each step, and can stop them.
    pub(crate) fn apply<'s, E: From<JournalError>>(
        &mut self,
        steps: impl IntoIterator<Item = &'s Step, IntoIter: Clone>,
        mut before: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let steps = steps.into_iter();
        self.record(steps.clone())?;
        for (number, step) in steps.enumerate() {
            before(number)?;
            self.take(step)?;
        }
        Ok(())
    }

    /// [`Transaction::apply`] that nothing stops.
    pub(crate) fn apply_all(&mut self, steps: &[Step]) -> Result<(), JournalError> {
        self.apply(steps, |_| Ok(()))
    }

    /// The datastore is about to learn of this node at `own`, from these members. From then on the
    /// node can be undone only with the credentials in `backend`.
    pub(crate) fn enter_datastore(
        &mut self,
        backend: &Path,
        servers: &[String],
        own: &str,
    ) -> Result<(), JournalError> {
        self.flush(|path| path.starts_with(backend) || backend.starts_with(path))?;
        self.append(&[Undo::LeaveDatastore {
            backend: backend.to_owned(),
            servers: servers.to_vec(),
            own: own.to_owned(),
        }])
    }

    /// Keeps, until the changes are final, what must be told to another node when they are undone.
    pub(crate) fn keep_report(&mut self, report: &Secret) -> Result<(), JournalError> {
        let report = report.clone();
        self.append(&[Undo::Tell { report }])
    }

    /// The datastore, which listens at `address`, is about to be moved.
    pub(crate) fn move_datastore(
        &mut self,
        backend: &Path,
        address: &str,
    ) -> Result<(), JournalError> {
        self.append(&[Undo::MoveDatastore {
            backend: backend.to_owned(),
            address: address.to_owned(),
        }])
    }

    /// Makes the changes final. When this fails they can still be undone.
    pub(crate) fn commit(&mut self) -> Result<Committed, JournalError> {
        self.flush(|_| true)?;
        let committed = finish(&self.folder)?;
        self.has_ended = true;
        Ok(committed)
    }

    /// Whether this step restarts a service that these changes have started or restarted before.
    pub(crate) fn has_restarted(&self, step: &Step) -> bool {
        let Step::Service { action, service } = step else {
            return false;
        };
        *action == Action::Restart && self.touched.contains(service)
    }

    /// Undoes all changes, unless the commit point has been passed: then they are completed.
    pub(crate) fn roll_back(mut self) -> Result<Ending, JournalError> {
        self.has_ended = true;
        end(&self.folder, self.platform.as_ref(), Some(&self.touched))
    }

    /// The datastore is about to be asked to forget this node, or has done so.
    pub(crate) fn enter_commit_point(&mut self, point: &CommitPoint) -> Result<(), JournalError> {
        self.flush(|_| true)?;
        point.write(&self.folder)
    }

    /// Takes the steps behind the commit point.
    pub(crate) fn roll_forward(&mut self, point: &CommitPoint) -> Result<(), JournalError> {
        point.go(&self.folder, self.platform.as_ref())
    }

    /// Where a folder is kept whose place another one takes.
    fn aside(&self, folder: &Path) -> PathBuf {
        let name = folder.file_name().unwrap_or_default();
        self.folder.join(format!("{}.kept", name.display()))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), JournalError> {
        atomic_file::rename_unflushed(from, to).map_err(file_error("move", from))?;
        self.note_move(from, to);
        Ok(())
    }

    fn take(&mut self, step: &Step) -> Result<(), JournalError> {
        match step {
            Step::Write {
                path,
                content,
                access,
            } => {
                let path = atomic_file::write_unflushed(path, content, *access)
                    .map_err(file_error("write", path))?;
                self.note_change(&path);
                self.unflushed.insert(path);
            }
            Step::AddToken {
                path,
                token,
                sharing,
            } => {
                if token_files::add(path, token.expose(), *sharing)
                    .map_err(file_error("write", path))?
                {
                    self.note_change(path);
                }
            }
            Step::Remove(path) => {
                if atomic_file::remove_unflushed(path).map_err(file_error("remove", path))? {
                    self.unflushed.remove(path);
                    self.note_change(path);
                }
            }
            Step::MakeFolder(path) if path.exists() => {}
            Step::MakeFolder(path) => {
                atomic_file::make_folder_unflushed(path, 0o755)
                    .map_err(file_error("make", path))?;
                self.note_change(path);
                self.unflushed.insert(path.clone());
            }
            Step::MoveFolder { from, .. } if !from.exists() => {}
            Step::MoveFolder { from, to } => {
                if to.exists() {
                    self.rename(to, &self.aside(to))?;
                }
                self.rename(from, to)?;
            }
            Step::MarkManifest(mark) => self.take(&Step::write(mark, b"", Access::PRIVATE))?,
            Step::Service { action, service } => {
                self.touched.push(*service);
                self.platform.service(*action, *service)?;
            }
        }
        Ok(())
    }

    /// This name has changed in its folder.
    fn note_change(&mut self, path: &Path) {
        let folder = atomic_file::folder_of(path);
        // The journal is removed in any case.
        if folder != self.folder {
            self.unflushed.insert(folder.to_owned());
        }
    }

    fn note_move(&mut self, from: &Path, to: &Path) {
        let (moved, rest) = std::mem::take(&mut self.unflushed)
            .into_iter()
            .partition::<BTreeSet<_>, _>(|path| path.starts_with(from));
        self.unflushed = rest;
        for path in &moved {
            let below = path.strip_prefix(from).unwrap_or(path);
            // Joining nothing would add a slash, and make another path of it.
            let path = to.join(below).components().collect();
            self.unflushed.insert(path);
        }
        self.note_change(from);
        self.note_change(to);
    }

    /// Waits until the disk has what has changed, of the wanted files and folders.
    fn flush(&mut self, is_wanted: impl Fn(&Path) -> bool) -> Result<(), JournalError> {
        // Files come before the folders that name them.
        let wanted = self.unflushed.iter().rev().filter(|path| is_wanted(path));
        let wanted: Vec<PathBuf> = wanted.cloned().collect();
        // A service may have taken an order away that it has carried out.
        atomic_file::flush_all(&wanted)
            .map_err(|(path, error)| file_error("flush", &path)(error))?;
        self.unflushed.retain(|path| !is_wanted(path));
        Ok(())
    }

    /// Records what undoes these steps.
    fn record<'a>(&mut self, steps: impl Iterator<Item = &'a Step>) -> Result<(), JournalError> {
        let (mut undos, mut largest) = (Vec::new(), 0);
        for step in steps {
            if let Some((undo, bytes)) = self.undo_of(step)? {
                largest = largest.max(bytes);
                undos.push(undo);
            }
        }
        if undos.is_empty() {
            return Ok(());
        }
        self.set_aside(largest)?;
        self.append(&undos)
    }

    /// What undoes a step, where nothing recorded does, and how many bytes on the disk that takes.
    fn undo_of(&mut self, step: &Step) -> Result<Option<(Undo, usize)>, JournalError> {
        let undo = match step {
            Step::Write { path, .. } | Step::AddToken { path, .. } | Step::Remove(path)
                if !self.covers(path) =>
            {
                if matches!(step, Step::Remove(_)) && !path.exists() {
                    return Ok(None);
                }
                let undo = Undo::of_file(path)?;
                self.covered.push(path.clone());
                return Ok(Some(undo));
            }
            Step::MakeFolder(path) if !path.exists() && !self.covers(path) => {
                self.covered.push(path.clone());
                Undo::RemoveFolder { path: path.clone() }
            }
            // One that the steps before make is not there yet.
            Step::MoveFolder { from, to } if from.exists() || self.covers(from) => {
                self.covered.retain(|path| !path.starts_with(to));
                // What is made in its place goes before it comes back.
                self.covered.push(from.clone());
                Undo::MoveBack {
                    from: from.clone(),
                    to: to.clone(),
                    aside: to.exists().then(|| self.aside(to)),
                }
            }
            Step::MarkManifest(mark) => Undo::MarkManifest { mark: mark.clone() },
            Step::Service { service, .. } if !self.services.contains(service) => {
                self.services.push(*service);
                Undo::Restart { service: *service }
            }
            _ => return Ok(None),
        };
        Ok(Some((undo, 0)))
    }

    fn covers(&self, path: &Path) -> bool {
        self.covered.iter().any(|covered| path.starts_with(covered))
    }

    /// Takes room on the disk that is given back before anything is undone: a disk that is full then
    /// must not keep an old file from being written beside the new one.
    fn set_aside(&mut self, bytes: usize) -> Result<(), JournalError> {
        let bytes = bytes.max(LEAST_RESERVE);
        if bytes <= self.reserve {
            return Ok(());
        }
        let path = self.folder.join(RESERVE);
        // Written out: a file system may keep no room for a hole, nor for zeros.
        let room = vec![b'#'; bytes];
        atomic_file::write_unflushed(&path, &room, Access::PRIVATE)
            .map_err(file_error("write", &path))?;
        self.reserve = bytes;
        Ok(())
    }

    fn append(&mut self, undos: &[Undo]) -> Result<(), JournalError> {
        journal::append(&self.folder, undos, self.is_recorded)?;
        self.is_recorded = true;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.has_ended
            && let Err(error) = end(&self.folder, self.platform.as_ref(), Some(&self.touched))
        {
            tracing::error!(%error, "changes that were not completed cannot be undone");
        }
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
pub(crate) fn unreported(layout: &Layout) -> Option<Secret> {
    std::fs::read_to_string(unreported_in(&folder_of(layout)))
        .ok()
        .map(Secret::new)
}

/// It was told, or never will be.
pub(crate) fn forget_report(layout: &Layout) {
    let path = unreported_in(&folder_of(layout));
    if let Err(error) = atomic_file::remove(&path) {
        tracing::warn!(%error, "cannot remove `{}`", path.display());
    }
}

/// Whether changes are under way, or were interrupted.
pub(crate) fn is_open(layout: &Layout) -> bool {
    let folder = folder_of(layout);
    folder.exists() || done(&folder).exists()
}

/// Takes back, or completes, what an interrupted change left behind; `None` when there is nothing.
pub(crate) fn recover(
    layout: &Layout,
    platform: &dyn Platform,
) -> Result<Option<Ending>, JournalError> {
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
    end(&folder, platform, None).map(Some)
}

/// Undoes or completes what a journal holds. `touched` are the services that were changed, where that is
/// known.
fn end(
    folder: &Path,
    platform: &dyn Platform,
    touched: Option<&[Service]>,
) -> Result<Ending, JournalError> {
    if let Some(point) = CommitPoint::read(folder)? {
        if point.has_happened(platform) {
            point.complete(folder, platform)?;
            return Ok(Ending::Completed);
        }
        // Which way it goes is decided once: half of it undone, there is no way on any more.
        CommitPoint::give_up(folder)?;
    }
    rollback::undo_all(folder, platform, touched)?;
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
    // Should it be back after a power loss, the next recovery removes it.
    atomic_file::remove_folder_unflushed(&done)
        .map(drop)
        .map_err(file_error("remove", &done))
}

#[cfg(test)]
mod tests;
