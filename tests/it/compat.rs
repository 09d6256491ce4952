//! Compatibility with MicroK8s, held against recordings of its own programs.
//!
//! Every recorded scenario is run with the real binary on the hosts of a lab, in each way in which
//! our programs can meet MicroK8s's, and its outcome is compared with the recording: exit code,
//! output, changes to the node directories, calls to services, requests and answers. Differences
//! that are meant are in [`differences`], and nowhere else.

mod add_node;
mod differences;
mod exceptions;
mod expectation;
mod http;
mod join;
mod leave;
mod nodes;
pub mod placeholders;
pub mod preconditions;
pub mod recording;
mod remove_node;
pub mod requests;
mod scenario;

/// A test for each recording: the name of the test is that of the recording, with `_` for `-`.
///
/// `recorded!(run: a_b, c_d)` also makes `NAMES`, from which another test sees that none is missing.
macro_rules! recorded {
    ($run:path: $($name:ident),* $(,)?) => {
        #[cfg(test)]
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                $run(&stringify!($name).replace('_', "-"));
            }
        )*
    };
}
use recorded;

/// The recordings whose names start so and that have no test in this list.
fn without_a_test(prefix: &str, tests: &[&str]) -> Vec<String> {
    let tested: Vec<String> = tests.iter().map(|name| name.replace('_', "-")).collect();
    let mut names = recording::names();
    names.retain(|name| name.starts_with(prefix) && !tested.contains(name));
    names
}
