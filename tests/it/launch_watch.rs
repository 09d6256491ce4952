//! The agent's watch of `$SNAP_COMMON/etc/launcher`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::lab::agent::Agent;
use crate::lab::{Host, Lab};

const TOKEN: &str = "a74cddf30d2408d49fcd748a26021c6a";

/// Puts a launch configuration into the folder; it is as old as if that was long ago.
fn put(host: &Host, name: &str, content: &str) {
    let folder = host.snap_common().join("etc/launcher");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    host.shell(&format!("touch -d '1 hour ago' {}", path.display()))
        .ok();
}

fn settings(value: u32) -> String {
    format!("version: 0.1.0\nextraEtcdArgs: {{--a: {value}}}\n")
}

fn applied(name: &str) -> String {
    format!("the launch configuration `{name}` is applied")
}

/// Waits until the log holds a text so many times.
fn wait_for_count(agent: &Agent, text: &str, count: usize) {
    agent.wait_until(text, |log| log.matches(text).count() >= count);
}

#[test]
fn each_content_of_a_file_is_applied_once_for_as_long_as_the_file_is_there() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    put(n1, "a.yaml", &settings(1));
    put(n1, "b.yaml.applied", &settings(9));
    put(n1, ".c.yaml", &settings(9));
    let agent = n1.agent();
    agent.wait_for(&applied("a.yaml"));
    assert!(n1.read("args/etcd").contains("--a=1\n"));
    // One that other programs see to is none; and nothing happens at the next look.
    put(n1, "b.yaml", &settings(2));
    agent.wait_for(&applied("b.yaml"));
    assert!(n1.read("args/etcd").contains("--a=2\n"));
    assert_eq!(agent.log().matches(&applied("a.yaml")).count(), 1);
    agent.signal(Signal::SIGTERM);
    agent.ends();

    // Another agent knows it too. What comes back is new.
    fs::remove_file(n1.snap_common().join("etc/launcher/b.yaml")).unwrap();
    let agent = n1.agent();
    put(n1, "c.yaml", "version: 0.1.0\n");
    agent.wait_for(&applied("c.yaml"));
    put(n1, "b.yaml", &settings(2));
    put(n1, "a.yaml", &settings(3));
    wait_for_count(&agent, &applied("b.yaml"), 1);
    assert!(n1.read("args/etcd").contains("--a=2\n"), "b comes after a");
    let log = agent.log();
    assert_eq!(log.matches(&applied("a.yaml")).count(), 1, "{log}");
    let restart = "snapctl restart microk8s.daemon-etcd";
    let calls = n1.stand_ins.calls();
    let restarts = calls.iter().filter(|call| *call == restart).count();
    assert_eq!(restarts, 4, "{calls:?}");
}

#[test]
fn a_file_that_fails_is_logged_once_a_reason_and_applied_when_the_reason_has_gone() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let before = n2.snapshot();
    let text = format!(
        "version: 0.1.0\nx-new: 1\njoin: {{url: '10.99.0.11:25000/{TOKEN}', worker: true}}\npersistentClusterToken: {TOKEN}\n"
    );
    put(n2, "join.yaml", &text);
    put(n2, "wrong.yaml", "version: 0.1.0\nextraSANs: {}\n");
    let readable = n2.snap_common().join("etc/launcher/join.yaml");
    fs::set_permissions(readable, fs::Permissions::from_mode(0o644)).unwrap();
    let agent = n2.agent();
    // The contacted node is not there, and then does not know the token.
    let failed = "`join.yaml` is not applied, and is tried again";
    wait_for_count(&agent, failed, 1);
    let contacted = n1.agent();
    wait_for_count(&agent, failed, 2);
    assert_eq!(n2.snapshot(), before);
    contacted.wait_for("refused");
    let log = agent.log();
    assert_eq!(
        log.matches("`wrong.yaml` is not applied").count(),
        1,
        "{log}"
    );
    assert!(log.contains("at line 2"), "{log}");
    assert_eq!(log.matches("`x-new` is not known").count(), 1, "{log}");
    assert!(
        log.contains("`join.yaml` holds a token, and every user can read it"),
        "{log}"
    );
    n1.shell(&format!(
        "microk8s add-node --token {TOKEN} --token-ttl 600"
    ))
    .ok();
    agent.wait_for(&applied("join.yaml"));
    assert!(n2.path("var/lock/clustered.lock").exists());
    for log in [agent.log(), contacted.log()] {
        assert!(!log.contains(TOKEN), "{log}");
    }
}

#[test]
fn a_file_whose_agent_is_killed_is_undone_and_applied_by_the_next_one() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    put(n1, "a.yaml", &settings(1));
    let service = "microk8s.daemon-etcd";
    n1.stand_ins.kill_caller("restart", service);
    // It may be killed before it serves.
    Agent::spawn(n1, &[]).was_killed();
    assert_ne!(n1.snapshot(), before);
    n1.stand_ins.repair_services();
    let agent = n1.agent();
    let log = agent.log();
    assert!(log.contains("the node is as it was before it"), "{log}");
    agent.wait_for(&applied("a.yaml"));
    assert!(n1.read("args/etcd").contains("--a=1\n"));
}

#[test]
fn an_agent_that_is_told_to_does_not_look() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    put(n1, "a.yaml", &settings(1));
    let agent = Agent::start(n1, &["--launch-configurations-enable=false"]);
    agent.wait_for("launch configurations are not looked for");
    agent.signal(Signal::SIGTERM);
    let (_, log) = agent.ends();
    assert!(!log.contains("a.yaml"), "{log}");
    let agent = Agent::start(n1, &["-launch-configurations-interval", "1s"]);
    agent.wait_for("every 5 seconds, not more often");
    agent.wait_for(&applied("a.yaml"));
}
