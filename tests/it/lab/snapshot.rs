//! What a directory tree holds at one moment: contents, modes and groups, to the byte.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::network::MICROK8S_GID;

/// One file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Directory,
    File(Vec<u8>),
    Link(String),
    /// A socket or pipe.
    Special,
}

impl Node {
    /// The bytes of a file, nothing for anything else.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::File(bytes) => bytes,
            _ => &[],
        }
    }

    pub fn mode_text(&self) -> String {
        format!("{:04o}", self.mode)
    }

    /// The group's name on the hosts of the lab.
    pub fn group(&self) -> String {
        match self.gid {
            0 => "root".to_owned(),
            MICROK8S_GID => "microk8s".to_owned(),
            other => other.to_string(),
        }
    }
}

/// A tree, by path relative to its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub nodes: BTreeMap<String, Node>,
}

impl Snapshot {
    /// Reads everything below `root`, but nothing at or below the paths in `leave_out`.
    pub fn take(root: &Path, leave_out: &[&str]) -> Self {
        let mut snapshot = Self::default();
        snapshot.add(root, "", leave_out);
        snapshot
    }

    /// The bytes of a file, if there is one.
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        match &self.nodes.get(path)?.content {
            Content::File(bytes) => Some(bytes),
            _ => None,
        }
    }

    fn add(&mut self, root: &Path, below: &str, leave_out: &[&str]) {
        for entry in fs::read_dir(root.join(below)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if below.is_empty() {
                name
            } else {
                format!("{below}/{name}")
            };
            if leave_out.contains(&path.as_str()) {
                continue;
            }
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else {
                // Gone between the two calls: an agent at work, or a closing socket.
                continue;
            };
            let kind = metadata.file_type();
            let content = if kind.is_dir() {
                Content::Directory
            } else if kind.is_symlink() {
                Content::Link(fs::read_link(entry.path()).unwrap().display().to_string())
            } else if kind.is_file() {
                Content::File(fs::read(entry.path()).unwrap())
            } else {
                Content::Special
            };
            let node = Node {
                mode: metadata.mode() & 0o7777,
                uid: metadata.uid(),
                gid: metadata.gid(),
                content,
            };
            let is_directory = node.content == Content::Directory;
            self.nodes.insert(path.clone(), node);
            if is_directory {
                self.add(root, &path, leave_out);
            }
        }
    }
}

#[test]
fn a_snapshot_holds_contents_modes_and_links_but_not_what_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/own/deep")).unwrap();
    fs::create_dir_all(root.path().join("args")).unwrap();
    fs::write(root.path().join("args/kubelet"), "--x\n").unwrap();
    fs::write(root.path().join("var/own/deep/store"), "secret").unwrap();
    std::os::unix::fs::symlink("kubelet", root.path().join("args/link")).unwrap();
    let snapshot = Snapshot::take(root.path(), &["var/own"]);
    let paths: Vec<&str> = snapshot.nodes.keys().map(String::as_str).collect();
    assert_eq!(paths, ["args", "args/kubelet", "args/link", "var"]);
    assert_eq!(snapshot.file("args/kubelet"), Some(&b"--x\n"[..]));
    assert_eq!(snapshot.file("args"), None);
    assert_eq!(
        snapshot.nodes["args/link"].content,
        Content::Link("kubelet".to_owned())
    );
}
