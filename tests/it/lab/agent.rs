//! A running agent: started on a host, waited for, read, ended.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use microk8s::base::wait;

use super::Host;

/// How long anything may take before the test gives up. Nothing waits for this long in a run
/// where all is well.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// An agent in the foreground on a host. Killed when dropped.
pub struct Agent {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    more: Condvar,
}

impl Log {
    /// Also where a test has failed while it looked at them.
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Lines {
    text: String,
    ended: bool,
}

impl Agent {
    /// Starts `microk8s agent` with further arguments and waits until it serves.
    pub fn start(host: &Host, arguments: &[&str]) -> Self {
        let agent = Self::spawn(host, arguments);
        agent.wait_for("listening on");
        agent
    }

    /// Starts an agent by another command line and waits until it serves.
    pub fn start_as(host: &Host, words: &[&str]) -> Self {
        let agent = Self::run(host, words);
        agent.wait_for("listening on");
        agent
    }

    /// Starts an agent that writes errors only, and waits until it serves, which its socket tells.
    pub fn start_quietly(host: &Host) -> Self {
        let agent = Self::run(host, &["env", "MICROK8S_LOG=error", "microk8s", "agent"]);
        let ready = wait::until(STALL_TIMEOUT, Duration::from_millis(5), || {
            host.socket().exists().then_some(())
        });
        assert!(ready.is_some(), "{}", agent.log());
        agent
    }

    /// Starts an agent and does not wait for it.
    pub fn spawn(host: &Host, arguments: &[&str]) -> Self {
        Self::run(host, &[&["microk8s", "agent"], arguments].concat())
    }

    fn run(host: &Host, words: &[&str]) -> Self {
        let mut child = host
            .command(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let (stderr, sink) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || {
            let mut stderr = BufReader::new(stderr);
            let mut line = Vec::new();
            while stderr
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                sink.lines().text.push_str(&String::from_utf8_lossy(&line));
                sink.more.notify_all();
                line.clear();
            }
            sink.lines().ended = true;
            sink.more.notify_all();
        });
        Self {
            child,
            log,
            reader: Some(reader),
        }
    }

    /// Waits until the log holds a text; fails when the agent ends before it does.
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |log| log.contains(text));
    }

    /// Waits until the log is like this; fails when the agent ends before it is.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let lines = self.log.lines();
        let (lines, _) = self
            .log
            .more
            .wait_timeout_while(lines, STALL_TIMEOUT, |lines| {
                !is_so(&lines.text) && !lines.ended
            })
            .unwrap();
        let log = lines.text.clone();
        // Dropping the agent in a panic reads the log again.
        drop(lines);
        assert!(is_so(&log), "the agent does not say `{what}`:\n{log}");
    }

    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        self.log.lines().text.clone()
    }

    /// The process's id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Kills it the hard way, as a power failure would.
    pub fn kill(self) {
        self.signal(Signal::SIGKILL);
        self.was_killed();
    }

    /// Waits for its end, which somebody else brought about the hard way.
    pub fn was_killed(mut self) {
        assert_eq!(self.wait().signal(), Some(9));
    }

    /// Waits for an end that was asked for by [`Agent::signal`], or that comes by itself.
    pub fn ends(mut self) -> (ExitStatus, String) {
        let status = self.wait();
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        // The end of its stderr comes with the end of the process, so the log tells when to look.
        let lines = self.log.lines();
        let (lines, late) = self
            .log
            .more
            .wait_timeout_while(lines, STALL_TIMEOUT, |lines| !lines.ended)
            .unwrap();
        assert!(!late.timed_out(), "the agent does not end:\n{}", lines.text);
        drop(lines);
        self.child.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}
