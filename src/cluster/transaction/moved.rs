//! A journal that was copied with its node directory: snapd does that when the snap is refreshed.

use std::fs;
use std::path::{Component, Path};

use serde_json::Value;

use super::{JournalError, file_error};
use crate::base::atomic_file::{self, Access};
use crate::store::layout::Layout;

/// What snapd has beside the directories of revisions.
const OF_ALL_REVISIONS: [&str; 2] = ["common", "current"];
/// What a file held, in base64, and what another node is to be told.
const NO_PATHS: [&str; 2] = ["content", "report"];

/// Has a journal name files of this node directory, and none of the directory that
/// they were copied from: that one is another node, or nothing.
pub(super) fn settle_in(layout: &Layout, folder: &Path) -> Result<(), JournalError> {
    let Some(revision) = layout.revision() else {
        return Ok(());
    };
    for entry in fs::read_dir(folder).map_err(file_error("read", folder))? {
        let path = entry.map_err(file_error("read", folder))?.path();
        let Ok(text) = fs::read_to_string(&path).map(zeroize::Zeroizing::new) else {
            continue;
        };
        let mut is_changed = false;
        let mut new = zeroize::Zeroizing::new(String::new());
        for line in text.split_inclusive('\n') {
            let mut entry = serde_json::from_str::<Value>(line).unwrap_or_default();
            if lead_to(revision.directory(), &mut entry) {
                is_changed = true;
                new.push_str(&entry.to_string());
                new.push('\n');
            } else {
                new.push_str(line);
            }
        }
        if is_changed {
            atomic_file::write(&path, new.as_bytes(), Access::PRIVATE)
                .map_err(file_error("write", &path))?;
        }
    }
    Ok(())
}

/// Whether a path was changed.
fn lead_to(directory: &Path, entry: &mut Value) -> bool {
    match entry {
        Value::String(text) => match moved(directory, Path::new(text.as_str())) {
            Some(new) => {
                *text = new;
                true
            }
            None => false,
        },
        Value::Array(values) => {
            let changed = values.iter_mut().map(|value| lead_to(directory, value));
            changed.filter(|changed| *changed).count() > 0
        }
        Value::Object(fields) => {
            let fields = fields
                .iter_mut()
                .filter(|(name, _)| !NO_PATHS.contains(&name.as_str()));
            let changed = fields.map(|(_, value)| lead_to(directory, value));
            changed.filter(|changed| *changed).count() > 0
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The same path below this directory, when it is one below another revision's.
fn moved(directory: &Path, path: &Path) -> Option<String> {
    let below = path.strip_prefix(directory.parent()?).ok()?;
    let mut parts = below.components();
    let Component::Normal(revision) = parts.next()? else {
        return None;
    };
    let stays = Some(revision) == directory.file_name()
        || OF_ALL_REVISIONS.iter().any(|name| revision == *name);
    (!stays).then(|| {
        directory
            .join(parts.as_path())
            .to_string_lossy()
            .into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_another_revision_become_those_of_this_one() {
        let directory = Path::new("/var/snap/microk8s/x2");
        let mut entry = serde_json::json!({
            "undo": "restore-file",
            "path": "/var/snap/microk8s/x1/args/kubelet",
            "content": "/var/snap/microk8s/x1/a",
            "more": ["/var/snap/microk8s/common/x", "/var/snap/microk8s/x2/y", "/etc/x1", 7],
        });
        assert!(lead_to(directory, &mut entry));
        assert_eq!(entry["path"], "/var/snap/microk8s/x2/args/kubelet");
        assert_eq!(entry["content"], "/var/snap/microk8s/x1/a");
        let before = entry.clone();
        assert!(!lead_to(directory, &mut entry));
        assert_eq!(entry, before);
    }
}
