//! Programs of Kubernetes that run in the background.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use microk8s::base::wait;

use super::swarm::STALL_TIMEOUT;

/// How to find the API server.
const VARIABLE: &str = "MICROK8S_TEST_KUBE_APISERVER";

/// The programs of Kubernetes.
pub struct Programs {
    pub api_server: PathBuf,
    pub kubectl: PathBuf,
}

impl Programs {
    /// Those of this machine, or why there are none.
    pub fn find() -> Result<Self, String> {
        let Some(api_server) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
            return Err(format!("{VARIABLE} names no kube-apiserver"));
        };
        // A wrong path is no reason to skip.
        assert!(api_server.is_file(), "{VARIABLE}={}", api_server.display());
        for (program, package) in [("etcd", "etcd-server"), ("openssl", "openssl")] {
            if on_path(program).is_none() {
                return Err(format!("Debian's package {package} is not installed"));
            }
        }
        let beside = api_server.with_file_name("kubectl");
        let kubectl = match on_path("kubectl") {
            Some(kubectl) => kubectl,
            None if beside.is_file() => beside,
            None => return Err("there is no kubectl".to_owned()),
        };
        Ok(Self {
            api_server,
            kubectl,
        })
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// A program in the background, killed when it is dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program that writes to this log.
    pub fn spawn(command: &mut Command, log: PathBuf) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Waits until it is ready. It must not end before it is.
    pub fn wait_until(&mut self, is_ready: impl Fn() -> bool) {
        let ready_or_over = || {
            let over = self.child.try_wait().unwrap();
            over.map(Err).or_else(|| is_ready().then_some(Ok(())))
        };
        match wait::until(STALL_TIMEOUT, Duration::from_millis(100), ready_or_over) {
            Some(Ok(())) => {}
            outcome => panic!("{outcome:?}: {}", self.last_lines()),
        }
    }

    fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
