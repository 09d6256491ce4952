//! The clock of a node is put forward or back by hours while tokens are in use.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compat::requests::curl;
use crate::lab::agent::Agent;
use crate::lab::{Host, Lab, skip};

const CLOCK: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";
const HOUR: i64 = 3600;
/// As long as a use is kept for a node of which nothing is heard, and a little more.
const LEASE: i64 = 15 * 60 + 5;

/// An agent with a clock of its own.
struct Clocked {
    agent: Agent,
    file: PathBuf,
}

impl Clocked {
    fn start(host: &Host) -> Option<Self> {
        if !Path::new(CLOCK).exists() {
            skip("Debian's package libfaketime is not installed");
            return None;
        }
        let file = host.scratch().join("clock");
        fs::write(&file, "+0").unwrap();
        let preload = format!("LD_PRELOAD={CLOCK}");
        let path = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
        // The clock by which programs wait is not the one that is put forward and back.
        let options = ["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
        let words = [
            &["env", &preload, &path],
            &options[..],
            &["microk8s", "agent"],
        ]
        .concat();
        let agent = Agent::start_as(host, &words);
        Some(Self { agent, file })
    }

    /// The agent's clock differs from that of the machine by so many seconds from now on.
    fn is_off_by(&self, seconds: i64) {
        fs::write(&self.file, format!("{seconds:+}")).unwrap();
    }
}

fn issue(host: &Host, options: &str) -> String {
    host.shell(&format!("microk8s add-node --format token {options}"))
        .ok()
        .trim()
        .to_owned()
}

/// The reason for which the token does not admit this host; nothing when it does.
fn refusal(host: &Host, token: &str, role: &str) -> Option<String> {
    let body = serde_json::json!({
        "token": token, "hostname": host.name, "port": "25000", "worker": role,
        "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
    });
    let answer = curl(host, &["-X", "POST", JOIN], &body.to_string());
    if answer.status == 200 {
        return None;
    }
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    Some(body["reason"].as_str().unwrap_or_default().to_owned())
}

const WORKER: &str = "as-worker";

#[test]
fn a_clock_that_is_put_back_by_hours_costs_no_token_and_makes_none_live_longer() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let Some(clock) = Clocked::start(n1) else {
        return;
    };
    let (pending, silent) = (issue(n1, ""), issue(n1, ""));
    let timed = issue(n1, "--token-ttl 600");
    // Its end is noticed by a sweep that knows the new time.
    issue(n1, "--token-ttl 2");
    assert_eq!(refusal(n2, &pending, WORKER), None);
    assert_eq!(refusal(n3, &silent, WORKER), None);
    clock.is_off_by(-5 * HOUR);
    // The use is still that node's, and no other's.
    assert_eq!(refusal(n3, &pending, WORKER).as_deref(), Some("in-use"));
    assert_eq!(refusal(n2, &pending, WORKER), None);
    assert_eq!(refusal(n2, &timed, WORKER), None);
    clock.agent.wait_for("event=\"expired\"");
    clock.is_off_by(-5 * HOUR + 605);
    assert_eq!(refusal(n3, &timed, WORKER).as_deref(), Some("expired"));
    clock.is_off_by(-5 * HOUR + LEASE + 60);
    assert_eq!(refusal(n2, &silent, WORKER), None, "nothing came of it");
    // A real join, certificates included, with the token of the node that tried before.
    clock.is_off_by(-5 * HOUR);
    n2.shell(&format!(
        "microk8s join 10.99.0.11:25000/{pending} --worker"
    ))
    .ok();
}

#[test]
fn a_clock_that_is_put_forward_by_hours_ends_what_hours_end_and_costs_no_token_for_ever() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let Some(clock) = Clocked::start(n1) else {
        return;
    };
    let pending = issue(n1, "");
    let (short, long) = (issue(n1, "--token-ttl 600"), issue(n1, "--token-ttl 36000"));
    assert_eq!(refusal(n2, &pending, WORKER), None);
    clock.is_off_by(5 * HOUR);
    assert_eq!(refusal(n2, &short, WORKER).as_deref(), Some("expired"));
    assert_eq!(refusal(n2, &long, WORKER), None);
    assert_eq!(refusal(n2, &pending, WORKER), None);
    assert_eq!(refusal(n3, &pending, WORKER).as_deref(), Some("in-use"));
    // Put right again, it has changed nothing for good.
    clock.is_off_by(0);
    assert_eq!(refusal(n3, &short, WORKER), None);
    assert_eq!(refusal(n3, &pending, WORKER).as_deref(), Some("in-use"));
    n2.shell(&format!(
        "microk8s join 10.99.0.11:25000/{pending} --worker"
    ))
    .ok();
}
