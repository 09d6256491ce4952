//! A fresh node directory, held against the recorded one.

use serde_json::{Map, Value, json};

use super::exceptions::{self, Entries};
use super::recording::{MANIFEST, fresh_node};
use crate::lab::changes::{Surroundings, between};
use crate::lab::nodes;
use crate::lab::pem::Authority;
use crate::lab::snapshot::Snapshot;

/// The recorded files. Of some texts the length alone is recorded, which nobody needs to copy.
fn recorded() -> Entries {
    let files = fresh_node()["files"].as_array().unwrap().clone();
    files
        .into_iter()
        .map(|entry| {
            let Value::Object(entry) = entry else {
                panic!("{entry}")
            };
            (entry["path"].as_str().unwrap().to_owned(), entry)
        })
        .collect()
}

/// The files of our own fresh node, in the same form.
fn made(recorded: &Entries) -> Entries {
    nodes::prepare(&["n2"]);
    let tree = Snapshot::take(&nodes::fresh("n2"), &["var/cluster-agent"]);
    let certificate = |path: &str| tree.file(path).unwrap().to_vec();
    let authorities = [
        Authority {
            name: "own ca".to_owned(),
            certificate: certificate("certs/ca.crt"),
        },
        Authority {
            name: "own front-proxy ca".to_owned(),
            certificate: certificate("certs/front-proxy-ca.crt"),
        },
    ];
    let around = Surroundings {
        authorities: &authorities,
        others: &[],
        hide: &|text| text.to_owned(),
    };
    between(&Snapshot::default(), &tree, &around)
        .into_iter()
        .map(|entry| {
            let Value::Object(mut entry) = entry else {
                panic!("{entry}")
            };
            entry.remove("change");
            let path = entry["path"].as_str().unwrap().to_owned();
            if let Some(length) = recorded.get(&path).and_then(|known| known.get("bytes")) {
                entry.remove("content");
                entry.insert("bytes".to_owned(), length.clone());
            }
            if path == MANIFEST {
                let ours = entry["content"].as_str().unwrap().to_owned();
                let of_recording = &recorded[&path]["content"];
                let mut lines = of_recording.as_str().unwrap().lines().map(str::trim);
                // Ours is complete; the lines that were recorded are in it.
                if lines.all(|line| ours.contains(line)) {
                    entry.insert("content".to_owned(), of_recording.clone());
                }
            }
            if path.ends_with(".srl") {
                entry.insert("content".to_owned(), json!("<SERIAL>\n"));
            }
            (path, entry)
        })
        .collect()
}

#[test]
fn a_fresh_node_has_the_recorded_files_with_their_modes_and_contents() {
    if let Some(reason) = crate::lab::network::missing() {
        return crate::lab::skip(reason);
    }
    let mut recorded = recorded();
    exceptions::apply_to_fresh_node(&mut recorded);
    let made = made(&recorded);
    let mut wrong = Vec::new();
    for path in recorded
        .keys()
        .chain(made.keys().filter(|path| !recorded.contains_key(*path)))
    {
        let (wanted, got) = (recorded.get(path), made.get(path));
        let show = |entry: Option<&Map<String, Value>>| {
            entry.map_or_else(
                || "nothing".to_owned(),
                |entry| Value::from(entry.clone()).to_string(),
            )
        };
        // Two lists of the same fields are equal whatever their order.
        if wanted != got {
            wrong.push(format!(
                "{path}:\n    recorded {}\n    made     {}",
                show(wanted),
                show(got)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
