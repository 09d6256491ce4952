//! What a request costs the agent: how often it waits for the disk, and how many files it opens.

use std::fs;
use std::path::Path;
use std::time::Instant;

use microk8s::model::role::Role;

use crate::flushes::{FLUSHES, can_trace};
use crate::killed;
use crate::lab::scratch;
use crate::lab::swarm::agent::StandaloneAgent;
use crate::lab::swarm::{Outcome, Swarm};

/// How often each request is made while it is looked at.
const TIMES: usize = 20;
/// How many joins are not looked at.
const FIRST: usize = 20;
/// What the agent may do of its own accord meanwhile, beside what it does every second.
const OWN: usize = 3;

/// The system calls of this kind that the agent makes meanwhile, one a line, and for how many seconds
/// it was looked at.
fn calls_of(agent: &StandaloneAgent, kind: &str, act: impl FnOnce()) -> (Vec<String>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let begun = Instant::now();
    let options = format!("-y -e signal=none -e {kind}");
    let strace = killed::disturb_into(&trace, agent.pid(), &options);
    act();
    strace.detach();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let lines = fs::read_to_string(&trace).unwrap();
    // A call that another thread interrupts has a second line.
    let whole = lines.lines().filter(|line| !line.contains("resumed>"));
    (whole.map(str::to_owned).collect(), seconds)
}

/// Nodes that join one after the other, with tokens that were issued before.
struct Joins {
    agent: StandaloneAgent,
    swarm: Swarm,
}

impl Joins {
    fn at(place: &Path) -> Self {
        let agent = StandaloneAgent::start(place);
        let swarm = Swarm::new(agent.endpoint());
        let joins = Self { agent, swarm };
        // What is read and made at the first join of each kind is there from then on; the tokens of
        // the first joins are written down, up to a number of them.
        for role in [Role::ControlPlane, Role::Worker] {
            joins.run(&joins.agent.issue(FIRST), role);
        }
        joins
    }

    fn run(&self, tokens: &[String], role: Role) {
        let outcomes = self.swarm.join(self.swarm.newcomers_with(tokens, role), 1);
        assert!(outcomes.iter().all(Outcome::is_admitted), "{outcomes:?}");
    }

    /// The calls of this kind that [`TIMES`] joins of this role cost.
    fn cost(&self, kind: &str, role: Role) -> (Vec<String>, usize) {
        let tokens = self.agent.issue(TIMES);
        calls_of(&self.agent, kind, || self.run(&tokens, role))
    }
}

#[test]
fn a_token_and_an_admission_are_flushed_once_and_a_signature_waits_for_no_flush() {
    if !can_trace() {
        return;
    }
    let joins = Joins::at(&scratch());
    let (issued, _) = calls_of(&joins.agent, FLUSHES, || {
        joins.agent.issue_one_by_one(TIMES);
    });
    let most = TIMES + OWN;
    assert!((TIMES..=most).contains(&issued.len()), "{issued:#?}");
    for role in [Role::ControlPlane, Role::Worker] {
        let (flushes, seconds) = joins.cost(FLUSHES, role);
        // What a signature changes is flushed with another change, and within a second.
        let most = TIMES + OWN + seconds;
        assert!(
            (TIMES..=most).contains(&flushes.len()),
            "{role} in {seconds} s: {flushes:#?}"
        );
    }
}

#[test]
fn a_request_opens_none_of_the_nodes_files_that_have_not_changed() {
    if !can_trace() {
        return;
    }
    let joins = Joins::at(&scratch());
    for role in [Role::ControlPlane, Role::Worker] {
        let (opened, _) = joins.cost("trace=open,openat,openat2", role);
        let root = joins.agent.node_dir().display().to_string();
        let is_there = |line: &&String| line.contains(&root) && !line.contains(" = -1 ENOENT");
        let of_node: Vec<_> = opened.iter().filter(is_there).collect();
        assert!(of_node.len() <= OWN, "{role}: {of_node:#?}");
    }
}

#[test]
fn an_agent_that_is_killed_right_after_a_signature_admits_no_other_node_with_the_token() {
    let mut joins = Joins::at(&scratch());
    for _ in 0..5 {
        let token = joins.agent.issue(1);
        let attempts = joins.swarm.newcomers_with(&token, Role::Worker);
        let joined = joins.swarm.join(attempts.clone(), 1);
        joins.agent.kill();
        assert_eq!(joined, [Outcome::Admitted]);
        joins.agent.start_again();
        let rival = joins.swarm.rival(&attempts[0]);
        let others = joins.swarm.join([rival], 1);
        assert!(
            matches!(&others[0], Outcome::Refused { reason, .. } if reason == "used" || reason == "in-use"),
            "{others:?}"
        );
    }
}
