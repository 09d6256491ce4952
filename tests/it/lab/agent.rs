//! A running agent: started on a host, waited for, read, ended.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use microk8s::base::wait;

use super::{Host, STALL_TIMEOUT};

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// An agent in the foreground on a host. Killed when dropped.
pub struct Agent {
    child: Child,
    /// Where it writes its log: a file, in which a line is as soon as it is written.
    log: File,
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
        Self::of(&mut host.command(words))
    }

    /// Starts a program that logs as an agent does.
    pub fn of(command: &mut Command) -> Self {
        let log = tempfile::tempfile().unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until the log holds a text; fails when the agent ends before it does.
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |log| log.contains(text));
    }

    /// Waits until the log is like this; fails when the agent ends before it is.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let mut read = None;
        let said = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            let has_ended = self.has_ended();
            let length = self.log.metadata().unwrap().len();
            let is_new = read.replace(length) != Some(length);
            let found = is_new && is_so(&self.log());
            (found || has_ended).then_some(found)
        });
        assert_eq!(said, Some(true), "{what}: not said in\n{}", self.log());
    }

    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        let mut text = vec![0; self.log.metadata().unwrap().len().try_into().unwrap()];
        self.log.read_exact_at(&mut text, 0).unwrap();
        String::from_utf8_lossy(&text).into_owned()
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
        (status, self.log())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let ended = wait::until(STALL_TIMEOUT, POLL_INTERVAL, || {
            self.has_ended().then_some(())
        });
        assert!(ended.is_some(), "the agent does not end:\n{}", self.log());
        self.child.wait().unwrap()
    }

    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(Pid::from_raw(self.pid())), flags).unwrap();
        status != WaitStatus::StillAlive
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // What libfaketime leaves of a program that is killed.
        for kind in ["sem.faketime_sem_", "faketime_shm_"] {
            let _ = fs::remove_file(format!("/dev/shm/{kind}{}", self.pid()));
        }
        if std::thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}
