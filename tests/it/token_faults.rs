//! The token database cannot be used, for another reason than damage: the agent names the file and the
//! cure, and has every token again when the cause is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::compat::preconditions::{new_token, token_file};
use crate::killed;
use crate::lab::agent::Agent;
use crate::lab::small_disk::SmallDisk;
use crate::lab::{Host, Lab, Output};

const HEALTH: &str = "curl -skf https://10.99.0.11:25000/health";

fn run(program: &str, arguments: &[&str], path: &Path) {
    let done = Command::new(program).args(arguments).arg(path).status();
    assert!(done.unwrap().success(), "{program} {arguments:?}");
}

/// What is wrong with a file or a folder; cured when it is dropped, so that a test that fails leaves
/// nothing behind.
struct Fault {
    path: PathBuf,
    cure: fn(&Path),
}

impl Fault {
    fn immutable(path: PathBuf) -> Self {
        run("chattr", &["+i"], &path);
        let cure = |path: &Path| run("chattr", &["-i"], path);
        Self { path, cure }
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        (self.cure)(&self.path);
    }
}

fn database(host: &Host) -> PathBuf {
    host.path("var/cluster-agent/tokens.redb")
}

fn end(agent: Agent) {
    agent.signal(Signal::SIGTERM);
    agent.ends();
}

#[track_caller]
fn assert_says(output: &Output, host: &Host, words: &[&str]) {
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    let path = database(host);
    assert!(output.stderr.contains(path.to_str().unwrap()), "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "`{word}`: {output:?}");
    }
}

#[test]
fn a_database_that_cannot_be_opened_is_named_with_its_cure_and_no_token_is_lost() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let (n1, n2, n3) = (lab.host("n1"), lab.host("n2"), lab.host("n3"));
    let persistent = new_token();
    let file = "credentials/persistent-cluster-tokens.txt";
    token_file(n1, file, &format!("{persistent}\n"));
    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    end(agent);
    let fault = Fault::immutable(database(n1));
    let agent = n1.agent();
    let words = ["Operation not permitted", "chattr -i"];
    for command in ["add-node", "token list", "token prune"] {
        assert_says(&n1.shell(&format!("microk8s {command}")), n1, &words);
    }
    // Which names are taken is known from the database, so that no node is admitted without it.
    let with = |token: &str| format!("microk8s join 10.99.0.11:25000/{token} --worker");
    for line in [&line, &with(&persistent)] {
        let refused = n2.shell(line);
        assert_eq!(refused.code, Some(6), "{refused:?}");
        let told = "token store of the contacted node";
        assert!(refused.stdout.contains(told), "{refused:?}");
    }
    n2.shell(HEALTH).ok();
    for word in words {
        assert!(agent.log().contains(word), "{}", agent.log());
    }
    drop(fault);
    n2.shell(&line).ok();
    n3.shell(&with(&persistent)).ok();
}

#[test]
fn an_agent_whose_folder_cannot_be_used_ends_with_its_name_and_cure_and_loses_no_token() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let folder = n1.path("var/cluster-agent");
    fs::create_dir(&folder).unwrap();
    let _disk = SmallDisk::over(n1, &folder, "4m");
    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    end(agent);
    let ends_with = |words: &[&str]| {
        let (status, said) = Agent::spawn(n1, &[]).ends();
        assert_eq!(status.code(), Some(1), "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}`: {said}");
        }
        assert!(said.contains(folder.to_str().unwrap()), "{said}");
    };
    run("mount", &["-o", "remount,ro"], &folder);
    ends_with(&["Read-only file system", "mount it for writing"]);
    run("mount", &["-o", "remount,rw"], &folder);
    let agent = n1.agent();
    n2.shell(&line).ok();
    end(agent);
}

#[test]
fn a_file_in_the_place_of_the_agents_folder_is_named_and_nothing_is_done_to_it() {
    let Some(lab) = Lab::new(&["n1"]) else { return };
    let n1 = lab.host("n1");
    let folder = n1.path("var/cluster-agent");
    fs::write(&folder, "mine").unwrap();
    let (status, said) = Agent::spawn(n1, &[]).ends();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(folder.to_str().unwrap()), "{said}");
    assert!(
        said.contains("Not a directory") && said.contains("move away"),
        "{said}"
    );
    assert_eq!(fs::read_to_string(&folder).unwrap(), "mine");
}

#[test]
fn a_database_that_a_failing_disk_does_not_write_is_used_again_when_it_does() {
    if !killed::can_kill() {
        return;
    }
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    let path = database(n1);
    for call in ["pwrite64", "fdatasync,fsync"] {
        let options = format!(
            "-P {} -e trace={call} -e inject={call}:error=EIO",
            path.display()
        );
        let strace = killed::disturb(agent.pid(), &options);
        let refused = n1.shell("microk8s add-node");
        assert_says(&refused, n1, &["Input/output error", "the disk fails"]);
        let refused = n2.shell(&line);
        assert_eq!(refused.code, Some(6), "{call}: {refused:?}");
        n2.shell(HEALTH).ok();
        strace.detach();
        assert_eq!(
            n1.shell("microk8s token list").ok().lines().count(),
            2,
            "{call}: {}",
            agent.log()
        );
    }
    n2.shell(&line).ok();
}

#[test]
fn a_database_that_may_not_grow_costs_no_token_and_does_not_end_the_agent() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let agent = n1.agent();
    let line = format!("{} --worker", n1.join_line());
    let limit = |size: &str| {
        let pid = agent.pid().to_string();
        let words = ["prlimit", "--pid", &pid, &format!("--fsize={size}")];
        n1.run(&words).ok();
    };
    limit("4096:unlimited");
    let refused = n1.shell("microk8s add-node");
    assert_says(&refused, n1, &["File too large", "LimitFSIZE="]);
    n2.shell(HEALTH).ok();
    limit("unlimited:unlimited");
    n2.shell(&line).ok();
}
