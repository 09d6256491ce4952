//! Where in a token file which token stands, and how far that can be relied on.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Instant, SystemTime};

use super::line::{self, End, Line};
use crate::model::token::Token;
use crate::store::file_cache::Stamp;
use crate::store::token_files::Listed;

/// A line, as the index knows it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u64,
    start: u64,
    end: End,
}

/// The lines of a file by their tokens. It holds no token, only keyed hashes.
///
/// What it says may be out of date: it is to be held against the file, line by line.
#[derive(Default)]
pub(crate) struct Index {
    keys: RandomState,
    /// The keys of the tokens, with where their lines begin.
    lines: BTreeSet<(u64, u64)>,
    /// The ends of the lines that have one, with where they begin.
    ends: BTreeSet<(i64, u64)>,
    /// Where the last line begins if it is not ended yet, and else the end of the file.
    tail: u64,
    /// That last line, if it holds a token.
    unfinished: Option<Entry>,
    /// The state of the file that has been read; none before it is.
    pub(crate) seen: Option<Stamp>,
    /// The part that was read may have changed without a trace: a line that is missing here may be
    /// in the file.
    pub(crate) is_dirty: bool,
    /// When the last reading of the whole file began.
    loaded: Option<Instant>,
    /// How often the whole file was read.
    #[cfg(test)]
    pub(crate) loads: usize,
}

impl Index {
    /// Takes in what others did to the file since it was last looked at.
    pub(crate) fn follow(&mut self, file: &File) -> io::Result<()> {
        let stamp = Stamp::of(file)?;
        let Some(seen) = self.seen.filter(|seen| seen.file == stamp.file) else {
            return self.load(file, |_, _| {});
        };
        if stamp == seen {
            return Ok(());
        }
        if stamp.size > seen.size {
            return self.extend(file, stamp);
        }
        if stamp.size < seen.size || stamp.modified != seen.modified {
            return self.load(file, |_, _| {});
        }
        // Its mode or owner changed, or a program wrote to it and set the time back.
        self.seen = Some(stamp);
        self.is_dirty = true;
        Ok(())
    }

    /// Reads what was appended. Lines before it may have changed too, and that does not show.
    fn extend(&mut self, file: &File, stamp: Stamp) -> io::Result<()> {
        // Should this end half-way, everything is read the next time.
        self.seen = None;
        if let Some(entry) = self.unfinished.take() {
            self.remove(entry);
        }
        let content = line::read(file, self.tail, stamp.size - self.tail)?;
        if self.tail + (content.len() as u64) < stamp.size {
            return self.load(file, |_, _| {});
        }
        self.insert(&content, self.tail, |_, _| {});
        self.is_dirty = true;
        self.seen = Some(stamp);
        Ok(())
    }

    /// Reads the whole file, and shows its lines with where they begin.
    pub(crate) fn load(&mut self, file: &File, each: impl FnMut(u64, &Line<'_>)) -> io::Result<()> {
        self.clear();
        #[cfg(test)]
        {
            self.loads += 1;
        }
        // Both times are taken before the file is looked at: what is written later is later.
        let (begun, now) = (Instant::now(), SystemTime::now());
        let stamp = Stamp::of(file)?;
        let content = line::read(file, 0, stamp.size)?;
        self.insert(&content, 0, each);
        self.is_dirty = !stamp.is_settled(now);
        self.loaded = Some(begun);
        self.seen = Some(stamp);
        Ok(())
    }

    /// Forgets all lines: there is no file, or it is to be read anew.
    pub(crate) fn clear(&mut self) {
        self.seen = None;
        self.lines.clear();
        self.ends.clear();
        self.unfinished = None;
        self.tail = 0;
    }

    /// Whether a line may be missing here for a look-up that began at `called`.
    pub(crate) fn may_miss_lines(&self, called: Instant) -> bool {
        self.is_dirty && self.loaded.is_none_or(|loaded| loaded < called)
    }

    /// Where the lines of a token begin.
    pub(crate) fn starts_of(&self, token: &Token) -> Vec<u64> {
        let key = self.key(token.expose());
        self.lines
            .range((key, 0)..=(key, u64::MAX))
            .map(|(_, start)| *start)
            .collect()
    }

    /// Where the lines begin whose time has run out.
    pub(crate) fn starts_of_expired(&self, now: i64) -> Vec<u64> {
        self.ends
            .range(..=(now, u64::MAX))
            .map(|(_, start)| *start)
            .collect()
    }

    /// What the file says of a token in the lines that are known here; none if those are no
    /// longer what they were.
    pub(crate) fn listed(
        &self,
        file: &File,
        token: &Token,
        now: i64,
    ) -> io::Result<Option<Listed>> {
        let mut listed = Listed::Not;
        for start in self.starts_of(token) {
            let Some(raw) = line::read_line(file, start)? else {
                return Ok(None);
            };
            match Line::parse(&raw) {
                Some(line) if line.is_of(token) => listed = line.end.added_to(listed, now),
                Some(line) if self.knows(start, &line) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(listed))
    }

    /// Overwrites with blanks what is wanted of the lines that begin there; says how many it was.
    ///
    /// When one of them is no longer what it was, the whole file is read the next time.
    pub(crate) fn blank(
        &mut self,
        file: &File,
        starts: &[u64],
        is_wanted: impl Fn(&Line<'_>) -> bool,
    ) -> io::Result<usize> {
        let before = Stamp::of(file)?;
        let (mut count, mut is_stale) = (0, false);
        for start in starts.iter().copied() {
            let raw = line::read_line(file, start)?;
            match raw.as_deref().and_then(|raw| Line::parse(raw)) {
                Some(line) if is_wanted(&line) => {
                    file.write_all_at(
                        &vec![b' '; line.span.len()],
                        start + line.span.start as u64,
                    )?;
                    self.remove(self.entry(start, &line));
                    count += 1;
                }
                Some(line) if self.knows(start, &line) => {}
                _ => is_stale = true,
            }
        }
        if count > 0 {
            // Blanks change the times and nothing else. The next look-up finds other changes.
            if self.seen == Some(before) {
                self.seen = Some(Stamp {
                    size: before.size,
                    ..Stamp::of(file)?
                });
            }
            // Theirs may have the same time as ours.
            self.is_dirty = true;
        }
        if is_stale {
            self.clear();
        }
        Ok(count)
    }

    fn insert(&mut self, content: &[u8], base: u64, mut each: impl FnMut(u64, &Line<'_>)) {
        let (mut lines, mut ends, mut last) = (Vec::new(), Vec::new(), None);
        let tail = line::scan(content, base, |start, line| {
            let entry = self.entry(start, line);
            lines.push((entry.key, start));
            if let End::At(end) = line.end {
                ends.push((end, start));
            }
            last = Some(entry);
            each(start, line);
        });
        if base == 0 {
            // Sorted once, rather than at each of the lines.
            self.lines = lines.into_iter().collect();
            self.ends = ends.into_iter().collect();
        } else {
            self.lines.extend(lines);
            self.ends.extend(ends);
        }
        self.unfinished = last.filter(|entry| entry.start == tail);
        self.tail = tail;
    }

    fn remove(&mut self, entry: Entry) {
        self.lines.remove(&(entry.key, entry.start));
        if let End::At(end) = entry.end {
            self.ends.remove(&(end, entry.start));
        }
    }

    /// Whether the line that begins there is still the one that was read.
    fn knows(&self, start: u64, line: &Line<'_>) -> bool {
        self.lines.contains(&(self.key(line.text), start))
            && match line.end {
                End::At(end) => self.ends.contains(&(end, start)),
                End::None | End::Malformed => true,
            }
    }

    fn entry(&self, start: u64, line: &Line<'_>) -> Entry {
        Entry {
            key: self.key(line.text),
            start,
            end: line.end,
        }
    }

    fn key(&self, text: &str) -> u64 {
        self.keys.hash_one(text)
    }
}
