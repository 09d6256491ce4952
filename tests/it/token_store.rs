//! Where the tokens of a cluster are kept, with a real API server for each control plane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use microk8s::base::wait;
use serde_json::{Value, json};

use crate::compat::requests::curl;
use crate::connection_strings::pass_on;
use crate::lab::agent::Agent;
use crate::lab::kubernetes::{Authorization, Kubernetes};
use crate::lab::peer::Peer;
use crate::lab::{Host, Lab, STALL_TIMEOUT, nightly};
use crate::removing::datastore;

const PAUSE: Duration = Duration::from_millis(250);
const IN_CLUSTER: &str = "tokens are kept in the cluster's API";

/// Issues so many tokens, with numbers from this one on, one after the other.
fn issue(host: &Host, first: usize, count: usize) {
    let line = format!(
        "for n in $(seq {first} {}); do microk8s add-node --token $(printf %032d $n) >/dev/null || exit 1; done",
        first + count - 1
    );
    host.shell(&line).ok();
}

/// How many tokens there are in each state, and who issued them.
fn listed(host: &Host) -> BTreeMap<(String, String), usize> {
    let text = host.shell("microk8s token list --format json").ok();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut count = BTreeMap::new();
    for token in list {
        let [state, node] =
            ["state", "issued_on"].map(|name| token[name].as_str().unwrap_or_default().to_owned());
        *count.entry((state, node)).or_default() += 1;
    }
    count
}

fn issued(number: usize) -> BTreeMap<(String, String), usize> {
    BTreeMap::from([(("issued".to_owned(), "n1".to_owned()), number)])
}

/// Status and reason of a join of a worker.
fn join(from: &Host, name: &str, to: &str, token: usize) -> (u16, String) {
    let body = json!({
        "token": format!("{token:032}"), "hostname": name, "port": "25000", "worker": "as-worker",
        "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
    });
    let url = format!("https://{to}:25000/cluster/api/v2.0/join");
    let answer = curl(from, &["-X", "POST", &url], &body.to_string());
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    (
        answer.status,
        body["reason"].as_str().unwrap_or_default().to_owned(),
    )
}

/// The Secrets of tokens, as the API server tells them.
fn secrets(kubernetes: &Kubernetes, host: &Host) -> usize {
    let selector = "app.kubernetes.io/managed-by=microk8s-cluster-agent";
    let what = ["secrets", "-n", "kube-system", "-l", selector];
    kubernetes.get(host, &what)["items"]
        .as_array()
        .unwrap()
        .len()
}

/// n2 joins n1, which has an API server, and both keep their tokens there by then. `meanwhile` runs
/// beside that.
fn add_second(
    lab: &Lab,
    kubernetes: &mut Kubernetes,
    first: &Agent,
    meanwhile: impl FnOnce() + Send,
) -> Agent {
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let line = n1.join_line();
    thread::scope(|scope| {
        scope.spawn(meanwhile);
        n2.shell(&line).ok();
        kubernetes.add(n2);
        for node in [n1, n2] {
            datastore(node, &["10.99.0.11", "10.99.0.12"]);
        }
        first.wait_for(IN_CLUSTER);
    });
    let second = n2.agent();
    second.wait_for(IN_CLUSTER);
    second
}

#[test]
fn tokens_move_to_the_clusters_api_with_the_second_control_plane_and_back_and_each_admits_one_node()
{
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    let each = nightly::number(14, 70);
    let agent = n1.agent();
    issue(n1, 0, each);
    // Others are issued while the second control plane joins, and its API server starts.
    let second = add_second(&lab, &mut kubernetes, &agent, || issue(n1, each, each));
    let moved = || (secrets(&kubernetes, n2) > 2 * each).then_some(());
    assert!(wait::until(STALL_TIMEOUT, PAUSE, moved).is_some());
    let mut all = issued(2 * each);
    for node in [n1, n2] {
        let mut found = listed(node);
        found.retain(|(state, _), _| state == "issued");
        assert_eq!(found, all, "{}", node.name);
    }
    // What one control plane issued the other one accepts, once.
    assert_eq!(join(n3, "n3", "10.99.0.12", 7).0, 200);
    let refused = join(n2, "n4", "10.99.0.11", 7);
    assert_eq!(refused, (500, "in-use".to_owned()));

    // And back, while tokens are issued.
    kubernetes.end(n2);
    drop(second);
    thread::scope(|scope| {
        scope.spawn(|| issue(n1, 2 * each, each));
        datastore(n1, &["10.99.0.11"]);
        let back = || (secrets(&kubernetes, n1) == 0).then_some(());
        assert!(wait::until(STALL_TIMEOUT, PAUSE, back).is_some());
    });
    all = issued(3 * each - 1);
    let mut found = listed(n1);
    found.retain(|(state, _), _| state == "issued");
    assert_eq!(found, all);
    for token in 0..3 * each {
        // The use of the one that was used before is its node's own.
        assert_eq!(join(n3, "n3", "10.99.0.11", token).0, 200, "{token}");
        let refused = join(n2, "n4", "10.99.0.11", token);
        assert_eq!(refused, (500, "in-use".to_owned()), "{token}");
    }
}

#[test]
fn a_worker_whose_requests_reach_one_control_plane_after_the_other_joins_the_cluster() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]).map(Arc::new) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let Some(mut kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    let agent = n1.agent();
    let _second = add_second(&lab, &mut kubernetes, &agent, || {});
    let line = n1
        .join_line()
        .replace("10.99.0.11:25000", "10.99.0.12:25001");
    let (shared, asked) = (lab.clone(), AtomicUsize::new(0));
    let front = Peer::in_front_of((n2, 25001), [n1, n2], move |request| {
        let planes = ["10.99.0.11", "10.99.0.12"];
        let to = planes[asked.fetch_add(1, Ordering::SeqCst) % planes.len()];
        pass_on(shared.host("n3"), to, request)
    });
    let joined = n3.shell(&format!("{line} --worker"));
    assert_eq!(joined.code, Some(0), "{joined:?}\n{}", agent.log());
    let paths: Vec<String> = front.requests().into_iter().map(|one| one.path).collect();
    assert_eq!(
        paths,
        [
            "/cluster/api/v2.0/join",
            "/cluster/api/v1.0/sign-cert",
            "/cluster/api/v1.0/sign-cert",
            "/cluster/api/v2.0/join/outcome",
        ]
    );
    assert!(front.connections() >= 4, "{}", front.connections());
    let used = listed(n2);
    let used: Vec<_> = used
        .iter()
        .filter(|((state, _), _)| state == "used")
        .collect();
    // That of the second control plane, and the worker's.
    assert_eq!(
        used.iter().map(|(_, count)| **count).sum::<usize>(),
        2,
        "{used:?}"
    );
}
