//! Network namespaces as hosts: one switch, a port a host, torn down when the test ends.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, OnceLock};
use std::thread;
use std::time::Duration;

use microk8s::base::wait;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket;

/// What every namespace and directory of the lab is called, before the process's id.
pub const PREFIX: &str = "microk8s-it";

/// The group `microk8s` of every host; the machine itself needs no such group.
pub const MICROK8S_GID: u32 = 2001;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The hosts of one test and the switch between them.
pub struct Network {
    namespaces: Vec<String>,
}

impl Network {
    /// Makes a namespace for each `(name, address)`, all on 10.99.0.0/24 with a default route by
    /// 10.99.0.1. What goes wrong is told as text: it is a reason to skip, not a failure.
    pub fn new(hosts: &[(&str, &str)]) -> Result<Self, String> {
        clean_up_after_dead_processes();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let base = format!("{PREFIX}-{}-{number}", std::process::id());
        let switch = format!("{base}-switch");
        let mut network = Self {
            namespaces: Vec::new(),
        };
        let mut batch = String::new();
        for name in std::iter::once("switch").chain(hosts.iter().map(|(name, _)| *name)) {
            let namespace = format!("{base}-{name}");
            batch += &format!("netns add {namespace}\n");
            network.namespaces.push(namespace);
        }
        batch += &format!("link add name lan netns {switch} type bridge\n");
        for (name, _) in hosts {
            batch += &format!(
                "link add name eth0 netns {base}-{name} type veth peer name {name} netns {switch}\n"
            );
        }
        ip_batch(None, &batch)?;

        let mut batch =
            String::from("link set lo up\naddress add 10.99.0.1/24 dev lan\nlink set lan up\n");
        for (name, _) in hosts {
            batch += &format!("link set {name} master lan\nlink set {name} up\n");
        }
        ip_batch(Some(&switch), &batch)?;

        for (name, address) in hosts {
            let namespace = format!("{base}-{name}");
            ip_batch(
                Some(&namespace),
                &format!(
                    "link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n\
                     route add default via 10.99.0.1\n"
                ),
            )?;
            write_etc(&namespace, name, hosts).map_err(|error| error.to_string())?;
        }
        Ok(network)
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: &str) -> &str {
        let end = format!("-{host}");
        self.namespaces
            .iter()
            .find(|name| name.ends_with(&end))
            .unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let lines = self.namespaces.iter();
        let _ = ip_batch(
            None,
            &lines
                .map(|name| format!("netns delete {name}\n"))
                .collect::<String>(),
        );
        for namespace in &self.namespaces {
            let _ = fs::remove_dir_all(etc(namespace));
        }
    }
}

/// The files that `ip netns exec` lays over those in `/etc`.
pub fn etc(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

fn write_etc(namespace: &str, name: &str, hosts: &[(&str, &str)]) -> io::Result<()> {
    let directory = etc(namespace);
    fs::create_dir_all(&directory)?;
    let mut table = String::from("127.0.0.1 localhost\n");
    for (host, address) in hosts {
        table += &format!("{address} {host}\n");
    }
    let files = [
        ("hosts", table),
        ("group", format!("root:x:0:\nmicrok8s:x:{MICROK8S_GID}:\n")),
        // Names come from the hosts file alone: a look-up that goes out to a name server would
        // wait for its time-out.
        (
            "nsswitch.conf",
            "passwd: files\ngroup: files\nhosts: files\n".to_owned(),
        ),
        ("resolv.conf", String::new()),
        ("hostname", format!("{name}\n")),
    ];
    for (file, content) in files {
        // A file that the machine lacks cannot be covered, and `ip` would complain on stderr.
        if Path::new("/etc").join(file).exists() {
            fs::write(directory.join(file), content)?;
        }
    }
    Ok(())
}

/// Runs `ip`; its complaint is the error.
pub fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|error| format!("`ip` does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("`ip {}`: {said}", arguments.join(" ")))
}

fn ip_batch(namespace: Option<&str>, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("`ip` does not run: {error}"))?;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .map_err(|error| error.to_string())?;
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "`ip -batch`: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// Why no lab can be had on this machine, if so. Asked once.
pub fn missing() -> Option<&'static str> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    REASON
        .get_or_init(|| {
            if !nix::unistd::geteuid().is_root() {
                return Some("network namespaces need root".to_owned());
            }
            Network::new(&[("probe", "10.99.0.11")]).err()
        })
        .as_deref()
}

/// Binds a port inside a namespace and hands the listener out of it.
///
/// A listener that was closed a moment ago may live on in a child of this process that another
/// test is about to start; the port is free as soon as that child runs its program.
pub fn listen(namespace: &str, address: impl ToSocketAddrs + Sync) -> TcpListener {
    inside(namespace, || {
        let pause = Duration::from_millis(2);
        let bound = wait::until(super::STALL_TIMEOUT, pause, || {
            match TcpListener::bind(&address) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => None,
                other => Some(other.unwrap()),
            }
        });
        bound.unwrap()
    })
}

/// A service that is there and answers nothing: it takes connections and closes them at once, until it
/// is dropped.
pub struct Closing(TcpListener);

impl Closing {
    pub fn listen(namespace: &str, address: &str) -> Self {
        let listener = listen(namespace, address);
        let accepting = listener.try_clone().unwrap();
        thread::spawn(move || while accepting.accept().is_ok() {});
        Self(listener)
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let _ = socket::shutdown(self.0.as_raw_fd(), socket::Shutdown::Both);
    }
}

/// Takes connections at one address of a host, and goes on with them to another: who is called there
/// sees that host call. It ends with the process of the tests.
pub fn forward(host: &super::Host, at: &str, to: &'static str) {
    let namespace = host.namespace().to_owned();
    let listener = listen(&namespace, at);
    thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let far = inside(&namespace, || TcpStream::connect(to));
            let Ok(far) = far else { continue };
            for (from, into) in [(&near, &far), (&far, &near)] {
                let (mut from, mut into) = (from.try_clone().unwrap(), into.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut into);
                    let _ = into.shutdown(Shutdown::Write);
                });
            }
        }
    });
}

/// Runs `work` on a thread of its own inside a network namespace. Sockets made there stay there.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let handle = fs::File::open(Path::new("/run/netns").join(namespace)).unwrap();
    thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(&handle, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// Removes what test processes that were killed have left on the machine.
fn clean_up_after_dead_processes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for namespace in names_of_the_dead(Path::new("/run/netns")) {
            let pids = Command::new("ip")
                .args(["netns", "pids", &namespace])
                .output();
            if let Ok(pids) = pids {
                for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
                    let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            }
            let _ = ip(&["netns", "delete", &namespace]);
        }
        for directory in [
            Path::new("/etc/netns"),
            &super::scratch(),
            super::nodes::cache(),
        ] {
            for name in names_of_the_dead(directory) {
                let _ = fs::remove_dir_all(directory.join(name));
            }
        }
    });
}

/// What a directory holds of test processes that are gone.
pub fn names_of_the_dead(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        })
        .collect()
}

/// The process that a name of the lab belongs to.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?
        .strip_prefix('-')?
        .split('-')
        .next()?
        .parse()
        .ok()
}

#[test]
fn the_owner_of_a_name_of_the_lab_is_the_process_in_it() {
    assert_eq!(owner("microk8s-it-417-3-n1"), Some(417));
    assert_eq!(owner("microk8s-it-417-aBc9"), Some(417));
    assert_eq!(owner("microk8s-it-"), None);
    assert_eq!(owner("something-else-417"), None);
}

#[test]
fn a_name_of_a_living_process_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let living = format!("{PREFIX}-{}-1", std::process::id());
    // Larger than the largest id that Linux gives.
    let dead = format!("{PREFIX}-4999999-1");
    for name in [&living, &dead, &"unrelated".to_owned()] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    assert_eq!(names_of_the_dead(directory.path()), [dead]);
}
