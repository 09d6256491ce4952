//! A disk that can be full.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use microk8s::base::wait;
use nix::sys::statvfs::statvfs;

use super::{Host, STALL_TIMEOUT, nodes};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A small disk in the place of a folder of a node, with what the folder holds. When it is dropped
/// it goes, with all that is on it.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// A disk of this size, as `mount` takes it.
    pub fn over(host: &Host, folder: &Path, size: &str) -> Self {
        let kept = host.scratch().join("kept");
        nodes::copy(folder, &kept);
        let options = format!("size={size}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder)
            .status();
        assert!(mount.unwrap().success());
        // The mode of the folder is copied with what it holds.
        let copied = Command::new("cp")
            .arg("-a")
            .arg(kept.join("."))
            .arg(folder)
            .status();
        assert!(copied.unwrap().success());
        fs::remove_dir_all(kept).unwrap();
        host.see_mounts();
        Self(folder.to_owned())
    }

    /// Fills it up, but for so many pages.
    pub fn fill_up_to(&self, pages: u64) {
        let mut file = fs::File::create(self.filler()).unwrap();
        // More than any of these disks holds, and not enough to hurt where none is mounted.
        let error = (0..64 << 8).find_map(|_| file.write_all(&[0; 4096]).err());
        let kind = error.map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::StorageFull));
        let length = file.metadata().unwrap().len();
        let room = 4096 * pages;
        assert!(
            length >= room,
            "of {pages} pages the disk has {length} bytes"
        );
        file.set_len(length - room).unwrap();
    }

    /// Takes away what filled it up.
    pub fn make_room(&self) {
        let filler = self.filler();
        let pages = fs::metadata(&filler).unwrap().len() / 4096;
        fs::remove_file(&filler).unwrap();
        // A process that another test is starting may have it open for a moment.
        let is_free = || {
            let free = statvfs(&self.0).unwrap().blocks_free();
            (free >= pages / 2).then_some(())
        };
        wait::until(STALL_TIMEOUT, POLL_INTERVAL, is_free).expect("there is room again");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
