//! Layer 3: speaking to agents, the node's own and those of other nodes, and to the API server.

pub mod api_server;
pub mod clock_reading;
mod connection;
pub mod local;
pub mod pinned_tls;
pub mod remote;
pub mod reply;
