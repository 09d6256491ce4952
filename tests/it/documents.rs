//! Documents that repeat what the code says are held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use strum::VariantArray;

use microk8s::base::env_vars;
use microk8s::base::exit_status::ExitStatus;
use microk8s::model::join_stage::{JoinStage, Retry};

use crate::generated::COLUMNS;

/// A document as it is in the repository.
fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::read_to_string(path).unwrap()
}

/// All documents of the project, by their paths.
pub fn documents() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [root.to_owned(), root.join("docs")];
    let documents: BTreeMap<_, _> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect();
    assert!(documents.len() > 8, "{:?}", documents.keys());
    documents
}

/// How long a row of a table may be. What is longer is a list or sections.
const ROW_COLUMNS: usize = 160;

/// A line that cannot be wrapped, such as the name of a test or an address, may be longer.
#[test]
fn documents_are_wrapped_at_100_columns_and_their_tables_have_short_rows() {
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        let mut in_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            in_code ^= line.trim_start().starts_with("```");
            let is_row = line.starts_with('|');
            let limit = if is_row { ROW_COLUMNS } else { COLUMNS };
            let is_one_word = || {
                // A mark of a list does not count.
                let is_mark = |c: char| c.is_ascii_digit() || "-. ".contains(c);
                !line.trim_start_matches(is_mark).contains(' ')
            };
            if !in_code && line.chars().count() > limit && (is_row || !is_one_word()) {
                wrong.push(format!("{}:{number}: {line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "too long:\n{}", wrong.join("\n"));
}

#[test]
fn every_link_of_a_document_to_a_file_leads_to_one() {
    let mut wrong = Vec::new();
    for (path, text) in documents() {
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split([')', '#']).next()) {
            let is_file = !link.is_empty() && !link.contains("://");
            if is_file && !path.with_file_name(link).exists() {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no such files: {wrong:#?}");
}

#[test]
fn both_readmes_list_every_command_and_every_variable_that_operators_set() {
    let commands: Vec<String> = microk8s::cli::command()
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .map(|command| format!("microk8s {}", command.get_name()))
        .collect();
    let variables = [
        env_vars::MICROK8S_LOG,
        env_vars::MICROK8S_NODE_DIR,
        env_vars::MICROK8S_SOCKET,
    ];
    for name in ["../README.md", "../README.zh-CN.md"] {
        let text = document(name);
        let mut wanted = commands.iter().map(String::as_str).chain(variables);
        let missing = wanted.find(|word| !text.contains(&format!("`{word}")));
        assert_eq!(missing, None, "{name}");
    }
}

#[test]
fn the_list_of_exit_codes_has_the_codes_of_the_program_and_no_others() {
    let written: BTreeSet<u8> = document("exit-codes.md")
        .lines()
        .filter_map(|line| line.strip_prefix("### ")?.parse().ok())
        .collect();
    let known: BTreeSet<u8> = ExitStatus::VARIANTS
        .iter()
        .map(|status| status.code())
        .collect();
    assert_eq!(written, known);
}

#[test]
fn the_table_of_stages_has_the_stages_of_a_join_in_order_each_with_its_exit_code() {
    let document = document("exit-codes.md");
    let written: Vec<(&str, u8)> = document
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.strip_suffix('`')?;
            let code: String = cells
                .nth(1)?
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            Some((name, code.parse().unwrap()))
        })
        .collect();
    let known: Vec<_> = JoinStage::VARIANTS
        .iter()
        .map(|stage| (stage.into_str(), stage.exit().code()))
        .collect();
    assert_eq!(written, known);
}

#[test]
fn the_schema_of_events_knows_every_stage_and_every_advice() {
    let schema: Value = serde_json::from_str(&document("join-events.schema.json")).unwrap();
    let known = |field: &str| schema["properties"][field]["enum"].as_array().unwrap();
    for stage in JoinStage::VARIANTS {
        assert!(
            known("stage").contains(&stage.into_str().into()),
            "{stage:?}"
        );
    }
    for retry in [Retry::TryAgain, Retry::CureFirst, Retry::NoRetry] {
        let name = serde_json::to_value(retry).unwrap();
        assert!(known("retry").contains(&name), "{retry:?}");
    }
}

/// The names of all tests.
pub fn tests() -> BTreeSet<String> {
    let list = Command::new(std::env::current_exe().unwrap())
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    list.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// What is said of security is held by the tests that are named there.
#[test]
fn every_test_that_the_notes_on_security_name_exists() {
    let known = tests();
    let notes = document("../SECURITY.md");
    let named: Vec<&str> = notes
        .split('`')
        .filter(|word| word.contains("::") && !word.contains(' '))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for test in named {
        assert!(known.contains(test), "no test is called `{test}`");
    }
}

/// The text of each module, by its path, such as `cluster::join::preflight`.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let module = path.strip_prefix(&root).unwrap().with_extension("");
            let module = module.to_str().unwrap().replace('/', "::");
            let module = module.trim_end_matches("::mod").to_owned();
            sources.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
    sources
}

#[test]
fn every_module_and_item_that_the_architecture_names_exists() {
    let sources = sources();
    // A name may leave out the first parts of its path.
    let find = |name: &str| {
        let end = format!("::{name}");
        let mut modules = sources.iter();
        modules.find(|(module, _)| *module == name || module.ends_with(&end))
    };
    let document = document("architecture.md");
    let named: Vec<&str> = document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains("::") && !name.contains(' '))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let (module, item) = name.rsplit_once("::").unwrap();
        let has_item = |(_, text): (&String, &String)| text.contains(item);
        let exists = find(name).is_some() || find(module).is_some_and(has_item);
        assert!(exists, "there is no `{name}`");
    }
}

/// A message that nothing prints helps no reader.
#[test]
fn every_message_in_the_notes_on_troubles_is_in_the_sources() {
    let sources: String = sources().into_values().collect();
    let document = document("troubleshooting.md");
    let messages: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("### `")?.split('`').next())
        .filter(|message| message.contains(' '))
        .collect();
    assert!(messages.len() > 5, "{messages:?}");
    for message in messages {
        // The rest of it is another one each time.
        let is_fixed = |part: &&str| part.chars().filter(|c| c.is_lowercase()).count() > 5;
        let mut parts = message
            .split(['…', '(', ')', ':'])
            .flat_map(|part| part.split("ADDRESS"))
            .flat_map(|part| part.split("NAME"))
            .map(str::trim)
            .filter(is_fixed)
            .peekable();
        assert!(parts.peek().is_some(), "{message}");
        for part in parts {
            assert!(sources.contains(part), "nothing prints `{part}`");
        }
    }
}
