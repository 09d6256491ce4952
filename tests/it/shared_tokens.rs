//! Tokens in the cluster's own API, which every control plane serves.

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use microk8s::base::wait;
use microk8s::model::role::Role;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::lab::shared_api::SharedApi;
use crate::lab::swarm::agent::StandaloneAgent;
use crate::lab::swarm::{Attempt, Outcome, Step, Swarm};
use crate::lab::wire::Mode;
use crate::lab::{STALL_TIMEOUT, nightly, scratch};

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How many nodes join an agent at once.
const AT_ONCE: usize = 8;

/// A swarm for each agent; no node is in two of them.
fn swarms(cluster: &SharedApi) -> Vec<Swarm> {
    let endpoints = cluster.endpoints().into_iter();
    let apart = |(number, endpoint)| Swarm::apart(endpoint, number, &[]);
    (0..).zip(endpoints).map(apart).collect()
}

/// A worker's attempt with this token.
fn worker(swarm: &Swarm, token: &str) -> Attempt {
    Attempt {
        node: swarm.newcomer(Role::Worker),
        token: token.to_owned(),
    }
}

fn join_one(swarm: &Swarm, attempt: &Attempt) -> Outcome {
    swarm.join([attempt.clone()], 1).remove(0)
}

/// Whether the agent said that it cannot use its store now.
fn is_unavailable(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused { status: 503, .. })
}

/// A node of each swarm for each token.
fn attempts(swarms: &[Swarm], tokens: &[String]) -> Vec<Vec<Attempt>> {
    let of_one = |swarm: &Swarm| swarm.newcomers_with(tokens, Role::Worker);
    swarms.iter().map(of_one).collect()
}

/// Makes the attempts, those of all swarms at the same time, and counts the outcomes as they come.
fn present(swarms: &[Swarm], attempts: &[Vec<Attempt>], count: &AtomicUsize) -> Vec<Vec<Outcome>> {
    thread::scope(|scope| {
        let begun: Vec<_> = swarms
            .iter()
            .zip(attempts)
            .map(|(swarm, attempts)| {
                scope.spawn(|| {
                    swarm.join_watched(attempts.iter().cloned(), AT_ONCE, |_| {
                        count.fetch_add(1, Ordering::SeqCst);
                    })
                })
            })
            .collect();
        begun.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// What became of a token at each agent.
fn of_token(outcomes: &[Vec<Outcome>], at: usize) -> Vec<&Outcome> {
    outcomes.iter().map(|list| &list[at]).collect()
}

/// A variable that is a number, where it is set.
fn number_from(variable: &str) -> Option<usize> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

/// 60 tokens and one etcd, so that the suite stays quick; `SHARED_TOKENS=500` gives more, on three members
/// of etcd, and ten rounds of faults instead of three.
#[test]
fn each_token_admits_exactly_one_node_of_those_that_present_it_to_all_control_planes() {
    let nightly = nightly::is_wanted().then_some(500);
    let wanted = number_from("SHARED_TOKENS").or(nightly);
    let members = if wanted.is_some() { 3 } else { 1 };
    let Some(mut cluster) = SharedApi::start(3, members, &[]) else {
        return;
    };
    let swarms = swarms(&cluster);
    let tokens = cluster.control_planes[0].agent.issue(wanted.unwrap_or(30));
    let nodes = attempts(&swarms, &tokens);
    let outcomes = present(&swarms, &nodes, &AtomicUsize::new(0));
    for at in 0..tokens.len() {
        let outcomes = of_token(&outcomes, at);
        let admitted = outcomes.iter().filter(|outcome| outcome.is_admitted());
        assert_eq!(admitted.count(), 1, "{outcomes:?}");
    }

    let (rounds, count) = wanted.map_or((3, 10), |count| (10, count.div_ceil(10)));
    let seed = number_from("SHARED_SEED")
        .map_or_else(|| rand::rng().random(), |seed| seed.try_into().unwrap());
    eprintln!("{rounds} rounds of {count} tokens, SHARED_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..rounds {
        round_of_faults(&mut cluster, &swarms, count, round, &mut random);
    }
    // Requests that fail together on one connection all say with whom.
    for plane in &cluster.control_planes {
        let log = plane.agent.log();
        assert!(!log.contains("API server at  "), "{log}");
    }
}

/// While nodes join, one of three things happens to a control plane, and is over before they have ended:
/// its agent is killed, its API server is killed, or it is cut off from that.
fn round_of_faults(
    cluster: &mut SharedApi,
    swarms: &[Swarm],
    tokens: usize,
    round: usize,
    random: &mut StdRng,
) {
    let tokens = cluster.control_planes[round % 3].agent.issue(tokens);
    let nodes = attempts(swarms, &tokens);
    let all = 3 * tokens.len();
    let (count, plane) = (AtomicUsize::new(0), random.random_range(0..3));
    let (begin, end) = (
        random.random_range(0..all / 2),
        random.random_range(all / 2..all * 3 / 4),
    );
    let first = thread::scope(|scope| {
        let begun = scope.spawn(|| present(swarms, &nodes, &count));
        let wait_for = |outcomes| {
            let reached = || (count.load(Ordering::SeqCst) >= outcomes).then_some(());
            wait::until(STALL_TIMEOUT, Duration::from_millis(1), reached).unwrap();
        };
        wait_for(begin);
        match round % 3 {
            0 => cluster.control_planes[plane].agent.kill(),
            1 => cluster.stop_api(plane),
            _ => cluster.control_planes[plane].wire.set(Mode::Silent),
        }
        wait_for(end);
        match round % 3 {
            0 => cluster.control_planes[plane].agent.start_again(),
            1 => cluster.start_api(plane),
            _ => cluster.control_planes[plane].wire.set(Mode::Open),
        }
        begun.join().unwrap()
    });

    let again = present(swarms, &nodes, &count);
    for (at, token) in tokens.iter().enumerate() {
        let (before, after) = (of_token(&first, at), of_token(&again, at));
        let at = format!("round {round}, {token}, first {before:#?}, again {after:#?}");
        let admitted: Vec<usize> = (0..3).filter(|node| after[*node].is_admitted()).collect();
        assert_eq!(admitted.len(), 1, "{at}");
        for node in 0..3 {
            let was_let_in = before[node].was_let_in();
            assert!(!was_let_in || admitted == [node], "{at}");
            let why = |outcome: &Outcome| match outcome {
                Outcome::Refused { reason, .. } => !reason.is_empty(),
                Outcome::Admitted | Outcome::NoAnswer { .. } => true,
            };
            assert!(why(before[node]) && why(after[node]), "{at}");
        }
    }
}

/// The name of a token's Secret.
fn name_of(token: &str) -> String {
    let digest = microk8s::model::token::Token::presented(token).digest();
    let digits = serde_json::to_value(digest).unwrap();
    format!("microk8s-join-token-{}", digits.as_str().unwrap())
}

/// The program on a standalone node.
fn run(node: &StandaloneAgent, arguments: &[&str]) -> Output {
    node.command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The files below a folder in which this text stands.
fn files_with(folder: &std::path::Path, text: &str) -> Vec<String> {
    let output = Command::new("grep")
        .args(["-rlaF", text])
        .arg(folder)
        .output()
        .unwrap();
    let list = String::from_utf8(output.stdout).unwrap();
    list.lines().map(str::to_owned).collect()
}

#[test]
fn a_token_is_a_secret_of_kubernetes_that_holds_no_token_and_can_be_deleted_there() {
    let Some(cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let swarm = &swarms(&cluster)[0];
    let agent = &cluster.control_planes[0].agent;
    let tokens = agent.issue(4);
    let secrets = cluster.secrets();
    let names: BTreeSet<&str> = secrets
        .iter()
        .map(|secret| secret["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 4);
    for secret in &secrets {
        assert_eq!(secret["type"], "microk8s.io/join-token");
        let data = secret["data"].as_object().unwrap();
        assert_eq!(data.keys().collect::<Vec<_>>(), ["record"]);
    }

    // One is deleted, one is edited into nonsense, one into another record; the rest is not concerned.
    assert!(tokens.iter().all(|token| names.contains(&*name_of(token))));
    let secret = |words: &[&str]| {
        let words = [&["-n", "kube-system"], words].concat();
        cluster.kubectl(&words, "");
    };
    let patch = |token: &str, data: Value| {
        let patch = json!({ "data": data }).to_string();
        secret(&["patch", "secret", &name_of(token), "-p", &patch]);
    };
    secret(&["delete", "secret", &name_of(&tokens[0])]);
    patch(&tokens[1], json!({"record": "bm9uc2Vuc2U="}));
    patch(&tokens[2], json!({"record": null, "other": "e30="}));
    for token in &tokens[..3] {
        let outcome = join_one(swarm, &worker(swarm, token));
        assert!(
            matches!(
                outcome,
                Outcome::Refused {
                    step: Step::Join,
                    status: 500,
                    ..
                }
            ),
            "{outcome:?}"
        );
    }
    assert_eq!(
        join_one(swarm, &worker(swarm, &tokens[3])),
        Outcome::Admitted
    );
    let list = run(agent, &["token", "list", "--format", "json"]);
    assert_eq!(list.status.code(), Some(0), "{}", text(&list.stderr));
    let log = agent.log();
    for token in &tokens[1..3] {
        let named = format!("the Secret `kube-system/{}` is no record", name_of(token));
        assert!(log.contains(&named), "{log}");
    }

    for (token, secret) in tokens.iter().zip(secrets) {
        assert_eq!(files_with(cluster.place(), token), [""; 0]);
        let name = secret["metadata"]["name"].as_str().unwrap();
        let found = files_with(cluster.place(), name);
        for part in ["etcd-0", "audit-0.log"] {
            assert!(found.iter().any(|file| file.contains(part)), "{found:?}");
        }
    }
}

#[test]
fn a_join_waits_for_a_slow_api_server() {
    let Some(cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let swarm = &swarms(&cluster)[0];
    let plane = &cluster.control_planes[0];
    for (token, seconds) in plane.agent.issue(2).iter().zip([1, 5]) {
        plane.wire.set(Mode::Slow(Duration::from_secs(seconds)));
        let outcome = join_one(swarm, &worker(swarm, token));
        assert_eq!(outcome, Outcome::Admitted, "{seconds} s");
    }
}

#[test]
fn a_join_without_an_api_server_is_refused_with_a_time_to_retry_and_costs_no_token() {
    let Some(mut cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let swarm = &swarms(&cluster)[0];
    let tokens = cluster.control_planes[0].agent.issue(3);
    let slow = Mode::Slow(Duration::from_secs(30));
    for (token, mode) in tokens.iter().zip([slow, Mode::Silent]) {
        cluster.control_planes[0].wire.set(mode);
        let attempt = worker(swarm, token);
        let outcome = join_one(swarm, &attempt);
        assert!(is_unavailable(&outcome), "{mode:?}: {outcome:?}");
        cluster.control_planes[0].wire.set(Mode::Open);
        assert_eq!(join_one(swarm, &attempt), Outcome::Admitted, "{mode:?}");
    }

    cluster.stop_api(0);
    let joining = StandaloneAgent::start_with(&scratch(), &["--node-name", "joining"]);
    let connection = format!("{}/{}", cluster.endpoints()[0], tokens[2]);
    let join = || {
        run(
            &joining,
            &["join", &connection, "--worker", "--format", "json"],
        )
    };
    let refused = join();
    let told = last_line(&refused);
    assert_eq!(refused.status.code(), Some(10), "{told}");
    assert_eq!(told["retry"], "try-again", "{told}");
    assert!(told["retry_after"].as_u64().is_some(), "{told}");
    assert!(
        told["hint"]
            .as_str()
            .unwrap()
            .contains("the token can still be used"),
        "{told}"
    );
    cluster.start_api(0);
    let joined = join();
    assert_eq!(joined.status.code(), Some(0), "{}", last_line(&joined));
}

fn last_line(output: &Output) -> Value {
    let text = text(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn a_change_whose_answer_was_lost_is_found_in_the_api_and_counts_once() {
    let Some(cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let plane = &cluster.control_planes[0];
    let swarm = &swarms(&cluster)[0];
    let token = plane.agent.issue(1).remove(0);
    let version = || cluster.secrets()[0]["metadata"]["resourceVersion"].clone();
    let issued = version();
    let attempt = worker(swarm, &token);
    let outcome = thread::scope(|scope| {
        // Larger than a request to read a record, smaller than one with a record in it.
        plane.wire.set(Mode::DeafAfter(400));
        let joined = scope.spawn(|| join_one(swarm, &attempt));
        let changed = || (version() != issued).then_some(());
        wait::until(STALL_TIMEOUT, POLL_INTERVAL, changed).unwrap();
        plane.wire.set(Mode::Open);
        joined.join().unwrap()
    });
    assert_eq!(outcome, Outcome::Admitted, "{}", plane.agent.log());
    let rival = swarm.rival(&attempt);
    let refused = join_one(swarm, &rival);
    assert!(
        matches!(refused, Outcome::Refused { status: 500, .. }),
        "{refused:?}"
    );
}

/// A member of etcd more or less changes little as long as there are two of three.
#[test]
fn joins_are_refused_while_etcd_has_no_quorum_and_go_on_when_it_has() {
    let Some(mut cluster) = SharedApi::start(3, 3, &[]) else {
        return;
    };
    let swarms = swarms(&cluster);
    let tokens = cluster.control_planes[0].agent.issue(4);
    cluster.stop_etcd(0);
    for (swarm, token) in swarms.iter().zip(&tokens) {
        let attempt = worker(swarm, token);
        // The others may have to choose a leader first.
        let admitted = || match join_one(swarm, &attempt) {
            Outcome::Admitted => Some(()),
            outcome => {
                assert!(is_unavailable(&outcome), "{outcome:?}");
                None
            }
        };
        wait::until(STALL_TIMEOUT, POLL_INTERVAL, admitted).unwrap();
    }
    cluster.stop_etcd(1);
    let attempts: Vec<_> = swarms
        .iter()
        .map(|swarm| worker(swarm, &tokens[3]))
        .collect();
    thread::scope(|scope| {
        for (swarm, attempt) in swarms.iter().zip(&attempts) {
            scope.spawn(|| {
                let outcome = join_one(swarm, attempt);
                assert!(is_unavailable(&outcome), "{outcome:?}");
            });
        }
    });
    cluster.start_etcd(0);
    cluster.start_etcd(1);
    cluster.wait_for_etcd();
    let admitted = || {
        let outcomes = swarms.iter().zip(&attempts);
        let outcomes: Vec<_> = outcomes.map(|(swarm, one)| join_one(swarm, one)).collect();
        let admitted = outcomes.iter().filter(|outcome| outcome.is_admitted());
        let admitted = admitted.count();
        assert!(admitted < 2, "{outcomes:?}");
        (admitted == 1).then_some(())
    };
    wait::until(STALL_TIMEOUT, POLL_INTERVAL, admitted).unwrap();
}

#[test]
fn a_worker_whose_requests_reach_one_control_plane_after_the_other_joins() {
    let Some(cluster) = SharedApi::start(3, 1, &[]) else {
        return;
    };
    let endpoints = cluster.endpoints();
    let tokens = cluster.control_planes[0].agent.issue(6);
    for (number, token) in (0u32..).zip(&tokens) {
        let first = usize::try_from(number).unwrap() % 3;
        let signers = [endpoints[(first + 1) % 3], endpoints[(first + 2) % 3]];
        let swarm = Swarm::apart(endpoints[first], number, &signers);
        let attempt = worker(&swarm, token);
        assert_eq!(join_one(&swarm, &attempt), Outcome::Admitted, "{first}");
        let refused = join_one(&swarm, &swarm.rival(&attempt));
        assert!(!refused.is_admitted());
    }
}

/// A user with this token instead of the administrator.
fn use_account(cluster: &SharedApi, token: &str) {
    let path = cluster.kubeconfig(0);
    let config = std::fs::read_to_string(&path).unwrap();
    let end = config.find("  user:\n").unwrap();
    let config = format!("{}  user:\n    token: {token}\n", &config[..end]);
    std::fs::write(path, config).unwrap();
}

#[test]
fn an_account_that_has_the_role_of_the_package_alone_is_enough_and_one_without_it_is_refused() {
    let Some(mut cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let enough = cluster.create_account();
    let words = ["-n", "kube-system", "create", "serviceaccount", "other"];
    cluster.kubectl(&words, "");
    let other = cluster.token_of("other");
    let swarm = &swarms(&cluster)[0];
    let tokens = cluster.control_planes[0].agent.issue(2);
    let restart = |cluster: &mut SharedApi| {
        cluster.control_planes[0].agent.terminate();
        cluster.control_planes[0].agent.start_again();
    };
    for (account, status) in [("nonsense", 401), (&*other, 403)] {
        use_account(&cluster, account);
        restart(&mut cluster);
        let outcome = join_one(swarm, &worker(swarm, &tokens[0]));
        assert!(is_unavailable(&outcome), "{status}: {outcome:?}");
        let log = cluster.control_planes[0].agent.log();
        for said in [
            format!("status {status}"),
            "the right to get secrets in the namespace kube-system".to_owned(),
        ] {
            assert!(log.contains(&said), "{log}");
        }
    }
    use_account(&cluster, &enough);
    restart(&mut cluster);
    let agent = &cluster.control_planes[0].agent;
    let issued = agent.issue(1).remove(0);
    for token in tokens.iter().chain([&issued]) {
        assert_eq!(join_one(swarm, &worker(swarm, token)), Outcome::Admitted);
    }
    for words in [
        &["token", "list"][..],
        &["token", "revoke", "--all"],
        &["token", "prune"],
    ] {
        let output = run(agent, words);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert!(!agent.log().contains("Forbidden"), "{}", agent.log());
}

/// An API server counts the requests of administrators against no limit.
#[test]
fn an_api_server_that_is_too_busy_is_asked_again_until_it_answers() {
    let Some(mut cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let account = cluster.create_account();
    let tokens = cluster.control_planes[0].agent.issue(20);
    cluster.api_arguments = vec![
        "--max-mutating-requests-inflight=1",
        "--max-requests-inflight=1",
    ];
    cluster.stop_api(0);
    cluster.start_api(0);
    use_account(&cluster, &account);
    cluster.control_planes[0].agent.terminate();
    cluster.control_planes[0].agent.start_again();
    let swarm = &swarms(&cluster)[0];
    let outcomes = swarm.join(swarm.newcomers_with(&tokens, Role::Worker), 20);
    assert!(outcomes.iter().all(Outcome::is_admitted), "{outcomes:?}");
    let refused = files_with(cluster.place(), "\"code\":429");
    assert_eq!(refused.len(), 1, "no request was refused");
}

/// Each request is a round trip, and each change a flush of the disk of etcd: a token is read once, and
/// changed when the node is admitted and when each of its certificates is signed. An agent that starts
/// reads no token that stays as it is.
#[test]
fn a_workers_join_costs_the_api_server_few_requests() {
    let Some(mut cluster) = SharedApi::start(1, 1, &[]) else {
        return;
    };
    let tokens = cluster.control_planes[0].agent.issue(10);
    cluster.control_planes[0].agent.terminate();
    let before = cluster.lists();
    cluster.control_planes[0].agent.start_again();
    // It looks for tokens that are to be moved, for those that have changed, and for those that are due.
    let is_up_to_date = || (cluster.lists() >= before + 3).then_some(());
    wait::until(STALL_TIMEOUT, POLL_INTERVAL, is_up_to_date).unwrap();
    assert_eq!(cluster.requests(), (0, 0));
    let swarm = &swarms(&cluster)[0];
    for token in &tokens {
        assert_eq!(join_one(swarm, &worker(swarm, token)), Outcome::Admitted);
    }
    let (reads, changes) = cluster.requests();
    eprintln!("ten joins: {reads} reads and {changes} changes");
    assert!(
        reads <= 10 && changes <= 30,
        "{reads} reads and {changes} changes"
    );
}

#[test]
fn an_agent_logs_at_each_start_where_tokens_are_kept() {
    let mut agent = StandaloneAgent::start(&scratch());
    for starts in 1..3 {
        let logged = || {
            (agent.log().matches("tokens are kept on this node").count() == starts).then_some(())
        };
        wait::until(STALL_TIMEOUT, POLL_INTERVAL, logged).unwrap();
        agent.terminate();
        agent.start_again();
    }
}

/// Agents begin a change with what they remember of a token; whether it holds, the API server decides.
#[test]
fn a_token_whose_secret_is_deleted_while_nodes_join_admits_one_at_most_and_none_later() {
    let Some(cluster) = SharedApi::start(2, 1, &[]) else {
        return;
    };
    let swarms = swarms(&cluster);
    let tokens = cluster.control_planes[0].agent.issue(24);
    let nodes = attempts(&swarms, &tokens);
    let count = AtomicUsize::new(0);
    let outcomes = thread::scope(|scope| {
        let begun = scope.spawn(|| present(&swarms, &nodes, &count));
        for (number, some) in tokens.chunks(8).enumerate() {
            let reached = || (count.load(Ordering::SeqCst) >= 12 * number).then_some(());
            wait::until(STALL_TIMEOUT, POLL_INTERVAL, reached).unwrap();
            let names: Vec<String> = some.iter().map(|token| name_of(token)).collect();
            let mut words = vec!["-n", "kube-system", "delete", "secrets"];
            words.extend(names.iter().map(String::as_str));
            cluster.kubectl(&words, "");
        }
        begun.join().unwrap()
    });
    for (at, token) in tokens.iter().enumerate() {
        let outcomes = of_token(&outcomes, at);
        let admitted = outcomes.iter().filter(|outcome| outcome.was_let_in());
        assert!(admitted.count() <= 1, "{outcomes:?}");
        for swarm in &swarms {
            let later = join_one(swarm, &worker(swarm, token));
            assert!(!later.was_let_in(), "{later:?}");
        }
    }
}
