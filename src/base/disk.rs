//! Whether files can be changed, found out without changing any, and what helps where they cannot.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

/// Makes sure that files can be made and replaced in this folder.
pub(crate) fn check_folder(path: &Path) -> io::Result<()> {
    Ok(access(path, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// Makes sure that a file can be replaced: a read-only disk and an immutable file forbid it
/// whatever their folder allows. A file that is not there can be made.
pub(crate) fn check_file(path: &Path) -> io::Result<()> {
    match access(path, AccessFlags::W_OK) {
        Err(error @ (Errno::EPERM | Errno::EROFS)) => Err(error.into()),
        // The mode of a file does not matter to its replacement.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes sure that the disk with this path has room for so many bytes, and for another file.
pub(crate) fn check_room(path: &Path, bytes: u64) -> io::Result<()> {
    let disk = statvfs(path)?;
    // What is kept for root counts for root.
    let free = if nix::unistd::geteuid().is_root() {
        disk.blocks_free()
    } else {
        disk.blocks_available()
    };
    // Disks that count no files have none of either.
    let has_no_file_left = disk.files() > 0 && disk.files_free() == 0;
    if free.saturating_mul(disk.fragment_size()) < bytes || has_no_file_left {
        return Err(Errno::ENOSPC.into());
    }
    Ok(())
}

/// What helps against an error with a file, where an operator can do something about it, as the end
/// of a message.
pub(crate) fn cure_of(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES) => "; let this user read and write it and its folder",
        Some(Errno::EPERM) => {
            "; `lsattr` shows whether it or its folder is immutable, and `chattr -i` changes that"
        }
        Some(Errno::EROFS) => "; its file system is mounted read-only: mount it for writing",
        Some(Errno::ENOSPC | Errno::EDQUOT) => "; make room on its file system",
        Some(Errno::EFBIG) => {
            "; raise the limit for the size of files (`ulimit -f`, `LimitFSIZE=`)"
        }
        Some(Errno::EIO) => "; the disk fails: read the log of the kernel (`dmesg`)",
        Some(Errno::ENOTDIR) => "; move away what stands in the place of a folder",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_ours_has_room_and_can_be_changed() {
        let folder = tempfile::tempdir().unwrap();
        check_folder(folder.path()).unwrap();
        check_file(&folder.path().join("not-there")).unwrap();
        check_room(folder.path(), 1).unwrap();
        assert!(check_folder(&folder.path().join("not-there")).is_err());
        let full = check_room(folder.path(), u64::MAX).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}
