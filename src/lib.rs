//! Cluster membership for MicroK8s nodes: the library behind the `microk8s` binary.
//!
//! The modules form layers; a file imports only from lower ones (`docs/architecture.md`).

pub mod agent;
pub mod app;
pub mod base;
pub mod cli;
pub mod client;
pub mod cluster;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod model;
pub mod pki;
pub mod platform;
pub mod store;
pub mod wire;
