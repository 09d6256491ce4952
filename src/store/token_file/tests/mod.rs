//! What holds of a token file that is followed, whatever others do to it.

mod whole;

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::base::wait;
use crate::store::token_files::{self, CLUSTER_TOKENS, Sharing};

const SHARING: Sharing = Sharing {
    mode: 0o660,
    gid: None,
};

fn token(n: usize) -> Token {
    Token::presented(&format!("{n:032}"))
}

fn file(content: &str) -> (tempfile::TempDir, TokenFile) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CLUSTER_TOKENS);
    std::fs::write(&path, content).unwrap();
    (dir, TokenFile::new(path))
}

/// A file of so many lines, read and so old that what it holds is certain.
fn settled_file(lines: usize) -> (tempfile::TempDir, TokenFile) {
    let content: String = (0..lines)
        .map(|n| format!("{}\n", token(n).expose()))
        .collect();
    let (dir, file) = file(&content);
    reconcile(&file);
    (dir, file)
}

/// Looks at the file until no change can have been missed.
fn reconcile(file: &TokenFile) {
    let pause = Duration::from_millis(5);
    wait::until(Duration::from_secs(60), pause, || {
        file.look_up(&Token::presented("none"), 0).unwrap();
        (!file.index().is_dirty).then_some(())
    })
    .unwrap();
}

fn loads(file: &TokenFile) -> usize {
    file.index().loads
}

fn content(file: &TokenFile) -> String {
    std::fs::read_to_string(&file.path).unwrap()
}

/// Appends as `>>` does.
fn append(file: &TokenFile, text: &str) {
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(&file.path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// Replaces the file as `sed -i` does.
fn replace(file: &TokenFile, content: &str) {
    let new = file.path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(&new, &file.path).unwrap();
}

/// Makes the last change look as if it had the time of the one before it.
fn hide_the_last_change(file: &TokenFile) {
    file.index().seen = Some(Stamp::new(&std::fs::metadata(&file.path).unwrap()));
}

#[test]
fn lines_with_and_without_a_time_are_told_apart() {
    let (a, b, c, d) = (token(1), token(2), token(3), token(4));
    let (_dir, file) = file(&format!(
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
        assert_eq!(file.look_up(token, 70).unwrap(), listed, "{token:?}");
    }
}

#[test]
fn an_expired_line_does_not_hide_a_valid_one() {
    let a = token(1);
    let (_dir, file) = file(&format!("{0}|50\n{0}|100\n", a.expose()));
    assert_eq!(file.look_up(&a, 70).unwrap(), Listed::Until(100));
}

#[test]
fn consuming_a_token_leaves_the_length_and_its_neighbours() {
    let longer = Token::presented(&format!("{}0", token(1).expose()));
    let before = format!(
        "{}\n  {}\n{}\n{}",
        longer.expose(),
        token(1).expose(),
        token(1).expose(),
        token(2).expose()
    );
    let (_dir, file) = file(&before);
    assert!(file.consume(&token(1)).unwrap());
    assert!(!file.consume(&token(1)).unwrap());
    assert_eq!(content(&file).len(), before.len());
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Not);
    assert_eq!(file.look_up(&longer, 0).unwrap(), Listed::Open);
    assert_eq!(file.look_up(&token(2), 0).unwrap(), Listed::Open);
}

#[test]
fn appending_to_a_file_without_a_final_newline_joins_no_two_tokens() {
    let (_dir, file) = file(token(1).expose());
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Open);
    token_files::append(&file.path, token(2).expose(), SHARING).unwrap();
    for n in [1, 2] {
        assert_eq!(file.look_up(&token(n), 0).unwrap(), Listed::Open);
    }
}

#[test]
fn what_changed_since_it_was_read_is_not_blanked() {
    let (one, two) = (token(1), token(2));
    let (_dir, file) = file(&format!("{}\n{}\n", one.expose(), two.expose()));
    let swapped = format!("{}\n{}\n", two.expose(), one.expose());
    let swap = || std::fs::write(&file.path, &swapped).unwrap();
    let pass = |meanwhile: &dyn Fn()| {
        file.pass(Lines::OneUse(&one), Instant::now(), false, meanwhile)
            .unwrap()
    };
    assert_eq!(pass(&swap), Some(0));
    assert_eq!(content(&file), swapped);
    let cut = || std::fs::write(&file.path, "").unwrap();
    assert_eq!(pass(&cut), Some(0));
    assert_eq!(content(&file), "");
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_gone_through_again() {
    let one = token(1);
    let (_dir, file) = file(one.expose());
    let first = file
        .pass(Lines::OneUse(&one), Instant::now(), false, || {
            replace(&file, one.expose());
        })
        .unwrap();
    assert_eq!(first, Some(1), "the file that is no more");
    assert!(file.consume(&one).unwrap());
    assert_eq!(file.look_up(&one, 0).unwrap(), Listed::Not);
}

#[test]
fn a_file_that_is_not_there_lists_nothing_until_it_comes() {
    let (_dir, file) = file(token(1).expose());
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Open);
    std::fs::remove_file(&file.path).unwrap();
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Not);
    assert!(!file.consume(&token(1)).unwrap());
    assert_eq!(take_out(&file, &token(1)), 0);
    assert_eq!(file.blank_expired(0).unwrap(), 0);
    assert_eq!(file.entries(0).unwrap(), []);
    assert!(!file.path.exists());
    append(&file, token(1).expose());
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Open);
    std::fs::remove_file(&file.path).unwrap();
    assert_eq!(file.blank_expired(0).unwrap(), 0);
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    // A folder is none; some file systems give one a size only when there is something in it.
    std::fs::write(dir.path().join("some"), "").unwrap();
    let file = TokenFile::new(dir.path().to_owned());
    assert!(file.look_up(&token(1), 0).is_err());
    assert!(file.consume(&token(1)).is_err());
    assert!(file.entries(0).is_err());
}

/// Takes all lines of a token out; says how many there were.
fn take_out(file: &TokenFile, token: &Token) -> usize {
    file.take_out(&HashSet::from([token.digest()])).unwrap()
}

#[test]
fn taking_a_token_out_takes_its_lines_whatever_their_time() {
    let all = |t: &Token| format!("{0}|50\n \t{0}\r\n{0}|x\n{0}|900", t.expose());
    let kept = token(3);
    let (_dir, file) = file(&format!("{}\n{}", kept.expose(), all(&token(1))));
    assert_eq!(take_out(&file, &token(1)), 4);
    assert_eq!(take_out(&file, &token(1)), 0);
    assert_eq!(file.take_out(&HashSet::new()).unwrap(), 0);
    assert_eq!(content(&file).trim(), kept.expose());
}

#[test]
fn of_the_lines_with_a_time_those_go_whose_time_is_over() {
    let lines: Vec<String> = ["|50", "|51", "", "|x", "| 49 "]
        .iter()
        .enumerate()
        .map(|(n, end)| format!("{}{end}\n", token(n).expose()))
        .collect();
    let (_dir, file) = file(&lines.concat());
    assert_eq!(file.blank_expired(50).unwrap(), 2);
    let left = content(&file);
    let left: Vec<&str> = left
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert_eq!(left, [lines[1].trim(), lines[2].trim(), lines[3].trim()]);
    assert_eq!(file.blank_expired(50).unwrap(), 0);
    append(&file, &lines[0]);
    assert_eq!(file.blank_expired(51).unwrap(), 2);
}

#[test]
fn every_token_is_an_entry_once() {
    let (_dir, file) = file(&format!(
        "{0}|50\n{1}\n\n{0}|100\n{2}|50\n{0}",
        token(1).expose(),
        token(2).expose(),
        token(3).expose()
    ));
    let entries = [
        (token(1).digest(), Listed::Until(100)),
        (token(2).digest(), Listed::Open),
        (token(3).digest(), Listed::Expired),
    ];
    assert_eq!(file.entries(70).unwrap(), entries);
}

#[test]
fn the_last_line_counts_as_it_stands_while_it_grows() {
    let (_dir, file) = file("");
    for text in ["a", "b", "|5", "0", "\n", "c"] {
        append(&file, text);
        for (name, now) in [("a", 0), ("ab", 0), ("ab", 20), ("abc", 0), ("c", 0)] {
            let token = Token::presented(name);
            assert_eq!(
                file.look_up(&token, now).unwrap(),
                whole::look_up(&file.path, &token, now).unwrap(),
                "{name} in {:?}",
                content(&file)
            );
        }
    }
}

#[test]
fn a_time_that_was_not_written_to_its_end_is_forgotten() {
    let (_dir, file) = file(&format!("x\n{}|5", token(1).expose()));
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Until(5));
    append(&file, "0\n");
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Until(50));
    assert!(file.index().starts_of_expired(49).is_empty());
    assert_eq!(file.index().starts_of_expired(50), [2]);
}

#[test]
fn a_look_up_of_a_long_file_reads_the_line_and_not_the_file() {
    const LINES: usize = 200_000;
    let (_dir, file) = settled_file(LINES);
    let before = loads(&file);
    for n in (0..LINES).step_by(997) {
        assert_eq!(file.look_up(&token(n), 0).unwrap(), Listed::Open);
        assert_eq!(file.look_up(&token(n + LINES), 0).unwrap(), Listed::Not);
    }
    // Neither what is consumed nor what is appended changes that for those that are listed.
    for n in (0..LINES).step_by(9973) {
        append(&file, &format!("{}\n", token(n + LINES).expose()));
        for n in [n, n + LINES] {
            assert_eq!(file.look_up(&token(n), 0).unwrap(), Listed::Open);
            assert!(file.consume(&token(n)).unwrap());
        }
        assert_eq!(file.blank_expired(0).unwrap(), 0);
    }
    assert_eq!(loads(&file), before);
    // A miss has to be certain; once it is, it costs no more than a hit.
    reconcile(&file);
    let before = loads(&file);
    for n in (0..LINES).step_by(9973) {
        assert_eq!(file.look_up(&token(n), 0).unwrap(), Listed::Not);
        assert!(!file.consume(&token(n)).unwrap());
    }
    assert_eq!(loads(&file), before);
}

#[test]
fn a_change_of_the_same_size_and_time_is_noticed() {
    let line = |n| format!("{}\n", token(n).expose());
    for n in 0..200 {
        let (_dir, file) = file(&line(1));
        assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Open);
        std::fs::write(&file.path, line(2)).unwrap();
        if n % 2 == 0 {
            hide_the_last_change(&file);
        }
        assert_eq!(file.look_up(&token(2), 0).unwrap(), Listed::Open);
        assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Not);
    }
}

#[test]
fn a_change_at_the_moment_of_our_own_is_noticed() {
    let (_dir, file) = settled_file(2);
    assert!(file.consume(&token(0)).unwrap());
    let swapped = content(&file).replace(token(1).expose(), token(2).expose());
    std::fs::write(&file.path, swapped).unwrap();
    hide_the_last_change(&file);
    assert_eq!(file.look_up(&token(2), 0).unwrap(), Listed::Open);
    assert_eq!(file.look_up(&token(1), 0).unwrap(), Listed::Not);
}

#[test]
fn a_file_that_was_written_anew_and_grew_is_read_anew() {
    let (_dir, file) = settled_file(100);
    let shifted = content(&file).replacen(token(0).expose(), "x", 1) + &content(&file);
    std::fs::write(&file.path, shifted).unwrap();
    for n in 0..100 {
        assert_eq!(file.look_up(&token(n), 0).unwrap(), Listed::Open);
        assert!(file.consume(&token(n)).unwrap());
        assert_eq!(file.look_up(&token(n), 0).unwrap(), Listed::Not);
    }
    assert_eq!(content(&file).split_whitespace().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn a_part_of_a_line_is_no_line() {
    let (_dir, file) = file("x\nabc\n");
    reconcile(&file);
    std::fs::write(&file.path, "xyabc\nabcd\n").unwrap();
    assert_eq!(
        file.look_up(&Token::presented("abc"), 0).unwrap(),
        Listed::Not
    );
}

#[test]
fn a_long_line_is_read_to_its_end() {
    let long = Token::presented(&"long".repeat(1000));
    let (_dir, file) = file(&format!("a\n{}|70\nb", long.expose()));
    for _ in 0..2 {
        assert_eq!(file.look_up(&long, 0).unwrap(), Listed::Until(70));
    }
    assert_eq!(file.blank_expired(70).unwrap(), 1);
    assert_eq!(
        content(&file).split_whitespace().collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[test]
fn those_who_wait_for_the_file_to_be_read_share_the_reading() {
    let (_dir, file) = settled_file(10);
    let called = Instant::now();
    append(&file, "new\n");
    assert_eq!(file.look_up(&token(10), 0).unwrap(), Listed::Not);
    append(&file, "newer\n");
    let (before, gone) = (loads(&file), token(10));
    let pass = |called| {
        file.pass(Lines::OneUse(&gone), called, false, || {})
            .unwrap()
    };
    // Who came before that reading has what it found; who comes now looks again.
    assert_eq!(pass(called), None);
    assert_eq!(loads(&file), before);
    assert_eq!(pass(Instant::now()), Some(0));
}

#[test]
fn nothing_is_lost_while_some_append_and_others_consume() {
    const EACH: usize = 150;
    let (_dir, file) = file("");
    let is_over = AtomicBool::new(false);
    let (file, is_over) = (&file, &is_over);
    // Each of these tokens is one thread's, and the file has them twice.
    let own = |thread: usize| (0..EACH).map(move |n| token(thread * EACH + n));
    std::thread::scope(|scope| {
        let mut working = vec![scope.spawn(move || {
            for n in 0..EACH {
                for thread in 0..4 {
                    let line = format!("{0}\n{0}\n", token(thread * EACH + n).expose());
                    append(file, &line);
                }
            }
        })];
        working.push(scope.spawn(move || {
            for n in 0..EACH {
                let line = format!("{}|{n}", token(9 * EACH + n).expose());
                token_files::append(&file.path, &line, SHARING).unwrap();
            }
        }));
        working.extend((0..4).map(|thread| {
            scope.spawn(move || {
                for token in own(thread) {
                    let limit = Duration::from_secs(60);
                    wait::until(limit, Duration::from_millis(1), || {
                        let listed = file.look_up(&token, 0).unwrap();
                        (listed == Listed::Open).then_some(())
                    })
                    .unwrap();
                    if thread % 2 == 0 {
                        assert!(file.consume(&token).unwrap());
                    } else {
                        assert!(take_out(file, &token) > 0);
                    }
                }
            })
        }));
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(file.look_up(&token(99_999), 0).unwrap(), Listed::Not);
                file.entries(0).unwrap();
            }
        });
        let ended: Vec<_> = working.into_iter().map(|thread| thread.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a thread failed");
    });
    let left = content(file);
    let left: HashSet<&str> = left.split_whitespace().collect();
    assert_eq!(left.len(), EACH, "{left:?}");
    assert_eq!(file.blank_expired(EACH as i64).unwrap(), EACH);
    assert_eq!(content(file).trim(), "");
}

#[test]
fn of_many_who_consume_a_token_at_once_one_does() {
    let (_dir, file) = settled_file(20);
    let file = &file;
    for n in 0..20 {
        let count = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || file.consume(&token(n)).unwrap()))
                .collect();
            tries
                .into_iter()
                .map(|thread| usize::from(thread.join().unwrap()))
                .sum::<usize>()
        });
        assert_eq!(count, 1);
    }
}
