//! What the agent counts and where it shows it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::lab::agent::Agent;
use crate::lab::{Host, Lab};

fn scrape(from: &Host) -> String {
    let line = "curl -sk --fail --max-time 20 https://10.99.0.11:25000/metrics";
    from.shell(line).ok()
}

/// The value of the sample that begins like this.
#[track_caller]
fn sample(page: &str, beginning: &str) -> f64 {
    let mut found = page.lines().filter_map(|line| line.strip_prefix(beginning));
    let value = found
        .next()
        .unwrap_or_else(|| panic!("no {beginning} in:\n{page}"));
    assert_eq!(found.next(), None, "{beginning} is not all of it:\n{page}");
    value.trim().parse().unwrap()
}

/// Name, type and labels of each metric on a page.
fn served(page: &str) -> BTreeSet<(String, String, BTreeSet<String>)> {
    let typed = page.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        Some((name, kind.to_owned()))
    });
    typed
        .map(|(name, kind)| {
            let labels = page
                .lines()
                .filter_map(|line| {
                    let rest = line.strip_prefix(name)?;
                    let (ending, labels) = rest.split_once('{')?;
                    ["", "_total", "_info", "_count", "_sum"]
                        .contains(&ending)
                        .then_some(labels)
                })
                .flat_map(|labels| {
                    labels
                        .split("\",")
                        .filter_map(|label| label.split_once("=\""))
                })
                .map(|(label, _)| label.to_owned())
                .collect();
            (name.to_owned(), kind, labels)
        })
        .collect()
}

/// The same of the list in the document.
fn documented() -> BTreeSet<(String, String, BTreeSet<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let document = fs::read_to_string(path).unwrap();
    document
        .split("\n- `microk8s_")
        .skip(1)
        .map(|item| {
            let (name, rest) = item.split_once("` (").unwrap();
            let (terms, _) = rest.split_once(')').unwrap();
            let (kind, labels) = terms.split_once(';').unwrap_or((terms, ""));
            (
                format!("microk8s_{name}"),
                kind.to_owned(),
                labels
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect(),
            )
        })
        .collect()
}

#[test]
fn joins_tokens_certificates_and_requests_are_counted_and_the_document_lists_all_of_it() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agent = Agent::start(n1, &["--bind", "0.0.0.0:25000", "--enable-metrics"]);
    let join = n1.join_line();
    let before = scrape(n2);
    assert_eq!(
        sample(&before, "microk8s_agent_tokens{state=\"issued\"} "),
        1.0
    );
    n2.shell(&format!("{join} --worker")).ok();
    let strange = "curl -sk https://10.99.0.11:25000/strange/path?x=1 -X STRANGE";
    n2.shell(strange).ok();
    let unknown = "curl -sk https://10.99.0.11:25000/cluster/api/v2.0/join -d '{\"token\":\"nobody-knows-it\"}'";
    n2.shell(unknown).ok();

    let page = scrape(n2);
    let good = "outcome=\"admitted\",reason=\"\"";
    for (beginning, count) in [
        (format!("microk8s_agent_joins_total{{role=\"worker\",{good}}} "), 1.0),
        (format!("microk8s_agent_joins_total{{role=\"control-plane\",{good}}} "), 0.0),
        (
            "microk8s_agent_joins_total{role=\"control-plane\",outcome=\"refused\",reason=\"unknown\"} ".into(),
            1.0,
        ),
        ("microk8s_agent_join_outcomes_total{outcome=\"joined\"} ".into(), 1.0),
        ("microk8s_agent_certificates_total{outcome=\"signed\",reason=\"\"} ".into(), 2.0),
        (
            "microk8s_agent_requests_total{endpoint=\"/cluster/api/v1.0/sign-cert\",status=\"200\"} ".into(),
            2.0,
        ),
        ("microk8s_agent_requests_total{endpoint=\"other\",status=\"404\"} ".into(), 1.0),
        (
            "microk8s_agent_request_duration_seconds_count{endpoint=\"/cluster/api/v2.0/join\"} ".into(),
            2.0,
        ),
        ("microk8s_agent_requests_in_progress ".into(), 1.0),
        ("microk8s_agent_connections ".into(), 1.0),
        ("microk8s_agent_limits_hit_total{limit=\"unknown-tokens\"} ".into(), 0.0),
    ] {
        assert_eq!(sample(&page, &beginning), count, "{beginning}\n{page}");
    }
    assert!(
        !page.contains("strange") && !page.contains("STRANGE"),
        "{page}"
    );
    assert!(page.ends_with("# EOF\n"), "{page}");
    assert_eq!(served(&page), documented());
}

#[test]
fn without_the_option_the_path_is_as_unknown_as_any_other() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let _agent = n1.agent();
    let answer = n1
        .shell("curl -sk -w ' %{http_code}' https://10.99.0.11:25000/metrics")
        .ok();
    assert_eq!(answer, "{\"error\":\"Not found\"} 404");
}
