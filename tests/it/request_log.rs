//! What the log says of a request, and how its lines are told to be of the same one.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use microk8s::client::pinned_tls::{self, Identity};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;

use crate::lab::Lab;
use crate::lab::agent::Agent;
use crate::lab::network::inside;

const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";

/// The lines of a log in JSON for which this holds.
fn lines(log: &str, holds: impl Fn(&Value) -> bool) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .filter(|line| holds(line))
        .collect()
}

fn id(line: &Value) -> &str {
    line["span"]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("no id: {line}"))
}

#[test]
fn all_lines_about_one_request_have_the_id_that_its_answer_has() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let words = ["microk8s", "agent", "--log-format", "json"];
    let agent = Agent::start_as(n1, &words);
    let url = n1.join_line();
    let token = url.split('/').nth(1).unwrap().to_owned();
    let body = format!(
        "{{\"token\":\"{token}\",\"hostname\":\"n2\",\"port\":\"25000\",\"worker\":true,\"can_handle_x509_auth\":true}}"
    );
    let ask = format!("curl -sk -D - -o /dev/null '{JOIN}?secret=in-the-query' -d '{body}'");
    let head = n2.shell(&ask).ok();
    let given = head
        .lines()
        .find_map(|line| line.strip_prefix("x-request-id: "))
        .unwrap_or_else(|| panic!("{head}"))
        .trim();
    agent.wait_for("\"path\":\"/cluster/api/v2.0/join\"");

    let log = agent.log();
    assert!(
        !log.contains(&token) && !log.contains("in-the-query"),
        "{log}"
    );
    let of_request = lines(&log, |line| line["span"]["id"] == given);
    let one = |holds: &dyn Fn(&Value) -> bool| {
        let found: Vec<_> = of_request.iter().filter(|line| holds(line)).collect();
        assert_eq!(found.len(), 1, "{log}");
        found[0].clone()
    };
    let join = one(&|line| line["request"] == "join");
    assert_eq!(
        (
            &join["address"],
            &join["node"],
            &join["role"],
            &join["outcome"]
        ),
        (
            &"10.99.0.12".into(),
            &"n2".into(),
            &"worker".into(),
            &"admitted".into()
        )
    );
    let answered = one(&|line| line["message"] == "answered");
    assert_eq!(
        (
            &answered["address"],
            &answered["method"],
            &answered["status"]
        ),
        (&"10.99.0.12".into(), &"POST".into(), &200.into())
    );
    assert!(answered["milliseconds"].as_f64().unwrap() > 0.0);
    let audit: BTreeSet<_> = of_request
        .iter()
        .filter(|line| line["message"] == "audit")
        .map(|line| line["event"].as_str().unwrap())
        .collect();
    assert!(audit.contains("reserved"), "{log}");
    let of_others = lines(&log, |line| line["event"] == "issued");
    assert_ne!(
        id(&of_others[0]),
        given,
        "the request on the socket has its own"
    );
}

#[test]
fn audit_lines_have_the_id_also_in_a_log_of_errors_alone() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let n1 = lab.host("n1");
    let agent = Agent::start_quietly(n1);
    n1.shell("microk8s add-node").ok();
    agent.wait_for("audit");
    let log = agent.log();
    let issued = log
        .lines()
        .find(|line| line.contains("event=\"issued\""))
        .unwrap();
    assert!(issued.contains("request{id="), "{issued}");
}

#[test]
fn a_path_or_method_cannot_forge_a_line() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let long = "a".repeat(2000);
    let ask = format!(
        "curl -sk -o /dev/null -X FORGED-BY-A-STRANGER-FOR-EVER 'https://10.99.0.11:25000/%0aforged/{long}'"
    );
    n2.shell(&ask).ok();
    agent.wait_for("/%0aforged/");
    let log = agent.log();
    let line = log.lines().find(|line| line.contains("forged")).unwrap();
    assert!(
        line.len() < 500 && line.contains("FORGED-BY-A-STRA…"),
        "{line}"
    );
}

#[test]
fn a_flood_of_requests_is_counted_in_the_log_and_hides_no_join() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let line = n1.join_line();
    let flood = "curl -sk -o /dev/null 'https://10.99.0.11:25000/flood[1-600]'; \
                 curl -sk -o /dev/null 'https://10.99.0.11:25000/cluster/api/v2.0/join?[1-600]' -d '{'";
    n2.shell(flood).ok();
    n2.shell(&format!("{line} --worker")).ok();
    for what in [
        "requests without success",
        "requests that are not understood",
    ] {
        agent.wait_for(&format!("more lines about {what} in the last "));
    }
    let log = agent.log();
    for text in ["path=\"/flood", "outcome=\"not understood\""] {
        let count = log.matches(text).count();
        assert!((1..=300).contains(&count), "{count} times {text}");
    }
    let is_audit = |line: &&str, event: &str| {
        line.contains(" audit ") && line.contains(&format!("event=\"{event}\""))
    };
    for event in ["issued", "reserved", "admitted", "used", "complete"] {
        let count = log.lines().filter(|line| is_audit(line, event)).count();
        assert_eq!(count, 1, "{event}: {log}");
    }
    assert!(log.contains("outcome=\"admitted\""), "{log}");
}

const ADDRESS: &str = "10.99.0.11:25000";
/// How many requests a connection begins and resets.
const STREAMS: u32 = 20;
const FLOOD: usize = 400;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// Begins requests whose bodies do not come, waits until the agent has read them, and resets them all.
fn reset_streams() {
    // Kinds of frames (RFC 9113, section 6).
    let [headers, reset, settings, ping] = [1, 3, 4, 6];
    let (end_of_headers, acknowledged, cancel) = (4, 1, [0, 0, 0, 8]);
    let mut config = Arc::unwrap_or_clone(pinned_tls::config(Identity::default()).unwrap());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("10.99.0.11").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(tls, TcpStream::connect(ADDRESS).unwrap());
    // `POST` and `https` by their numbers in the table of headers; path and authority in full.
    let text = |name, value: &str| {
        [
            &[name, u8::try_from(value.len()).unwrap()],
            value.as_bytes(),
        ]
        .concat()
    };
    let [path, authority] = [text(4, "/cluster/api/v2.0/join"), text(1, ADDRESS)];
    let head = [&[0x83, 0x87], &path[..], &authority].concat();
    let streams = || (0..STREAMS).map(|number| 2 * number + 1);
    let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    begin.extend(frame(settings, 0, 0, &[]));
    begin.extend(streams().flat_map(|id| frame(headers, end_of_headers, id, &head)));
    begin.extend(frame(ping, 0, 0, &[7; 8]));
    stream.write_all(&begin).unwrap();
    loop {
        let mut beginning = [0; 9];
        stream.read_exact(&mut beginning).unwrap();
        let [_, high, low, kind, flags, ..] = beginning;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
        stream.read_exact(&mut payload).unwrap();
        if (kind, flags) == (ping, acknowledged) {
            break;
        }
    }
    let resets: Vec<u8> = streams()
        .flat_map(|id| frame(reset, 0, id, &cancel))
        .collect();
    stream.write_all(&resets).unwrap();
}

#[test]
fn floods_of_reset_streams_and_of_failed_handshakes_are_counted_in_the_log() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    // What fails before there is a request is told to those who look for a fault.
    let words = [
        "env",
        "MICROK8S_LOG=info,microk8s=debug",
        "microk8s",
        "agent",
    ];
    let agent = Agent::start_as(n1, &words);
    let began = Instant::now();
    inside(n2.namespace(), || {
        // Most streams are reset before the agent has begun with their requests.
        for _ in 0..FLOOD {
            reset_streams();
        }
        for _ in 0..FLOOD {
            let mut stream = TcpStream::connect(ADDRESS).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            // It may be closed with a reset.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    for what in ["requests without success", "connections that failed"] {
        agent.wait_for(&format!("more lines about {what} in the last "));
    }
    let log = agent.log();
    // A hundred of a kind in ten seconds.
    let most = 100 * (usize::try_from(began.elapsed().as_secs()).unwrap() / 10 + 2);
    for text in ["path=\"/cluster/api/v2.0/join\"", "connection peer="] {
        let count = log.matches(text).count();
        assert!((1..=most).contains(&count), "{count} times {text}");
    }
    assert!(log.lines().count() < 2 * most + 100, "{log}");
}
