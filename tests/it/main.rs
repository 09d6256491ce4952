//! Integration tests: one binary, a module a behaviour.

mod agent_life;
mod bad_input;
mod compat;
mod lab;
mod signing;
mod subprocesses;
mod tokens;
