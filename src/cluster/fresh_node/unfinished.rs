//! Node directories that a process was killed over before they were complete. They hold keys.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::files;
use crate::base::atomic_file;
use crate::base::file_lock::FileLock;

/// How the name of such a directory begins.
pub(super) const PREFIX: &str = ".new-";
/// How many letters and digits come behind that.
const RANDOM: usize = 6;

/// Removes those in this folder. One that a process still fills is locked, and one that holds anything
/// else than a node directory, or is another user's, is not ours.
pub(super) fn remove(above: &Path) {
    for entry in fs::read_dir(above).into_iter().flatten().flatten() {
        let path = entry.path();
        if !is_named_so(&entry.file_name()) || !is_a_part_of_a_node(&path) {
            continue;
        }
        // The lock is held until it is gone.
        let Ok(_lock) = FileLock::try_take_folder(&path) else {
            continue;
        };
        match atomic_file::remove_folder(&path) {
            Ok(()) => tracing::info!(
                "removed `{}`, which an interrupted start had left",
                path.display()
            ),
            Err(error) => {
                tracing::warn!(%error, "cannot remove `{}`, which an interrupted start has left", path.display());
            }
        }
    }
}

fn is_named_so(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// Whether there is a folder of this user with folders of a node in it, and with nothing else. An empty
/// one may have been made by another process a moment ago, and holds no keys.
fn is_a_part_of_a_node(path: &Path) -> bool {
    let is_own = fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw());
    let Ok(entries) = fs::read_dir(path) else {
        return false;
    };
    let entries: Vec<_> = entries.flatten().collect();
    let is_of_node = |entry: &fs::DirEntry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_folder
            && files::FOLDERS
                .iter()
                .any(|(name, _)| entry.file_name() == *name)
    };
    is_own && !entries.is_empty() && entries.iter().all(is_of_node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_left_of_a_node_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for folder in [
            ".new-a1B2c3/certs",
            ".new-a1B2c3/var/lock",
            ".new-locked/args",
            ".new-others/args",
            ".new-others/photos",
            ".new-folder-of-mine/args",
            ".new-empty1",
            ".newest/args",
        ] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        fs::write(path(".new-a1B2c3/certs/ca.key"), "key").unwrap();
        std::os::unix::fs::symlink(path(".newest"), path(".new-linked")).unwrap();
        let _filled = FileLock::try_take_folder(&path(".new-locked")).unwrap();
        remove(root.path());
        assert!(!path(".new-a1B2c3").exists());
        for stays in [
            ".new-locked/args",
            ".new-others/photos",
            ".new-folder-of-mine/args",
            ".new-empty1",
            ".newest/args",
            ".new-linked/args",
        ] {
            assert!(path(stays).exists(), "{stays}");
        }
    }
}
