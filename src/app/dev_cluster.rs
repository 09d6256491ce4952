//! `microk8s dev-cluster`: a cluster on this machine's loopback addresses, formed by the same
//! programs and the same code as one of real machines.

mod kubernetes;

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::app::{self, Ended};
use crate::base::exit_status::ExitStatus;
use crate::base::{atomic_file, env_vars, runtime, wait};
use crate::cli::dev_cluster::DevClusterArgs;
use crate::cli::output::{self, Printer};
use crate::cli::token_file::quoted;
use crate::client::local::{self, Probe};
use crate::model::endpoint::{AGENT_PORT, DATASTORE_PORT};
use crate::platform::command::Finished;
use crate::platform::datastore_demo;
use crate::platform::process::{self, ChildProcess};
use crate::store::layout::Layout;

use kubernetes::Kubernetes;

/// How long an agent may take to make its node and listen.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How long an agent may take to stop, its datastore included.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How often it is seen whether agents are ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// After how long without a line those are named that are not ready.
const SIGN_INTERVAL: Duration = Duration::from_secs(3);

pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let args: DevClusterArgs = app::read_arguments("dev-cluster", arguments, printer)?;
    // From the start, so that a signal at any moment leaves no agent and no folder behind.
    let formed = Demo::new(printer).and_then(|mut demo| demo.form(&args));
    match formed {
        Ok(()) => Ok(ExitStatus::Success),
        Err(Trouble::Output(lost)) => Err(lost.status()),
        Err(Trouble::Failed { text, hint }) => Err(output::fail(printer, text, hint.as_deref())),
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

    fn missing(text: String, hint: String) -> Self {
        Self::Failed {
            text,
            hint: Some(hint),
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
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let (note, received) = watch::channel(None);
        runtime::block_on(async {
            for (kind, name) in [
                (SignalKind::interrupt(), "SIGINT"),
                (SignalKind::terminate(), "SIGTERM"),
                (SignalKind::hangup(), "SIGHUP"),
            ] {
                let (mut arrival, note) = (signal(kind)?, note.clone());
                tokio::spawn(async move {
                    if arrival.recv().await.is_some() {
                        note.send_replace(Some(name));
                    }
                });
            }
            Ok(Self { received })
        })?
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
        runtime::block_on(async {
            // An error means that the sender is gone: no signal can be noted any more.
            let _ = received.wait_for(Option::is_some).await;
        })
    }
}

/// One node: an agent with a directory, an address and a log of its own.
struct DevNode {
    name: String,
    address: SocketAddr,
    directory: PathBuf,
    agent: ChildProcess,
    log: PathBuf,
}

impl DevNode {
    /// A command on this node, to be typed in any directory.
    fn command(&self, program: &Path, arguments: &str) -> String {
        format!(
            "{}={} {} {arguments}",
            env_vars::MICROK8S_NODE_DIR,
            quoted(&self.directory),
            quoted(program)
        )
    }

    /// Whether its socket answers; an error when the agent has ended.
    fn is_ready(&mut self) -> Result<bool, Trouble> {
        let socket = Layout::standalone(&self.directory).socket(None);
        if matches!(
            runtime::block_on(local::probe(&socket)),
            Ok(Ok(Probe::Ready(_)))
        ) {
            return Ok(true);
        }
        match self.agent.ended() {
            None => Ok(false),
            Some(status) => {
                let (name, log) = (&self.name, std::fs::read_to_string(&self.log)?);
                Err(Trouble::new(format!(
                    "the agent of {name} ended ({status}); it said:\n{}",
                    log.trim_end()
                )))
            }
        }
    }
}

/// The program, the signals that end it, and where it prints.
struct Demo<'a> {
    program: PathBuf,
    signals: Signals,
    printer: &'a mut dyn Printer,
}

impl<'a> Demo<'a> {
    fn new(printer: &'a mut dyn Printer) -> Result<Self, Trouble> {
        Ok(Self {
            signals: Signals::listen()?,
            program: std::env::current_exe()?,
            printer,
        })
    }

    fn form(&mut self, args: &DevClusterArgs) -> Result<(), Trouble> {
        let with_datastore = args.control_planes > 1;
        if with_datastore && !datastore_demo::is_installed() {
            let package = datastore_demo::PACKAGE;
            return Err(Trouble::missing(
                format!(
                    "several control plane nodes need a datastore, and Debian's package `{package}` is not installed"
                ),
                format!("install it with `apt-get install {package}`"),
            ));
        }
        let api_server = args.kubernetes.then(kubernetes::find).transpose()?;
        let members = usize::from(args.control_planes + args.workers);
        // One node more than the cluster has, for its user to try a join with.
        let count = if args.once { members } else { members + 1 };
        let addresses = free_addresses(count, args)?;
        let place = atomic_file::temporary_folder(&std::env::temp_dir(), "microk8s-dev-")?;
        self.printer.out(&format!(
            "Starting {count} agents below {}\n",
            place.path().display()
        ))?;
        // All of them make their keys at once; then each is waited for.
        let mut nodes = (1..)
            .zip(addresses)
            .map(|(number, address)| {
                let mut further = Vec::new();
                if with_datastore {
                    further.push("--datastore-demo");
                }
                if args.kubernetes && number <= usize::from(args.control_planes) {
                    further.extend(["--token-store", "cluster"]);
                }
                self.start(place.path(), number, address, &further)
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.wait_until_ready(&mut nodes)?;
        let (members, free) = nodes.split_at(members);
        let (first, others) = members
            .split_first()
            .ok_or_else(|| Trouble::new("there is no node"))?;
        let mut kubernetes = api_server
            .map(|program| Kubernetes::start(program, place.path(), first, &self.signals))
            .transpose()?;
        for (number, node) in (2u8..).zip(others) {
            let role = if number <= args.control_planes {
                None
            } else {
                Some("--worker")
            };
            self.join(first, node, role)?;
            if let (Some(kubernetes), None) = (&mut kubernetes, role) {
                kubernetes.add(node, &self.signals)?;
            }
        }
        self.printer.out("\nThe cluster has formed.\n")?;
        self.run_and_show(first, &["nodes"])?;
        if with_datastore {
            self.show_datastore(first)?;
        }
        let [free] = free else {
            return Ok(());
        };
        self.show_what_to_try(members, free)?;
        if kubernetes.is_some() {
            self.printer
                .out(&format!("\n{}\n", kubernetes::what_to_try(first)))?;
        }
        self.signals.wait()?;
        self.printer.out("\nStopping.\n")?;
        Ok(())
    }

    fn start(
        &self,
        place: &Path,
        number: usize,
        address: SocketAddr,
        further: &[&str],
    ) -> Result<DevNode, Trouble> {
        let name = format!("n{number}");
        let directory = place.join(&name);
        let log = place.join(format!("{name}.log"));
        let mut arguments: Vec<OsString> = vec![
            "agent".into(),
            "--node-dir".into(),
            directory.clone().into(),
            "--node-name".into(),
            name.clone().into(),
            "--bind".into(),
            address.to_string().into(),
            "--parent".into(),
            std::process::id().to_string().into(),
        ];
        arguments.extend(further.iter().map(OsString::from));
        let errors = atomic_file::new_log(&log)?;
        let agent = ChildProcess::start(&self.program, arguments, STOP_LIMIT, errors)?;
        Ok(DevNode {
            name,
            address,
            directory,
            agent,
            log,
        })
    }

    /// Names each agent when it is ready, and now and then those that are not.
    fn wait_until_ready(&mut self, nodes: &mut [DevNode]) -> Result<(), Trouble> {
        let start = Instant::now();
        let mut waiting: Vec<&mut DevNode> = nodes.iter_mut().collect();
        while !waiting.is_empty() {
            let next = wait::until(SIGN_INTERVAL, POLL_INTERVAL, || {
                if self.signals.is_over() {
                    return Some(Err(self.signals.trouble()));
                }
                let mut nodes = waiting.iter_mut().enumerate();
                nodes.find_map(|(index, node)| match node.is_ready() {
                    Ok(is_ready) => is_ready.then_some(Ok(index)),
                    Err(trouble) => Some(Err(trouble)),
                })
            });
            let names: Vec<&str> = waiting.iter().map(|node| node.name.as_str()).collect();
            let (names, seconds) = (names.join(", "), start.elapsed().as_secs());
            match next {
                Some(ready) => {
                    let node = waiting.remove(ready?);
                    self.printer
                        .out(&format!("{} listens on {}\n", node.name, node.address))?;
                }
                None if start.elapsed() > START_LIMIT => {
                    return Err(Trouble::new(format!(
                        "the agents of {names} were not ready within {seconds} seconds"
                    )));
                }
                None => self
                    .printer
                    .out(&format!("still generating keys: {names} ({seconds} s)\n"))?,
            }
        }
        Ok(())
    }

    /// Commands for the node that is not in a cluster yet. Each can be pasted as it stands.
    fn show_what_to_try(&mut self, members: &[DevNode], free: &DevNode) -> Result<(), Trouble> {
        let Some(first) = members.first() else {
            return Ok(());
        };
        let issue = [
            "add-node", "--format", "short", "--role", "worker", "--uses", "2",
        ];
        let issued = self.run_on(first, &issue)?;
        let line = issued.output.lines().next().unwrap_or_default();
        let join = line.strip_prefix("microk8s ").unwrap_or(line);
        let name = &free.name;
        self.printer.out(&format!(
            "\nIt runs until Ctrl-C. {name} is not in a cluster yet: try these in another terminal, one after \
             the other.\n"
        ))?;
        for (what, command) in [
            (
                "A join that fails: the hint says why. The token can still be used.",
                free.command(&self.program, join),
            ),
            (
                "The same token again, as the hint says.",
                free.command(&self.program, &format!("{join} --worker")),
            ),
            (
                "The nodes of the cluster.",
                first.command(&self.program, "nodes"),
            ),
            (
                "The node leaves the cluster, and keeps nothing of it.",
                free.command(&self.program, "leave"),
            ),
            (
                "It joins again: the token is good for two nodes.",
                free.command(&self.program, &format!("{join} --worker")),
            ),
        ] {
            self.printer.out(&format!("\n# {what}\n{command}\n"))?;
        }
        self.printer.out("\nThe logs of the agents:\n")?;
        for node in members.iter().chain([free]) {
            self.printer.out(&format!("    {}\n", node.log.display()))?;
        }
        Ok(())
    }

    /// A token from the first node, and a join with the command that it printed.
    fn join(&mut self, first: &DevNode, node: &DevNode, role: Option<&str>) -> Result<(), Trouble> {
        let printed = self.run_and_show(first, &["add-node", "--format", "short"])?;
        let mut words: Vec<&str> = printed
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .collect();
        words.extend(role);
        self.run_and_show(node, &words)?;
        Ok(())
    }

    /// Runs a command on a node, and shows what is run and what comes back.
    fn run_and_show(&mut self, node: &DevNode, arguments: &[&str]) -> Result<String, Trouble> {
        self.printer.out(&format!(
            "\n{}$ microk8s {}\n",
            node.name,
            arguments.join(" ")
        ))?;
        let finished = self.run_on(node, arguments)?;
        self.printer.out(&finished.output)?;
        finished
            .errors
            .lines()
            .for_each(|line| self.printer.err(line));
        Ok(finished.output)
    }

    /// Runs a command on a node; an error when it fails.
    fn run_on(&self, node: &DevNode, arguments: &[&str]) -> Result<Finished, Trouble> {
        let directory = &[(env_vars::MICROK8S_NODE_DIR, node.directory.as_path())];
        let finished = self.run_to_end(&self.program, arguments, directory)?;
        if finished.status.success() {
            return Ok(finished);
        }
        let command = arguments.first().copied().unwrap_or_default();
        Err(Trouble::new(format!(
            "`microk8s {command}` failed on {}:\n{}{}",
            node.name,
            finished.output,
            finished.errors.trim_end()
        )))
    }

    /// Runs a program until it ends, or a signal asks this one to end.
    fn run_to_end(
        &self,
        program: &Path,
        arguments: &[&str],
        variables: &[(&str, &Path)],
    ) -> Result<Finished, Trouble> {
        process::run_to_end(program, arguments, variables, || self.signals.is_over())?
            .ok_or_else(|| self.signals.trouble())
    }

    /// The datastore's own list of its members.
    fn show_datastore(&mut self, first: &DevNode) -> Result<(), Trouble> {
        let server = SocketAddr::new(first.address.ip(), DATASTORE_PORT).to_string();
        let arguments = ["-s", &server, "k8s", ".cluster"];
        self.printer
            .out(&format!("\n$ dqlite {}\n", arguments.join(" ")))?;
        let finished = self.run_to_end(Path::new("dqlite"), &arguments, &[])?;
        self.printer.out(&finished.output)?;
        if finished.status.success() {
            Ok(())
        } else {
            Err(Trouble::new(finished.errors.trim()))
        }
    }
}

/// The addresses of so many agents: of the loopback, with the same port, which is another than the
/// usual one where a program listens on it on all addresses, as the agent of MicroK8s does.
fn free_addresses(count: usize, args: &DevClusterArgs) -> Result<Vec<SocketAddr>, Trouble> {
    let mut others = Vec::new();
    if args.control_planes > 1 {
        others.push(DATASTORE_PORT);
    }
    if args.kubernetes {
        others.extend(kubernetes::PORTS);
    }
    let ports = match args.port {
        Some(port) => port..=port,
        None => AGENT_PORT..=AGENT_PORT + 99,
    };
    let is_free = |address: SocketAddr| {
        let can_bind = |port| TcpListener::bind((address.ip(), port)).is_ok();
        can_bind(address.port()) && others.iter().copied().all(can_bind)
    };
    ports
        .flat_map(|port| (0..=255).map(move |network| (port, network)))
        .find_map(|(port, network)| {
            (1..=u8::try_from(count).ok()?)
                .map(|number| SocketAddr::from(([127, 0, network, number], port)))
                .map(|address| is_free(address).then_some(address))
                .collect()
        })
        .ok_or_else(|| {
            Trouble::missing(
                format!("no {count} loopback addresses with a free port were found"),
                "name a port on which no program listens, with --port".to_owned(),
            )
        })
}
