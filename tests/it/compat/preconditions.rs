//! Brings about what a scenario's `preconditions` say, in the words of the recordings.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use super::placeholders::Placeholders;
use crate::lab::network::MICROK8S_GID;
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
        "var/lock/clustered.lock exists" => lock(n1(), "clustered.lock"),
        "var/lock/stopped.lock exists" => lock(n1(), "stopped.lock"),
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
            n1().stand_ins.control_plane_nodes(&[("n1", "10.99.0.11")]);
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

fn answer(lab: &Lab, scene: &mut Scene, bytes: &str) {
    scene.peer = Some(Peer::canned(lab.host("n1"), bytes));
}

fn lock(host: &Host, name: &str) {
    host.write(&format!("var/lock/{name}"), "", 0o644);
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
