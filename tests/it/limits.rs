//! What a stranger may take of the agent, and that others are served meanwhile.

use crate::lab::agent::Agent;
use crate::lab::{Host, Lab};

const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";
const METRICS: &str = "curl -sk https://10.99.0.11:25000/metrics";

/// Presents tokens that nobody knows, until one is answered with another status than 500, and so
/// many at most; the statuses, and the last answer.
fn guess(from: &Host, most: usize) -> (Vec<String>, String) {
    let ask = format!(
        "for n in $(seq {most}); do \
             code=$(curl -sk -D head -o body -w '%{{http_code}}' {JOIN} -d '{{\"token\":\"guess-number-'$n'-of-a-stranger\"}}'); \
             echo $code; [ $code = 500 ] || break; \
         done"
    );
    let here = from.scratch().display();
    let statuses = from.shell(&format!("cd {here}; {ask}")).ok();
    let last = from.shell(&format!("cd {here}; cat head body")).ok();
    (statuses.lines().map(str::to_owned).collect(), last)
}

#[test]
fn an_address_with_too_many_unknown_tokens_gets_429_and_its_valid_one_is_taken_all_the_same() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let agent = Agent::start(n1, &["--bind", "0.0.0.0:25000", "--enable-metrics"]);
    let join = n1.join_line();
    // One more comes free every six seconds, so a slow machine gets more of them in.
    let (statuses, last) = guess(n2, 1000);
    assert!(statuses.len() > 30, "{statuses:?}");
    assert_eq!(statuses.last().unwrap(), "429");
    let (head, body) = last.split_once('{').unwrap();
    let seconds: u64 = head
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "))
        .unwrap_or_else(|| panic!("{last}"))
        .trim()
        .parse()
        .unwrap();
    assert!((1..=6).contains(&seconds), "{last}");
    assert!(
        body.starts_with(
            "\"error\":\"Invalid token. Too many unknown tokens came from this address"
        ) && body.ends_with("\"reason\":\"unknown\"}"),
        "{last}"
    );
    let log = agent.log();
    let complaints = log
        .matches("too many unknown tokens from this address")
        .count();
    assert!((1..=2).contains(&complaints), "{log}");
    assert!(
        log.matches("reason=\"unknown\"").count() < 50,
        "a line for each:\n{log}"
    );

    let (statuses, _) = guess(n3, 1);
    assert_eq!(statuses, ["500"], "another address is not held responsible");
    let output = n2.shell(
        "microk8s join 10.99.0.11:25000/0123456789abcdef0123456789abcdef --worker --skip-verify",
    );
    assert_eq!(output.code, Some(6), "{output:?}");
    n2.shell(&format!("{join} --worker")).ok();
    let page = n3.shell(METRICS).ok();
    assert!(
        page.contains("limits_hit_total{limit=\"unknown-tokens\"} "),
        "{page}"
    );
}

#[test]
fn a_body_that_is_too_large_is_refused_and_costs_its_token_nothing() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = Agent::start(n1, &["--enable-metrics"]);
    let join = n1.shell("microk8s add-node --format short").ok();
    let token = join.split('/').nth(1).unwrap();
    let here = n2.scratch().display();
    let answer = n2.shell(&format!(
        "cd {here}; {{ printf '{{\"token\":\"{token}\",\"hostname\":\"'; head -c 100000 /dev/zero | tr '\\0' a; \
         printf '\"}}'; }} >large; curl -sk -w ' %{{http_code}}' {JOIN} --data-binary @large"
    ));
    assert_eq!(
        answer.ok(),
        "{\"error\":\"The request's body is larger than 65536 bytes\"} 413"
    );
    let page = n2.shell(METRICS).ok();
    assert!(
        page.contains("limits_hit_total{limit=\"body-size\"} 1\n"),
        "{page}"
    );
    n2.shell(&format!("{} --worker", join.trim())).ok();
}

#[test]
fn no_client_takes_longer_for_a_handshake_a_head_or_a_body_than_the_limits_say() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = Agent::start(n1, &["--enable-metrics"]);
    // Each says how it was left, and after how many seconds. What it would go on with is never sent.
    let broken_off = r#"
        silent() { exec 3<>/dev/tcp/10.99.0.11/25000; cat <&3; echo "handshake $SECONDS"; }
        asking() {
            mkfifo "$1"; exec 4<>"$1"; printf "$2" >&4
            status=$(openssl s_client -connect 10.99.0.11:25000 -quiet <&4 2>/dev/null | head -n 1)
            echo "$1 $SECONDS $status"
        }
        cd "$HERE"
        silent &
        asking head 'GET /health HTTP/1.1\r\nHost: n1' &
        asking body 'POST /cluster/api/v2.0/join HTTP/1.1\r\nHost: n1\r\nContent-Length: 9\r\n\r\n{' &
        wait"#;
    let mut command = n2.command(&["bash", "-c", broken_off]);
    let output = command.env("HERE", n2.scratch()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for (limit, seconds, status) in [
        ("handshake", 10, None),
        ("head", 30, None),
        ("body", 30, Some("HTTP/1.1 408 Request Timeout")),
    ] {
        let line = said.lines().find_map(|line| line.strip_prefix(limit));
        let (took, answer) = line
            .and_then(|line| line.trim().split_once(' ').or(Some((line.trim(), ""))))
            .unwrap_or_else(|| panic!("{limit}: {said}"));
        let took: u64 = took.parse().unwrap();
        assert!((seconds - 1..seconds + 20).contains(&took), "{said}");
        assert_eq!(answer.trim(), status.unwrap_or_default(), "{said}");
    }
    let page = n2.shell(METRICS).ok();
    for limit in ["handshake", "idle", "body-time"] {
        let counted = format!("limits_hit_total{{limit=\"{limit}\"}} 1\n");
        assert!(page.contains(&counted), "{page}");
    }
}
