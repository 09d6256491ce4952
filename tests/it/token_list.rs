//! Lists of many tokens: they are read, sent and printed some at a time, wherever the tokens are.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use microk8s::base::wait;
use microk8s::model::role::Role;
use serde_json::Value;

use crate::lab::shared_api::SharedApi;
use crate::lab::swarm::agent::StandaloneAgent;
use crate::lab::swarm::{Attempt, Outcome, Swarm};
use crate::lab::wire::Mode;
use crate::lab::{STALL_TIMEOUT, nightly, scratch, tell};

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How many tokens come at once.
const PAGE: usize = 500;
const LIST: [&str; 4] = ["token", "list", "--format", "json"];
/// The most memory that an agent may have had, in KiB.
const MOST: u64 = 48 << 10;
/// By how much more it may be for more tokens, in KiB. The memory that a process has in use moves by
/// itself: what it has freed may stay with it.
const TOLERANCE: u64 = 6 << 10;
/// By how much more for the most tokens of a node, in KiB: measured, and not explained.
const OF_VERY_MANY: u64 = 2 << 10;

/// Lists the tokens; says how many there are.
fn list(agent: &StandaloneAgent) -> usize {
    let output = agent.command(&LIST).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list.as_array().unwrap().len()
}

/// How long the first token of the list takes.
fn time_to_first(agent: &StandaloneAgent) -> Duration {
    let begun = Instant::now();
    let command = agent.command(&LIST).stdout(Stdio::piped()).spawn();
    let mut listing = command.unwrap();
    let lines = BufReader::new(listing.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| is_id(&line)));
    let took = begun.elapsed();
    listing.wait().unwrap();
    took
}

fn is_id(line: &str) -> bool {
    line.starts_with("    \"id\": ")
}

#[test]
fn tokens_are_printed_as_they_come_and_a_list_that_breaks_off_is_a_failure() {
    let Some(cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let plane = &cluster.control_planes[0];
    let count = 2 * PAGE + 10;
    plane.agent.issue(count);
    let path = format!("/api/v1/namespaces/kube-system/secrets?limit={PAGE}");
    let page = cluster.kubectl(&["get", "--raw", &path], "").len();
    // The second page comes in part.
    plane.wire.set(Mode::MuteAfter(page * 3 / 2));
    let mut command = plane.agent.command(&LIST);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut listing = command.spawn().unwrap();
    let mut lines = BufReader::new(listing.stdout.take().unwrap()).lines();
    let first = lines
        .by_ref()
        .map(Result::unwrap)
        .filter(|line| is_id(line));
    assert_eq!(first.take(PAGE).count(), PAGE);
    let is_cut = || (plane.wire.mode() == Mode::Deaf).then_some(());
    wait::until(STALL_TIMEOUT, POLL_INTERVAL, is_cut).unwrap();
    plane.wire.set(Mode::Open);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(!rest.iter().any(|line| is_id(line)), "{rest:?}");
    assert_ne!(rest.last().unwrap(), "]", "it looks as if it were complete");
    let mut errors = String::new();
    let mut stderr = listing.stderr.take().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    assert_eq!(listing.wait().unwrap().code(), Some(1), "{errors}");
    assert!(errors.contains("error: "), "{errors}");
    assert_eq!(list(&plane.agent), count);
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_list() {
    let agent = StandaloneAgent::start(&scratch());
    agent.issue(PAGE + 10);
    let command = agent.command(&LIST).stdout(Stdio::piped()).spawn();
    let mut listing = command.unwrap();
    let mut first = [0; 1];
    let mut stdout = listing.stdout.take().unwrap();
    stdout.read_exact(&mut first).unwrap();
    drop(stdout);
    assert_eq!(first, [b'[']);
    assert!(listing.wait().unwrap().success());
    assert_eq!(list(&agent), PAGE + 10);
}

/// What so many tokens cost: the most memory of the agent while they are listed and nodes join, in KiB,
/// and how often ten joins ask the API for a Secret.
fn cost(cluster: &SharedApi, swarm: &Swarm) -> (u64, (usize, usize)) {
    let agent = &cluster.control_planes[0].agent;
    let tokens = agent.issue(10);
    agent.reset_peak();
    list(agent);
    let before = cluster.requests();
    for token in tokens {
        let node = swarm.newcomer(Role::Worker);
        let outcomes = swarm.join([Attempt { node, token }], 1);
        assert_eq!(outcomes, [Outcome::Admitted]);
    }
    let after = cluster.requests();
    let requests = (after.0 - before.0, after.1 - before.1);
    (agent.memory("VmHWM"), requests)
}

#[test]
fn many_tokens_in_the_api_make_no_agent_larger_and_no_join_ask_more() {
    let Some(cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    // Of the requests of a join few are as good as more, and of the memory a page is the least.
    let (few, many) = (PAGE, nightly::number(2500, 20_000));
    let agent = &cluster.control_planes[0].agent;
    let swarm = Swarm::new(agent.endpoint());
    agent.issue(few);
    let (with_few, asked_with_few) = cost(&cluster, &swarm);
    agent.issue(many - few);
    let (with_many, asked_with_many) = cost(&cluster, &swarm);
    let first = time_to_first(agent);
    tell(&format!(
        "{few} tokens: at most {with_few} KiB, ten joins {asked_with_few:?} reads and changes; {many}: {with_many} KiB, {asked_with_many:?}, the first one listed after {first:?}"
    ));
    // Elsewhere the machine may be busy.
    assert!(!nightly::is_wanted() || first < Duration::from_secs(1));
    assert_eq!(list(agent), many + 20);
    let (reads, changes) = asked_with_few;
    assert!(asked_with_many.0 * 10 <= reads * 11 && asked_with_many.1 * 10 <= changes * 11);
    assert!(with_many <= with_few + TOLERANCE && with_many <= MOST);
}

#[test]
fn many_tokens_of_a_node_make_its_agent_no_larger() {
    let agent = StandaloneAgent::start(&scratch());
    // As many as the database keeps in memory, and more than that.
    let (few, many) = (4000, nightly::number(12_000, 200_000));
    let peak = |count: usize| {
        agent.reset_peak();
        assert_eq!(list(&agent), count);
        for words in [&["token", "prune"][..], &["token", "revoke", "--all"]] {
            assert!(agent.command(words).output().unwrap().status.success());
        }
        agent.memory("VmHWM")
    };
    agent.issue(few);
    let with_few = peak(few);
    agent.issue(many - few);
    let with_many = peak(many);
    tell(&format!(
        "{few} tokens: at most {with_few} KiB; {many}: {with_many} KiB"
    ));
    let more = if nightly::is_wanted() {
        OF_VERY_MANY
    } else {
        0
    };
    assert!(with_many <= with_few + TOLERANCE + more && with_many <= MOST);
}
