//! `microk8s dev-cluster`: a cluster on this machine's loopback addresses, formed by the same
//! programs and the same code as one of real machines.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::app;
use crate::base::exit_status::ExitStatus;
use crate::base::wait;
use crate::base::{atomic_file, env_vars};
use crate::cli;
use crate::cli::dev_cluster::DevClusterArgs;
use crate::cli::output::{self, Printer};
use crate::client::local::{self, Probe};
use crate::model::endpoint::DATASTORE_PORT;
use crate::platform::datastore_demo;
use crate::platform::process::{self, ChildProcess};
use crate::store::layout::Layout;

/// How long an agent may take to make its node and listen.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How long an agent may take to stop, its datastore included.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How many lines of an agent's log are kept, to be shown when it ends too early.
const KEPT_LINES: usize = 200;

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let args: DevClusterArgs = match cli::read("dev-cluster", arguments) {
        Ok(args) => args,
        Err(error) => return app::refuse_arguments(&error, printer),
    };
    // From the start, so that a signal at any moment leaves no agent and no folder behind.
    let result = Signals::listen()
        .map_err(Trouble::from)
        .and_then(|signals| form(&args, &signals, printer));
    match result {
        Ok(()) => ExitStatus::Success,
        Err(Trouble::Output(lost)) => lost.status(),
        Err(Trouble::Failed { text, hint }) => {
            output::error(printer, &text, hint.as_deref());
            ExitStatus::Failure
        }
    }
}

/// Why no cluster formed.
enum Trouble {
    Output(output::OutputLost),
    Failed { text: String, hint: Option<String> },
}

impl Trouble {
    fn new(text: impl ToString) -> Self {
        Self::Failed {
            text: text.to_string(),
            hint: None,
        }
    }
}

impl From<output::OutputLost> for Trouble {
    fn from(lost: output::OutputLost) -> Self {
        Self::Output(lost)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}

/// The signals that ask this program to end. They are noted while it works, so that it ends in
/// order: agents, then their folder.
struct Signals {
    received: watch::Receiver<Option<&'static str>>,
    /// What waits for them.
    _runtime: Runtime,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (note, received) = watch::channel(None);
        let context = runtime.enter();
        for (kind, name) in [
            (SignalKind::interrupt(), "SIGINT"),
            (SignalKind::terminate(), "SIGTERM"),
            (SignalKind::hangup(), "SIGHUP"),
        ] {
            let (mut arrival, note) = (signal(kind)?, note.clone());
            runtime.spawn(async move {
                if arrival.recv().await.is_some() {
                    note.send_replace(Some(name));
                }
            });
        }
        drop(context);
        Ok(Self {
            received,
            _runtime: runtime,
        })
    }

    fn is_over(&self) -> bool {
        self.received.borrow().is_some()
    }

    /// Why work stops that a signal interrupted.
    fn trouble(&self) -> Trouble {
        let name = self.received.borrow().unwrap_or("a signal");
        Trouble::new(format!("{name} came before the cluster had formed"))
    }

    fn wait(&self) -> io::Result<()> {
        let mut received = self.received.clone();
        app::block_on(async {
            // An error means that the sender is gone: no signal can be noted any more.
            let _ = received.wait_for(Option::is_some).await;
        })
    }
}

/// One node of the cluster: an agent with a directory and an address of its own.
struct DevNode {
    name: String,
    address: IpAddr,
    directory: PathBuf,
    agent: ChildProcess,
    log: Arc<Mutex<VecDeque<String>>>,
}

fn form(
    args: &DevClusterArgs,
    signals: &Signals,
    printer: &mut dyn Printer,
) -> Result<(), Trouble> {
    let with_datastore = args.control_planes > 1;
    if with_datastore && !datastore_demo::is_installed() {
        let package = datastore_demo::PACKAGE;
        return Err(Trouble::Failed {
            text: format!(
                "several control plane nodes need a datastore, and Debian's package `{package}` is not installed"
            ),
            hint: Some(format!("install it with `apt-get install {package}`")),
        });
    }
    let this_program = std::env::current_exe()?;
    let place = atomic_file::temporary_folder(&std::env::temp_dir(), "microk8s-dev-")?;
    let count = args.control_planes + args.workers;
    printer.out(&format!(
        "Starting {count} agents below {}\n",
        place.path().display()
    ))?;
    // All of them make their keys at once; then each is waited for.
    let mut nodes = (1..=count)
        .map(|number| {
            start(
                &this_program,
                place.path(),
                number,
                args.port,
                with_datastore,
            )
        })
        .collect::<Result<Vec<_>, _>>()?;
    for node in &mut nodes {
        wait_until_ready(node, signals)?;
        printer.out(&format!(
            "{} listens on {}\n",
            node.name,
            SocketAddr::new(node.address, args.port)
        ))?;
    }
    let (first, others) = nodes
        .split_first()
        .ok_or_else(|| Trouble::new("there is no node"))?;
    for (number, node) in (2u8..).zip(others) {
        let role = if number <= args.control_planes {
            None
        } else {
            Some("--worker")
        };
        join(&this_program, first, node, role, signals, printer)?;
    }
    printer.out("\nThe cluster has formed.\n")?;
    run_and_show(&this_program, first, &["nodes"], signals, printer)?;
    if with_datastore {
        show_datastore(first, signals, printer)?;
    }
    if args.once {
        return Ok(());
    }
    printer.out(&format!(
        "\nIt runs until Ctrl-C. Another terminal can use it:\n    {}={} {} add-node\n",
        env_vars::MICROK8S_NODE_DIR,
        first.directory.display(),
        this_program.display()
    ))?;
    signals.wait()?;
    printer.out("\nStopping.\n")?;
    Ok(())
}

fn start(
    program: &Path,
    place: &Path,
    number: u8,
    port: u16,
    with_datastore: bool,
) -> Result<DevNode, Trouble> {
    let name = format!("n{number}");
    let address = IpAddr::from([127, 0, 0, number]);
    let directory = place.join(&name);
    let mut arguments: Vec<OsString> = vec![
        "agent".into(),
        "--node-dir".into(),
        directory.clone().into(),
        "--node-name".into(),
        name.clone().into(),
        "--bind".into(),
        SocketAddr::new(address, port).to_string().into(),
    ];
    if with_datastore {
        arguments.push("--datastore-demo".into());
    }
    let log = Arc::new(Mutex::new(VecDeque::new()));
    let kept = log.clone();
    let agent = ChildProcess::start(program, arguments, STOP_LIMIT, move |line| {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line.to_owned());
    })?;
    Ok(DevNode {
        name,
        address,
        directory,
        agent,
        log,
    })
}

/// An agent is ready when its socket answers.
fn wait_until_ready(node: &mut DevNode, signals: &Signals) -> Result<(), Trouble> {
    let socket = Layout::standalone(&node.directory).socket(None);
    let ready_or_over = || {
        if signals.is_over() {
            return Some(Err(signals.trouble()));
        }
        let probed = app::block_on(local::probe(&socket));
        let ready = matches!(probed, Ok(Ok(Probe::Ready(_))));
        ready
            .then_some(Ok(None))
            .or_else(|| node.agent.ended().map(|status| Ok(Some(status))))
    };
    let name = &node.name;
    match wait::until(START_LIMIT, Duration::from_millis(20), ready_or_over) {
        Some(Err(trouble)) => Err(trouble),
        Some(Ok(None)) => Ok(()),
        Some(Ok(Some(status))) => {
            let log = node
                .log
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .make_contiguous()
                .join("\n");
            Err(Trouble::new(format!(
                "the agent of {name} ended ({status}); it said:\n{log}"
            )))
        }
        None => {
            let seconds = START_LIMIT.as_secs();
            Err(Trouble::new(format!(
                "the agent of {name} was not ready within {seconds} seconds"
            )))
        }
    }
}

/// A token from the first node, and a join with the command that it printed.
fn join(
    program: &Path,
    first: &DevNode,
    node: &DevNode,
    role: Option<&str>,
    signals: &Signals,
    printer: &mut dyn Printer,
) -> Result<(), Trouble> {
    let printed = run_and_show(
        program,
        first,
        &["add-node", "--format", "short"],
        signals,
        printer,
    )?;
    let mut words: Vec<&str> = printed
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .collect();
    words.extend(role);
    run_and_show(program, node, &words, signals, printer)?;
    Ok(())
}

/// Runs a command on a node, and shows what is run and what comes back.
fn run_and_show(
    program: &Path,
    node: &DevNode,
    arguments: &[&str],
    signals: &Signals,
    printer: &mut dyn Printer,
) -> Result<String, Trouble> {
    printer.out(&format!(
        "\n{}$ microk8s {}\n",
        node.name,
        arguments.join(" ")
    ))?;
    let finished = process::run_to_end(
        program,
        arguments,
        &[(env_vars::MICROK8S_NODE_DIR, &node.directory)],
        || signals.is_over(),
    )?
    .ok_or_else(|| signals.trouble())?;
    printer.out(&finished.output)?;
    finished.errors.lines().for_each(|line| printer.err(line));
    if finished.code != Some(0) {
        let name = arguments.first().copied().unwrap_or_default();
        return Err(Trouble::new(format!(
            "`microk8s {name}` failed on {}",
            node.name
        )));
    }
    Ok(finished.output)
}

/// The datastore's own list of its members.
fn show_datastore(
    first: &DevNode,
    signals: &Signals,
    printer: &mut dyn Printer,
) -> Result<(), Trouble> {
    let server = SocketAddr::new(first.address, DATASTORE_PORT).to_string();
    let arguments = ["-s", &server, "k8s", ".cluster"];
    printer.out(&format!("\n$ dqlite {}\n", arguments.join(" ")))?;
    let finished = process::run_to_end("dqlite", arguments, &[], || signals.is_over())?
        .ok_or_else(|| signals.trouble())?;
    printer.out(&finished.output)?;
    if finished.code == Some(0) {
        Ok(())
    } else {
        Err(Trouble::new(finished.errors.trim()))
    }
}
