//! Documents that repeat what the code says are held against it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use microk8s::base::exit_status::ExitStatus;
use microk8s::model::join_stage::{JoinStage, Retry};

/// A document as it is in the repository.
fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_table_of_exit_codes_has_the_codes_of_the_program_and_no_others() {
    let written: BTreeSet<u8> = document("exit-codes.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()?.parse().ok())
        .collect();
    let known: BTreeSet<u8> = ExitStatus::ALL.map(ExitStatus::code).into();
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
    let known = JoinStage::ALL.map(|stage| (stage.name(), stage.exit().code()));
    assert_eq!(written, known);
}

#[test]
fn the_schema_of_events_knows_every_stage_and_every_advice() {
    let schema: Value = serde_json::from_str(&document("join-events.schema.json")).unwrap();
    let known = |field: &str| schema["properties"][field]["enum"].as_array().unwrap();
    for stage in JoinStage::ALL {
        assert!(known("stage").contains(&stage.name().into()), "{stage:?}");
    }
    for retry in [Retry::TryAgain, Retry::CureFirst, Retry::NoRetry] {
        let name = serde_json::to_value(retry).unwrap();
        assert!(known("retry").contains(&name), "{retry:?}");
    }
}

/// What is said of security is held by the tests that are named there.
#[test]
fn every_test_that_the_notes_on_security_name_exists() {
    let list = Command::new(std::env::current_exe().unwrap())
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let known: BTreeSet<&str> = list
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .collect();
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
