//! Layer 2: the messages between programs. Both ends of each protocol share these types.

pub mod cluster_v1;
pub mod cluster_v2;
pub(crate) mod error_body;
pub(crate) mod lenient;
pub mod local_v1;
pub mod operation;
pub(crate) mod preflight_v1;
pub mod routes;
