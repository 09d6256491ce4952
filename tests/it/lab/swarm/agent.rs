//! A standalone agent on a loopback address of its own: no root, no namespaces, and any number
//! side by side.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use microk8s::base::{env_vars, wait};
use microk8s::client::local::{self, LocalAgent, Probe};
use microk8s::model::endpoint::AGENT_PORT;
use microk8s::model::token::Token;
use microk8s::model::token_terms::{Lifetime, Terms};
use microk8s::store::layout::Layout;
use microk8s::store::token_files::CLUSTER_TOKENS;
use microk8s::wire::local_v1::AddTokenRequest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::super::program::program;
use super::STALL_TIMEOUT;

/// How many tokens are asked for side by side.
const ISSUED_AT_ONCE: usize = 16;

/// How often it is looked whether the agent is there.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How much of the log a test that fails shows.
const SHOWN_LINES: usize = 20;

/// A standalone agent. It is killed, and its node directory goes, when this is dropped.
pub struct StandaloneAgent {
    endpoint: SocketAddr,
    layout: Layout,
    /// Apart from the node directory, whose path may be too long for one of a socket.
    socket: PathBuf,
    process: Option<Child>,
    program: PathBuf,
    arguments: Vec<String>,
    runtime: Runtime,
    node_dir: TempDir,
    _socket_dir: TempDir,
}

impl StandaloneAgent {
    /// Makes a node below `place`, starts its agent and waits until it serves.
    pub fn start(place: &Path) -> Self {
        Self::start_with(place, &[])
    }

    /// [`StandaloneAgent::start`] with further arguments.
    pub fn start_with(place: &Path, arguments: &[&str]) -> Self {
        let mut agent = Self::prepare(place, arguments);
        if !arguments.contains(&"--node-name") {
            agent.take_fresh_node();
        }
        agent.start_again();
        agent
    }

    /// Gives it a copy of a node that is made once a process, since the keys take seconds. Its certificate
    /// names the address of another agent.
    pub fn take_fresh_node(&self) {
        static FRESH: OnceLock<PathBuf> = OnceLock::new();
        let fresh = FRESH.get_or_init(|| {
            let mut agent = Self::prepare(&std::env::temp_dir(), &[]);
            agent.start_again();
            agent.terminate();
            fs::remove_file(agent.log_file()).unwrap();
            // As a lab names its folders, so that a later process removes it.
            let own = format!("microk8s-it-{}", std::process::id());
            let fresh = Path::new(env!("CARGO_TARGET_TMPDIR"))
                .join(own)
                .join("standalone");
            fs::create_dir_all(&fresh).unwrap();
            copy(agent.node_dir(), &fresh);
            fresh
        });
        copy(fresh, self.node_dir());
    }

    /// Gives its node a certificate that names its address, under the node's own authority.
    pub fn certify_address(&self) {
        let names = format!("subjectAltName=IP:{},IP:127.0.0.1", self.endpoint.ip());
        let status = Command::new("openssl")
            .current_dir(self.node_dir().join("current/certs"))
            .args(["req", "-x509", "-CA", "ca.crt", "-CAkey", "ca.key"])
            .args(["-key", "server.key", "-out", "server.crt", "-days", "365"])
            .args(["-subj", "/CN=127.0.0.1", "-addext", &names])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .status();
        assert!(status.unwrap().success());
    }

    /// An agent that has not started yet, and whose node is not made.
    pub fn prepare(place: &Path, arguments: &[&str]) -> Self {
        Self::prepare_by(program(), place, arguments)
    }

    /// [`StandaloneAgent::prepare`] for another build of the program.
    pub fn prepare_by(program: PathBuf, place: &Path, arguments: &[&str]) -> Self {
        let node_dir = tempfile::tempdir_in(place).unwrap();
        let socket_dir = tempfile::tempdir().unwrap();
        let name: &[&str] = match arguments.contains(&"--node-name") {
            true => &[],
            false => &["--node-name", "first"],
        };
        Self {
            endpoint: free_endpoint(),
            layout: Layout::standalone(node_dir.path()),
            socket: socket_dir.path().join("agent.sock"),
            process: None,
            program,
            arguments: name
                .iter()
                .chain(arguments)
                .map(ToString::to_string)
                .collect(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            node_dir,
            _socket_dir: socket_dir,
        }
    }

    /// The node directory.
    pub fn node_dir(&self) -> &Path {
        self.node_dir.path()
    }

    /// The socket of its local API.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its log, from the first start on.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    /// Starts it where it ended, and waits until it serves.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "it runs");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file());
        let mut command = Command::new(&self.program);
        command
            .args(["agent", "--node-dir"])
            .arg(self.node_dir.path())
            .args(["--bind", &self.endpoint.to_string(), "--socket"])
            .arg(&self.socket)
            .args(&self.arguments)
            .env_remove(env_vars::MICROK8S_LOG)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        let mut process = command.spawn().unwrap();
        let ready = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            let ended = process.try_wait().unwrap();
            let ready = matches!(self.probe(), Some(Probe::Ready(_)));
            (ready || ended.is_some()).then_some(ready)
        });
        self.process = Some(process);
        assert_eq!(ready, Some(true), "the agent does not serve");
    }

    /// Kills it the hard way.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Tells it to stop, and waits until it has.
    pub fn terminate(&mut self) {
        let mut process = self.process.take().unwrap();
        let id = Pid::from_raw(process.id().cast_signed());
        kill(id, Signal::SIGTERM).unwrap();
        process.wait().unwrap();
    }

    /// What the kernel says of its process, memory in KiB: `VmHWM`, `RssAnon`, `Threads`, `Pid` and others.
    pub fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(what))
            .unwrap();
        let number = line.trim_start_matches(':').trim_end_matches("kB");
        number.trim().parse().unwrap()
    }

    /// The id of its process.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().unwrap().id().cast_signed()
    }

    /// From now on `VmHWM` is the most that it had since.
    pub fn reset_peak(&self) {
        let process = self.process.as_ref().unwrap().id();
        fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
    }

    /// The program, told to use this agent.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .env("MICROK8S_NODE_DIR", self.node_dir())
            .env("MICROK8S_SOCKET", self.socket());
        command
    }

    /// Where it listens.
    pub fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// The file that stock tools append tokens to.
    pub fn token_file(&self) -> PathBuf {
        self.layout.credential(CLUSTER_TOKENS)
    }

    /// One-time tokens, issued by the agent into its own store.
    pub fn issue(&self, count: usize) -> Vec<String> {
        let Some(Probe::Ready(agent)) = self.probe() else {
            panic!("the agent does not serve");
        };
        let agent = Arc::new(agent);
        let mut tokens = Vec::with_capacity(count);
        self.runtime.block_on(async {
            let mut under_way = JoinSet::new();
            while tokens.len() < count {
                while under_way.len() < ISSUED_AT_ONCE && tokens.len() + under_way.len() < count {
                    under_way.spawn(issue_one(agent.clone()));
                }
                tokens.extend(under_way.join_next().await.map(Result::unwrap));
            }
        });
        tokens
    }

    /// One-time tokens, each issued when the one before is there.
    pub fn issue_one_by_one(&self, count: usize) -> Vec<String> {
        (0..count).flat_map(|_| self.issue(1)).collect()
    }

    /// One-time tokens that stand in MicroK8s's file, a line each, and nowhere else.
    pub fn write_lines(&self, count: usize) -> Vec<String> {
        let tokens = new_tokens(count);
        let mut lines = tokens.join("\n");
        lines.push('\n');
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.token_file())
            .unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        tokens
    }

    fn probe(&self) -> Option<Probe> {
        self.runtime.block_on(local::probe(&self.socket)).ok()
    }

    fn log_file(&self) -> PathBuf {
        self.node_dir.path().join("agent.log")
    }
}

impl Drop for StandaloneAgent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log_file()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let end = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("the end of the agent's log:\n{}", end.join("\n"));
        }
    }
}

/// Copies what a folder holds.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(status.unwrap().success());
}

async fn issue_one(agent: Arc<LocalAgent>) -> String {
    let request = AddTokenRequest {
        token: None,
        terms: Terms::lasting(Lifetime::OneUse),
        all: false,
    };
    let issued = agent.add_token(&request).await.unwrap();
    issued.token.expose().to_owned()
}

/// Tokens as `add-node` makes them, known to nobody.
pub fn new_tokens(count: usize) -> Vec<String> {
    let token = |_| Token::generate().unwrap().expose().to_owned();
    (0..count).map(token).collect()
}

/// An address of the loopback network that no other agent has: picked at random among four
/// million, below those of the joining nodes. The port is MicroK8s's own where nothing on the
/// machine listens to it on every address.
fn free_endpoint() -> SocketAddr {
    let tail = rand::rng().random_range(1..1 << 22);
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 64, 0, 0).to_bits() + tail);
    let listener = match TcpListener::bind((address, AGENT_PORT)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => TcpListener::bind((address, 0)),
        bound => bound,
    };
    listener.unwrap().local_addr().unwrap()
}
