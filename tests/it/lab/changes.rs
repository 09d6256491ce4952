//! What a command has changed in a node directory, told as the recordings tell it.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::pem;
use super::snapshot::{Content, Node, Snapshot};

/// What else the summaries refer to.
pub struct Surroundings<'a> {
    /// The authorities by which a certificate may be signed.
    pub authorities: &'a [pem::Authority],
    /// The trees of the other hosts, by name.
    pub others: &'a [(&'a str, &'a Snapshot)],
    /// Replaces values that differ from run to run by placeholders.
    pub hide: &'a dyn Fn(&str) -> String,
}

/// The differences between two snapshots of one tree, in the order of their paths.
pub fn between(before: &Snapshot, after: &Snapshot, around: &Surroundings<'_>) -> Vec<Value> {
    let paths: BTreeSet<&String> = before.nodes.keys().chain(after.nodes.keys()).collect();
    paths
        .into_iter()
        .filter_map(|path| {
            entry(
                path,
                before.nodes.get(path),
                after.nodes.get(path),
                after,
                around,
            )
        })
        .collect()
}

fn entry(
    path: &str,
    before: Option<&Node>,
    after: Option<&Node>,
    tree: &Snapshot,
    around: &Surroundings<'_>,
) -> Option<Value> {
    if before == after {
        return None;
    }
    let node = after.or(before)?;
    let kind = kind(path, node);
    let mut entry = Map::new();
    let mut put = |key: &str, value: Value| entry.insert(key.to_owned(), value);
    put("path", json!(path));
    put(
        "change",
        json!(match (before, after) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "modified",
        }),
    );
    put("mode", json!(node.mode_text()));
    let changed = before.zip(after);
    if let Some((before, _)) = changed.filter(|(before, after)| before.mode != after.mode) {
        put("mode_before", json!(before.mode_text()));
    }
    // Of what is gone the recordings name the mode alone.
    if after.is_some() && node.group() != "root" {
        put("group", json!(node.group()));
    }
    if let Some((before, _)) = changed.filter(|(before, after)| before.gid != after.gid) {
        put("group_before", json!(before.group()));
    }
    // The recordings were all made by root, so they say nothing of owners; another one must show.
    if node.uid != 0 {
        put("owner", json!(node.uid));
    }
    put("kind", json!(kind));
    let Some(after) = after else {
        return Some(entry.into());
    };
    if kind == "dir" {
        return Some(entry.into());
    }
    if before.is_some_and(|before| before.content == after.content) {
        put("content_unchanged", json!(true));
        return Some(entry.into());
    }
    let bytes = after.bytes();
    match kind {
        "text" | "yaml" => {
            put(
                "content",
                json!((around.hide)(&String::from_utf8_lossy(bytes))),
            );
        }
        "empty" if !bytes.is_empty() => {
            put("content", json!(String::from_utf8_lossy(bytes)));
        }
        "cert" => {
            let mut summary = pem::certificate(bytes, around.authorities);
            name_twins(&mut summary, path, bytes, tree, around.others);
            put("summary", summary);
        }
        "key" => {
            let mut summary = pem::private_key(bytes);
            name_twins(&mut summary, path, bytes, tree, around.others);
            let public = pem::public_half(bytes);
            let certificates: Vec<&String> = tree
                .nodes
                .iter()
                .filter(|(_, other)| {
                    let certified = pem::certified_key(other.bytes());
                    certified.is_some() && certified == public
                })
                .map(|(path, _)| path)
                .collect();
            if !certificates.is_empty() {
                summary["key_of_cert"] = json!(certificates);
            }
            put("summary", summary);
        }
        "csr" => {
            put("summary", pem::request(bytes));
        }
        "kubeconfig" => {
            put("summary", kubeconfig(bytes, tree, around.others));
        }
        _ => {}
    }
    Some(entry.into())
}

/// What sort of file this is, in the words of the recordings.
fn kind(path: &str, node: &Node) -> &'static str {
    let bytes = match &node.content {
        Content::Directory => return "dir",
        Content::Link(_) => return "link",
        Content::Special => return "special",
        Content::File(bytes) => bytes,
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return "empty";
    }
    match pem::blocks(bytes).first().map(|block| block.label.as_str()) {
        Some("CERTIFICATE") => return "cert",
        Some("CERTIFICATE REQUEST") => return "csr",
        Some(label) if label.ends_with("PRIVATE KEY") => return "key",
        _ => {}
    }
    if path.starts_with("credentials/") && path.ends_with(".config") {
        "kubeconfig"
    } else if path.ends_with(".yaml") || path.ends_with(".yml") {
        "yaml"
    } else {
        "text"
    }
}

/// Adds `same_as`: the files, here and on the other hosts, that hold the same bytes.
fn name_twins(
    summary: &mut Value,
    path: &str,
    bytes: &[u8],
    tree: &Snapshot,
    others: &[(&str, &Snapshot)],
) {
    let twins: Vec<String> = equal_files(bytes, tree, others)
        .into_iter()
        .filter(|twin| twin != path)
        .collect();
    if !twins.is_empty() {
        summary["same_as"] = json!(twins);
    }
}

/// The files with these bytes: own ones by path, those of other hosts by `host:path`.
pub fn equal_files(bytes: &[u8], tree: &Snapshot, others: &[(&str, &Snapshot)]) -> Vec<String> {
    let holds = |node: &Node| matches!(&node.content, Content::File(other) if other == bytes);
    let own = tree
        .nodes
        .iter()
        .filter(|(_, node)| holds(node))
        .map(|(path, _)| path.clone());
    let there = others.iter().flat_map(|(host, tree)| {
        tree.nodes
            .iter()
            .filter(|(_, node)| holds(node))
            .map(move |(path, _)| format!("{host}:{path}"))
    });
    own.chain(there).collect()
}

/// A kubeconfig with the files in it named in place of their bytes.
fn kubeconfig(bytes: &[u8], tree: &Snapshot, others: &[(&str, &Snapshot)]) -> Value {
    let mut value: Value = serde_saphyr::from_str(&String::from_utf8_lossy(bytes)).unwrap();
    name_files(&mut value, tree, others);
    value
}

fn name_files(value: &mut Value, tree: &Snapshot, others: &[(&str, &Snapshot)]) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if let (true, Some(text)) = (key.ends_with("-data"), value.as_str()) {
                    let bytes = STANDARD.decode(text).unwrap_or_default();
                    let files = equal_files(&bytes, tree, others);
                    let names: Vec<String> = files.iter().map(|file| format!("={file}")).collect();
                    *value = json!(names.join(" "));
                } else {
                    name_files(value, tree, others);
                }
            }
        }
        Value::Array(list) => list
            .iter_mut()
            .for_each(|value| name_files(value, tree, others)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32, gid: u32, content: &str) -> Node {
        Node {
            mode,
            uid: 0,
            gid,
            content: Content::File(content.as_bytes().to_vec()),
        }
    }

    fn tree(nodes: &[(&str, Node)]) -> Snapshot {
        Snapshot {
            nodes: nodes
                .iter()
                .map(|(path, node)| ((*path).to_owned(), node.clone()))
                .collect(),
        }
    }

    fn told(before: &Snapshot, after: &Snapshot) -> Value {
        let around = Surroundings {
            authorities: &[],
            others: &[],
            hide: &|text| text.replace("f00", "<TOKEN>"),
        };
        between(before, after, &around).into()
    }

    #[test]
    fn an_unchanged_file_is_not_told() {
        let same = tree(&[("args/kubelet", file(0o644, 0, "--a\n"))]);
        assert_eq!(told(&same, &same.clone()), json!([]));
    }

    #[test]
    fn a_file_whose_mode_alone_changed_is_told_without_its_content() {
        let before = tree(&[("args/kubelet", file(0o644, 0, "--a\n"))]);
        let after = tree(&[("args/kubelet", file(0o660, 2001, "--a\n"))]);
        assert_eq!(
            told(&before, &after),
            json!([{
                "path": "args/kubelet",
                "change": "modified",
                "mode": "0660",
                "mode_before": "0644",
                "group": "microk8s",
                "group_before": "root",
                "kind": "text",
                "content_unchanged": true,
            }])
        );
    }

    #[test]
    fn files_added_and_removed_are_told_with_values_hidden() {
        let before = tree(&[("var/lock/gone", file(0o644, 0, ""))]);
        let after = tree(&[
            ("credentials/cluster-tokens.txt", file(0o660, 2001, "f00\n")),
            ("credentials/blank.txt", file(0o660, 2001, "   \n")),
        ]);
        assert_eq!(
            told(&before, &after),
            json!([
                {
                    "path": "credentials/blank.txt",
                    "change": "added",
                    "mode": "0660",
                    "group": "microk8s",
                    "kind": "empty",
                    "content": "   \n",
                },
                {
                    "path": "credentials/cluster-tokens.txt",
                    "change": "added",
                    "mode": "0660",
                    "group": "microk8s",
                    "kind": "text",
                    "content": "<TOKEN>\n",
                },
                {
                    "path": "var/lock/gone",
                    "change": "removed",
                    "mode": "0644",
                    "kind": "empty",
                },
            ])
        );
    }

    #[test]
    fn a_kubeconfig_names_the_files_whose_bytes_it_holds() {
        let config = format!(
            "kind: Config\nclusters:\n- cluster:\n    certificate-authority-data: {}\n",
            STANDARD.encode("the authority")
        );
        let after = tree(&[
            ("certs/ca.crt", file(0o644, 0, "the authority")),
            ("credentials/kubelet.config", file(0o644, 0, &config)),
        ]);
        let other = tree(&[("certs/ca.crt", file(0o644, 0, "the authority"))]);
        let before = tree(&[("certs/ca.crt", file(0o644, 0, "the authority"))]);
        let around = Surroundings {
            authorities: &[],
            others: &[("n1", &other)],
            hide: &|text| text.to_owned(),
        };
        let told = between(&before, &after, &around);
        assert_eq!(
            told[0]["summary"],
            json!({
                "kind": "Config",
                "clusters": [
                    {"cluster": {"certificate-authority-data": "=certs/ca.crt =n1:certs/ca.crt"}},
                ],
            })
        );
    }
}
