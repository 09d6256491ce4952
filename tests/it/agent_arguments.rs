//! The agent's arguments as MicroK8s and its operators write them.

use crate::lab::Lab;
use crate::lab::agent::Agent;

fn is_well(lab: &Lab, port: u16) -> bool {
    let line = format!("curl -sk --max-time 20 https://10.99.0.11:{port}/health");
    lab.host("n2").shell(&line).stdout == "{\"status\":\"OK\"}"
}

#[test]
fn the_arguments_file_is_read_as_a_shell_and_go_read_it_and_what_is_unknown_is_logged() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n1 = lab.host("n1");
    let file = "# --bind=0.0.0.0:25001\r\n--bind 0.0.0.0:25002\r\n\r\n\
        -keyfile \"${SNAP_DATA}/certs/server.key\"\r\n--certfile='$SNAP_DATA/none' # not yet\n\
        -certfile=$SNAP_DATA/certs/server.crt\n--launch-configurations-enable=false\n\
        -launch-configurations-interval 30s\n--of-another-version secret-value\n-enable-metrics=F\n\
        --timeout=1 -timeout \\\n 240\n-bind=10.99.0.11:25009";
    n1.write("args/cluster-agent", file, 0o644);
    let agent = n1.agent();
    assert!(is_well(&lab, 25009), "{}", agent.log());
    let log = agent.log();
    assert!(
        log.contains("launch configurations are not looked for"),
        "{log}"
    );
    let is_told = |line: &&str| line.contains("WARN") && line.contains("`--of-another-version`");
    assert_eq!(log.lines().filter(is_told).count(), 1, "{log}");
    assert!(!log.contains("secret-value"), "{log}");
    let line = n1.join_line();
    assert!(
        line.starts_with("microk8s join 10.99.0.11:25009/"),
        "{line}"
    );
}

#[test]
fn the_command_line_that_microk8s_gives_its_agent_starts_this_one() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let line = "microk8s cluster-agent -bind :25001 --launch-configurations-enable=false \
                -launch-configurations-interval=30s --of-another-version 7 --bind=0.0.0.0:25003";
    let words: Vec<&str> = line.split_whitespace().collect();
    let agent = Agent::start_as(lab.host("n1"), &words);
    assert!(is_well(&lab, 25003), "{}", agent.log());
    assert_eq!(agent.log().matches("WARN").count(), 1, "{}", agent.log());
}

#[test]
fn an_option_of_the_agent_that_is_typed_wrong_is_refused() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    for typed in ["--bnid=0.0.0.0:25001", "-bnid", "word"] {
        let output = n1.run(&["microk8s", "agent", typed]);
        assert_eq!(output.code, Some(2), "{output:?}");
        assert!(!n1.socket().exists());
    }
    n1.write("args/cluster-agent", "--timeout=soon\n", 0o644);
    let output = n1.run(&["microk8s", "agent"]);
    assert_eq!(output.code, Some(2), "{output:?}");
    let file = n1.path("args/cluster-agent");
    assert!(output.stderr.contains(file.to_str().unwrap()), "{output:?}");
    assert!(output.stderr.contains("--timeout"), "{output:?}");
}
