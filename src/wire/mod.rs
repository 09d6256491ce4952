//! Layer 2: the messages between programs. Both ends of each protocol share these types.

pub mod cluster_v1;
pub mod cluster_v2;
pub mod error_body;
pub mod lenient;
pub mod local_v1;
pub mod operation;
pub mod preflight_v1;
pub mod routes;
