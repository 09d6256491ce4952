//! Files that change at once or not at all.
//!
//! A reader sees the old content or the new one, also after a crash or a power loss: the new
//! content is written beside the file, flushed, and renamed over it. A change without a flush is
//! for callers that can undo it until they have flushed it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, fstatfs};
use nix::unistd::syncfs;
use tempfile::{NamedTempFile, TempDir};

use crate::base::missing::none_if_missing;

/// Who may do what with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// As the file has it; a new file gets this mode.
    Keep {
        /// The mode of a file that does not exist yet.
        or: u32,
    },
    /// This mode, this owner and this group.
    Set {
        /// The permission bits.
        mode: u32,
        /// The owner; `None` leaves the process's own.
        uid: Option<u32>,
        /// The group; `None` leaves the process's own.
        gid: Option<u32>,
    },
}

impl Access {
    /// Mode 0600, owned by the user of this process.
    pub(crate) const PRIVATE: Self = Self::mode(0o600);

    /// This mode, owned by the user of this process.
    pub(crate) const fn mode(mode: u32) -> Self {
        Self::Set {
            mode,
            uid: None,
            gid: None,
        }
    }
}

/// Replaces the content of `path`, or creates it, durably. A link stays one: what it leads to is
/// replaced.
pub(crate) fn write(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    let path = put(path, content, access, true)?;
    flush(folder_of(&path))
}

/// [`write()`] without waiting for the disk, for a change that is undone after a power loss unless
/// [`flush`] has confirmed it. Returns where the content is now.
pub(crate) fn write_unflushed(path: &Path, content: &[u8], access: Access) -> io::Result<PathBuf> {
    put(path, content, access, false)
}

fn put(path: &Path, content: &[u8], access: Access, is_flushed: bool) -> io::Result<PathBuf> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (mode, uid, gid) = match access {
        Access::Set { mode, uid, gid } => (mode, uid, gid),
        Access::Keep { or } => match none_if_missing(fs::metadata(&path))? {
            Some(found) => (found.mode() & 0o7777, Some(found.uid()), Some(found.gid())),
            None => (or, None, None),
        },
    };
    let mut new = NamedTempFile::with_prefix_in(prefix_of(&path), folder_of(&path))?;
    new.write_all(content)?;
    chown(new.as_file(), uid, gid)?;
    new.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    if is_flushed {
        new.as_file().sync_all()?;
    }
    new.persist(&path).map_err(|error| error.error)?;
    Ok(path)
}

/// Adds to the end of a file, durably. After a power loss a part of it may be there.
pub(crate) fn append(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A new private file for another program to write to.
pub(crate) fn new_log(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Puts this end in the place of all that a file holds from there on, durably. It is written over what is
/// there, which needs no room on a full disk.
pub(crate) fn replace_end(path: &Path, from: u64, end: &[u8]) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.write_all_at(end, from)?;
    file.set_len(from + end.len() as u64)?;
    file.sync_all()
}

/// Waits until the disk has the content of a file, or the names in a folder.
pub(crate) fn flush(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// [`flush`] of all these; what is not there any more needs none. An error comes with its path.
///
/// A file system is flushed as a whole where that is known to take no longer, and to report errors.
pub(crate) fn flush_all(paths: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
    let mut flushed = BTreeSet::new();
    let mut flush = |path: &Path| {
        let Some(file) = none_if_missing(File::open(path))? else {
            return Ok(());
        };
        let device = file.metadata()?.dev();
        if flushed.contains(&device) {
            return Ok(());
        }
        let is_whole = paths.len() > 2
            && fstatfs(&file).is_ok_and(|found| {
                is_best_flushed_whole(found.filesystem_type(), paths.len(), |path| {
                    fs::read_to_string(path).unwrap_or_default()
                })
            });
        if !is_whole {
            return file.sync_all();
        }
        syncfs(&file)?;
        flushed.insert(device);
        Ok(())
    };
    let mut paths = paths.iter();
    paths.try_for_each(|path| flush(path).map_err(|error| (path.clone(), error)))
}

/// Whether a file system of this kind is better flushed as a whole than `count` times in part. That
/// waits for what other programs have written there, too, and a slow disk writes about a mebibyte in
/// the time of a flush. `read` gives the text of a file of the kernel.
fn is_best_flushed_whole(kind: FsType, count: usize, read: impl Fn(&str) -> String) -> bool {
    const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);
    match kind {
        TMPFS_MAGIC => true,
        EXT4_SUPER_MAGIC | XFS_SUPER_MAGIC | BTRFS_SUPER_MAGIC => {
            reports_errors(&read("/proc/sys/kernel/osrelease"))
                && unwritten_kib(&read("/proc/meminfo")).is_some_and(|kib| kib <= count << 10)
        }
        _ => false,
    }
}

/// Whether `syncfs` of a kernel of this release reports what could not be written: since Linux 5.8.
fn reports_errors(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (5, 8),
        _ => false,
    }
}

/// How much is still to be written to disks, by the text of `/proc/meminfo`.
fn unwritten_kib(meminfo: &str) -> Option<usize> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        line?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<usize>()
            .ok()
    };
    Some(kib("Dirty:")? + kib("Writeback:")?)
}

/// Writes over what a file holds, for where its folder takes no other file. It may end up with half of
/// the content, unlike with [`write()`].
pub(crate) fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).truncate(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Removes what a [`write()`] to `path` left behind when its process was killed.
pub(crate) fn remove_unfinished(path: &Path) -> io::Result<()> {
    let (folder, prefix) = (folder_of(path), prefix_of(path));
    let Some(entries) = none_if_missing(fs::read_dir(folder))? else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes())
        {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// How the name of a file's next content begins, until it is complete.
fn prefix_of(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".new-");
    prefix
}

/// Sets mode, owner and group of what is there, without touching its content.
pub(crate) fn set_access(
    path: &Path,
    mode: u32,
    uid: Option<u32>,
    gid: Option<u32>,
) -> io::Result<()> {
    std::os::unix::fs::chown(path, uid, gid)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Removes the file durably; one that is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match remove_unflushed(path)? {
        true => flush(folder_of(path)),
        false => Ok(()),
    }
}

/// Removes the file without waiting for the disk; says whether it was there.
pub(crate) fn remove_unflushed(path: &Path) -> io::Result<bool> {
    was_there(fs::remove_file(path))
}

/// Whether there was what was to be removed.
fn was_there(removed: io::Result<()>) -> io::Result<bool> {
    Ok(none_if_missing(removed)?.is_some())
}

/// Renames a file or folder durably; both names must be on one file system.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_unflushed(from, to)?;
    let (old, new) = (folder_of(from), folder_of(to));
    flush(old)?;
    if new == old { Ok(()) } else { flush(new) }
}

/// [`rename`] without waiting for the disk.
pub(crate) fn rename_unflushed(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// Makes `path` lead to `target`, in place of what was there.
pub(crate) fn link(target: &Path, path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    let new = tempfile::Builder::new()
        .prefix(".new-")
        .make_in(folder, |new| std::os::unix::fs::symlink(target, new))?;
    new.persist(path).map_err(|error| error.error)?;
    flush(folder)
}

/// A new private folder in `above`, removed with its contents when it is dropped.
pub(crate) fn temporary_folder(above: &Path, prefix: &str) -> io::Result<TempDir> {
    tempfile::Builder::new()
        .prefix(prefix)
        .rand_bytes(6)
        .tempdir_in(above)
}

/// Makes the folder `path` with this mode, and the folders above it, durably; one that is there is
/// left.
pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above, 0o755)?;
    }
    match make_folder_unflushed(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Errno::ENOTDIR.into()),
        made => made.and_then(|()| flush(folder_of(path))),
    }
}

/// Makes a folder where there is none, without waiting for the disk.
pub(crate) fn make_folder_unflushed(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Removes a folder that holds nothing; says whether it did.
pub(crate) fn remove_empty_folder(path: &Path) -> bool {
    fs::remove_dir(path).is_ok()
}

/// Removes a folder and all in it, durably; one that is not there is no error.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    match remove_folder_unflushed(path)? {
        true => flush(folder_of(path)),
        false => Ok(()),
    }
}

/// Removes a folder and all in it without waiting for the disk; says whether it was there.
pub(crate) fn remove_folder_unflushed(path: &Path) -> io::Result<bool> {
    was_there(fs::remove_dir_all(path))
}

/// The folder that holds this name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Only root may change the owner of a file; for other users it stays, as with MicroK8s.
fn chown(file: &File, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    match std::os::unix::fs::fchown(file, uid, gid) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewritten_file_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(
            &path,
            b"one",
            Access::Set {
                mode: 0o640,
                uid: None,
                gid: None,
            },
        )
        .unwrap();
        write(&path, b"two", Access::Keep { or: 0o600 }).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x", Access::PRIVATE).is_err());
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["folder"]);
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write(&file, b"one", Access::PRIVATE).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write(&link, b"two", Access::PRIVATE).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"two");
    }

    #[test]
    fn what_a_killed_write_left_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.key");
        for name in [".ca.key.new-x1", ".ca.key2.new-x1", "ca.key"] {
            fs::write(dir.path().join(name), "key").unwrap();
        }
        remove_unfinished(&path).unwrap();
        assert!(path.exists() && dir.path().join(".ca.key2.new-x1").exists());
        assert!(!dir.path().join(".ca.key.new-x1").exists());
    }

    #[test]
    fn a_file_system_is_flushed_as_a_whole_where_errors_are_reported_and_little_is_to_be_written() {
        let is_whole = |kind, count, release: &str, dirty: &str| {
            is_best_flushed_whole(kind, count, |path| match path {
                "/proc/meminfo" => {
                    format!("MemTotal: 9 kB\n{dirty}Writeback:       24 kB\nWritebackTmp: 7 kB\n")
                }
                _ => release.to_owned(),
            })
        };
        let dirty = "Dirty:            8168 kB\n";
        for release in ["6.18.44-x", "5.8-rc1", "5.10.0"] {
            assert!(is_whole(EXT4_SUPER_MAGIC, 8, release, dirty), "{release}");
            assert!(!is_whole(EXT4_SUPER_MAGIC, 7, release, dirty), "{release}");
            assert!(!is_whole(EXT4_SUPER_MAGIC, 99, release, ""), "{release}");
        }
        for release in ["5.4.0-190-generic", "4.15.0", "", "5"] {
            assert!(!is_whole(EXT4_SUPER_MAGIC, 8, release, dirty), "{release}");
            assert!(is_whole(TMPFS_MAGIC, 3, release, ""), "{release}");
        }
        let another = nix::sys::statfs::FUSE_SUPER_MAGIC;
        assert!(!is_whole(another, 8, "6.18.44", dirty));
    }

    #[test]
    fn what_is_gone_needs_no_flush_and_what_cannot_be_flushed_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "x").unwrap();
        flush_all(&[
            path("gone"),
            path("file"),
            path("gone/too"),
            dir.path().into(),
        ])
        .unwrap();
        let below = path("file/below");
        let (named, error) = flush_all(&[path("file"), below.clone()]).unwrap_err();
        assert_eq!((named, error.kind()), (below, io::ErrorKind::NotADirectory));
    }

    #[test]
    fn a_missing_file_is_removed_without_error() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("nothing")).unwrap();
    }
}
