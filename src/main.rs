//! The `microk8s` binary.
fn main() {}
