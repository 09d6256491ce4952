//! `microk8s agent`: what may be typed. The flags are those that MicroK8s gives its agent.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::base::time_text;
use crate::model::agent_options::{CallbackFrom, TokenStoreChoice};

/// The longest retry window, in seconds.
const YEAR: u64 = 31_536_000;

/// The arguments of `agent`.
#[derive(Debug, Clone, Default, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct AgentArgs {
    /// The address and port to listen on for other nodes [default: as `args/cluster-agent` of the
    /// node says, else port 25000 of every address]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = bind)]
    pub(crate) bind: Option<SocketAddr>,

    /// The key of the certificate to serve [default: certs/server.key of the node]
    #[arg(long, value_name = "FILE")]
    pub(crate) keyfile: Option<PathBuf>,

    /// The certificate to serve [default: certs/server.crt of the node]
    #[arg(long, value_name = "FILE")]
    pub(crate) certfile: Option<PathBuf>,

    /// How long a request may take, as in 90s or 4m; a bare number is seconds [default: 240]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<u64>,

    /// Serve metrics for Prometheus at /metrics [default: false]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) enable_metrics: Option<bool>,

    /// The oldest version of TLS to accept [default: tls12]
    #[arg(long, value_enum, value_name = "VERSION")]
    pub(crate) min_tls_version: Option<MinTlsVersion>,

    /// How long a node that used a token may use it again, because its join may have failed
    /// without a report, as in 15m; a bare number is seconds, 0 is never, a year at most
    /// [default: 900]
    #[arg(long, value_name = "DURATION", value_parser = retry_window)]
    pub(crate) retry_window: Option<u64>,

    /// The form of the log on standard error [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,

    /// How many connections of other nodes are kept open, a quarter of them for one address
    /// [default: 4096, or fewer where the limit on open files is lower]
    #[arg(long, value_name = "COUNT", value_parser = max_connections)]
    pub(crate) max_connections: Option<usize>,

    /// From which addresses requests with the cluster's callback token are accepted
    /// [default: cluster]
    #[arg(long, value_enum, value_name = "WHO")]
    pub(crate) callback_from: Option<CallbackFrom>,

    /// Where tokens are kept [default: auto]
    #[arg(long, value_enum, value_name = "STORE")]
    pub(crate) token_store: Option<TokenStoreChoice>,

    /// The folder of Cluster API, with its token in `etc/token` [default: /capi]
    #[arg(long, value_name = "DIRECTORY", value_hint = clap::ValueHint::DirPath)]
    pub(crate) capi_dir: Option<PathBuf>,

    /// Apply the launch configurations in `etc/launcher` of $SNAP_COMMON [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) launch_configurations_enable: Option<bool>,

    /// How often to look for launch configurations; less than 5s is 5s [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) launch_configurations_interval: Option<u64>,

    /// The directory of a node without MicroK8s, which is made if it does not exist
    /// [default: $MICROK8S_NODE_DIR, else ~/.local/share/microk8s/current]
    #[arg(long, value_name = "DIRECTORY", value_hint = clap::ValueHint::DirPath)]
    pub(crate) node_dir: Option<PathBuf>,

    /// The socket of the local API [default: $MICROK8S_SOCKET, else that of the node]
    #[arg(long, value_name = "FILE")]
    pub(crate) socket: Option<PathBuf>,

    /// The name of a node without MicroK8s [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,

    /// Run a demonstration datastore beside a node without MicroK8s; needs Debian's package go-dqlite
    #[arg(long)]
    pub(crate) datastore_demo: bool,

    /// Ends when this process, which started the agent, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) parent: Option<i32>,

    /// Something else than to serve.
    #[command(subcommand)]
    pub(crate) command: Option<AgentCommand>,
}

/// What can be done about the agent of a node of MicroK8s's snap.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum AgentCommand {
    /// Have this program serve a node of MicroK8s's snap, in place of the snap's agent
    Install {
        /// List what would be done; change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Have the snap's agent serve again
    Uninstall {
        /// List what would be done; change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// The versions of TLS that MicroK8s's agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MinTlsVersion {
    /// Refused: TLS 1.0 is broken
    #[value(hide = true)]
    Tls10,
    /// Refused: TLS 1.1 is broken
    #[value(hide = true)]
    Tls11,
    /// TLS 1.2 and 1.3
    Tls12,
    /// TLS 1.3 only
    Tls13,
}

impl AgentArgs {
    /// Whether nothing says how to serve, so that the node's own arguments file is asked.
    pub(crate) fn says_nothing_of_serving(&self) -> bool {
        self.bind.is_none()
            && self.keyfile.is_none()
            && self.certfile.is_none()
            && self.timeout.is_none()
            && self.min_tls_version.is_none()
            && self.enable_metrics.is_none()
    }
}

/// `address:port`, `[v6]:port`, or `:port` for every address, as in MicroK8s.
fn bind(text: &str) -> Result<SocketAddr, String> {
    let whole = match text.strip_prefix(':') {
        Some(port) => format!("0.0.0.0:{port}"),
        None => text.to_owned(),
    };
    whole
        .parse()
        .map_err(|_| "give an IP address and a port, as in 0.0.0.0:25000 or [::]:25000".to_owned())
}

fn duration(text: &str) -> Result<u64, String> {
    time_text::read_seconds(text).ok_or_else(|| "give a duration, as in 240, 90s or 4m".to_owned())
}

fn retry_window(text: &str) -> Result<u64, String> {
    duration(text).and_then(|seconds| match seconds {
        0..=YEAR => Ok(seconds),
        _ => Err("give a year at most".to_owned()),
    })
}

fn max_connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 16..=1_000_000) => Ok(count),
        _ => Err("give a number from 16 to 1000000".to_owned()),
    }
}
