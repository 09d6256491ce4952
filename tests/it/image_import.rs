//! Images for the container runtime: streamed, whole or not at all, and never held in memory.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use microk8s::base::wait;
use nix::sys::signal::Signal;

use crate::compat::requests::{curl_line, sha256};
use crate::lab::agent::Agent;
use crate::lab::{Host, Lab, STALL_TIMEOUT};

const IMPORT: &str = "https://10.99.0.11:25000/cluster/api/v2.0/image/import";
const TOKEN: &str = "-H 'x-microk8s-callback-token: secret'";

/// How large the image is; `IMAGE_MIB=1024` has a larger one than the suite.
fn image_mib() -> u64 {
    std::env::var("IMAGE_MIB").map_or(96, |text| text.parse().unwrap())
}

/// n1 with the callback token `secret`, a container runtime and an agent.
fn node(arguments: &[&str]) -> Option<(Lab, Agent)> {
    let lab = Lab::new(&["n1"])?;
    let n1 = lab.host("n1");
    n1.write("credentials/callback-token.txt", "secret\n", 0o600);
    n1.stand_ins.install_ctr(&n1.snap(), &n1.snap_common());
    let agent = Agent::start(n1, arguments);
    Some((lab, agent))
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(pid: i32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Bytes that are no use to a compressor, made by a program and told by their SHA-256.
fn image(path: &Path, mib: u64) -> String {
    let line = format!(
        "openssl enc -aes-128-ctr -nosalt -K 0 -iv 0 -in /dev/zero 2>/dev/null | head -c {} > {}",
        mib << 20,
        path.display()
    );
    assert!(
        Command::new("sh")
            .args(["-c", &line])
            .status()
            .unwrap()
            .success()
    );
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[test]
fn a_large_image_arrives_byte_for_byte_and_is_never_held_in_memory() {
    let Some((lab, agent)) = node(&[]) else {
        return;
    };
    let n1 = lab.host("n1");
    let file = n1.scratch().join("image.tar");
    let digest = image(&file, image_mib());
    for option in ["--http1.1", "--http2"] {
        let _ = fs::remove_file(n1.scratch().join("stand-ins/ctr.sha256"));
        // The peak is counted anew from here.
        fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5").unwrap();
        let line = format!(
            "curl -k -X POST {option} {TOKEN} -T {} {IMPORT}",
            file.display()
        );
        let answer = curl_line(n1, &line);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (200, "{\"status\":\"OK\"}")
        );
        let peak = memory(agent.pid(), "VmHWM:");
        eprintln!(
            "{} MiB over {option}: at most {peak} KiB in memory",
            image_mib()
        );
        assert!(peak < 32 << 10, "{peak} KiB");
        assert_eq!(n1.stand_ins.imported(), Some(digest.clone()));
    }
    let call =
        "ctr --namespace k8s.io --address $SNAP_COMMON/run/containerd.sock image import --platform";
    let calls = n1.stand_ins.calls();
    assert!(
        calls.len() == 2 && calls[0].starts_with(call) && calls[0].ends_with(" -"),
        "{calls:?}"
    );
}

#[test]
fn a_runtime_that_does_not_take_the_image_is_told_as_such() {
    let Some((lab, agent)) = node(&[]) else {
        return;
    };
    let n1 = lab.host("n1");
    n1.stand_ins.fail_ctr();
    let file = n1.scratch().join("image.tar");
    // Over HTTP/2 some clients, this one among them, drop an answer that comes in the midst of what
    // they send. Of what is not large the rest is read.
    for (option, mib) in [("--http1.1 -H Expect:", 2), ("--http2", 1)] {
        image(&file, mib);
        let line = format!(
            "curl -k {option} {TOKEN} --data-binary @{} {IMPORT}",
            file.display()
        );
        let answer = curl_line(n1, &line);
        assert_eq!(answer.status, 500);
        let told = "{\"error\":\"Failed to import the image: microk8s.ctr command failed: exit status 1\"}";
        assert_eq!(answer.body, told);
    }
    agent.wait_for("unrecognized image format");
    assert_eq!(n1.stand_ins.imported(), None);
}

#[test]
fn an_image_sent_without_the_token_is_not_read() {
    let Some((lab, agent)) = node(&[]) else {
        return;
    };
    let n1 = lab.host("n1");
    let file = n1.scratch().join("image.tar");
    image(&file, 64);
    let before = memory(agent.pid(), "VmRSS:");
    for token in ["", "-H 'x-microk8s-callback-token: nope'"] {
        let line = format!(
            "curl -k --http1.1 {token} -T {} -X POST {IMPORT}",
            file.display()
        );
        let answer = curl_line(n1, &line);
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (401, "{\"error\":\"Invalid token\"}")
        );
    }
    assert!(memory(agent.pid(), "VmHWM:") < before + (16 << 10));
    assert_eq!(n1.stand_ins.calls(), [""; 0]);
}

/// `openssl s_client` as a client that sends what it is told to, and no more.
struct Client(std::process::Child);

impl Client {
    fn sends(host: &Host, bytes: &[u8]) -> Self {
        let mut child = host
            .command(&[
                "openssl",
                "s_client",
                "-quiet",
                "-connect",
                "10.99.0.11:25000",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let head = "POST /cluster/api/v2.0/image/import HTTP/1.1\r\nHost: n1\r\nX-Microk8s-Callback-Token: secret\r\nContent-Length: 1000000\r\n\r\n";
        let stdin = child.stdin.as_mut().unwrap();
        stdin.write_all(head.as_bytes()).unwrap();
        stdin.write_all(bytes).unwrap();
        stdin.flush().unwrap();
        Self(child)
    }

    fn answer(mut self) -> String {
        let mut text = String::new();
        let mut stdout = self.0.stdout.take().unwrap();
        // The agent closes the connection after such an answer.
        let _ = stdout.read_to_string(&mut text);
        let _ = self.0.wait();
        text
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(what: &str, look: impl FnMut() -> Option<()>) {
    assert!(
        wait::until(STALL_TIMEOUT, Duration::from_millis(10), look).is_some(),
        "{what}"
    );
}

/// Nobody may be there to wait for it.
fn has_ended(pid: i32) -> Option<()> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z ").then_some(()),
        Err(_) => Some(()),
    }
}

fn has_gone(pid: i32) -> Option<()> {
    (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
}

#[test]
fn an_image_whose_sender_goes_away_is_not_imported() {
    let Some((lab, agent)) = node(&[]) else {
        return;
    };
    let n1 = lab.host("n1");
    let client = Client::sends(n1, &[7; 100_000]);
    until("the runtime is started", || {
        n1.stand_ins.ctr_process().map(drop)
    });
    let runtime = n1.stand_ins.ctr_process().unwrap();
    drop(client);
    // Not there as a zombie either.
    until("the runtime is ended and waited for", || has_gone(runtime));
    agent.wait_for("outcome=\"failed\"");
    assert_eq!(n1.stand_ins.imported(), None);
}

/// The second signal ends the agent at once, and with it the pipe to the runtime.
#[test]
fn an_image_under_way_is_not_imported_when_the_agent_ends_at_once() {
    let Some((lab, agent)) = node(&[]) else {
        return;
    };
    let n1 = lab.host("n1");
    let _client = Client::sends(n1, &[7; 100_000]);
    until("the runtime is started", || {
        n1.stand_ins.ctr_process().map(drop)
    });
    let runtime = n1.stand_ins.ctr_process().unwrap();
    agent.signal(Signal::SIGTERM);
    agent.wait_for("stopping: SIGTERM");
    agent.signal(Signal::SIGTERM);
    agent.ends();
    until("the runtime is ended", || has_ended(runtime));
    assert_eq!(n1.stand_ins.imported(), None);
}

#[test]
fn an_image_that_moves_is_not_cut_off_and_one_that_stands_still_is() {
    let Some((lab, _agent)) = node(&["--timeout", "1"]) else {
        return;
    };
    let n1 = lab.host("n1");
    let file = n1.scratch().join("image.tar");
    fs::write(&file, vec![1; 3 << 20]).unwrap();
    let began = Instant::now();
    let line = format!(
        "curl -k {TOKEN} -X POST --limit-rate 1M -T {} {IMPORT}",
        file.display()
    );
    let answer = curl_line(n1, &line);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "longer than a request may take"
    );
    assert_eq!(n1.stand_ins.imported(), Some(sha256(&vec![1; 3 << 20])));

    let _ = fs::remove_file(n1.scratch().join("stand-ins/ctr.sha256"));
    let answer = Client::sends(n1, &[7; 1000]).answer();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("nothing came for 1 seconds"), "{answer}");
    let runtime = n1.stand_ins.ctr_process().unwrap();
    until("the runtime is ended", || has_gone(runtime));
    assert_eq!(n1.stand_ins.imported(), None);
}
