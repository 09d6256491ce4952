//! `microk8s dev-cluster`: the first thing that a newcomer runs, in a network of its own so that
//! several can run at once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::program::program;
use crate::lab::skip;

/// A script in a namespace where nothing but the loopback is, as root of that namespace. It finds
/// the program as `$0`.
pub fn in_network_of_its_own(script: &str, arguments: &[&str]) -> Option<Command> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--net", "--map-root-user", "--user"]);
        command
    };
    let possible = unshare()
        .args(["ip", "link"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        skip("no network namespaces for this user, or no iproute2");
        return None;
    }
    let mut command = unshare();
    command.args(["sh", "-c", script]).arg(program());
    command.args(arguments);
    // A node of this machine is none of the cluster's business.
    for variable in ["SNAP", "SNAP_DATA", "SNAP_COMMON", "MICROK8S_NODE_DIR"] {
        command.env_remove(variable);
    }
    Some(command)
}

/// The program, to be run.
fn command(arguments: &[&str]) -> Option<Command> {
    let script = "ip link set lo up && exec \"$0\" dev-cluster \"$@\"";
    in_network_of_its_own(script, arguments)
}

/// Runs the program to its end.
fn dev_cluster(arguments: &[&str]) -> Option<Output> {
    Some(command(arguments)?.output().unwrap())
}

pub fn is_dqlite_installed() -> bool {
    Command::new("sh")
        .args(["-c", "command -v dqlite-demo && command -v dqlite"])
        .output()
        .is_ok_and(|output| output.status.success())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn one_control_plane_and_two_workers_form_a_cluster_with_nothing_but_this_program() {
    let Some(output) = dev_cluster(&["--once"]) else {
        return;
    };
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.matches("Successfully joined the cluster.\n").count(), 2);
    let list = out.rsplit("microk8s nodes\n").next().unwrap();
    assert_eq!(
        list,
        "NAME  ADDRESS    ROLE\n\
         n1    127.0.0.1  control-plane\n\
         n2    127.0.0.2  worker\n\
         n3    127.0.0.3  worker\n"
    );
}

#[test]
fn three_control_planes_end_with_three_members_in_a_real_dqlite() {
    if !is_dqlite_installed() {
        let Some(output) = dev_cluster(&["--control-planes", "3", "--once"]) else {
            return;
        };
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("apt-get install go-dqlite"));
        skip("Debian's package go-dqlite is not installed");
        return;
    }
    let Some(output) = dev_cluster(&["--control-planes", "3", "--workers", "0", "--once"]) else {
        return;
    };
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let members: Vec<&str> = out
        .rsplit(".cluster\n")
        .next()
        .unwrap()
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .collect();
    assert_eq!(
        members,
        ["127.0.0.1:19001", "127.0.0.2:19001", "127.0.0.3:19001"]
    );
}

/// Two agents with a real dqlite each; the second joins the first, and is ended while its
/// services change, then joins in peace. A join that is quicker than that is left, and tried again.
const JOIN_TWICE: &str = r#"
set -eu
ip link set lo up
here=$(mktemp -d)
for n in 1 2; do
    "$0" agent --node-dir "$here/n$n" --node-name "n$n" --bind "127.0.0.$n:25000" \
        --datastore-demo 2> "$here/log$n" &
    eval "agent$n=$!"
done
trap 'kill $agent1 $agent2; wait; rm -rf "$here"' EXIT
for n in 1 2; do
    until [ -S "$here/n$n/common/run/cluster-agent.sock" ]; do
        kill -0 "$agent1" && kill -0 "$agent2" && sleep 0.05
    done
done
on() { MICROK8S_NODE_DIR="$here/n$1"; export MICROK8S_NODE_DIR; shift; "$@"; }
issue() { connection=$(on 1 "$0" add-node --format short | sed 's/^microk8s join //'); }
join() {
    MICROK8S_NODE_DIR="$here/n2" "$0" join "$connection" --format json > "$here/said" 2>&1 &
    join=$!
    if [ "$1" = ended ]; then
        until grep -q '"services"' "$here/said" || ! kill -0 "$join" 2> "$here/none"; do sleep 0.01; done
        kill "$join" 2> "$here/none" || true
    fi
    code=0; wait "$join" || code=$?
    [ "$code" -le 128 ] || code=ended
}
members() { echo $(dqlite -s 127.0.0.1:19001 k8s .cluster | cut -d '|' -f 2); }
tell() { echo "exit $code, members: $(members)"; }
issue
for try in $(seq 20); do
    join ended
    [ "$code" = 0 ] || break
    on 2 "$0" leave > "$here/said" 2>&1
    issue
done
# The agent takes the join back after its command has ended.
for look in $(seq 600); do
    [ "$(members)" != 127.0.0.1:19001 ] || break
    sleep 0.05
done
tell
join patiently
tell
"#;

#[test]
fn a_control_plane_join_that_fails_leaves_no_trace_in_a_real_dqlite_and_its_token_usable() {
    if !is_dqlite_installed() {
        return skip("Debian's package go-dqlite is not installed");
    }
    let Some(mut script) = in_network_of_its_own(JOIN_TWICE, &[]) else {
        return;
    };
    let output = script.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        out,
        "exit ended, members: 127.0.0.1:19001\n\
         exit 0, members: 127.0.0.1:19001 127.0.0.2:19001\n",
        "{err}"
    );
}

/// The processes whose command line names this folder.
fn users_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| text(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

#[test]
fn a_signal_leaves_no_agent_and_no_folder_behind_whenever_it_comes() {
    for (until, code, signals) in [
        ("Starting ", 1, [Signal::SIGTERM, Signal::SIGINT]),
        ("It runs until ", 0, [Signal::SIGTERM, Signal::SIGHUP]),
    ] {
        for signal in signals {
            let folder = tempfile::tempdir().unwrap();
            let Some(mut command) = command(&["--workers", "1"]) else {
                return;
            };
            let mut child = command
                .env("TMPDIR", folder.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.any(|line| line.unwrap().starts_with(until)));
            // unshare and sh have become the program.
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
            let rest = lines.map_while(Result::ok).collect::<Vec<_>>().join("\n");
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(code), "{until}{signal}: {rest}");
            assert_eq!(users_of(folder.path()), [""; 0], "{until}{signal}");
            let left = std::fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 0, "{until}{signal}");
        }
    }
}

#[test]
fn a_machine_without_a_node_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("n1");
    for arguments in [&["add-node"] as &[&str], &["join", "a"], &["leave"]] {
        let output = Command::new(program())
            .args(arguments)
            .env_clear()
            .env("MICROK8S_NODE_DIR", &directory)
            .output()
            .unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {err}");
        let expected = format!("error: there is no node in {}", directory.display());
        assert!(err.starts_with(&expected), "{arguments:?}: {err}");
        assert!(!directory.exists(), "{arguments:?}");
    }
}
