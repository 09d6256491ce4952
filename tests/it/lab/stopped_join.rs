//! A join that is held where a test can step in.

use std::fs;
use std::io::Write;
use std::process::{Child, Stdio};

use super::agent::Agent;
use super::{Host, Output, now};

/// What a worker's join reads twice: before it asks the contacted node, and when it has the answer.
const GATE: &str = "args/traefik/traefik-template.yaml";

/// A worker's join that stands still between the answer of the contacted node and its certificates:
/// the file that it reads there again is a pipe to which nobody writes a second time.
pub struct StoppedJoin<'a> {
    host: &'a Host,
    child: Child,
    began: u64,
    template: String,
}

impl<'a> StoppedJoin<'a> {
    /// Starts the command and lets it ask the contacted node.
    pub fn start(host: &'a Host, line: &str) -> Self {
        let template = host.read(GATE);
        host.remove(GATE);
        host.shell(&format!("mkfifo $SNAP_DATA/{GATE}")).ok();
        let began = now();
        let words: Vec<&str> = line.split_whitespace().collect();
        let child = host
            .command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A pipe is open for writing when somebody reads it, which is the first time.
        fs::write(host.path(GATE), &template).unwrap();
        Self {
            host,
            child,
            began,
            template,
        }
    }

    /// Waits until it has its answer, lets it go on after `meanwhile`, and waits for its end.
    pub fn go_on_after(self, meanwhile: impl FnOnce()) -> Output {
        let path = self.host.path(GATE);
        let mut gate = fs::File::options().write(true).open(path).unwrap();
        meanwhile();
        gate.write_all(self.template.as_bytes()).unwrap();
        drop(gate);
        let output = Output::of(self.child, self.began);
        restore(self.host, &self.template);
        output
    }

    /// Kills it, and the agent of its node where that does the work.
    pub fn kill(mut self, agent: Option<Agent>) {
        if let Some(agent) = agent {
            agent.kill();
        }
        // The command ends by itself when its agent is gone.
        let _ = self.child.kill();
        self.child.wait().unwrap();
        restore(self.host, &self.template);
    }
}

fn restore(host: &Host, template: &str) {
    host.remove(GATE);
    host.write(GATE, template, 0o644);
}
