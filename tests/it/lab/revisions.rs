//! A host's node directory as one of several revisions of the snap, as snapd has them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::{Host, nodes};

/// Moves the node to where a snap's first revision is, with `current` leading there. The host's own
/// path to the node leads to the revision that is current.
pub fn lay_out(host: &Host) {
    fs::rename(host.snap_data(), directory(host, "x1")).unwrap();
    link(host, "x1");
    symlink("current", host.snap_data()).unwrap();
}

/// A revision's directory.
pub fn directory(host: &Host, revision: &str) -> PathBuf {
    host.scratch().join(revision)
}

/// Takes the link away, as snapd does before it copies the directory.
pub fn unlink(host: &Host) {
    fs::remove_file(host.scratch().join("current")).unwrap();
}

/// Makes the link.
pub fn link(host: &Host, revision: &str) {
    symlink(revision, host.scratch().join("current")).unwrap();
}

/// Makes the directory of a new revision.
pub fn copy(host: &Host, from: &str, to: &str) {
    nodes::copy(&directory(host, from), &directory(host, to));
}

/// Has the link lead to another revision at once.
pub fn lead_to(host: &Host, revision: &str) {
    symlink(revision, host.scratch().join("next")).unwrap();
    fs::rename(host.scratch().join("next"), host.scratch().join("current")).unwrap();
}
