//! The lines of MicroK8s's token files: `token`, or `token|unix-seconds`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use zeroize::Zeroizing;

use crate::model::token::{Token, TokenDigest};
use crate::store::token_files::Listed;

/// What a line says of its token's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing: the token has one use.
    None,
    /// In unix seconds.
    At(i64),
    /// Something that is no time.
    Malformed,
}

impl End {
    /// What a file says of a token that has a line with this end, besides those that made it say
    /// `so_far`.
    pub(crate) fn added_to(self, so_far: Listed, now: i64) -> Listed {
        match (self, so_far) {
            (Self::None, Listed::Not | Listed::Expired) => Listed::Open,
            (Self::At(end), Listed::Until(other)) => Listed::Until(end.max(other)),
            (Self::At(end), _) if now < end => Listed::Until(end),
            (Self::At(_) | Self::Malformed, Listed::Not) => Listed::Expired,
            (_, so_far) => so_far,
        }
    }
}

/// A line that holds a token.
pub(crate) struct Line<'a> {
    /// The token, in clear.
    pub(crate) text: &'a str,
    /// Its end.
    pub(crate) end: End,
    /// What it takes of the raw line, without the blanks around it.
    pub(crate) span: Range<usize>,
}

impl<'a> Line<'a> {
    /// Reads a line that was cut from its file without its end; none where it holds no token.
    pub(crate) fn parse(raw: &'a [u8]) -> Option<Self> {
        let trimmed = raw.trim_ascii_start();
        let start = raw.len() - trimmed.len();
        let line = trimmed.trim_ascii_end();
        let (text, end) = match line.iter().position(|byte| *byte == b'|') {
            Some(bar) => (&line[..bar], Some(&line[bar + 1..])),
            None => (line, None),
        };
        let text = std::str::from_utf8(text).ok()?.trim();
        if text.is_empty() {
            return None;
        }
        let end = match end.map(std::str::from_utf8) {
            None => End::None,
            Some(text) => match text.ok().and_then(|text| text.trim().parse().ok()) {
                Some(end) => End::At(end),
                None => End::Malformed,
            },
        };
        Some(Self {
            text,
            end,
            span: start..start + line.len(),
        })
    }

    /// Whether the line is this token's: the whole of it counts, not its beginning.
    pub(crate) fn is_of(&self, token: &Token) -> bool {
        // The file holds its tokens in plain text: a plain comparison tells its readers nothing new.
        self.text == token.expose()
    }

    /// The digest of the line's token.
    pub(crate) fn digest(&self) -> TokenDigest {
        Token::presented(self.text).digest()
    }
}

/// Goes through the lines of `content`, which begins at `base` in its file, with where each begins.
///
/// Returns where the last line begins if it is not ended yet, and else where the content ends.
pub(crate) fn scan(content: &[u8], base: u64, mut each: impl FnMut(u64, &Line<'_>)) -> u64 {
    let mut start = base;
    for raw in content.split_inclusive(|byte| *byte == b'\n') {
        let body = raw.strip_suffix(b"\n");
        if let Some(line) = Line::parse(body.unwrap_or(raw)) {
            each(start, &line);
        }
        if body.is_some() {
            start += raw.len() as u64;
        }
    }
    start
}

/// Reads so many bytes from there on, fewer where the file ends; they are wiped when dropped.
pub(crate) fn read(file: &File, from: u64, len: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // Allocated at full length: a buffer that grows leaves copies behind that are not wiped.
    let mut bytes = Zeroizing::new(vec![0; len]);
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut bytes[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Reads the line that begins there, without its end; none where no line begins there any more.
pub(crate) fn read_line(file: &File, start: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // The end of the line before it is read too: what stood here may be a part of a line by now.
    let before = usize::from(start > 0);
    let mut len = 512;
    loop {
        let bytes = read(file, start - before as u64, len)?;
        let ((0, line) | (_, [b'\n', line @ ..])) = (before, bytes.as_slice()) else {
            return Ok(None);
        };
        let end = line.iter().position(|byte| *byte == b'\n');
        if end.is_none() && bytes.len() as u64 == len {
            len *= 8;
            continue;
        }
        let line = &line[..end.unwrap_or(line.len())];
        return Ok(Some(Zeroizing::new(line.to_vec())));
    }
}
