//! A cluster's API on the loopback: real API servers on a real etcd, one for each agent, and the agents
//! of control planes of one cluster, which keep their tokens there. Needs neither root nor namespaces.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::{Daemon, Programs};
use super::swarm::agent::StandaloneAgent;
use super::wire::Wire;
use super::{scratch, skip};

/// The kubeconfig that a standalone node is made with leads here.
const FRESH_SERVER: &str = "https://127.0.0.1:16443";
/// Everything that the API servers are asked, bodies included, so that a test can search it.
const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: RequestResponse}]\n";

/// The APIs that the agents and the tests use. A server of all of them takes twice the time to start.
const APIS: &str = "api/all=false,api/v1=true,apiextensions.k8s.io/v1=true,\
    apiregistration.k8s.io/v1=true,authentication.k8s.io/v1=true,authorization.k8s.io/v1=true,\
    coordination.k8s.io/v1=true,rbac.authorization.k8s.io/v1=true";
/// What would need the others.
const WITHOUT: [&str; 2] = [
    "--feature-gates=APIPriorityAndFairness=false",
    "--disable-admission-plugins=CertificateApproval,CertificateSigning,\
    CertificateSubjectRestriction,DefaultIngressClass,DefaultStorageClass,\
    MutatingAdmissionWebhook,PersistentVolumeClaimResize,Priority,RuntimeClass,\
    ValidatingAdmissionWebhook",
];

/// The cluster. Everything ends when it is dropped.
pub struct SharedApi {
    pub control_planes: Vec<ControlPlane>,
    /// Further arguments of API servers that are started from now on.
    pub api_arguments: Vec<&'static str>,
    programs: Programs,
    address: IpAddr,
    etcds: Vec<Etcd>,
    place: TempDir,
}

/// A control plane: its agent, its API server, and the wire from one to the other.
pub struct ControlPlane {
    pub agent: StandaloneAgent,
    pub wire: Wire,
    api: SocketAddr,
    server: Option<Daemon>,
}

struct Etcd {
    client: SocketAddr,
    peer: SocketAddr,
    daemon: Option<Daemon>,
}

impl SharedApi {
    /// So many control planes on an etcd of so many members, or a word why they cannot be had.
    pub fn start(control_planes: usize, members: usize, arguments: &[&str]) -> Option<Self> {
        let programs = match Programs::find() {
            Ok(programs) => programs,
            Err(reason) => {
                skip(&reason);
                return None;
            }
        };
        let arguments = [&["--token-store", "cluster"], arguments].concat();
        let place = tempfile::tempdir_in(scratch()).unwrap();
        fs::write(place.path().join("audit.yaml"), AUDIT_POLICY).unwrap();
        let first = StandaloneAgent::prepare(place.path(), &arguments);
        let address = first.endpoint().ip();
        first.take_fresh_node();
        first.certify_address();
        let mut cluster = Self {
            control_planes: Vec::new(),
            api_arguments: Vec::new(),
            programs,
            address,
            etcds: (0..members).map(|_| Etcd::new(address)).collect(),
            place,
        };
        for number in 0..members {
            cluster.start_etcd(number);
        }
        cluster.wait_for_etcd();
        let mut agents = vec![first];
        for _ in 1..control_planes {
            let agent = StandaloneAgent::prepare(cluster.place.path(), &arguments);
            copy(agents[0].node_dir(), agent.node_dir());
            agents.push(agent);
        }
        for agent in agents {
            cluster.add(agent);
        }
        let servers = 0..control_planes;
        servers.for_each(|number| cluster.wait_for_api(number));
        for plane in &mut cluster.control_planes {
            plane.agent.start_again();
        }
        Some(cluster)
    }

    fn add(&mut self, agent: StandaloneAgent) {
        let api = free_port(self.address);
        let wire = Wire::new(self.address, api);
        let kubeconfig = agent.node_dir().join("current/credentials/client.config");
        let text = fs::read_to_string(&kubeconfig).unwrap();
        assert!(text.contains(FRESH_SERVER), "{text}");
        let text = text.replace(FRESH_SERVER, &format!("https://{}", wire.address()));
        fs::write(&kubeconfig, text).unwrap();
        self.control_planes.push(ControlPlane {
            agent,
            wire,
            api,
            server: None,
        });
        self.spawn_api(self.control_planes.len() - 1);
    }

    /// Where the agents listen.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        let agents = self.control_planes.iter();
        agents.map(|plane| plane.agent.endpoint()).collect()
    }

    /// Starts the API server of a control plane, and waits until it serves.
    pub fn start_api(&mut self, number: usize) {
        self.spawn_api(number);
        self.wait_for_api(number);
    }

    /// Kills the API server of a control plane.
    pub fn stop_api(&mut self, number: usize) {
        self.control_planes[number].server = None;
    }

    fn spawn_api(&mut self, number: usize) {
        let plane = &self.control_planes[number];
        let certs = self.control_planes[0]
            .agent
            .node_dir()
            .join("current/certs");
        let cert = |name: &str| certs.join(name).display().to_string();
        let here = |name: &str| self.place.path().join(name).display().to_string();
        let etcds: Vec<String> = self.etcds.iter().map(|etcd| url(etcd.client)).collect();
        let mut command = Command::new(&self.programs.api_server);
        command.args([
            format!("--etcd-servers={}", etcds.join(",")),
            format!("--bind-address={}", plane.api.ip()),
            format!("--secure-port={}", plane.api.port()),
            // No address of the loopback may stand among the endpoints of a service.
            format!("--advertise-address=192.0.2.{}", number + 1),
            format!("--tls-cert-file={}", cert("server.crt")),
            format!("--tls-private-key-file={}", cert("server.key")),
            format!("--client-ca-file={}", cert("ca.crt")),
            format!("--service-account-key-file={}", cert("serviceaccount.key")),
            format!(
                "--service-account-signing-key-file={}",
                cert("serviceaccount.key")
            ),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.152.183.0/24".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            format!("--cert-dir={}", here("certs")),
            format!("--audit-policy-file={}", here("audit.yaml")),
            format!("--audit-log-path={}", here(&format!("audit-{number}.log"))),
            format!("--runtime-config={APIS}"),
        ]);
        command.args(WITHOUT);
        command.args(&self.api_arguments);
        let log = self.place.path().join(format!("api-{number}.log"));
        let server = Daemon::spawn(&mut command, log);
        self.control_planes[number].server = Some(server);
    }

    fn wait_for_api(&mut self, number: usize) {
        let plane = &mut self.control_planes[number];
        let ready = format!("https://{}/readyz", plane.api);
        let server = plane.server.as_mut().unwrap();
        server.wait_until(|| answers(&ready));
    }

    /// Starts a member of etcd.
    pub fn start_etcd(&mut self, number: usize) {
        let etcd = &self.etcds[number];
        let all = self.etcds.iter().enumerate();
        let all: Vec<String> = all
            .map(|(number, etcd)| format!("m{number}={}", url(etcd.peer)))
            .collect();
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{number}"), "--data-dir"])
            .arg(self.place.path().join(format!("etcd-{number}")))
            .args(["--listen-client-urls", &url(etcd.client)])
            .args(["--advertise-client-urls", &url(etcd.client)])
            .args(["--listen-peer-urls", &url(etcd.peer)])
            .args(["--initial-advertise-peer-urls", &url(etcd.peer)])
            .args(["--initial-cluster", &all.join(",")]);
        let log = self.place.path().join(format!("etcd-{number}.log"));
        self.etcds[number].daemon = Some(Daemon::spawn(&mut command, log));
    }

    /// Kills a member of etcd.
    pub fn stop_etcd(&mut self, number: usize) {
        self.etcds[number].daemon = None;
    }

    /// Waits until etcd serves.
    pub fn wait_for_etcd(&mut self) {
        for etcd in &mut self.etcds {
            let health = format!("{}/health", url(etcd.client));
            if let Some(daemon) = &mut etcd.daemon {
                daemon.wait_until(|| answers(&health));
            }
        }
    }

    /// Runs kubectl as the cluster's administrator, past the wire; gives what it prints.
    pub fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let output = self.try_kubectl(arguments, input);
        output.unwrap_or_else(|errors| panic!("kubectl {arguments:?}: {errors}"))
    }

    /// The same, with what kubectl complains of where it fails.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let file = self.place.path().join("kubectl-input");
        fs::write(&file, input).unwrap();
        let output = Command::new(&self.programs.kubectl)
            .arg("--kubeconfig")
            .arg(self.kubeconfig(0))
            .arg(format!("--server=https://{}", self.api(0)))
            .arg(format!(
                "--cache-dir={}",
                self.place.path().join("kubectl").display()
            ))
            .args(arguments)
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        match output.status.success() {
            true => Ok(text(output.stdout)),
            false => Err(text(output.stderr)),
        }
    }

    /// The Secrets of tokens.
    pub fn secrets(&self) -> Vec<Value> {
        let label = "app.kubernetes.io/managed-by=microk8s-cluster-agent";
        let arguments = [
            "-n",
            "kube-system",
            "get",
            "secrets",
            "-o",
            "json",
            "-l",
            label,
        ];
        let list: Value = serde_json::from_str(&self.kubectl(&arguments, "")).unwrap();
        list["items"].as_array().unwrap().clone()
    }

    /// The token of an account in kube-system.
    pub fn token_of(&self, account: &str) -> String {
        let path = format!("/api/v1/namespaces/kube-system/serviceaccounts/{account}/token");
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let words = ["create", "--raw", &path, "-f", "-"];
        let answer = self.kubectl(&words, &request.to_string());
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// The account with the role of the package, and its token.
    pub fn create_account(&self) -> String {
        let role = include_str!("../../../packaging/token-store-role.yaml");
        self.kubectl(&["apply", "-f", "-"], role);
        self.token_of("microk8s-cluster-agent")
    }

    /// Where the API server of a control plane listens.
    pub fn api(&self, number: usize) -> SocketAddr {
        self.control_planes[number].api
    }

    /// How many requests with this verb the first API server was asked, and has answered, for which
    /// this holds.
    fn answered(&self, verb: &str, holds: impl Fn(&Value) -> bool) -> usize {
        let log = fs::read_to_string(self.place().join("audit-0.log")).unwrap();
        let verb = format!("\"verb\":\"{verb}\"");
        // The last line may not be whole yet.
        let lines = log
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n') && line.contains(&verb));
        lines
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| event["stage"] == "ResponseComplete" && holds(event))
            .count()
    }

    /// How often it gave a token's Secret, and how often it changed one.
    pub fn requests(&self) -> (usize, usize) {
        let is_of_token = |event: &Value| {
            let name = event["objectRef"]["name"].as_str();
            let is_token = name.is_some_and(|name| name.starts_with("microk8s-join-token-"));
            is_token && event["responseStatus"]["code"] == 200
        };
        (
            self.answered("get", is_of_token),
            self.answered("update", is_of_token),
        )
    }

    /// How often it was asked for all tokens.
    pub fn lists(&self) -> usize {
        self.answered("list", |event| {
            let uri = event["requestURI"].as_str().unwrap();
            uri.contains("join-token") && uri.contains("limit=500")
        })
    }

    /// The kubeconfig that a control plane's agent uses.
    pub fn kubeconfig(&self, number: usize) -> PathBuf {
        let node = self.control_planes[number].agent.node_dir();
        node.join("current/credentials/client.config")
    }

    /// Where everything that the programs write lies: etcd's data, logs, and node directories.
    pub fn place(&self) -> &Path {
        self.place.path()
    }
}

impl Etcd {
    fn new(address: IpAddr) -> Self {
        Self {
            client: free_port(address),
            peer: free_port(address),
            daemon: None,
        }
    }
}

fn free_port(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    listener.local_addr().unwrap()
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn answers(url: &str) -> bool {
    let status = Command::new("curl")
        .args(["-fsk", "--max-time", "5", url])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .status();
    assert!(status.unwrap().success());
}
