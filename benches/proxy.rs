//! What the API server proxy costs: throughput, added latency and processor time, beside haproxy and
//! socat from Debian, all in one run on the loopback of this machine.
//!
//!     cargo bench --bench proxy
//!
//! Proxies are measured in turns, several times over, so that whatever else the machine does falls
//! on all of them; the table has the medians. Numbers of two runs, or of two machines, say little.
//! Client and server of the measurement share the processors with the proxy.
//!
//! Any other proxy is measured by a line of shell that has $LISTEN and $TARGET, each a port:
//!
//!     cargo bench --bench proxy -- 'exec simpleproxy -L $LISTEN -R 127.0.0.1:$TARGET'

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that cannot go on says so at once; its table is its output"
)]

#[expect(dead_code, reason = "the other benchmark uses more of it")]
#[path = "all/process.rs"]
mod process;
#[path = "../tests/it/lab/program.rs"]
mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use microk8s::base::wait;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use process::Usage;

/// How often each thing is measured. Odd, so that there is a middle.
const TURNS: usize = 5;
/// What one connection carries in a measurement of throughput, in bytes.
const AMOUNT: usize = 128 << 20;
const ROUND_TRIPS: usize = 10_000;
const CONNECTIONS: usize = 1_000;
/// The size of a small request and of its answer.
const MESSAGE: usize = 256;

const CONFIGURATION: &str = "entryPoints: {apiserver: {address: '127.0.0.1:LISTEN'}}\nproviders: {file: {filename: '${SNAP_DATA}/list.yaml'}}\n";
const LIST: &str = "tcp: {services: {kube-apiserver: {loadBalancer: {servers: [{address: '127.0.0.1:TARGET'}]}}}}\n";
const HAPROXY: &str = "global\n  maxconn 4096\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n  OPTION\nlisten proxy\n  bind 127.0.0.1:LISTEN\n  server s 127.0.0.1:TARGET\n";

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let target = serve();
    let mut subjects = vec![Subject::direct(target)];
    let ours = program::program();
    let ours = format!(
        "exec {} apiserver-proxy --refresh-interval 0 --traefik-config $DATA/traefik.yaml",
        ours.display()
    );
    let lines = [
        ("microk8s apiserver-proxy", ours.as_str()),
        ("haproxy", "exec haproxy -db -q -f $DATA/haproxy.cfg"),
        (
            "haproxy, splice-auto",
            "exec haproxy -db -q -f $DATA/splice.cfg",
        ),
        (
            "socat",
            "exec socat TCP-LISTEN:$LISTEN,fork,reuseaddr,nodelay,backlog=1024 TCP:127.0.0.1:$TARGET,nodelay",
        ),
    ];
    let others = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"));
    let others: Vec<String> = others.collect();
    let others = others.iter().map(|line| (line.as_str(), line.as_str()));
    for (name, line) in lines.into_iter().chain(others) {
        subjects.push(Subject::start(name, line, target, folder.path()));
    }
    for _ in 0..TURNS {
        for subject in &mut subjects {
            subject.measure();
        }
    }
    println!(
        "{:<26} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9}",
        "", "1 stream", "8 streams", "CPU", "latency", "latency", "new"
    );
    println!(
        "{:<26} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9}",
        "", "MB/s", "MB/s", "s/GB", "50 % µs", "99 % µs", "a second"
    );
    for subject in &mut subjects {
        let [one, eight, cpu, middle, high, new] = subject.medians();
        println!(
            "{:<26} {one:>9.0} {eight:>9.0} {cpu:>10.2} {middle:>9.0} {high:>9.0} {new:>9.0}",
            subject.name
        );
    }
}

/// A server that sends, or repeats what it hears; the first byte says which.
fn serve() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut kind = [0];
                // A proxy may look whether anything listens here.
                if stream.read(&mut kind).is_ok_and(|count| count == 1) {
                    let _ = answer(kind[0], &mut stream);
                }
            });
        }
    });
    port
}

fn answer(kind: u8, stream: &mut TcpStream) -> std::io::Result<()> {
    if kind == b's' {
        let block = vec![0; 64 << 10];
        return (0..AMOUNT / block.len()).try_for_each(|_| stream.write_all(&block));
    }
    let mut message = [0; MESSAGE];
    while stream.read_exact(&mut message).is_ok() {
        stream.write_all(&message)?;
    }
    Ok(())
}

/// A way to the server, and what was measured of it.
struct Subject {
    name: String,
    port: u16,
    process: Option<Child>,
    /// A number a turn for each column of the table.
    measured: [Vec<f64>; 6],
}

impl Subject {
    fn direct(port: u16) -> Self {
        Self {
            name: "no proxy".to_owned(),
            port,
            process: None,
            measured: Default::default(),
        }
    }

    fn start(name: &str, line: &str, target: u16, folder: &Path) -> Self {
        // Nothing else takes ports here between now and the start of the proxy.
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap().port();
        drop(free);
        let data = folder.join(listen.to_string());
        fs::create_dir(&data).unwrap();
        for (file, text) in [
            ("traefik.yaml", CONFIGURATION.to_owned()),
            ("list.yaml", LIST.to_owned()),
            ("haproxy.cfg", HAPROXY.replace("OPTION", "")),
            (
                "splice.cfg",
                HAPROXY.replace("OPTION", "option splice-auto"),
            ),
        ] {
            let text = text.replace("LISTEN", &listen.to_string());
            let text = text.replace("TARGET", &target.to_string());
            fs::write(data.join(file), text).unwrap();
        }
        let process = Command::new("sh")
            .args(["-c", line])
            .env("LISTEN", listen.to_string())
            .env("TARGET", target.to_string())
            .envs(["DATA", "SNAP", "SNAP_DATA", "SNAP_COMMON"].map(|name| (name, &data)))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let listens = || TcpStream::connect(("127.0.0.1", listen)).ok();
        let (limit, pause) = (Duration::from_secs(10), Duration::from_millis(10));
        assert!(
            wait::until(limit, pause, listens).is_some(),
            "`{line}` does not listen"
        );
        let mut started = Self::direct(listen);
        started.name = name.chars().take(26).collect();
        started.process = Some(process);
        started
    }

    fn measure(&mut self) {
        let one = throughput(self.port, 1);
        let before = self.processor_time();
        let eight = throughput(self.port, 8);
        let gigabytes = (8 * AMOUNT) as f64 / 1e9;
        // Where each connection has a process, its time counts once that has ended.
        wait::until(
            Duration::from_millis(200),
            Duration::from_millis(10),
            || None::<()>,
        );
        let cpu = (self.processor_time() - before) / gigabytes;
        let mut times = round_trips(self.port);
        times.sort_by(f64::total_cmp);
        let (middle, high) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let new = new_connections(self.port);
        let columns = [one, eight, cpu, middle, high, new];
        for (column, number) in self.measured.iter_mut().zip(columns) {
            column.push(number);
        }
    }

    /// Seconds of the process and of its children that have ended.
    fn processor_time(&self) -> f64 {
        let Some(process) = &self.process else {
            return 0.0;
        };
        let usage = Usage::of(process.id().cast_signed());
        usage.own + usage.children
    }

    fn medians(&mut self) -> [f64; 6] {
        self.measured.each_mut().map(|column| {
            column.sort_by(f64::total_cmp);
            column[column.len() / 2]
        })
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = killpg(Pid::from_raw(process.id().cast_signed()), Signal::SIGKILL);
            let _ = process.wait();
        }
    }
}

fn connect(port: u16, kind: u8) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&[kind]).unwrap();
    stream
}

/// Megabytes a second from the server over so many connections.
fn throughput(port: u16, connections: usize) -> f64 {
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut stream = connect(port, b's');
                let (mut buffer, mut total) = (vec![0; 256 << 10], 0);
                while total < AMOUNT {
                    let count = stream.read(&mut buffer).unwrap();
                    assert_ne!(count, 0, "the stream ends after {total} bytes");
                    total += count;
                }
            });
        }
    });
    (connections * AMOUNT) as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Microseconds that small requests take on an open connection.
fn round_trips(port: u16) -> Vec<f64> {
    let mut stream = connect(port, b'r');
    (0..ROUND_TRIPS)
        .map(|_| round_trip(&mut stream).as_secs_f64() * 1e6)
        .collect()
}

fn round_trip(stream: &mut TcpStream) -> Duration {
    let mut message = [1; MESSAGE];
    let start = Instant::now();
    stream.write_all(&message).unwrap();
    stream.read_exact(&mut message).unwrap();
    start.elapsed()
}

/// Connections a second with one request each, one after the other.
fn new_connections(port: u16) -> f64 {
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        round_trip(&mut connect(port, b'r'));
    }
    CONNECTIONS as f64 / start.elapsed().as_secs_f64()
}
