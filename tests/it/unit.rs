//! The agent as a unit of a real systemd: that of a node of the snap, to the byte.

use serde_json::Value;

use crate::lab::systemd::{Machine, UNIT, unit};
use crate::lab::{Host, Lab};

/// A lab whose n1 is a machine with systemd.
fn lab() -> Option<(Lab, Machine)> {
    let lab = Lab::new(&["n1", "n2"])?;
    let machine = Machine::boot(lab.host("n1"))?;
    Some((lab, machine))
}

fn is_well(from: &Host) -> bool {
    let line = "curl -sk --max-time 5 https://10.99.0.11:25000/health";
    from.shell(line).stdout == "{\"status\":\"OK\"}"
}

#[test]
fn the_unit_is_started_when_the_agent_serves() {
    let Some((lab, machine)) = lab() else { return };
    machine.start_agent("");
    // No waiting here: `systemctl start` ends when the agent has said that it is ready.
    assert!(is_well(lab.host("n2")));
    assert_eq!(machine.property("ActiveState"), "active");
    assert!(machine.property("StatusText").starts_with("listening on"));
    assert_eq!(machine.property("Type"), "notify");
    let watchdog: u64 = machine
        .property("WatchdogTimestampMonotonic")
        .parse()
        .unwrap();
    assert!(watchdog > 0 && unit().contains("WatchdogSec="));
    let line = machine.join_line();
    lab.host("n2").shell(&format!("{line} --worker")).ok();
    machine.shell(&format!("systemctl stop {UNIT}")).ok();
    assert_eq!(machine.property("Result"), "success");
}

#[test]
fn the_journal_has_the_time_and_the_priority_of_each_line() {
    let Some((_lab, machine)) = lab() else { return };
    let arguments = "/var/snap/microk8s/current/args/cluster-agent";
    machine
        .shell(&format!("echo --of-another-version >> {arguments}"))
        .ok();
    machine.start_agent("");
    machine.join_line();
    let refused = machine.shell(&format!(
        "systemctl stop {UNIT}; echo --min-tls-version=tls10 >> {arguments}; systemctl start {UNIT}"
    ));
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let expected = [
        ("listening on", "6"),
        ("audit", "6"),
        ("--of-another-version", "4"),
        ("error: TLS 1.0", "3"),
    ];
    // What the service wrote may reach the journal later.
    let journal = machine.wait_until("the journal has the lines", || {
        let journal = machine.journal("json");
        let is_complete = expected.iter().all(|(holds, _)| journal.contains(holds));
        is_complete.then_some(journal)
    });
    let mut seen = [false; 4];
    for line in journal.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        // Of a process that has ended the journal knows no name any more.
        if entry["_TRANSPORT"] != "stdout" {
            continue;
        }
        let text = entry["MESSAGE"].as_str().unwrap();
        assert!(
            !text.contains(&entry_year(&entry)),
            "a time of its own: {text}"
        );
        assert!(!text.starts_with('<'), "{text}");
        let priority = entry["PRIORITY"].as_str().unwrap();
        for (place, (holds, wanted)) in expected.into_iter().enumerate() {
            if text.contains(holds) {
                assert_eq!(priority, wanted, "{text}");
                seen[place] = true;
            }
        }
    }
    assert_eq!(seen, [true; 4], "{journal}");
}

/// The year and the month of an entry, as a time of the log would begin.
fn entry_year(entry: &Value) -> String {
    let microseconds: i64 = entry["__REALTIME_TIMESTAMP"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let time = jiff::Timestamp::from_microsecond(microseconds).unwrap();
    time.strftime("%Y-%m-").to_string()
}

#[test]
fn an_agent_that_hangs_or_is_killed_is_started_again_with_its_tokens() {
    let Some((lab, machine)) = lab() else { return };
    // Only the times are shorter than in the unit.
    machine.start_agent("s/^WatchdogSec=.*/WatchdogSec=2/; s/^RestartSec=.*/RestartSec=0/");
    let line = machine.join_line();
    for (restarts, signal) in [("1", "STOP"), ("2", "KILL")] {
        let main = machine.property("MainPID");
        machine.shell(&format!("kill -{signal} {main}")).ok();
        machine.wait_until("restart", || {
            let is_so = machine.property("NRestarts") == restarts
                && machine.property("ActiveState") == "active";
            is_so.then_some(())
        });
        assert_ne!(machine.property("MainPID"), main);
        assert!(is_well(lab.host("n2")), "{signal}");
    }
    lab.host("n2").shell(&format!("{line} --worker")).ok();
}

#[test]
fn a_stop_in_the_middle_of_a_join_takes_the_join_back() {
    const KUBELITE: &str = "microk8s.daemon-kubelite";
    let Some((lab, machine)) = lab() else { return };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _contacted = n2.agent();
    let line = n2.join_line();
    machine.start_agent("");
    let before = n1.snapshot();
    n1.stand_ins.hold("stop", KUBELITE);
    let joined = std::thread::scope(|scope| {
        let join = scope.spawn(|| machine.shell(&line));
        machine.wait_until("service that is stopped", || n1.stand_ins.held());
        machine
            .shell(&format!("systemctl stop --no-block {UNIT}"))
            .ok();
        machine.wait_until("stop", || {
            (machine.property("ActiveState") != "active").then_some(())
        });
        n1.stand_ins.let_go("stop", KUBELITE);
        join.join().unwrap()
    });
    assert_ne!(joined.code, Some(0), "{joined:?}");
    machine.wait_until("end", || {
        (machine.property("ActiveState") == "inactive").then_some(())
    });
    assert_eq!(
        machine.property("Result"),
        "success",
        "{}",
        machine.journal("cat")
    );
    assert!(before == n1.snapshot(), "the node is not as it was");
    // The token is free again, for any node.
    machine.shell(&format!("systemctl start {UNIT}")).ok();
    machine.shell(&format!("{line} --worker")).ok();
}
