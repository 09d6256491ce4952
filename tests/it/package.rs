//! The Debian package on machines with a real systemd: three standalone nodes, a real API server and
//! etcd on the first, a real dqlite beside the control plane nodes.
//!
//! `MICROK8S_TEST_DEB` names the package; `.ci/run` has `cargo deb` make it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::Value;

use crate::lab::daemon::Programs;
use crate::lab::systemd::{Machine, UNIT};
use crate::lab::{Lab, Output, is_installed, skip};

/// Names the package.
const VARIABLE: &str = "MICROK8S_TEST_DEB";
const PROXY: &str = "microk8s-apiserver-proxy";
/// The programs of the datastore beside a standalone control plane node.
const DATASTORE: [&str; 2] = ["/usr/bin/dqlite-demo", "/usr/bin/dqlite"];
/// What systemd-analyze(1) may say of the units at most, in tenths.
const EXPOSURE: &str = "24";

/// Where a machine has the packages.
const FIRST: &str = "/root/first.deb";
const SECOND: &str = "/root/second.deb";

/// What a machine changes of its own accord.
const OF_THE_MACHINE: [&str; 7] = [
    "/etc/machine-id",
    // What was there before a group was added.
    "/etc/group-",
    "/etc/gshadow-",
    "/var/lib/dpkg/",
    "/var/lib/systemd/",
    "/var/log/",
    "/var/tmp/",
];

/// The package, and one of a higher version with the same files.
struct Packages {
    first: PathBuf,
    second: PathBuf,
}

impl Packages {
    fn find(folder: &Path) -> Option<Self> {
        let Some(first) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            skip(&format!(
                "{VARIABLE} names no package (`.ci/run` makes one)"
            ));
            return None;
        };
        assert!(first.is_file(), "{VARIABLE}={}", first.display());
        let (tree, second) = (folder.join("second"), folder.join("second.deb"));
        let script = r#"
            dpkg-deb --raw-extract "$0" "$1" &&
            sed -i 's/^Version: .*/&+second/' "$1/DEBIAN/control" &&
            dpkg-deb --build -Znone "$1" "$2" && rm -r "$1""#;
        let built = Command::new("sh")
            .args(["-c", script])
            .args([&first, &tree, &second])
            .output()
            .unwrap();
        assert!(built.status.success(), "{built:?}");
        Some(Self { first, second })
    }
}

/// The files that a program of this machine needs on another one.
fn with_libraries(programs: &[&str]) -> BTreeSet<PathBuf> {
    let output = Command::new("ldd").args(programs).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| {
        word.starts_with('/') && !word.ends_with(':') && !word.starts_with("/lib64/")
    });
    let all = libraries.chain(programs.iter().copied());
    all.map(PathBuf::from).collect()
}

/// Starts etcd and the API server with each boot, with the certificates and arguments of the node.
fn serve_kubernetes(machine: &Machine, api_server: &Path) {
    machine.write(
        "/usr/local/bin/serve-kubernetes",
        &format!(
            r#"#!/bin/sh
cd /var/lib/microk8s/current/args || exit
export SNAP_DATA=/var/lib/microk8s/current
foreign='^--feature-gates=|^--tls-cipher-suites=|^--etcd-|^#'
eval "exec {} --etcd-servers=http://127.0.0.1:2379 $(grep -Ev "$foreign" kube-apiserver | tr '\n' ' ')"
"#,
            api_server.display()
        ),
        0o755,
    );
    for (name, command) in [
        ("etcd", "/usr/bin/etcd --data-dir /var/lib/etcd"),
        ("kube-apiserver", "/usr/local/bin/serve-kubernetes"),
    ] {
        let unit = format!(
            "[Unit]\nAfter=network.target etcd.service\n[Service]\nExecStart={command}\n\
             Restart=always\nRestartSec=1\n[Install]\nWantedBy=multi-user.target\n"
        );
        machine.write(&format!("/etc/systemd/system/{name}.service"), &unit, 0o644);
    }
    machine
        .shell("systemctl daemon-reload; systemctl enable --now etcd kube-apiserver")
        .ok();
    await_kubernetes(machine);
}

/// Runs kubectl with a kubeconfig of the machine's node.
fn kubectl(machine: &Machine, kubeconfig: &str, arguments: &str) -> Output {
    machine.shell(&format!(
        "kubectl --cache-dir /tmp/kubectl --kubeconfig /var/lib/microk8s/current/credentials/{kubeconfig} {arguments}"
    ))
}

fn await_kubernetes(machine: &Machine) {
    machine.wait_until("API server", || {
        let answer = kubectl(machine, "client.config", "get --raw=/readyz");
        (answer.code == Some(0)).then_some(())
    });
}

fn install(machine: &Machine, package: &str) {
    machine.shell(&format!("dpkg -i {package} 2>&1")).ok();
}

/// The files of a machine without what is mounted there, and without what it writes by itself.
fn files(machine: &Machine) -> BTreeSet<String> {
    let list = machine.shell("find / -xdev ! -type d").ok();
    list.lines()
        .filter(|path| !OF_THE_MACHINE.iter().any(|own| path.starts_with(own)))
        .map(str::to_owned)
        .collect()
}

/// The nodes that a machine's agent knows, with their roles.
fn nodes(machine: &Machine) -> BTreeSet<String> {
    let list: Value =
        serde_json::from_str(&machine.shell("microk8s nodes --format json").ok()).unwrap();
    let nodes = list["nodes"].as_array().unwrap().iter();
    let nodes = nodes.map(|node| {
        let word = |field: &str| node[field].as_str().unwrap().to_owned();
        format!("{} {}", word("address"), word("role"))
    });
    nodes.collect()
}

fn add_node(machine: &Machine, options: &str) -> String {
    let line = format!("microk8s add-node --format short {options}");
    let lines = machine.shell(&line).ok();
    lines.lines().next().unwrap().to_owned()
}

#[test]
fn nodes_that_the_package_set_up_join_reboot_upgrade_and_go_without_a_trace() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let Some(packages) = Packages::find(lab.host("n1").scratch()) else {
        return;
    };
    let programs = match Programs::find() {
        Ok(programs) => programs,
        Err(reason) => return skip(&reason),
    };
    if !is_installed("dqlite-demo") {
        return;
    }
    let mut shared = with_libraries(&DATASTORE);
    shared.extend(["/usr/bin/etcd".into(), programs.api_server.clone()]);
    shared.insert(programs.kubectl.clone());
    let shared: Vec<&Path> = shared.iter().map(PathBuf::as_path).collect();
    let Some(mut machines) = Machine::boot_bare(lab.hosts(), &shared) else {
        return;
    };
    for machine in &machines {
        for (from, to) in [(&packages.first, FIRST), (&packages.second, SECOND)] {
            machine.copy(from, to);
        }
    }

    // After the installation nothing runs, and nothing would after a reboot.
    let before = files(&machines[2]);
    for machine in &machines {
        install(machine, FIRST);
        let state = machine.shell(&format!(
            "systemctl is-enabled {UNIT} {PROXY}; systemctl is-active {UNIT} {PROXY}"
        ));
        assert_eq!(state.stdout, "disabled\nstatic\ninactive\ninactive\n");
        machine
            .shell(&format!(
                "systemd-analyze security --no-pager --threshold={EXPOSURE} {UNIT} {PROXY}"
            ))
            .ok();
    }
    for machine in &machines[..2] {
        let drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/microk8s agent --datastore-demo\n";
        let folder = format!("/etc/systemd/system/{UNIT}.service.d");
        machine.shell(&format!("mkdir {folder}")).ok();
        machine.write(&format!("{folder}/datastore.conf"), drop_in, 0o644);
        machine.shell("systemctl daemon-reload").ok();
    }
    for machine in &machines {
        machine
            .shell(&format!("systemctl enable --now {UNIT}"))
            .ok();
        assert_eq!(machine.property("ActiveState"), "active");
    }
    // A member of the group may use the node, another user may not.
    let asked = |as_user: &str| machines[0].shell(&format!("{as_user} microk8s nodes")).code;
    assert_eq!(
        asked("setpriv --reuid nobody --regid microk8s --clear-groups"),
        Some(0)
    );
    assert_ne!(
        asked("setpriv --reuid nobody --regid nogroup --clear-groups"),
        Some(0)
    );

    serve_kubernetes(&machines[0], &programs.api_server);
    let [n1, n2, n3] = &machines[..] else {
        unreachable!()
    };
    n2.shell(&add_node(n1, "--role control-plane")).ok();
    n3.shell(&format!("{} --worker", add_node(n1, "--role worker")))
        .ok();
    let members = |n2: &str| {
        let n2 = format!("10.99.0.12 {n2}");
        BTreeSet::from(["10.99.0.11 control-plane", &n2, "10.99.0.13 worker"].map(str::to_owned))
    };
    assert_eq!(nodes(n1), members("control-plane"));
    let journal = n1.journal("cat");
    for (name, role) in [("n2", "control-plane"), ("n3", "worker")] {
        let joined = journal.lines().any(|line| {
            let told = format!("node=\"{name}\" role=\"{role}\"");
            line.contains("request=\"join\"") && line.contains(&told)
        });
        assert!(joined, "{name}:\n{journal}");
    }
    // The worker reaches the API server by its own proxy, with what the join gave it.
    let posted = |machine: &Machine, name: &str| {
        let node = format!(r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}}}}"#);
        let line = format!("create -f - <<'END'\n{node}\nEND");
        kubectl(machine, "kubelet.config", &line).ok();
    };
    posted(n3, "n3");

    Machine::reboot(&mut machines);
    for machine in &machines {
        assert_eq!(machine.property("ActiveState"), "active");
    }
    let [n1, n2, n3] = &machines[..] else {
        unreachable!()
    };
    await_kubernetes(n1);
    assert_eq!(nodes(n1), members("control-plane"));
    assert!(nodes(n2).contains("10.99.0.11 control-plane"));
    kubectl(n3, "kubelet.config", "get node n3").ok();

    // The joining node is upgraded while the contacted one does not answer it.
    n2.shell("microk8s leave").ok();
    n1.shell("microk8s remove-node n2").ok();
    let line = format!("{} --worker", add_node(n1, "--role worker --uses 1"));
    n1.shell(&format!("systemctl kill --signal STOP {UNIT}"))
        .ok();
    let undone = thread::scope(|scope| {
        let join = scope.spawn(|| n2.shell(&line));
        // 10.99.0.11:25000, connected.
        n2.wait_until("connection", || {
            let found = n2.shell("grep -q '0B00630A:61A8 01' /proc/net/tcp");
            (found.code == Some(0)).then_some(())
        });
        install(n2, SECOND);
        join.join().unwrap()
    });
    assert_ne!(undone.code, Some(0), "{undone:?}");
    n1.shell(&format!("systemctl kill --signal CONT {UNIT}"))
        .ok();
    assert_eq!(n2.property("ActiveState"), "active");
    assert!(n2.shell("dpkg -s microk8s").ok().contains("+second\n"));

    // The contacted node is upgraded while the other one tries again with the same token.
    let joined = thread::scope(|scope| {
        let join = scope.spawn(|| n2.shell(&format!("{line} --wait=5m")));
        install(n1, SECOND);
        join.join().unwrap()
    });
    joined.ok();
    assert_eq!(nodes(n1), members("worker"));
    posted(n2, "n2");

    n3.shell("dpkg --purge microk8s").ok();
    let left: Vec<String> = files(n3).difference(&before).cloned().collect();
    let is_data = |path: &String| path.starts_with("/var/lib/microk8s/");
    assert!(left.iter().any(is_data), "the node's data is gone");
    assert!(left.iter().all(is_data), "{left:#?}");
    // And it is good for another installation.
    install(n3, FIRST);
    n3.shell(&format!("systemctl enable --now {UNIT}")).ok();
    n3.wait_until("proxy", || {
        let answer = kubectl(n3, "kubelet.config", "get node n3");
        (answer.code == Some(0)).then_some(())
    });
}

/// What `[package.metadata.deb]` of Cargo.toml lists: source, and target folder or file.
fn assets() -> Vec<(String, String)> {
    let text = fs::read_to_string(project().join("Cargo.toml")).unwrap();
    let (_, rest) = text.split_once("\nassets = [\n").unwrap();
    let (list, _) = rest.split_once("\n]\n").unwrap();
    let words = list.lines().map(|line| line.split('"').collect::<Vec<_>>());
    words
        .map(|words| (words[1].to_owned(), words[3].to_owned()))
        .collect()
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_package_has_every_manual_page_completion_unit_and_document() {
    let mut wrong = Vec::new();
    let mut packaged = BTreeSet::new();
    for (source, _) in assets() {
        if source.starts_with("target/") {
            continue;
        }
        let line = format!("ls -d {source}");
        let found = Command::new("sh")
            .args(["-c", &line])
            .current_dir(project())
            .output()
            .unwrap();
        if !found.status.success() {
            wrong.push(format!("there is no {source}"));
        }
        let text = String::from_utf8(found.stdout).unwrap();
        packaged.extend(text.lines().map(str::to_owned));
    }
    // Debian has no place for completions of these shells; the last one makes another package.
    let others = ["_microk8s.ps1", "microk8s.elv", "make-tarball"];
    for (folder, ends) in [
        ("man", ""),
        ("docs", ".md"),
        ("packaging", ""),
        ("completions", ""),
    ] {
        for entry in fs::read_dir(project().join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{folder}/{name}");
            if entry.path().is_file()
                && name.ends_with(ends)
                && !others.contains(&name.as_str())
                && !packaged.contains(&path)
            {
                wrong.push(format!("{path} is not in the package"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn maintainer_scripts_are_shell_that_may_run_again_and_leave_an_upgrade_running() {
    for name in ["postinst", "prerm", "postrm"] {
        let script = project().join("packaging/debian").join(name);
        // In the place of systemd: notes what it is told.
        let folder = tempfile::tempdir().unwrap();
        for program in ["systemctl", "systemd-sysusers", "systemd-tmpfiles", "rmdir"] {
            let path = folder.path().join(program);
            fs::write(&path, "#!/bin/sh\necho \"${0##*/} $*\"\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let run = |arguments: &[&str]| {
            let output = Command::new("sh")
                .arg("-eu")
                .arg(&script)
                .args(arguments)
                .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
                .output()
                .unwrap();
            assert!(output.status.success(), "{name} {arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        for arguments in [
            &["configure", ""][..],
            &["remove"],
            &["upgrade", "0.2.0"],
            &["failed-upgrade", "0.1.0"],
            &["abort-upgrade", "0.1.0"],
            &["purge"],
        ] {
            let said = run(arguments);
            assert_eq!(run(arguments), said);
            let stops = said.contains("disable") || said.contains("stop");
            assert_eq!(stops, name == "prerm" && arguments[0] == "remove", "{said}");
        }
    }
}
