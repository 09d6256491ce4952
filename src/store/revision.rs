//! The revision of the snap that a node directory belongs to, and whether it still is the current one.
//!
//! snapd keeps a directory for each revision, `x1`, `x2`, …, and a link, `current`, to the one in use.
//! When the snap is refreshed, it takes the link away, copies the directory, and makes the link anew,
//! to the copy. What then works on in the old directory changes nothing that runs. `snap revert` leads
//! the link back.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::store::file_cache::FileId;

/// The link of snapd.
const CURRENT: &str = "current";

/// A node directory and what leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revision {
    directory: PathBuf,
    link: PathBuf,
    identity: FileId,
}

/// Where a node directory is, seen from what led to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotCurrent {
    /// Nothing is there.
    #[error("MicroK8s is being refreshed: `{}` leads nowhere at the moment", .0.display())]
    Missing(PathBuf),
    /// Another directory.
    #[error(
        "MicroK8s was refreshed: `{}` leads to `{}` now, no longer to `{}`", link.display(), to.display(), from.display()
    )]
    Elsewhere {
        /// What led to the directory.
        link: PathBuf,
        /// The directory.
        from: PathBuf,
        /// The other one.
        to: PathBuf,
    },
}

impl Revision {
    /// The directory that a path leads to; `None` when it leads to none.
    ///
    /// snapd's own link is watched where it leads there, or from one revision to another: then what
    /// named the directory is older than the link. Else the path itself is watched.
    pub(crate) fn of(data: &Path) -> Option<Self> {
        let directory = fs::canonicalize(data).ok()?;
        let identity = identity(&directory).ok()?;
        let current = directory.parent()?.join(CURRENT);
        let leads_here = self::identity(&current).is_ok_and(|found| found == identity);
        let is_older =
            || is_revision(&directory) && fs::read_link(&current).is_ok_and(|to| is_revision(&to));
        let link = if leads_here || is_older() {
            current
        } else {
            data.to_owned()
        };
        Some(Self {
            directory,
            link,
            identity,
        })
    }

    /// The directory, without links in its path.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Device and inode of the directory.
    pub(crate) fn identity(&self) -> FileId {
        self.identity
    }

    /// Whether snapd's link is what leads there.
    pub(crate) fn is_snaps_current(&self) -> bool {
        self.link.ends_with(CURRENT)
    }

    /// Looks whether the link still leads to the directory.
    pub(crate) fn check(&self) -> Result<(), NotCurrent> {
        match identity(&self.link) {
            Ok(found) if found == self.identity => Ok(()),
            Ok(_) => match fs::canonicalize(&self.link) {
                Ok(to) => Err(NotCurrent::Elsewhere {
                    link: self.link.clone(),
                    from: self.directory.clone(),
                    to,
                }),
                Err(_) => Err(NotCurrent::Missing(self.link.clone())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(NotCurrent::Missing(self.link.clone()))
            }
            // What cannot be looked at has not moved for that.
            Err(_) => Ok(()),
        }
    }
}

/// Whether a directory is named as snapd names them: `1234`, or `x1` for a snap that was built here.
fn is_revision(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(|name| name.strip_prefix('x').unwrap_or(name))
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
}

fn identity(path: &Path) -> io::Result<FileId> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for revision in ["x1", "x2"] {
            fs::create_dir(root.path().join(revision)).unwrap();
        }
        symlink("x1", root.path().join(CURRENT)).unwrap();
        root
    }

    fn lead_to(root: &Path, revision: &str) {
        fs::remove_file(root.join(CURRENT)).unwrap();
        symlink(revision, root.join(CURRENT)).unwrap();
    }

    #[test]
    fn a_directory_is_current_as_long_as_the_link_leads_to_it() {
        for given in ["x1", CURRENT, "own"] {
            let root = place();
            let path = root.path();
            symlink(path.join("x1"), path.join("own")).unwrap();
            let revision = Revision::of(&path.join(given)).unwrap();
            assert_eq!(
                revision.directory(),
                path.join("x1").canonicalize().unwrap()
            );
            assert_eq!(revision.check(), Ok(()), "{given}");
            fs::remove_file(path.join(CURRENT)).unwrap();
            assert!(
                matches!(revision.check(), Err(NotCurrent::Missing(_))),
                "{given}"
            );
            symlink("x2", path.join(CURRENT)).unwrap();
            let Err(NotCurrent::Elsewhere { to, .. }) = revision.check() else {
                panic!("{given}");
            };
            assert_eq!(to, path.join("x2").canonicalize().unwrap());
            fs::remove_dir(path.join("x1")).unwrap();
            assert!(matches!(
                revision.check(),
                Err(NotCurrent::Elsewhere { .. })
            ));
        }
    }

    #[test]
    fn a_revision_that_was_named_before_the_link_moved_on_is_not_current() {
        for (old, new) in [("x1", "x2"), ("8511", "8612")] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path();
            for revision in [old, new] {
                fs::create_dir(path.join(revision)).unwrap();
            }
            symlink(new, path.join(CURRENT)).unwrap();
            symlink(old, path.join("own")).unwrap();
            for given in [old, "own"] {
                let revision = Revision::of(&path.join(given)).unwrap();
                let Err(NotCurrent::Elsewhere { to, .. }) = revision.check() else {
                    panic!("{given}");
                };
                assert_eq!(to, path.join(new).canonicalize().unwrap());
            }
        }
    }

    #[test]
    fn a_directory_that_the_link_of_snapd_does_not_lead_to_is_watched_itself() {
        let root = place();
        let path = root.path();
        fs::create_dir(path.join("other")).unwrap();
        symlink(path.join("other"), path.join("own")).unwrap();
        for given in ["other", "own"] {
            let revision = Revision::of(&path.join(given)).unwrap();
            lead_to(path, "x1");
            assert_eq!(revision.check(), Ok(()), "{given}");
        }
        let revision = Revision::of(&path.join("own")).unwrap();
        assert_eq!(revision.check(), Ok(()));
        fs::remove_file(path.join("own")).unwrap();
        symlink(path.join("x1"), path.join("own")).unwrap();
        assert!(matches!(
            revision.check(),
            Err(NotCurrent::Elsewhere { .. })
        ));
        assert_eq!(Revision::of(&path.join("none")), None);
    }
}
