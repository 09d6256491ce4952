//! Floor 3: speaking to agents: the node's own, and those of other nodes.

pub mod clock_reading;
pub mod local;
pub mod pinned_tls;
pub mod remote;
