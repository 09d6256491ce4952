//! Joins that fail for what surrounds the node: the failed stage is named, the node is as it was,
//! and the same command succeeds once the cause is cured.

use std::time::{Duration, Instant};

use crate::lab::peer::{Peer, Reply, Speaks};
use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, Output};

const PROXY: &str = "microk8s.daemon-apiserver-proxy";

/// A command of n2's that joins the cluster of n1 by a new token.
fn join_line(lab: &Lab) -> String {
    let lines = lab
        .host("n1")
        .shell("microk8s add-node --format short")
        .ok();
    lines.lines().next().unwrap().to_owned()
}

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
        n2.shell(&format!("{} --worker", join_line(lab))).ok();
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
        let line = format!("{} --worker", join_line(lab));
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
            let limit = Duration::from_secs(30);
            microk8s::base::wait::until(limit, Duration::from_millis(5), asked).unwrap();
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
            let line = format!("{} --worker", join_line(lab));
            let before = n2.snapshot();
            let server = start(lab);
            let began = Instant::now();
            let output = n2.shell(&format!("{line} --timeout 2s"));
            assert!(began.elapsed() >= Duration::from_secs(2), "{what}");
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
        let line = format!("{} --worker", join_line(lab));
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
