//! The same answers as from reading the whole file each time, whatever happens to it.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;

/// Looks a token up; a file that is not there lists nothing.
pub(crate) fn look_up(path: &Path, token: &Token, now: i64) -> io::Result<Listed> {
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

#[derive(Clone, Copy, PartialEq)]
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

fn matches(line: &[u8], token: &Token) -> Option<Expiry> {
    parse(line)
        .filter(|(text, _)| *text == token.expose())
        .map(|(_, expiry)| expiry)
}

fn parse(line: &[u8]) -> Option<(&str, Expiry)> {
    let (text, expiry) = match line.iter().position(|byte| *byte == b'|') {
        Some(bar) => (&line[..bar], Some(&line[bar + 1..])),
        None => (line, None),
    };
    let text = std::str::from_utf8(text).ok()?.trim();
    if text.is_empty() {
        return None;
    }
    let expiry = match expiry.map(std::str::from_utf8) {
        None => Expiry::None,
        Some(text) => match text.ok().and_then(|text| text.trim().parse().ok()) {
            Some(end) => Expiry::At(end),
            None => Expiry::Malformed,
        },
    };
    Some((text, expiry))
}

/// The content without the lines that are wanted out, and how many it was.
fn without(content: &[u8], is_wanted: impl Fn(&str, Expiry) -> bool) -> (Vec<u8>, usize) {
    let (mut left, mut count) = (content.to_vec(), 0);
    for (start, line) in lines(content) {
        if parse(line).is_some_and(|(text, expiry)| is_wanted(text, expiry)) {
            left[start..start + line.len()].fill(b' ');
            count += 1;
        }
    }
    (left, count)
}

#[derive(Debug, Clone)]
enum Step {
    Append(String),
    Replace(String),
    WriteAnew(String),
    /// Writes the content anew with two tokens swapped, and more behind it.
    SwapAndAppend(String),
    Remove,
    ChangeMode,
    /// Reads the file, and lets so much time pass that it is certain what it holds.
    Settle,
    LookUp(&'static str, i64),
    Consume(&'static str),
    TakeOut(&'static str),
    BlankExpired(i64),
    Entries(i64),
}

fn name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec!["aa", "ab", "b", "aab"])
}

/// Whole lines and parts of lines.
fn text(most: usize) -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "aa\n",
        "ab\n",
        "b\n",
        "aab\n",
        "aa|15\n",
        "ab|5\n",
        "b|25\n",
        "aa|x\n",
        " aa\r\n",
        "\tab |15 \n",
        "aa",
        "ab",
        "b",
        "|5",
        "|15",
        " ",
        "\r",
        "\n",
        "é\n",
    ]);
    proptest::collection::vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

fn step() -> impl Strategy<Value = Step> {
    let now = || proptest::sample::select(vec![0, 10, 20, 30]);
    prop_oneof![
        6 => text(4).prop_map(Step::Append),
        1 => text(10).prop_map(Step::Replace),
        1 => text(10).prop_map(Step::WriteAnew),
        2 => text(2).prop_map(Step::SwapAndAppend),
        1 => Just(Step::Remove),
        1 => Just(Step::ChangeMode),
        3 => Just(Step::Settle),
        8 => (name(), now()).prop_map(|(name, now)| Step::LookUp(name, now)),
        3 => name().prop_map(Step::Consume),
        2 => name().prop_map(Step::TakeOut),
        2 => now().prop_map(Step::BlankExpired),
        1 => now().prop_map(Step::Entries),
    ]
}

/// Settling takes no time here, so that what comes after it must not look as if it came before.
fn show_the_last_change(file: &TokenFile) {
    let limit = Duration::from_secs(10);
    wait::until(limit, Duration::from_millis(1), || {
        let Ok(metadata) = std::fs::metadata(&file.path) else {
            return Some(());
        };
        if file.index().seen != Some(Stamp::new(&metadata)) {
            return Some(());
        }
        let content = std::fs::read(&file.path).unwrap();
        std::fs::write(&file.path, content).unwrap();
        None
    })
    .unwrap();
}

struct Run {
    _dir: tempfile::TempDir,
    file: TokenFile,
    /// How often the file had been read when it was last written anew. Until it is read again, a
    /// token that is usable by a line that is where it was may have others that are not known.
    written_anew: Option<usize>,
}

impl Run {
    fn take(&mut self, step: &Step) {
        let before = std::fs::read(&self.file.path).unwrap_or_default();
        let may_pass_over = self.written_anew == Some(loads(&self.file));
        let file = &self.file;
        match step {
            Step::Append(text) => append(file, text),
            Step::Replace(_) | Step::WriteAnew(_) | Step::SwapAndAppend(_) | Step::Remove => {
                self.written_anew = Some(loads(file));
                match step {
                    Step::Replace(text) => replace(file, text),
                    Step::WriteAnew(text) => std::fs::write(&file.path, text).unwrap(),
                    Step::SwapAndAppend(more) => {
                        let content = String::from_utf8(before).unwrap();
                        let swapped = content
                            .replace("aa", "\0")
                            .replace("ab", "aa")
                            .replace('\0', "ab");
                        std::fs::write(&file.path, swapped + more).unwrap();
                    }
                    _ => drop(std::fs::remove_file(&file.path)),
                }
                show_the_last_change(file);
            }
            Step::Settle => {
                file.look_up(&Token::presented("none"), 0).unwrap();
                file.index().is_dirty = false;
            }
            Step::ChangeMode => {
                use std::os::unix::fs::PermissionsExt;
                let mode = std::fs::Permissions::from_mode(0o660);
                let _ = std::fs::set_permissions(&file.path, mode);
            }
            Step::LookUp(name, now) => {
                let token = Token::presented(name);
                let ours = file.look_up(&token, *now).unwrap();
                let theirs = look_up(&file.path, &token, *now).unwrap();
                let is_close = may_pass_over && ours.is_usable() && theirs.is_usable();
                assert!(ours == theirs || is_close, "{ours:?}, not {theirs:?}");
            }
            Step::Consume(name) => {
                let token = Token::presented(name);
                let count = file.consume(&token).unwrap();
                let (left, wanted) = without(&before, |text, expiry| {
                    text == *name && expiry == Expiry::None
                });
                assert_eq!(count, wanted > 0);
                self.compare(&before, &left, may_pass_over);
            }
            Step::TakeOut(name) => {
                let digest = Token::presented(name).digest();
                let count = file.take_out(&HashSet::from([digest])).unwrap();
                let (left, wanted) = without(&before, |text, _| text == *name);
                assert_eq!(count, wanted);
                self.compare(&before, &left, false);
            }
            Step::BlankExpired(now) => {
                let count = file.blank_expired(*now).unwrap();
                let (left, wanted) = without(
                    &before,
                    |_, expiry| matches!(expiry, Expiry::At(end) if end <= *now),
                );
                assert!(count == wanted || may_pass_over && count < wanted);
                self.compare(&before, &left, may_pass_over);
            }
            Step::Entries(now) => {
                let ours = file.entries(*now).unwrap();
                let theirs: BTreeMap<TokenDigest, Listed> = lines(&before)
                    .filter_map(|(_, line)| parse(line))
                    .map(|(text, _)| {
                        let token = Token::presented(text);
                        let listed = look_up(&file.path, &token, *now).unwrap();
                        (token.digest(), listed)
                    })
                    .collect();
                assert_eq!(ours.len(), theirs.len());
                assert_eq!(ours.into_iter().collect::<BTreeMap<_, _>>(), theirs);
            }
        }
    }

    /// Holds the file against what should be left of it; some of what should have gone may be
    /// left if it was missed.
    fn compare(&self, before: &[u8], left: &[u8], may_pass_over: bool) {
        let now = std::fs::read(&self.file.path).unwrap_or_default();
        let show = String::from_utf8_lossy;
        assert_eq!(now.len(), left.len());
        if may_pass_over {
            let is_known = |at: usize| now[at] == left[at] || now[at] == before[at];
            assert!((0..now.len()).all(is_known), "{}", show(&now));
        } else {
            assert_eq!(show(&now), show(left));
        }
    }
}

proptest! {
    #[test]
    fn any_file_can_be_read_and_only_the_token_is_blanked(before in "([a-c|0-9 \t]{0,6}\n?){0,8}", wanted in "[a-c]{1,3}") {
        let (_dir, file) = file(&before);
        let token = Token::presented(&wanted);
        let found = file.look_up(&token, 0).unwrap();
        prop_assert_eq!(found, look_up(&file.path, &token, 0).unwrap());
        let consumed = file.consume(&token).unwrap();
        let after = content(&file);
        prop_assert_eq!(after.len(), before.len());
        if !consumed {
            prop_assert_eq!(&after, &before);
        }
        prop_assert!(found != Listed::Open || consumed);
    }

    #[test]
    fn whatever_happens_the_answers_are_those_of_reading_it_whole(steps in proptest::collection::vec(step(), 1..40)) {
        let (_dir, file) = file("");
        let mut run = Run { _dir, file, written_anew: None };
        for step in &steps {
            run.take(step);
        }
    }
}
