//! Holds what is generated: `man/` from the command line's definition, and parts of documents.
//!
//! All of it is checked in, so that a package needs no build step for them, and compared here, so that they cannot lag
//! behind. `UPDATE_GENERATED=1 cargo test --test it generated` writes them again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, Once};

use crate::help::commands;
use crate::lab::is_installed;

mod manual;

/// How the pages are called.
const PROGRAM: &str = "microk8s";

/// How long a line of a document may be.
pub const COLUMNS: usize = 100;

#[test]
fn manual_pages_are_those_of_the_command_line() {
    let mut wrong = Vec::new();
    for (folder, wanted) in [("man", manual_pages())] {
        let folder = project().join(folder);
        let there = contents(&folder);
        for (name, text) in &wanted {
            match there.get(name) {
                None => wrong.push(format!("{}/{name} is missing", folder.display())),
                Some(found) if found != text => {
                    wrong.push(format!(
                        "{}/{name}: {}",
                        folder.display(),
                        difference(found, text)
                    ));
                }
                Some(_) => {}
            }
        }
        let left_over = there.keys().filter(|name| !wanted.contains_key(*name));
        wrong.extend(left_over.map(|name| format!("{}/{name} is of no command", folder.display())));
    }
    assert!(
        wrong.is_empty(),
        "write them again with `UPDATE_GENERATED=1 cargo test --test it generated`:\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn every_command_that_is_shown_has_its_page() {
    let mut command = microk8s::cli::command();
    command.build();
    let pages = manual_pages();
    for shown in command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
    {
        let page = format!("{PROGRAM}-{}.8", shown.get_name());
        assert!(
            pages.contains_key(&page),
            "no {page} among {:?}",
            pages.keys()
        );
    }
}

#[test]
fn every_manual_page_renders_without_a_complaint() {
    if !is_installed("man") {
        return;
    }
    for name in manual_pages().keys() {
        let page = project().join("man").join(name);
        let output = man(["--warnings", "-l"]
            .map(Path::new)
            .into_iter()
            .chain([page.as_path()]));
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && complaints.is_empty(),
            "{name}: {complaints}"
        );
    }
}

#[test]
fn mandoc_has_nothing_to_say_against_a_manual_page() {
    if !is_installed("mandoc") {
        return;
    }
    let pages = manual_pages();
    let output = Command::new("mandoc")
        .args(["-Tlint", "-W", "warning"])
        .args(pages.keys().map(|name| project().join("man").join(name)))
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && complaints.is_empty(),
        "{complaints}"
    );
}

#[test]
fn every_manual_page_has_examples_and_the_exit_codes_of_its_command_alone() {
    let pages = manual_pages();
    for (name, text) in &pages {
        for section in ["SYNOPSIS", "OPTIONS", "EXAMPLES", "EXIT STATUS", "SEE ALSO"] {
            assert!(
                text.contains(&format!(".SH \"{section}\""))
                    || text.contains(&format!(".SH {section}")),
                "{name}: {section}"
            );
        }
    }
    let has = |name: &str, code: u8| pages[name].contains(&format!(".TP\n\\fB{code}\\fR\n"));
    for (name, codes, others) in [
        ("microk8s-join.8", &[0, 1, 4, 6, 15, 130][..], &[3, 17][..]),
        ("microk8s-leave.8", &[0, 1, 2, 3, 16], &[4, 6, 15, 17]),
        ("microk8s-nodes.8", &[0, 1, 2, 17], &[3, 4, 130]),
        ("microk8s-token-list.8", &[0, 1, 2], &[3, 4, 17, 130]),
    ] {
        assert!(codes.iter().all(|code| has(name, *code)), "{name}");
        assert!(!others.iter().any(|code| has(name, *code)), "{name}");
    }
}

#[test]
fn the_page_of_join_says_what_join_takes() {
    if !is_installed("man") {
        return;
    }
    // By its path alone, as a reader of a checkout would type it.
    let output = man([Path::new("man/microk8s-join.8")]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for word in [
        "NAME",
        "microk8s-join",
        "SYNOPSIS",
        "CONNECTION",
        "--worker",
        "--skip-verify",
        "EXIT STATUS",
        "The datastore did not list the node",
    ] {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
}

fn project_root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The checkout, in which the generated files are written again first where that is wanted.
fn project() -> PathBuf {
    static WRITTEN: Once = Once::new();
    let root = project_root();
    WRITTEN.call_once(|| {
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            write_again(&root.join("man"), &manual_pages());
        }
    });
    root
}

/// A page for the program and one for each command that its help shows.
fn manual_pages() -> BTreeMap<String, String> {
    let commands = commands();
    let document = fs::read_to_string(project_root().join("docs/exit-codes.md")).unwrap();
    commands
        .iter()
        .map(|(name, command)| manual::page(name, command, &commands, &document))
        .collect()
}

/// File names and texts of a folder; nothing where there is no folder.
fn contents(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn write_again(folder: &Path, wanted: &BTreeMap<String, String>) {
    fs::create_dir_all(folder).unwrap();
    for name in contents(folder)
        .keys()
        .filter(|name| !wanted.contains_key(*name))
    {
        fs::remove_file(folder.join(name)).unwrap();
    }
    for (name, text) in wanted {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// Holds that a document has `text` between the comments `<!-- generated: NAME -->` and
/// `<!-- end: NAME -->`, or writes it there where that is wanted.
pub fn holds(document: &str, name: &str, text: &str) {
    // Two tests that update one document at the same time would lose one of the changes.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let path = project_root().join(document);
    let whole = fs::read_to_string(&path).unwrap();
    let (start, end) = (
        format!("<!-- generated: {name} -->\n\n"),
        format!("<!-- end: {name} -->"),
    );
    let (head, rest) = whole.split_once(&start).unwrap();
    let (found, tail) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(path, [head, &start, text, &end, tail].concat()).unwrap();
    } else if found != text {
        let difference = difference(found, text);
        panic!(
            "{document} is not what the tests say; write it again with `UPDATE_GENERATED=1` and \
             this test: {name}: {difference}"
        );
    }
}

/// A paragraph or an item of a list, wrapped as the documents are.
pub fn wrapped(text: &str) -> String {
    let indent = match text.split_once(' ') {
        Some((mark, _)) if mark == "-" || mark.ends_with('.') => " ".repeat(mark.len() + 1),
        _ => String::new(),
    };
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > indent.len() && column + 1 + width > COLUMNS {
            lines += &format!("\n{indent}{word}");
            column = indent.len() + width;
        } else {
            let blank = if column == 0 { "" } else { " " };
            lines += &format!("{blank}{word}");
            column += blank.len() + width;
        }
    }
    lines.push('\n');
    lines
}

fn difference(found: &str, wanted: &str) -> String {
    let number = found
        .lines()
        .zip(wanted.lines())
        .take_while(|(a, b)| a == b)
        .count();
    let line = |text: &str| {
        text.lines()
            .nth(number)
            .unwrap_or("(end of file)")
            .to_owned()
    };
    format!(
        "line {} is `{}`, generated is `{}`",
        number + 1,
        line(found),
        line(wanted)
    )
}

/// `man` as in a checkout, writing to a pipe.
fn man<'a>(arguments: impl IntoIterator<Item = &'a Path>) -> Output {
    Command::new("man")
        .args(arguments)
        .current_dir(project())
        .env("LC_ALL", "C.UTF-8")
        .env("MANPAGER", "cat")
        .env("MANWIDTH", "120")
        .env_remove("MAN_KEEP_FORMATTING")
        .output()
        .unwrap()
}
