//! A disk that can be full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Host, nodes};

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
        let filler = self.filler();
        // More than any of these disks holds, and not enough to hurt where none is mounted.
        let line = format!("head -c 64m /dev/zero > {} 2>/dev/null", filler.display());
        let filled = Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(!filled.success());
        let file = fs::File::options().write(true).open(&filler).unwrap();
        let length = file.metadata().unwrap().len();
        let room = 4096 * pages;
        assert!(length >= room, "the disk has no {pages} pages");
        file.set_len(length - room).unwrap();
    }

    /// Takes away what filled it up.
    pub fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
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
