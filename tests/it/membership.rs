//! Joins that no recording shows: members that come again, settings of their own,
//! and what must be true before a node is called a member.

use std::time::Duration;

use crate::compat::requests::curl_line;
use crate::lab::kubernetes::{Authorization, Kubernetes};
use crate::lab::program::PROGRAM_VARIABLE;
use crate::lab::{Host, Lab, network};

const MEMBER: &str =
    "Contacting cluster at 10.99.0.11\nThis node is already a member of the cluster.\n";

/// Both ways to join: in the process of the command, and through an agent on the joining node.
fn both_ways(hosts: &[&str], test: impl Fn(&Lab)) {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(hosts) else {
            return;
        };
        let _agents: Vec<_> = lab
            .hosts()
            .iter()
            .filter(|host| through_agent || host.name == "n1")
            .map(Host::agent)
            .collect();
        test(&lab);
    }
}

#[test]
fn a_member_that_joins_again_is_told_so_and_nothing_changes_anywhere() {
    for (first, again, warns) in [
        ("--worker", "--worker", false),
        ("", "", false),
        ("--worker", "", true),
        ("", "--worker", true),
    ] {
        both_ways(&["n1", "n2", "n3"], |lab| {
            let (n1, n2) = (lab.host("n1"), lab.host("n2"));
            n2.shell(&format!("{} {first}", n1.join_line())).ok();
            n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
            let line = n1.join_line();
            let before = (n1.snapshot(), n2.snapshot());
            n2.stand_ins.forget_calls();
            let output = n2.shell(&format!("{line} {again}"));
            assert_eq!(
                (output.code, output.stdout.as_str()),
                (Some(0), MEMBER),
                "{output:?}"
            );
            assert_eq!(output.stderr.starts_with("warning: "), warns, "{output:?}");
            assert_eq!(
                output.stderr.lines().count(),
                usize::from(warns),
                "{output:?}"
            );
            assert!(before == (n1.snapshot(), n2.snapshot()));
            assert!(
                n2.stand_ins
                    .calls()
                    .iter()
                    .all(|call| call.starts_with("dqlite ")),
                "{:?}",
                n2.stand_ins.calls()
            );
            // The token was not touched.
            lab.host("n3").shell(&format!("{line} --worker")).ok();
        });
    }
}

/// A join and its dry run of a node that was a member: both end with this code and say this, the node
/// stays as it is, and so does the token.
#[track_caller]
fn assert_refused(host: &Host, line: &str, code: i32, says: &str) {
    let before = host.snapshot();
    let joined = host.shell(line);
    assert_eq!(joined.code, Some(code), "{joined:?}");
    assert!(joined.stderr.contains(says), "{joined:?}");
    assert!(
        joined.stderr.contains("run `microk8s leave` on"),
        "{joined:?}"
    );
    let dry = host.shell(&format!("{line} --dry-run"));
    assert_eq!(dry.code, Some(code), "{dry:?}");
    assert!(dry.stdout.contains(says), "{dry:?}");
    assert!(before == host.snapshot());
}

#[test]
fn a_node_that_its_cluster_does_not_list_any_more_is_told_to_leave_and_its_token_stays() {
    for role in ["--worker", ""] {
        both_ways(&["n1", "n2"], |lab| {
            let (n1, n2) = (lab.host("n1"), lab.host("n2"));
            n2.shell(&format!("{} {role}", n1.join_line())).ok();
            n2.stand_ins.dqlite_lists(&["10.99.0.11:19001"]);
            if !role.is_empty() {
                n1.shell("microk8s remove-node 10.99.0.12 --force").ok();
            }
            let line = format!("{} {role}", n1.join_line());
            assert_refused(n2, &line, 9, "which does not list it any more");
            n2.stand_ins.list_members();
            n2.shell("microk8s leave").ok();
            n1.shell("microk8s remove-node 10.99.0.12 --force").ok();
            let members = "- Address: 10.99.0.11:19001\n  ID: 1\n  Role: 0\n";
            n1.write("var/kubernetes/backend/cluster.yaml", members, 0o660);
            n2.shell(&line).ok();
        });
    }
}

#[test]
fn a_member_whose_datastore_is_silent_is_one_when_the_contacted_node_says_so_and_else_unknown() {
    both_ways(&["n1", "n2"], |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        n2.shell(&n1.join_line()).ok();
        let members = n2.read("var/kubernetes/backend/cluster.yaml");
        n1.write("var/kubernetes/backend/cluster.yaml", &members, 0o660);
        n2.stand_ins.fail_dqlite();
        let line = n1.join_line();
        let output = n2.shell(&line);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (Some(0), MEMBER),
            "{output:?}"
        );
        n1.stand_ins.fail_dqlite();
        assert_refused(
            n2,
            &line,
            9,
            "10.99.0.11 cannot tell whether it still is one",
        );
        n1.stand_ins.repair_dqlite();
        n1.stand_ins.dqlite_lists(&["10.99.0.11:19001"]);
        assert_refused(n2, &line, 9, "which does not list it any more");
    });
}

#[test]
fn a_member_may_join_again_with_the_token_that_it_has_used() {
    for role in ["--worker", ""] {
        both_ways(&["n1", "n2", "n3"], |lab| {
            let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
            let line = format!("{} {role}", n1.join_line());
            n2.shell(&line).ok();
            // Only the contacted node can tell.
            n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
            let members = n2.read("var/kubernetes/backend/cluster.yaml");
            n1.write("var/kubernetes/backend/cluster.yaml", &members, 0o660);
            n2.stand_ins.fail_dqlite();
            let before = n2.snapshot();
            let output = n2.shell(&line);
            let said = (output.code, output.stdout.as_str());
            assert_eq!(said, (Some(0), MEMBER), "{output:?}");
            assert!(before == n2.snapshot());
            assert_eq!(n3.shell(&line).code, Some(6), "the token stays used");
        });
    }
}

#[test]
fn a_worker_whose_control_plane_has_another_address_is_set_to_it() {
    both_ways(&["n1", "n2", "n3"], |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        n2.shell(&format!("{} --worker", n1.join_line())).ok();
        n1.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
        let provider = "args/traefik/provider.yaml";
        let (is, was) = ("address: 10.99.0.11:16443", "address: 10.99.0.77:16443");
        let good = n2.read(provider);
        n2.write(provider, &good.replace(is, was), 0o660);
        let kubeconfig = n2.read("credentials/proxy.config");
        let named = kubeconfig.replace("127.0.0.1:16443", "10.99.0.77:16443");
        n2.write("credentials/proxy.config", &named, 0o600);

        let line = format!("{} --worker", n1.join_line());
        let dry = n2.shell(&format!("{line} --dry-run"));
        assert_eq!(dry.code, Some(0), "{dry:?}");
        assert!(
            dry.stdout
                .contains("the join would set it to 10.99.0.11:16443"),
            "{dry:?}"
        );
        assert!(n2.read(provider).contains(was));

        let output = n2.shell(&line);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (Some(0), MEMBER),
            "{output:?}"
        );
        assert!(
            output.stderr.contains("it is set to 10.99.0.11:16443 now"),
            "{output:?}"
        );
        assert_eq!(n2.read(provider), good);
        let kubeconfig = n2.read("credentials/proxy.config");
        assert!(
            kubeconfig.contains("https://10.99.0.11:16443"),
            "{kubeconfig}"
        );
        let calls = n2.stand_ins.calls();
        let restarted = calls
            .iter()
            .rev()
            .find(|call| call.contains("restart microk8s.daemon-apiserver-proxy"));
        assert!(restarted.is_some(), "{calls:#?}");

        // Nothing is left to do, and the token is unused.
        let again = n2.shell(&line);
        assert_eq!(
            (again.code, again.stderr.as_str()),
            (Some(0), ""),
            "{again:?}"
        );
        lab.host("n3").shell(&line).ok();
    });
}

/// The node's own API server decides, whatever becomes of the token.
#[test]
fn a_worker_is_a_member_as_long_as_a_real_api_server_knows_it_and_its_certificate() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let Some(kubernetes) = Kubernetes::start(n1, Authorization::NodeAndRbac) else {
        return;
    };
    kubernetes.register(n1).ok();
    let _agents = [n1.agent(), n2.agent()];
    let line = format!("{} --worker", n1.join_line());
    network::forward(n2, "127.0.0.1:16443", "10.99.0.11:16443");
    n2.shell(&line).ok();
    kubernetes.register(n2).ok();
    let before = n2.snapshot();
    // The token was used.
    let output = n2.shell(&line);
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (Some(0), MEMBER),
        "{output:?}"
    );
    assert!(before == n2.snapshot());

    kubernetes.admin(n1, &["delete", "node", "n2"]).ok();
    // The node of a worker that has joined just now would be waited for.
    n2.shell("touch -d '2 minutes ago' $SNAP_DATA/var/lock/clustered.lock")
        .ok();
    let line = format!("{} --worker", n1.join_line());
    assert_refused(n2, &line, 9, "which does not list it any more");

    kubernetes.register(n2).ok();
    for file in ["kubelet.crt", "kubelet.key"] {
        let foreign = String::from_utf8(n2.fresh(&format!("certs/{file}"))).unwrap();
        n2.write(&format!("certs/{file}"), &foreign, 0o600);
    }
    assert_refused(
        n2,
        &line,
        9,
        "does not accept the certificate of this worker",
    );
}

#[test]
fn a_node_is_a_member_when_the_datastore_lists_its_very_address() {
    both_ways(&["n1", "n2"], |lab| {
        let n2 = lab.host("n2");
        let before = n2.snapshot();
        n2.stand_ins
            .dqlite_lists(&["10.99.0.11:19001", "10.99.0.120:19001", "110.99.0.12:19001"]);
        let output = n2.shell(&format!("{} --timeout 5", lab.host("n1").join_line()));
        assert_eq!(output.code, Some(8), "{output:?}");
        assert!(!output.stdout.contains("Successfully"), "{output:?}");
        assert!(before == n2.snapshot());
        // The services run as they did before, on the datastore that they had.
        let calls = n2.stand_ins.calls();
        let after = |call: &str| calls.iter().rposition(|known| known.ends_with(call));
        let back = [
            after("start microk8s.daemon-k8s-dqlite"),
            after("start microk8s.daemon-kubelite"),
        ];
        let stopped = calls
            .iter()
            .rposition(|call| call.starts_with("snapctl stop"));
        assert!(
            back.iter().all(|position| *position > stopped),
            "{calls:#?}"
        );
    });
}

/// How long a control plane join may take whose services answer at once: MicroK8s's sleeps for ten
/// seconds, whatever they do. The promise is for a release build with nothing else to do:
///
///     cargo build --release
///     MICROK8S_PROGRAM=target/release/microk8s \
///         cargo test --test it -- --nocapture a_control_plane_join_waits_for_no_clock
fn join_limit() -> Duration {
    match std::env::var_os(PROGRAM_VARIABLE) {
        Some(_) => Duration::from_millis(300),
        None => Duration::from_secs(8),
    }
}

#[test]
fn a_control_plane_join_waits_for_no_clock() {
    both_ways(&["n1", "n2"], |lab| {
        let n2 = lab.host("n2");
        // The clock runs on the host, so that what it takes to get there does not count.
        let took = || {
            let line = lab.host("n1").join_line();
            let timed =
                format!("began=$(date +%s%N) && {line} >&2 && echo $(($(date +%s%N) - began))");
            let took = n2.shell(&timed).ok();
            n2.shell("microk8s leave").ok();
            Duration::from_nanos(took.trim().parse().unwrap())
        };
        // A busy machine slows some of them down, and a clock that is waited for all.
        let is_soon = || {
            let took = took();
            println!("a control plane join took {took:?} of {:?}", join_limit());
            took < join_limit()
        };
        assert!((0..4).any(|_| is_soon()), "each of four took longer");
    });
}

#[test]
fn a_token_whose_join_failed_on_the_contacted_node_serves_the_next_try() {
    both_ways(&["n1", "n2"], |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let line = format!("{} --worker", n1.join_line());
        n1.shell("mv $SNAP_DATA/certs/ca.key $SNAP_DATA/certs/away")
            .ok();
        let before = n2.snapshot();
        let output = n2.shell(&line);
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(before == n2.snapshot());
        n1.shell("mv $SNAP_DATA/certs/away $SNAP_DATA/certs/ca.key")
            .ok();
        n2.shell(&line).ok();
    });
}

#[test]
fn a_token_whose_join_failed_on_the_joining_node_serves_its_next_try_and_no_other_node() {
    both_ways(&["n1", "n2", "n3"], |lab| {
        let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
        let line = format!("{} --worker", n1.join_line());
        n2.stand_ins
            .fail_service("restart", "microk8s.daemon-kubelite");
        let output = n2.shell(&line);
        assert_ne!(output.code, Some(0), "{output:?}");
        n2.stand_ins.repair_services();
        assert_eq!(n3.shell(&line).code, Some(6));
        n2.shell(&line).ok();
    });
}

#[test]
fn only_the_autodetection_method_of_the_pod_network_is_changed() {
    both_ways(&["n1", "n2"], |lab| {
        let yaml = "kind: DaemonSet\n\
            \x20 - name: SOMETHING_ELSE\n    value: \"first-found\"\n\
            \x20 - name: IP_AUTODETECTION_METHOD\n    value: \"first-found\"\n\
            \x20 - name: IP6_AUTODETECTION_METHOD\n    value: \"first-found\"\n\
            # first-found\n";
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        for host in [n1, n2] {
            host.write("args/cni-network/cni.yaml", yaml, 0o644);
        }
        n2.shell(&n1.join_line()).ok();
        for (host, target) in [(n1, "10.99.0.12"), (n2, "10.99.0.11")] {
            let expected = yaml.replacen(
                "IP_AUTODETECTION_METHOD\n    value: \"first-found\"",
                &format!("IP_AUTODETECTION_METHOD\n    value: \"can-reach={target}\""),
                1,
            );
            assert_eq!(host.read("args/cni-network/cni.yaml"), expected);
        }
    });
}

#[test]
fn the_pod_network_is_told_again_until_the_api_server_is_up() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    n1.stand_ins.refuse_manifests(2);
    n2.shell(&format!("{} --worker", n1.join_line())).ok();
    let calls = n1.stand_ins.calls();
    let applied = calls.iter().filter(|call| call.contains("kubectl apply"));
    assert_eq!(applied.count(), 3, "{calls:?}");
}

#[test]
fn a_worker_knows_all_control_planes_that_the_answer_names() {
    both_ways(&["n1", "n2"], |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        n1.stand_ins.api_servers(&["10.99.0.11", "10.99.0.13"]);
        n1.stand_ins
            .dqlite_lists(&["10.99.0.11:19001", "10.99.0.13:19001"]);
        n2.shell(&format!("{} --worker", n1.join_line())).ok();
        let provider = n2.read("args/traefik/provider.yaml");
        for address in ["10.99.0.11:16443", "10.99.0.13:16443"] {
            assert!(
                provider.contains(&format!("- address: {address}\n")),
                "{provider}"
            );
        }
    });
}

/// One that was a control plane node before may be listed still, by an address that the contacted
/// node does not know for one of the joining node's.
#[test]
fn a_worker_is_sent_neither_to_itself_nor_to_a_node_that_has_left() {
    both_ways(&["n1", "n2"], |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        n2.add_address("10.98.0.12/24");
        let listed = ["10.99.0.11", "10.99.0.12", "10.98.0.12"];
        let members = listed.map(|address| format!("{address}:19001"));
        n1.stand_ins
            .api_servers(&[&listed[..], &["10.99.0.13"]].concat());
        n1.stand_ins
            .dqlite_lists(&members.each_ref().map(String::as_str));
        n2.shell(&format!("{} --worker", n1.join_line())).ok();
        let provider = n2.read("args/traefik/provider.yaml");
        assert_eq!(provider.matches("- address: ").count(), 1, "{provider}");
        assert!(provider.contains("10.99.0.11:16443"), "{provider}");
    });
}

#[test]
fn kubeconfigs_follow_the_port_of_the_contacted_nodes_api_server() {
    both_ways(&["n1", "n2"], |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let arguments = n1.read("args/kube-apiserver");
        let arguments = arguments.replace("--secure-port=16443", "--secure-port=6443");
        assert!(arguments.contains("--secure-port=6443"), "{arguments}");
        n1.write("args/kube-apiserver", &arguments, 0o644);
        n2.shell(&n1.join_line()).ok();
        assert!(
            n2.read("args/kube-apiserver")
                .contains("--secure-port=6443\n")
        );
        for kubeconfig in ["client", "controller", "kubelet", "proxy", "scheduler"] {
            let text = n2.read(&format!("credentials/{kubeconfig}.config"));
            assert!(
                text.contains("server: https://127.0.0.1:6443\n"),
                "{kubeconfig}: {text}"
            );
        }
    });
}

#[test]
fn a_comment_in_the_contacted_nodes_arguments_is_no_argument() {
    for role in ["--worker", ""] {
        both_ways(&["n1", "n2"], |lab| {
            let (n1, n2) = (lab.host("n1"), lab.host("n2"));
            let arguments = n1.read("args/kubelet") + "# --node-ip is left to the kubelet\n";
            n1.write("args/kubelet", &arguments, 0o644);
            n2.shell(&format!("{} {role}", n1.join_line())).ok();
            let arguments = n2.read("args/kubelet");
            assert!(
                !arguments.lines().any(|line| line.starts_with("--node-ip")),
                "{arguments}"
            );
        });
    }
}

/// The answer to a join request of n2 as a control plane node, with one more option for curl.
fn ask(lab: &Lab, option: &str) -> (u16, serde_json::Value) {
    let token = lab
        .host("n1")
        .shell("microk8s add-node --format token")
        .ok();
    let body = serde_json::json!({
        "token": token.trim(), "hostname": "n2", "port": "25000", "worker": null,
        "can_handle_x509_auth": true, "can_handle_custom_etcd": true,
    });
    let line =
        format!("curl -k https://10.99.0.11:25000/cluster/api/v2.0/join -d '{body}' {option}");
    let answer = curl_line(lab.host("n2"), &line);
    (answer.status, serde_json::from_str(&answer.body).unwrap())
}

#[test]
fn the_host_header_decides_nothing() {
    for host in [
        "10.99.0.12:25000",
        "10.99.0.77:25000",
        "localhost",
        "evil.example:1",
    ] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let _agent = lab.host("n1").agent();
        let (status, answer) = ask(&lab, &format!("-H 'Host: {host}'"));
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["voters"], serde_json::json!(["10.99.0.11:19001"]));
    }
}

#[test]
fn a_contacted_node_whose_args_name_no_address_listens_on_the_usual_port() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n1 = lab.host("n1");
    let arguments: String = n1
        .read("args/cluster-agent")
        .lines()
        .filter(|line| !line.starts_with("--bind"))
        .map(|line| format!("{line}\n"))
        .collect();
    n1.write("args/cluster-agent", &arguments, 0o644);
    let _agent = n1.agent();
    let (status, answer) = ask(&lab, "");
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn the_log_tells_who_asked_for_what_and_why_it_was_refused() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let agent = lab.host("n1").agent();
    let unknown = format!("10.99.0.11:25000/{}", "f".repeat(32));
    lab.host("n2")
        .run(&["microk8s", "join", &unknown, "--worker"]);
    agent.wait_for("Invalid token");
    let log = agent.log();
    let line = log
        .lines()
        .find(|line| line.contains("Invalid token"))
        .unwrap();
    for part in ["10.99.0.12", "n2", "worker", "unknown"] {
        assert!(line.contains(part), "`{part}` is missing in: {line}");
    }
}

/// Each remembers the workers that it let in itself; of the others Kubernetes knows.
#[test]
fn a_control_plane_node_lists_the_workers_and_names_that_kubernetes_knows() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agents = [n1.agent(), n2.agent()];
    n2.shell(&n1.join_line()).ok();
    n2.stand_ins.kubernetes_knows("n1", Some("10.99.0.11"));
    n2.stand_ins.kubernetes_knows("n2", Some("10.99.0.12"));
    n2.stand_ins.kubernetes_knows("n3", Some("10.99.0.13"));
    n2.stand_ins.kubernetes_knows("n4", None);
    assert_eq!(
        n2.shell("microk8s nodes").ok(),
        "NAME  ADDRESS     ROLE\n\
         n2    10.99.0.12  control-plane\n\
         n1    10.99.0.11  control-plane\n\
         n3    10.99.0.13  worker\n"
    );
    n2.stand_ins.fail_kubectl();
    let list = n2.shell("microk8s nodes").ok();
    assert!(
        !list.contains("n3") && list.contains("10.99.0.11"),
        "{list}"
    );
}

/// The authorization mode comes along with a join, the admission plugins do not.
#[test]
fn a_control_plane_join_warns_of_an_api_server_that_admits_more_than_the_contacted_one() {
    both_ways(&["n1", "n2"], |lab| {
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let fresh = n1.read("args/kube-apiserver");
        let strict = fresh
            .replace("-mode=AlwaysAllow", "-mode=Node,RBAC")
            .replace("=EventRateLimit", "=EventRateLimit,NodeRestriction");
        n1.write("args/kube-apiserver", &strict, 0o644);
        let warning = "admits more than that of 10.99.0.11: `--enable-admission-plugins` lacks NodeRestriction";
        let line = n1.join_line();
        let foretold = n2.shell(&format!("{line} --dry-run"));
        assert!(foretold.stdout.contains(warning), "{foretold:?}");
        let joined = n2.shell(&line);
        assert_eq!(joined.code, Some(0), "{joined:?}");
        assert!(joined.stderr.contains(warning), "{joined:?}");
        assert!(n2.read("args/kube-apiserver").contains("-mode=Node,RBAC"));
        n2.shell("microk8s leave").ok();

        n2.write("args/kube-apiserver", &strict, 0o644);
        n1.shell("microk8s remove-node n2 --force");
        let joined = n2.shell(&n1.join_line());
        assert_eq!(joined.code, Some(0), "{joined:?}");
        assert!(!joined.stderr.contains("admits more"), "{joined:?}");
    });
}
