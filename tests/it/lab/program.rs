//! The program that is tested.

use std::path::PathBuf;

/// Names another build of it than the one that is made with the tests, such as the one that is
/// released.
pub const PROGRAM_VARIABLE: &str = "MICROK8S_PROGRAM";

/// Where it is, from wherever it is started.
pub fn program() -> PathBuf {
    let Some(named) = std::env::var_os(PROGRAM_VARIABLE) else {
        return env!("CARGO_BIN_EXE_microk8s").into();
    };
    let named = PathBuf::from(named);
    named
        .canonicalize()
        .unwrap_or_else(|error| panic!("{PROGRAM_VARIABLE}: {}: {error}", named.display()))
}
