//! What holds for any bytes that a file, another node or a person may give this program: the targets of
//! `fuzz/`, which the tests below run on a few inputs as well. Not part of the program.
//!
//! A target panics where its property does not hold. That parsing stays within bounds of memory and
//! time is for the fuzzer's own limits.

mod certificates;
mod files;
mod messages;
#[cfg(test)]
mod tests;

/// A target, by the name that it has for `cargo fuzz`.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 9] = [
    ("args_file", files::args_file),
    ("certificate", certificates::certificate),
    ("certificate_request", certificates::request),
    ("join_string", messages::join_string),
    ("journal", files::journal),
    ("json", messages::json),
    ("token_file", files::token_file),
    ("token_record", messages::token_record),
    ("yaml", files::yaml),
];

/// Runs a target on an input.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, run) = target.expect("the target is listed");
    run(input);
}
