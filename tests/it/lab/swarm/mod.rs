//! A swarm: many nodes that join one agent at once, to see that it holds and how fast it is.
//!
//! It speaks MicroK8s's wire protocol and nothing else, so it drives Canonical's agent as well as
//! ours. Each node has a host name, a connection and, where the agent listens on the loopback, an
//! address of its own. `benches/all` uses it too.

pub mod agent;
pub mod connection;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use microk8s::client::pinned_tls::{self, Identity};
use microk8s::model::role::Role;
use microk8s::pki::csr;
use microk8s::pki::key::{Bits, PrivateKey};
use microk8s::pki::name::{AltName, Subject};
use microk8s::wire::routes;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use self::connection::Connection;

/// How long anything may take before a test gives up, or takes it for not answered. Nothing waits for
/// this long in a run where all is well, however busy the machine.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// The nodes' addresses begin here; agents have theirs below. Half of the loopback network is
/// eight million addresses.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 128, 0, 1);

/// How many TLS handshakes are under way when connections are made ahead of the requests.
const HANDSHAKES_AT_ONCE: usize = 64;

/// A node that wants to join.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// Its host name.
    pub name: String,
    /// What it wants to be.
    pub role: Role,
    /// Where it connects from.
    pub address: Option<IpAddr>,
    /// A worker's request for its kubelet's certificate, PEM. Made ahead, because its signature
    /// costs as much as one of the agent's.
    kubelet_request: String,
}

/// A node with the token that it presents.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who.
    pub node: Newcomer,
    /// With what.
    pub token: String,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The node has all that one of its role needs: a worker its certificates too.
    Admitted,
    /// The agent said no.
    Refused {
        /// To what.
        step: Step,
        /// The HTTP status.
        status: u16,
        /// The reason that our agent gives, the error's text where there is none.
        reason: String,
    },
    /// No answer came.
    NoAnswer {
        /// To what.
        step: Step,
        /// What happened instead.
        why: String,
    },
}

/// The parts of a join, in the order in which MicroK8s's client goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// TCP and TLS.
    Connect,
    /// The join request, with which the token is used.
    Join,
    /// kube-proxy's certificate.
    SignProxy,
    /// The kubelet's certificate.
    SignKubelet,
}

impl Outcome {
    /// Whether all went well.
    pub fn is_admitted(&self) -> bool {
        *self == Self::Admitted
    }

    /// Whether the join request was granted, whatever became of the certificates.
    pub fn was_let_in(&self) -> bool {
        match self {
            Self::Admitted => true,
            Self::Refused { step, .. } | Self::NoAnswer { step, .. } => *step > Step::Join,
        }
    }
}

/// Nodes for one agent.
pub struct Swarm {
    client: Arc<Client>,
    /// One for all nodes: making keys is no part of what is looked at.
    key: PrivateKey,
    next: AtomicU32,
    runtime: Runtime,
}

/// What all connections share.
struct Client {
    agent: SocketAddr,
    /// Where the requests for certificates go, in turn; all to `agent` where there are none.
    signers: Vec<SocketAddr>,
    tls: TlsConnector,
    proxy_request: String,
}

impl Swarm {
    /// Nodes for the agent that listens here.
    pub fn new(agent: SocketAddr) -> Self {
        Self::apart(agent, 0, &[])
    }

    /// Nodes for this agent that no swarm of another `number` has; each request for a certificate
    /// goes to the next one of `signers`.
    pub fn apart(agent: SocketAddr, number: u32, signers: &[SocketAddr]) -> Self {
        raise_file_limit();
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let subject = Subject::common_name("system:kube-proxy");
        Self {
            client: Arc::new(Client {
                agent,
                signers: signers.to_vec(),
                tls: TlsConnector::from(pinned_tls::config(Identity::default()).unwrap()),
                proxy_request: csr::create(&subject, &[], &key).unwrap(),
            }),
            key,
            next: AtomicU32::new(number << 16),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    /// A node that there was not before, with an address of its own where the agent listens on
    /// the loopback, else with the machine's.
    pub fn newcomer(&self, role: Role) -> Newcomer {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + number);
        let is_local = self.client.agent.ip().is_loopback();
        self.make(number, role, is_local.then_some(address.into()))
    }

    /// A node that there was not before, at an address that it shares with others.
    pub fn newcomer_at(&self, address: Ipv4Addr, role: Role) -> Newcomer {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.make(number, role, Some(address.into()))
    }

    fn make(&self, number: u32, role: Role, address: Option<IpAddr>) -> Newcomer {
        let name = format!("node-{number}");
        let kubelet_request = match role {
            Role::ControlPlane => String::new(),
            Role::Worker => {
                let mut names = vec![AltName::Dns(name.clone())];
                names.extend(address.map(AltName::Ip));
                csr::create(&Subject::kubelet(&name), &names, &self.key).unwrap()
            }
        };
        Newcomer {
            name,
            role,
            address,
            kubelet_request,
        }
    }

    /// A new node for each token.
    pub fn newcomers_with(&self, tokens: &[String], role: Role) -> Vec<Attempt> {
        let with = |token: &String| Attempt {
            node: self.newcomer(role),
            token: token.clone(),
        };
        tokens.iter().map(with).collect()
    }

    /// Another node with the same token and the same wish.
    pub fn rival(&self, of: &Attempt) -> Attempt {
        Attempt {
            node: self.newcomer(of.node.role),
            token: of.token.clone(),
        }
    }

    /// Joins, so many at once; the outcomes are in the order of the attempts. The attempts may be
    /// an iterator that goes on until something stops it.
    pub fn join(
        &self,
        attempts: impl IntoIterator<Item = Attempt>,
        at_once: usize,
    ) -> Vec<Outcome> {
        self.join_watched(attempts, at_once, |_| {})
    }

    /// As [`Swarm::join`]; `watch` is told each outcome when it comes, while other attempts are
    /// under way.
    pub fn join_watched(
        &self,
        attempts: impl IntoIterator<Item = Attempt>,
        at_once: usize,
        mut watch: impl FnMut(&Outcome),
    ) -> Vec<Outcome> {
        let mut attempts = attempts.into_iter().enumerate().fuse();
        let mut outcomes = Vec::new();
        self.runtime.block_on(async {
            let mut under_way = JoinSet::new();
            loop {
                while under_way.len() < at_once
                    && let Some((number, attempt)) = attempts.next()
                {
                    let client = self.client.clone();
                    under_way.spawn(async move { (number, client.join(&attempt).await) });
                }
                let Some(ended) = under_way.join_next().await else {
                    break;
                };
                let (number, outcome) = ended.unwrap();
                watch(&outcome);
                outcomes.push((number, outcome));
            }
        });
        in_order(outcomes)
    }

    /// Connects for all of these first, and then has all of them ask at the same moment.
    pub fn join_at_the_same_moment(&self, attempts: Vec<Attempt>) -> Vec<Outcome> {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_AT_ONCE));
        let start = Arc::new(Barrier::new(attempts.len()));
        let ended = self.runtime.block_on(async {
            let mut under_way = JoinSet::new();
            for (number, attempt) in attempts.into_iter().enumerate() {
                let client = self.client.clone();
                let (handshakes, start) = (handshakes.clone(), start.clone());
                under_way.spawn(async move {
                    let turn = handshakes.acquire_owned().await;
                    let connection = client.connect(&attempt.node).await;
                    drop(turn);
                    start.wait().await;
                    let outcome = match connection {
                        Ok(connection) => client.ask(connection, &attempt).await,
                        Err(outcome) => Err(outcome),
                    };
                    (number, outcome.err().unwrap_or(Outcome::Admitted))
                });
            }
            under_way.join_all().await
        });
        in_order(ended)
    }
}

fn in_order(mut outcomes: Vec<(usize, Outcome)>) -> Vec<Outcome> {
    outcomes.sort_by_key(|(number, _)| *number);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A thousand connections are more files than many machines let a process have unasked. The
/// agents that it starts get the same.
fn raise_file_limit() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
}

impl Client {
    async fn join(&self, attempt: &Attempt) -> Outcome {
        let connection = match self.connect(&attempt.node).await {
            Ok(connection) => connection,
            Err(outcome) => return outcome,
        };
        let refusal = self.ask(connection, attempt).await.err();
        refusal.unwrap_or(Outcome::Admitted)
    }

    async fn connect(&self, node: &Newcomer) -> Result<Connection, Outcome> {
        self.connect_to(self.agent, node).await
    }

    async fn connect_to(&self, agent: SocketAddr, node: &Newcomer) -> Result<Connection, Outcome> {
        Connection::open(agent, node.address, &self.tls)
            .await
            .map_err(|why| Outcome::NoAnswer {
                step: Step::Connect,
                why,
            })
    }

    /// All requests of a join, as recorded in `join-worker-ok` and `join-controlplane-ok`.
    async fn ask(&self, mut connection: Connection, attempt: &Attempt) -> Result<(), Outcome> {
        let Attempt { node, token } = attempt;
        let is_worker = node.role == Role::Worker;
        let join = json!({
            "token": token,
            "hostname": node.name,
            "port": self.agent.port().to_string(),
            "worker": if is_worker { json!("as-worker") } else { Value::Null },
            "can_handle_x509_auth": true,
            "can_handle_custom_etcd": true,
        });
        let answer = request(&mut connection, Step::Join, &join).await?;
        expect_text(&answer, "ca", Step::Join)?;
        if !is_worker {
            return expect_text(&answer, "ca_key", Step::Join);
        }
        let requests = [
            (Step::SignProxy, "-proxy", &self.proxy_request),
            (Step::SignKubelet, "-kubelet", &node.kubelet_request),
        ];
        for (number, (step, suffix, csr)) in requests.into_iter().enumerate() {
            if !self.signers.is_empty() {
                let signer = self.signers[number % self.signers.len()];
                connection = self.connect_to(signer, node).await?;
            }
            let sign = json!({"token": format!("{token}{suffix}"), "request": csr});
            let answer = request(&mut connection, step, &sign).await?;
            expect_text(&answer, "certificate", step)?;
        }
        Ok(())
    }
}

async fn request(connection: &mut Connection, step: Step, body: &Value) -> Result<Value, Outcome> {
    let path = match step {
        Step::Connect | Step::Join => routes::V2_JOIN,
        Step::SignProxy | Step::SignKubelet => routes::V1_SIGN_CERT,
    };
    let (status, answer) = connection
        .post(path, body)
        .await
        .map_err(|why| Outcome::NoAnswer { step, why })?;
    let value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
    if status == 200 {
        return Ok(value);
    }
    let reason = value["reason"].as_str().or(value["error"].as_str());
    Err(Outcome::Refused {
        step,
        status,
        reason: reason.unwrap_or_default().to_owned(),
    })
}

/// An answer with status 200 that lacks what it is there for is none.
fn expect_text(answer: &Value, field: &str, step: Step) -> Result<(), Outcome> {
    match answer[field].as_str() {
        Some(text) if text.starts_with("-----BEGIN ") => Ok(()),
        _ => Err(Outcome::NoAnswer {
            step,
            why: format!("the answer has no PEM in `{field}`"),
        }),
    }
}
