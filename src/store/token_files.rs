//! MicroK8s's own token files: their names, what they say of a token, and adding a line.
//!
//! Its tools append to them at any moment and without a lock. [`TokenFile`] reads them.
//!
//! [`TokenFile`]: crate::store::token_file::TokenFile

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::base::missing::none_if_missing;

/// Tokens for one use, or until a time (below `credentials`).
pub const CLUSTER_TOKENS: &str = "cluster-tokens.txt";
/// Tokens for any number of uses.
pub(crate) const PERSISTENT_TOKENS: &str = "persistent-cluster-tokens.txt";
/// Tokens with which a node that is joining has its certificates signed.
pub(crate) const CERTIFICATE_TOKENS: &str = "certs-request-tokens.txt";
/// The files whose lines admit a node, or sign its certificates, in the cluster that this node is in.
pub(crate) const OF_THE_CLUSTER: [&str; 3] =
    [CLUSTER_TOKENS, PERSISTENT_TOKENS, CERTIFICATE_TOKENS];
/// The tokens with which this node may call the nodes of an etcd cluster.
pub(crate) const CALLBACK_TOKENS: &str = "callback-tokens.txt";
/// The token that this node's agent is called with; beside [`CALLBACK_DIGEST`], by this node alone.
pub(crate) const CALLBACK_TOKEN: &str = "callback-token.txt";
/// The SHA-256 of the token that a worker's agent is called with by its cluster. MicroK8s has no
/// such file.
pub(crate) const CALLBACK_DIGEST: &str = "callback-token.sha256";

/// What a token file says of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// Not in the file.
    Not,
    /// In the file, without an end.
    Open,
    /// Usable any number of times until then, in unix seconds.
    Until(i64),
    /// In the file, and its time has run out.
    Expired,
}

impl Listed {
    /// Whether it admits a node.
    pub(crate) const fn is_usable(self) -> bool {
        matches!(self, Self::Open | Self::Until(_))
    }
}

/// Who may read a token file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sharing {
    /// The mode that the file gets.
    pub(crate) mode: u32,
    /// The group that it gets, where there is one.
    pub(crate) gid: Option<u32>,
}

/// Appends a line, as MicroK8s's tools do, in one write.
///
/// Where the last line lacks its end, that is put before, so that no two tokens run together.
pub(crate) fn append(path: &Path, line: &str, sharing: Sharing) -> io::Result<()> {
    if line.contains(['\n', '\r']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a line cannot hold the end of a line",
        ));
    }
    let mut file = File::options()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)?;
    let length = file.metadata()?.size();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    let separator = if last[0] == b'\n' { "" } else { "\n" };
    file.write_all(format!("{separator}{line}\n").as_bytes())?;
    let mode = match sharing.gid {
        None => sharing.mode & 0o700,
        Some(gid) => {
            // Only root and members of the group may; the file is usable either way.
            let _ = std::os::unix::fs::fchown(&file, None, Some(gid));
            sharing.mode
        }
    };
    let _ = file.set_permissions(std::fs::Permissions::from_mode(mode));
    file.sync_all()
}

/// Appends a token where no line has it; says whether it did.
pub(crate) fn add(path: &Path, token: &str, sharing: Sharing) -> io::Result<bool> {
    let there = none_if_missing(std::fs::read(path))?;
    let there = Zeroizing::new(there.unwrap_or_default());
    let mut lines = there.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    if lines.any(|line| line == token.as_bytes()) {
        return Ok(false);
    }
    append(path, token, sharing).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARING: Sharing = Sharing {
        mode: 0o660,
        gid: None,
    };

    #[test]
    fn appending_to_a_file_without_a_final_newline_joins_no_two_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CLUSTER_TOKENS);
        std::fs::write(&path, "one").unwrap();
        append(&path, "two", SHARING).unwrap();
        append(&path, "three", SHARING).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn one_line_is_appended_and_no_second_one_within_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CLUSTER_TOKENS);
        std::fs::write(&path, "").unwrap();
        for bad in ["a\nb", "a\r", "\n"] {
            assert!(append(&path, bad, SHARING).is_err(), "{bad:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
