//! What the control plane, and Cluster API, have a node do, beyond what the recordings show.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::compat::placeholders::Placeholders;
use crate::compat::recording::Recording;
use crate::compat::requests::{Answer, curl};
use crate::lab::agent::Agent;
use crate::lab::{Host, Lab};

const CONFIGURE: &str = "https://10.99.0.11:25000/cluster/api/v1.0/configure";
const UPGRADE: &str = "https://10.99.0.11:25000/cluster/api/v1.0/upgrade";
const REMOVE: &str = "https://10.99.0.11:25000/cluster/api/v2.0/dqlite/remove";

/// n1 with the callback token `secret` and an agent; requests come from n1 itself.
fn node() -> Option<(Lab, Agent)> {
    let lab = Lab::new(&["n1"])?;
    let n1 = lab.host("n1");
    n1.write("credentials/callback-token.txt", "secret\n", 0o600);
    let agent = n1.agent();
    Some((lab, agent))
}

fn configure(n1: &Host, rest: &str) -> Answer {
    let body = format!("{{\"callback\": \"secret\", {rest}}}");
    curl(n1, &["-X", "POST", CONFIGURE], &body)
}

fn upgrade(n1: &Host, upgrade: &str, phase: &str) -> Answer {
    let body = serde_json::json!({"callback": "secret", "upgrade": upgrade, "phase": phase});
    curl(n1, &["-X", "POST", UPGRADE], &body.to_string())
}

#[test]
fn no_name_or_argument_leads_out_of_the_arguments_of_a_service() {
    let Some((lab, _agent)) = node() else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    for service in [
        "../credentials/newfile",
        "/etc/newfile",
        "kubelet/../../x",
        "kubelet\\u0000",
        "kubelet\\n",
        "cni-network/cni.yaml",
        "",
    ] {
        let rest = format!(
            "\"service\": [{{\"name\": \"kubelet\", \"arguments_update\": [{{\"--a\": \"1\"}}], \"restart\": true}}, {{\"name\": \"{service}\", \"arguments_update\": [{{\"--a\": \"1\"}}]}}]"
        );
        let answer = configure(n1, &rest);
        assert_eq!(answer.status, 400, "{service}: {}", answer.body);
        assert!(answer.body.contains("Unknown service"), "{}", answer.body);
    }
    for (key, value) in [
        ("--a", "1\\n--b=2"),
        ("--a\\n--b", "1"),
        ("--a=b", "1"),
        ("a", "1"),
        ("--", "1"),
        ("--a", "\\u0000"),
    ] {
        let rest = format!(
            "\"service\": [{{\"name\": \"kubelet\", \"arguments_update\": [{{\"{key}\": \"{value}\"}}]}}]"
        );
        let answer = configure(n1, &rest);
        assert_eq!(answer.status, 400, "{key} {value}: {}", answer.body);
    }
    for addon in ["--help", "../dns", "a/b/c", "dns\\nx", ""] {
        let rest = format!(
            "\"service\": [{{\"name\": \"etcd\", \"restart\": true}}], \"addon\": [{{\"name\": \"{addon}\", \"enable\": true}}]"
        );
        let answer = configure(n1, &rest);
        assert_eq!(answer.status, 400, "{addon}: {}", answer.body);
    }
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
    assert_eq!(n1.snapshot(), before);
}

/// The arguments of two services, and the restart of both.
const TWO: &str = r#""service": [
    {"name": "kubelet", "arguments_update": [{"--v": "9"}], "restart": true},
    {"name": "kube-proxy", "arguments_update": [{"--v": "8"}], "restart": true},
    {"name": "containerd", "arguments_remove": ["--config"], "restart": true}
]"#;

#[test]
fn the_services_of_a_request_change_together_or_not_at_all() {
    let Some((lab, agent)) = node() else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    // The arguments of the second service cannot be replaced: a folder is in the way.
    fs::remove_file(n1.path("args/kube-proxy")).unwrap();
    fs::create_dir(n1.path("args/kube-proxy")).unwrap();
    let answer = configure(n1, TWO);
    assert_eq!(answer.status, 500);
    let told = "Failed to update arguments of service \\\"kube-proxy\\\"";
    assert!(answer.body.contains(told), "{}", answer.body);
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
    fs::remove_dir(n1.path("args/kube-proxy")).unwrap();
    let text = String::from_utf8(n1.fresh("args/kube-proxy")).unwrap();
    n1.write("args/kube-proxy", &text, 0o644);
    assert_eq!(n1.snapshot(), before);

    let answer = configure(n1, TWO);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "{\"result\":\"ok\"}")
    );
    assert!(n1.read("args/kubelet").contains("--v=9\n"));
    assert!(n1.read("args/kube-proxy").contains("--v=8\n"));
    assert_eq!(
        n1.stand_ins.calls(),
        [
            "snapctl restart microk8s.daemon-kubelite",
            "snapctl restart microk8s.daemon-containerd",
        ],
        "one restart does for both parts of kubelite"
    );
    assert!(!n1.path("var/cluster-agent/journal").exists());
    let log = agent.log();
    assert!(log.contains("kubelet [--v] restart"), "{log}");
    assert!(!log.contains("secret"), "{log}");
}

#[test]
fn arguments_with_which_a_service_does_not_start_are_taken_back() {
    let Some((lab, agent)) = node() else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    n1.stand_ins
        .fail_service("restart", "microk8s.daemon-containerd");
    let answer = configure(n1, TWO);
    assert_eq!(answer.status, 500);
    let told = "Failed to restart service \\\"containerd\\\": command [snapctl restart microk8s.daemon-containerd] failed with exit code 1: exit status 1";
    let whole = format!("{{\"error\":\"{told}\"}}");
    assert_eq!(answer.body, whole);
    agent.wait_for("did not come up again");
    assert_eq!(n1.snapshot(), before);
}

const AGENT: &str = r#""service": [{"name": "cluster-agent", "arguments_update": [{"--log-level": "info"}], "restart": true}]"#;

/// The agent's restart is the end of its answers, so it begins when this one is out.
#[test]
fn the_agent_restarts_when_it_has_answered() {
    let Some((lab, agent)) = node() else { return };
    let n1 = lab.host("n1");
    n1.stand_ins
        .ask_caller_to_end("restart", "microk8s.daemon-cluster-agent");
    let answer = configure(n1, AGENT);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "{\"result\":\"ok\"}")
    );
    let (status, log) = agent.ends();
    assert_eq!(status.code(), Some(0), "{log}");
    let answered = log.find("outcome=\"done\"").unwrap();
    assert!(answered < log.find("stopping").unwrap(), "{log}");
}

#[test]
fn an_agent_with_a_unit_of_its_own_restarts_that_and_never_starts_the_snaps_beside_it() {
    for (unit, is_main, restarted) in [
        (
            "microk8s-cluster-agent.service",
            true,
            "systemctl restart --no-block -- microk8s-cluster-agent.service",
        ),
        (
            "snap.microk8s.daemon-cluster-agent.service",
            true,
            "snapctl restart microk8s.daemon-cluster-agent",
        ),
        // Something else started it by the way.
        (
            "cron.service",
            false,
            "snapctl restart microk8s.daemon-cluster-agent",
        ),
    ] {
        let Some(lab) = Lab::new(&["n1"]) else { return };
        let n1 = lab.host("n1");
        n1.write("credentials/callback-token.txt", "secret\n", 0o600);
        n1.stand_ins.install_systemctl(unit, is_main);
        let agent = n1.agent();
        assert_eq!(configure(n1, AGENT).status, 200);
        agent.wait_for("the agent is restarted");
        let calls = n1.stand_ins.calls();
        let restarts: Vec<_> = calls
            .iter()
            .filter(|call| call.contains("restart"))
            .collect();
        assert_eq!(restarts, [restarted], "{unit}");
        assert!(n1.read("args/cluster-agent").contains("--log-level=info"));
    }
}

#[test]
fn an_agent_that_is_no_service_does_not_start_the_snaps_beside_it() {
    let Some((lab, agent)) = node() else { return };
    let n1 = lab.host("n1");
    n1.stand_ins
        .service_is("microk8s.daemon-cluster-agent", "inactive");
    assert_eq!(configure(n1, AGENT).status, 200);
    agent.wait_for("was not started as a service");
    let calls = n1.stand_ins.calls();
    assert!(
        !calls.iter().any(|call| call.contains("restart")),
        "{calls:?}"
    );
}

#[test]
fn a_change_that_was_cut_off_by_a_kill_is_taken_back() {
    let Some((lab, agent)) = node() else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    n1.stand_ins
        .kill_caller("restart", "microk8s.daemon-containerd");
    let body = format!("{{\"callback\": \"secret\", {TWO}}}");
    fs::write(n1.scratch().join("body"), body).unwrap();
    let line = format!(
        "curl -sk --data-binary @{}/body {CONFIGURE}",
        n1.scratch().display()
    );
    assert_ne!(n1.shell(&line).code, Some(0), "nobody answers any more");
    drop(agent);
    assert!(n1.read("args/kubelet").contains("--v=9\n"));
    n1.stand_ins.repair_services();
    let _agent = n1.agent();
    assert_eq!(n1.snapshot(), before);
}

#[test]
fn an_upgrade_is_a_script_of_microk8s_and_no_other_file() {
    let Some((lab, _agent)) = node() else { return };
    let n1 = lab.host("n1");
    let script = |path: &str, body: &str| {
        let path = n1.snap().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let ran = n1.scratch().join("ran");
        let text = format!(
            "#!/bin/sh\necho \"$0 $SNAP_DATA\" >> {}\n{body}\n",
            ran.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let good = script("upgrade-scripts/000-good/prepare-node.sh", "exit 0");
    let bad = script(
        "upgrade-scripts/001-bad/commit-node.sh",
        "echo no >&2; exit 4",
    );
    script("other/prepare-node.sh", "exit 0");
    for name in [
        "../other",
        "000-good/../../other",
        "/other",
        "..",
        ".",
        "000-good\0",
        "",
    ] {
        let answer = upgrade(n1, name, "prepare");
        assert_eq!(answer.status, 500);
        assert!(answer.body.contains("unknown upgrade"), "{}", answer.body);
    }
    for phase in ["", "../prepare", "prepare-node.sh"] {
        let answer = upgrade(n1, "000-good", phase);
        assert!(
            answer.body.contains("unknown upgrade phase"),
            "{}",
            answer.body
        );
    }
    assert!(!n1.scratch().join("ran").exists(), "nothing ran");

    let answer = upgrade(n1, "000-good", "prepare");
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "{\"result\":\"ok\"}")
    );
    let answer = upgrade(n1, "001-bad", "commit");
    assert_eq!(answer.status, 500);
    let bad = bad.display();
    let why = format!("command [{bad}] failed with exit code 4: exit status 4");
    let told = format!(
        "Failed to run upgrade \"001-bad\" phase \"commit\": failed to execute {bad}: \"{why}\""
    );
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["error"], told);
    let data = n1.snap_data();
    let ran = fs::read_to_string(n1.scratch().join("ran")).unwrap();
    let first = format!("{} {}\n", good.display(), data.display());
    assert!(ran.starts_with(&first), "{ran}");
}

#[test]
fn a_script_that_does_not_end_is_ended_with_the_request() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    n1.write("credentials/callback-token.txt", "secret\n", 0o600);
    let folder = n1.snap().join("upgrade-scripts/slow");
    fs::create_dir_all(&folder).unwrap();
    let script = folder.join("prepare-node.sh");
    let pid = n1.scratch().join("pid");
    fs::write(
        &script,
        format!("#!/bin/sh\necho $$ > {}\nexec sleep 600\n", pid.display()),
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let agent = Agent::start(n1, &["--timeout", "1"]);
    let answer = upgrade(n1, "slow", "prepare");
    assert!([500, 503].contains(&answer.status), "{}", answer.body);
    agent.wait_for("did not end within 1 seconds");
    let pid = fs::read_to_string(pid).unwrap();
    assert!(!fs::exists(format!("/proc/{}", pid.trim())).unwrap());
    agent.signal(Signal::SIGTERM);
    agent.ends();
}

#[test]
fn cluster_api_does_not_remove_the_last_member() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    fs::create_dir_all(n1.capi().join("etc")).unwrap();
    fs::write(n1.capi().join("etc/token"), "capi-secret\n").unwrap();
    let agent = Agent::start(n1, &["--capi-dir", n1.capi().to_str().unwrap()]);
    let remove = |token: &str, endpoint: &str| {
        let header = format!("capi-auth-token: {token}");
        let body = serde_json::json!({"remove_endpoint": endpoint}).to_string();
        curl(n1, &["-X", "POST", "-H", &header, REMOVE], &body)
    };
    let answer = remove("capi-secret", "127.0.0.1:19001");
    assert_eq!(answer.status, 500);
    assert!(
        answer.body.contains("is the last member"),
        "{}",
        answer.body
    );
    // Nor does it where nobody can say whether it is the last.
    let list = "var/kubernetes/backend/cluster.yaml";
    let members = n1.read(list);
    for unreadable in ["- Address: [", ""] {
        n1.write(list, unreadable, 0o644);
        let answer = remove("capi-secret", "127.0.0.1:19001");
        assert_eq!(answer.status, 500, "{unreadable}: {}", answer.body);
        let said = "the members are not known";
        assert!(answer.body.contains(said), "{}", answer.body);
    }
    n1.remove(list);
    assert_eq!(remove("capi-secret", "127.0.0.1:19001").status, 500);
    n1.write(list, &members, 0o644);
    for endpoint in [
        "",
        "n2",
        "10.99.0.12",
        "10.99.0.12:19001 .cluster",
        "a\nb:1",
    ] {
        assert_eq!(remove("capi-secret", endpoint).status, 400, "{endpoint}");
    }
    fs::write(n1.capi().join("etc/token"), "\n").unwrap();
    assert_eq!(
        remove("", "10.99.0.12:19001").status,
        401,
        "an empty file holds no token"
    );
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
    assert_eq!(remove("wrong-secret", "10.99.0.12:19001").status, 401);
    assert!(!agent.log().contains("secret"), "{}", agent.log());
}

#[test]
fn a_member_that_the_datastore_keeps_is_told_as_recorded() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    fs::create_dir_all(n1.capi().join("etc")).unwrap();
    fs::write(n1.capi().join("etc/token"), "capi-secret\n").unwrap();
    n1.stand_ins
        .dqlite_lists(&["10.99.0.11:19001", "10.99.0.12:19001"]);
    n1.stand_ins.fail_dqlite_remove();
    let _agent = Agent::start(n1, &["--capi-dir", n1.capi().to_str().unwrap()]);
    let header = "capi-auth-token: capi-secret";
    let body = "{\"remove_endpoint\": \"10.99.0.12:19001\"}";
    let answer = curl(n1, &["-X", "POST", "-H", header, REMOVE], body);
    assert_eq!(answer.status, 500);
    let recording = Recording::load("http-dqlite-remove-fails");
    let recorded = recording.stdout(&recording.commands[0]);
    assert_eq!(Placeholders::of(&lab).hide(&answer.body), recorded);
    let removals = n1.stand_ins.calls();
    let removals = removals.iter().filter(|call| call.contains(".remove "));
    assert!(removals.count() > 1, "it is asked again");
}
