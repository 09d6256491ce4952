//! Joins that fail for what surrounds the node: the failed stage is named, the node is as it was,
//! and the same command succeeds once the cause is cured.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use microk8s::base::wait;

use crate::lab::peer::{Peer, Reply, Speaks};
use crate::lab::small_disk::SmallDisk;
use crate::lab::snapshot::Snapshot;
use crate::lab::stopped_join::StoppedJoin;
use crate::lab::{Host, Lab, Output, STALL_TIMEOUT};

const PROXY: &str = "microk8s.daemon-apiserver-proxy";

/// How a node joins, and whether through an agent of its own.
const ROLES_AND_WAYS: [(&str, bool); 4] = [
    ("--worker", false),
    ("--worker", true),
    ("", false),
    ("", true),
];

/// Both ways to join: in the process of the command, and through an agent on the joining node. The
/// agent of the contacted node runs in both.
fn both_ways(test: impl Fn(&Lab)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let n2 = lab.host("n2");
        let _agents = (lab.host("n1").agent(), through_agent.then(|| n2.agent()));
        test(&lab);
    }
}

/// The join failed in this stage with this code, says so, and left nothing behind.
#[track_caller]
fn assert_failed(output: &Output, host: &Host, before: &Snapshot, stage: &str, code: i32) {
    assert_eq!(output.code, Some(code), "{output:?}");
    let line = format!("failed stage: {stage}; ");
    assert!(
        output.stderr.lines().any(|told| told.starts_with(&line)),
        "{output:?}"
    );
    assert!(!output.stdout.contains("Successfully"), "{output:?}");
    assert!(*before == host.snapshot(), "the node is not as it was");
    for left in ["journal", "journal.done", "unreported"] {
        let left = host.path("var/cluster-agent").join(left);
        assert!(!left.exists(), "{}", left.display());
    }
}

fn answers(status: u16) -> impl Fn(&crate::lab::peer::Request) -> Reply {
    move |_| Reply::Json(status, "{}".to_owned())
}

#[test]
fn a_worker_has_joined_when_the_api_server_answers_through_its_proxy() {
    both_ways(|lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        n2.stand_ins.service_is(PROXY, "active");
        // 403 is an answer to somebody who is known; the kubelet may not see everything.
        let server = Peer::api_server(n2, n1, n1, Speaks::Tls, answers(403));
        n2.shell(&format!("{} --worker", lab.host("n1").join_line()))
            .ok();
        let asked = server.requests();
        assert_eq!(
            (asked.len(), asked[0].path.as_str()),
            (1, "/readyz"),
            "{asked:?}"
        );
    });
}

#[test]
fn a_worker_waits_for_a_proxy_that_is_slow_to_start() {
    both_ways(|lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        n2.stand_ins.service_is(PROXY, "active");
        let line = format!("{} --worker", lab.host("n1").join_line());
        std::thread::scope(|scope| {
            let joining = scope.spawn(|| n2.shell(&line));
            // It is asked for its state when nothing listened.
            let asked = || {
                let calls = n2.stand_ins.calls();
                calls
                    .iter()
                    .any(|call| call.starts_with("snapctl services"))
                    .then_some(())
            };
            wait::until(STALL_TIMEOUT, Duration::from_millis(5), asked).unwrap();
            let _server = Peer::api_server(n2, n1, n1, Speaks::Tls, answers(200));
            joining.join().unwrap().ok();
        });
    });
}

#[test]
fn a_worker_has_not_joined_when_no_api_server_of_the_cluster_answers_in_time() {
    type Start = fn(&Lab) -> Option<Peer>;
    let cases: [(&str, &str, Start); 5] = [
        ("nothing listens", "nothing listens", |_| None),
        ("silent", "did not answer in time", |lab| {
            let (n1, n2) = (lab.host("n1"), lab.host("n2"));
            Some(Peer::api_server(n2, n1, n1, Speaks::Nothing, answers(200)))
        }),
        ("foreign", "TLS with 127.0.0.1:16443 failed", |lab| {
            let (n1, n2) = (lab.host("n1"), lab.host("n2"));
            Some(Peer::api_server(n2, n2, n1, Speaks::Tls, answers(200)))
        }),
        ("knows others", "127.0.0.1:16443", |lab| {
            let (n1, n2) = (lab.host("n1"), lab.host("n2"));
            Some(Peer::api_server(n2, n1, n2, Speaks::Tls, answers(200)))
        }),
        (
            "unauthorized",
            "does not know the kubelet's certificate",
            |lab| {
                let (n1, n2) = (lab.host("n1"), lab.host("n2"));
                Some(Peer::api_server(n2, n1, n1, Speaks::Tls, answers(401)))
            },
        ),
    ];
    for (what, says, start) in cases {
        both_ways(|lab| {
            let n2 = lab.host("n2");
            n2.stand_ins.service_is(PROXY, "active");
            let line = format!("{} --worker", lab.host("n1").join_line());
            let before = n2.snapshot();
            let server = start(lab);
            let began = Instant::now();
            let output = n2.shell(&format!("{line} --timeout 6s"));
            assert!(began.elapsed() >= Duration::from_secs(5), "{what}");
            assert_failed(&output, n2, &before, "api-server", 15);
            assert!(output.stderr.contains(says), "{what}: {output:?}");
            // Once the API server answers, the token serves the same command.
            drop(server);
            let n1 = lab.host("n1");
            let _server = Peer::api_server(n2, n1, n1, Speaks::Tls, answers(200));
            n2.shell(&line).ok();
        });
    }
}

#[test]
fn a_worker_whose_proxy_does_not_run_has_not_joined_and_does_not_wait_for_it() {
    both_ways(|lab| {
        let n2 = lab.host("n2");
        n2.stand_ins.service_is(PROXY, "inactive");
        let line = format!("{} --worker", lab.host("n1").join_line());
        let before = n2.snapshot();
        let began = Instant::now();
        let output = n2.shell(&line);
        assert!(began.elapsed() < Duration::from_secs(60), "{output:?}");
        assert_failed(&output, n2, &before, "api-server", 15);
        assert!(
            output.stderr.contains("daemon-apiserver-proxy"),
            "{output:?}"
        );
    });
}

/// snapd speaks the language of its environment, and looks at two variables of it.
#[test]
fn the_service_manager_is_understood_whatever_the_language_of_the_machine() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _contacted = n1.agent();
    n2.stand_ins.service_is(PROXY, "inactive");
    let snapctl = n2.stand_ins.bin().join("snapctl");
    fs::rename(&snapctl, n2.stand_ins.bin().join("snapctl-in-english")).unwrap();
    let localised = "#!/bin/sh\ncase \"${LC_MESSAGES-}${LANG-}${LC_ALL-}${LANGUAGE-}\" in\n\
        *de*) snapctl-in-english \"$@\" | sed 's/inactive/inaktiv/' ;;\n\
        *) snapctl-in-english \"$@\" ;;\nesac\n";
    fs::write(&snapctl, localised).unwrap();
    let executable = PermissionsExt::from_mode(0o755);
    fs::set_permissions(&snapctl, executable).unwrap();
    for variables in [
        "LC_ALL=de_DE.UTF-8",
        "LC_MESSAGES=de",
        "LANG=de",
        "LANGUAGE=de",
    ] {
        let output = n2.shell(&format!("export {variables}; {} --worker", n1.join_line()));
        assert_eq!(output.code, Some(15), "{variables}: {output:?}");
        assert!(
            output.stderr.contains("daemon-apiserver-proxy"),
            "{variables}: {output:?}"
        );
    }
}

/// snapd that is busy, or has just started, is asked again.
#[test]
fn a_worker_does_not_take_a_service_manager_that_fails_once_for_no_proxy() {
    for (answers, outcome) in [
        (["fails", "inactive"], "daemon-apiserver-proxy"),
        (["fails", "fails"], "nothing listens"),
    ] {
        both_ways(|lab| {
            let n2 = lab.host("n2");
            n2.stand_ins.service_is_in_turn(PROXY, &answers);
            let line = format!("{} --worker --timeout 8s", lab.host("n1").join_line());
            let before = n2.snapshot();
            let output = n2.shell(&line);
            assert_failed(&output, n2, &before, "api-server", 15);
            assert!(output.stderr.contains(outcome), "{answers:?}: {output:?}");
        });
    }
}

/// As `systemctl` does in a container: there is nothing to wait for.
#[test]
fn a_worker_joins_where_the_service_manager_never_answers() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    n2.stand_ins.service_is_in_turn(PROXY, &["fails"]);
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
}

#[test]
fn a_service_that_fails_to_restart_fails_the_join() {
    // What does not restart with the new files does not come up again with the old ones.
    for (role, action, stage, code) in [
        ("--worker", "restart", "undo", 16),
        ("", "stop", "services", 14),
    ] {
        both_ways(|lab| {
            let n2 = lab.host("n2");
            let line = format!("{} {role}", lab.host("n1").join_line());
            let before = n2.snapshot();
            n2.stand_ins
                .fail_service(action, "microk8s.daemon-kubelite");
            let output = n2.shell(&line);
            assert_failed(&output, n2, &before, stage, code);
            assert!(output.stderr.contains("daemon-kubelite"), "{output:?}");
            // Whatever was stopped or restarted with other files runs with the old ones.
            let calls = n2.stand_ins.calls();
            assert!(
                calls
                    .iter()
                    .any(|call| call == "snapctl restart microk8s.daemon-kubelite"),
                "{calls:?}"
            );
            n2.stand_ins.repair_services();
            n2.shell(&line).ok();
        });
    }
}

#[test]
fn a_datastore_that_never_lists_the_node_fails_the_join_when_the_time_is_over() {
    both_ways(|lab| {
        let n2 = lab.host("n2");
        let line = lab.host("n1").join_line();
        let before = n2.snapshot();
        n2.stand_ins.dqlite_lists(&["10.99.0.11:19001"]);
        let began = Instant::now();
        let output = n2.shell(&format!("{line} --timeout 5s"));
        let took = began.elapsed().as_secs();
        assert!((5..60).contains(&took), "{took} s");
        assert_failed(&output, n2, &before, "datastore", 8);
        n2.stand_ins.list_members();
        n2.shell(&line).ok();
    });
}

#[test]
fn the_contacted_node_dying_between_the_answer_and_the_signing_fails_the_join() {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let agent = n1.agent();
        let _own = through_agent.then(|| n2.agent());
        let line = format!("{} --worker", lab.host("n1").join_line());
        let before = n2.snapshot();
        let stopped = StoppedJoin::start(n2, &line);
        agent.wait_for("outcome=\"admitted\"");
        let output = stopped.go_on_after(|| agent.kill());
        assert_failed(&output, n2, &before, "certificates", 12);
        assert!(output.stderr.contains("can help"), "{output:?}");
        assert_eq!(n2.stand_ins.calls(), [""; 0]);
        // Nobody could be told, and yet the token serves the same command.
        let _agent = n1.agent();
        n2.shell(&line).ok();
    }
}

#[test]
fn the_contacted_node_dying_before_the_answer_fails_the_join() {
    for (role, through_agent) in ROLES_AND_WAYS {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let agent = n1.agent();
        let _own = through_agent.then(|| n2.agent());
        let line = format!("{} {role}", lab.host("n1").join_line());
        let before = n2.snapshot();
        // The first node to join makes the contacted one move its datastore, which is the last
        // thing that its agent does.
        n1.stand_ins
            .kill_caller("restart", "microk8s.daemon-k8s-dqlite");
        let output = n2.shell(&line);
        agent.ends();
        // MicroK8s ends so too, with this code and text.
        assert_failed(&output, n2, &before, "contact", 1);
        assert!(
            output
                .stdout
                .contains("Please ensure the master node is reachable."),
            "{output:?}"
        );
        assert_eq!(n2.stand_ins.calls(), [""; 0]);
        n1.stand_ins.repair_services();
        let _agent = n1.agent();
        n2.shell(&line).ok();
    }
}

#[test]
fn the_token_of_a_join_that_was_killed_is_free_when_the_agent_starts_or_the_next_command_runs() {
    for (through_agent, agent_starts) in [(false, true), (true, true), (false, false)] {
        let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let agent = n1.agent();
        let own = through_agent.then(|| n2.agent());
        let line = format!("{} --worker", lab.host("n1").join_line());
        let stopped = StoppedJoin::start(n2, &line);
        agent.wait_for("outcome=\"admitted\"");
        stopped.kill(own);
        let report = n2.path("var/cluster-agent/journal/0000.json");
        let mode = fs::metadata(&report).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        if agent_starts {
            let _own = n2.agent();
            agent.wait_for("request=\"join-outcome\"");
            // Told, it has nothing of the token left.
            let gone = || (!holds(&n2.path("var/cluster-agent"), &line)).then_some(());
            wait::until(STALL_TIMEOUT, Duration::from_millis(5), gone).unwrap();
        } else {
            assert_eq!(n2.shell("microk8s leave").code, Some(1));
            assert!(!holds(&n2.path("var"), &line));
        }
        // The token is free for every node, at once.
        lab.host("n3").shell(&line).ok();
    }
}

/// Whether a file below this folder holds the token of a command.
fn holds(folder: &Path, line: &str) -> bool {
    let token = line.split('/').nth(1).unwrap().as_bytes();
    Snapshot::take(folder, &[])
        .nodes
        .values()
        .any(|node| node.bytes().windows(token.len()).any(|part| part == token))
}

/// A contacted node that does this with the request to join, and knows nothing of outcomes.
fn peer(lab: &Lab, reply: fn() -> Reply) -> Peer {
    Peer::start(lab.host("n1"), Speaks::Tls, move |request| {
        if request.path.ends_with("/outcome") {
            Reply::Json(404, "{}".to_owned())
        } else {
            reply()
        }
    })
}

/// Waits until the contacted node was asked to let n2 in and, then, told that the join failed.
fn wait_for_requests(peer: &Peer, paths: &[&str]) {
    let asked = || {
        let requests = peer.requests();
        (requests.len() >= paths.len()).then_some(requests)
    };
    let requests = wait::until(STALL_TIMEOUT, Duration::from_millis(5), asked).unwrap();
    let found: Vec<&str> = requests.iter().map(|known| known.path.as_str()).collect();
    assert_eq!(found, paths);
    if let [_, outcome] = &requests[..] {
        let body = String::from_utf8_lossy(&outcome.body);
        assert!(body.contains("\"outcome\":\"failed\""), "{body}");
    }
}

const JOIN: &str = "/cluster/api/v2.0/join";
const OUTCOME: &str = "/cluster/api/v2.0/join/outcome";

#[test]
fn a_node_that_gets_no_answer_to_its_request_says_that_it_has_not_joined() {
    type Case = (fn() -> Reply, &'static str, i32);
    let cases: [Case; 2] = [
        (|| Reply::Close, "contact", 1),
        (
            || Reply::Cut(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{".to_vec()),
            "contact",
            1,
        ),
    ];
    for (reply, stage, code) in cases {
        both_ways_alone(|lab| {
            let n2 = lab.host("n2");
            let peer = peer(lab, reply);
            let before = n2.snapshot();
            let line = format!(
                "microk8s join 10.99.0.11:25000/{} --worker",
                "a1".repeat(16)
            );
            let output = n2.shell(&line);
            assert_failed(&output, n2, &before, stage, code);
            assert!(output.stderr.contains("can help"), "{output:?}");
            wait_for_requests(&peer, &[JOIN, OUTCOME]);
        });
    }
}

#[test]
fn ctrl_c_ends_a_join_that_waits_for_an_answer_and_the_contacted_node_is_told() {
    both_ways_alone(|lab| {
        let n2 = lab.host("n2");
        let peer = peer(lab, || Reply::Silence);
        let before = n2.snapshot();
        let connection = format!("10.99.0.11:25000/{}", "a1".repeat(16));
        let mut child = n2
            .command(&["microk8s", "join", &connection])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_requests(&peer, &[JOIN]);
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
        let status = child.wait().unwrap();
        assert!(
            status.code() == Some(130) || status.signal() == Some(2),
            "{status}"
        );
        wait_for_requests(&peer, &[JOIN, OUTCOME]);
        assert!(before == n2.snapshot());
    });
}

/// [`both_ways`], with nothing on the contacted node.
fn both_ways_alone(test: impl Fn(&Lab)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let _agent = through_agent.then(|| lab.host("n2").agent());
        test(&lab);
    }
}

#[test]
fn a_full_disk_fails_the_join_at_whichever_step_it_is_met() {
    for (role, through_agent) in ROLES_AND_WAYS {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let n2 = lab.host("n2");
        let disk = SmallDisk::over(n2, &n2.snap_data(), "4m");
        let _agents = (lab.host("n1").agent(), through_agent.then(|| n2.agent()));
        if through_agent {
            n2.wait_for_database();
        }
        let line = format!("{} {role}", lab.host("n1").join_line());
        let mut failed = Vec::new();
        // From a disk on which not even the journal fits to one on which all does.
        for pages in (0..).map(|step| step * 3) {
            disk.fill_up_to(pages);
            let before = n2.snapshot();
            let output = n2.shell(&line);
            if output.code == Some(0) {
                break;
            }
            eprintln!("{pages} pages: {output:?}");
            if output.stderr.contains("daemon-k8s-dqlite") {
                // What the datastore writes when it starts has no room either.
                assert_failed(&output, n2, &before, "services", 14);
            } else {
                assert_failed(&output, n2, &before, "apply", 13);
                assert!(output.stderr.contains("No space left"), "{output:?}");
                let (_, path) = output.stderr.split_once('`').unwrap();
                failed.push(path.split_once('`').unwrap().0.to_owned());
            }
            disk.make_room();
        }
        // It was met in the journal and in files of the node, several times.
        let in_journal = |path: &String| path.contains("/journal");
        assert!(failed.iter().any(in_journal), "{failed:#?}");
        assert!(!failed.iter().all(in_journal), "{failed:#?}");
        failed.dedup();
        assert!(failed.len() > 2, "{failed:#?}");
    }
}
