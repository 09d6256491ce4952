//! Which launch configurations of the watched folder have been applied: the SHA-256 of what each file
//! held then.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::base::atomic_file::{self, Access};
use crate::base::sha256;
use crate::store::layout::Layout;

/// What was applied, by the names of the files.
pub(crate) struct Applied {
    path: PathBuf,
    digests: BTreeMap<String, String>,
}

impl Applied {
    /// What is remembered on the disk; nothing where that cannot be read, because to apply a
    /// configuration again does no harm.
    pub(crate) fn read(layout: &Layout) -> Self {
        let path = layout.own_state().join("launch-configurations");
        let text = std::fs::read(&path).unwrap_or_default();
        Self {
            digests: serde_json::from_slice(&text).unwrap_or_default(),
            path,
        }
    }

    /// Whether this content of the file was applied.
    pub(crate) fn has(&self, name: &str, digest: &str) -> bool {
        self.digests.get(name).is_some_and(|known| known == digest)
    }

    /// This content of the file was applied.
    pub(crate) fn remember(&mut self, name: &str, digest: &str) -> io::Result<()> {
        self.digests.insert(name.to_owned(), digest.to_owned());
        self.write()
    }

    /// Forgets files that are gone: one that comes back is new.
    pub(crate) fn keep(&mut self, is_there: impl Fn(&str) -> bool) -> io::Result<()> {
        let before = self.digests.len();
        self.digests.retain(|name, _| is_there(name));
        if self.digests.len() == before {
            return Ok(());
        }
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.digests)?;
        atomic_file::write(&self.path, &text, Access::PRIVATE)
    }
}

/// How a content is told from others.
pub(crate) fn digest_of(content: &[u8]) -> String {
    sha256::digits(&sha256::of(content))
}
