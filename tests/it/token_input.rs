//! What `token show` and `token revoke` say of an input that is not a token or not an id. The input
//! may hold a token all the same, so it is never shown.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::compat::preconditions::new_token;
use crate::lab::{Host, Lab, Output};

const COMMANDS: [&str; 2] = ["show", "revoke"];

fn new_line(host: &Host) -> (String, String) {
    let line = host.join_line();
    let token = line.split('/').nth(1).unwrap().to_owned();
    (line, token)
}

fn states(host: &Host) -> Vec<String> {
    let json = host.shell("microk8s token list --format json").ok();
    let tokens: Vec<Value> = serde_json::from_str(&json).unwrap();
    tokens
        .iter()
        .map(|token| token["state"].as_str().unwrap().to_owned())
        .collect()
}

/// The command failed, says this, and shows no part of the token.
#[track_caller]
fn assert_said(output: &Output, says: &str, token: &str) {
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    assert!(output.stderr.contains(says), "`{says}`: {output:?}");
    for shown in [token, &token[..16], &token[16..]] {
        assert!(!output.stderr.contains(shown), "{output:?}");
    }
    assert!(!output.stderr.contains("not known"), "{output:?}");
}

#[test]
fn an_input_that_is_not_a_token_is_described_and_neither_shown_nor_looked_up() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    let (line, token) = new_line(n1);
    let inputs: Vec<(Vec<u8>, &str)> = vec![
        (b"\r\n".to_vec(), "standard input is empty"),
        (
            format!("{} {}", &token[..16], &token[16..]).into_bytes(),
            "standard input holds no token",
        ),
        (
            format!("{token}\n{}\n", new_token()).into_bytes(),
            "standard input holds more than one token",
        ),
        (
            format!("{line}\n{}\n", new_token()).into_bytes(),
            "standard input holds more than one token",
        ),
        (
            format!("https://10.99.0.11:25000/{token}").into_bytes(),
            "standard input holds a URL",
        ),
        (
            format!("{}\0{}", &token[..16], &token[16..]).into_bytes(),
            "standard input holds control characters",
        ),
        (
            [token.as_bytes(), b"\xff\xfe"].concat(),
            "standard input is not UTF-8 text",
        ),
        (
            format!("{token}\u{e9}").into_bytes(),
            "a character that is not allowed in a token",
        ),
        (
            token.repeat(300_000).into_bytes(),
            "standard input is longer than 4096 bytes",
        ),
    ];
    for command in COMMANDS {
        for (input, says) in &inputs {
            let output = n1.run_with_input(&["microk8s", "token", command, "-"], input);
            assert_said(&output, says, &token);
            assert!(output.stderr.contains("hint: "), "{output:?}");
        }
    }
    assert_eq!(states(n1), ["issued"]);
    // What copying puts around a token does not count.
    let pasted = format!("\u{feff}{token} \r\n");
    for command in COMMANDS {
        n1.run_with_input(&["microk8s", "token", command, "-"], pasted.as_bytes())
            .ok();
    }
    assert_eq!(states(n1), ["revoked"]);
}

#[test]
fn whatever_add_node_prints_names_its_token_and_may_be_added_or_joined_with() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    for format in ["pretty", "short", "token", "token-check", "json", "yaml"] {
        let printed = n1
            .shell(&format!("microk8s add-node --format {format}"))
            .ok();
        let run = |words: &str| {
            let words: Vec<&str> = words.split_whitespace().collect();
            n1.run_with_input(&words, printed.as_bytes()).ok()
        };
        let id: Value = serde_json::from_str(&run("microk8s token show - --format json")).unwrap();
        let id = id["id"].as_str().unwrap();
        // The same token is added once more.
        let added = run("microk8s add-node --token-file - --details --format json");
        let added: Value = serde_json::from_str(&added).unwrap();
        assert_eq!(added["id"], id, "{format}");
        assert_eq!(
            run("microk8s token revoke -"),
            format!("Revoked token {id}.\n")
        );
    }
    let file = n2.scratch().join("token");
    for (command, connection, role) in [
        (
            "add-node --format token-check",
            "10.99.0.11:25000",
            "control-plane",
        ),
        ("add-node --format json", "", "control-plane"),
        ("add-node | tail -n 1", "", "control-plane"),
        ("add-node | grep worker$", "", "worker"),
    ] {
        std::fs::write(&file, n1.shell(&format!("microk8s {command}")).ok()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = file.display();
        // No fingerprint would be warned of.
        let joined = n2.shell(&format!("microk8s join --token-file {file} {connection}"));
        assert_eq!(
            (joined.code, joined.stderr.as_str()),
            (Some(0), ""),
            "{command}"
        );
        let own = n2.shell("microk8s nodes --self").ok();
        assert!(own.contains(role), "{command}: {own}");
        n2.shell("microk8s leave").ok();
        n1.shell("microk8s remove-node 10.99.0.12 --force").ok();
    }
}

#[test]
fn a_token_to_add_is_read_from_a_file_which_is_warned_of_where_every_user_can_read_it() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    let (token, file) = (new_token(), n1.scratch().join("token"));
    let line = format!(
        "microk8s add-node --format token --token-file {}",
        file.display()
    );
    let missing = n1.shell(&line);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(1), ""));
    assert!(
        missing
            .stderr
            .starts_with("error: cannot read the token file `")
    );
    std::fs::write(&file, format!("{token}\n")).unwrap();
    for (mode, warnings) in [(0o600, 0), (0o644, 1)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let added = n1.shell(&line);
        assert_eq!((added.code, added.stdout.trim()), (Some(0), token.as_str()));
        assert_eq!(added.stderr.lines().count(), warnings, "{added:?}");
    }
    assert_eq!(states(n1), ["issued"]);
    let both = n1.shell(&format!("{line} --token {token}"));
    assert_eq!(both.code, Some(2), "{both:?}");
    std::fs::write(&file, "0123").unwrap();
    let short = n1.shell(&line);
    assert_eq!(short.code, Some(1));
    assert!(short.stdout.starts_with("Invalid token size."), "{short:?}");
}

#[test]
fn a_token_in_the_place_of_an_id_is_not_shown_and_the_way_to_give_it_is() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    let (line, token) = new_line(n1);
    let url = line.strip_prefix("microk8s join ").unwrap();
    let chosen = "handwritten-token_0123456789abcdef.0";
    n1.shell(&format!("microk8s add-node --token {chosen}"))
        .ok();
    for command in COMMANDS {
        for (argument, secret) in [
            (token.as_str(), token.as_str()),
            (chosen, chosen),
            (url, &token),
            (&line, &token),
            (&format!("https://{url}"), &token),
            (&format!("{token}\r\n"), &token),
        ] {
            let output = n1.run(&["microk8s", "token", command, argument]);
            assert_said(&output, "this is not the id of a token", secret);
            assert!(
                output.stderr.contains("hint: ") && output.stderr.contains("standard input"),
                "{output:?}"
            );
        }
        // What cannot be a token is named.
        for argument in ["abc", "../x", "xyzw 1", "", "12345678-"] {
            let output = n1.run(&["microk8s", "token", command, argument]);
            let named = format!("`{argument}` is not the id of a token");
            assert_said(&output, &named, &token);
        }
        let output = n1.shell(&format!("microk8s token {command} $(printf 'ab\\377cd')"));
        assert_eq!(output.code, Some(2), "{output:?}");
    }
    assert_eq!(states(n1), ["issued", "issued"]);
}
