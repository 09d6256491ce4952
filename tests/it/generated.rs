//! Holds what is generated: `completions/` and `man/` from the command line's definition, and parts of documents.
//!
//! All of it is checked in, so that a package needs no build step for them, and compared here, so that they cannot lag
//! behind. `UPDATE_GENERATED=1 cargo test --test it generated` writes them again.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, Once};

use clap_complete::Shell;

use crate::lab::skip;

/// The name under which the completions are registered and the pages are called.
const PROGRAM: &str = "microk8s";

/// How long a line of a document may be.
pub const COLUMNS: usize = 100;

/// The pages that have the table of exit codes.
const WITH_EXIT_STATUS: [&str; 3] = [
    "microk8s-join.1",
    "microk8s-leave.1",
    "microk8s-remove-node.1",
];

#[test]
fn completions_and_manual_pages_are_those_of_the_command_line() {
    let mut wrong = Vec::new();
    for (folder, wanted) in [("completions", completions()), ("man", manual_pages())] {
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
        let page = format!("{PROGRAM}-{}.1", shown.get_name());
        assert!(
            pages.contains_key(&page),
            "no {page} among {:?}",
            pages.keys()
        );
    }
}

#[test]
fn a_tab_in_a_real_bash_completes_an_option_of_join() {
    let answer = type_into_bash("microk8s join --w\t");
    assert!(answer.contains("ran <join --worker>"), "{answer}");
}

#[test]
fn a_tab_in_a_real_bash_completes_a_command_and_the_values_of_an_option() {
    let answer = type_into_bash("microk8s add-n\t--format token-\t");
    assert!(
        answer.contains("ran <add-node --format token-check>"),
        "{answer}"
    );
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
fn the_page_of_join_says_what_join_takes() {
    if !is_installed("man") {
        return;
    }
    // By its path alone, as a reader of a checkout would type it.
    let output = man([Path::new("man/microk8s-join.1")]);
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
            write_again(&root.join("completions"), &completions());
            write_again(&root.join("man"), &manual_pages());
        }
    });
    root
}

fn completions() -> BTreeMap<String, String> {
    [
        (Shell::Bash, "microk8s.bash"),
        (Shell::Zsh, "_microk8s"),
        (Shell::Fish, "microk8s.fish"),
    ]
    .into_iter()
    .map(|(shell, name)| {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut microk8s::cli::command(), PROGRAM, &mut script);
        (name.to_owned(), String::from_utf8(script).unwrap())
    })
    .collect()
}

/// A page for the program and one for each command that its help shows.
fn manual_pages() -> BTreeMap<String, String> {
    let mut program = microk8s::cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = BTreeMap::new();
    let mut left = vec![program];
    while let Some(command) = left.pop() {
        left.extend(
            command
                .get_subcommands()
                .filter(|sub| !sub.is_hide_set())
                .cloned(),
        );
        let page = clap_mangen::Man::new(command)
            .source(concat!("microk8s ", env!("CARGO_PKG_VERSION")))
            .manual("Cluster membership");
        let mut text = Vec::new();
        page.render(&mut text).unwrap();
        let mut text = String::from_utf8(text).unwrap();
        if WITH_EXIT_STATUS.contains(&&*page.get_filename()) {
            text += &exit_status();
        }
        pages.insert(page.get_filename(), text);
    }
    pages
}

/// The table of exit codes as a section of a page.
fn exit_status() -> String {
    let document = fs::read_to_string(project_root().join("docs/exit-codes.md")).unwrap();
    let mut section = ".SH \"EXIT STATUS\"\n".to_owned();
    for item in document.split("\n### ").skip(1) {
        let (item, _) = item.split_once("\n## ").unwrap_or((item, ""));
        let (code, text) = item.split_once('\n').unwrap();
        let text: Vec<&str> = text.split_whitespace().collect();
        let text = text.join(" ").replace('-', "\\-");
        section += &format!(".TP\n\\fB{code}\\fR\n{text}\n");
    }
    section
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

/// What an interactive bash on a terminal shows when `keys` and a return are typed at it. Bash finds the completions
/// loaded and, in place of the program, a function that says how it was called.
fn type_into_bash(keys: &str) -> String {
    let completions = project().join("completions/microk8s.bash");
    let typed = format!(
        "source '{}'\nmicrok8s() {{ echo \"ran <$*>\"; }}\n{keys}\nexit\n",
        completions.display()
    );
    // `script` gives bash the terminal that readline wants; the limit is for a bash that never ends.
    let mut child = Command::new("timeout")
        .args([
            "120",
            "script",
            "-qec",
            "bash --norc --noprofile -i",
            "/dev/null",
        ])
        .env("TERM", "dumb")
        .env("HISTFILE", "/dev/null")
        .env("INPUTRC", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(typed.as_bytes())
        .unwrap();
    String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned()
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

fn is_installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\" >/dev/null", program])
        .status()
        .unwrap()
        .success();
    if !found {
        skip(&format!("`{program}` is not installed"));
    }
    found
}
