//! What a stranger may take of the agent, and that others are served meanwhile.

use crate::lab::agent::Agent;
use crate::lab::{Host, Lab};

const JOIN: &str = "https://10.99.0.11:25000/cluster/api/v2.0/join";

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
    let join = n1.shell("microk8s add-node --format short").ok();
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
    n2.shell(&format!("{} --worker", join.trim())).ok();
    let page = n3.shell("curl -sk https://10.99.0.11:25000/metrics").ok();
    assert!(
        page.contains("limits_hit_total{limit=\"unknown-tokens\"} "),
        "{page}"
    );
}
