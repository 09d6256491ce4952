//! The journal as a target of [`crate::fuzzing`].

use std::fs;
use std::path::Path;

use super::{journal, undo::Undo};

/// What was read of a journal is read again, until it is marked as done, and then no more.
pub(crate) fn journal(content: &[u8]) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    fs::write(folder.path().join("0000.json"), content).expect("a file");
    let (entries, unreadable) = read(folder.path());
    let undos: Vec<String> = entries.iter().map(|entry| text(&entry.undo)).collect();
    let (again, _) = read(folder.path());
    let again: Vec<String> = again.iter().map(|entry| text(&entry.undo)).collect();
    assert_eq!(again, undos);
    for entry in &entries {
        entry.mark().expect("a line is added");
    }
    let (left, then) = read(folder.path());
    assert!(left.is_empty(), "{} are left", left.len());
    assert_eq!(then, unreadable);

    let other = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let undos: Vec<Undo> = entries.into_iter().map(|entry| entry.undo).collect();
    journal::append(other.path(), &undos, false).expect("a journal");
    let (read, unreadable) = read(other.path());
    assert_eq!(unreadable, 0);
    let (read, written) = (
        read.iter().map(|entry| text(&entry.undo)),
        undos.iter().map(text),
    );
    assert!(read.eq(written));
}

fn read(folder: &Path) -> (Vec<journal::Entry>, usize) {
    let (entries, unreadable) = journal::read(folder).expect("the file is there");
    (entries, unreadable.len())
}

fn text(undo: &Undo) -> String {
    serde_json::to_string(undo).expect("a value of ours")
}
