//! A proxy on the loopback, and servers that say who they are.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use microk8s::base::wait;
use nix::sys::signal::Signal;
use nix::sys::socket;
use tempfile::TempDir;

pub use crate::lab::STALL_TIMEOUT;
use crate::lab::agent::Agent;
use crate::lab::program::program;

/// Waits until there is something.
#[track_caller]
pub fn until<T>(limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    wait::until(limit, Duration::from_millis(5), look).expect("it does not happen")
}

/// The name that the server at the other end says.
pub fn name(connection: &TcpStream) -> Option<String> {
    // Byte by byte, so that nothing behind the line is read.
    let mut line = Vec::new();
    let mut reader = BufReader::with_capacity(1, connection);
    reader.read_until(b'\n', &mut line).ok()?;
    let text = String::from_utf8(line).ok()?;
    text.strip_suffix('\n').map(str::to_owned)
}

/// A server that says its name on each connection, and then repeats what it hears.
pub struct Server {
    address: String,
    listener: Arc<TcpListener>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    count: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(address: &str, name: &str) -> Self {
        // The one that had this address before may not be gone yet.
        let listener = until(STALL_TIMEOUT, || TcpListener::bind(address).ok());
        Self::of(listener, name)
    }

    /// A server that takes over a listener.
    pub fn of(listener: TcpListener, name: &str) -> Self {
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            listener: Arc::new(listener),
            open: Arc::default(),
            count: Arc::default(),
        };
        let greeting = format!("{name}\n");
        let (listener, open, count) = (
            server.listener.clone(),
            server.open.clone(),
            server.count.clone(),
        );
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                open.lock().unwrap().push(stream.try_clone().unwrap());
                count.fetch_add(1, Ordering::SeqCst);
                let (greeting, count) = (greeting.clone(), count.clone());
                thread::spawn(move || {
                    let _ = (&stream).write_all(greeting.as_bytes());
                    let _ = io::copy(&mut &stream, &mut &stream);
                    let _ = stream.shutdown(Shutdown::Write);
                    count.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        server
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many connections have not ended.
    pub fn connections(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Ends with all its connections, as a process that is killed.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        for stream in self.open.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A list of API servers as MicroK8s writes it.
pub fn list(servers: &[&str]) -> String {
    let lines: String = servers
        .iter()
        .map(|address| format!("        - address: '{address}'\n"))
        .collect();
    format!(
        "tcp:\n  routers:\n    Router-1:\n      rule: HostSNI(`*`)\n      service: kube-apiserver\n      tls:\n        passthrough: true\n  services:\n    kube-apiserver:\n      loadBalancer:\n        servers:\n{lines}"
    )
}

/// A node directory with what the proxy reads.
pub fn folder(servers: &[&str], listen: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let traefik = folder.path().join("args/traefik");
    fs::create_dir_all(&traefik).unwrap();
    let configuration = format!(
        "entryPoints:\n  apiserver:\n    address: \"{listen}\"\nproviders:\n  file:\n    filename: ${{SNAP_DATA}}/args/traefik/provider.yaml\n    watch: true\n"
    );
    fs::write(traefik.join("traefik.yaml"), configuration).unwrap();
    fs::write(traefik.join("provider.yaml"), list(servers)).unwrap();
    folder
}

/// The program in this node directory.
pub fn bare_command(folder: &TempDir) -> Command {
    let mut command = Command::new(program());
    command.env_clear();
    for variable in ["SNAP", "SNAP_DATA", "SNAP_COMMON"] {
        command.env(variable, folder.path());
    }
    command
}

pub fn command(folder: &TempDir) -> Command {
    let mut command = bare_command(folder);
    command.args(["apiserver-proxy", "--refresh-interval=0"]);
    command
}

/// A proxy that serves. It ends when it is dropped.
pub struct Proxy {
    process: Agent,
    folder: TempDir,
    address: String,
}

impl Proxy {
    pub fn start(servers: &[&str]) -> Self {
        Self::start_with(servers, "127.0.0.1:0", |_| {})
    }

    /// A proxy that listens there, by a command that is changed like this.
    pub fn start_with(servers: &[&str], listen: &str, change: impl Fn(&mut Command)) -> Self {
        let folder = folder(servers, listen);
        let mut command = command(&folder);
        change(&mut command);
        let process = Agent::of(&mut command);
        process.wait_until("listening on", |log| {
            log.split("listening on ")
                .nth(1)
                .is_some_and(|rest| rest.contains('\n'))
        });
        let log = process.log();
        let (_, address) = log.split_once("listening on ").unwrap();
        let address = address.lines().next().unwrap().to_owned();
        Self {
            process,
            folder,
            address,
        }
    }

    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }

    pub fn try_connect(&self) -> io::Result<TcpStream> {
        let address = self.address.replace("[::]", "127.0.0.1");
        let connection = TcpStream::connect(address)?;
        connection.set_read_timeout(Some(STALL_TIMEOUT))?;
        Ok(connection)
    }

    pub fn connect(&self) -> TcpStream {
        self.try_connect().unwrap()
    }

    /// A connection, and who is at its other end.
    pub fn open(&self) -> (TcpStream, String) {
        let connection = self.connect();
        let name = name(&connection).unwrap();
        (connection, name)
    }

    /// Who is at the other end of a new connection.
    pub fn name(&self) -> String {
        self.open().1
    }

    pub fn try_name(&self) -> Option<String> {
        name(&self.connect())
    }

    pub fn write_list(&self, text: &str) {
        let path = self.folder.path().join("args/traefik/provider.yaml");
        fs::write(path, text).unwrap();
    }

    pub fn remove_list(&self) {
        fs::remove_file(self.folder.path().join("args/traefik/provider.yaml")).unwrap();
    }

    /// How much memory it uses, in KiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_whitespace().nth(1).unwrap();
        number.parse().unwrap()
    }

    /// From now on it may have no more files open than these.
    pub fn limit_files(&self, soft: u32) {
        let status = Command::new("prlimit")
            .arg(format!("--pid={}", self.process.pid()))
            .arg(format!("--nofile={soft}:76"))
            .status()
            .unwrap();
        assert!(status.success());
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn wait_for(&self, text: &str) {
        self.process.wait_for(text);
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub fn ends(self) -> (ExitStatus, String) {
        self.process.ends()
    }
}
