//! Documents that repeat what the code says are held against it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use microk8s::base::exit_status::ExitStatus;

#[test]
fn the_table_of_exit_codes_has_the_codes_of_the_program_and_no_others() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/exit-codes.md");
    let document = fs::read_to_string(path).unwrap();
    let written: BTreeSet<u8> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()?.parse().ok())
        .collect();
    let known: BTreeSet<u8> = ExitStatus::ALL.map(ExitStatus::code).into();
    assert_eq!(written, known);
}
