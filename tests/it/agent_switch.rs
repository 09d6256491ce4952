//! `microk8s agent install` and `uninstall`, on a node in the layout of MicroK8s's snap, under a real
//! systemd.
//!
//! MicroK8s's own agent is not available here. In its place is this program with a state of its own,
//! so that it knows what that agent knows: the lines of the token files, and no token that the other
//! agent keeps as a hash.

use std::thread;
use std::time::Duration;

use microk8s::base::wait;
use microk8s::model::endpoint::AGENT_PORT;

use crate::lab::systemd::{Machine, UNIT};
use crate::lab::{Host, Lab, STALL_TIMEOUT, nightly};

const STOCK: &str = "snap.microk8s.daemon-cluster-agent";
const STOCK_UNIT: &str = "[Service]
Environment=SNAP=/snap/microk8s/x1 SNAP_DATA=/var/snap/microk8s/x1
Environment=SNAP_COMMON=/var/snap/microk8s/common
BindPaths=/var/lib/stock:/var/snap/microk8s/x1/var/cluster-agent
BindPaths=/var/lib/stock-common:/var/snap/microk8s/common/cluster-agent
ExecStart=/usr/local/bin/microk8s agent --bind 0.0.0.0:25000 --socket /run/stock.sock
[Install]
WantedBy=multi-user.target
";
const UNIT_FILE: &str = "/etc/systemd/system/microk8s-cluster-agent.service";

/// A lab whose n1 is a machine of the snap, served by the agent of the snap.
fn lab() -> Option<(Lab, Machine)> {
    let lab = Lab::new(&["n1", "n2"])?;
    let machine = Machine::boot(lab.host("n1"))?;
    machine.write(
        &format!("/etc/systemd/system/{STOCK}.service"),
        STOCK_UNIT,
        0o644,
    );
    machine
        .shell(
            "cd /var/snap/microk8s; mkdir -p x1/var/cluster-agent common/cluster-agent \
             /var/lib/stock /var/lib/stock-common; systemctl daemon-reload; snap start --enable \
             microk8s.daemon-cluster-agent",
        )
        .ok();
    await_agent(&machine);
    Some((lab, machine))
}

fn await_agent(machine: &Machine) {
    machine.wait_until("listener", || {
        machine.has_socket(AGENT_PORT, "0A").then_some(())
    });
}

/// Which agents are on and run: the snap's, and this program's.
fn agents(machine: &Machine) -> [String; 2] {
    [STOCK, UNIT].map(|unit| {
        let line = format!("systemctl is-enabled {unit}; systemctl is-active {unit}");
        machine.shell(&line).stdout.replace('\n', " ")
    })
}

/// Joins as a worker, and leaves again.
fn join_and_leave(machine: &Machine, n2: &Host, line: &str) {
    n2.shell(&format!("{line} --worker")).ok();
    take_out(machine, n2);
}

fn take_out(machine: &Machine, n2: &Host) {
    n2.shell("microk8s leave").ok();
    machine.shell("microk8s remove-node n2 --force").ok();
}

/// Switches agents while the other host joins with this command.
fn switch_in_a_join(machine: &Machine, n2: &Host, line: &str, command: &str) {
    thread::scope(|scope| {
        let join = scope.spawn(|| n2.shell(&format!("{line} --worker")));
        wait::until(STALL_TIMEOUT, Duration::from_millis(1), || {
            (machine.has_socket(AGENT_PORT, "01") || join.is_finished()).then_some(())
        });
        machine.shell(command).ok();
        join.join().unwrap().ok();
    });
    take_out(machine, n2);
}

#[test]
fn agents_take_turns_while_nodes_join_and_no_token_is_lost() {
    let Some((lab, machine)) = lab() else { return };
    let n2 = lab.host("n2");
    let rounds = nightly::number(2, 10);
    let planned = machine.shell("microk8s agent install --dry-run").ok();
    assert!(planned.contains(UNIT_FILE), "{planned}");
    let snaps = ["enabled active ", "inactive "].map(str::to_owned);
    assert_eq!(agents(&machine), snaps);

    let mut kept: Option<String> = None;
    for round in 0..rounds {
        // A line of the stock tools, used in the switch to this program's agent.
        let line = machine.join_line();
        switch_in_a_join(&machine, n2, &line, "microk8s agent install");
        assert_eq!(agents(&machine), ["disabled inactive ", "enabled active "]);
        // The one of the last round, which the snap's agent did not know.
        if let Some(line) = kept.take() {
            join_and_leave(&machine, n2, &line);
        }
        // The other way, with a line that a stock tool writes while this program's agent serves.
        let issued = machine.join_line();
        let (address, rest) = issued.split_once('/').unwrap();
        let (_, fingerprint) = rest.split_once('/').unwrap();
        let token = format!("{round:032x}");
        machine
            .shell(&format!(
                "echo {token} >> /var/snap/microk8s/current/credentials/cluster-tokens.txt"
            ))
            .ok();
        let line = format!("{address}/{token}/{fingerprint}");
        switch_in_a_join(&machine, n2, &line, "microk8s agent uninstall");
        assert_eq!(agents(&machine), snaps);
        let refused = n2.shell(&format!("{issued} --worker"));
        assert!(
            refused.stdout.contains("Invalid token (500)."),
            "{refused:?}"
        );
        kept = Some(issued);
    }
    assert_ne!(machine.shell(&format!("ls {UNIT_FILE}")).code, Some(0));
    // The stock agent works after the way back.
    join_and_leave(&machine, n2, &machine.join_line());
}

#[test]
fn an_agent_that_does_not_come_up_gives_way_to_the_one_before_and_one_switch_runs_at_a_time() {
    let Some((lab, machine)) = lab() else { return };
    let snaps = agents(&machine);
    // While another command switches them nothing is done.
    let busy = machine.shell("flock /etc/systemd/system microk8s agent install");
    assert_eq!(busy.code, Some(1), "{busy:?}");
    assert!(
        busy.stderr
            .starts_with("error: another command is choosing the agent of this node\nhint: "),
        "{busy:?}"
    );
    assert_eq!(agents(&machine), snaps);
    let arguments = "/var/snap/microk8s/current/args/cluster-agent";
    machine
        .shell(&format!("echo --min-tls-version=tls10 >> {arguments}"))
        .ok();
    let failed = machine.shell("microk8s agent install");
    assert_eq!(failed.code, Some(14), "{failed:?}");
    assert!(
        failed
            .stderr
            .contains("the agent that served before serves again"),
        "{failed:?}"
    );
    assert_eq!(agents(&machine), snaps);
    await_agent(&machine);
    join_and_leave(&machine, lab.host("n2"), &machine.join_line());
}

#[test]
fn only_root_switches_agents_and_only_on_a_node_of_the_snap() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    for (line, refused) in [
        (
            "setpriv --reuid 65534 --clear-groups microk8s agent install",
            "error: only root may choose the agent of this node\nhint: run the command with sudo\n",
        ),
        (
            "env -u SNAP_DATA MICROK8S_NODE_DIR=/nowhere microk8s agent uninstall --dry-run",
            "error: there is no node of MicroK8s's snap in `/nowhere/current`\n",
        ),
    ] {
        let output = n1.shell(line);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.starts_with(refused), "{output:?}");
    }
    // The name by which MicroK8s's wrapper starts the agent takes no such word, and `--help` is no agent.
    let help = n1.shell("microk8s cluster-agent --help").ok();
    assert!(help.contains("microk8s agent"), "{help}");
    let help = n1.shell("microk8s agent uninstall --help").ok();
    assert!(help.contains("Have the snap's agent serve again"), "{help}");
}
