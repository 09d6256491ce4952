//! What goes on at the agent.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use microk8s::model::role::Role;
use microk8s::model::token::Token;
use microk8s::pki::ca::{self, Profile, YEAR};
use microk8s::pki::key::{Bits, PrivateKey};
use microk8s::pki::name::Subject;
use serde_json::{Value, json};

use super::Sample;
use super::program::program;
use super::swarm::agent::{StandaloneAgent, new_tokens};
use super::swarm::{Attempt, Outcome, Swarm};

/// How many one-time tokens wait before the oldest is used.
const WAITING: usize = 50;
/// How many nodes the cluster has before the one that joined first is removed.
const NODES: usize = 100;
/// Connections that never say anything.
const IDLE: usize = 20;
/// How long a token that expires is good for, and how much later it is used.
const LIFE_SECONDS: u64 = 5;
const LATER: Duration = Duration::from_secs(10);
/// After so many steps the lists are compared and the tokens that are over are pruned, and after so
/// many the served certificate is renewed.
const PRUNE_EVERY: u64 = 30;
const RENEW_EVERY: u64 = 120;

/// An agent, and what it should know.
pub struct Churn {
    agent: StandaloneAgent,
    swarm: Swarm,
    rate: usize,
    steps: u64,
    waiting: VecDeque<String>,
    expiring: VecDeque<(Instant, String)>,
    nodes: VecDeque<String>,
    idle: VecDeque<TcpStream>,
    /// How long the joins since the last sample took, in milliseconds.
    took: Vec<f64>,
    logged: u64,
    faults: Vec<String>,
}

impl Churn {
    pub fn start(rate: usize) -> Self {
        // In the build's folder: the usual one for temporary files may be in memory.
        let agent = StandaloneAgent::start(Path::new(env!("CARGO_TARGET_TMPDIR")));
        Self {
            swarm: Swarm::new(agent.endpoint()),
            waiting: agent.issue(WAITING).into(),
            agent,
            rate,
            steps: 0,
            expiring: VecDeque::new(),
            nodes: VecDeque::new(),
            idle: VecDeque::new(),
            took: Vec::new(),
            logged: 0,
            faults: Vec::new(),
        }
    }

    /// A second of it.
    pub fn step(&mut self) {
        self.steps += 1;
        self.waiting.extend(self.agent.issue(self.rate));
        for number in 0..self.rate {
            let role = [Role::Worker, Role::ControlPlane][usize::from(number % 5 == 4)];
            let token = self.waiting.pop_front().unwrap();
            self.join(token, role);
        }
        while self.nodes.len() > NODES {
            let node = self.nodes.pop_front().unwrap();
            self.run(&["remove-node", &node, "--force"]);
        }
        self.refused(new_tokens(1).remove(0), "unknown");
        self.expire();
        self.revoke();
        self.fail();
        self.idle.extend(TcpStream::connect(self.agent.endpoint()));
        if self.idle.len() > IDLE {
            self.idle.pop_front();
        }
        if self.steps.is_multiple_of(PRUNE_EVERY) {
            self.compare();
            self.run(&["token", "prune"]);
        }
        if self.steps.is_multiple_of(RENEW_EVERY) {
            self.renew();
        }
    }

    /// A node joins, and then another one with the same token.
    fn join(&mut self, token: String, role: Role) {
        let node = self.swarm.newcomer(role);
        let attempt = Attempt { node, token };
        let rival = self.swarm.rival(&attempt);
        let begin = Instant::now();
        let outcome = self.swarm.join([attempt.clone()], 1).remove(0);
        self.expect(outcome.is_admitted(), "a node with a good token", &outcome);
        let name = attempt.node.name.clone();
        match role {
            Role::Worker => {
                self.took.push(begin.elapsed().as_secs_f64() * 1000.0);
                self.nodes.push_back(name);
            }
            // Only the datastore, which does not run here, lists a control plane node.
            Role::ControlPlane => {
                self.report(&attempt, "joined");
                self.run(&["remove-node", &name, "--force"]);
            }
        }
        self.refused(rival.token, "used");
    }

    /// The node says how its join ended.
    fn report(&mut self, attempt: &Attempt, outcome: &str) {
        let body = json!({
            "token": attempt.token, "hostname": attempt.node.name, "outcome": outcome,
        });
        self.post(attempt, "join/outcome", &body);
    }

    fn post(&mut self, attempt: &Attempt, path: &str, body: &Value) {
        let from = attempt.node.address.unwrap().to_string();
        let url = format!("https://{}/cluster/api/v2.0/{path}", self.agent.endpoint());
        let body = body.to_string();
        let words = [
            ["-sk", "-o", "/dev/null", "-w", "%{http_code}"],
            ["--interface", &from, "--data", &body, &url],
        ];
        let status = output(Command::new("curl").args(words.as_flattened()));
        self.expect(status == "200", path, &status);
    }

    fn refused(&mut self, token: String, why: &str) {
        let node = self.swarm.newcomer(Role::Worker);
        let outcome = self.swarm.join([Attempt { node, token }], 1).remove(0);
        let is_so = matches!(&outcome, Outcome::Refused { reason, .. } if reason == why);
        self.expect(is_so, why, &outcome);
    }

    fn expire(&mut self) {
        let token = self.add_node(&["--token-ttl", &LIFE_SECONDS.to_string()]);
        self.expiring.push_back((Instant::now(), token));
        if self.expiring[0].0.elapsed() > LATER {
            let (_, token) = self.expiring.pop_front().unwrap();
            // It may have been pruned since.
            let node = self.swarm.newcomer(Role::Worker);
            let outcome = self.swarm.join([Attempt { node, token }], 1).remove(0);
            let is_so = matches!(&outcome, Outcome::Refused { reason, .. }
                if ["expired", "unknown"].contains(&reason.as_str()));
            self.expect(is_so, "an expired token", &outcome);
        }
    }

    fn revoke(&mut self) {
        let token = self.add_node(&[]);
        self.run(&["token", "revoke", &id(&token)]);
        self.refused(token, "revoked");
    }

    /// A node is admitted and says that its join failed: its token is good for the next one.
    fn fail(&mut self) {
        let attempt = Attempt {
            node: self.swarm.newcomer(Role::Worker),
            token: self.waiting.pop_front().unwrap(),
        };
        let join = json!({
            "token": attempt.token, "hostname": attempt.node.name, "port": "25000",
            "worker": "as-worker", "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
        });
        self.post(&attempt, "join", &join);
        self.report(&attempt, "failed");
        self.waiting.push_front(attempt.token);
    }

    /// Nothing is lost.
    fn compare(&mut self) {
        let tokens = self.run(&["token", "list", "--format", "json"]);
        let ids = |state: &str| -> BTreeSet<String> {
            let tokens: Value = serde_json::from_str(&tokens).unwrap_or_default();
            let list = tokens.as_array().into_iter().flatten();
            list.filter(|token| token["state"] == state)
                .filter(|token| token["expires"].is_null())
                .map(|token| token["id"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        let waiting = self.waiting.iter().map(|token| id(token)).collect();
        let found = ids("issued");
        self.expect(found == waiting, "the tokens that wait", &found);
        let nodes = self.run(&["nodes", "--format", "json"]);
        let missing = self
            .nodes
            .iter()
            .find(|name| !nodes.contains(&format!("\"{name}\"")));
        let missing = missing.cloned();
        self.expect(missing.is_none(), "the nodes that joined", &missing);
    }

    fn renew(&mut self) {
        let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
        let certificate = ca::self_signed(
            &Subject::microk8s_server(),
            &key,
            Profile::Server(Vec::new()),
            YEAR,
        )
        .unwrap();
        let certs = self.agent.node_dir().join("current/certs");
        fs::write(certs.join("server.key"), key.to_pem().unwrap().expose()).unwrap();
        fs::write(certs.join("server.crt"), certificate).unwrap();
    }

    pub fn sample(&mut self) -> Sample {
        let mut took = std::mem::take(&mut self.took);
        took.sort_by(f64::total_cmp);
        let part = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        let logged = size(&self.agent.node_dir().join("agent.log"));
        let log = logged - std::mem::replace(&mut self.logged, logged);
        let database = self
            .agent
            .node_dir()
            .join("current/var/cluster-agent/tokens.redb");
        let open = format!("/proc/{}/fd", self.agent.memory("Pid"));
        let descriptors = fs::read_dir(open).unwrap().count();
        let kib = |bytes: u64| bytes as f64 / 1024.0;
        [
            0.0,
            self.agent.memory("VmRSS") as f64,
            self.agent.memory("RssAnon") as f64,
            descriptors as f64,
            self.agent.memory("Threads") as f64,
            kib(size(&database)),
            kib(log),
            took.len() as f64,
            part(0.5),
            part(0.99),
            self.waiting.len() as f64,
        ]
    }

    /// What went wrong.
    pub fn end(mut self) -> Vec<String> {
        self.compare();
        self.faults
    }

    fn expect(&mut self, is_so: bool, what: &str, found: &impl std::fmt::Debug) {
        if !is_so {
            let fault = format!("step {}: {what}: {found:?}", self.steps);
            eprintln!("{fault}");
            self.faults.push(fault);
        }
    }

    fn add_node(&mut self, options: &[&str]) -> String {
        let words = [&["add-node", "--format", "token"], options].concat();
        self.run(&words).trim().to_owned()
    }

    /// A command of the node's operator.
    fn run(&mut self, words: &[&str]) -> String {
        output(
            Command::new(program())
                .args(words)
                .env("MICROK8S_NODE_DIR", self.agent.node_dir())
                .env("MICROK8S_SOCKET", self.agent.socket()),
        )
    }
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).unwrap().len()
}

fn id(token: &str) -> String {
    Token::presented(token).digest().to_string()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    if !output.status.success() {
        eprintln!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}
