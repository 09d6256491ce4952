//! The tokens with which a node's agent is called.
//!
//! On a control plane node, and on a worker that MicroK8s's own programs made one,
//! `callback-token.txt` holds the cluster's token. A worker that was given a token of its own has
//! that one there, and of the cluster's no more than the SHA-256, in `callback-token.sha256`.

use crate::base::secret::Secret;
use crate::model::token::{Token, TokenDigest};
use crate::store::layout::{Layout, ReadError};
use crate::store::token_files::{CALLBACK_DIGEST, CALLBACK_TOKEN};

/// Whose a callback token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The cluster's: control plane nodes have it.
    Cluster,
    /// This worker's own.
    Worker,
}

/// Whose token this is; `None` when it is unknown. The comparison takes constant time.
///
/// # Errors
///
/// A file that is there and cannot be read. One that is not there holds no token.
pub(crate) fn owner(layout: &Layout, presented: &Token) -> Result<Option<Owner>, ReadError> {
    if presented.expose().is_empty() {
        return Ok(None);
    }
    let presented = presented.digest();
    let cluster = read(layout, CALLBACK_DIGEST)?;
    let own = read(layout, CALLBACK_TOKEN)?;
    let is_in = |text: &Secret, digest: fn(&str) -> Option<TokenDigest>| {
        let matching = lines(text.expose()).filter_map(digest);
        matching.fold(false, |found, known| found | known.matches(&presented))
    };
    let of_token = |line: &str| Some(Token::presented(line).digest());
    let is_own = own.as_ref().is_some_and(|text| is_in(text, of_token));
    Ok(match cluster {
        Some(text) if is_in(&text, TokenDigest::from_digits) => Some(Owner::Cluster),
        Some(_) => is_own.then_some(Owner::Worker),
        None => is_own.then_some(Owner::Cluster),
    })
}

/// Of the tokens that such a file holds, one a line, the one to give to a node that joins: each opens
/// this node, and a digest is that of one.
pub(crate) fn first(text: &str) -> &str {
    lines(text).next().unwrap_or_default()
}

/// As with MicroK8s, a file may hold more than one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

fn read(layout: &Layout, name: &str) -> Result<Option<Secret>, ReadError> {
    match layout.read(&layout.credential(name)) {
        Ok(text) => Ok(Some(Secret::new(text))),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_token_is_told_by_the_files_and_nothing_else_is_one() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::standalone(root.path());
        fs::create_dir_all(layout.credential("")).unwrap();
        let whose = |text: &str| owner(&layout, &Token::presented(text)).unwrap();
        assert_eq!(whose(""), None);
        assert_eq!(whose("CLUSTER"), None);

        let token_file = layout.credential(CALLBACK_TOKEN);
        fs::write(&token_file, "\nCLUSTER\n\n").unwrap();
        assert_eq!(whose("CLUSTER"), Some(Owner::Cluster));
        for wrong in ["", "CLUSTE", "CLUSTERS", "cluster"] {
            assert_eq!(whose(wrong), None, "{wrong}");
        }

        fs::write(&token_file, "OWN\n").unwrap();
        let digits = Token::presented("CLUSTER").digest().digits();
        fs::write(layout.credential(CALLBACK_DIGEST), format!("{digits}\n")).unwrap();
        assert_eq!(whose("CLUSTER"), Some(Owner::Cluster));
        assert_eq!(whose("OWN"), Some(Owner::Worker));
        assert_eq!(whose(&digits), None, "the digest is no token");

        // An empty or broken file makes the worker's own token none of the cluster's.
        fs::write(layout.credential(CALLBACK_DIGEST), "").unwrap();
        assert_eq!(whose("OWN"), Some(Owner::Worker));
        assert_eq!(whose("CLUSTER"), None);
    }
}
