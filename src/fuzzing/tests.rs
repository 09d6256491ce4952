//! The targets on what the recordings hold, on inputs that once broke them, and on pieces of both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use der::Encode;
use serde_json::{Value, json};
use x509_cert::request::CertReq;

use super::{TARGETS, run};
use crate::model::token_record::{Issuer, TokenRecord};
use crate::model::token_terms::{Lifetime, Terms};
use crate::pki::ca::{Ca, Profile, YEAR};
use crate::pki::csr;
use crate::pki::key::{Bits, PrivateKey};
use crate::pki::name::{AltName, Subject};

/// Where the inputs are written to, a folder a target: what `cargo fuzz` begins with.
const CORPUS_VARIABLE: &str = "FUZZ_CORPUS";
/// The longest input that is taken from the recordings, and in how many ways each is changed.
const MAX_LEN: usize = 8 << 10;
const CHANGES: usize = 16;

type Inputs = BTreeMap<&'static str, BTreeSet<Vec<u8>>>;

#[test]
fn every_target_holds_for_the_recordings_and_for_pieces_of_them() {
    let inputs = inputs();
    for (name, _) in TARGETS {
        let of_target = &inputs[name];
        assert!(of_target.len() > 1, "{name} has no inputs");
        for (number, input) in of_target.iter().enumerate() {
            run(name, input);
            for change in 0..CHANGES {
                let at = (change * 31 + number) % input.len().max(1);
                run(name, &input[..at.min(input.len())]);
                let mut flipped = input.clone();
                if let Some(byte) = flipped.get_mut(at) {
                    *byte ^= 1 << (change % 8);
                }
                run(name, &flipped);
            }
        }
    }
    if let Some(corpus) = std::env::var_os(CORPUS_VARIABLE) {
        write(&inputs, Path::new(&corpus));
    }
}

fn write(inputs: &Inputs, corpus: &Path) {
    for (name, inputs) in inputs {
        let folder = corpus.join(name);
        fs::create_dir_all(&folder).unwrap();
        for (number, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), input).unwrap();
        }
    }
}

fn inputs() -> Inputs {
    let mut inputs = Inputs::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in TARGETS {
        let kept = files(&root.join("fuzz/seeds").join(name));
        let kept = kept.iter().map(|path| fs::read(path).unwrap());
        inputs.entry(name).or_default().extend(kept);
    }
    for path in files(&root.join("tests/it/compat/recordings")) {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        for word in text
            .split_whitespace()
            .filter(|word| word.contains(":25000/"))
        {
            add(&mut inputs, "join_string", word);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => look_through(&mut inputs, &serde_json::from_str(&text).unwrap()),
            Some("jsonl") => {
                for line in text.lines() {
                    look_through(&mut inputs, &serde_json::from_str(line).unwrap());
                }
            }
            _ if text.starts_with('{') => add(&mut inputs, "json", &text),
            _ => {}
        }
    }
    add_made(&mut inputs);
    inputs
}

/// Files by their name, and bodies of requests and answers.
fn look_through(inputs: &mut Inputs, value: &Value) {
    if let (Some(path), Some(content)) = (value["path"].as_str(), value["content"].as_str()) {
        let target = match path {
            _ if path.starts_with("args/") && !path.contains('.') => "args_file",
            _ if path.ends_with("tokens.txt") => "token_file",
            _ if path.ends_with(".crt") => "certificate",
            _ => "yaml",
        };
        add(inputs, target, content);
    }
    for body in ["request", "response", "body"] {
        if value[body].is_object() {
            add(inputs, "json", &value[body].to_string());
        }
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| look_through(inputs, item)),
        Value::Object(fields) => fields.values().for_each(|item| look_through(inputs, item)),
        _ => {}
    }
}

fn add(inputs: &mut Inputs, target: &'static str, text: &str) {
    if text.len() <= MAX_LEN {
        inputs
            .entry(target)
            .or_default()
            .insert(text.as_bytes().to_vec());
    }
}

/// What the recordings have no bytes of.
fn add_made(inputs: &mut Inputs) {
    let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let names = [
        AltName::Dns("n2".to_owned()),
        AltName::Ip("10.99.0.12".parse().unwrap()),
        AltName::Ip("fd99::12".parse().unwrap()),
    ];
    for (subject, names) in [
        (Subject::kubelet("n2"), &names[..]),
        (Subject::kubelet("n7"), &names[1..]),
        (Subject::common_name("system:kube-proxy"), &[]),
        (Subject::microk8s_server(), &names),
    ] {
        let pem = csr::create(&subject, names, &key).unwrap();
        add(inputs, "certificate_request", &pem);
        let (_, der) = der::pem::decode_vec(pem.as_bytes()).unwrap();
        let info = <CertReq as der::Decode>::from_der(&der)
            .unwrap()
            .info
            .to_der();
        inputs
            .entry("certificate_request")
            .or_default()
            .insert(info.unwrap());
    }
    add(inputs, "certificate", key.to_pem().unwrap().expose());
    let (ca, pem) = Ca::create(&Subject::common_name("10.152.183.1"), key).unwrap();
    add(inputs, "certificate", &pem);
    let key = PrivateKey::generate(Bits::Rsa2048).unwrap();
    let server = Profile::Server(names.to_vec());
    let server = ca
        .issue(&Subject::microk8s_server(), &key, server, YEAR)
        .unwrap();
    add(inputs, "certificate", &(server + &pem));

    let terms = Terms::lasting(Lifetime::OneUse);
    let record = TokenRecord::issue(&terms, 1_790_000_000, Issuer::Uid(0));
    let mut record = serde_json::to_value(record).unwrap();
    add(inputs, "token_record", &record.to_string());
    record["last"] = json!({
        "node": {"name": "n2", "address": "10.99.0.12"}, "role": "worker", "at": 1_790_000_000,
    });
    record["open_until"] = 1_790_000_900.into();
    add(inputs, "token_record", &record.to_string());

    let undos = json!([
        {"undo": "remove-file", "path": "/a/b"},
        {"undo": "restore-file", "path": "/a/c", "mode": 0o600, "uid": 0, "gid": 0, "content": "YQ=="},
        {"undo": "move-back", "from": "/a/d", "to": "/a/e"},
        {"undo": "leave-datastore", "backend": "/b", "servers": ["10.99.0.11:19001"], "own": "x"},
        {"undo": "tell", "report": "{}"},
    ]);
    let journal = format!("{undos}\n\n{{\"undone\":3}}\n{}\n{{\"un", undos[0]);
    add(inputs, "journal", &journal);
    add(inputs, "journal", &undos[1].to_string());
    add(
        inputs,
        "token_file",
        "\0\u{20}0123456789abcdef0123456789abcdef\nfedc|1790000000\n",
    );
    let cluster = "- Address: 10.99.0.11:19001\n  ID: 3297041220608546238\n  Role: 0\n";
    add(inputs, "yaml", cluster);
    add(inputs, "yaml", &cluster.replace("- ", "").replace("  ", ""));
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}
