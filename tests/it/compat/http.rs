//! The HTTP interface of the agent, request by request as recorded.

use serde_json::{Value, json};

use super::exceptions::Mode;
use super::expectation::{Expected, Moment, Observed};
use super::preconditions::GIVEN_TOKEN;
use super::recording::{Command, Recording};
use super::requests::{
    Answer, body_of, compare_answer, curl_line, learn_callback_token, put_tokens_into_the_file,
};
use super::scenario::Stage;

/// Calls a macro with the recordings of requests that were not sent over one version of HTTP alone.
macro_rules! recordings {
    ($run:path $(, $more:ident)*) => {
        crate::compat::recorded!($run:
            http_configure_addon,
            http_configure_bad_token,
            http_configure_path,
            http_configure_remove,
            http_configure_restart,
            http_configure_restart_fails,
            http_configure_update,
            http_dqlite_remove,
            http_dqlite_remove_fails,
            http_dqlite_remove_no_token_file,
            http_empty_body,
            http_empty_object,
            http_health,
            http_image_import,
            http_join_case_keys,
            http_join_check_order,
            http_join_no_content_type,
            http_join_old_client,
            http_join_port_number,
            http_join_token_spaces,
            http_join_unknown_token,
            http_join_v1_on_ha,
            http_malformed_json,
            http_sign_cert,
            http_sign_cert_bad_csr,
            http_unknown_path,
            http_upgrade,
            http_wrong_method,
            $($more,)*
        );
    };
}

mod over_http_2 {
    recordings!(run);

    fn run(name: &str) {
        super::replay(name, "--http2", "2");
    }

    #[test]
    fn every_recording_has_a_test() {
        assert_eq!(
            crate::compat::without_a_test("http-", NAMES),
            ["http-http-1.1"]
        );
    }
}

mod over_http_1_1 {
    recordings!(run, http_http_1_1);

    fn run(name: &str) {
        let name = name.replace("http-1-1", "http-1.1");
        super::replay(&name, "--http1.1", "1.1");
    }

    #[test]
    fn every_recording_has_a_test() {
        let mut missing = crate::compat::without_a_test("http-", NAMES);
        missing.retain(|name| name != "http-http-1.1");
        assert_eq!(missing, [""; 0]);
    }
}

/// The recordings speak of services that there are not, and which we refuse. With the names of two
/// that there are, all is as recorded.
mod of_known_services {
    crate::compat::recorded!(run: http_configure_remove, http_configure_update);

    const NAMES_OF: [(&str, &str); 2] = [("testservice", "flanneld"), ("newservice", "etcd")];

    fn run(name: &str) {
        let mut recording = crate::compat::recording::Recording::load_as(name, &NAMES_OF);
        let missing = "n1: args/etcd is missing".to_owned();
        recording.preconditions.push(missing);
        super::replay_recording(recording, "--http2", "2");
    }

    #[test]
    fn all_recordings_of_other_services_are_here() {
        assert_eq!(NAMES.len(), 2);
    }
}

fn replay(name: &str, option: &str, version: &str) {
    replay_recording(Recording::load(name), option, version);
}

/// Runs the recorded `curl` lines against our agent and compares the answers, the node directory
/// and the calls.
fn replay_recording(recording: Recording, option: &str, version: &str) {
    let name = recording.name.clone();
    let Some(mut stage) = Stage::set(recording, Mode::Requests) else {
        return;
    };
    put_tokens_into_the_file(&mut stage);
    // The client of the recordings is no node of the cluster, and its machine has no `/capi`.
    let capi = stage.lab.host("n1").capi();
    let arguments = [
        "--callback-from",
        "any",
        "--capi-dir",
        capi.to_str().unwrap(),
    ];
    stage.start_agent_with("n1", &arguments);
    let wire = stage.recording.wire();
    for index in 0..stage.recording.commands.len() {
        let command = &stage.recording.commands[index];
        between_requests(&stage, command);
        let client = command.host.clone();
        let before = Moment::before(&stage.lab);
        let line = line(&stage, command, wire.get(index));
        let answer = curl_line(stage.lab.host(&client), &format!("{line} {option}"));
        learn_callback_token(&stage.lab, &mut stage.placeholders);
        let command = &stage.recording.commands[index];
        let observed = Observed::since(&before, &stage.lab, &stage.placeholders);
        let expected = stage.expected(command);
        let mut wrong = compare(&stage, command, &expected, &answer);
        if answer.version != version {
            wrong.push(format!(
                "HTTP/{} was asked for, HTTP/{} came",
                version, answer.version
            ));
        }
        wrong.extend(observed.differences(&expected, &stage.placeholders));
        assert!(
            wrong.is_empty(),
            "{name}, request {}: {}\n{}",
            command.n,
            command.line,
            wrong.join("\n")
        );
    }
}

/// The one scenario whose preconditions change between its requests.
fn between_requests(stage: &Stage, command: &Command) {
    if stage.recording.name != "http-join-check-order" {
        return;
    }
    let n1 = stage.lab.host("n1");
    match command.n {
        3 => n1.write("var/lock/ha-cluster", "", 0o644),
        6 => {
            let fresh = String::from_utf8(n1.fresh("args/kube-apiserver")).unwrap();
            n1.write("args/kube-apiserver", &fresh, 0o644);
        }
        _ => {}
    }
}

/// The recorded line with the values of this run.
fn line(stage: &Stage, command: &Command, exchange: Option<&Value>) -> String {
    let mut line = stage.placeholders.fill(&command.line);
    if let Some((head, tail)) = line.split_once("'(JSON with a CSR, see wire.jsonl)'") {
        let host = stage.lab.host(&command.host);
        let body = body_of(exchange.unwrap(), host, &stage.placeholders);
        let file = host.scratch().join(format!("body-{}", command.n));
        std::fs::write(&file, body).unwrap();
        line = format!("{head}@{}{tail}", file.display());
    }
    if line.contains("--data-binary") && !line.contains(" -H ") {
        line += " -H 'Content-Type: application/json'";
    }
    line
}

fn compare(stage: &Stage, command: &Command, expected: &Expected, answer: &Answer) -> Vec<String> {
    let mut exchange = json!({
        "method": "request",
        "path": command.n,
        "status": expected.status,
    });
    // With this option curl shows the headers as the body.
    let shows_the_head = command.line.contains("--head");
    let answer = &Answer {
        body: if shows_the_head {
            String::new()
        } else {
            answer.body.clone()
        },
        ..answer.clone()
    };
    let mut wrong = Vec::new();
    match serde_json::from_str::<Value>(&expected.stdout) {
        Ok(mut body) => {
            expected.add_reason(&mut body);
            exchange["response"] = body;
        }
        Err(_) if shows_the_head || expected.stdout.is_empty() => {}
        Err(_) => {
            if answer.body.trim_end() != expected.stdout.trim_end() {
                wrong.push(format!(
                    "body: expected {}, got {}",
                    expected.stdout, answer.body
                ));
            }
            if answer.status != expected.status.unwrap() {
                wrong.push(format!(
                    "status: expected {:?}, got {answer:?}",
                    expected.status
                ));
            }
            return wrong;
        }
    }
    wrong.extend(compare_answer(stage, &exchange, answer));
    let kind = answer.header("content-type");
    if kind != expected.content_type.as_deref() {
        wrong.push(format!(
            "content type: expected {:?}, got {kind:?}",
            expected.content_type
        ));
    }
    wrong
}

/// The token in the recordings of sign-cert is the one that stands in them as it is.
#[test]
fn the_recorded_requests_to_sign_carry_the_given_token() {
    let wire = Recording::load("http-sign-cert").wire();
    let token = wire[0]["request"]["token"].as_str().unwrap();
    assert_eq!(token, format!("{}-kubelet", GIVEN_TOKEN));
    assert_eq!(GIVEN_TOKEN.len(), 32);
}
