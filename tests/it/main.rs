//! Integration tests: one binary, a module a behaviour.

mod compat;
mod lab;
