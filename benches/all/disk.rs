//! Disks: that of the build, one in memory, and one in memory whose flushes take their time.

use std::path::{Path, PathBuf};
use std::process::Command;

/// How long a flush takes is told to `flush_delay.c` by this variable.
const DELAY_VARIABLE: &str = "FLUSH_DELAY_US";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// That with the build.
    Own,
    /// In memory: a flush costs nothing.
    Memory,
    /// In memory, with flushes of so many milliseconds.
    Slow(u32),
}

impl Disk {
    pub const ALL: [Self; 4] = [Self::Own, Self::Memory, Self::Slow(4), Self::Slow(20)];

    pub fn name(self) -> String {
        match self {
            Self::Own => "disk".to_owned(),
            Self::Memory => "tmpfs".to_owned(),
            Self::Slow(milliseconds) => format!("{milliseconds} ms"),
        }
    }

    fn place(self) -> &'static Path {
        match self {
            Self::Own => Path::new(env!("CARGO_TARGET_TMPDIR")),
            Self::Memory | Self::Slow(_) => Path::new("/dev/shm"),
        }
    }

    /// Has a program, and those that it starts, keep temporary files on this disk.
    pub fn apply(self, command: &mut Command) {
        command.env("TMPDIR", self.place());
        if let Self::Slow(milliseconds) = self {
            command
                .env("LD_PRELOAD", library())
                .env(DELAY_VARIABLE, (milliseconds * 1000).to_string());
        }
    }
}

/// The variables by which this process was given its slow disk, for programs that get no others.
pub fn variables() -> Vec<String> {
    ["LD_PRELOAD", DELAY_VARIABLE]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
        .collect()
}

fn library() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("flush_delay.so")
}

/// Builds what makes flushes slow.
pub fn build_library() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/all/flush_delay.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(library())
        .arg(source)
        .status();
    assert!(status.unwrap().success(), "cc failed");
}
