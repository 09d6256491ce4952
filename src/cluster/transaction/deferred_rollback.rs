//! Changes that are complete, and may be undone for a while.
//!
//! What a node changes when others join it for the first time is of no use when the join fails.
//! So its journal is kept until another node depends on the changes. When none can any more, it
//! becomes the journal of changes under way again, and is replayed backwards.

use std::path::PathBuf;

use super::{
    JournalError, Transaction, done, end, file_error, folder_of, move_journal, moved, remove_done,
};
use crate::base::atomic_file::{self, Access};
use crate::platform::Platform;
use crate::store::layout::Layout;

/// Beside the entries: until when another node may come to depend on the changes.
const FILE: &str = "until";

fn folder(layout: &Layout) -> PathBuf {
    layout.own_state().join("first-join")
}

impl Transaction {
    /// The changes are complete, and can be undone at least until then, in unix seconds.
    pub(crate) fn defer_rollback(
        &mut self,
        layout: &Layout,
        until: i64,
    ) -> Result<(), JournalError> {
        self.flush(|_| true)?;
        let path = self.folder.join(FILE);
        atomic_file::write(&path, until.to_string().as_bytes(), Access::PRIVATE)
            .map_err(file_error("write", &path))?;
        let kept = folder(layout);
        let _ = move_journal(&self.folder, &kept)?;
        self.has_ended = true;
        Ok(())
    }
}

/// Whether there are such changes.
pub(crate) fn is_deferred(layout: &Layout) -> bool {
    folder(layout).exists()
}

/// Until when another node may come to depend on them, in unix seconds.
pub(crate) fn rolls_back_after(layout: &Layout) -> Option<i64> {
    let text = std::fs::read_to_string(folder(layout).join(FILE)).ok()?;
    text.trim().parse().ok()
}

/// They are kept for longer. The disk is not waited for: a power loss that takes this back has ended
/// the joins as well for which they are kept.
pub(crate) fn extend_deferred(layout: &Layout, until: i64) -> Result<(), JournalError> {
    let path = folder(layout).join(FILE);
    atomic_file::write_unflushed(&path, until.to_string().as_bytes(), Access::PRIVATE)
        .map(drop)
        .map_err(file_error("write", &path))
}

/// The changes stay for good.
pub(crate) fn drop_deferred(layout: &Layout) -> Result<(), JournalError> {
    let kept = folder(layout);
    if !kept.exists() {
        return Ok(());
    }
    let done = done(&folder_of(layout));
    remove_done(&folder_of(layout))?;
    // They stay, whether or not the disk confirms it: nothing else would undo them.
    let _ = move_journal(&kept, &done)?;
    remove_done(&folder_of(layout))
}

/// Undoes them. When this is interrupted, the journal is replayed later.
pub(crate) fn roll_back_deferred(
    layout: &Layout,
    platform: &dyn Platform,
) -> Result<(), JournalError> {
    let (kept, journal) = (folder(layout), folder_of(layout));
    // It is replayed now; a power loss before that only puts it off.
    let _ = move_journal(&kept, &journal)?;
    moved::settle_in(layout, &journal)?;
    end(&journal, platform, None).map(drop)
}
