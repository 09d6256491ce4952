//! Layer 4: the rules of the cluster. Uses no HTTP library.

pub(crate) mod add_node;
pub(crate) mod admission;
pub(crate) mod callback;
pub(crate) mod capi;
pub(crate) mod carry_over;
pub(crate) mod cni;
pub(crate) mod configure;
mod control_planes;
mod datastore_place;
pub(crate) mod first_join;
mod first_join_tracker;
pub(crate) mod forget;
pub mod fresh_node;
pub(crate) mod identity;
pub(crate) mod image_import;
pub(crate) mod join;
pub(crate) mod kubernetes;
pub(crate) mod leave;
pub(crate) mod node;
pub(crate) mod node_lock;
pub(crate) mod operation;
pub(crate) mod pod_network;
mod registry;
pub(crate) mod remove_node;
#[expect(dead_code, reason = "until the agent can be told to use it")]
pub(crate) mod secret_store;
pub(crate) mod status;
mod strictness;
pub(crate) mod token_admin;
pub(crate) mod transaction;
pub(crate) mod upgrade;
