//! What sets a host apart from the machine: its network, its host name, and its files in `/etc`.
//!
//! The namespaces are made once a host and entered between `fork` and `exec`, so that a program on a
//! host costs no more processes than one on the machine.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{alarm, sethostname};

use super::network;

/// The namespaces of one host. They live as long as this does, or a process in them.
pub struct Namespaces(Arc<Vec<(File, CloneFlags)>>);

impl Namespaces {
    /// Makes those of a host whose network namespace and files for `/etc` are there already.
    pub fn new(network_namespace: &str, host_name: &str) -> io::Result<Self> {
        let network = File::open(Path::new("/run/netns").join(network_namespace))?;
        // A thread makes them its own; they outlive it once they are open.
        let made = thread::scope(|scope| {
            let thread = scope.spawn(|| -> io::Result<[File; 2]> {
                setns(&network, CloneFlags::CLONE_NEWNET)?;
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
                sethostname(host_name)?;
                cover(&network::etc(network_namespace))?;
                let open = |kind| File::open(Path::new("/proc/thread-self/ns").join(kind));
                Ok([open("uts")?, open("mnt")?])
            });
            thread.join().unwrap()
        });
        let [host_name, mounts] = made?;
        // The one with the mounts comes last: the others are not looked for by a path.
        Ok(Self(Arc::new(vec![
            (network, CloneFlags::CLONE_NEWNET),
            (host_name, CloneFlags::CLONE_NEWUTS),
            (mounts, CloneFlags::CLONE_NEWNS),
        ])))
    }

    /// Has the command run in them, with the umask and the signals that a shell in the foreground gives it.
    #[expect(unsafe_code, reason = "std has no other way into a namespace")]
    pub fn enter(&self, command: &mut Command) {
        let namespaces = Arc::clone(&self.0);
        // SAFETY: there are only system calls between `fork` and `exec`, and nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                for (namespace, kind) in namespaces.iter() {
                    setns(namespace, *kind)?;
                }
                umask(Mode::S_IWGRP | Mode::S_IWOTH);
                // Tests that run in the background of a shell are born deaf to Ctrl-C.
                signal(Signal::SIGINT, SigHandler::SigDfl)?;
                signal(Signal::SIGQUIT, SigHandler::SigDfl)?;
                Ok(())
            });
        }
    }

    /// The words that run a command in them from elsewhere, such as a script.
    pub fn words(&self) -> Vec<String> {
        let process = std::process::id();
        let options = ["--net", "--uts", "--mount"];
        let places =
            self.0.iter().zip(options).map(|((file, _), option)| {
                format!("{option}=/proc/{process}/fd/{}", file.as_raw_fd())
            });
        std::iter::once("nsenter".to_owned())
            .chain(places)
            .collect()
    }
}

/// Has SIGALRM end the command when it has run for this long.
#[expect(unsafe_code, reason = "std cannot set a timer for a child")]
pub fn limit(command: &mut Command, seconds: u32) {
    // SAFETY: one system call, whose timer is kept by `exec`.
    unsafe {
        command.pre_exec(move || {
            alarm::set(seconds);
            Ok(())
        });
    }
}

/// Lays these files over those in `/etc`, and the thread's network over `/sys`, as `ip netns exec` does.
fn cover(files: &Path) -> io::Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)?;
    umount2("/sys", MntFlags::MNT_DETACH)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE)?;
    for entry in fs::read_dir(files)? {
        let file = entry?;
        let covered = Path::new("/etc").join(file.file_name());
        mount(Some(&file.path()), &covered, NONE, MsFlags::MS_BIND, NONE)?;
    }
    Ok(())
}
