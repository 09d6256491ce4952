//! Layer 1: values that are valid once they exist.

pub(crate) mod agent_options;
pub(crate) mod cluster_id;
pub mod endpoint;
pub mod fingerprint;
pub mod join_id;
pub mod join_stage;
pub mod join_url;
pub(crate) mod launch_configuration;
pub(crate) mod membership;
pub mod node;
pub(crate) mod node_label;
pub mod role;
pub mod token;
pub mod token_record;
pub mod token_terms;
