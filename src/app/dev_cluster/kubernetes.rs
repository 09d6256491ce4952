//! A real etcd, and a real API server for each control plane node of a `dev-cluster`.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DevNode, POLL_INTERVAL, STOP_LIMIT, Signals, Trouble};
use crate::base::atomic_file::{self, Access};
use crate::base::secret::Secret;
use crate::base::{env_vars, wait};
use crate::cli::token_file::quoted;
use crate::client::api_server::ApiServer;
use crate::model::endpoint::API_SERVER_PORT;
use crate::platform::command;
use crate::platform::process::ChildProcess;
use crate::store::layout::Layout;

const ETCD_PORT: u16 = 2379;
const ETCD_PEER_PORT: u16 = 2380;
/// What listens at the address of a node.
pub(super) const PORTS: [u16; 3] = [ETCD_PORT, ETCD_PEER_PORT, API_SERVER_PORT];

/// How long an API server may take to serve.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Ends a program with the thread that started it, also when that is killed.
const BOUND: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];

/// The programs that run.
pub(super) struct Kubernetes {
    program: PathBuf,
    place: PathBuf,
    etcd: SocketAddr,
    servers: Vec<ChildProcess>,
    _etcd: ChildProcess,
}

/// The API server's program. Nothing starts where one of the programs is missing.
pub(super) fn find() -> Result<PathBuf, Trouble> {
    for (program, package) in [("etcd", "etcd-server"), (BOUND[0], "util-linux")] {
        if !command::is_on_path(program) {
            return Err(Trouble::missing(
                format!("--kubernetes needs `{program}`, and it is not installed"),
                format!("install it with `apt-get install {package}`"),
            ));
        }
    }
    let variable = env_vars::KUBE_APISERVER;
    let named = env_vars::path(variable);
    let why = match named {
        Some(program) if program.is_file() => return Ok(program),
        Some(program) => format!("{variable} names no file: {}", program.display()),
        None => format!("the variable {variable} is not set"),
    };
    Err(Trouble::missing(
        format!("--kubernetes needs a kube-apiserver: {why}"),
        format!(
            "download kube-apiserver for this machine (https://kubernetes.io/releases/download/), make it executable, and set {variable} to its path"
        ),
    ))
}

impl Kubernetes {
    /// Starts etcd and the API server of the first node.
    pub(super) fn start(
        program: PathBuf,
        place: &Path,
        first: &DevNode,
        signals: &Signals,
    ) -> Result<Self, Trouble> {
        let address = first.address.ip();
        let (client, peer) = (
            SocketAddr::new(address, ETCD_PORT),
            SocketAddr::new(address, ETCD_PEER_PORT),
        );
        let arguments = [
            format!("--data-dir={}", place.join("etcd").display()),
            format!("--listen-client-urls=http://{client}"),
            format!("--advertise-client-urls=http://{client}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster=default=http://{peer}"),
        ];
        let log = place.join("etcd.log");
        let mut kubernetes = Self {
            _etcd: start(Path::new("etcd"), &arguments, &log)?,
            program,
            place: place.to_owned(),
            etcd: client,
            servers: Vec::new(),
        };
        kubernetes.add(first, signals)?;
        Ok(kubernetes)
    }

    /// Starts the API server of a node, and has the node's administrator use that one.
    pub(super) fn add(&mut self, node: &DevNode, signals: &Signals) -> Result<(), Trouble> {
        let layout = Layout::standalone(&node.directory);
        let address = node.address.ip();
        let log = self.place.join(format!("{}-api-server.log", node.name));
        let number = self.servers.len() + 1;
        let arguments = self.arguments(&layout, address, number);
        let mut server = start(&self.program, &arguments, &log)?;
        let kubeconfig = layout.credential("client.config");
        let text = Secret::new(std::fs::read_to_string(&kubeconfig)?);
        let text = Secret::new(text.expose().replace(
            &format!("https://127.0.0.1:{API_SERVER_PORT}"),
            &format!("https://{}", SocketAddr::new(address, API_SERVER_PORT)),
        ));
        let access = Access::Keep { or: 0o600 };
        atomic_file::write(&kubeconfig, text.expose().as_bytes(), access)?;
        let client = client_of(&layout, address)?;
        let ready = wait::until(START_LIMIT, POLL_INTERVAL, || {
            if signals.is_over() {
                return Some(Err(signals.trouble()));
            }
            if let Some(status) = server.ended() {
                let (name, log) = (&node.name, log.display());
                let text = format!("the API server of {name} ended ({status}): see {log}");
                return Some(Err(Trouble::new(text)));
            }
            (client.ask(ANSWER_LIMIT).ok() == Some(200)).then_some(Ok(()))
        });
        let late = || Trouble::new(format!("the API server of {} does not serve", node.name));
        ready.ok_or_else(late)??;
        self.servers.push(server);
        Ok(())
    }

    fn arguments(&self, layout: &Layout, address: IpAddr, number: usize) -> Vec<String> {
        let cert = |name: &str| layout.cert(name).display().to_string();
        let key = cert("serviceaccount.key");
        vec![
            format!("--etcd-servers=http://{}", self.etcd),
            format!("--bind-address={address}"),
            format!("--secure-port={API_SERVER_PORT}"),
            // Kubernetes takes no address of the loopback among the endpoints of a service; these are
            // kept free for examples.
            format!("--advertise-address=192.0.2.{number}"),
            format!("--tls-cert-file={}", cert("server.crt")),
            format!("--tls-private-key-file={}", cert("server.key")),
            format!("--client-ca-file={}", cert("ca.crt")),
            format!("--service-account-key-file={key}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.152.183.0/24".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            format!("--cert-dir={}", self.place.display()),
        ]
    }
}

/// Commands that show the tokens in the API.
pub(super) fn what_to_try(first: &DevNode) -> String {
    let layout = Layout::standalone(&first.directory);
    format!(
        "# The tokens, as Kubernetes has them.\nkubectl --kubeconfig {} -n kube-system get secrets -l app.kubernetes.io/managed-by=microk8s-cluster-agent",
        quoted(&layout.credential("client.config"))
    )
}

fn start(program: &Path, arguments: &[String], log: &Path) -> Result<ChildProcess, Trouble> {
    let program = program.display().to_string();
    let words = BOUND[1..].iter().map(ToString::to_string);
    let words = words.chain([program]).chain(arguments.iter().cloned());
    let errors = atomic_file::new_log(log)?;
    Ok(ChildProcess::start(BOUND[0], words, STOP_LIMIT, errors)?)
}

/// The API server at this address, asked as the administrator of this node.
fn client_of(layout: &Layout, address: IpAddr) -> Result<ApiServer, Trouble> {
    let read = |name| layout.read(&layout.cert(name)).map_err(Trouble::new);
    let (authority, certificate) = (read("ca.crt")?, read("client.crt")?);
    let key = Secret::new(read("client.key")?);
    let host = address.to_string();
    let client = Some((certificate.as_str(), &key));
    ApiServer::new(&host, API_SERVER_PORT, &authority, client).map_err(Trouble::new)
}
