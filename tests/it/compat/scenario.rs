//! Runs a recorded scenario with our own programs and compares what comes of it.

use std::collections::BTreeMap;

use super::exceptions::{self, Mode};
use super::expectation::{Expected, Moment, Observed};
use super::placeholders::{Placeholders, tokens_in};
use super::preconditions::{Scene, bring_about};
use super::recording::{Command, MANIFEST, Recording, recorded_manifest};
use super::requests::{RecordedAgent, learn_callback_token};
use crate::lab::Lab;
use crate::lab::agent::Agent;

/// A scenario that is ready to run.
pub struct Stage {
    pub recording: Recording,
    pub mode: Mode,
    pub placeholders: Placeholders,
    pub scene: Scene,
    // Agents end before their hosts do.
    agents: BTreeMap<String, Agent>,
    pub lab: Lab,
}

impl Stage {
    /// Makes the hosts and brings about the preconditions; nothing on a machine without a lab.
    pub fn set(recording: Recording, mode: Mode) -> Option<Self> {
        let mut hosts = vec!["n1", "n2"];
        if recording
            .commands
            .iter()
            .any(|command| command.host == "n3")
        {
            hosts.push("n3");
        }
        let lab = Lab::new(&hosts)?;
        for host in lab.hosts() {
            host.write(MANIFEST, &recorded_manifest(), 0o644);
        }
        let mut placeholders = Placeholders::of(&lab);
        let mut scene = Scene::default();
        for text in &recording.preconditions {
            bring_about(text, &lab, &mut placeholders, &mut scene);
        }
        Some(Self {
            recording,
            mode,
            placeholders,
            scene,
            agents: BTreeMap::new(),
            lab,
        })
    }

    /// Starts an agent on a host.
    pub fn start_agent(&mut self, host: &str) {
        self.start_agent_with(host, &[]);
    }

    /// Starts an agent with further arguments on a host.
    pub fn start_agent_with(&mut self, host: &str, arguments: &[&str]) {
        let agent = Agent::start(self.lab.host(host), arguments);
        self.agents.insert(host.to_owned(), agent);
    }

    /// Has `add-node` make the tokens that the scenario's commands speak of.
    pub fn make_tokens(&mut self) {
        for token in ["<TOKEN>", "<TOKEN_2>"] {
            let is_needed = self
                .recording
                .commands
                .iter()
                .any(|command| command.line.contains(token));
            if is_needed && !self.placeholders.knows(token) {
                let line = format!("microk8s add-node --format token{}", self.scene.add_node);
                let output = self.lab.host("n1").shell(&line).ok();
                self.placeholders.set(token, output.trim());
            }
        }
    }

    /// Runs the commands one after the other and compares each with its recording.
    pub fn play(&mut self) {
        for command in &self.recording.commands {
            let before = Moment::before(&self.lab);
            let line = self.line(command);
            let output = self.lab.host(&command.host).shell(&line);
            self.placeholders.ran(&output);
            if let [token] = tokens_in(&output.stdout)[..]
                && command.line.starts_with("microk8s add-node")
                && !command.line.contains(token)
            {
                self.placeholders.set("<TOKEN>", token);
            }
            learn_callback_token(&self.lab, &mut self.placeholders);
            let mut observed = Observed::since(&before, &self.lab, &self.placeholders);
            observed.output = Some(output);
            let expected = self.expected(command);
            self.judge(command, &observed, &expected);
        }
    }

    /// What a command is expected to do in this mode.
    pub fn expected(&self, command: &Command) -> Expected {
        let mut expected = Expected::recorded(&self.recording, command);
        exceptions::apply(&mut expected, &self.recording, command, self.mode);
        expected.stdout = self.case_of_the_fingerprint(&expected.stdout);
        if expected.exit != 0 {
            // What a join that failed did to the services is undone, with further calls.
            expected.calls.insert(command.host.clone(), None);
        }
        if self.mode == Mode::JoinRecordedAgent {
            // The answers come from the recording, so nothing happens on n1.
            expected.changes.insert("n1".to_owned(), BTreeMap::new());
            expected.calls.insert("n1".to_owned(), None);
        }
        expected
    }

    /// Fails with all differences at once.
    pub fn judge(&self, command: &Command, observed: &Observed, expected: &Expected) {
        let differences = observed.differences(expected, &self.placeholders);
        assert!(
            differences.is_empty(),
            "{} differs from its recording ({:?}, command {}: {}):\n{}",
            self.recording.name,
            self.mode,
            command.n,
            command.line,
            differences.join("\n")
        );
    }

    fn line(&self, command: &Command) -> String {
        let line = self.case_of_the_fingerprint(&self.placeholders.fill(&command.line));
        let waits_in_vain = self.recording.name.starts_with("join-dqlite-");
        if waits_in_vain {
            format!("{line} --timeout 8")
        } else {
            line
        }
    }

    /// One recording has a fingerprint in upper case, which no placeholder stands for.
    fn case_of_the_fingerprint(&self, text: &str) -> String {
        text.replace(
            "7112D033C473",
            &self
                .placeholders
                .value("<FINGERPRINT>")
                .to_ascii_uppercase(),
        )
    }
}

/// `add-node` on a node where no agent of ours runs.
pub fn add_node_alone(name: &str) {
    if let Some(mut stage) = Stage::set(Recording::load(name), Mode::AddNodeAlone) {
        stage.play();
    }
}

/// `add-node` through our agent.
pub fn add_node_through_agent(name: &str) {
    let Some(mut stage) = Stage::set(Recording::load(name), Mode::AddNodeThroughAgent) else {
        return;
    };
    stage.start_agent("n1");
    stage.play();
}

/// `join` against our agent, with none on the joining node.
pub fn join_in_process(name: &str) {
    let Some(mut stage) = Stage::set(Recording::load(name), Mode::JoinInProcess) else {
        return;
    };
    if stage.scene.peer.is_none() && !stage.scene.no_agent {
        stage.start_agent("n1");
    }
    stage.make_tokens();
    stage.play();
}

/// `join` against our agent, through our agent on the joining node.
pub fn join_through_agent(name: &str) {
    let Some(mut stage) = Stage::set(Recording::load(name), Mode::JoinThroughAgent) else {
        return;
    };
    if stage.scene.peer.is_none() && !stage.scene.no_agent {
        stage.start_agent("n1");
    }
    for host in ["n2", "n3"] {
        if stage.lab.hosts().iter().any(|known| known.name == host) {
            stage.start_agent(host);
        }
    }
    stage.make_tokens();
    stage.play();
}

/// `join` against the recorded answers of MicroK8s's agent. The requests must be the recorded ones.
pub fn join_against_recorded_agent(name: &str) {
    let recording = Recording::load(name);
    let Some(mut stage) = Stage::set(recording, Mode::JoinRecordedAgent) else {
        return;
    };
    let agent = RecordedAgent::start(&mut stage);
    stage.play();
    agent.check_requests(&stage);
}

/// `leave`, with no agent on the leaving node.
pub fn leave_in_process(name: &str) {
    if let Some(mut stage) = Stage::set(Recording::load(name), Mode::LeaveInProcess) {
        stage.play();
    }
}

/// `leave` through our agent.
pub fn leave_through_agent(name: &str) {
    through_own_agent(name, Mode::LeaveThroughAgent);
}

/// `remove-node`, with no agent on the node.
pub fn remove_node_in_process(name: &str) {
    if let Some(mut stage) = Stage::set(Recording::load(name), Mode::RemoveInProcess) {
        stage.play();
    }
}

/// `remove-node` through our agent.
pub fn remove_node_through_agent(name: &str) {
    through_own_agent(name, Mode::RemoveThroughAgent);
}

/// A scenario of one command, through the agent on its host.
fn through_own_agent(name: &str, mode: Mode) {
    let Some(mut stage) = Stage::set(Recording::load(name), mode) else {
        return;
    };
    let host = stage.recording.commands[0].host.clone();
    stage.start_agent(&host);
    stage.play();
}
