//! `join --dry-run`: each fault is named with what cures it, nothing changes anywhere, and the token
//! stays as good as it was.

mod faults;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use microk8s::base::wait;
use serde_json::Value;

use crate::lab::peer::{Peer, Reply, Speaks};
use crate::lab::small_disk::SmallDisk;
use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, Output, STALL_TIMEOUT, network, schema, skip};

const WORKER: &str = "--worker";
const CONTROL_PLANE: &str = "";
/// One token of the right form that nobody issued.
const UNKNOWN: &str = "0123456789abcdef0123456789abcdef";

/// A lab on which a worker's join has no fault, with an agent on n1 and perhaps one on n2.
struct Stage {
    agents: Vec<crate::lab::agent::Agent>,
    _api_servers: Vec<network::Closing>,
    lab: Lab,
}

impl Stage {
    fn new(hosts: &[&str], through_agent: bool) -> Option<Self> {
        let lab = Lab::new(hosts)?;
        for host in lab.hosts() {
            has_version(host, "v1.28.7");
        }
        let api_servers = lab
            .hosts()
            .iter()
            .filter(|host| host.name != "n2")
            .map(|host| network::Closing::listen(host.namespace(), "0.0.0.0:16443"))
            .collect();
        let agents = lab
            .hosts()
            .iter()
            .filter(|host| host.name != "n2" || through_agent)
            .map(Host::agent)
            .collect();
        let stage = Self {
            agents,
            _api_servers: api_servers,
            lab,
        };
        for host in stage.lab.hosts() {
            reconcile(host);
        }
        Some(stage)
    }

    fn n1(&self) -> &Host {
        self.lab.host("n1")
    }

    fn n2(&self) -> &Host {
        self.lab.host("n2")
    }

    /// Everything on disk, the agents' own state included.
    fn trees(&self) -> Vec<[Snapshot; 2]> {
        let hosts = self.lab.hosts().iter();
        hosts
            .map(|host| {
                [host.snap_data(), host.snap_common()].map(|path| Snapshot::take(&path, &[]))
            })
            .collect()
    }

    /// The same once an agent has written what it may write up to a second after a join.
    fn settled_trees(&self) -> Vec<[Snapshot; 2]> {
        let (mut last, pause) = (None, Duration::from_millis(1500));
        wait::until(STALL_TIMEOUT, pause, || {
            let trees = self.trees();
            if last.as_ref() == Some(&trees) {
                return Some(trees);
            }
            last = Some(trees);
            None
        })
        .unwrap()
    }
}

/// An agent makes its database when it first looks into it; from then on it is there.
fn reconcile(host: &Host) {
    if host.socket().exists() {
        host.shell("microk8s token list").ok();
    }
}

/// Names what is not as it was.
#[track_caller]
fn assert_same(before: &[[Snapshot; 2]], after: &[[Snapshot; 2]]) {
    for (before, after) in before.iter().flatten().zip(after.iter().flatten()) {
        let paths = before.nodes.keys().chain(after.nodes.keys());
        let changed: Vec<&String> = paths
            .filter(|path| before.nodes.get(*path) != after.nodes.get(*path))
            .collect();
        assert!(changed.is_empty(), "{changed:?}");
    }
}

/// The snap says that it is MicroK8s of this version.
fn has_version(host: &Host, version: &str) {
    fs::create_dir_all(host.snap().join("meta")).unwrap();
    let text = format!("name: microk8s\nversion: {version}\nconfinement: classic\n");
    fs::write(host.snap().join("meta/snap.yaml"), text).unwrap();
}

/// A new connection string of this node.
fn connection(host: &Host) -> String {
    let line = host.join_line();
    line.strip_prefix("microk8s join ").unwrap().to_owned()
}

/// Both ways to look: in the process of the command, and through an agent on the joining node.
fn both_ways(hosts: &[&str], test: impl Fn(&Stage)) {
    for through_agent in [false, true] {
        let Some(stage) = Stage::new(hosts, through_agent) else {
            return;
        };
        test(&stage);
    }
}

/// A look in JSON: the findings, and the end.
struct Look {
    findings: Vec<Value>,
    end: Value,
    output: Output,
}

fn look(host: &Host, arguments: &str) -> Look {
    let output = host.shell(&format!(
        "microk8s join --dry-run --format json {arguments}"
    ));
    let mut findings = schema::lines(&output, "join-check");
    let end = findings.pop().unwrap_or_else(|| panic!("{output:?}"));
    assert_eq!(end["kind"], "end", "{output:?}");
    assert_eq!(end["exit"].as_i64(), output.code.map(i64::from));
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/preflight.md");
    let list = fs::read_to_string(list).unwrap();
    for finding in &findings {
        assert_eq!(finding["kind"], "finding");
        let name = format!("`{}`", finding["check"].as_str().unwrap());
        let is_listed = |line: &str| line.starts_with("- ") && line.contains(&name);
        assert!(
            list.lines().any(is_listed),
            "{name} is not in docs/preflight.md"
        );
    }
    for (severity, count) in [
        ("error", "errors"),
        ("warning", "warnings"),
        ("unchecked", "unchecked"),
    ] {
        let found = findings
            .iter()
            .filter(|one| one["severity"] == severity)
            .count();
        assert_eq!(end[count], found, "{output:?}");
    }
    Look {
        findings,
        end,
        output,
    }
}

impl Look {
    /// The findings of one check.
    fn of(&self, check: &str) -> Vec<&Value> {
        self.findings
            .iter()
            .filter(|one| one["check"] == check)
            .collect()
    }

    fn severity(&self, check: &str) -> &str {
        match self.of(check)[..] {
            [only] => only["severity"].as_str().unwrap(),
            ref others => panic!("{check}: {others:?}\n{:?}", self.output),
        }
    }

    /// The checks that came to this.
    fn with_severity(&self, severity: &str) -> Vec<&str> {
        let found = self
            .findings
            .iter()
            .filter(|one| one["severity"] == severity);
        found.map(|one| one["check"].as_str().unwrap()).collect()
    }
}

fn uses_names(stage: &Stage) {
    let arguments = stage.n1().read("args/kube-apiserver");
    let kept: Vec<&str> = arguments
        .lines()
        .filter(|line| !line.starts_with("--kubelet-preferred-address-types"))
        .collect();
    stage
        .n1()
        .write("args/kube-apiserver", &(kept.join("\n") + "\n"), 0o660);
}

#[test]
fn where_nothing_stands_in_the_way_every_check_says_so() {
    for role in [WORKER, CONTROL_PLANE] {
        both_ways(&["n1", "n2"], |stage| {
            let whole = connection(stage.n1());
            let before = stage.trees();
            let look = look(stage.n2(), &format!("{whole} {role}"));
            assert_eq!(look.end["outcome"], "ready", "{:#?}", look.output);
            let unchecked: &[&str] = match role {
                WORKER => &[],
                // It listens on the loopback until somebody joins.
                _ => &["datastore"],
            };
            assert_eq!(
                look.with_severity("unchecked"),
                unchecked,
                "{:#?}",
                look.output
            );
            let checks: Vec<&str> = look
                .findings
                .iter()
                .map(|one| one["check"].as_str().unwrap())
                .collect();
            assert_eq!(
                checks,
                [
                    "connection-string",
                    "memory-guard",
                    "disk",
                    "unfinished-change",
                    "node-files",
                    "hostpath-storage",
                    "connection",
                    "fingerprint",
                    "membership",
                    "clock",
                    "own-address",
                    "cluster-agent",
                    "token",
                    "high-availability",
                    "agent-port",
                    "same-address",
                    "reachable-address",
                    "host-name",
                    "node-name",
                    "datastore-entry",
                    "version",
                    "pod-network",
                    "api-server",
                    "api-server-limits",
                    "datastore",
                ]
            );
            assert_same(&before, &stage.trees());
            stage.agents[0].wait_for("join-check");
            let log = stage.agents[0].log();
            let line = log
                .lines()
                .find(|line| line.contains("join-check"))
                .unwrap();
            assert!(
                line.contains("10.99.0.12")
                    && line.contains("node=\"n2\"")
                    && line.contains("token="),
                "{line}"
            );
            stage
                .n2()
                .shell(&format!("microk8s join {whole} {role}"))
                .ok();
        });
    }
}

#[test]
fn several_faults_are_all_found_and_the_first_decides_the_exit_code() {
    both_ways(&["n1", "n2"], |stage| {
        let whole = connection(stage.n1());
        uses_names(stage);
        stage.n1().knows(&[]);
        has_version(stage.n2(), "v1.20.0");
        let moved = stage
            .n2()
            .read("args/cluster-agent")
            .replace(":25000", ":25001");
        stage.n2().write("args/cluster-agent", &moved, 0o660);
        stage
            .n2()
            .write("var/lock/low-memory-guard.lock", "", 0o600);
        let look = look(stage.n2(), &whole);
        assert_eq!(
            look.with_severity("error"),
            ["memory-guard", "agent-port", "host-name"],
            "{:#?}",
            look.output
        );
        assert_eq!(look.with_severity("warning"), ["version"]);
        assert_eq!(look.output.code, Some(1));
        assert_eq!(look.end["outcome"], "not-ready");
    });
}

#[test]
fn what_a_node_is_in_is_found_before_its_token_is_shown_to_anybody() {
    both_ways(&["n1", "n2", "n3"], |stage| {
        let (n2, n3) = (stage.n2(), stage.lab.host("n3"));
        n2.shell(&format!(
            "microk8s join {} --worker",
            connection(stage.n1())
        ))
        .ok();
        stage
            .n1()
            .stand_ins
            .kubernetes_knows("n2", Some("10.99.0.12"));
        let whole = connection(stage.n1());
        let again = look(n2, &format!("{whole} --worker"));
        assert_eq!(
            again.end["outcome"], "already-member",
            "{:#?}",
            again.output
        );
        assert_eq!(
            (again.output.code, &again.end["role"]),
            (Some(0), &"worker".into())
        );
        let other_role = look(n2, &whole);
        assert_eq!(other_role.with_severity("warning"), ["membership"]);
        assert_eq!(
            (other_role.output.code, &other_role.end["role"]),
            (Some(0), &"worker".into())
        );

        // Another cluster has to be left first, by a look and by a join.
        let elsewhere = connection(n3);
        let before = stage.settled_trees();
        let found = look(n2, &format!("{elsewhere} --worker"));
        assert_eq!(
            found.with_severity("error"),
            ["membership"],
            "{:#?}",
            found.output
        );
        assert!(
            found.of("membership")[0]["remedy"]
                .as_str()
                .unwrap()
                .contains("microk8s leave")
        );
        assert_eq!(found.output.code, Some(9));
        for role in [WORKER, CONTROL_PLANE] {
            let refused = n2.shell(&format!("microk8s join {elsewhere} {role}"));
            assert_eq!(refused.code, Some(9), "{refused:?}");
            assert_eq!(refused.stdout, "Contacting cluster at 10.99.0.13\n");
            assert!(
                refused
                    .stderr
                    .starts_with("error: this node is a worker node of another cluster"),
                "{refused:?}"
            );
        }
        assert_same(&before, &stage.trees());
        n2.shell("microk8s leave").ok();
        n2.shell(&format!("microk8s join {elsewhere} --worker"))
            .ok();
    });
}

#[test]
fn a_control_plane_node_of_a_cluster_does_not_join_another_one() {
    both_ways(&["n1", "n2", "n3"], |stage| {
        let n2 = stage.n2();
        n2.shell(&format!("microk8s join {}", connection(stage.n1())))
            .ok();
        let before = stage.settled_trees();
        let refused = n2.shell(&format!(
            "microk8s join {}",
            connection(stage.lab.host("n3"))
        ));
        assert_eq!(refused.code, Some(9), "{refused:?}");
        assert!(
            refused
                .stderr
                .contains("is a control-plane node of another cluster")
        );
        // n3 has issued a token meanwhile.
        assert!(stage.trees()[..2] == before[..2]);
    });
}

#[test]
fn a_node_that_leads_to_itself_is_told_so() {
    both_ways(&["n1", "n2"], |stage| {
        let n1 = stage.n1();
        let look = look(n1, &format!("{} --worker", connection(n1)));
        assert!(
            look.with_severity("error").contains(&"same-address"),
            "{:#?}",
            look.output
        );
        assert_eq!(look.output.code, Some(6));
        let advice = look.output.stdout.contains("remove-node");
        assert!(!advice, "{:#?}", look.output);
    });
}

#[test]
fn a_worker_with_more_addresses_than_are_signed_joins_and_is_told_which_are_left_out() {
    both_ways(&["n1", "n2"], |stage| {
        let n2 = stage.n2();
        let many: String = (1..=70)
            .map(|number| format!("ip address add 10.99.1.{number}/24 dev eth0; "))
            .collect();
        n2.shell(&many).ok();
        let line = format!("{} --worker", connection(stage.n1()));
        let look = look(n2, &line);
        assert_eq!(look.with_severity("error"), [""; 0], "{:#?}", look.output);
        let told = look.of("certificate-addresses")[0]["message"].to_string();
        assert!(told.contains("10.99.1.70"), "{told}");
        assert!(!told.contains("10.99.0.12"), "{told}");
        let joined = n2.shell(&format!("microk8s join {line}"));
        assert_eq!(joined.code, Some(0), "{joined:?}");
        assert!(joined.stderr.contains("10.99.1.70"), "{joined:?}");
        let certificate = n2
            .shell("openssl x509 -noout -ext subjectAltName < $SNAP_DATA/certs/kubelet.crt")
            .ok();
        assert!(certificate.contains("10.99.0.12"), "{certificate}");
        assert_eq!(certificate.matches("IP Address").count(), 63);
    });
}

#[test]
fn an_interrupted_join_is_told_of_and_left_as_it_is() {
    let Some(stage) = Stage::new(&["n1", "n2"], false) else {
        return;
    };
    let n2 = stage.n2();
    let line = format!("{} --worker", connection(stage.n1()));
    n2.stand_ins
        .kill_caller("restart", "microk8s.daemon-kubelite");
    assert_ne!(n2.shell(&format!("microk8s join {line}")).code, Some(0));
    n2.stand_ins.repair_services();
    let before = stage.settled_trees();
    let look = look(n2, &line);
    assert_eq!(
        look.severity("unfinished-change"),
        "warning",
        "{:#?}",
        look.output
    );
    assert_same(&before, &stage.trees());
}

/// Both ways again, with nobody on n1 yet.
fn both_ways_alone(test: impl Fn(&Host, &Host)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agent = through_agent.then(|| n2.agent());
        reconcile(n2);
        test(n1, n2);
    }
}

#[test]
fn a_clock_that_is_wrong_ends_a_join_and_its_dry_run_alike_before_the_token_is_shown() {
    for (role, seconds, severity, says) in [
        (WORKER, 7300, "error", "differ by 2 h"),
        (WORKER, -7300, "warning", "2 h 2 min behind"),
        (WORKER, -200_000, "error", "differ by 2 d"),
        (WORKER, 1_800_000_000, "error", "differ by 20"),
        (CONTROL_PLANE, 7300, "error", "differ by 2 h"),
        (CONTROL_PLANE, -7300, "error", "differ by 2 h"),
        (CONTROL_PLANE, -62, "warning", "1 min"),
        (CONTROL_PLANE, 62, "warning", "1 min"),
        (CONTROL_PLANE, 1, "ok", "agree"),
    ] {
        both_ways_alone(|n1, n2| {
            let peer = Peer::with_clock(n1, seconds, |_| Reply::Json(404, "{}".to_owned()));
            let arguments = format!("10.99.0.11:25000/{UNKNOWN} --skip-verify {role}");
            let look = look(n2, &arguments);
            assert_eq!(look.severity("clock"), severity, "{:#?}", look.output);
            let message = look.of("clock")[0]["message"].as_str().unwrap();
            assert!(message.contains(says), "{message}");
            let is_error = severity == "error";
            assert_eq!(look.output.code, Some(if is_error { 9 } else { 0 }));

            let asked = peer.requests().len();
            let before = n2.snapshot();
            let joined = n2.shell(&format!("microk8s join {arguments}"));
            assert!(before == n2.snapshot());
            if is_error {
                assert_eq!(joined.code, Some(9), "{joined:?}");
                assert!(joined.stderr.contains(says), "{joined:?}");
                // The two times are named, and what to do.
                assert_eq!(joined.stderr.matches("Z,").count(), 1, "{joined:?}");
                assert!(
                    joined.stderr.contains("timedatectl set-ntp true"),
                    "{joined:?}"
                );
                assert_eq!(peer.requests().len(), asked);
            } else {
                // This peer lets nobody in, which is found out after that.
                assert_eq!(joined.code, Some(6), "{joined:?}");
                let warns = joined.stderr.contains("this node's\n");
                assert_eq!(warns, severity == "warning", "{joined:?}");
            }
        });
    }
}

#[test]
fn address_translation_ends_a_control_plane_join_and_its_dry_run_alike() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let _agent = n1.agent();
    network::forward(n3, "0.0.0.0:25000", "10.99.0.11:25000");
    let whole = connection(n1).replace("10.99.0.11", "10.99.0.13");
    let says = "sees this node at 10.99.0.13, which is not an address of this machine";

    let found = look(n2, &whole);
    assert_eq!(
        found.severity("own-address"),
        "error",
        "{:#?}",
        found.output
    );
    assert_eq!(found.output.code, Some(9), "{:#?}", found.output);
    let before = n2.snapshot();
    let joined = n2.shell(&format!("microk8s join {whole}"));
    assert_eq!(joined.code, Some(9), "{joined:?}");
    assert!(joined.stderr.contains(says), "{joined:?}");
    assert!(before == n2.snapshot());

    // The token was not touched. A worker is warned.
    let found = look(n2, &format!("{whole} --worker"));
    assert_eq!(
        found.severity("own-address"),
        "warning",
        "{:#?}",
        found.output
    );
    let joined = n2.shell(&format!("microk8s join {whole} --worker"));
    assert!(joined.stderr.contains(says), "{joined:?}");
    let list = n1.shell("microk8s token list --format json").ok();
    assert!(list.contains("10.99.0.13"), "{list}");
}

#[test]
fn a_disk_that_cannot_be_written_ends_a_join_and_its_dry_run_alike() {
    for (role, through_agent) in [
        (WORKER, true),
        (CONTROL_PLANE, true),
        (CONTROL_PLANE, false),
    ] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        // Before the agent starts, which would not see it come.
        let disk = SmallDisk::over(n2, &n2.snap_data(), "2m");
        let _agents = (n1.agent(), through_agent.then(|| n2.agent()));
        if through_agent {
            n2.wait_for_database();
        }
        let line = format!("{} {role}", connection(n1));
        let alike = |says: &str| {
            let found = look(n2, &line);
            assert_eq!(found.severity("disk"), "error", "{:#?}", found.output);
            assert_eq!(found.output.code, Some(13), "{:#?}", found.output);
            let message = found.of("disk")[0]["message"].as_str().unwrap();
            assert!(message.contains(says), "{message}");
            let joined = n2.shell(&format!("microk8s join {line}"));
            assert_eq!(joined.code, Some(13), "{joined:?}");
            assert!(joined.stderr.contains(message), "{joined:?}");
        };
        disk.fill_up_to(0);
        alike("No space left on device");
        disk.make_room();
        let remount = |how: &str| {
            let options = format!("remount,{how}");
            let mount = Command::new("mount")
                .args(["-o", &options])
                .arg(n2.snap_data())
                .status();
            assert!(mount.unwrap().success());
        };
        // An agent has files open on it for writing.
        if !through_agent {
            remount("ro");
            alike("Read-only file system");
            remount("rw");
        }
        n2.shell(&format!("microk8s join {line}")).ok();
    }
}

#[test]
fn an_immutable_file_ends_a_join_and_its_dry_run_alike() {
    both_ways(&["n1", "n2"], |stage| {
        let (n1, n2) = (stage.n1(), stage.n2());
        let kubelet = n2.path("args/kubelet");
        let set = |flag: &str| Command::new("chattr").arg(flag).arg(&kubelet).status();
        if !set("+i").is_ok_and(|status| status.success()) {
            skip("no file can be made immutable here");
            return;
        }
        let line = connection(n1);
        let found = look(n2, &line);
        let joined = n2.shell(&format!("microk8s join {line}"));
        assert!(set("-i").unwrap().success());
        assert_eq!(found.severity("disk"), "error", "{:#?}", found.output);
        assert_eq!(
            (found.output.code, joined.code),
            (Some(13), Some(13)),
            "{joined:?}"
        );
        assert!(joined.stderr.contains("args/kubelet"), "{joined:?}");
        n2.shell(&format!("microk8s join {line}")).ok();
    });
}

#[test]
fn an_agent_that_does_not_tell_leaves_its_checks_open() {
    both_ways_alone(|n1, n2| {
        let peer = Peer::start(n1, Speaks::Tls, |_| {
            Reply::Json(404, "404 page not found".to_owned())
        });
        let before = Snapshot::take(&n2.snap_data(), &[]);
        let look = look(n2, &format!("10.99.0.11:25000/{UNKNOWN} --worker"));
        assert_eq!(look.output.code, Some(0), "{:#?}", look.output);
        assert_eq!(look.severity("cluster-agent"), "ok");
        for check in [
            "token",
            "host-name",
            "datastore-entry",
            "clock",
            "version",
            "api-server",
        ] {
            assert_eq!(look.severity(check), "unchecked", "{:#?}", look.output);
        }
        let why = look.of("token")[0]["message"].as_str().unwrap();
        assert!(why.contains("MicroK8s's own agent"), "{why}");
        let asked: Vec<String> = peer.requests().into_iter().map(|one| one.path).collect();
        assert_eq!(asked, ["/cluster/api/v2.0/join/check"]);
        let after = Snapshot::take(&n2.snap_data(), &[]);
        let whole = |tree: Snapshot| [[tree, Snapshot::default()]];
        assert_same(&whole(before), &whole(after));
        let text = n2.shell(&format!(
            "microk8s join --dry-run 10.99.0.11:25000/{UNKNOWN} --worker"
        ));
        let line = text
            .stdout
            .lines()
            .find(|line| line.starts_with("unchecked  13 checks"));
        assert!(
            line.is_some_and(|line| line.contains("(token, high-availability, ")),
            "{text:?}"
        );
    });
}

#[test]
fn a_peer_that_is_no_agent_is_told_apart_from_one_that_is_not_there() {
    for (speaks, reply, check, exit, says) in [
        (
            Speaks::PlainHttp,
            None,
            "connection",
            4,
            "wrong version number",
        ),
        (
            Speaks::Nothing,
            None,
            "connection",
            10,
            "did not set up TLS within",
        ),
        (
            Speaks::Tls,
            Some("hello there\r\n"),
            "cluster-agent",
            1,
            "hello there",
        ),
        (
            Speaks::Tls,
            Some(""),
            "cluster-agent",
            1,
            "Remote end closed connection",
        ),
    ] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let _peer = Peer::start(lab.host("n1"), speaks, move |_| match reply {
            Some(text) => Reply::Bytes(text.into()),
            None => Reply::Close,
        });
        let look = look(lab.host("n2"), &format!("10.99.0.11:25000/{UNKNOWN}"));
        assert_eq!(look.with_severity("error"), [check], "{:#?}", look.output);
        let message = look.of(check)[0]["message"].as_str().unwrap();
        assert!(message.contains(says), "{message}");
        assert_eq!(look.output.code, Some(exit), "{message}");
    }
}

#[test]
fn what_another_node_tells_cannot_steer_a_terminal_or_the_exit_code() {
    const TOLD: &str = r#"{"findings": [{"check": "a\nb", "severity": "error", "message": "\u001b[2Jx", "remedy": "1\n2", "exit": 0}], "version": "\u001b", "cluster_cidr": "\n", "voters": ["x"], "apiport": "x"}"#;
    both_ways_alone(|n1, n2| {
        let _peer = Peer::start(n1, Speaks::Tls, |_| Reply::Json(200, TOLD.to_owned()));
        let arguments = format!("10.99.0.11:25000/{UNKNOWN}");
        let text = n2.shell(&format!("microk8s join --dry-run {arguments}"));
        assert_eq!(text.code, Some(6), "{text:?}");
        assert!(!text.stdout.contains('\u{1b}'), "{text:?}");
        let mut lines = text.stdout.lines();
        let line = lines.find(|line| line.starts_with("error"));
        assert!(line.is_some_and(|line| line.contains("a b")), "{text:?}");
        assert_eq!(lines.next().map(str::trim), Some("fix: 1 2"), "{text:?}");
    });
}

#[test]
fn a_stranger_learns_by_a_look_no_more_than_by_a_join() {
    let Some(stage) = Stage::new(&["n1", "n2"], false) else {
        return;
    };
    let n2 = stage.n2();
    let ask = |path: &str, token: &str| {
        n2.shell(&format!(
            "curl -sk https://10.99.0.11:25000/cluster/api/{path} -w ' %{{http_code}}' -d '{{\"token\":\"{token}\",\"hostname\":\"n2\",\"port\":\"25000\",\"worker\":true,\"can_handle_x509_auth\":true,\"can_handle_custom_etcd\":true,\"callback\":\"x\"}}'"
        ))
        .ok()
    };
    for (join, check) in [
        ("v2.0/join", "v2.0/join/check"),
        ("v1.0/join", "v1.0/join/check"),
    ] {
        assert_eq!(ask(check, UNKNOWN), ask(join, UNKNOWN));
    }
    let whole = connection(stage.n1());
    let token = whole.split('/').nth(1).unwrap();
    // However often it is asked, the token stays.
    for _ in 0..3 {
        let answer = ask("v2.0/join/check", token);
        assert!(
            answer.ends_with(" 200") && !answer.contains("PRIVATE KEY"),
            "{answer}"
        );
    }
    n2.shell(&format!("microk8s join {whole} --worker")).ok();
    assert!(ask("v2.0/join/check", token).contains("Invalid token"));
}

#[test]
fn arguments_that_are_not_understood_end_as_they_do_for_a_join() {
    both_ways(&["n1", "n2"], |stage| {
        let n2 = stage.n2();
        for (arguments, exit) in [
            ("", 2),
            ("a b", 2),
            ("--node-label x", 2),
            ("--token-file /nowhere", 1),
        ] {
            let look = look(n2, arguments);
            assert_eq!(look.output.code, Some(exit), "{:#?}", look.output);
            assert_eq!(look.end["outcome"], "failed");
            assert_ne!(look.end["message"], "");
            let plain = n2.shell(&format!("microk8s join {arguments}"));
            let dry = n2.shell(&format!("microk8s join --dry-run {arguments}"));
            assert_eq!((plain.code, plain.stderr), (dry.code, dry.stderr));
        }
    });
}

/// The contacted node gives up asking before the one that looks gives up waiting. A worker would be
/// refused; a control plane node, which gets the cluster's authority itself, would not.
#[test]
fn an_api_server_that_is_silent_keeps_one_check_from_passing_and_not_all() {
    let Some(stage) = Stage::new(&["n1", "n2"], false) else {
        return;
    };
    stage.n1().stand_ins.hang_kubectl();
    for (role, severity, errors) in [
        (WORKER, "error", &["node-name"][..]),
        (CONTROL_PLANE, "unchecked", &[]),
    ] {
        let look = look(stage.n2(), &format!("{} {role}", connection(stage.n1())));
        assert_eq!(look.severity("cluster-agent"), "ok", "{:?}", look.output);
        assert_eq!(look.severity("node-name"), severity, "{:?}", look.output);
        assert_eq!(look.with_severity("error"), errors);
    }
}
