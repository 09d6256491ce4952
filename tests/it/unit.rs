//! The agent as a unit of a real systemd: the unit of the README, to the byte.

use crate::lab::Lab;
use crate::lab::systemd::Machine;

#[test]
fn the_unit_of_the_readme_starts_the_agent() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let Some(machine) = Machine::boot(lab.host("n1")) else {
        return;
    };
    machine.start_agent("");
    assert_eq!(machine.property("ActiveState"), "active");
    let journal = machine.journal("cat");
    assert!(journal.contains("listening on 0.0.0.0:25000"), "{journal}");
    let line = machine.join_line();
    lab.host("n2").shell(&format!("{line} --worker")).ok();
}
