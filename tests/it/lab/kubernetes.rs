//! A real Kubernetes: etcd and a kube-apiserver on a host, with that node's own certificates and
//! arguments, and a real kubectl in the place of the host's stand-in.
//!
//! The API server is found by `MICROK8S_TEST_KUBE_APISERVER`, see `.ci/build-kube-apiserver`.
//! There is no kubelet and needs none: [`Kubernetes::register`] posts a node as a kubelet does when
//! it starts, with the kubeconfig that the node has. What a node may do from then on is judged by
//! the API server.

use serde_json::{Value, json};

use super::daemon::{Daemon, Programs};
use super::{Host, Output, nodes, skip};

/// The kubeconfigs of a node.
const ADMIN: &str = "client.config";
const KUBELET: &str = "kubelet.config";

/// Whom the API server lets do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// Everything to everybody with a certificate: MicroK8s's default.
    AlwaysAllow,
    /// `Node,RBAC`, with `NodeRestriction` among the admission plugins.
    NodeAndRbac,
}

/// A cluster's API servers, and the etcd in the place of MicroK8s's datastore. All end when it is
/// dropped.
pub struct Kubernetes {
    programs: Programs,
    servers: Vec<ApiServer>,
    etcd_url: String,
    _etcd: Daemon,
}

struct ApiServer {
    host: String,
    url: String,
    _daemon: Daemon,
}

impl Kubernetes {
    /// Starts the API server of this host's node, or says aloud why it cannot be had. The node's
    /// `args/kube-apiserver` is made to say how requests are authorized; the rest of the file holds.
    pub fn start(host: &Host, authorization: Authorization) -> Option<Self> {
        let programs = match Programs::find() {
            Ok(programs) => programs,
            Err(reason) => {
                skip(&reason);
                return None;
            }
        };
        if authorization == Authorization::NodeAndRbac {
            let args = host.read("args/kube-apiserver");
            let args = args
                .replace("-mode=AlwaysAllow", "-mode=Node,RBAC")
                .replace("=EventRateLimit", "=EventRateLimit,NodeRestriction");
            host.write("args/kube-apiserver", &args, 0o644);
        }
        let etcd_url = format!("http://{}:2379", address_of(host));
        let etcd = start_etcd(host, &etcd_url);
        let mut kubernetes = Self {
            programs,
            servers: Vec::new(),
            etcd_url,
            _etcd: etcd,
        };
        kubernetes.add(host);
        Some(kubernetes)
    }

    /// Starts the API server of a node that has joined as a control plane, on the same data.
    pub fn add(&mut self, host: &Host) {
        let server = ApiServer::start(host, &self.programs, &self.etcd_url);
        self.servers.push(server);
    }

    /// Ends the API server of this host, as on a machine that is gone.
    pub fn end(&mut self, host: &Host) {
        self.servers.retain(|server| server.host != host.name);
    }

    /// Posts the host's node as its kubelet would when it starts, with the labels of its arguments.
    pub fn register(&self, host: &Host) -> Output {
        self.register_as(host, &host.name, &address_of(host))
    }

    /// Posts a node of this name and address with the credentials of this host's kubelet.
    pub fn register_as(&self, host: &Host, name: &str, address: &str) -> Output {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels(host)},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": address},
                    {"type": "Hostname", "address": name},
                ],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        self.create(host, KUBELET, &node)
    }

    /// Has this host's kubelet say that its node has these addresses.
    pub fn claim_addresses(&self, host: &Host, addresses: &[&str]) {
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|address| json!({"type": "InternalIP", "address": address}))
            .collect();
        let patch = json!({"status": {"addresses": addresses}});
        self.patch_status(host, &host.name, &patch);
    }

    fn patch_status(&self, host: &Host, name: &str, patch: &Value) {
        let url = format!("{}/api/v1/nodes/{name}/status", self.server_of(host).url);
        // kubectl reads the status first, which no kubelet may.
        let words = [
            "curl -fsSk -X PATCH -H 'content-type: application/merge-patch+json' -d @-",
            "--cert $SNAP_DATA/certs/kubelet.crt --key $SNAP_DATA/certs/kubelet.key",
            &url,
        ];
        let line = words.join(" ");
        host.run_with_input(&["sh", "-c", &line], patch.to_string().as_bytes())
            .ok();
    }

    /// Has this host's kubelet say whether its node of this name is ready: `True`, `False`, `Unknown`.
    pub fn say_ready(&self, host: &Host, name: &str, status: &str) {
        let patch = json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
        self.patch_status(host, name, &patch);
    }

    /// Creates an object with a kubeconfig of this host's node.
    pub fn create(&self, host: &Host, kubeconfig: &str, object: &Value) -> Output {
        let words = self.words(host, kubeconfig, &["create", "-f", "-"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        host.run_with_input(&words, object.to_string().as_bytes())
    }

    /// Runs kubectl with a kubeconfig of this host's node: `kubelet.config`, `proxy.config`, …
    pub fn with(&self, host: &Host, kubeconfig: &str, arguments: &[&str]) -> Output {
        let words = self.words(host, kubeconfig, arguments);
        host.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs kubectl as the administrator of this host's node.
    pub fn admin(&self, host: &Host, arguments: &[&str]) -> Output {
        self.with(host, ADMIN, arguments)
    }

    /// The names of the nodes, as this host's administrator is told them.
    pub fn nodes(&self, host: &Host) -> Vec<String> {
        let list = self.admin(host, &["get", "nodes", "-o", "name"]).ok();
        list.lines()
            .map(|line| line.strip_prefix("node/").unwrap().to_owned())
            .collect()
    }

    /// The object as JSON, as this host's administrator gets it: `["node", "n1"]`.
    pub fn get(&self, host: &Host, what: &[&str]) -> Value {
        let arguments = [&["get", "-o", "json"], what].concat();
        serde_json::from_str(&self.admin(host, &arguments).ok()).unwrap()
    }

    /// A node without an API server reaches that of another by its own proxy, which does not run
    /// here: it calls the first one.
    fn server_of(&self, host: &Host) -> &ApiServer {
        let mut servers = self.servers.iter();
        let own = servers.find(|server| server.host == host.name);
        own.or(self.servers.first()).expect("no API server runs")
    }

    fn words(&self, host: &Host, kubeconfig: &str, arguments: &[&str]) -> Vec<String> {
        let mut words = self.programs.kubectl(host, kubeconfig);
        words.push(format!("--server={}", self.server_of(host).url));
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        words
    }
}

impl Programs {
    fn kubectl(&self, host: &Host, kubeconfig: &str) -> Vec<String> {
        let file = host.path("credentials").join(kubeconfig);
        vec![
            self.kubectl.display().to_string(),
            format!("--cache-dir={}", host.scratch().join("kubectl").display()),
            format!("--kubeconfig={}", file.display()),
        ]
    }
}

impl ApiServer {
    /// As MicroK8s starts it: the lines of the arguments' file are words for a shell. Two options
    /// are newer than this API server, and the datastore is another.
    fn start(host: &Host, programs: &Programs, etcd_url: &str) -> Self {
        let kubectl = programs.kubectl(host, ADMIN);
        host.stand_ins.real_kubectl(&host.snap(), &kubectl);
        let foreign = ["--feature-gates=", "--tls-cipher-suites=", "--etcd-", "#"];
        let args = host.read("args/kube-apiserver");
        let args: Vec<&str> = args
            .lines()
            .filter(|line| !foreign.iter().any(|start| line.starts_with(start)))
            .collect();
        let mut ports = args
            .iter()
            .filter_map(|line| line.strip_prefix("--secure-port="));
        let url = format!("https://{}:{}", address_of(host), ports.next().unwrap());
        let program = programs.api_server.display();
        let line = format!(
            "exec {program} --etcd-servers={etcd_url} {}",
            args.join(" ")
        );
        let mut daemon = Daemon::start(host, "kube-apiserver", &["sh", "-c", &line]);
        let server = format!("--server={url}");
        let mut words: Vec<&str> = kubectl.iter().map(String::as_str).collect();
        words.extend([&server, "get", "--raw=/readyz"]);
        // kubectl costs ten times what curl does.
        let answers = ["curl", "-sk", "--output", "/dev/null", &url];
        daemon.wait_until(|| host.run(&answers).code == Some(0));
        daemon.wait_until(|| host.run(&words).code == Some(0));
        Self {
            host: host.name.clone(),
            url,
            _daemon: daemon,
        }
    }
}

fn start_etcd(host: &Host, url: &str) -> Daemon {
    let data = host.scratch().join("etcd").display().to_string();
    let clients = ["--listen-client-urls", url, "--advertise-client-urls", url];
    let words = [&["etcd", "--data-dir", &data][..], &clients].concat();
    let mut etcd = Daemon::start(host, "etcd", &words);
    let health = format!("{url}/health");
    etcd.wait_until(|| host.run(&["curl", "-fs", &health]).code == Some(0));
    etcd
}

/// What a kubelet says of its node's labels (`--node-labels`).
fn labels(host: &Host) -> Value {
    let args = host.read("args/kubelet");
    let list = args
        .lines()
        .find_map(|line| line.strip_prefix("--node-labels="))
        .unwrap_or_default()
        .trim_matches('"');
    let pairs = list.split(',').filter_map(|label| label.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn address_of(host: &Host) -> String {
    let mut hosts = nodes::HOSTS.iter();
    let (_, address) = hosts.find(|(name, _)| *name == host.name).unwrap();
    (*address).to_owned()
}

impl Daemon {
    fn start(host: &Host, name: &str, words: &[&str]) -> Self {
        let log = host.scratch().join(format!("{name}.log"));
        Self::spawn(&mut host.command(words), log)
    }
}
