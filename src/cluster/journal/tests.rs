//! Changes that are taken back, become final, or are cut off.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::platform::scripted::ScriptedPlatform;

type Tree = BTreeMap<PathBuf, (u32, Vec<u8>)>;

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if path.ends_with("var/cluster-agent") {
                continue;
            }
            let content = if meta.is_dir() {
                Vec::new()
            } else {
                std::fs::read(&path).unwrap()
            };
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.insert(path, (meta.mode(), content));
        }
    }
    found
}

fn node() -> (tempfile::TempDir, Layout) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::standalone(dir.path());
    for folder in [
        "args",
        "var/kubernetes/backend",
        "var/kubernetes/backend.backup",
    ] {
        std::fs::create_dir_all(layout.data().join(folder)).unwrap();
    }
    std::fs::write(layout.args("kubelet"), "--old\n").unwrap();
    std::fs::write(layout.backend().join("cluster.yaml"), "own").unwrap();
    std::fs::write(layout.backend_backup().join("cluster.yaml"), "older").unwrap();
    (dir, layout)
}

fn change(layout: &Layout, host: &ScriptedPlatform) -> Journal {
    let mut journal = Journal::begin(layout).unwrap();
    let secret = Access::Set {
        mode: 0o600,
        uid: None,
        gid: None,
    };
    journal
        .write(&layout.args("kubelet"), b"--new\n", secret)
        .unwrap();
    journal
        .write(&layout.args("kubelet"), b"--newer\n", secret)
        .unwrap();
    journal.write(&layout.args("added"), b"x", secret).unwrap();
    journal
        .service(host, Action::Restart, Service::Kubelite)
        .unwrap();
    journal
        .move_folder(&layout.backend(), &layout.backend_backup())
        .unwrap();
    journal.make_folder(&layout.backend(), 0o755).unwrap();
    journal
        .write(&layout.backend().join("init.yaml"), b"y", secret)
        .unwrap();
    journal.remove(&layout.args("added")).unwrap();
    journal.remove(&layout.args("nothing")).unwrap();
    journal
        .service(host, Action::Stop, Service::K8sDqlite)
        .unwrap();
    journal
}

#[test]
fn rolled_back_changes_leave_no_trace_but_restarted_services() {
    let (_dir, layout) = node();
    let host = ScriptedPlatform::default();
    let before = tree(layout.data());
    change(&layout, &host).roll_back(&host).unwrap();
    assert_eq!(tree(layout.data()), before);
    assert_eq!(
        host.calls()[2..],
        ["restart daemon-k8s-dqlite", "restart daemon-kubelite"]
    );
    assert!(!folder_of(&layout).exists());
}

#[test]
fn changes_of_a_killed_process_are_taken_back_later() {
    let (_dir, layout) = node();
    let host = ScriptedPlatform::default();
    let before = tree(layout.data());
    // Dropped without an end, as by a process that was killed.
    drop(change(&layout, &host));
    assert_eq!(recover(&layout, &host).unwrap(), Some(Ending::TakenBack));
    assert_eq!(tree(layout.data()), before);
    assert_eq!(recover(&layout, &host).unwrap(), None);
}

#[test]
fn an_undo_that_is_cut_off_anywhere_goes_on_where_it_stopped() {
    let steps = {
        let (_dir, layout) = node();
        let host = ScriptedPlatform::default();
        drop(change(&layout, &host));
        entries(&folder_of(&layout)).unwrap().len()
    };
    for cut in 0..=steps {
        let (_dir, layout) = node();
        let host = ScriptedPlatform::default();
        let before = tree(layout.data());
        drop(change(&layout, &host));
        for path in entries(&folder_of(&layout))
            .unwrap()
            .into_iter()
            .rev()
            .take(cut)
        {
            let entry = std::fs::read_to_string(&path).unwrap();
            undo::undo(&Undo::read(&path).unwrap(), &host).unwrap();
            // Killed after the undoing and before the entry was gone: it is done again.
            undo::undo(&Undo::read(&path).unwrap(), &host).unwrap();
            if !entry.contains("restart") {
                std::fs::remove_file(&path).unwrap();
            }
        }
        recover(&layout, &host).unwrap();
        assert_eq!(tree(layout.data()), before, "cut off after {cut} steps");
    }
}

#[test]
fn a_service_that_stays_down_is_told_apart_from_files_that_are_not_back() {
    let (_dir, layout) = node();
    let mut host = ScriptedPlatform::default();
    let before = tree(layout.data());
    let journal = change(&layout, &host);
    host.broken = vec![Service::Kubelite];
    let error = journal.roll_back(&host).unwrap_err();
    assert!(matches!(error, JournalError::NotRestarted(_)), "{error}");
    assert_eq!(tree(layout.data()), before);
    assert!(!is_open(&layout));
}

#[test]
fn what_cannot_be_undone_is_kept_and_named_and_holds_nothing_else_up() {
    let (_dir, layout) = node();
    let host = ScriptedPlatform::default();
    let before = tree(layout.data());
    let journal = change(&layout, &host);
    let calls = host.calls().len();
    let kubelet = layout.args("kubelet");
    std::fs::remove_file(&kubelet).unwrap();
    std::fs::create_dir_all(kubelet.join("x")).unwrap();
    let error = journal.roll_back(&host).unwrap_err();
    assert!(matches!(error, JournalError::NotUndone(_)), "{error}");
    assert!(error.to_string().contains("args/kubelet"), "{error}");
    let mut now = tree(layout.data());
    now.retain(|path, _| !path.starts_with(&kubelet));
    let mut rest = before.clone();
    rest.remove(&kubelet);
    assert_eq!(now, rest);
    assert_eq!(host.calls().len(), calls + 2, "the services restart once");
    // As long as nothing more is undone they are left alone.
    assert!(recover(&layout, &host).is_err());
    assert_eq!(host.calls().len(), calls + 2);
    std::fs::remove_dir_all(&kubelet).unwrap();
    assert_eq!(recover(&layout, &host).unwrap(), Some(Ending::TakenBack));
    assert_eq!(tree(layout.data()), before);
    assert_eq!(host.calls().len(), calls + 4);
}

#[test]
fn an_entry_that_cannot_be_read_holds_no_other_up() {
    let (_dir, layout) = node();
    let host = ScriptedPlatform::default();
    let before = tree(layout.data());
    let journal = change(&layout, &host);
    let damaged = folder_of(&layout).join("0099.json");
    std::fs::write(&damaged, "{").unwrap();
    let error = journal.roll_back(&host).unwrap_err();
    assert!(error.to_string().contains("0099.json"), "{error}");
    assert_eq!(tree(layout.data()), before);
}

#[test]
fn keys_and_credentials_are_undone_first_where_no_newer_change_stands_before_them() {
    let file = |path: &str| replay::Entry {
        path: PathBuf::new(),
        undo: Undo::RemoveFile { path: path.into() },
    };
    let datastore = replay::Entry {
        path: PathBuf::new(),
        undo: Undo::LeaveDatastore {
            backend: "/n/backend".into(),
            servers: Vec::new(),
            own: String::new(),
        },
    };
    let newest_first = vec![
        file("/n/args/kubelet"),
        datastore,
        file("/n/backend/cluster.key"),
        file("/n/credentials/client.config"),
        file("/n/certs/ca.crt"),
        file("/n/certs/ca.key"),
    ];
    let ordered: Vec<String> = replay::secrets_first(newest_first)
        .iter()
        .map(|entry| format!("{:?}", entry.undo))
        .collect();
    let place = |name: &str| ordered.iter().position(|text| text.contains(name)).unwrap();
    assert!(place("client.config") < place("ca.key"), "{ordered:#?}");
    assert!(place("ca.key") < place("args/kubelet"), "{ordered:#?}");
    assert!(
        place("LeaveDatastore") < place("cluster.key"),
        "{ordered:#?}"
    );
}

#[test]
fn final_changes_stay() {
    let (_dir, layout) = node();
    let host = ScriptedPlatform::default();
    let _ = change(&layout, &host).commit().unwrap();
    let after = tree(layout.data());
    assert_eq!(recover(&layout, &host).unwrap(), None);
    assert_eq!(tree(layout.data()), after);
    assert_eq!(
        std::fs::read_to_string(layout.args("kubelet")).unwrap(),
        "--newer\n"
    );
    assert_eq!(
        std::fs::read_to_string(layout.backend_backup().join("cluster.yaml")).unwrap(),
        "own"
    );
}

#[test]
fn old_secrets_in_the_journal_are_for_root_alone() {
    let (_dir, layout) = node();
    let host = ScriptedPlatform::default();
    let journal = change(&layout, &host);
    assert_eq!(
        std::fs::metadata(&journal.folder).unwrap().mode() & 0o777,
        0o700
    );
    for entry in std::fs::read_dir(&journal.folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            assert_eq!(
                std::fs::metadata(&path).unwrap().mode() & 0o777,
                0o600,
                "{path:?}"
            );
        }
    }
}

/// A leave up to the point from which there may be no way back.
fn leave(layout: &Layout, host: &ScriptedPlatform) -> (Journal, Onward) {
    let mut journal = Journal::begin(layout).unwrap();
    let mode = Access::Keep { or: 0o600 };
    journal
        .service(host, Action::Stop, Service::K8sDqlite)
        .unwrap();
    journal
        .write(&layout.args("kubelet"), b"--alone\n", mode)
        .unwrap();
    let next = layout.backend_next();
    journal.make_folder(&next, 0o755).unwrap();
    journal
        .write(&next.join("init.yaml"), b"alone", mode)
        .unwrap();
    let onward = Onward {
        forgotten: false,
        backend: layout.backend(),
        own: "10.99.0.12:19001".into(),
        steps: vec![
            Ahead::Replace {
                from: next,
                to: layout.backend(),
            },
            Ahead::Service {
                action: Action::Start,
                service: Service::K8sDqlite,
            },
        ],
    };
    journal.enter_onward(&onward).unwrap();
    (journal, onward)
}

fn listing(addresses: &[&str]) -> ScriptedPlatform {
    let list: Vec<String> = addresses
        .iter()
        .map(|address| format!(r#"{{"ID":1,"Address":"{address}:19001","Role":0}}"#))
        .collect();
    ScriptedPlatform {
        members: Some(format!("[{}]", list.join(","))),
        ..ScriptedPlatform::default()
    }
}

#[test]
fn a_cut_off_leave_goes_the_way_that_the_datastore_says() {
    for (addresses, ending) in [
        (&["10.99.0.11", "10.99.0.12"][..], Ending::TakenBack),
        (&["10.99.0.11", "10.99.0.120"], Ending::Completed),
    ] {
        let (_dir, layout) = node();
        let host = listing(addresses);
        let before = tree(layout.data());
        drop(leave(&layout, &host));
        assert_eq!(recover(&layout, &host).unwrap(), Some(ending));
        assert!(!is_open(&layout));
        if ending == Ending::TakenBack {
            assert_eq!(tree(layout.data()), before);
        } else {
            let init = std::fs::read_to_string(layout.backend().join("init.yaml"));
            assert_eq!(init.unwrap(), "alone");
            assert!(!layout.backend().join("cluster.yaml").exists());
            assert!(!layout.backend_next().exists());
        }
    }
}

#[test]
fn a_leave_whose_completion_is_cut_off_is_completed_later_even_without_an_answer() {
    let (_dir, layout) = node();
    let mut host = listing(&["10.99.0.11"]);
    host.broken = vec![Service::K8sDqlite];
    let (journal, onward) = {
        let working = ScriptedPlatform::default();
        leave(&layout, &working)
    };
    // It cannot be stopped, so its folder cannot be replaced yet.
    journal.roll_back(&host).unwrap_err();
    assert!(is_open(&layout));
    // By now there is no answer any more, and the folder has been put in its place just before a crash.
    let silent = ScriptedPlatform::default();
    onward.go(&folder_of(&layout), &silent).unwrap();
    assert_eq!(recover(&layout, &silent).unwrap(), Some(Ending::Completed));
    assert_eq!(
        std::fs::read_to_string(layout.backend().join("init.yaml")).unwrap(),
        "alone"
    );
}
