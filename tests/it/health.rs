//! `nodes --check`: what it finds of a cluster that is well, and of clusters that are not.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::agent::Agent;
use crate::lab::kubernetes::{Authorization, Kubernetes};
use crate::lab::peer::{Peer, Reply, Speaks};
use crate::lab::{Host, Lab, Output, network, schema};

const CHECK: &str = "microk8s nodes --check --format json";
const MEMBERS: [&str; 2] = ["10.99.0.11:19001", "10.99.0.13:19001"];
/// A node that hangs is waited for half a minute; what comes before and after takes its time on a busy
/// machine.
const LONGEST: Duration = Duration::from_secs(60);

/// Two control plane nodes, n1 and n3, and the worker n2, with API servers that are real.
struct Cluster {
    // Dropped before the lab.
    kubernetes: Kubernetes,
    n1_agent: Option<Agent>,
    n3_agent: Option<Agent>,
    _n2_agent: Agent,
    datastores: Vec<TcpListener>,
    /// What stands in for n3's agent.
    peer: Option<Peer>,
    lab: Lab,
}

impl Cluster {
    fn new() -> Option<Self> {
        let lab = Lab::new(&["n1", "n2", "n3"])?;
        let hosts = ["n1", "n2", "n3"].map(|name| lab.host(name));
        let [n1, n2, n3] = hosts;
        let mut kubernetes = Kubernetes::start(n1, Authorization::AlwaysAllow)?;
        let [n1_agent, n2_agent, n3_agent] = hosts.map(Host::agent);
        n3.shell(&n1.join_line()).ok();
        n3_agent.wait_for("the served certificate changed");
        kubernetes.add(n3);
        n2.shell(&format!("{} --worker", n1.join_line())).ok();
        for host in hosts {
            kubernetes.register(host).ok();
        }
        for host in [n1, n3] {
            host.stand_ins.dqlite_lists(&MEMBERS);
        }
        let listen = |host: &Host| network::listen(host.namespace(), "0.0.0.0:19001");
        Some(Self {
            kubernetes,
            n1_agent: Some(n1_agent),
            n3_agent: Some(n3_agent),
            _n2_agent: n2_agent,
            datastores: [n1, n3].map(listen).into(),
            peer: None,
            lab,
        })
    }

    fn host(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    fn list(&self, members: &[&str]) {
        self.host("n1").stand_ins.dqlite_lists(members);
    }

    /// n3's agent serves another certificate, made by this line of shell in `certs`.
    fn serve(&mut self, line: &str) {
        self.host("n3")
            .shell(&format!(
                "cd $SNAP_DATA/certs && cp -p server.crt server.was && {line}"
            ))
            .ok();
        self.restart_n3();
    }

    fn serve_as_before(&mut self) {
        self.host("n3")
            .shell("cd $SNAP_DATA/certs && mv server.was server.crt")
            .ok();
        self.restart_n3();
    }

    fn restart_n3(&mut self) {
        self.stop_n3();
        self.start_n3();
    }

    fn stop_n3(&mut self) {
        self.n3_agent.take().unwrap().kill();
    }

    fn start_n3(&mut self) {
        self.peer = None;
        self.n3_agent = Some(self.host("n3").agent());
    }

    /// What the check on n1 says, held against its schema.
    fn check(&self) -> (Output, Value) {
        let began = Instant::now();
        let output = self.host("n1").shell(CHECK);
        assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
        let value = schema::document(&output, "nodes-check");
        assert_eq!(value["ok"], output.code == Some(0), "{output:?}");
        (output, value)
    }
}

/// The findings of a node that are of this severity.
fn findings(value: &Value, severity: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for node in value["nodes"].as_array().unwrap() {
        let name = node["name"].as_str().or(node["address"].as_str());
        for check in node["checks"].as_array().unwrap() {
            if check["severity"] == severity {
                found.push((name.unwrap().to_owned(), check.clone()));
            }
        }
    }
    found
}

/// A fault: how it comes about and ends, and what is said of it.
struct Fault {
    breaks: fn(&mut Cluster),
    repairs: fn(&mut Cluster),
    /// Node, check, severity, and parts of the message and of the remedy.
    says: [&'static str; 5],
}

const FAULTS: [Fault; 16] = [
    Fault {
        breaks: Cluster::stop_n3,
        repairs: Cluster::start_n3,
        says: [
            "n3",
            "agent",
            "error",
            "refused",
            "let TCP port 25000 through",
        ],
    },
    Fault {
        breaks: |cluster| {
            cluster.stop_n3();
            let hung = Peer::start(cluster.host("n3"), Speaks::Nothing, |_| Reply::Close);
            cluster.peer = Some(hung);
        },
        repairs: Cluster::start_n3,
        says: [
            "n3",
            "agent",
            "error",
            "did not set up TLS",
            "cluster agent run",
        ],
    },
    Fault {
        breaks: |cluster| {
            cluster.stop_n3();
            let late = Peer::with_clock(cluster.host("n3"), 600, |_| Reply::Close);
            cluster.peer = Some(late);
        },
        repairs: Cluster::start_n3,
        says: ["n3", "clock", "error", "differ by 10 min", "set-ntp true"],
    },
    Fault {
        breaks: |cluster| {
            let line = "openssl x509 -in server.crt -signkey server.key -days 90 -out new.crt && mv new.crt server.crt";
            cluster.serve(line);
        },
        repairs: Cluster::serve_as_before,
        says: [
            "n3",
            "certificate",
            "error",
            "not signed by the authority of this cluster",
            "refresh-certs -e server.crt",
        ],
    },
    Fault {
        breaks: |cluster| cluster.serve(&resigned(-1)),
        repairs: Cluster::serve_as_before,
        says: ["n3", "certificate", "error", "has expired", "refresh-certs"],
    },
    Fault {
        breaks: |cluster| cluster.serve(&resigned(10)),
        repairs: Cluster::serve_as_before,
        says: ["n3", "certificate", "warning", "more days", "refresh-certs"],
    },
    Fault {
        breaks: |cluster| {
            let n3 = cluster.lab.host("n3");
            cluster.kubernetes.end(n3);
        },
        repairs: |cluster| {
            let n3 = cluster.lab.host("n3");
            cluster.kubernetes.add(n3);
        },
        says: [
            "n3",
            "api-server",
            "error",
            "nothing listens",
            "let TCP port 16443",
        ],
    },
    Fault {
        breaks: |cluster| drop(cluster.datastores.pop()),
        repairs: |cluster| {
            let n3 = network::listen(cluster.host("n3").namespace(), "0.0.0.0:19001");
            cluster.datastores.push(n3);
        },
        says: [
            "n3",
            "datastore",
            "error",
            "10.99.0.13:19001",
            "let TCP port 19001",
        ],
    },
    Fault {
        breaks: |cluster| {
            cluster
                .kubernetes
                .say_ready(cluster.host("n2"), "n2", "False");
        },
        repairs: |cluster| {
            cluster
                .kubernetes
                .say_ready(cluster.host("n2"), "n2", "True");
        },
        says: [
            "n2",
            "ready",
            "error",
            "not ready",
            "why its kubelet is not ready",
        ],
    },
    Fault {
        breaks: |cluster| {
            cluster.stop_n3();
            cluster
                .kubernetes
                .say_ready(cluster.host("n3"), "n3", "Unknown");
        },
        repairs: |cluster| {
            cluster.start_n3();
            cluster
                .kubernetes
                .say_ready(cluster.host("n3"), "n3", "True");
        },
        says: [
            "n3",
            "ready",
            "error",
            "not heard",
            "`microk8s remove-node n3 --force`",
        ],
    },
    Fault {
        breaks: |cluster| cluster.list(&[MEMBERS[0], MEMBERS[1], "10.99.0.14:19001"]),
        repairs: |cluster| cluster.list(&MEMBERS),
        says: [
            "10.99.0.14",
            "listed",
            "error",
            "listed by the datastore, and not by Kubernetes",
            "`microk8s remove-node 10.99.0.14 --force`",
        ],
    },
    Fault {
        breaks: |cluster| cluster.list(&MEMBERS[..1]),
        repairs: |cluster| cluster.list(&MEMBERS),
        says: [
            "n3",
            "listed",
            "error",
            "listed by Kubernetes and the records of this node, and not by the datastore",
            "`microk8s remove-node n3`; where",
        ],
    },
    Fault {
        breaks: |cluster| {
            let (n1, n2) = (cluster.host("n1"), cluster.host("n2"));
            cluster
                .kubernetes
                .register_as(n1, "before", "10.99.0.12")
                .ok();
            cluster.kubernetes.say_ready(n1, "before", "Unknown");
            cluster.kubernetes.say_ready(n2, "n2", "True");
        },
        repairs: |cluster| {
            let n1 = cluster.host("n1");
            cluster
                .kubernetes
                .admin(n1, &["delete", "node", "before"])
                .ok();
        },
        says: [
            "before",
            "listed",
            "error",
            "Kubernetes lists n2 at the same address",
            "`microk8s remove-node before`",
        ],
    },
    Fault {
        breaks: |cluster| {
            let n1 = cluster.host("n1");
            cluster.kubernetes.admin(n1, &["delete", "node", "n2"]).ok();
        },
        repairs: |cluster| drop(cluster.kubernetes.register(cluster.host("n2")).ok()),
        says: [
            "n2",
            "listed",
            "warning",
            "joined less than five minutes ago",
            "its kubelet runs",
        ],
    },
    Fault {
        breaks: |cluster| cluster.host("n1").stand_ins.fail_dqlite(),
        repairs: |cluster| cluster.host("n1").stand_ins.repair_dqlite(),
        says: [
            "n1",
            "datastore-members",
            "error",
            "does not say",
            "majority of its voters",
        ],
    },
    Fault {
        breaks: |cluster| {
            let n1 = cluster.lab.host("n1");
            cluster.kubernetes.end(n1);
        },
        repairs: |cluster| {
            let n1 = cluster.lab.host("n1");
            cluster.kubernetes.add(n1);
        },
        says: [
            "n1",
            "kubernetes",
            "error",
            "does not say which nodes",
            "the API server of this node",
        ],
    },
];

/// A line of shell that has the cluster's authority sign n3's certificate anew, for so many days.
fn resigned(days: i32) -> String {
    format!(
        "openssl x509 -x509toreq -in server.crt -signkey server.key -out new.csr &&
         printf 'subjectAltName=DNS:kubernetes.default.svc' > new.ext &&
         openssl x509 -req -in new.csr -CA ca.crt -CAkey ca.key -set_serial 7 -days {days} -extfile new.ext -out server.crt &&
         rm new.csr new.ext"
    )
}

#[test]
fn each_fault_of_a_cluster_is_named_at_its_node_with_its_remedy_and_nothing_is_said_of_a_sound_one()
{
    let Some(mut cluster) = Cluster::new() else {
        return;
    };
    let is_sound = |cluster: &Cluster| {
        let (output, value) = cluster.check();
        assert_eq!(output.code, Some(0), "{output:?}");
        assert_eq!(findings(&value, "warning"), [], "{output:?}");
        assert_eq!(findings(&value, "unchecked"), [], "{output:?}");
        value
    };
    let value = is_sound(&cluster);
    let names: Vec<&str> = value["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["n1", "n3", "n2"]);
    assert!(
        value["nodes"][1]["certificate_days"].as_i64().unwrap() > 300,
        "{value}"
    );
    for Fault {
        breaks,
        repairs,
        says,
    } in FAULTS
    {
        breaks(&mut cluster);
        let (output, value) = cluster.check();
        let [node, check, severity, message, remedy] = says;
        let found = findings(&value, severity);
        let found = found
            .iter()
            .find(|(at, found)| at == node && found["check"] == check);
        let found = &found.unwrap_or_else(|| panic!("{says:?}: {output:?}")).1;
        assert!(
            found["message"].as_str().unwrap().contains(message),
            "{says:?}: {found}"
        );
        assert!(
            found["remedy"].as_str().unwrap().contains(remedy),
            "{says:?}: {found}"
        );
        if severity == "error" {
            assert_eq!(output.code, Some(1), "{output:?}");
        }
        repairs(&mut cluster);
    }
    is_sound(&cluster);

    // The check needs no agent here, and says that none runs.
    cluster.n1_agent.take().unwrap().kill();
    let (output, value) = cluster.check();
    assert_eq!(output.code, Some(1), "{output:?}");
    let errors = findings(&value, "error");
    assert_eq!(errors.len(), 1, "{output:?}");
    assert_eq!(
        (errors[0].0.as_str(), &errors[0].1["check"]),
        ("n1", &"agent".into())
    );

    let text = cluster.host("n1").shell("microk8s nodes --check");
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert!(lines[0].starts_with("NAME  ADDRESS     ROLE"), "{text:?}");
    assert!(lines[0].ends_with("READY  LISTED"), "{text:?}");
    assert!(lines[5].starts_with("error      n1  agent"), "{text:?}");
    assert_eq!(lines[6], "           fix: start the agent of this node");
    assert_eq!(
        lines.last(),
        Some(&"1 error, 0 warnings, 2 not checked"),
        "{text:?}"
    );
}

#[test]
fn a_worker_checks_what_it_can_and_says_where_to_check_the_rest() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let _own = n2.agent();
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    let checked = n2.shell(CHECK);
    let value = schema::document(&checked, "nodes-check");
    assert_eq!(value["nodes"][0]["name"], "n2");
    assert_eq!(value["nodes"][1]["address"], "10.99.0.11");
    assert_eq!(value["nodes"][1]["checks"][1]["check"], "certificate");
    assert_eq!(
        value["nodes"][1]["checks"][1]["severity"], "ok",
        "{checked:?}"
    );
    let unchecked = findings(&value, "unchecked");
    let told = unchecked.iter().filter(|(_, found)| {
        found["message"]
            .as_str()
            .unwrap()
            .contains("on a control plane node")
    });
    assert_eq!(told.count(), 2, "{checked:?}");
    // No API server runs in this lab.
    let errors = findings(&value, "error");
    assert_eq!(errors.len(), 1, "{checked:?}");
    assert_eq!(errors[0].1["check"], "api-server");
    // A worker can do without the agent of a control plane node.
    agent.kill();
    let checked = n2.shell(CHECK);
    let value = schema::document(&checked, "nodes-check");
    let warnings = findings(&value, "warning");
    assert_eq!(warnings[0].1["check"], "agent", "{checked:?}");
}

#[test]
fn a_node_that_is_alone_checks_itself() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    n1.stand_ins.kubernetes_knows("n1", Some("10.99.0.11"));
    let _datastore = network::listen(n1.namespace(), "127.0.0.1:19001");
    let checked = n1.shell(CHECK);
    let value = schema::document(&checked, "nodes-check");
    assert_eq!(value["nodes"].as_array().unwrap().len(), 1, "{checked:?}");
    let errors = findings(&value, "error");
    assert_eq!(errors.len(), 1, "{checked:?}");
    assert_eq!(errors[0].1["check"], "api-server", "{checked:?}");
    let both = n1.shell("microk8s nodes --check --self");
    assert_eq!(both.code, Some(2), "{both:?}");
}
