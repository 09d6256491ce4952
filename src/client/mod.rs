//! Layer 3: speaking to agents, the node's own and those of other nodes, and to the API server.

pub(crate) mod api_server;
pub(crate) mod clock_reading;
mod connection;
pub(crate) mod kubeconfig;
pub(crate) mod kubernetes;
pub mod local;
pub mod pinned_tls;
pub mod remote;
pub(crate) mod reply;
pub(crate) mod secrets;
