//! `join --wait`: a join that is tried again while time alone may cure what is in the way.

use std::fs;
use std::thread;
use std::time::Duration;

use microk8s::base::wait;

use crate::compat::preconditions::new_token;
use crate::lab::{Host, Lab, Output, STALL_TIMEOUT, now};

/// Waits until a file has this text.
fn wait_for(host: &Host, file: &str, text: &str) {
    let path = host.scratch().join(file);
    let has_text = || {
        let said = fs::read_to_string(&path).unwrap_or_default();
        said.contains(text).then_some(())
    };
    wait::until(STALL_TIMEOUT, Duration::from_millis(20), has_text)
        .unwrap_or_else(|| panic!("no `{text}`: {:?}", fs::read_to_string(&path)));
}

fn warnings(output: &Output) -> Vec<&str> {
    let lines = output.stderr.lines();
    lines.filter(|line| line.starts_with("warning: ")).collect()
}

#[test]
fn a_join_waits_for_the_node_and_for_the_token_and_says_each_once() {
    for through_agent in [false, true] {
        let Some(lab) = Lab::new(&["n1", "n2"]) else {
            return;
        };
        let (n1, n2) = (lab.host("n1"), lab.host("n2"));
        let _own = through_agent.then(|| n2.agent());
        let token = new_token();
        let said = n2.scratch().join("said");
        let line = format!(
            "microk8s join 10.99.0.11:25000/{token} --wait=90s --worker 2>{}",
            said.display()
        );
        let _agent = thread::scope(|scope| {
            let joining = scope.spawn(|| n2.shell(&line));
            wait_for(n2, "said", "refused");
            let agent = n1.agent();
            wait_for(n2, "said", "Invalid token");
            n1.shell(&format!("microk8s add-node --token {token}")).ok();
            let mut joined = joining.join().unwrap();
            joined.stderr = fs::read_to_string(&said).unwrap();
            assert_eq!(joined.code, Some(0), "{joined:?}");
            assert_eq!(
                joined.stdout.matches("Contacting cluster").count(),
                1,
                "{joined:?}"
            );
            assert!(
                joined
                    .stdout
                    .ends_with("Successfully joined the cluster.\n")
            );
            let again = "; trying again for 1 min 30 s";
            let told: Vec<_> = warnings(&joined)
                .into_iter()
                .filter(|warning| warning.ends_with(again))
                .collect();
            assert_eq!(told.len(), 2, "{joined:?}");
            assert!(!joined.stderr.contains("failed stage"), "{joined:?}");
            agent
        });
        // A member has nothing to wait for.
        let again = n2.shell(&format!(
            "microk8s join --wait 10.99.0.11:25000/{token} --worker"
        ));
        assert!(again.ok().contains("already a member"));
    }
}

#[test]
fn a_wait_ends_with_the_reason_and_what_no_time_cures_is_not_waited_for() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let began = now();
    let nobody = "10.99.0.1:9/00000000000000000000000000000000";
    let given_up = n2.shell(&format!("microk8s join {nobody} --wait=6s --format json"));
    assert_eq!(given_up.code, Some(10), "{given_up:?}");
    assert!(
        (5..60).contains(&(now() - began)),
        "it was tried again once"
    );
    assert_eq!(given_up.stderr.matches("trying again for 6 s").count(), 1);
    let last = given_up.stdout.lines().last().unwrap();
    assert!(
        last.contains(r#""kind":"end""#) && last.contains(r#""exit":10"#),
        "{last}"
    );
    assert_eq!(given_up.stdout.matches(r#""kind":"end""#).count(), 1);

    let _agent = n1.agent();
    let line = n1.join_line();
    let id = n1
        .shell("microk8s token list --format json | jq -r '.[0].id'")
        .ok();
    n1.shell(&format!("microk8s token revoke {id}")).ok();
    let began = now();
    for (line, code) in [
        (format!("{line} --wait=1h"), 6),
        (format!("{nobody} --wait=2d"), 2),
        (format!("{nobody} --wait --dry-run"), 2),
    ] {
        let line = line.trim_start_matches("microk8s join ");
        let refused = n2.shell(&format!("microk8s join {line}"));
        assert_eq!(refused.code, Some(code), "{refused:?}");
        assert_eq!(warnings(&refused), [""; 0], "{refused:?}");
    }
    assert!(now() - began < 60);
}
