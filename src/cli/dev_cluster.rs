//! `microk8s dev-cluster`: what may be typed.

use clap::Args;

/// The arguments of `dev-cluster`.
#[derive(Debug, Args)]
pub(crate) struct DevClusterArgs {
    /// How many control plane nodes; more than one needs Debian's package go-dqlite
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub(crate) control_planes: u8,

    /// How many workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=20))]
    pub(crate) workers: u8,

    /// The port of the agents, on loopback addresses on which it is free; 25000 unless given, or
    /// the next one that is free
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,

    /// Run a real etcd and a real API server for each control plane node, and keep the tokens there;
    /// needs Debian's package etcd-server, and kube-apiserver as $KUBE_APISERVER names it
    #[arg(long)]
    pub(crate) kubernetes: bool,

    /// End when the cluster has formed
    #[arg(long)]
    pub(crate) once: bool,
}
