//! `microk8s apiserver-proxy`: what may be typed. The flags are those of MicroK8s's proxy.

use std::path::PathBuf;

use clap::Args;

use crate::base::time_text;
use crate::cli::agent::LogFormat;

/// The arguments of `apiserver-proxy`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ApiserverProxyArgs {
    /// The configuration, in the form of traefik's: where to listen, and the file with the list of
    /// API servers [default: args/traefik/traefik.yaml of the node, else its template
    /// traefik-template.yaml]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) traefik_config: Option<PathBuf>,

    /// The kubeconfig with which Kubernetes is asked for the list of API servers
    /// [default: credentials/kubelet.config of the node]
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// How often Kubernetes is asked for the list, as in 30s or 5m; a bare number is seconds, 0 is
    /// never [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) refresh_interval: Option<u64>,

    /// The form of the log on standard error [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

fn duration(text: &str) -> Result<u64, String> {
    time_text::read_seconds(text).ok_or_else(|| "give a duration, as in 30, 30s or 5m".to_owned())
}
