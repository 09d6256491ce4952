//! Following a token file of MicroK8s's, so that a look-up costs the same however long it is.
//!
//! The file is everybody's. Stock tools append to it at any moment and without a lock, `sed -i`
//! replaces it, and a script may write it anew where it is. A line counts from the moment it is
//! written until it is taken out, so that at each look-up the file is compared with what was
//! read of it, and what is found by the index is read in the file before it is believed.
//! Nothing is written to the file but blanks, over the line that they take out: no appended line
//! can be lost.
//!
//! A token whose line is where it was costs no more than that line. Only one that is not found is
//! looked for in the whole file, once after each change that others made: a file that grew may
//! have changed before its old end as well. Two changes may also have the same time, which is why
//! a state that is only just written counts as changed.

mod flush;
mod index;
pub(crate) mod line;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use self::flush::Flush;
use self::index::Index;
use self::line::{End, Line};
use crate::base::missing::none_if_missing;
use crate::base::mutex::lock;
use crate::model::token::{Token, TokenDigest};
use crate::store::database::StoreError;
use crate::store::file_cache::Stamp;
use crate::store::token_files::Listed;

/// How often a file that changes at the same moment is read again.
const MAX_PASSES: usize = 8;

/// A token file that is followed. One that is not there lists nothing.
pub(crate) struct TokenFile {
    path: PathBuf,
    index: Mutex<Index>,
    flush: Flush,
}

/// Which lines are to go.
#[derive(Clone, Copy)]
enum Lines<'a> {
    /// The token's, if they have no time.
    OneUse(&'a Token),
    /// Those of the tokens with these digests.
    Of(&'a HashSet<TokenDigest>),
    /// Those whose time has run out.
    Expired(i64),
}

impl Lines<'_> {
    fn include(self, line: &Line<'_>) -> bool {
        match self {
            Self::OneUse(token) => line.is_of(token) && line.end == End::None,
            Self::Of(digests) => digests.contains(&line.digest()),
            Self::Expired(now) => matches!(line.end, End::At(end) if end <= now),
        }
    }
}

impl TokenFile {
    /// Follows the file there, which is not looked at yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            index: Mutex::default(),
            flush: Flush::default(),
        }
    }

    /// Looks a token up; `now` is in unix seconds.
    ///
    /// When the file was rewritten in place and the token's line is where it was, further lines of
    /// the token before the old end of the file may be missed until the file is next read. Whether
    /// the token can be used does not depend on them.
    pub(crate) fn look_up(&self, token: &Token, now: i64) -> Result<Listed, StoreError> {
        self.try_look_up(token, now)
            .map_err(|error| self.error(error))
    }

    fn try_look_up(&self, token: &Token, now: i64) -> io::Result<Listed> {
        if token.expose().is_empty() {
            return Ok(Listed::Not);
        }
        let called = Instant::now();
        let mut index = self.index();
        let is_as_read =
            || std::fs::metadata(&self.path).is_ok_and(|now| index.seen == Some(Stamp::new(&now)));
        if !index.is_dirty && index.starts_of(token).is_empty() && is_as_read() {
            return Ok(Listed::Not);
        }
        let Some(file) = self.open(File::options().read(true), &mut index)? else {
            return Ok(Listed::Not);
        };
        index.follow(&file)?;
        if let Some(listed) = index.listed(&file, token, now)?
            && (listed.is_usable() || !index.may_miss_lines(called))
        {
            return Ok(listed);
        }
        let mut listed = Listed::Not;
        index.load(&file, |_, line| {
            if line.is_of(token) {
                listed = line.end.added_to(listed, now);
            }
        })?;
        Ok(listed)
    }

    /// Takes out every line of the token that has no time, as far as [`Self::look_up`] knows them;
    /// durable when it returns. Says whether there was one.
    pub(crate) fn consume(&self, token: &Token) -> Result<bool, StoreError> {
        Ok(self.blank(Lines::OneUse(token))? > 0)
    }

    /// Takes out every line of the tokens with these digests, for which the whole file is read;
    /// durable when it returns. Says how many there were.
    pub(crate) fn take_out(&self, digests: &HashSet<TokenDigest>) -> Result<usize, StoreError> {
        if digests.is_empty() {
            return Ok(0);
        }
        self.blank(Lines::Of(digests))
    }

    /// Takes out the lines whose time has run out at `now`, in unix seconds, as far as they are known; says
    /// how many it was. A line whose time cannot be read stays.
    ///
    /// The file is not even opened unless it changed or a known time has run out.
    pub(crate) fn blank_expired(&self, now: i64) -> Result<usize, StoreError> {
        {
            let index = self.index();
            if let Some(seen) = index.seen
                && index.starts_of_expired(now).is_empty()
                && std::fs::metadata(&self.path).is_ok_and(|now| Stamp::new(&now) == seen)
            {
                return Ok(0);
            }
        }
        self.blank(Lines::Expired(now))
    }

    /// Every token that is listed, once and in the order of the file, with what [`Self::look_up`]
    /// says of it at `now`. The whole file is read.
    pub(crate) fn entries(&self, now: i64) -> Result<Vec<(TokenDigest, Listed)>, StoreError> {
        let mut entries: Vec<(TokenDigest, Listed)> = Vec::new();
        let mut places = HashMap::new();
        // This takes no lock: it needs no index and changes nothing.
        let read = || {
            let file = File::open(&self.path)?;
            line::read(&file, 0, file.metadata()?.len())
        };
        let content = none_if_missing(read()).map_err(|error| self.error(error))?;
        let Some(content) = content else {
            return Ok(entries);
        };
        line::scan(&content, 0, |_, line| {
            let digest = line.digest();
            let place = *places.entry(digest).or_insert_with(|| {
                entries.push((digest, Listed::Not));
                entries.len() - 1
            });
            entries[place].1 = line.end.added_to(entries[place].1, now);
        });
        Ok(entries)
    }

    /// Overwrites lines with blanks; says how many it was.
    ///
    /// Canonical's tools replace the file and `sed -i` does, so it is gone through again until it
    /// has no such line.
    fn blank(&self, lines: Lines<'_>) -> Result<usize, StoreError> {
        let called = Instant::now();
        let mut count = 0;
        for _ in 0..MAX_PASSES {
            let pass = self.pass(lines, called, count > 0, || {});
            match pass.map_err(|error| self.error(error))? {
                Some(more) => count += more,
                None => break,
            }
        }
        Ok(count)
    }

    fn error(&self, error: io::Error) -> StoreError {
        StoreError::file(&self.path, error)
    }

    /// One pass; `meanwhile` is what others do between finding the lines and blanking them. Says how many
    /// it blanked; `None` where the file has no such line, 0 where it has to be read again to know.
    fn pass(
        &self,
        lines: Lines<'_>,
        called: Instant,
        has_found: bool,
        meanwhile: impl FnOnce(),
    ) -> io::Result<Option<usize>> {
        let mut index = self.index();
        let Some(file) = self.open(File::options().read(true).write(true), &mut index)? else {
            return Ok(None);
        };
        index.follow(&file)?;
        let starts = match lines {
            Lines::OneUse(token) => index.starts_of(token),
            Lines::Of(digests) => {
                let mut starts = Vec::new();
                index.load(&file, |start, line| {
                    if digests.contains(&line.digest()) {
                        starts.push(start);
                    }
                })?;
                starts
            }
            Lines::Expired(now) => index.starts_of_expired(now),
        };
        meanwhile();
        let count = index.blank(&file, &starts, |line| lines.include(line))?;
        if count == 0 {
            let may_be_missed = matches!(lines, Lines::OneUse(_)) && !has_found;
            if may_be_missed && index.may_miss_lines(called) {
                index.clear();
            }
            return Ok(index.seen.is_none().then_some(0));
        }
        // An expired line that a crash brings back is as expired as it was.
        if !matches!(lines, Lines::Expired(_)) {
            let written = self.flush.note(Stamp::new(&file.metadata()?).file);
            drop(index);
            self.flush.wait(written, || file.sync_data())?;
        }
        Ok(Some(count))
    }

    /// Opens the file; where there is none, nothing is known of it any more.
    fn open(&self, options: &OpenOptions, index: &mut Index) -> io::Result<Option<File>> {
        match options.open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                index.clear();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // A panic left it complete, or without the state that it was read in.
        lock(&self.index)
    }
}
