//! How many workers a second join through the token store that control planes share, beside what the
//! changes of their tokens cost at that API server by themselves.
//!
//!     MICROK8S_TEST_KUBE_APISERVER=/path/to/kube-apiserver cargo bench --bench shared_joins
//!
//! One etcd and one API server run with one agent. A worker's join changes the Secret of its token, and
//! two changes a join are the least that any agent can do: one when the node is admitted, one when it
//! has its certificates. A loop makes these alone, with as many at once as join at once.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot go on says so at once; its table is its output"
)]

#[path = "../tests/it/lab"]
#[expect(dead_code, reason = "the tests use more of it")]
mod lab {
    pub mod daemon;
    pub mod program;
    pub mod shared_api;
    pub mod swarm;
    pub mod wire;

    /// In the build's folder: where the tests have theirs may be in memory, where a change costs no
    /// flush.
    pub fn scratch() -> std::path::PathBuf {
        env!("CARGO_TARGET_TMPDIR").into()
    }

    pub fn skip(reason: &str) {
        println!("skipped: {reason}");
    }
}

use std::sync::Arc;
use std::time::Instant;

use hyper::{Method, Request};
use microk8s::client::pinned_tls::{self, Identity};
use microk8s::model::role::Role;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use lab::shared_api::SharedApi;
use lab::swarm::agent::StandaloneAgent;
use lab::swarm::connection::Connection;
use lab::swarm::{Outcome, Swarm};

/// How many nodes join at once.
const AT_ONCE: usize = 16;
/// How many join in one measurement.
const BATCH: usize = 320;
/// How often each thing is measured. Odd, so that there is a middle.
const TURNS: usize = 5;
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";

fn main() {
    let Some(cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let agent = &cluster.control_planes[0].agent;
    let swarm = Swarm::new(agent.endpoint());
    let api = Api::new(&cluster);
    let mut rates: [Vec<f64>; 2] = Default::default();
    // The first turn warms everything up, and does not count.
    for turn in 0..=TURNS {
        let joins = rate_of_joins(agent, &swarm);
        let changes = api.rate_of_changes(turn);
        if turn > 0 {
            rates[0].push(joins);
            rates[1].push(changes);
        }
    }
    print(["worker joins", "two changes alone"], rates);
}

fn rate_of_joins(agent: &StandaloneAgent, swarm: &Swarm) -> f64 {
    let attempts = swarm.newcomers_with(&agent.issue(BATCH), Role::Worker);
    let begun = Instant::now();
    let outcomes = swarm.join(attempts, AT_ONCE);
    let rate = BATCH as f64 / begun.elapsed().as_secs_f64();
    assert!(outcomes.iter().all(Outcome::is_admitted), "{outcomes:?}");
    rate
}

fn print(names: [&str; 2], mut rates: [Vec<f64>; 2]) {
    println!("{AT_ONCE} workers at once; a second, medians of {TURNS} turns, and least to most");
    for (name, rates) in names.into_iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        let (least, most) = (rates[0], rates[TURNS - 1]);
        println!(
            "{name:>18}  {:>7.1}  ({least:.1} to {most:.1})",
            rates[TURNS / 2]
        );
    }
    let [first, second] = rates.map(|rates| rates[TURNS / 2]);
    println!("{:>18}  {:>7.2}", "ratio", first / second);
}

/// The API server, without an agent.
struct Api {
    runtime: Runtime,
    /// A connection for each that is at once.
    connections: Vec<Arc<tokio::sync::Mutex<Connection>>>,
    authorization: Arc<str>,
    /// What a Secret of a token holds.
    data: Value,
}

impl Api {
    fn new(cluster: &SharedApi) -> Self {
        cluster.control_planes[0].agent.issue(1);
        let authorization = format!("Bearer {}", cluster.create_account());
        let runtime = Runtime::new().unwrap();
        let tls = TlsConnector::from(pinned_tls::config(Identity::default()).unwrap());
        let connections = (0..AT_ONCE).map(|_| {
            let opened = runtime.block_on(Connection::open(cluster.api(0), None, &tls));
            Arc::new(tokio::sync::Mutex::new(opened.unwrap()))
        });
        Self {
            connections: connections.collect(),
            runtime,
            authorization: authorization.into(),
            data: cluster.secrets()[0]["data"].clone(),
        }
    }

    /// How often a second two conditional changes of a Secret are made, one after the other.
    fn rate_of_changes(&self, turn: usize) -> f64 {
        let secret = |number: usize, version: Option<Value>| {
            json!({
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": format!("bench-{turn}-{number}"), "resourceVersion": version},
                "data": self.data,
            })
        };
        let secrets: Vec<Value> = (0..BATCH).map(|number| secret(number, None)).collect();
        let created = self.all(secrets, 0);
        let begun = Instant::now();
        self.all(created, 2);
        BATCH as f64 / begun.elapsed().as_secs_f64()
    }

    /// Changes each of these so often, or creates it; gives them as they are then.
    fn all(&self, secrets: Vec<Value>, changes: usize) -> Vec<Value> {
        let share = secrets.len().div_ceil(AT_ONCE);
        self.runtime.block_on(async {
            let mut under_way = JoinSet::new();
            for (connection, share) in self.connections.iter().zip(secrets.chunks(share)) {
                let (connection, share) = (connection.clone(), share.to_vec());
                let authorization = self.authorization.clone();
                under_way.spawn(async move {
                    let mut connection = connection.lock().await;
                    let mut written = Vec::new();
                    for mut secret in share {
                        for _ in 0..changes.max(1) {
                            let (method, path) = match changes {
                                0 => (Method::POST, SECRETS.to_owned()),
                                _ => {
                                    let name = secret["metadata"]["name"].as_str().unwrap();
                                    (Method::PUT, format!("{SECRETS}/{name}"))
                                }
                            };
                            let request = Request::builder().method(method).uri(path);
                            let request = request.header("authorization", &*authorization);
                            let (status, body) = connection.send(request, &secret).await.unwrap();
                            assert!(status < 300, "{status}: {body:?}");
                            let answer: Value = serde_json::from_slice(&body).unwrap();
                            let version = &answer["metadata"]["resourceVersion"];
                            secret["metadata"]["resourceVersion"] = version.clone();
                        }
                        written.push(secret);
                    }
                    written
                });
            }
            under_way.join_all().await.concat()
        })
    }
}
