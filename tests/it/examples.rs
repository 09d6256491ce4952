//! The files in `examples/`: each forms a cluster, and a second run of it changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::Value;

use crate::compat::preconditions::new_token;
use crate::lab::snapshot::Snapshot;
use crate::lab::{Host, Lab, Output, skip};

const HOSTS: [(&str, &str); 3] = [
    ("n1", "control-plane"),
    ("n2", "control-plane"),
    ("n3", "worker"),
];

fn example(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(path)
}

/// All three are in one cluster, each as what it is to be.
fn assert_one_cluster(lab: &Lab) {
    let own = |host: &Host| -> Value {
        serde_json::from_str(&host.shell("microk8s nodes --self --format json").ok()).unwrap()
    };
    let cluster = &own(lab.host("n1"))["cluster"];
    for (name, role) in HOSTS {
        let own = own(lab.host(name));
        assert_eq!(
            (&own["role"], &own["cluster"]),
            (&role.into(), cluster),
            "{name}"
        );
    }
}

/// A Python that runs on this host of the lab, as it does on a machine that Ansible logs in to.
fn python_on(host: &Host) -> PathBuf {
    let path = host.scratch().join("python");
    let environment: String = host
        .command(&["true"])
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)))
        .map(|(name, value)| format!("'{name}={value}' "))
        .collect();
    let entering = host.entering().join(" ");
    let script =
        format!("#!/bin/sh\nexec {entering} env -i {environment} /usr/bin/python3 \"$@\"\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The inventory of the example, with the hosts of a lab.
fn inventory(lab: &Lab) -> PathBuf {
    let host = |name: &str| {
        let python = python_on(lab.host(name));
        format!(
            "{name}: {{ansible_connection: local, ansible_python_interpreter: {}}}",
            python.display()
        )
    };
    let path = lab.host("n1").scratch().join("inventory.yml");
    let text = format!(
        "control_plane: {{hosts: {{{}, {}}}}}\nworkers: {{hosts: {{{}}}}}\n",
        host("n1"),
        host("n2"),
        host("n3")
    );
    fs::write(&path, text).unwrap();
    path
}

/// Runs a playbook of the examples to its end.
fn play(lab: &Lab, inventory: &Path, arguments: &[&str]) -> Output {
    let folder = lab.host("n1").scratch().join("ansible");
    let mut command = Command::new("ansible-playbook");
    command
        .arg("--inventory")
        .arg(inventory)
        .args(["--extra-vars", "use_sudo=false"])
        .args(arguments)
        .current_dir(example("ansible"))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", &folder)
        .env("LANG", "C.UTF-8")
        .env("ANSIBLE_REMOTE_TEMP", folder.join("remote"));
    Output::of_command(&mut command, b"")
}

/// How many tasks changed something, by the summary at the end.
fn changes(output: &Output) -> usize {
    let summary = output.stdout.rsplit("PLAY RECAP").next().unwrap();
    let numbers = summary
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("changed="));
    numbers.map(|number| number.parse::<usize>().unwrap()).sum()
}

/// The nodes' files, and the tokens that n1 knows.
fn state(lab: &Lab) -> (Vec<Snapshot>, String) {
    let tokens = lab.host("n1").shell("microk8s token list --format json");
    (
        lab.hosts().iter().map(Host::snapshot).collect(),
        tokens.ok(),
    )
}

#[test]
fn the_play_forms_a_cluster_and_a_second_run_changes_nothing() {
    if Command::new("ansible-playbook")
        .arg("--version")
        .output()
        .is_err()
    {
        return skip("ansible-core is not installed");
    }
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let _agents: Vec<_> = lab.hosts().iter().map(Host::agent).collect();
    let inventory = inventory(&lab);
    let first = play(&lab, &inventory, &["cluster.yml"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(changes(&first) > 0, "{first:?}");
    assert_one_cluster(&lab);
    let before = state(&lab);
    let again = play(&lab, &inventory, &["cluster.yml"]);
    assert_eq!((again.code, changes(&again)), (Some(0), 0), "{again:?}");
    assert!(before == state(&lab));
    for changed in [1, 0] {
        let removed = play(&lab, &inventory, &["remove.yml", "--limit", "n3"]);
        assert_eq!(
            (removed.code, changes(&removed)),
            (Some(0), changed),
            "{removed:?}"
        );
    }
    assert_eq!(lab.host("n3").shell("microk8s nodes --self").code, Some(17));
}

/// The script that cloud-init writes and runs.
fn script(host: &Host) -> PathBuf {
    let text = fs::read_to_string(example("cloud-init/user-data.yaml")).unwrap();
    let data: Value = serde_saphyr::from_str(&text).unwrap();
    let file = &data["write_files"][1];
    assert_eq!(file["path"], data["runcmd"][0][0]);
    let path = host.scratch().join("microk8s-cluster");
    fs::write(&path, file["content"].as_str().unwrap()).unwrap();
    path
}

#[test]
fn the_script_of_cloud_init_forms_a_cluster_and_a_second_run_changes_nothing() {
    let Some(lab) = Lab::new(&["n1", "n2", "n3"]) else {
        return;
    };
    let agent = lab.host("n1").agent();
    let token = new_token();
    let run = |name: &str| {
        let host = lab.host(name);
        let file = host.scratch().join("token");
        fs::write(&file, &token).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let (script, file) = (script(host), file.display());
        let worker = if name == "n3" { "--worker" } else { "" };
        let script = script.display();
        host.shell(&format!(
            "TOKEN_FILE={file} sh {script} 10.99.0.11 {worker}"
        ))
    };
    // The machines start in any order.
    thread::scope(|scope| {
        let others = ["n2", "n3"].map(|name| scope.spawn(move || run(name)));
        agent.wait_for("unknown");
        run("n1").ok();
        for other in others {
            other.join().unwrap().ok();
        }
    });
    assert_one_cluster(&lab);
    let before = state(&lab);
    for (name, _) in HOSTS {
        assert_eq!(run(name).ok(), "", "{name}");
    }
    assert!(before == state(&lab));
}
