//! Many nodes at once: nobody gets in twice, nothing is lost, and nobody waits for those who have
//! no business here.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use microk8s::base::wait;
use microk8s::model::role::Role;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::lab::scratch;
use crate::lab::swarm::agent::{StandaloneAgent, new_tokens};
use crate::lab::swarm::{Attempt, Outcome, STALL_TIMEOUT, Step, Swarm};

/// As many as a careful operator starts side by side.
const SOME: usize = 16;

/// How often a counter is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

fn start() -> (StandaloneAgent, Swarm) {
    let agent = StandaloneAgent::start(&scratch());
    let swarm = Swarm::new(agent.endpoint());
    (agent, swarm)
}

/// A node for each of `count` tokens. Tokens are by turns from the agent's store and from
/// MicroK8s's file, nodes by pairs workers and control planes, so that all four meet.
fn all_kinds(agent: &StandaloneAgent, swarm: &Swarm, count: usize) -> Vec<Attempt> {
    let lines = count / 2;
    let stored = agent.issue(count - lines);
    let listed = agent.write_lines(lines);
    let mut sources = [stored.into_iter(), listed.into_iter()];
    (0..count)
        .map(|number| Attempt {
            node: swarm.newcomer(if number % 4 < 2 {
                Role::Worker
            } else {
                Role::ControlPlane
            }),
            token: sources[number % 2].next().unwrap(),
        })
        .collect()
}

/// How often each outcome came, for the message of a test that fails.
fn tally(outcomes: &[Outcome]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for outcome in outcomes {
        *counts.entry(format!("{outcome:?}")).or_default() += 1;
    }
    let line = |(outcome, count)| format!("{count} x {outcome}\n");
    counts.into_iter().map(line).collect()
}

fn assert_all_admitted(outcomes: &[Outcome], what: &str) {
    let all = outcomes.iter().all(Outcome::is_admitted);
    assert!(all, "{what}:\n{}", tally(outcomes));
}

/// The reasons for which the join request of a late one is refused.
const TAKEN: &[&str] = &["used", "in-use"];

fn is_refused(outcome: &Outcome, reasons: &[&str]) -> bool {
    matches!(outcome, Outcome::Refused { step: Step::Join, status: 500, reason }
        if reasons.contains(&reason.as_str()))
}

fn assert_all_refused(outcomes: &[Outcome], reasons: &[&str], what: &str) {
    let all = outcomes.iter().all(|outcome| is_refused(outcome, reasons));
    assert!(all, "{what}:\n{}", tally(outcomes));
}

/// Sets a flag when dropped, so that a check that fails ends those who work until it is set.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn of_a_thousand_one_is_let_in(role: Role) {
    let (agent, swarm) = start();
    for token in [agent.issue(1), agent.write_lines(1)].concat() {
        let attempts = swarm.newcomers_with(&vec![token; 1000], role);
        let outcomes = swarm.join_at_the_same_moment(attempts);
        let (admitted, others): (Vec<_>, Vec<_>) =
            outcomes.into_iter().partition(Outcome::is_admitted);
        assert_eq!(admitted.len(), 1, "{}", tally(&others));
        assert_all_refused(&others, TAKEN, "the others");
    }
}

#[test]
fn of_a_thousand_workers_with_one_token_at_the_same_moment_exactly_one_is_let_in() {
    of_a_thousand_one_is_let_in(Role::Worker);
}

#[test]
fn of_a_thousand_control_planes_with_one_token_at_the_same_moment_exactly_one_is_let_in() {
    of_a_thousand_one_is_let_in(Role::ControlPlane);
}

/// A variable that is a number, where it is set.
fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

/// 200 nodes a round, so that the suite stays quick; `SWARM_NODES=1000` gives more. The kills come
/// when as many nodes have their answers as a random number says; `SWARM_SEED` with the number
/// that a failure shows repeats it.
#[test]
fn an_agent_that_is_killed_amid_joins_forgets_no_admission_and_loses_no_token() {
    let count = number_from("SWARM_NODES").map_or(200, |count| usize::try_from(count).unwrap());
    let seed = number_from("SWARM_SEED").unwrap_or_else(|| rand::rng().random());
    eprintln!("SWARM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut agent, swarm) = start();
    for round in 1..=10 {
        let attempts = all_kinds(&agent, &swarm, count);
        let moment = random.random_range(1..=count);
        let mut answered = 0;
        let outcomes = swarm.join_watched(attempts.clone(), count, |_| {
            answered += 1;
            if answered == moment {
                agent.kill();
            }
        });
        agent.start_again();

        let at = format!("round {round}, killed after {moment} of {count}");
        let refused = |outcome: &Outcome| matches!(outcome, Outcome::Refused { .. });
        assert!(!outcomes.iter().any(refused), "{at}:\n{}", tally(&outcomes));
        let (let_in, others): (Vec<_>, Vec<_>) = attempts
            .iter()
            .zip(&outcomes)
            .partition(|(_, outcome)| outcome.was_let_in());
        assert!(!let_in.is_empty(), "{at}:\n{}", tally(&outcomes));

        let rivals = let_in.iter().map(|(attempt, _)| swarm.rival(attempt));
        let rivals = swarm.join(rivals, SOME);
        assert_all_refused(
            &rivals,
            TAKEN,
            &format!("{at}: tokens of those who were let in"),
        );

        // Those who were let in try again too, as one whose answer was lost would.
        let again = swarm.join(attempts.clone(), SOME);
        assert_all_admitted(&again, &format!("{at}: everybody's own token"));

        let rivals = others.iter().map(|(attempt, _)| swarm.rival(attempt));
        let rivals = swarm.join(rivals, SOME);
        assert_all_refused(
            &rivals,
            TAKEN,
            &format!("{at}: tokens of those who got in later"),
        );
    }
}

/// Appends as the stock tool does, by another process and without a lock.
fn append_by_shell(token: &str, file: &Path) {
    let status = Command::new("sh")
        .args(["-c", "echo \"$0\" >> \"$1\"", token])
        .arg(file)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn tokens_that_a_shell_appends_while_nodes_join_without_pause_admit_one_node_each() {
    let (agent, swarm) = start();
    let file = agent.token_file();
    // Lines that are used up meanwhile; whoever comes around again tries again with his own.
    let early = swarm.newcomers_with(&agent.write_lines(1000), Role::ControlPlane);
    let tokens = new_tokens(200);
    let (done, joined) = (AtomicBool::new(false), AtomicUsize::new(0));
    let outcomes = thread::scope(|scope| {
        let stop = Stop(&done);
        let joins = scope.spawn(|| {
            let without_pause = early.iter().cycle().cloned();
            let attempts = without_pause.take_while(|_| !done.load(Ordering::SeqCst));
            swarm.join_watched(attempts, SOME, |_| {
                joined.fetch_add(1, Ordering::SeqCst);
            })
        });
        for token in &tokens {
            let before = joined.load(Ordering::SeqCst);
            append_by_shell(token, &file);
            let goes_on = || (joined.load(Ordering::SeqCst) > before).then_some(());
            assert_eq!(wait::until(STALL_TIMEOUT, POLL_INTERVAL, goes_on), Some(()));
        }
        drop(stop);
        joins.join().unwrap()
    });
    assert_all_admitted(&outcomes, "those who joined meanwhile");

    // Two for each of the tokens, next to each other, so that they come at the same time.
    let attempts = swarm.newcomers_with(&tokens, Role::Worker);
    let pairs = attempts
        .iter()
        .flat_map(|one| [one.clone(), swarm.rival(one)]);
    let outcomes = swarm.join(pairs, SOME);
    assert_eq!(outcomes.len(), 2 * tokens.len());
    for pair in outcomes.chunks(2) {
        let (admitted, others): (Vec<_>, Vec<_>) =
            pair.iter().cloned().partition(Outcome::is_admitted);
        assert_eq!(admitted.len(), 1, "{others:?}:\n{}", tally(&outcomes));
        assert_all_refused(&others, TAKEN, "the other of two");
    }
}

#[test]
fn three_hundred_workers_join_sixteen_at_once_and_none_fails() {
    let (agent, swarm) = start();
    let tokens = [agent.issue(150), agent.write_lines(150)].concat();
    let outcomes = swarm.join(swarm.newcomers_with(&tokens, Role::Worker), SOME);
    assert_eq!(outcomes.len(), 300);
    assert_all_admitted(&outcomes, "workers");
}

/// Machines behind one address present tokens that are of no use, each as soon as the last one was
/// refused, as a boot loop does, while others come from there with good ones. Whether those wait is
/// told by how often the loops go around meanwhile, about twice on any machine; the bound is one
/// that only a delay on purpose, or a queue behind the loops, reaches in the mean of all.
#[test]
fn unknown_tokens_from_an_address_neither_delay_nor_refuse_a_valid_one_from_there() {
    const SHARED: Ipv4Addr = Ipv4Addr::new(127, 255, 0, 1);
    const IN_A_LOOP: usize = 32;
    const MOST_ROUNDS: usize = 30;
    let (agent, swarm) = start();
    let role = |number: usize| [Role::Worker, Role::ControlPlane][number % 2];
    let tokens = [agent.issue(50), agent.write_lines(50)].concat();
    let count = tokens.len();
    let valid: Vec<_> = (0..)
        .zip(tokens)
        .map(|(number, token)| Attempt {
            node: swarm.newcomer_at(SHARED, role(number)),
            token,
        })
        .collect();
    // As many machines, one token for good each, and tokens that are new each time.
    let loops: Vec<_> = new_tokens(IN_A_LOOP)
        .into_iter()
        .map(|token| Attempt {
            node: swarm.newcomer_at(SHARED, Role::ControlPlane),
            token,
        })
        .collect();
    let guess = |(number, attempt): (usize, &Attempt)| Attempt {
        token: if number % 2 == 0 {
            new_tokens(1).remove(0)
        } else {
            attempt.token.clone()
        },
        node: attempt.node.clone(),
    };
    let (done, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (in_loops, meanwhile) = thread::scope(|scope| {
        let stop = Stop(&done);
        let mut meanwhile = 0;
        let in_loops = scope.spawn(|| {
            let endless = loops.iter().cycle().enumerate().map(guess);
            let attempts = endless.take_while(|_| !done.load(Ordering::SeqCst));
            swarm.join_watched(attempts, IN_A_LOOP, |_| {
                refused.fetch_add(1, Ordering::SeqCst);
            })
        });
        for attempt in valid {
            // Each of them comes when all the loops have gone around since the one before.
            let before = refused.load(Ordering::SeqCst);
            let around = || (refused.load(Ordering::SeqCst) >= before + IN_A_LOOP).then_some(());
            assert_eq!(wait::until(STALL_TIMEOUT, POLL_INTERVAL, around), Some(()));
            let before = refused.load(Ordering::SeqCst);
            assert_eq!(swarm.join([attempt], 1), [Outcome::Admitted]);
            meanwhile += refused.load(Ordering::SeqCst) - before;
        }
        drop(stop);
        (in_loops.join().unwrap(), meanwhile)
    });
    let rounds = meanwhile / IN_A_LOOP / count;
    assert!(rounds < MOST_ROUNDS, "{rounds} rounds of the loops a join");
    // Not by the reason alone: who asks without end may be told to ask less often.
    let at_join = |outcome: &Outcome| {
        let Outcome::Refused { step, .. } = outcome else {
            return false;
        };
        *step == Step::Join
    };
    assert!(in_loops.iter().all(at_join), "{}", tally(&in_loops));
}
