//! The journal on the disk: what undoes the changes, and what of it has been undone.
//!
//! It is a file of lines. Each is a list of undos, written and flushed at once, or the number of an
//! undo that is done. Version 0.1 had a file an undo instead; these are read as files of one line.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::undo::Undo;
use super::{JournalError, file_error};
use crate::base::atomic_file::{self, Access};
use crate::base::secret::Secret;

/// The first of the files that version 0.1 looks for: it cannot read this one, and says so, where a
/// node goes back to it with changes under way.
const FILE: &str = "0000.json";

/// A line of the journal.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Done { undone: usize },
    Many(Vec<Undo>),
    One(Undo),
}

/// A change that is still to be undone.
pub(super) struct Entry {
    file: PathBuf,
    number: usize,
    pub(crate) undo: Undo,
}

impl Entry {
    pub(crate) fn new(file: &Path, number: usize, undo: Undo) -> Self {
        Self {
            file: file.to_owned(),
            number,
            undo,
        }
    }

    /// The change is undone.
    pub(crate) fn mark(&self) -> Result<(), JournalError> {
        let line = format!("\n{{\"undone\":{}}}\n", self.number);
        atomic_file::append(&self.file, line.as_bytes()).map_err(file_error("write", &self.file))
    }
}

/// Adds what undoes the next changes; a journal that `is_there` is added to.
pub(super) fn append(folder: &Path, undos: &[Undo], is_there: bool) -> Result<(), JournalError> {
    let path = folder.join(FILE);
    let text = serde_json::to_string(undos).map_err(|error| JournalError::Entry {
        path: path.clone(),
        why: error.to_string(),
    })?;
    let line = Secret::new(text + "\n");
    let line = line.expose().as_bytes();
    let written = if is_there {
        atomic_file::append(&path, line)
    } else {
        atomic_file::write(&path, line, Access::PRIVATE)
    };
    written.map_err(file_error("write", &path))
}

/// The changes that are still to be undone, the oldest first, and what cannot be read.
pub(super) fn read(folder: &Path) -> Result<(Vec<Entry>, Vec<JournalError>), JournalError> {
    let (mut entries, mut unreadable) = (Vec::new(), Vec::new());
    for path in files(folder)? {
        match fs::read(&path).map(Zeroizing::new) {
            Ok(text) => read_file(&path, &text, &mut entries, &mut unreadable)?,
            Err(error) => unreadable.push(file_error("read", &path)(error)),
        }
    }
    Ok((entries, unreadable))
}

fn read_file(
    path: &Path,
    text: &[u8],
    entries: &mut Vec<Entry>,
    unreadable: &mut Vec<JournalError>,
) -> Result<(), JournalError> {
    let first = entries.len();
    let mut number = 0;
    let mut add = |undo, entries: &mut Vec<Entry>| {
        entries.push(Entry::new(path, number, undo));
        number += 1;
    };
    let mut done = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let end = start + line.len();
        match serde_json::from_slice(line) {
            _ if line.trim_ascii().is_empty() => {}
            Ok(Line::Done { undone }) => done.push(undone),
            Ok(Line::Many(undos)) => undos.into_iter().for_each(|undo| add(undo, entries)),
            Ok(Line::One(undo)) => add(undo, entries),
            // The power went while it was written: none of its changes was made. What takes its place
            // keeps the line before it from being taken for one like it.
            Err(_) if start > 0 && end == text.len() && !is_json(line) => {
                atomic_file::replace_end(path, start as u64, b"\n")
                    .map_err(file_error("write", path))?;
            }
            Err(error) => unreadable.push(JournalError::Entry {
                path: path.to_owned(),
                why: error.to_string(),
            }),
        }
        start = end;
    }
    let new = entries.split_off(first);
    entries.extend(
        new.into_iter()
            .filter(|entry| !done.contains(&entry.number)),
    );
    Ok(())
}

fn is_json(line: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(line).is_ok()
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(file_error("read", folder))? {
        let path = entry.map_err(file_error("read", folder))?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
