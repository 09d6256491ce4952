//! The options of `join` that MicroK8s does not have.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::lab::{Host, Lab, Output};

/// A new connection string of this node: address and port, token, fingerprint.
fn new_connection(host: &Host) -> [String; 3] {
    let line = host.shell("microk8s add-node --format short").ok();
    let words: Vec<&str> = line.lines().next().unwrap().split(' ').collect();
    let parts: Vec<String> = words[2].split('/').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

/// A file on the host that only its owner can read.
fn private_file(host: &Host, name: &str, content: &[u8]) -> String {
    let path = host.scratch().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Both ways to join: in the process of the command, and through an agent on the joining node.
fn both_ways(test: impl Fn(&Host, &Host)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _agents = (n1.agent(), through_agent.then(|| n2.agent()));
        test(n1, n2);
    }
}

fn assert_joined(output: &Output) {
    assert_eq!(
        (output.code, output.stderr.as_str()),
        (Some(0), ""),
        "{output:?}"
    );
    assert!(
        output
            .stdout
            .ends_with("Successfully joined the cluster.\n"),
        "{output:?}"
    );
}

#[test]
fn a_token_comes_from_a_file_or_from_standard_input() {
    both_ways(|n1, n2| {
        let [address, token, fingerprint] = new_connection(n1);
        let file = private_file(n2, "token", format!("{token}\n").as_bytes());
        let line = format!("microk8s join --token-file {file} {address}/{fingerprint} --worker");
        assert_joined(&n2.shell(&line));
    });
    both_ways(|n1, n2| {
        let whole = new_connection(n1).join("/");
        let words = ["microk8s", "join", "--worker", "--token-file", "-"];
        assert_joined(&n2.run_with_input(&words, whole.as_bytes()));
    });
}

#[test]
fn a_token_file_that_everybody_can_read_is_warned_of() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    let file = private_file(n2, "token", new_connection(n1).join("/").as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = n2.shell(&format!("microk8s join --token-file={file} --worker"));
    assert_eq!(
        (output.code, output.stderr),
        (
            Some(0),
            format!("warning: everybody on this machine can read the token file `{file}`\n")
        )
    );
}

#[test]
fn a_token_file_that_is_of_no_use_is_refused_before_anything_is_sent() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    // Nothing listens here: a join that got as far as connecting would say so.
    const ADDRESS: &str = "10.99.0.1:9";
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    let before = n1.snapshot();
    let folder = n1.scratch().display().to_string();
    let whole = format!("{ADDRESS}/{TOKEN}/e3b0c44298fc");
    let file = |name: &str, content: &[u8]| private_file(n1, name, content);
    for (file, connection, code, says) in [
        (
            format!("{folder}/none"),
            ADDRESS,
            1,
            "error: cannot read the token file `",
        ),
        (folder.clone(), ADDRESS, 1, "` is a directory\n"),
        (file("empty", b"\n"), ADDRESS, 1, "` is empty\n"),
        (
            file("latin1", b"0123456789abcdef\xe9"),
            ADDRESS,
            1,
            "` is not UTF-8 text\n",
        ),
        (
            file("long", &[b'a'; 5000]),
            ADDRESS,
            1,
            "` is longer than 4096 bytes\n",
        ),
        (
            file("two", format!("{TOKEN}\n{TOKEN}\n").as_bytes()),
            ADDRESS,
            1,
            "holds more than a token",
        ),
        (
            file("short", b"0123"),
            ADDRESS,
            1,
            "Invalid connection: Cluster token size should be at least 32 bytes\n",
        ),
        (
            file("token", TOKEN.as_bytes()),
            "",
            2,
            "Error: Missing argument 'CONNECTION': the token file holds a token, and no address.\n",
        ),
        (
            file("token", TOKEN.as_bytes()),
            &whole,
            2,
            "Error: The token is given twice",
        ),
        (
            file("whole", whole.as_bytes()),
            ADDRESS,
            2,
            "'CONNECTION' is given twice.\n",
        ),
    ] {
        let output = n1.shell(&format!("microk8s join --token-file {file} {connection}"));
        let said = format!("{}{}", output.stdout, output.stderr);
        assert_eq!(output.code, Some(code), "{output:?}");
        assert!(said.contains(says), "{says}: {output:?}");
        assert!(
            !said.contains("Contacting") && !said.contains(TOKEN),
            "{output:?}"
        );
    }
    assert!(before == n1.snapshot());
}

/// The value of an argument of the kubelet's.
fn kubelet(host: &Host, key: &str) -> Option<String> {
    let arguments = host.read("args/kubelet");
    let line = arguments.lines().find(|line| line.starts_with(key))?;
    Some(line[key.len() + 1..].replace('"', ""))
}

#[test]
fn a_worker_gets_the_labels_and_the_address_that_were_ordered_beside_its_own() {
    both_ways(|n1, n2| {
        n2.add_address("10.99.0.112/24");
        let whole = new_connection(n1).join("/");
        let output = n2.shell(&format!(
            "microk8s join {whole} --worker --node-label disk=ssd --node-ip 10.99.0.112 --node-label=example.com/rack=4"
        ));
        assert_joined(&output);
        assert_eq!(
            kubelet(n2, "--node-labels").unwrap(),
            "microk8s.io/cluster=true,node.kubernetes.io/microk8s-worker=microk8s-worker,disk=ssd,example.com/rack=4"
        );
        assert_eq!(kubelet(n2, "--node-ip").unwrap(), "10.99.0.112");
    });
}

#[test]
fn a_control_plane_gets_the_labels_that_were_ordered_beside_the_clusters() {
    both_ways(|n1, n2| {
        let cluster = kubelet(n1, "--node-labels").unwrap();
        let whole = new_connection(n1).join("/");
        assert_joined(&n2.shell(&format!("microk8s join {whole} --node-label disk=ssd")));
        assert_eq!(
            kubelet(n2, "--node-labels").unwrap(),
            format!("{cluster},disk=ssd")
        );
        assert_eq!(kubelet(n2, "--node-ip"), None);
    });
}

#[test]
fn labels_and_addresses_that_cannot_be_are_refused_before_anything_is_sent() {
    both_ways(|n1, n2| {
        let whole = new_connection(n1).join("/");
        let before = n2.snapshot();
        for (option, code, says) in [
            ("--node-label disk", 2, "has the form KEY=VALUE"),
            (
                "--node-label node-role.kubernetes.io/worker=",
                2,
                "a node may not set labels below kubernetes.io",
            ),
            (
                "--node-label a=b --node-label a=c",
                2,
                "Label 'a' is given twice",
            ),
            ("--node-ip n2", 2, "invalid value 'n2'"),
            (
                "--node-ip 10.99.0.11",
                1,
                "error: 10.99.0.11 is no address of this machine",
            ),
            (
                "--node-ip 127.0.0.1",
                1,
                "error: 127.0.0.1 cannot be reached from other machines",
            ),
        ] {
            let output = n2.shell(&format!("microk8s join {whole} --worker {option}"));
            assert_eq!(output.code, Some(code), "{option}: {output:?}");
            assert!(output.stderr.contains(says), "{option}: {output:?}");
            assert_eq!(output.stdout, "", "{option}");
        }
        assert!(before == n2.snapshot());
        assert_joined(&n2.shell(&format!("microk8s join {whole} --worker")));
    });
}
