//! All targets: each is a program of this one source, and its name says which property of
//! `microk8s::fuzzing` it holds its inputs against.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| microk8s::fuzzing::run(env!("CARGO_BIN_NAME"), input));
