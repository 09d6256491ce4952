//! Brings about what a scenario's `preconditions` say, in the words of the recordings.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use nix::sys::signal::Signal;

use super::placeholders::Placeholders;
use crate::lab::network::MICROK8S_GID;
use crate::lab::nodes::HOSTS;
use crate::lab::peer::{Peer, Reply, Speaks, http};
use crate::lab::{Host, Lab, now};

/// The token that stands in the recordings as it is.
pub const GIVEN_TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// What a scenario needs that is more than files.
#[derive(Default)]
pub struct Scene {
    /// A peer in place of the agent on n1.
    pub peer: Option<Peer>,
    /// No agent shall run on n1.
    pub no_agent: bool,
    /// The options of the `add-node` that makes the scenario's token.
    pub add_node: &'static str,
}

/// Makes a precondition true. To be called before any agent starts.
pub fn bring_about(text: &str, lab: &Lab, placeholders: &mut Placeholders, scene: &mut Scene) {
    let n1 = || lab.host("n1");
    let n2 = || lab.host("n2");
    match text {
        "fresh node" => {}

        // add-node, on n1
        "args/cluster-agent says --bind 0.0.0.0:25001" => bind_25001(n1()),
        "certs/ca.crt is a self-signed certificate with CN=127.0.0.1" => old_authority(n1()),
        "var/lock/clustered.lock exists" | "n1: var/lock/clustered.lock exists" => {
            lock(n1(), "clustered.lock");
        }
        "var/lock/stopped.lock exists" | "n1: var/lock/stopped.lock exists" => {
            lock(n1(), "stopped.lock");
        }
        "var/lock/ha-cluster is missing" | "n1: var/lock/ha-cluster is missing" => {
            n1().remove("var/lock/ha-cluster");
        }
        "credentials/client.config is missing" => n1().remove("credentials/client.config"),
        "certs/server.crt is missing" => n1().remove("certs/server.crt"),
        "n1 has an interface vxlan.calico with 10.1.5.64/32" => {
            n1().add_interface("vxlan.calico", "10.1.5.64/32");
        }
        "n1 has a second address 10.98.0.11/24 on the same interface" => {
            n1().add_address("10.98.0.11/24");
        }
        "credentials/cluster-tokens.txt holds one other token, mode 0644"
        | "credentials/cluster-tokens.txt holds 0123456789abcdef0123456789abcdef" => {
            n1().write(
                "credentials/cluster-tokens.txt",
                &format!("{GIVEN_TOKEN}\n"),
                0o644,
            );
        }

        // join, on the contacted node
        "n1: cluster.yaml lists 10.99.0.11:19001 and 10.99.0.12:19001" => {
            datastore(n1(), &[("10.99.0.11", 100, 0), ("10.99.0.12", 101, 0)]);
        }
        "n1: cluster.yaml lists 10.99.0.11 and 10.99.0.13 as voters, 10.99.0.14 as stand-by" => {
            datastore(
                n1(),
                &[
                    ("10.99.0.11", 100, 0),
                    ("10.99.0.13", 101, 0),
                    ("10.99.0.14", 102, 1),
                ],
            );
        }
        "n1: args/kube-apiserver has no --kubelet-preferred-address-types" => {
            preferred_addresses(n1(), None);
        }
        "n1: --kubelet-preferred-address-types=Hostname,InternalIP" => {
            preferred_addresses(n1(), Some("Hostname,InternalIP"));
        }
        "n1 resolves n2 to 10.99.0.77" => n1().knows(&[("n1", "10.99.0.11"), ("n2", "10.99.0.77")]),
        "n1 resolves n2 to 10.99.0.12" => n1().knows(&[("n1", "10.99.0.11"), ("n2", "10.99.0.12")]),
        "n1 cannot resolve the name n2" => n1().knows(&[("n1", "10.99.0.11")]),
        // The first two of these end between the requests.
        "n1: no --kubelet-preferred-address-types until request 6, no ha-cluster lock until request 3, cluster.yaml lists n1 and n2, n1 cannot resolve n2" =>
        {
            preferred_addresses(n1(), None);
            n1().remove("var/lock/ha-cluster");
            datastore(n1(), &[("10.99.0.11", 100, 0), ("10.99.0.12", 101, 0)]);
            n1().knows(&[("n1", "10.99.0.11")]);
        }
        "n1: certs/ca.key is missing" => n1().remove("certs/ca.key"),
        "n1 has 10.99.0.50/32 as well" => n1().add_address("10.99.0.50/32"),
        "n1: the API server lists the control plane node n1 (10.99.0.11)" => {
            n1().stand_ins.api_servers(&["10.99.0.11"]);
        }
        "add-node --token-ttl 3600 ran on n1" | "the token has a ttl of 3600" => {
            scene.add_node = " --token-ttl 3600";
        }
        // An expired line stands for a token that was made and then waited for.
        "add-node --token-ttl 1 ran on n1 more than two seconds before" => {
            let token = new_token();
            let line = format!("{token}|{}\n", now() - 2);
            token_file(n1(), "credentials/cluster-tokens.txt", &line);
            placeholders.set("<TOKEN>", &token);
        }
        "n1: credentials/certs-request-tokens.txt holds 0123456789abcdef0123456789abcdef-kubelet and 0123456789abcdef0123456789abcdef-proxy" =>
        {
            let lines = format!("{GIVEN_TOKEN}-kubelet\n{GIVEN_TOKEN}-proxy\n");
            n1().write("credentials/certs-request-tokens.txt", &lines, 0o660);
        }

        // join, on the joining node
        "n2: args/cluster-agent says --bind 0.0.0.0:25001" => bind_25001(n2()),
        "n2: var/lock/cis-hardening exists" => lock(n2(), "cis-hardening"),
        "n2: var/lock/low-memory-guard.lock exists" => lock(n2(), "low-memory-guard.lock"),
        "n2: var/lock/stopped.lock exists" => lock(n2(), "stopped.lock"),
        "n2: credentials/client.config is missing" => n2().remove("credentials/client.config"),
        "n2: certs/kubelet.key and certs/proxy.key are missing" => {
            n2().remove("certs/kubelet.key");
            n2().remove("certs/proxy.key");
        }
        "n2: $SNAP_COMMON/default-storage exists" => {
            fs::create_dir(n2().snap_common().join("default-storage")).unwrap();
        }
        "n2: the dqlite shell answers with 10.99.0.11:19001 alone" => {
            n2().stand_ins.dqlite_lists(&["10.99.0.11:19001"]);
        }
        "n2: the dqlite shell exits 1" => n2().stand_ins.fail_dqlite(),
        "n2: restarting microk8s.daemon-kubelite fails" => {
            n2().stand_ins
                .fail_service("restart", "microk8s.daemon-kubelite");
        }
        "n1 and n2: args/cni-network/cni.yaml is missing" => {
            n1().remove("args/cni-network/cni.yaml");
            n2().remove("args/cni-network/cni.yaml");
        }

        // the older flow, on both
        "n1 and n2 run etcd and flannel: no ha-cluster, no-etcd and no-flanneld locks, a no-k8s-dqlite lock, etcd arguments in args/kube-apiserver" =>
        {
            etcd_and_flannel(n1());
            etcd_and_flannel(n2());
        }

        // leave
        "n2 joined n1 as worker" => join(lab, " --worker"),
        "n2 joined n1 as control plane"
        | "n2 joined n1 as control plane; dqlite lists n1 and n2 as voters" => join(lab, ""),
        "n2: var/lock/no-k8s-dqlite was removed" => n2().remove("var/lock/no-k8s-dqlite"),
        "n2: every kubectl call fails" => n2().stand_ins.fail_kubectl(),
        "n2: the dqlite shell's .remove exits 1" => n2().stand_ins.fail_dqlite_remove(),
        "n1: var/lock/no-cert-reissue exists" => lock(n1(), "no-cert-reissue"),
        "n1: no var/kubernetes/backend.backup" => {}
        "n1: cluster.yaml lists n1 and n2 as voters" => {
            datastore(n1(), &[("10.99.0.11", 100, 0), ("10.99.0.12", 101, 0)]);
        }
        "n1: cluster.yaml lists n1 as voter and n2 as stand-by" => {
            datastore(n1(), &[("10.99.0.11", 100, 0), ("10.99.0.12", 101, 1)]);
        }

        // remove-node, on n1
        "n1: cluster.yaml lists n1 alone" | "cluster.yaml lists n1 alone" => {
            datastore(n1(), &[("10.99.0.11", 100, 0)]);
        }
        "cluster.yaml lists n1 and n2" => {
            datastore(n1(), &[("10.99.0.11", 100, 0), ("10.99.0.12", 101, 0)]);
        }
        "cluster.yaml lists 10.99.0.11 and 10.99.0.13" => {
            datastore(n1(), &[("10.99.0.11", 100, 0), ("10.99.0.13", 101, 0)]);
        }
        "n1: the API server knows the nodes n1, n2, n3 (10.99.0.11 to .13)" => {
            kubernetes(n1(), &["n1", "n2", "n3"]);
        }
        "the API server knows n1 and n2" => kubernetes(n1(), &["n1", "n2"]),
        "n1: the API server knows n2 without an InternalIP" => {
            n1().stand_ins.kubernetes_knows("n2", None);
        }
        "n1: credentials/callback-tokens.txt holds an entry for n2 and one for n3" => {
            let entry = |name, letter: &str| format!("{name}:25000 {}\n", letter.repeat(64));
            let entries = entry("n2", "a") + &entry("n3", "b");
            n1().write("credentials/callback-tokens.txt", &entries, 0o660);
        }
        "the dqlite shell's .remove exits 1" => n1().stand_ins.fail_dqlite_remove(),
        "n1: args/kube-apiserver has --token-auth-file" => {
            let option = "--token-auth-file=${SNAP_DATA}/credentials/known_tokens.csv\n";
            let arguments = n1().read("args/kube-apiserver") + option;
            n1().write("args/kube-apiserver", &arguments, 0o644);
        }
        "n1: known_tokens.csv holds admin, system:node:n2 and system:node:n22" => {
            n1().write("credentials/known_tokens.csv", KNOWN_TOKENS, 0o644);
        }

        // callbacks and Cluster API, on n1
        "n1: credentials/callback-token.txt holds CCCC... (64 letters C)" => {
            let token = format!("{}\n", "C".repeat(64));
            n1().write("credentials/callback-token.txt", &token, 0o600);
        }
        "n1: args/testservice holds the lines --one=1, '--two 2', an empty line, '# note', --three, --four=a=b" =>
        {
            n1().write("args/testservice", ARGUMENTS, 0o644);
        }
        "n1: args/flanneld holds the lines --one=1, '--two 2', an empty line, '# note', --three, --four=a=b" =>
        {
            n1().write("args/flanneld", ARGUMENTS, 0o644);
        }
        "n1: args/etcd is missing" => n1().remove("args/etcd"),
        "enabling the addon nosuch fails" => n1().stand_ins.fail_addon("nosuch"),
        "n1: restarting microk8s.daemon-etcd fails" => {
            n1().stand_ins
                .fail_service("restart", "microk8s.daemon-etcd");
        }
        "no ctr program is present" => {}
        "n1: /capi/etc/token holds capi-secret" => {
            let folder = n1().capi().join("etc");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("token"), "capi-secret\n").unwrap();
        }
        "n1: /capi/etc/token is missing" => {}

        // what listens on n1 in place of an agent
        "nothing is listening" | "no agent runs on n1" => scene.no_agent = true,
        "a plain HTTP server listens on n1:25000" => {
            scene.peer = Some(Peer::start(n1(), Speaks::PlainHttp, |_| Reply::Close));
        }
        "n1: the peer answers 200 with an empty object" => {
            answer(lab, scene, &http("200 OK", "{}"));
        }
        "n1: the peer answers 200 with something that is no JSON" => {
            answer(lab, scene, &http("200 OK", "<html>hello</html>"));
        }
        "n1: the peer answers 201" => answer(lab, scene, &http("201 Created", "{}")),
        "n1: the peer answers 404 with HTML" => {
            answer(lab, scene, &http("404 Not Found", "<html>Not Found</html>"));
        }
        "n1: the peer answers 500 with an empty body" => {
            answer(lab, scene, &http("500 Internal Server Error", ""));
        }
        "n1: the peer answers 500 with JSON without an error field" => {
            answer(
                lab,
                scene,
                &http("500 Internal Server Error", "{\"message\": \"no\"}"),
            );
        }
        "n1: the peer answers with something that is no HTTP: 'hello there'" => {
            answer(lab, scene, "hello there\r\n");
        }
        "n1: the peer closes the connection without an answer" => {
            scene.peer = Some(Peer::start(n1(), Speaks::Tls, |_| Reply::Close));
        }
        other => panic!("no way is known to bring about: {other}"),
    }
}

/// The users of a cluster with token authentication.
const KNOWN_TOKENS: &str = "AAAA,admin,admin,\"system:masters\"\n\
    BBBB,system:node:n2,kubelet-1,\"system:nodes\"\n\
    CCCC,system:node:n22,kubelet-2,\"system:nodes\"\n";

/// The arguments of a service, written in every way.
const ARGUMENTS: &str = "--one=1\n--two 2\n\n# note\n--three\n--four=a=b\n";

/// Has n2 join n1, by our own programs.
fn join(lab: &Lab, option: &str) {
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let line = n1.join_line();
    n2.shell(&format!("{line}{option}")).ok();
    agent.signal(Signal::SIGTERM);
    agent.ends();
}

fn kubernetes(host: &Host, names: &[&str]) {
    for (name, address) in HOSTS.iter().filter(|(name, _)| names.contains(name)) {
        host.stand_ins.kubernetes_knows(name, Some(address));
    }
}

fn answer(lab: &Lab, scene: &mut Scene, bytes: &str) {
    scene.peer = Some(Peer::canned(lab.host("n1"), bytes));
}

fn lock(host: &Host, name: &str) {
    host.write(&format!("var/lock/{name}"), "", 0o644);
}

fn etcd_and_flannel(host: &Host) {
    for gone in ["ha-cluster", "no-etcd", "no-flanneld"] {
        host.remove(&format!("var/lock/{gone}"));
    }
    lock(host, "no-k8s-dqlite");
    let kept: String = host
        .read("args/kube-apiserver")
        .lines()
        .filter(|line| !line.starts_with("--etcd-"))
        .map(|line| format!("{line}\n"))
        .collect();
    let etcd = "--etcd-servers=https://127.0.0.1:12379\n\
                --etcd-cafile=${SNAP_DATA}/certs/ca.crt\n\
                --etcd-certfile=${SNAP_DATA}/certs/server.crt\n\
                --etcd-keyfile=${SNAP_DATA}/certs/server.key\n";
    host.write("args/kube-apiserver", &(kept + etcd), 0o644);
}

fn bind_25001(host: &Host) {
    let arguments = host.read("args/cluster-agent").replace(":25000", ":25001");
    host.write("args/cluster-agent", &arguments, 0o644);
}

fn preferred_addresses(host: &Host, types: Option<&str>) {
    let option = "--kubelet-preferred-address-types";
    let arguments = host.read("args/kube-apiserver");
    let mut lines: Vec<String> = arguments
        .lines()
        .filter(|line| !line.starts_with(option))
        .map(str::to_owned)
        .collect();
    assert_ne!(
        lines.len(),
        arguments.lines().count(),
        "a fresh node has {option}"
    );
    lines.extend(types.map(|types| format!("{option}={types}")));
    host.write("args/kube-apiserver", &(lines.join("\n") + "\n"), 0o644);
}

/// The datastore's files as those of a formed cluster: address, id and role of each member, this
/// host first.
fn datastore(host: &Host, members: &[(&str, u32, u32)]) {
    let entries = members.iter().map(|(address, id, role)| {
        format!("- Address: {address}:19001\n  ID: {id}\n  Role: {role}\n")
    });
    host.write(
        "var/kubernetes/backend/cluster.yaml",
        &entries.collect::<String>(),
        0o644,
    );
    let (address, id, role) = members[0];
    let info = format!("Address: {address}:19001\nID: {id}\nRole: {role}\n");
    host.write("var/kubernetes/backend/info.yaml", &info, 0o644);
}

/// A token file as MicroK8s's own programs leave it.
pub fn token_file(host: &Host, path: &str, lines: &str) {
    host.write(path, lines, 0o660);
    chown(host.path(path), Some(0), Some(MICROK8S_GID)).unwrap();
    // A change of the owner takes away some bits.
    fs::set_permissions(host.path(path), fs::Permissions::from_mode(0o660)).unwrap();
}

/// A token as MicroK8s makes them.
pub fn new_token() -> String {
    rand::random::<[u8; 16]>()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Very old installations have this authority, and clustering is refused there.
fn old_authority(host: &Host) {
    let output = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650",
        ])
        .args(["-subj", "/CN=127.0.0.1", "-keyout", "/dev/null", "-out"])
        .arg(host.path("certs/ca.crt"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[cfg(test)]
mod tests {
    use super::super::recording::{Recording, names};

    #[test]
    fn the_token_given_in_the_recordings_is_the_one_used_here() {
        let uses = names().iter().any(|name| {
            let recording = Recording::load(name);
            recording
                .commands
                .iter()
                .any(|command| command.line.contains(super::GIVEN_TOKEN))
        });
        assert!(uses);
    }
}
