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
