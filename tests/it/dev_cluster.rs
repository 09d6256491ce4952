//! `microk8s dev-cluster`: the first thing that a newcomer runs, in a network of its own so that
//! several can run at once.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use microk8s::base::wait;

use crate::lab::daemon::Programs;
use crate::lab::program::program;
use crate::lab::{STALL_TIMEOUT, namespaces, skip};

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
    // A script that goes on for ever would keep the whole run from its end.
    namespaces::limit(&mut command, 900);
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
        kill -0 "$agent1" && kill -0 "$agent2" || exit
        sleep 0.05
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
    [ -e "$here/n2/current/var/cluster-agent/journal" ] ||
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

/// Starts the program in a network of its own, its files below `folder`.
fn start(arguments: &[&str], folder: &Path) -> Option<Child> {
    let started = command(arguments)?
        .env("TMPDIR", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    Some(started.unwrap())
}

#[test]
fn a_kill_leaves_no_process_behind_whenever_it_comes() {
    let arguments: &[&str] = if is_dqlite_installed() {
        &["--control-planes", "2", "--workers", "0"]
    } else {
        &["--workers", "1"]
    };
    for until in ["Starting ", "It runs until "] {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut child) = start(arguments, folder.path()) else {
            return;
        };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().starts_with(until)));
        child.kill().unwrap();
        child.wait().unwrap();
        let none_left = || users_of(folder.path()).is_empty().then_some(());
        wait::until(STALL_TIMEOUT, Duration::from_millis(20), none_left)
            .unwrap_or_else(|| panic!("{until}: {:?}", users_of(folder.path())));
    }
}

/// The commands to paste, in order: each stands below a comment.
fn commands_to_try(lines: &[String]) -> Vec<&str> {
    lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("# "))
        .map(|pair| pair[1].as_str())
        .collect()
}

#[test]
fn the_commands_to_try_do_what_is_said_when_they_are_pasted_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("with a blank");
    std::fs::create_dir(&folder).unwrap();
    let Some(mut child) = start(&["--workers", "0"], &folder) else {
        return;
    };
    let mut shown = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        shown.push(line.unwrap());
        if shown.last().unwrap().ends_with("/n2.log") {
            break;
        }
    }
    let mut commands: Vec<String> = commands_to_try(&shown)
        .into_iter()
        .map(str::to_owned)
        .collect();
    let on_n1 = commands[2].strip_suffix("nodes").unwrap().to_owned();
    commands.extend(["leave", "remove-node n2"].map(|command| format!("{on_n1}{command}")));
    let outcomes: Vec<(Option<i32>, String, String)> = commands
        .iter()
        .map(|line| {
            // The sockets of the agents are files, which any network reaches.
            let output = Command::new("sh").args(["-c", line]).output().unwrap();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            (output.status.code(), out, err)
        })
        .collect();
    let logs = shown.iter().filter(|line| line.ends_with(".log"));
    let logs: Vec<String> = logs
        .map(|log| std::fs::read_to_string(log.trim_start()).unwrap())
        .collect();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());

    let [fails, retry, nodes, leave, rejoin, stays, removed] = &outcomes[..] else {
        panic!("{shown:#?}");
    };
    assert_eq!(fails.0, Some(9), "{fails:?}");
    let hint = "hint: add `--worker` to join as a worker; the token can still be used";
    assert!(fails.2.contains(hint), "{fails:?}");
    for joins in [retry, rejoin] {
        assert_eq!(joins.0, Some(0), "{joins:?}");
        assert!(joins.1.contains("Successfully joined the cluster."));
    }
    assert!(nodes.1.contains("\nn2    127.0.0.2  worker\n"), "{nodes:?}");
    assert_eq!(leave.0, Some(0), "{leave:?}");
    // Its workers would have no control plane.
    assert_eq!(stays.0, Some(3), "{stays:?}");
    assert!(stays.2.contains("the only control plane node"), "{stays:?}");
    // There is no Kubernetes that knows whether the node runs.
    assert_eq!(removed.0, Some(0), "{removed:?}");
    assert!(
        removed.2.contains("run `microk8s leave` on it"),
        "{removed:?}"
    );
    assert_eq!(logs.len(), 2);
    assert!(logs.iter().all(|log| log.contains("listening")), "{logs:?}");
}

#[test]
fn agents_listen_where_no_other_program_does() {
    let script = r#"
ip link set lo up
"$0" agent --node-dir "$TMPDIR/other" --bind "$1" 2> "$TMPDIR/log" &
until [ -S "$TMPDIR/other/common/run/cluster-agent.sock" ]; do kill -0 $! || exit; sleep 0.05; done
"$0" dev-cluster --once --workers 1
kill $!
wait
"#;
    for (taken, expected) in [
        ("127.0.0.2:25000", ["127.0.1.1:25000", "127.0.1.2:25000"]),
        // The agent of MicroK8s listens on all addresses.
        ("0.0.0.0:25000", ["127.0.0.1:25001", "127.0.0.2:25001"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut script) = in_network_of_its_own(script, &[taken]) else {
            return;
        };
        let output = script.env("TMPDIR", folder.path()).output().unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let mut listening: Vec<&str> = out
            .lines()
            .filter_map(|line| Some(line.split_once(" listens on ")?.1))
            .collect();
        listening.sort_unstable();
        assert_eq!(listening, expected, "{out}\n{err}");
        assert!(out.contains("Successfully joined the cluster."), "{err}");
    }
}

#[test]
fn a_signal_leaves_no_agent_and_no_folder_behind_whenever_it_comes() {
    for (until, code, signals) in [
        ("Starting ", 1, [Signal::SIGTERM, Signal::SIGINT]),
        ("It runs until ", 0, [Signal::SIGTERM, Signal::SIGHUP]),
    ] {
        for signal in signals {
            let folder = tempfile::tempdir().unwrap();
            let Some(mut child) = start(&["--workers", "1"], folder.path()) else {
                return;
            };
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

/// A cluster whose tokens are in its API is formed, used and killed. One that was issued on the second
/// control plane node admits a node at the first.
const WITH_KUBERNETES: &str = r#"
set -eu
ip link set lo up
"$0" dev-cluster --kubernetes --control-planes 2 --workers 0 > "$TMPDIR/said" 2>&1 &
cluster=$!
until grep -q '^# The tokens, as Kubernetes' "$TMPDIR/said"; do kill -0 $cluster || exit; sleep 0.1; done
here=$(echo "$TMPDIR"/microk8s-dev-*)
on() { MICROK8S_NODE_DIR="$here/n$1"; export MICROK8S_NODE_DIR; shift; "$@"; }
connection=$(on 2 "$0" add-node --format short | sed 's/^microk8s join //')
at_first=$(echo "$connection" | sed 's/^127.0.0.2/127.0.0.1/; s,/[^/]*$,,')
on 3 "$0" join "$at_first" --worker | tail -n 1
for n in 1 2; do
    kubectl --kubeconfig "$here/n$n/current/credentials/client.config" --cache-dir "$TMPDIR/cache" \
        -n kube-system get secrets -o custom-columns=TYPE:.type --no-headers \
        -l app.kubernetes.io/managed-by=microk8s-cluster-agent | sort | uniq -c
    grep server: "$here/n$n/current/credentials/client.config"
done
kill -9 $cluster
for look in $(seq 600); do
    ps -eo args | grep -v grep | grep "$here" > "$TMPDIR/left" || break
    sleep 0.1
done
cat "$TMPDIR/left"
"#;

#[test]
fn control_planes_with_real_api_servers_share_their_tokens_and_a_kill_leaves_no_process_behind() {
    let program = match Programs::find() {
        Ok(programs) if is_dqlite_installed() => programs.api_server,
        Ok(_) => return skip("Debian's package go-dqlite is not installed"),
        Err(reason) => return skip(&reason),
    };
    let folder = tempfile::tempdir().unwrap();
    let Some(mut script) = in_network_of_its_own(WITH_KUBERNETES, &[]) else {
        return;
    };
    script.env("KUBE_APISERVER", program);
    let output = script.env("TMPDIR", folder.path()).output().unwrap();
    let said = std::fs::read_to_string(folder.path().join("said")).unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let lines: Vec<&str> = out.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "Successfully joined the cluster.",
            // That of the second control plane node, that which the program shows, and this one.
            "3 microk8s.io/join-token",
            "server: https://127.0.0.1:16443",
            "3 microk8s.io/join-token",
            "server: https://127.0.0.2:16443",
        ],
        "{err}\n{said}"
    );
}

#[test]
fn what_is_missing_for_an_api_server_is_named_before_anything_starts() {
    for (variable, named) in [
        (None, "is not set"),
        (Some("/no/such"), "names no file: /no/such"),
    ] {
        let Some(mut command) = command(&["--kubernetes"]) else {
            return;
        };
        command
            .env_remove("KUBE_APISERVER")
            .envs(variable.map(|path| ("KUBE_APISERVER", path)));
        let output = command.output().unwrap();
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{err}");
        let is_etcd_missing = err.contains("apt-get install etcd-server");
        assert!(
            is_etcd_missing || err.contains(named) && err.contains("hint: download"),
            "{err}"
        );
        assert_eq!(text(&output.stdout), "");
    }
}
