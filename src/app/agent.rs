//! `microk8s agent`, from what was typed to the exit status.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::{self, AgentError, Settings};
use crate::app::log::LastWords;
use crate::app::{self, Ended, agent_switch, log};
use crate::base::exit_status::ExitStatus;
use crate::base::{atomic_file, env_vars};
use crate::cli;
use crate::cli::agent::{AgentArgs, MinTlsVersion};
use crate::cli::go_flags::{self, Unknown};
use crate::cli::output::{self, Printer};
use crate::cluster::fresh_node::{self, FreshNode};
use crate::cluster::node::Node;
use crate::model::endpoint::{AGENT_PORT, DATASTORE_PORT};
use crate::model::token_record::RETRY_WINDOW;
use crate::platform::datastore_demo::DatastoreDemo;
use crate::platform::{self, Action, Service, network, process};
use crate::store::layout::Layout;

/// MicroK8s's default of `--timeout`, in seconds.
const TIMEOUT: u64 = 240;

/// Runs the agent by the name that was typed: `cluster-agent` is what MicroK8s's own wrapper starts,
/// with the arguments of its own agent.
pub(crate) fn run(name: &str, arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let unknown = match name {
        "cluster-agent" => Unknown::LeftOut,
        _ => Unknown::Wrong,
    };
    let arguments = go_flags::read(&cli::subcommand("agent"), arguments, unknown);
    let typed: AgentArgs = app::read_arguments("agent", arguments.words, printer)?;
    if let Some(command) = typed.command {
        return agent_switch::run(command, printer);
    }
    try_run(typed, arguments.left_out)
        .map(|()| ExitStatus::Success)
        .map_err(|refusal| refusal.print(printer))
}

/// Why a program of the node, the agent or the proxy, does not run.
pub(super) struct Refusal {
    status: ExitStatus,
    text: String,
    hint: Option<&'static str>,
}

impl Refusal {
    pub(super) fn print(&self, printer: &mut dyn Printer) -> ExitStatus {
        output::error(&mut LastWords(printer), &self.text, self.hint);
        self.status
    }

    /// The arguments file of the node cannot be used.
    pub(super) fn of_file(path: &Path, error: &clap::Error) -> Self {
        let why = error.to_string();
        let why = why.trim_end().trim_start_matches("error: ");
        Self {
            status: ExitStatus::Usage,
            ..Self::new(format!("`{}`: {why}", path.display()))
        }
    }

    pub(super) fn new(error: impl ToString) -> Self {
        Self {
            status: ExitStatus::Failure,
            text: error.to_string(),
            hint: None,
        }
    }

    pub(super) fn with_hint(self, hint: impl Into<Option<&'static str>>) -> Self {
        let hint = hint.into();
        Self { hint, ..self }
    }

    fn of_agent(error: AgentError) -> Self {
        let hint = error.hint();
        Self::new(error).with_hint(hint)
    }
}

fn try_run(typed: AgentArgs, mut left_out: Vec<String>) -> Result<(), Refusal> {
    if let Some(parent) = typed.parent {
        process::end_with_parent(parent).map_err(Refusal::new)?;
    }
    let layout = Layout::find(typed.node_dir.as_deref()).map_err(Refusal::new)?;
    let datastore = typed
        .datastore_demo
        .then(|| DatastoreDemo::new(layout.backend()));
    let node = app::node_of(layout, typed.node_name.clone(), datastore);
    if !node.layout.exists() {
        log::start(typed.log_format);
        make_node(&node, &typed)?;
    }
    let args = if typed.says_nothing_of_serving() {
        from_file(&node, typed, &mut left_out)?
    } else {
        typed
    };
    log::start(args.log_format);
    if node.is_standalone() {
        fresh_node::remove_unfinished(&node.layout);
    }
    for line in left_out {
        tracing::warn!("{line}");
    }
    let settings = settings(&node, args)?;
    let revision = node.layout.revision().cloned();
    let datastore = node.is_standalone().then(|| node.platform.clone());
    let ended = agent::run(node, settings);
    if let Some(platform) = datastore {
        // Work that has not ended may hold the platform until the process is gone, which would leave the
        // datastore behind.
        let _ = platform.service(Action::Stop, Service::K8sDqlite);
    }
    match (ended.map_err(Refusal::of_agent)?, revision) {
        (Some(to), Some(from)) => Err(start_in(from.directory(), &to)),
        (_, _) => Ok(()),
    }
}

/// Starts the agent again, as the same process, in another directory of the node. Returns only when
/// that fails.
fn start_in(from: &Path, to: &Path) -> Refusal {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.collect();
    let variables = variables_in(from, to);
    let error = process::become_program(Path::new(&program), arguments, &variables);
    Refusal::new(format!("cannot start again in `{}`: {error}", to.display()))
}

/// What snapd sets, for the other revision.
fn variables_in(from: &Path, to: &Path) -> Vec<(String, String)> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let names = (from.file_name(), to.file_name());
    let mut replaced = vec![(text(from), text(to))];
    if let Some(snap) = env_vars::path(env_vars::SNAP)
        && let (Some(old), Some(new)) = names
        && snap.file_name() == Some(old)
    {
        replaced.push((text(&snap), text(&snap.with_file_name(new))));
    }
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter_map(|(name, value)| {
            let parts: Vec<&str> = value.split(':').collect();
            let changed: Vec<String> = parts
                .iter()
                .map(|part| {
                    let below = |(old, new): &(String, String)| {
                        let rest = Path::new(part).strip_prefix(old).ok()?;
                        Some(
                            text(&Path::new(new).join(rest))
                                .trim_end_matches('/')
                                .to_owned(),
                        )
                    };
                    replaced
                        .iter()
                        .find_map(below)
                        .unwrap_or_else(|| (*part).to_owned())
                })
                .collect();
            let changed = changed.join(":");
            (changed != value).then_some((name, changed))
        })
        .collect();
    if let (Some(old), Some(new)) = names
        && std::env::var_os(env_vars::SNAP_REVISION).is_some_and(|revision| revision == old)
    {
        let revision = new.to_string_lossy().into_owned();
        variables.push((env_vars::SNAP_REVISION.to_owned(), revision));
    }
    // A path of its own that led there, and leads there still, would not lead to the new one.
    if let Some(data) = env_vars::path(env_vars::SNAP_DATA)
        && std::fs::canonicalize(&data).is_ok_and(|data| data != to)
        && !variables
            .iter()
            .any(|(name, _)| name == env_vars::SNAP_DATA)
    {
        variables.push((env_vars::SNAP_DATA.to_owned(), text(to)));
    }
    variables
}

/// Lays out a standalone node that is not there yet. A snap's directory is made by the snap.
fn make_node(node: &Node, args: &AgentArgs) -> Result<(), Refusal> {
    let data = node.layout.data().display();
    if !node.is_standalone() {
        let hint = "is MicroK8s installed? Without it, unset SNAP_DATA, or name a directory with --node-dir";
        return Err(Refusal::new(format!("`{data}` holds no node")).with_hint(hint));
    }
    let bind = args
        .bind
        .unwrap_or(SocketAddr::from(([0, 0, 0, 0], AGENT_PORT)));
    let addresses = if bind.ip().is_unspecified() {
        platform::reachable_addresses(&network::interfaces().map_err(Refusal::new)?)
    } else {
        vec![bind.ip()]
    };
    let datastore = if bind.ip().is_unspecified() {
        IpAddr::from([127, 0, 0, 1])
    } else {
        bind.ip()
    };
    let fresh = FreshNode {
        hostname: node.platform.host_name().map_err(Refusal::new)?,
        addresses,
        bind: bind.to_string(),
        datastore: SocketAddr::new(datastore, DATASTORE_PORT),
    };
    tracing::info!("making a node directory in {data}");
    fresh_node::create(&node.layout, &fresh).map_err(|error| {
        Refusal::new(error).with_hint("MICROK8S_NODE_DIR or --node-dir names another directory")
    })?;
    // Who may read it may use the node, and only root and members of the group may give it away.
    let credential = node.layout.credential("client.config");
    if let Some(gid) = node.platform.group().gid {
        let _ = atomic_file::set_access(&credential, 0o640, None, Some(gid));
    }
    Ok(())
}

/// The arguments that MicroK8s keeps for its agent. What its agent does not have is left out, and told:
/// the file may be that of another version, and a node without an agent is of no use.
fn from_file(
    node: &Node,
    typed: AgentArgs,
    left_out: &mut Vec<String>,
) -> Result<AgentArgs, Refusal> {
    let path = node.layout.args("cluster-agent");
    let arguments = node.arguments("cluster-agent").map_err(Refusal::new)?;
    let words = node.command_line(&arguments);
    let words = words.into_iter().map(OsString::from);
    let words = go_flags::read(&cli::subcommand("agent"), words, Unknown::LeftOut);
    left_out.extend(
        words
            .left_out
            .iter()
            .map(|line| format!("`{}`: {line}", path.display())),
    );
    let read: AgentArgs =
        cli::read("agent", words.words).map_err(|error| Refusal::of_file(&path, &error))?;
    Ok(AgentArgs {
        node_dir: typed.node_dir,
        node_name: typed.node_name,
        datastore_demo: typed.datastore_demo,
        socket: typed.socket.or(read.socket),
        retry_window: typed.retry_window.or(read.retry_window),
        log_format: typed.log_format.or(read.log_format),
        max_connections: typed.max_connections.or(read.max_connections),
        callback_from: typed.callback_from.or(read.callback_from),
        token_store: typed.token_store.or(read.token_store),
        capi_dir: typed.capi_dir.or(read.capi_dir),
        launch_configurations_enable: typed
            .launch_configurations_enable
            .or(read.launch_configurations_enable),
        launch_configurations_interval: typed
            .launch_configurations_interval
            .or(read.launch_configurations_interval),
        ..read
    })
}

fn settings(node: &Node, args: AgentArgs) -> Result<Settings, Refusal> {
    let has_tls12 = match args.min_tls_version {
        None | Some(MinTlsVersion::Tls12) => true,
        Some(MinTlsVersion::Tls13) => false,
        Some(MinTlsVersion::Tls10 | MinTlsVersion::Tls11) => {
            return Err(Refusal {
                status: ExitStatus::Usage,
                text: "TLS 1.0 and 1.1 are not secure, and not supported".to_owned(),
                hint: Some("give --min-tls-version tls12 or tls13"),
            });
        }
    };
    Ok(Settings {
        bind: args.bind.unwrap_or_else(|| node.agent_bind()),
        certificate: args
            .certfile
            .unwrap_or_else(|| node.layout.cert("server.crt")),
        key: args
            .keyfile
            .unwrap_or_else(|| node.layout.cert("server.key")),
        socket: node.layout.socket(args.socket.as_deref()),
        timeout: Duration::from_secs(args.timeout.unwrap_or(TIMEOUT).max(1)),
        has_tls12,
        callback_from: args.callback_from.unwrap_or_default(),
        token_store: args.token_store.unwrap_or_default(),
        capi_token: args
            .capi_dir
            .unwrap_or_else(|| PathBuf::from("/capi"))
            .join("etc/token"),
        retry_window: Duration::from_secs(args.retry_window.unwrap_or(RETRY_WINDOW.unsigned_abs())),
        max_connections: args.max_connections.unwrap_or(agent::MAX_CONNECTIONS),
        launch_interval: args
            .launch_configurations_enable
            .unwrap_or(true)
            .then(|| launch_interval(args.launch_configurations_interval)),
        serves_metrics: args.enable_metrics.unwrap_or_default(),
    })
}

/// As in MicroK8s, launch configurations are not looked for more often than every five seconds.
fn launch_interval(given: Option<u64>) -> Duration {
    const LEAST: u64 = 5;
    if given.is_some_and(|seconds| seconds < LEAST) {
        tracing::warn!(
            "launch configurations are looked for every {LEAST} seconds, not more often"
        );
    }
    Duration::from_secs(given.unwrap_or(LEAST).max(LEAST))
}
