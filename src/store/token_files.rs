//! MicroK8s's own token files, which its tools append to at any moment and without a lock.
//!
//! A file is never rewritten, so no line that somebody appends can be lost: a consumed line is
//! overwritten with blanks where it stands. Lines are `token`, or `token|unix-seconds`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::model::token::Token;

/// Tokens for one use, or until a time (below `credentials`).
pub const CLUSTER_TOKENS: &str = "cluster-tokens.txt";
/// Tokens for any number of uses.
pub const PERSISTENT_TOKENS: &str = "persistent-cluster-tokens.txt";
/// Tokens with which a node that is joining has its certificates signed.
pub const CERTIFICATE_TOKENS: &str = "certs-request-tokens.txt";
/// The tokens by which this node may call the nodes of an etcd cluster.
pub const CALLBACK_TOKENS: &str = "callback-tokens.txt";
/// The token that this node's agent is called with.
pub const CALLBACK_TOKEN: &str = "callback-token.txt";

/// What a token file says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// Not in the file.
    Not,
    /// In the file, without an end.
    Open,
    /// Usable any number of times until then, in unix seconds.
    Until(i64),
    /// In the file, and its time has run out.
    Expired,
}

impl Listed {
    /// Whether it lets a node in.
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Open | Self::Until(_))
    }
}

/// Looks a token up; a file that is not there lists nothing.
pub fn look_up(path: &Path, token: &Token, now: i64) -> io::Result<Listed> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listed::Not),
        Err(error) => return Err(error),
    };
    let mut listed = Listed::Not;
    for (_, line) in lines(&content) {
        let Some(expiry) = matches(line, token) else {
            continue;
        };
        listed = match (expiry, listed) {
            (Expiry::None, Listed::Not | Listed::Expired) => Listed::Open,
            (Expiry::At(end), Listed::Until(other)) => Listed::Until(end.max(other)),
            (Expiry::At(end), _) if now < end => Listed::Until(end),
            (Expiry::At(_) | Expiry::Malformed, Listed::Not) => Listed::Expired,
            (_, so_far) => so_far,
        };
    }
    Ok(listed)
}

/// How often a file that somebody else changes at the same moment is gone through.
const MAX_PASSES: usize = 8;

/// Overwrites every line of this token that has no time with blanks; durable when it returns.
///
/// Says whether there was one. Canonical's tools replace the file and `sed -i` does, so it is
/// looked up again until it lists the token no more.
pub fn consume(path: &Path, token: &Token) -> io::Result<bool> {
    let mut found = false;
    for _ in 0..MAX_PASSES {
        match blank_lines(path, token, || {})? {
            Pass::NoLine => break,
            Pass::Blanked => found = true,
            Pass::Changed => {}
        }
    }
    Ok(found)
}

/// What one pass over a file came to.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// The file does not list the token.
    NoLine,
    /// It did.
    Blanked,
    /// It did, and was changed before anything could be blanked.
    Changed,
}

/// One pass; `meanwhile` is what others do between reading and writing.
fn blank_lines(path: &Path, token: &Token, meanwhile: impl FnOnce()) -> io::Result<Pass> {
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pass::NoLine),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    meanwhile();
    let mut pass = Pass::NoLine;
    for (at, line) in lines(&content) {
        if !matches!(matches(line, token), Some(Expiry::None)) {
            continue;
        }
        let mut now = vec![0; line.len()];
        match file.read_exact_at(&mut now, at as u64) {
            Ok(()) if now == line => {
                file.write_all_at(&vec![b' '; line.len()], at as u64)?;
                pass = Pass::Blanked;
            }
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ if pass == Pass::NoLine => pass = Pass::Changed,
            _ => {}
        }
    }
    if pass == Pass::Blanked {
        file.sync_all()?;
    }
    Ok(pass)
}

/// Who may read a token file.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// The mode that the file gets.
    pub mode: u32,
    /// The group that it gets, where there is one.
    pub gid: Option<u32>,
}

/// Appends a line, as MicroK8s's tools do, in one write.
///
/// Where the last line lacks its end, that is put before, so that no two tokens run together.
pub fn append(path: &Path, line: &str, sharing: Sharing) -> io::Result<()> {
    if line.contains(['\n', '\r']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a line cannot hold the end of a line",
        ));
    }
    let mut file = File::options()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)?;
    let length = file.metadata()?.size();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    let separator = if last[0] == b'\n' { "" } else { "\n" };
    file.write_all(format!("{separator}{line}\n").as_bytes())?;
    if sharing.gid.is_some() {
        // Only root and members of the group may; the file is usable either way.
        let _ = std::os::unix::fs::fchown(&file, None, sharing.gid);
    }
    let mode = if sharing.gid.is_some() {
        sharing.mode
    } else {
        sharing.mode & 0o700
    };
    let _ = file.set_permissions(std::fs::Permissions::from_mode(mode));
    file.sync_all()
}

enum Expiry {
    None,
    At(i64),
    Malformed,
}

/// The lines and where they begin, without the blanks and ends around them.
fn lines(content: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut next = 0;
    content.split(|byte| *byte == b'\n').map(move |raw| {
        let start = next;
        next += raw.len() + 1;
        let line = raw.trim_ascii_start();
        (start + raw.len() - line.len(), line.trim_ascii_end())
    })
}

/// Whether a line is this token's: the whole of it counts, not its beginning.
fn matches(line: &[u8], token: &Token) -> Option<Expiry> {
    let (text, expiry) = match line.iter().position(|byte| *byte == b'|') {
        Some(bar) => (&line[..bar], Some(&line[bar + 1..])),
        None => (line, None),
    };
    // Whoever may read this file knows its tokens: nothing is given away by comparing them plainly.
    let text = std::str::from_utf8(text).ok()?.trim();
    if text.is_empty() || text != token.expose() {
        return None;
    }
    Some(match expiry.map(std::str::from_utf8) {
        None => Expiry::None,
        Some(text) => match text.ok().and_then(|text| text.trim().parse().ok()) {
            Some(end) => Expiry::At(end),
            None => Expiry::Malformed,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(n: usize) -> Token {
        Token::presented(&format!("{n:032}"))
    }

    fn file(content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CLUSTER_TOKENS);
        std::fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn lines_with_and_without_a_time_are_told_apart() {
        let (a, b, c, d) = (token(1), token(2), token(3), token(4));
        let (_dir, path) = file(&format!(
            "{}\n{}|100\n{}|50\n{}|x\n",
            a.expose(),
            b.expose(),
            c.expose(),
            d.expose()
        ));
        for (token, listed) in [
            (&a, Listed::Open),
            (&b, Listed::Until(100)),
            (&c, Listed::Expired),
            (&d, Listed::Expired),
            (&token(5), Listed::Not),
            (&Token::presented(""), Listed::Not),
        ] {
            assert_eq!(look_up(&path, token, 70).unwrap(), listed, "{token:?}");
        }
    }

    #[test]
    fn an_expired_line_does_not_hide_a_valid_one() {
        let a = token(1);
        let (_dir, path) = file(&format!("{0}|50\n{0}|100\n", a.expose()));
        assert_eq!(look_up(&path, &a, 70).unwrap(), Listed::Until(100));
    }

    #[test]
    fn consuming_a_token_leaves_the_length_and_its_neighbours() {
        let longer = Token::presented(&format!("{}0", token(1).expose()));
        let content = format!(
            "{}\n  {}\n{}\n{}",
            longer.expose(),
            token(1).expose(),
            token(1).expose(),
            token(2).expose()
        );
        let (_dir, path) = file(&content);
        assert!(consume(&path, &token(1)).unwrap());
        assert!(!consume(&path, &token(1)).unwrap());
        assert_eq!(std::fs::read(&path).unwrap().len(), content.len());
        assert_eq!(look_up(&path, &token(1), 0).unwrap(), Listed::Not);
        assert_eq!(look_up(&path, &longer, 0).unwrap(), Listed::Open);
        assert_eq!(look_up(&path, &token(2), 0).unwrap(), Listed::Open);
    }

    #[test]
    fn appending_to_a_file_without_a_final_newline_joins_no_two_tokens() {
        let (_dir, path) = file(token(1).expose());
        append(
            &path,
            token(2).expose(),
            Sharing {
                mode: 0o660,
                gid: None,
            },
        )
        .unwrap();
        for n in [1, 2] {
            assert_eq!(look_up(&path, &token(n), 0).unwrap(), Listed::Open);
        }
    }

    #[test]
    fn one_line_is_appended_and_no_second_one_within_it() {
        let (_dir, path) = file("");
        let sharing = Sharing {
            mode: 0o660,
            gid: None,
        };
        for bad in ["a\nb", "a\r", "\n"] {
            assert!(append(&path, bad, sharing).is_err(), "{bad:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn what_changed_since_it_was_read_is_not_blanked() {
        let (_dir, path) = file(&format!("{}\n{}\n", token(1).expose(), token(2).expose()));
        let swapped = format!("{}\n{}\n", token(2).expose(), token(1).expose());
        let swap = || std::fs::write(&path, &swapped).unwrap();
        assert_eq!(blank_lines(&path, &token(1), swap).unwrap(), Pass::Changed);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), swapped);
        let cut = || std::fs::write(&path, "").unwrap();
        assert_eq!(blank_lines(&path, &token(1), cut).unwrap(), Pass::Changed);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn a_file_that_is_replaced_meanwhile_is_gone_through_again() {
        let (_dir, path) = file(token(1).expose());
        let replace = || {
            let new = path.with_extension("new");
            std::fs::write(&new, token(1).expose()).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let first = blank_lines(&path, &token(1), replace).unwrap();
        assert_eq!(first, Pass::Blanked, "the file that is no more");
        assert!(consume(&path, &token(1)).unwrap());
        assert_eq!(look_up(&path, &token(1), 0).unwrap(), Listed::Not);
    }

    proptest::proptest! {
        #[test]
        fn any_file_can_be_read_and_only_the_token_is_blanked(content in "([a-c|0-9 \t]{0,6}\n?){0,8}", wanted in "[a-c]{1,3}") {
            let (_dir, path) = file(&content);
            let token = Token::presented(&wanted);
            let found = look_up(&path, &token, 0).unwrap();
            let consumed = consume(&path, &token).unwrap();
            let after = std::fs::read_to_string(&path).unwrap();
            proptest::prop_assert_eq!(after.len(), content.len());
            if !consumed {
                proptest::prop_assert_eq!(&after, &content);
            }
            proptest::prop_assert!(found != Listed::Open || consumed);
        }
    }
}
