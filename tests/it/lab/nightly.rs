//! What takes too long for each change.

use super::tell;

/// Where this is set, tests take their larger numbers.
pub const VARIABLE: &str = "MICROK8S_TEST_NIGHTLY";

/// The larger one of two numbers in the nightly set; else the other one, which is said.
pub fn number(ordinary: usize, larger: usize) -> usize {
    if is_wanted() {
        return larger;
    }
    tell(&format!("{ordinary} of them; with {VARIABLE}=1 {larger}"));
    ordinary
}

/// Whether the nightly set is wanted.
pub fn is_wanted() -> bool {
    std::env::var_os(VARIABLE).is_some()
}
