//! One broken set-up for each check: what has to be said of it, and what cures it.

use std::fs;

use super::{
    CONTROL_PLANE, Stage, UNKNOWN, WORKER, assert_same, both_ways, connection, has_version, look,
    uses_names,
};

/// A fault, and what has to be said of it.
struct Fault {
    role: &'static str,
    /// Breaks the set-up; says what to type, where that is not the connection string.
    breaks: fn(&Stage, &str) -> Option<String>,
    check: &'static str,
    severity: &'static str,
    /// The exit code of the look.
    exit: i32,
    /// What was found.
    says: &'static str,
    /// What is to be done, and where.
    remedy: &'static str,
    on: Option<&'static str>,
    /// Cures what can be cured, so that the same string joins.
    cure: Option<fn(&Stage)>,
}

/// Faults of the joining node, and of what was typed there.
const HERE: &[Fault] = &[
    Fault {
        role: WORKER,
        breaks: |_, whole| Some(whole.replace(":25000", ":250000")),
        check: "connection-string",
        severity: "error",
        exit: 1,
        says: "Invalid connection: Master PORT not in range 1:65535",
        remedy: "take the string that `microk8s add-node` prints",
        on: Some("joining-node"),
        cure: Some(|_| {}),
    },
    Fault {
        role: CONTROL_PLANE,
        breaks: |stage, _| {
            stage
                .n2()
                .write("var/lock/low-memory-guard.lock", "", 0o600);
            None
        },
        check: "memory-guard",
        severity: "error",
        exit: 1,
        says: "this node does not have enough RAM to host the Kubernetes control plane services",
        remedy: "--disable-low-memory-guard",
        on: Some("joining-node"),
        cure: Some(|stage| stage.n2().remove("var/lock/low-memory-guard.lock")),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            fs::create_dir(stage.n2().snap_common().join("default-storage")).unwrap();
            None
        },
        check: "hostpath-storage",
        severity: "warning",
        exit: 0,
        says: "hostpath storage is enabled and is not suitable for multi node clusters",
        remedy: "microk8s disable hostpath-storage",
        on: Some("joining-node"),
        cure: Some(|_| {}),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            stage
                .n2()
                .shell("mv $SNAP_DATA/args/kubelet $SNAP_DATA/away")
                .ok();
            None
        },
        check: "node-files",
        severity: "error",
        exit: 9,
        says: "cannot read `",
        remedy: "",
        on: None,
        cure: Some(|stage| {
            stage
                .n2()
                .shell("mv $SNAP_DATA/away $SNAP_DATA/args/kubelet")
                .ok();
        }),
    },
    Fault {
        role: WORKER,
        breaks: |_, whole| Some(format!("{whole} --node-ip 10.99.0.11")),
        check: "node-ip",
        severity: "error",
        exit: 9,
        says: "10.99.0.11 is not an address of this machine",
        remedy: "`ip address` lists the addresses",
        on: None,
        cure: Some(|_| {}),
    },
];

/// Faults that show when the other node is contacted.
const THERE: &[Fault] = &[
    Fault {
        role: WORKER,
        breaks: |_, whole| Some(whole.replace(":25000", ":25001")),
        check: "connection",
        severity: "error",
        exit: 10,
        says: "cannot connect to 10.99.0.11:25001: Connection refused",
        remedy: "check the address and the port",
        on: None,
        cure: Some(|_| {}),
    },
    Fault {
        role: WORKER,
        breaks: |_, whole| {
            let (front, _) = whole.rsplit_once('/').unwrap();
            Some(format!("{front}/000000000000"))
        },
        check: "fingerprint",
        severity: "error",
        exit: 4,
        says: "Could not verify the identity of 10.99.0.11",
        remedy: "compare the last part",
        on: None,
        cure: Some(|_| {}),
    },
    Fault {
        role: WORKER,
        breaks: |_, whole| Some(whole.rsplit_once('/').unwrap().0.to_owned()),
        check: "fingerprint",
        severity: "warning",
        exit: 0,
        says: "has no fingerprint",
        remedy: "take the whole string",
        on: Some("joining-node"),
        cure: Some(|_| {}),
    },
    Fault {
        role: WORKER,
        breaks: |_, whole| {
            let parts: Vec<&str> = whole.split('/').collect();
            Some(format!("{}/{UNKNOWN}/{}", parts[0], parts[2]))
        },
        check: "token",
        severity: "error",
        exit: 6,
        says: "Connection failed. Invalid token (500).",
        remedy: "the contacted node does not know this token",
        on: None,
        cure: Some(|_| {}),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            stage
                .n1()
                .shell("mv $SNAP_DATA/var/lock/ha-cluster $SNAP_DATA/away")
                .ok();
            None
        },
        check: "high-availability",
        severity: "error",
        exit: 6,
        says: "This is not an HA MicroK8s cluster",
        remedy: "microk8s enable ha-cluster",
        on: Some("contacted-node"),
        cure: Some(|stage| {
            stage
                .n1()
                .shell("mv $SNAP_DATA/away $SNAP_DATA/var/lock/ha-cluster")
                .ok();
        }),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            let arguments = stage.n2().read("args/cluster-agent");
            stage.n2().write("away", &arguments, 0o600);
            let moved = arguments.replace(":25000", ":25001");
            stage.n2().write("args/cluster-agent", &moved, 0o660);
            None
        },
        check: "agent-port",
        severity: "error",
        exit: 6,
        says: "The port of the cluster agent port has to be set to 25000",
        remedy: "set the port in `--bind` of `args/cluster-agent` to 25000",
        on: Some("joining-node"),
        cure: Some(|stage| {
            let arguments = stage.n2().read("away");
            stage.n2().write("args/cluster-agent", &arguments, 0o660);
        }),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            uses_names(stage);
            stage.n1().knows(&[]);
            None
        },
        check: "host-name",
        severity: "error",
        exit: 6,
        says: "The hostname (n2) of the joining node does not resolve to the IP \"10.99.0.12\". Refusing join; it does not resolve there at all",
        remedy: "add the line `10.99.0.12 n2` to /etc/hosts",
        on: Some("contacted-node"),
        cure: Some(|stage| stage.n1().knows(&[("n2", "10.99.0.12")])),
    },
    Fault {
        role: CONTROL_PLANE,
        breaks: |stage, _| {
            uses_names(stage);
            stage.n1().knows(&[("n2", "10.99.0.77")]);
            None
        },
        check: "host-name",
        severity: "error",
        exit: 6,
        says: "it resolves to 10.99.0.77 there",
        remedy: "add the line `10.99.0.12 n2` to /etc/hosts, in place of what names it now",
        on: Some("contacted-node"),
        cure: Some(|stage| stage.n1().knows(&[("n2", "10.99.0.12")])),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            stage
                .n1()
                .stand_ins
                .kubernetes_knows("n2", Some("10.99.0.77"));
            None
        },
        check: "node-name",
        severity: "error",
        exit: 6,
        says: "The hostname (n2) of the joining node is taken by another node at 10.99.0.77",
        remedy: "microk8s remove-node n2 --force",
        on: Some("contacted-node"),
        cure: Some(|stage| drop(stage.n1().shell("microk8s remove-node n2 --force").ok())),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            let members = stage.n1().read("var/kubernetes/backend/cluster.yaml");
            stage.n1().write("away", &members, 0o600);
            let more = format!("{members}- Address: 10.99.0.12:19001\n  ID: 7\n  Role: 0\n");
            stage
                .n1()
                .write("var/kubernetes/backend/cluster.yaml", &more, 0o660);
            None
        },
        check: "datastore-entry",
        severity: "error",
        exit: 6,
        says: "the joining node (10.99.0.12) is already known to dqlite",
        remedy: "run `microk8s remove-node 10.99.0.12 --force`",
        on: Some("contacted-node"),
        cure: Some(|stage| {
            let members = stage.n1().read("away");
            stage
                .n1()
                .write("var/kubernetes/backend/cluster.yaml", &members, 0o660);
        }),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            has_version(stage.n2(), "v1.30.1");
            None
        },
        check: "version",
        severity: "warning",
        exit: 0,
        says: "v1.30.1 here, v1.28.7 there: a worker must not be newer",
        remedy: "snap refresh microk8s --channel=1.28",
        on: Some("joining-node"),
        cure: Some(|_| {}),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            let arguments = stage.n2().read("args/kube-proxy");
            let other = arguments.replace("10.1.0.0/16", "10.2.0.0/16");
            assert_ne!(arguments, other);
            stage.n2().write("args/kube-proxy", &other, 0o660);
            None
        },
        check: "pod-network",
        severity: "warning",
        exit: 0,
        says: "the cluster has the pod network 10.1.0.0/16, and this node 10.2.0.0/16",
        remedy: "--cluster-cidr=10.1.0.0/16",
        on: Some("joining-node"),
        cure: Some(|_| {}),
    },
    Fault {
        role: CONTROL_PLANE,
        breaks: |stage, _| {
            let arguments = stage.n1().read("args/kube-apiserver");
            let strict = arguments.replace("=EventRateLimit", "=EventRateLimit,NodeRestriction");
            assert_ne!(arguments, strict);
            stage.n1().write("args/kube-apiserver", &strict, 0o660);
            None
        },
        check: "api-server-limits",
        severity: "warning",
        exit: 0,
        says: "admits more than that of 10.99.0.11: `--enable-admission-plugins` lacks NodeRestriction",
        remedy: "set the same in `args/kube-apiserver`",
        on: Some("joining-node"),
        cure: Some(|_| {}),
    },
    Fault {
        role: WORKER,
        breaks: |stage, _| {
            let arguments = stage.n1().read("args/kube-apiserver");
            stage.n1().write("away", &arguments, 0o600);
            let moved = arguments.replace("16443", "16444");
            stage.n1().write("args/kube-apiserver", &moved, 0o660);
            None
        },
        check: "api-server",
        severity: "error",
        exit: 15,
        says: "cannot connect to 10.99.0.11:16444: Connection refused",
        remedy: "let TCP port 16444 through",
        on: Some("contacted-node"),
        cure: Some(|stage| {
            let arguments = stage.n1().read("away");
            stage.n1().write("args/kube-apiserver", &arguments, 0o660);
        }),
    },
    Fault {
        role: CONTROL_PLANE,
        breaks: |stage, _| {
            let file = "var/kubernetes/backend/cluster.yaml";
            let moved = stage.n1().read(file).replace("127.0.0.1", "10.99.0.11");
            stage.n1().write(file, &moved, 0o660);
            None
        },
        check: "datastore",
        severity: "error",
        exit: 8,
        says: "cannot connect to 10.99.0.11:19001: Connection refused",
        remedy: "let TCP port 19001 through",
        on: Some("contacted-node"),
        cure: Some(|_| {}),
    },
];

/// Each fault is named with its remedy, on both ways, and neither node changes. Where it is cured,
/// the token that was looked at serves for the join.
fn each_is_named(faults: &[Fault]) {
    for (number, fault) in faults.iter().enumerate() {
        both_ways(&["n1", "n2"], |stage| {
            let whole = connection(stage.n1());
            let typed = (fault.breaks)(stage, &whole).unwrap_or_else(|| whole.clone());
            let arguments = format!("{typed} {}", fault.role);
            let before = stage.trees();
            let look = look(stage.n2(), &arguments);
            let place = format!("fault {number}, {}: {:#?}", fault.check, look.output);
            assert_eq!(look.output.code, Some(fault.exit), "{place}");
            assert_eq!(look.with_severity(fault.severity), [fault.check], "{place}");
            let found = look.of(fault.check)[0];
            assert!(
                found["message"].as_str().unwrap().contains(fault.says),
                "{place}"
            );
            let remedy = found["remedy"].as_str().unwrap_or_default();
            assert!(remedy.contains(fault.remedy), "{place}");
            assert_eq!(found["on"].as_str(), fault.on, "{place}");
            assert!(
                !look
                    .output
                    .stdout
                    .contains(whole.split('/').nth(1).unwrap()),
                "{place}"
            );
            assert_eq!(look.output.stderr, "", "{place}");

            let text = stage
                .n2()
                .shell(&format!("microk8s join --dry-run {arguments}"));
            assert_eq!(text.code, Some(fault.exit), "{text:?}");
            let start = format!("{:9}  {:17}  ", fault.severity, fault.check);
            let mut lines = text.stdout.lines();
            let line = lines.find(|line| line.starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("`{start}`: {text:?}"));
            assert!(line.contains(fault.says), "{line}");
            if !remedy.is_empty() {
                let below = lines.next().unwrap_or_default();
                assert!(
                    below.trim().starts_with("fix: ") && below.ends_with(remedy),
                    "{below}"
                );
            }
            assert!(!text.stdout.contains('\u{1b}'), "{text:?}");
            assert_same(&before, &stage.trees());

            // What the dry run foretells is what the join does, but for ports of services that are
            // stand-ins here; `failed_joins` has the exit codes where such a service does not answer.
            let is_stand_in = ["api-server", "datastore"].contains(&fault.check);
            if fault.severity == "error" && !is_stand_in {
                let joined = stage.n2().shell(&format!("microk8s join {arguments}"));
                assert_eq!(joined.code, Some(fault.exit), "{place}\n{joined:?}");
            }
            if let Some(cure) = fault.cure {
                cure(stage);
                // The very string that was looked at.
                stage
                    .n2()
                    .shell(&format!("microk8s join {whole} {}", fault.role))
                    .ok();
            }
        });
    }
}

#[test]
fn faults_of_the_joining_node_are_named_with_their_remedies_and_cost_nothing() {
    each_is_named(HERE);
}

#[test]
fn faults_that_the_contacted_node_shows_are_named_with_their_remedies_and_cost_nothing() {
    each_is_named(THERE);
}
