//! The life of an agent: one a node directory, ready when it says so, gone without a trace.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;

use crate::killed::can_kill;
use crate::lab::agent::Agent;
use crate::lab::network::MICROK8S_GID;
use crate::lab::{Host, Lab};

fn health(client: &Host, address: &str) -> String {
    client
        .shell(&format!("curl -sk --max-time 20 https://{address}/health"))
        .stdout
}

const WELL: &str = "{\"status\":\"OK\"}";

#[test]
fn an_agent_with_no_arguments_serves_where_its_args_file_says() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n1 = lab.host("n1");
    let arguments = n1
        .read("args/cluster-agent")
        .replace("0.0.0.0:25000", "10.99.0.11:25007");
    n1.write("args/cluster-agent", &arguments, 0o644);
    let _agent = n1.agent();
    assert_eq!(health(lab.host("n2"), "10.99.0.11:25007"), WELL);
}

#[test]
fn an_agent_started_as_microk8s_starts_its_own_serves() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n1 = lab.host("n1");
    let file = |name: &str| {
        n1.path(&format!("certs/{name}"))
            .to_str()
            .unwrap()
            .to_owned()
    };
    let mut words = vec!["microk8s".to_owned(), "cluster-agent".to_owned()];
    words.extend(["--bind", "0.0.0.0:25001", "--timeout", "240"].map(str::to_owned));
    words.extend([
        "--keyfile".to_owned(),
        file("server.key"),
        "--certfile".to_owned(),
        file("server.crt"),
    ]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _agent = Agent::start_as(n1, &words);
    assert_eq!(health(lab.host("n2"), "10.99.0.11:25001"), WELL);
    let line = n1.join_line();
    assert!(
        line.starts_with("microk8s join 10.99.0.11:25001/"),
        "{line}"
    );
}

#[test]
fn a_second_agent_on_the_same_node_directory_is_refused_and_the_first_goes_on() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let agent = n1.agent();
    let (status, log) = Agent::spawn(n1, &["--bind", "0.0.0.0:25002"]).ends();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("error: ") && !log.contains("panicked"),
        "{log}"
    );
    assert_eq!(health(n1, "10.99.0.11:25000"), WELL);
    n1.shell("microk8s add-node").ok();
    drop(agent);
}

#[test]
fn an_agent_whose_port_is_taken_says_which_and_ends() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _taken = crate::lab::network::listen(n1.namespace(), "0.0.0.0:25000");
    let before = n1.snapshot();
    let (status, log) = Agent::spawn(n1, &[]).ends();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("error: ") && log.contains("25000"), "{log}");
    assert!(
        !n1.socket().exists(),
        "nobody may take the node for one with an agent"
    );
    assert!(before == n1.snapshot());
}

#[test]
fn an_agent_that_was_killed_starts_again_over_its_stale_socket_with_its_tokens() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let line = n1.join_line();
    agent.kill();
    assert!(n1.socket().exists(), "a killed agent leaves its socket");
    let _agent = n1.agent();
    n1.shell("microk8s add-node").ok();
    n2.shell(&format!("{line} --worker")).ok();
}

#[test]
fn an_agent_that_is_asked_to_end_does_so_and_takes_its_socket_with_it() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let before = n1.snapshot();
    for signal in [
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
    ] {
        let agent = n1.agent();
        assert!(n1.socket().exists());
        agent.signal(signal);
        let (status, log) = agent.ends();
        assert_eq!(status.code(), Some(0), "{signal}: {log}");
        assert!(!n1.socket().exists(), "{signal}");
    }
    assert!(
        before == n1.snapshot(),
        "an agent that nobody asked for anything changes nothing"
    );
}

#[test]
fn the_socket_is_for_root_and_the_group_and_the_own_state_for_root_alone() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    let socket = fs::metadata(n1.socket()).unwrap();
    assert_eq!(
        (socket.mode() & 0o7777, socket.uid(), socket.gid()),
        (0o660, 0, MICROK8S_GID)
    );
    let folder = fs::metadata(n1.path("var/cluster-agent")).unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.uid()), (0o700, 0));
    for entry in fs::read_dir(n1.path("var/cluster-agent"))
        .unwrap()
        .flatten()
    {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", entry.path().display());
    }
}

#[test]
fn the_agent_speaks_tls_1_2_and_1_3_with_one_certificate_and_asks_for_none() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let _agent = lab.host("n1").agent();
    let n2 = lab.host("n2");
    let shake = |options: &str| {
        let line = format!(
            "openssl s_client -connect 10.99.0.11:25000 {options} -showcerts </dev/null 2>&1"
        );
        n2.shell(&line).stdout
    };
    for (options, protocol) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = shake(options);
        assert!(
            said.contains(&format!("New, {protocol}, Cipher is")),
            "{said}"
        );
        assert_eq!(said.matches("BEGIN CERTIFICATE").count(), 1, "{said}");
        assert!(
            said.contains("No client certificate CA names sent"),
            "{said}"
        );
    }
    for options in ["-tls1", "-tls1_1"] {
        // The security level of the local OpenSSL must not be what refuses them.
        let said = shake(&format!("{options} -cipher ALL:@SECLEVEL=0"));
        assert!(
            said.contains("alert") && said.contains("Cipher is (NONE)"),
            "{said}"
        );
    }
    assert!(shake("-alpn h2,http/1.1").contains("ALPN protocol: h2"));
    assert!(shake("-alpn http/1.1").contains("ALPN protocol: http/1.1"));
}

#[test]
fn a_broken_version_of_tls_is_refused_with_a_reason() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    for version in ["tls10", "tls11"] {
        let output = n1.run(&["microk8s", "agent", "--min-tls-version", version]);
        assert_eq!(output.code, Some(2), "{output:?}");
        let told = "error: TLS 1.0 and 1.1 are not secure, and not supported\nhint: give --min-tls-version tls12 or tls13\n";
        assert_eq!(output.stderr, told);
        assert!(!n1.socket().exists());
    }
    let _agent = Agent::start(n1, &["--min-tls-version", "tls13"]);
    let shake = |version: &str| {
        n1.shell(&format!(
            "openssl s_client -connect 10.99.0.11:25000 {version} </dev/null 2>&1"
        ))
    };
    assert!(shake("-tls1_3").stdout.contains("New, TLSv1.3, Cipher is"));
    assert!(shake("-tls1_2").stdout.contains("alert protocol version"));
}

#[test]
fn plain_http_at_the_port_is_told_that_it_is_not() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let _agent = lab.host("n1").agent();
    let line = "curl -s --max-time 20 http://10.99.0.11:25000/health -w ' %{http_code}'";
    let answer = lab.host("n2").shell(line);
    assert_eq!(
        answer.stdout.trim(),
        "Client sent an HTTP request to an HTTPS server.\n 400",
        "{answer:?}"
    );
}

#[test]
fn a_connection_serves_question_after_question_and_ends_when_the_client_wants_no_more() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = n1.agent();
    // With pauses between them.
    let question = "-o /dev/null https://10.99.0.11:25000/health";
    let how = "--http1.1 --rate 5/s -w '%{http_code} %{num_connects}\\n'";
    let answers = n2.shell(&format!("curl -sk {how} {question} {question} {question}"));
    assert_eq!(answers.ok(), "200 1\n200 0\n200 0\n");
    // Two at once, and a head that comes in two pieces.
    let first = "GET /health HTTP/1.1\\r\\nHost: n1\\r\\n\\r\\n";
    let last = "lth HTTP/1.1\\r\\nHost: n1\\r\\nConnection: close\\r\\n\\r\\n";
    for (said, count) in [
        (format!("printf '{first}GET /hea{last}'"), 2),
        (
            format!("printf '{first}GET /hea'; sleep 0.1; printf '{last}'"),
            2,
        ),
        ("printf 'GET /health HTTP/1.0\\r\\n\\r\\n'".to_owned(), 1),
    ] {
        let output = n2.shell(&format!(
            "{{ {said}; }} | timeout 30 openssl s_client -connect 10.99.0.11:25000 -quiet 2>/dev/null"
        ));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert_eq!(output.stdout.matches("200 OK").count(), count, "{output:?}");
        assert_eq!(output.stdout.matches(WELL).count(), count, "{output:?}");
    }
}

#[test]
fn idle_connections_of_one_host_keep_no_other_host_from_being_served() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let few_files = "ulimit -n 128; exec microk8s agent";
    let agent = Agent::start_as(n1, &["sh", "-c", few_files]);
    // Each client shakes hands and then says nothing, until its input ends with this shell.
    let idle = "exec 3<&0; for n in $(seq 100); do \
                openssl s_client -connect 10.99.0.11:25000 <&3 >/dev/null 2>&1 & done; wait";
    let mut clients = n2
        .command(&["sh", "-c", idle])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    agent.wait_for("too many connections");
    assert_eq!(health(lab.host("n3"), "10.99.0.11:25000"), WELL);
    n1.shell("microk8s add-node").ok();
    drop(clients.stdin.take());
    clients.wait().unwrap();
    let again =
        "curl -sk --retry 50 --retry-all-errors --retry-delay 0 https://10.99.0.11:25000/health";
    assert_eq!(n2.shell(again).stdout, WELL, "their seats are free again");
}

#[test]
fn what_a_killed_agent_has_left_of_a_node_directory_goes_at_the_next_start() {
    const RENAMES: &str = "rename,renameat,renameat2";
    if !can_kill() {
        return;
    }
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let above = n1.scratch().join("standalone");
    let words = ["microk8s", "agent", "--node-dir", above.to_str().unwrap()];
    let unfinished = || {
        let entries = fs::read_dir(&above).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with(".new-"))
            .collect::<Vec<_>>()
    };
    // Each file of the folder is written beside its place: the agent dies when the first takes it.
    let first = n1.shell(&format!(
        "strace -f -qq -o /dev/null -e trace={RENAMES} -e inject={RENAMES}:signal=SIGKILL {}",
        words.join(" ")
    ));
    assert_ne!(first.code, Some(0), "{first:?}");
    let begun = unfinished();
    assert_eq!(begun.len(), 1, "{begun:?}");
    assert!(above.join(&begun[0]).join("args").exists());
    let folder = above.join(".new-folder-of-mine");
    fs::create_dir(&folder).unwrap();
    let _agent = Agent::start_as(n1, &words);
    assert_eq!(unfinished(), [".new-folder-of-mine"]);
    assert!(above.join("current/certs/ca.crt").exists());
}
