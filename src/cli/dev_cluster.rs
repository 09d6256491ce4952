//! `microk8s dev-cluster`: what may be typed.

use clap::Args;

/// The arguments of `dev-cluster`.
#[derive(Debug, Args)]
pub struct DevClusterArgs {
    /// How many control plane nodes; more than one needs Debian's package go-dqlite
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub control_planes: u8,

    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=20))]
    pub workers: u8,

    /// The port of the agents, on 127.0.0.1, 127.0.0.2 and so on
    #[arg(long, value_name = "PORT", default_value_t = crate::model::endpoint::AGENT_PORT)]
    pub port: u16,

    /// End when the cluster has formed
    #[arg(long)]
    pub once: bool,
}
