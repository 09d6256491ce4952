//! The snap is refreshed, and reverted, while the agent runs: it goes along with its tokens.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Duration;

use microk8s::base::wait;
use nix::sys::signal::Signal;

use crate::lab::agent::Agent;
use crate::lab::revisions::{copy, directory, lay_out, lead_to, link, unlink};
use crate::lab::snapshot::Snapshot;
use crate::lab::systemd::Machine;
use crate::lab::{Host, Lab, STALL_TIMEOUT};

const KUBELITE: &str = "microk8s.daemon-kubelite";

fn lab() -> Option<Lab> {
    let lab = Lab::new(&["n1", "n2", "n3"])?;
    lay_out(lab.host("n1"));
    Some(lab)
}

/// An agent in the environment that snapd gives it: with the path of the revision.
fn agent_in(host: &Host, directory: &str) -> Agent {
    let data = format!("SNAP_DATA={}", host.scratch().join(directory).display());
    Agent::start_as(host, &["env", &data, "microk8s", "agent"])
}

/// Waits until the agent serves for this time.
fn serves_again(agent: &Agent, times: usize) {
    agent.wait_until("listening on", |log| {
        log.matches("listening on").count() == times
    });
}

/// What a revision's directory holds, without the agent's own state.
fn files(host: &Host, revision: &str) -> Snapshot {
    Snapshot::take(&directory(host, revision), &["var/cluster-agent"])
}

fn token_of(line: &str) -> &str {
    line.split(['/', ' ']).nth(3).unwrap()
}

/// What `token show` says of the token of a join.
fn state_of(host: &Host, line: &str) -> String {
    let shown = host.run_with_input(
        &["microk8s", "token", "show", "-", "--format", "json"],
        token_of(line).as_bytes(),
    );
    let shown = shown.ok();
    let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
    value
        .pointer("/tokens/0/state")
        .or(value.pointer("/state"))
        .unwrap_or_else(|| panic!("{shown}"))
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn an_agent_goes_along_with_the_node_directory_and_no_token_is_lost_or_lives_again() {
    for given in ["x1", "current", "own"] {
        let Some(lab) = lab() else { return };
        let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
        symlink("x1", n1.scratch().join("own")).unwrap();
        let agent = agent_in(n1, given);
        let before = n1.join_line();
        copy(n1, "x1", "x2");
        let between = n1.join_line();
        lead_to(n1, "x2");
        // The command comes at once, and waits for the agent.
        let after = n1.join_line();
        serves_again(&agent, 2);
        for line in [&before, &between, &after] {
            assert_eq!(state_of(n1, line), "issued", "{given}");
        }
        let old = files(n1, "x1");
        n2.shell(&format!("{between} --worker")).ok();
        // What a join writes is in the directory that is used.
        assert!(old == files(n1, "x1") && old != files(n1, "x2"), "{given}");

        lead_to(n1, "x1");
        serves_again(&agent, 3);
        assert_eq!(state_of(n1, &between), "used", "{given}: after a revert");
        assert_ne!(n3.shell(&format!("{between} --worker")).code, Some(0));
        n3.shell(&format!("{after} --worker")).ok();
    }
}

#[test]
fn nothing_is_changed_while_the_node_directory_is_being_copied() {
    let Some(lab) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = agent_in(n1, "x1");
    let line = n1.join_line();
    unlink(n1);
    let database = fs::read(directory(n1, "x1").join("var/cluster-agent/tokens.redb")).unwrap();
    let data = format!("SNAP_DATA={}", directory(n1, "x1").display());
    let refused = n1.run(&["env", &data, "microk8s", "add-node"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("MicroK8s is being refreshed"),
        "{refused:?}"
    );
    let before = n2.snapshot();
    let refused = n2.shell(&format!("{line} --worker"));
    assert_ne!(refused.code, Some(0), "{refused:?}");
    assert!(refused.stdout.contains("is being refreshed"), "{refused:?}");
    assert!(before == n2.snapshot());
    let health = n2.shell("curl -sk https://10.99.0.11:25000/health").ok();
    assert_eq!(health, "{\"status\":\"OK\"}");
    agent.wait_for("nothing is changed until it leads here again");
    assert_eq!(
        database,
        fs::read(directory(n1, "x1").join("var/cluster-agent/tokens.redb")).unwrap()
    );
    // A refresh that snapd gives up leads back to the same directory.
    link(n1, "x1");
    n2.shell(&format!("{line} --worker")).ok();
    agent.wait_for("the node directory is back");
    assert_eq!(
        agent.log().matches("listening on").count(),
        1,
        "it did not start again"
    );
}

#[test]
fn a_join_that_the_refresh_comes_into_is_taken_back_in_both_directories() {
    for is_killed in [false, true] {
        let Some(lab) = lab() else { return };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _contacted = n2.agent();
        let line = n2.join_line();
        let mut agent = agent_in(n1, "x1");
        let before = n1.snapshot();
        n1.stand_ins.hold("stop", KUBELITE);
        let joined = thread::scope(|scope| {
            let join = scope.spawn(|| n1.shell(&line));
            let held = wait::until(STALL_TIMEOUT, Duration::from_millis(5), || {
                n1.stand_ins.held()
            });
            assert!(held.is_some());
            if is_killed {
                agent.signal(Signal::SIGKILL);
            }
            copy(n1, "x1", "x2");
            lead_to(n1, "x2");
            n1.stand_ins.let_go("stop", KUBELITE);
            join.join().unwrap()
        });
        assert_ne!(joined.code, Some(0), "{joined:?}");
        assert!(!joined.stdout.contains("Successfully"), "{joined:?}");
        if is_killed {
            agent.was_killed();
            agent = agent_in(n1, "x2");
        } else {
            serves_again(&agent, 2);
        }
        for revision in ["x1", "x2"] {
            assert!(before == files(n1, revision), "{revision}: {}", agent.log());
        }
        let journal = directory(n1, "x2").join("var/cluster-agent/journal");
        assert!(!journal.exists(), "{}", agent.log());
        n1.shell(&format!("{line} --worker")).ok();
        let joined = directory(n1, "x2").join("var/lock/clustered.lock");
        assert!(joined.exists(), "the join is in the directory that is used");
    }
}

#[test]
fn an_agent_that_was_killed_before_it_noticed_loses_no_token() {
    let Some(lab) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = agent_in(n1, "x1");
    copy(n1, "x1", "x2");
    let line = n1.join_line();
    agent.signal(Signal::SIGSTOP);
    lead_to(n1, "x2");
    agent.kill();
    let agent = agent_in(n1, "x2");
    assert!(agent.log().contains("were taken over"), "{}", agent.log());
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn what_was_told_of_an_older_revision_works_in_the_current_one_or_not_at_all() {
    let Some(lab) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    copy(n1, "x1", "x2");
    let x1 = format!("SNAP_DATA={}", directory(n1, "x1").display());
    lead_to(n1, "x2");
    let old = Snapshot::take(&directory(n1, "x1"), &[]);
    let url = format!("10.99.0.12:25000/{}", "a".repeat(32));
    for command in [&["add-node"][..], &["token", "list"], &["join", &url]] {
        let refused = n1.run(&[&["env", &x1, "microk8s"], command].concat());
        assert_ne!(refused.code, Some(0), "{refused:?}");
        assert!(
            refused.stderr.contains("MicroK8s was refreshed")
                || refused.stdout.contains("MicroK8s was refreshed"),
            "{refused:?}"
        );
    }
    // snapd may lead on between the start of a service and its first look at the directory.
    let agent = agent_in(n1, "x1");
    let line = n1.join_line();
    n2.shell(&format!("{line} --worker")).ok();
    assert!(
        old == Snapshot::take(&directory(n1, "x1"), &[]),
        "{}",
        agent.log()
    );
}

#[test]
fn an_agent_whose_directory_is_removed_goes_on_in_the_one_that_is_used() {
    let Some(lab) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = agent_in(n1, "x1");
    let line = n1.join_line();
    copy(n1, "x1", "x2");
    agent.signal(Signal::SIGSTOP);
    lead_to(n1, "x2");
    fs::remove_dir_all(directory(n1, "x1")).unwrap();
    agent.signal(Signal::SIGCONT);
    serves_again(&agent, 2);
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn a_command_in_another_node_directory_than_the_agent_is_told_so() {
    let Some(lab) = lab() else { return };
    let n1 = lab.host("n1");
    let _agent = agent_in(n1, "x1");
    copy(n1, "x1", "other");
    let other = directory(n1, "other");
    let data = format!("SNAP_DATA={}", other.display());
    let url = format!("10.99.0.12:25000/{}", "a".repeat(32));
    for command in [
        &["add-node"][..],
        &["token", "list"],
        &["nodes"],
        &["join", &url],
    ] {
        let output = n1.run(&[&["env", &data, "microk8s"], command].concat());
        assert_ne!(output.code, Some(0), "{output:?}");
        for path in [directory(n1, "x1"), other.clone()] {
            assert!(output.stderr.contains(path.to_str().unwrap()), "{output:?}");
        }
        assert!(output.stderr.contains("hint: "), "{output:?}");
    }
}

#[test]
fn under_a_real_systemd_the_agent_goes_along_as_the_same_service() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(machine) = Machine::boot(n1) else {
        return;
    };
    machine.start_agent("");
    let main = machine.property("MainPID");
    let before = machine.join_line();
    // As snapd does it: services stop, links go, the directory is copied, links come back.
    let refresh = |from: &str, to: &str| {
        machine
            .shell(&format!(
                "cd /var/snap/microk8s && rm current /snap/microk8s/current && \
                 {{ [ -d {to} ] || cp -a {from} {to}; }} && \
                 ln -s {to} current && ln -s {to} /snap/microk8s/current"
            ))
            .ok();
    };
    refresh("x1", "x2");
    let after = machine.join_line();
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.property("MainPID"), main);
    let environment = machine
        .shell(&format!("tr '\\0' '\\n' < /proc/{main}/environ"))
        .ok();
    for line in [
        "SNAP=/snap/microk8s/x2",
        "SNAP_DATA=/var/snap/microk8s/x2",
        "SNAP_REVISION=x2",
    ] {
        assert!(environment.lines().any(|set| set == line), "{environment}");
    }
    n2.shell(&format!("{before} --worker")).ok();
    refresh("x2", "x1");
    // A restart in the middle of it is no other case.
    machine
        .shell("systemctl restart microk8s-cluster-agent")
        .ok();
    let list = machine.shell("microk8s token list --format json").ok();
    assert!(
        list.contains("\"used\"") && list.contains("\"issued\""),
        "{list}"
    );
    assert!(after.contains("10.99.0.11"));
    machine.wait_until("service in x1", || {
        let main = machine.property("MainPID");
        let line = format!("tr '\\0' '\\n' < /proc/{main}/environ");
        let environment = machine.shell(&line).stdout;
        environment
            .contains("SNAP_DATA=/var/snap/microk8s/x1\n")
            .then_some(())
    });
}
