//! Requests and answers at the agent: the recorded answers for our client, the recorded requests
//! for our agent.

use std::fs;
use std::path::Path;
use std::process::Command as Process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};

use super::exceptions::Mode;
use super::expectation::{Moment, Observed};
use super::placeholders::Placeholders;
use super::preconditions::{new_token, token_file};
use super::recording::Recording;
use super::scenario::Stage;
use crate::lab::changes::equal_files;
use crate::lab::peer::{Peer, Reply, Request, Speaks};
use crate::lab::{Host, Lab, nodes, now, pem};

/// A peer on n1 that gives the recorded answers, one after the other.
pub struct RecordedAgent {
    peer: Peer,
}

impl RecordedAgent {
    pub fn start(stage: &mut Stage) -> Self {
        for token in ["<TOKEN>", "<TOKEN_2>"] {
            if !stage.placeholders.knows(token) {
                stage.placeholders.set(token, &new_token());
            }
        }
        let callback: String = new_token() + &new_token();
        stage.placeholders.set("<CALLBACK_TOKEN>", &callback);

        let host = stage.lab.host("n1");
        let directory = host.snap_data();
        let scratch = host.scratch().to_owned();
        let wire = stage.recording.wire();
        let placeholders = stage.placeholders.clone();
        let next = Mutex::new(0);
        let peer = Peer::start(host, Speaks::Tls, move |request| {
            let mut next = next.lock().unwrap();
            let Some(exchange) = wire.get(*next) else {
                return Reply::Json(404, json!({"error": "Not found"}).to_string());
            };
            *next += 1;
            let status = u16::try_from(exchange["status"].as_u64().unwrap()).unwrap();
            let mut answer = exchange["response"].clone();
            fill_pem(&mut answer, &directory, &|| {
                sign(request, &directory, &scratch)
            });
            Reply::Json(status, placeholders.fill(&answer.to_string()))
        });
        Self { peer }
    }

    /// The requests that came in must be the recorded ones, in their order.
    pub fn check_requests(&self, stage: &Stage) {
        let told = |method: &str, path: &str, host: &str, kind: &str, body: &Value| {
            format!("{method} {path} at {host} as {kind}\n{body:#}\n")
        };
        let expected = stage.expected(&stage.recording.commands[0]);
        let recorded: String = stage
            .recording
            .wire()
            .iter_mut()
            .map(|exchange| {
                expected.follow_request(&mut exchange["request"]);
                told(
                    exchange["method"].as_str().unwrap(),
                    exchange["path"].as_str().unwrap(),
                    exchange["host_header"].as_str().unwrap(),
                    exchange["request_headers"]["Content-Type"][0]
                        .as_str()
                        .unwrap(),
                    &exchange["request"],
                )
            })
            .collect();
        let got: String = self
            .peer
            .requests()
            .iter()
            .map(|request| {
                let mut body: Value = serde_json::from_slice(&request.body)
                    .unwrap_or_else(|_| json!({"no JSON": String::from_utf8_lossy(&request.body)}));
                summarise_pem(&mut body, &mut |_| {});
                // A join that failed leaves no file that tells the token which the node made.
                if body["callback"].as_str().is_some_and(|own| own.len() == 64) {
                    body["callback"] = "<CALLBACK_TOKEN_N2>".into();
                }
                let body = stage.placeholders.hide(&body.to_string());
                let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
                told(
                    &request.method,
                    &request.path,
                    header("host"),
                    header("content-type"),
                    &serde_json::from_str(&body).unwrap(),
                )
            })
            .collect();
        assert!(
            recorded == got,
            "the requests of {} differ:\n--- recorded\n{recorded}--- sent\n{got}",
            stage.recording.name
        );
    }
}

/// Puts real PEM where a recording has a summary: the file that it names, or else what `sign` says.
pub fn fill_pem(value: &mut Value, directory: &Path, sign: &dyn Fn() -> String) {
    match value {
        Value::Object(map) if map.contains_key("$pem") => {
            let file = map
                .get("same_as")
                .and_then(|files| files.as_array())
                .and_then(|files| {
                    files
                        .iter()
                        .filter_map(Value::as_str)
                        .find(|file| !file.contains(':'))
                });
            *value = match file {
                Some(file) => fs::read_to_string(directory.join(file)).unwrap().into(),
                None => sign().into(),
            };
        }
        Value::Object(map) => map
            .values_mut()
            .for_each(|value| fill_pem(value, directory, sign)),
        Value::Array(list) => list
            .iter_mut()
            .for_each(|value| fill_pem(value, directory, sign)),
        _ => {}
    }
}

/// Signs the certificate request in a body as MicroK8s's agent does: with `openssl`.
pub fn sign(request: &Request, directory: &Path, scratch: &Path) -> String {
    sign_with(request, directory, scratch, &["-copy_extensions", "copy"])
}

/// Signs the certificate request in a body with further arguments of `openssl x509`.
pub fn sign_with(request: &Request, directory: &Path, scratch: &Path, more: &[&str]) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let csr = scratch.join("request.csr");
    fs::write(&csr, body["request"].as_str().unwrap()).unwrap();
    let output = Process::new("openssl")
        .args([
            "x509",
            "-req",
            "-sha256",
            "-days",
            "3650",
            "-set_serial",
            "77",
        ])
        .args(more)
        .arg("-in")
        .arg(csr)
        .arg("-CA")
        .arg(directory.join("certs/ca.crt"))
        .arg("-CAkey")
        .arg(directory.join("certs/ca.key"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Puts summaries in place of PEM, as the recordings have them; `more` may add to a summary.
fn summarise_pem(value: &mut Value, more: &mut dyn FnMut(&mut PemValue<'_>)) {
    match value {
        Value::Object(map) => map
            .values_mut()
            .for_each(|value| summarise_pem(value, more)),
        Value::Array(list) => list.iter_mut().for_each(|value| summarise_pem(value, more)),
        Value::String(text) if text.starts_with("-----BEGIN ") => {
            let text = std::mem::take(text);
            let label = &pem::blocks(text.as_bytes())[0].label;
            let kind = match label.as_str() {
                "CERTIFICATE" => "cert",
                "CERTIFICATE REQUEST" => "csr",
                _ => "key",
            };
            let mut found = PemValue {
                kind,
                text: &text,
                summary: Map::new(),
            };
            if kind == "csr" {
                found.summary = object(pem::request(text.as_bytes()));
            }
            more(&mut found);
            let mut summary = Map::from_iter([("$pem".to_owned(), json!(kind))]);
            summary.append(&mut found.summary);
            *value = summary.into();
        }
        _ => {}
    }
}

struct PemValue<'a> {
    kind: &'static str,
    text: &'a str,
    summary: Map<String, Value>,
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else {
        panic!("{value}")
    };
    map
}

/// Sends the recorded requests of MicroK8s's `join` to our agent and compares its answers, its
/// node directory and its calls.
pub fn replay_join(name: &str) {
    let Some(mut stage) = Stage::set(Recording::load(name), Mode::Requests) else {
        return;
    };
    put_tokens_into_the_file(&mut stage);
    stage.start_agent("n1");

    let wire = stage.recording.wire();
    let is_join = |exchange: &&Value| exchange["path"].as_str().unwrap().ends_with("/join");
    assert_eq!(
        wire.iter().filter(is_join).count(),
        stage.recording.commands.len()
    );
    let mut rest = wire.as_slice();
    for index in 0..stage.recording.commands.len() {
        let count = 1 + rest[1..]
            .iter()
            .take_while(|exchange| !is_join(exchange))
            .count();
        let (exchanges, later) = rest.split_at(count);
        rest = later;
        let client = exchanges[0]["request"]["hostname"]
            .as_str()
            .unwrap()
            .to_owned();
        let before = Moment::before(&stage.lab);
        let expected = stage.expected(&stage.recording.commands[index]);
        let mut wrong = Vec::new();
        for exchange in exchanges {
            let mut exchange = exchange.clone();
            expected.add_reason(&mut exchange["response"]);
            expected.follow_files(&mut exchange["response"]);
            wrong.extend(replay(&mut stage, &client, &exchange));
        }
        let observed = Observed::since(&before, &stage.lab, &stage.placeholders);
        let command = &stage.recording.commands[index];
        let mut expected = expected;
        // The requests come from outside: of the hosts, the contacted one alone does anything.
        for host in ["n2", "n3"] {
            expected.changes.get_mut(host).unwrap().clear();
            expected.calls.insert(host.to_owned(), Some(Vec::new()));
        }
        let differences = observed.differences(&expected, &stage.placeholders);
        wrong.extend(differences);
        assert!(
            wrong.is_empty(),
            "{name}, command {}:\n{}",
            command.n,
            wrong.join("\n")
        );
    }
}

/// MicroK8s's own `add-node` has no agent to ask: it writes the token into the file.
pub fn put_tokens_into_the_file(stage: &mut Stage) {
    if stage.placeholders.knows("<TOKEN>") {
        return;
    }
    let text = |command: &super::recording::Command| command.line.clone();
    let lines: String = stage.recording.commands.iter().map(text).collect();
    let expiry = match stage.scene.add_node {
        "" => String::new(),
        _ => format!("|{}", now() + 3600),
    };
    let mut file = String::new();
    for token in ["<TOKEN>", "<TOKEN_2>"] {
        if lines.contains(token) {
            let value = new_token();
            file += &format!("{value}{expiry}\n");
            stage.placeholders.set(token, &value);
        }
    }
    token_file(
        stage.lab.host("n1"),
        "credentials/cluster-tokens.txt",
        &file,
    );
}

/// Sends one request and tells in what the answer differs.
fn replay(stage: &mut Stage, client: &str, exchange: &Value) -> Vec<String> {
    let body = body_of(exchange, stage.lab.host(client), &stage.placeholders);
    let path = exchange["path"].as_str().unwrap();
    let url = format!(
        "https://{}{path}",
        exchange["host_header"].as_str().unwrap()
    );
    let method = exchange["method"].as_str().unwrap();
    let answer = curl(
        stage.lab.host(client),
        &["--http1.1", "-X", method, &url],
        &body,
    );
    learn_callback_token(&stage.lab, &mut stage.placeholders);
    compare_answer(stage, exchange, &answer)
}

/// Compares an answer with the recorded one: status, keys and their order, values.
pub fn compare_answer(stage: &Stage, exchange: &Value, answer: &Answer) -> Vec<String> {
    let mut wrong = Vec::new();
    let what = format!("{} {}", exchange["method"], exchange["path"]);
    if exchange["status"] != answer.status {
        wrong.push(format!(
            "{what}: status: expected {}, got {} with {}",
            exchange["status"], answer.status, answer.body
        ));
        return wrong;
    }
    let Some(recorded) = exchange.get("response") else {
        if !answer.body.is_empty() {
            wrong.push(format!(
                "{what}: expected an empty body, got {}",
                answer.body
            ));
        }
        return wrong;
    };
    let Ok(mut got) = serde_json::from_str::<Value>(&answer.body) else {
        wrong.push(format!("{what}: no JSON: {}", answer.body));
        return wrong;
    };
    if answer.status == 400 && is_error(recorded) && is_about_json(recorded) {
        // What is wrong with the JSON is told in the words of a JSON library.
        if !is_error(&got) {
            wrong.push(format!(
                "{what}: expected an `error` and nothing else, got {got}"
            ));
        }
        return wrong;
    }
    let n1 = stage.lab.host("n1");
    let tree = n1.snapshot();
    let authorities = [pem::Authority {
        name: "own ca".to_owned(),
        certificate: n1.fresh("certs/ca.crt"),
    }];
    summarise_pem(&mut got, &mut |found| {
        match found.kind {
            "cert" => {
                found.summary = object(pem::certificate(found.text.as_bytes(), &authorities));
            }
            "key" => found.summary = object(pem::private_key(found.text.as_bytes())),
            _ => {}
        }
        let files = equal_files(found.text.as_bytes(), &tree, &[]);
        if !files.is_empty() {
            found.summary.insert("same_as".to_owned(), json!(files));
        }
    });
    let got = stage.placeholders.hide(&got.to_string());
    let mut recorded = recorded.clone();
    forget_other_hosts(&mut recorded);
    let recorded = recorded.to_string();
    if got != recorded {
        wrong.push(format!(
            "{what}:\n    expected: {recorded}\n    got:      {got}"
        ));
    }
    wrong
}

fn is_error(body: &Value) -> bool {
    body.as_object()
        .is_some_and(|map| map.len() == 1 && map["error"].is_string())
}

fn is_about_json(body: &Value) -> bool {
    let text = body["error"].as_str().unwrap();
    ["JSON", "Json", "Invalid character"]
        .iter()
        .any(|word| text.contains(word))
}

/// `same_as` of the recordings also names files of the joining node, which does not run here, and
/// `key_of_cert` a certificate beside the key.
fn forget_other_hosts(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.shift_remove("key_of_cert");
            if let Some(Value::Array(files)) = map.get_mut("same_as") {
                files.retain(|file| !file.as_str().unwrap().contains(':'));
                if files.is_empty() {
                    map.shift_remove("same_as");
                }
            }
            map.values_mut().for_each(forget_other_hosts);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_other_hosts),
        _ => {}
    }
}

/// The callback token comes into being with the first join; a worker gets one of its own.
pub fn learn_callback_token(lab: &Lab, placeholders: &mut Placeholders) {
    let token_of =
        |host: &Host| fs::read_to_string(host.path("credentials/callback-token.txt")).ok();
    if let (false, Some(token)) = (
        placeholders.knows("<CALLBACK_TOKEN>"),
        token_of(lab.host("n1")),
    ) {
        let token = token.trim_end();
        placeholders.set("<CALLBACK_TOKEN>", token);
        placeholders.set("<CALLBACK_TOKEN_SHA256>", &sha256(token.as_bytes()));
    }
    for host in lab.hosts().iter().filter(|host| host.name != "n1") {
        if let Some(token) = token_of(host)
            && placeholders.hide(&token) == token
        {
            // In the older flow, which has no lock, the token of the joining node is its own always.
            let name = if host.path("var/lock/ha-cluster").exists() {
                "<OWN_CALLBACK_TOKEN>"
            } else {
                "<CALLBACK_TOKEN_N2>"
            };
            placeholders.set(name, token.trim_end());
        }
    }
}

/// In hexadecimal digits, by a program that is not ours.
pub fn sha256(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let output = Process::new("sha256sum").arg(file.path()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    told.split_whitespace().next().unwrap().to_owned()
}

/// The body of a recorded request with the values of this run; a certificate request is made anew.
pub fn body_of(exchange: &Value, client: &Host, placeholders: &Placeholders) -> String {
    if let Some(raw) = exchange.get("request_raw") {
        return placeholders.fill(raw.as_str().unwrap());
    }
    let mut body = exchange["request"].clone();
    let summary = body["request"].clone();
    body["request"] = certificate_request(client, &summary).into();
    placeholders.fill(&body.to_string())
}

/// A certificate request with the subject and names of a summary, made by `openssl`.
pub fn certificate_request(host: &Host, summary: &Value) -> String {
    let subject: String = summary["subject"]
        .as_str()
        .unwrap()
        .split(", ")
        .map(|part| format!("/{part}"))
        .collect();
    let names: Vec<&str> = summary["sans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let mut command = Process::new("openssl");
    command
        .args(["req", "-new", "-sha256", "-subj", &subject, "-key"])
        .arg(nodes::fresh(&host.name).join("certs/kubelet.key"));
    if !names.is_empty() {
        command.args(["-addext", &format!("subjectAltName={}", names.join(","))]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// `1.1` or `2`.
    pub version: String,
    /// Name in lower case and value, in order.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Sends a request with curl from a host, the certificate of the other side unchecked.
pub fn curl(host: &Host, arguments: &[&str], body: &str) -> Answer {
    let file = host.scratch().join(format!("body-{}", number()));
    fs::write(&file, body).unwrap();
    let quoted: Vec<String> = arguments.iter().map(|word| format!("'{word}'")).collect();
    curl_line(
        host,
        &format!(
            "curl -k {} -H 'Content-Type: application/json' --data-binary @{}",
            quoted.join(" "),
            file.display()
        ),
    )
}

/// Runs a line of shell that calls curl, and reads the answer.
pub fn curl_line(host: &Host, line: &str) -> Answer {
    let number = number();
    let file = |name: &str| host.scratch().join(format!("{name}-{number}"));
    let (head, body) = (file("head"), file("body"));
    let output = host.shell(&format!(
        "{line} -sS --max-time 60 -D {} -o {} -w '%{{http_code}} %{{http_version}}'",
        head.display(),
        body.display()
    ));
    let told = output.ok();
    let (status, version) = told.split_once(' ').unwrap();
    let headers = fs::read_to_string(head).unwrap();
    Answer {
        status: status.parse().unwrap(),
        version: version.to_owned(),
        headers: headers
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        body: fs::read_to_string(body).unwrap_or_default(),
    }
}

/// A number for files of requests that may run at once.
fn number() -> u32 {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}
