//! Holds the layers of `docs/architecture.md` by machine: who may import whom, and who may touch the world.
//!
//! The sources are read as tokens, comments and strings left out, so that a mention in a comment is no import. Test
//! code inside `src/` keeps to the layers as well, but may write files, start processes and print.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Every top-level module and its layer. A module that is not listed is a violation: give it a layer first.
const LAYERS: &[(&str, u8)] = &[
    ("base", 0),
    ("model", 1),
    ("wire", 2),
    ("store", 3),
    ("pki", 3),
    ("platform", 3),
    ("client", 3),
    ("cluster", 4),
    ("agent", 5),
    ("cli", 5),
    ("app", 6),
    // Only for the fuzzer and for tests; reaches all that reads foreign bytes.
    ("fuzzing", 7),
];

/// Imports that the layers alone would allow.
const NEVER_IMPORTS: &[(&str, &[&str])] = &[
    // The face asks; what it asks does the work. The in-process join reaches it through a function that `app` hands over.
    ("cli", &["agent", "cluster", "store"]),
];

/// Modules that hold rules or values and must not know how they travel.
const KNOW_NO_HTTP: &[&str] = &["base", "model", "pki", "cluster"];
const HTTP_CRATES: &[&str] = &[
    "axum",
    "h2",
    "http",
    "http_body_util",
    "hyper",
    "hyper_util",
    "tower",
];

/// Ways to start a process, as runs of path segments.
const STARTS_PROCESSES: &[&[&str]] = &[
    &["process", "Command"],
    &["process", "CommandExt"],
    &["process", "*"],
    &["tokio", "process"],
    &["unistd", "fork"],
    &["unistd", "execv"],
    &["unistd", "execve"],
    &["unistd", "execvp"],
    &["unistd", "*"],
];
const MAY_START_PROCESSES: &[&str] = &["platform"];

/// Ways to change what rests on disk, as runs of path segments.
const CHANGES_FILES: &[&[&str]] = &[
    &["fs", "write"],
    &["fs", "rename"],
    &["fs", "copy"],
    &["fs", "hard_link"],
    &["fs", "remove_file"],
    &["fs", "remove_dir"],
    &["fs", "remove_dir_all"],
    &["fs", "create_dir"],
    &["fs", "create_dir_all"],
    &["fs", "set_permissions"],
    &["fs", "symlink"],
    &["fs", "chown"],
    &["fs", "lchown"],
    &["fs", "fchown"],
    &["fs", "OpenOptions"],
    &["fs", "DirBuilder"],
    &["fs", "*"],
    &["File", "create"],
    &["File", "create_new"],
    &["File", "options"],
    &["OpenOptions", "new"],
    &["tempfile"],
    &["unistd", "chown"],
    &["unistd", "fchown"],
    &["unistd", "ftruncate"],
    &["unistd", "mkdir"],
    &["unistd", "truncate"],
    &["unistd", "unlink"],
];
/// A lock is a file as well; it is created where it is missing, and nothing is written into it.
const MAY_CHANGE_FILES: &[&str] = &["base::atomic_file", "base::file_lock", "store"];

/// Ways to reach the terminal.
const PRINTING_MACROS: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
const STREAMS: &[&[&str]] = &[
    &["io", "stdout"],
    &["io", "stderr"],
    &["io", "Stdout"],
    &["io", "Stderr"],
    &["io", "*"],
];
const MAY_PRINT: &[&str] = &["cli::output", "app"];

#[derive(Debug, PartialEq)]
struct Violation {
    place: String,
    line: usize,
    what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place, self.line, self.what)
    }
}

#[test]
fn every_source_file_keeps_to_its_layer() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(
        files.iter().any(|file| file.ends_with("lib.rs")),
        "no sources below {}",
        src.display()
    );

    let violations: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let source = fs::read_to_string(file).unwrap();
            check(file.strip_prefix(&src).unwrap(), &source)
        })
        .map(|violation| violation.to_string())
        .collect();

    assert!(
        violations.is_empty(),
        "docs/architecture.md is broken by:\n  {}",
        violations.join("\n  ")
    );
}

#[test]
fn every_listed_module_exists() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (module, _) in LAYERS {
        let file = src.join(format!("{module}.rs"));
        let folder = src.join(module).join("mod.rs");
        assert!(
            file.exists() || folder.exists(),
            "layer named for `{module}`, which is not there"
        );
    }
}

mod the_checker {
    use super::*;

    /// What is wrong with a file of this name and text, without the place.
    fn faults(path: &str, body: &str) -> Vec<String> {
        let source = format!("//! A file.\n{body}\n");
        check(Path::new(path), &source)
            .into_iter()
            .map(|violation| violation.what)
            .collect()
    }

    #[test]
    fn passes_imports_from_below_and_from_beside() {
        assert_eq!(
            faults(
                "cluster/join.rs",
                "use std::fmt;\nuse crate::{base::secret::Secret, client::remote, cluster::journal::{self, Journal}};\n\
                 use super::admit; fn f() { crate::model::token::parse(\"\"); }",
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn catches_an_import_from_a_higher_layer() {
        assert_eq!(
            faults("model/token.rs", "use crate::wire::routes;"),
            ["`model` (layer 1) imports `crate::wire` (layer 2)"]
        );
    }

    #[test]
    fn catches_an_import_from_the_same_layer() {
        assert_eq!(
            faults("pki/sign.rs", "use crate::store::layout;"),
            ["`pki` (layer 3) imports `crate::store` (layer 3)"]
        );
    }

    #[test]
    fn catches_a_path_without_use_and_a_path_in_a_group() {
        assert_eq!(
            faults("base/clock.rs", "fn f() { let x = crate::model::X; }").len(),
            1
        );
        assert_eq!(
            faults(
                "base/clock.rs",
                "use crate::{base::secret, model::{role, token}};"
            )
            .len(),
            2
        );
        assert_eq!(
            faults("base/clock.rs", "use {crate::cluster as rules, std::fmt};").len(),
            1
        );
    }

    #[test]
    fn catches_a_path_that_climbs_with_super() {
        assert_eq!(
            faults("model/token.rs", "use super::super::wire::routes;").len(),
            1
        );
        assert_eq!(
            faults("model/token/text.rs", "use super::super::role;"),
            Vec::<String>::new()
        );
        assert_eq!(
            faults("model/token.rs", "mod inner { use super::super::role; }"),
            Vec::<String>::new()
        );
        assert_eq!(faults("model/mod.rs", "use super::wire;").len(), 1);
    }

    #[test]
    fn catches_the_command_line_reaching_past_the_agent() {
        for module in ["agent", "cluster", "store"] {
            assert_eq!(
                faults("cli/join.rs", &format!("use crate::{module}::x;")).len(),
                1,
                "{module}"
            );
        }
        assert_eq!(
            faults("cli/join.rs", "use crate::client::local;"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn catches_http_among_the_rules() {
        assert_eq!(
            faults("cluster/join.rs", "use hyper::Request;"),
            ["`cluster` knows no HTTP, but names `hyper`"]
        );
        assert_eq!(
            faults(
                "cluster/join.rs",
                "fn f() -> axum::http::StatusCode { todo() }"
            )
            .len(),
            1
        );
        assert_eq!(
            faults("client/remote.rs", "use hyper::Request;"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn catches_a_process_started_outside_of_platform() {
        assert_eq!(
            faults("agent/mod.rs", "use std::process::{Command, Stdio};").len(),
            1
        );
        assert_eq!(
            faults(
                "agent/mod.rs",
                "fn f() { tokio::process::Command::new(\"snapctl\"); }"
            )
            .len(),
            1
        );
        assert_eq!(
            faults("app.rs", "use std::os::unix::process::CommandExt;").len(),
            1
        );
        assert_eq!(
            faults("app.rs", "use std::process::ExitCode; use clap::Command;"),
            Vec::<String>::new()
        );
        assert_eq!(
            faults("platform/snap.rs", "use std::process::Command;"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn catches_a_file_changed_outside_of_its_two_places() {
        for body in [
            "use std::fs; fn f() { fs::write(\"a\", \"b\"); }",
            "fn f() { std::fs::File::create(\"a\"); }",
            "use std::fs::{self, OpenOptions};",
            "use std::{fs::{rename}, io};",
            "fn f() { tempfile::NamedTempFile::new(); }",
        ] {
            assert_eq!(faults("cluster/journal.rs", body).len(), 1, "{body}");
            assert_eq!(
                faults("store/layout.rs", body),
                Vec::<String>::new(),
                "{body}"
            );
            assert_eq!(
                faults("base/atomic_file.rs", body),
                Vec::<String>::new(),
                "{body}"
            );
            assert_eq!(faults("base/atomic_file_too.rs", body).len(), 1, "{body}");
        }
        assert_eq!(
            faults(
                "pki/ca.rs",
                "fn f() { std::fs::read(\"a\"); std::fs::File::open(\"a\"); }"
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn catches_printing_outside_of_its_two_places() {
        for body in [
            "fn f() { println!(\"a\"); }",
            "fn f() { std::eprint!(\"a\"); }",
            "use std::io::stdout;",
            "fn f() { std::io::stderr(); }",
        ] {
            assert_eq!(faults("cli/join.rs", body).len(), 1, "{body}");
            assert_eq!(
                faults("cli/output.rs", body),
                Vec::<String>::new(),
                "{body}"
            );
            assert_eq!(faults("app/mod.rs", body), Vec::<String>::new(), "{body}");
        }
        assert_eq!(
            faults(
                "platform/snap.rs",
                "fn f(c: C) { c.stdout(Stdio::piped()); }"
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn lets_tests_inside_a_file_touch_the_world_but_not_the_layers() {
        let body = "#[cfg(test)]\nmod tests { use std::process::Command; use super::*; fn f() { println!(\"\"); std::fs::write(\"\", \"\"); } }\nfn g() {}";
        assert_eq!(faults("cluster/join.rs", body), Vec::<String>::new());
        assert_eq!(
            faults(
                "cluster/join.rs",
                &format!("{body} fn h() {{ println!(\"\"); }}")
            )
            .len(),
            1
        );
        assert_eq!(
            faults(
                "cluster/join.rs",
                "#[cfg(test)] mod tests { use crate::agent::x; }"
            )
            .len(),
            1
        );
        assert_eq!(
            faults(
                "cluster/join.rs",
                "#[cfg(test)] use std::process::Command; fn f() {}"
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn is_not_fooled_by_comments_strings_and_characters() {
        let body = r###"
            // use crate::app;
            /* println!() /* nested */ use crate::app; */
            /// [`crate::app::run`]
            fn f<'a>(x: &'a str) -> char { let _ = "use crate::app; \" println!()"; let _ = r#"crate::app "x" "#; let _ = b"crate::app"; '"' }
            fn g() -> char { '\'' }
        "###;
        assert_eq!(faults("base/clock.rs", body), Vec::<String>::new());
        assert_eq!(
            faults("base/clock.rs", "fn f() -> char { '\"' } use crate::app;").len(),
            1
        );
    }

    #[test]
    fn wants_the_purpose_of_a_file_first_and_a_layer_for_each_module() {
        assert_eq!(
            check(Path::new("base/clock.rs"), "use std::fmt;\n").len(),
            1
        );
        assert_eq!(check(Path::new("util.rs"), "//! Help.\n").len(), 1);
        assert_eq!(
            check(
                Path::new("base/clock.rs"),
                "//! Time.\nuse crate::util::x;\n"
            )
            .len(),
            1
        );
    }

    #[test]
    fn names_file_and_line() {
        let violations = check(
            Path::new("base/clock.rs"),
            "//! Time.\n\nuse crate::app::x;\n",
        );
        assert_eq!(
            violations[0].to_string(),
            "src/base/clock.rs:3: `base` (layer 0) imports `crate::app` (layer 6)"
        );
    }
}

/// All violations in one file. `path` is relative to `src/`.
fn check(path: &Path, source: &str) -> Vec<Violation> {
    let place = format!("src/{}", path.display());
    let module = module_path(path);
    let mut violations = Vec::new();
    let mut report = |line: usize, what: String| {
        violations.push(Violation {
            place: place.clone(),
            line,
            what,
        });
    };

    if !source.starts_with("//!") {
        report(1, "does not open with `//!`".to_owned());
    }
    // The crate's root and the program declare and start the rest; they stand above the layers.
    let Some(own) = module.first().map(String::as_str) else {
        return violations;
    };
    let Some(layer) = layer_of(own) else {
        report(1, format!("`{own}` has no layer"));
        return violations;
    };

    let test_file = module
        .iter()
        .any(|segment| ["tests", "fuzzing"].contains(&segment.as_str()));
    for found in read(source, &module) {
        if let Some(target) = found.inside_crate() {
            match layer_of(target) {
                _ if target == own => {}
                None => report(
                    found.line,
                    format!("`{own}` imports `crate::{target}`, which has no layer"),
                ),
                Some(theirs) if theirs >= layer => {
                    report(
                        found.line,
                        format!(
                            "`{own}` (layer {layer}) imports `crate::{target}` (layer {theirs})"
                        ),
                    );
                }
                Some(_) => {}
            }
            let barred = NEVER_IMPORTS
                .iter()
                .any(|(from, never)| *from == own && never.contains(&target));
            if barred && layer_of(target).is_some_and(|theirs| theirs < layer) {
                report(
                    found.line,
                    format!("`{own}` never imports `crate::{target}`"),
                );
            }
            continue;
        }
        if KNOW_NO_HTTP.contains(&own)
            && HTTP_CRATES.contains(&found.path[0].as_str())
            && found.path.len() > 1
        {
            report(
                found.line,
                format!("`{own}` knows no HTTP, but names `{}`", found.path[0]),
            );
        }
        if found.in_test || test_file {
            continue;
        }
        let name = found.path.join("::");
        if found.has_any(STARTS_PROCESSES) && !stands_in(&module, MAY_START_PROCESSES) {
            report(
                found.line,
                format!("`{name}` starts processes, which is for {MAY_START_PROCESSES:?}"),
            );
        }
        if found.has_any(CHANGES_FILES) && !stands_in(&module, MAY_CHANGE_FILES) {
            report(
                found.line,
                format!("`{name}` changes files, which is for {MAY_CHANGE_FILES:?}"),
            );
        }
        let prints =
            found.is_macro && PRINTING_MACROS.contains(&found.last()) || found.has_any(STREAMS);
        if prints && !stands_in(&module, MAY_PRINT) {
            report(
                found.line,
                format!("`{name}` prints, which is for {MAY_PRINT:?}"),
            );
        }
    }
    violations
}

fn layer_of(module: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, layer)| *layer)
}

/// Whether `module` is one of `places` or lies inside one.
fn stands_in(module: &[String], places: &[&str]) -> bool {
    places.iter().any(|place| {
        let place: Vec<&str> = place.split("::").collect();
        module.len() >= place.len()
            && module
                .iter()
                .zip(&place)
                .all(|(ours, theirs)| ours == theirs)
    })
}

/// `cluster/join.rs` is `[cluster, join]`; `cluster/mod.rs` and `cluster.rs` are `[cluster]`; `lib.rs` and `main.rs` are `[]`.
fn module_path(path: &Path) -> Vec<String> {
    let mut segments: Vec<String> = path
        .with_extension("")
        .iter()
        .map(|segment| segment.to_str().unwrap().to_owned())
        .collect();
    if segments.last().is_some_and(|last| last == "mod")
        || segments.len() == 1 && ["lib", "main"].contains(&&*segments[0])
    {
        segments.pop();
    }
    segments
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// A path as it stands in the source, `use` trees written out, `super` and `self` resolved.
struct Found {
    line: usize,
    path: Vec<String>,
    in_test: bool,
    is_macro: bool,
}

impl Found {
    /// The top-level module of this crate that the path leads to, if it does.
    fn inside_crate(&self) -> Option<&str> {
        match self.path.as_slice() {
            [first, second, ..] if first == "crate" && second != "*" => Some(second),
            _ => None,
        }
    }

    fn last(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    fn has_any(&self, runs: &[&[&str]]) -> bool {
        runs.iter().any(|run| {
            self.path
                .windows(run.len())
                .any(|window| window.iter().eq(run.iter()))
        })
    }
}

#[derive(Clone, PartialEq)]
enum Token {
    Word(String),
    PathSeparator,
    Mark(char),
}

fn is_word(token: Option<&(usize, Token)>, wanted: &str) -> bool {
    matches!(token, Some((_, Token::Word(word))) if word == wanted)
}

fn is_mark(token: Option<&(usize, Token)>, wanted: char) -> bool {
    matches!(token, Some((_, Token::Mark(mark))) if *mark == wanted)
}

/// All paths of a source, in order.
fn read(source: &str, module: &[String]) -> Vec<Found> {
    let tokens = tokens(source);
    let test_lines = test_ranges(&tokens);
    let mut found = Vec::new();
    // One entry for each open brace: whether it opened an inline module.
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let start = at;
        let mut paths: Vec<(usize, Vec<String>)> = Vec::new();
        match &tokens[at].1 {
            Token::Mark('{') => {
                let inline = at >= 2
                    && matches!(tokens[at - 1].1, Token::Word(_))
                    && is_word(tokens.get(at - 2), "mod");
                braces.push(inline);
                at += 1;
            }
            Token::Mark('}') => {
                braces.pop();
                at += 1;
            }
            Token::Word(word) if word == "use" => {
                at += 1;
                use_tree(&tokens, &mut at, &[], &mut paths);
            }
            Token::Word(_) => {
                let line = tokens[at].0;
                let mut path = Vec::new();
                while let Some((_, Token::Word(word))) = tokens.get(at) {
                    path.push(word.clone());
                    at += 1;
                    if matches!(tokens.get(at), Some((_, Token::PathSeparator)))
                        && matches!(tokens.get(at + 1), Some((_, Token::Word(_))))
                    {
                        at += 1;
                    } else {
                        break;
                    }
                }
                paths.push((line, path));
            }
            _ => at += 1,
        }
        let is_macro = is_mark(tokens.get(at), '!') && !is_mark(tokens.get(at + 1), '=');
        let inner = braces.iter().filter(|inline| **inline).count();
        let in_test = test_lines.iter().any(|range| range.contains(&start));
        found.extend(
            paths
                .into_iter()
                .filter(|(_, path)| path.len() > 1 || is_macro)
                .map(|(line, path)| Found {
                    line,
                    path: resolve(path, module, inner),
                    in_test,
                    is_macro,
                }),
        );
    }
    found
}

/// Follows one `use` tree from `at` and adds every path that it names.
fn use_tree(
    tokens: &[(usize, Token)],
    at: &mut usize,
    prefix: &[String],
    into: &mut Vec<(usize, Vec<String>)>,
) {
    let mut path = prefix.to_vec();
    let mut line = tokens.get(*at).map_or(0, |token| token.0);
    while let Some((here, token)) = tokens.get(*at) {
        match token {
            Token::Word(word) if word == "as" => *at += 2,
            Token::Word(word) => {
                line = *here;
                if word != "self" || path.is_empty() {
                    path.push(word.clone());
                }
                *at += 1;
            }
            Token::Mark('*') => {
                line = *here;
                path.push("*".to_owned());
                *at += 1;
            }
            Token::PathSeparator => *at += 1,
            Token::Mark('{') => {
                *at += 1;
                loop {
                    match tokens.get(*at) {
                        Some((_, Token::Mark('}'))) | None => {
                            *at += 1;
                            return;
                        }
                        Some((_, Token::Mark(','))) => *at += 1,
                        Some(_) => use_tree(tokens, at, &path, into),
                    }
                }
            }
            Token::Mark(_) => break,
        }
    }
    // A mark that no tree holds ends the reading of a group as well, so that broken text cannot hold it up.
    if path.len() == prefix.len()
        && !is_mark(tokens.get(*at), ',')
        && !is_mark(tokens.get(*at), '}')
    {
        *at += 1;
    }
    into.push((line, path));
}

/// Turns a leading `self` or `super` into the path from the crate's root; `inner` counts the inline modules around it.
fn resolve(path: Vec<String>, module: &[String], inner: usize) -> Vec<String> {
    if path[0] != "self" && path[0] != "super" {
        return path;
    }
    let climbs = path
        .iter()
        .take_while(|segment| *segment == "super")
        .count();
    let rest = path
        .iter()
        .skip_while(|segment| *segment == "self" || *segment == "super");
    // Inline modules are climbed out of first; their names do not matter here.
    let kept = module.len().saturating_sub(climbs.saturating_sub(inner));
    let inside = inner.saturating_sub(climbs);
    let mut resolved = vec!["crate".to_owned()];
    resolved.extend_from_slice(&module[..kept]);
    resolved.extend(std::iter::repeat_n("inline".to_owned(), inside));
    resolved.extend(rest.cloned());
    resolved
}

/// The ranges of tokens that an attribute `#[cfg(test)]` or `#[test]` covers.
fn test_ranges(tokens: &[(usize, Token)]) -> Vec<std::ops::Range<usize>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let cfg = is_word(tokens.get(at + 2), "cfg")
            && is_mark(tokens.get(at + 3), '(')
            && is_word(tokens.get(at + 4), "test");
        let test = is_word(tokens.get(at + 2), "test") && is_mark(tokens.get(at + 3), ']');
        if is_mark(tokens.get(at), '#') && is_mark(tokens.get(at + 1), '[') && (cfg || test) {
            let end = end_of_item(tokens, at);
            ranges.push(at..end);
            at = end;
        } else {
            at += 1;
        }
    }
    ranges
}

/// Where the item that starts at `from` ends: behind its block, or behind its semicolon where it has none.
fn end_of_item(tokens: &[(usize, Token)], from: usize) -> usize {
    let mut depth = 0usize;
    let mut in_use = false;
    for (at, (_, token)) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Word(word) if word == "use" && depth == 0 => in_use = true,
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark(')' | ']') => depth = depth.saturating_sub(1),
            Token::Mark('}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 && !in_use {
                    return at + 1;
                }
            }
            Token::Mark(';') if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Words, path separators and other marks with their line; comments, strings, characters and lifetimes are left out.
fn tokens(source: &str) -> Vec<(usize, Token)> {
    let text: Vec<char> = source.chars().collect();
    let peek = |at: usize| text.get(at).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut at = 0;
    while at < text.len() {
        let start = at;
        match text[at] {
            '/' if peek(at + 1) == '/' => {
                while at < text.len() && text[at] != '\n' {
                    at += 1;
                }
            }
            '/' if peek(at + 1) == '*' => {
                let mut depth = 0;
                while at < text.len() {
                    match (text[at], peek(at + 1)) {
                        ('/', '*') => (depth, at) = (depth + 1, at + 2),
                        ('*', '/') => (depth, at) = (depth - 1, at + 2),
                        _ => at += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            '"' => at = end_of_string(&text, at),
            '\'' => at = end_of_character(&text, at),
            letter if letter.is_alphanumeric() || letter == '_' => {
                while peek(at).is_alphanumeric() || peek(at) == '_' {
                    at += 1;
                }
                let word: String = text[start..at].iter().collect();
                let raw = ["r", "br", "cr"].contains(&&*word) && raw_string(&text, at).is_some();
                if raw {
                    at = raw_string(&text, at).unwrap();
                } else if ["b", "c"].contains(&&*word) && peek(at) == '"' {
                    at = end_of_string(&text, at);
                } else if word == "b" && peek(at) == '\'' {
                    at = end_of_character(&text, at);
                } else if !letter.is_numeric() {
                    tokens.push((line, Token::Word(word)));
                }
            }
            ':' if peek(at + 1) == ':' => {
                tokens.push((line, Token::PathSeparator));
                at += 2;
            }
            space if space.is_whitespace() => at += 1,
            mark => {
                tokens.push((line, Token::Mark(mark)));
                at += 1;
            }
        }
        line += text[start..at]
            .iter()
            .filter(|letter| **letter == '\n')
            .count();
    }
    tokens
}

/// Behind the closing quote of the string that opens at `at`.
fn end_of_string(text: &[char], mut at: usize) -> usize {
    at += 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Behind a character, or behind the mark and name of a lifetime.
fn end_of_character(text: &[char], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), _) => (at + 3..text.len())
            .find(|end| text[*end] == '\'')
            .map_or(text.len(), |end| end + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// Behind a raw string whose hashes or quote stand at `at`; none where there is no raw string (`r#type`).
fn raw_string(text: &[char], at: usize) -> Option<usize> {
    let hashes = text[at.min(text.len())..]
        .iter()
        .take_while(|mark| **mark == '#')
        .count();
    if text.get(at + hashes) != Some(&'"') {
        return None;
    }
    let closes = |end: usize| {
        text[end] == '"'
            && text[end + 1..]
                .iter()
                .take(hashes)
                .filter(|mark| **mark == '#')
                .count()
                == hashes
    };
    (at + hashes + 1..text.len())
        .find(|end| closes(*end))
        .map(|end| end + 1 + hashes)
}
