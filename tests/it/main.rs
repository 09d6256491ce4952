//! Integration tests: one binary, a module a behaviour.

fn main() {}
