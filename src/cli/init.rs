//! `microk8s init`: what may be typed. The options are those of MicroK8s's agent.

use std::path::PathBuf;

use clap::Args;

/// The arguments of `init`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct InitArgs {
    /// The launch configuration, one or more YAML documents (`-`: standard input)
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) config_file: PathBuf,

    /// The services of the node do not run yet: restart none, join no cluster, and leave add-ons as
    /// they are
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) pre_init: Option<bool>,
}
