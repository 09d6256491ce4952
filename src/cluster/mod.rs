//! Floor 4: the rules of the cluster. Knows no HTTP.

pub mod add_node;
pub mod admit;
pub mod callback;
pub mod capi;
pub mod carry_over;
pub mod cni;
pub mod configure;
mod control_planes;
mod datastore_place;
pub mod first_join;
pub mod forget;
pub mod fresh_node;
pub mod identity;
pub mod image_import;
pub mod join;
pub mod journal;
pub mod kubernetes;
pub mod leave;
pub mod node;
pub mod pod_network;
mod readiness;
pub mod remove_node;
pub mod status;
mod strictness;
pub mod token_care;
pub mod turn;
pub mod upgrade;
