//! Changes that are taken back, become final, or are cut off.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::platform::Action;
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

const SECRET: Access = Access::PRIVATE;

fn begin(layout: &Layout, host: &Arc<ScriptedPlatform>) -> Transaction {
    Transaction::begin(&Node::new(layout.clone(), host.clone())).unwrap()
}

/// The process that makes these changes is killed.
fn kill(transaction: Transaction) {
    let _ = ManuallyDrop::new(transaction);
}

const fn service(action: Action, service: Service) -> Step {
    Step::Service { action, service }
}

fn steps(layout: &Layout) -> [Step; 10] {
    [
        Step::write(&layout.args("kubelet"), b"--new\n", SECRET),
        Step::write(&layout.args("kubelet"), b"--newer\n", SECRET),
        Step::write(&layout.args("added"), b"x", SECRET),
        service(Action::Restart, Service::Kubelite),
        Step::MoveFolder {
            from: layout.backend(),
            to: layout.backend_backup(),
        },
        Step::MakeFolder(layout.backend()),
        Step::write(&layout.backend().join("init.yaml"), b"y", SECRET),
        Step::Remove(layout.args("added")),
        Step::Remove(layout.args("nothing")),
        service(Action::Stop, Service::K8sDqlite),
    ]
}

fn change(layout: &Layout, host: &Arc<ScriptedPlatform>) -> Transaction {
    let mut transaction = begin(layout, host);
    transaction.apply_all(&steps(layout)).unwrap();
    transaction
}

/// What is still to be undone.
fn entries(layout: &Layout) -> Vec<journal::Entry> {
    journal::read(&folder_of(layout)).unwrap().0
}

#[test]
fn rolled_back_changes_leave_no_trace_but_restarted_services() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let before = tree(layout.data());
    change(&layout, &host).roll_back().unwrap();
    assert_eq!(tree(layout.data()), before);
    assert_eq!(
        host.calls()[2..],
        ["restart daemon-k8s-dqlite", "restart daemon-kubelite"]
    );
    assert!(!folder_of(&layout).exists());
}

#[test]
fn changes_that_end_in_no_orderly_way_are_taken_back_at_once() {
    let (_dir, layout) = node();
    let host = Arc::default();
    let before = tree(layout.data());
    drop(change(&layout, &host));
    assert_eq!(tree(layout.data()), before);
    assert!(!is_open(&layout));
}

#[test]
fn changes_of_a_killed_process_are_taken_back_later() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let before = tree(layout.data());
    kill(change(&layout, &host));
    assert_eq!(
        recover(&layout, host.as_ref()).unwrap(),
        Some(Ending::TakenBack)
    );
    assert_eq!(tree(layout.data()), before);
    assert_eq!(recover(&layout, host.as_ref()).unwrap(), None);
}

#[test]
fn changes_that_are_cut_off_before_any_of_them_are_taken_back() {
    for cut in 0..10 {
        let (_dir, layout) = node();
        let host = Arc::new(ScriptedPlatform::default());
        let before = tree(layout.data());
        let mut transaction = begin(&layout, &host);
        let stop = |number| match number == cut {
            true => Err(JournalError::NotUndone(Vec::new())),
            false => Ok(()),
        };
        transaction.apply(&steps(&layout), stop).unwrap_err();
        kill(transaction);
        assert_eq!(
            recover(&layout, host.as_ref()).unwrap(),
            Some(Ending::TakenBack)
        );
        assert_eq!(tree(layout.data()), before, "cut off before step {cut}");
    }
}

#[test]
fn an_undo_that_is_cut_off_anywhere_goes_on_where_it_stopped() {
    let steps = {
        let (_dir, layout) = node();
        kill(change(&layout, &Arc::default()));
        entries(&layout).len()
    };
    for cut in 0..=steps {
        let (_dir, layout) = node();
        let host = Arc::new(ScriptedPlatform::default());
        let before = tree(layout.data());
        kill(change(&layout, &host));
        for entry in entries(&layout).into_iter().rev().take(cut) {
            // Killed after the undoing and before that was noted: it is done again.
            undo::undo(&entry.undo, host.as_ref()).unwrap();
            undo::undo(&entry.undo, host.as_ref()).unwrap();
            if !matches!(entry.undo, Undo::Restart { .. }) {
                entry.mark().unwrap();
            }
        }
        recover(&layout, host.as_ref()).unwrap();
        assert_eq!(tree(layout.data()), before, "cut off after {cut} steps");
    }
}

#[test]
fn a_record_that_is_cut_off_undoes_nothing_and_holds_nothing_up() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let before = tree(layout.data());
    kill(change(&layout, &host));
    let journal = folder_of(&layout).join("0000.json");
    let whole = std::fs::read(&journal).unwrap();
    let record = br#"[{"undo":"remove-file","path":"/nowhere"}]"#;
    for cut in 1..record.len() {
        // The length of a file may be on the disk before its content is.
        for tail in [&record[..cut], &[0, 0, 0xff, b'\n']] {
            std::fs::write(&journal, [&whole, tail].concat()).unwrap();
            assert!(journal::read(&folder_of(&layout)).unwrap().1.is_empty());
            assert_eq!(
                std::fs::read(&journal).unwrap(),
                [&whole, &b"\n"[..]].concat()
            );
        }
    }
    recover(&layout, host.as_ref()).unwrap();
    assert_eq!(tree(layout.data()), before);
}

#[test]
fn a_damaged_record_before_one_that_is_cut_off_is_named_each_time() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    kill(change(&layout, &host));
    let journal = folder_of(&layout).join("0000.json");
    let whole = std::fs::read(&journal).unwrap();
    let damaged = [&whole, &b"{\"undo\":\"remove-f\n{\"un"[..]].concat();
    std::fs::write(&journal, damaged).unwrap();
    for _ in 0..3 {
        let unreadable = journal::read(&folder_of(&layout)).unwrap().1;
        assert_eq!(unreadable.len(), 1);
    }
}

#[test]
fn services_that_were_not_touched_are_left_alone_when_changes_are_undone() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let before = tree(layout.data());
    let mut transaction = begin(&layout, &host);
    let missing = layout.args("missing/file");
    let steps = [
        Step::write(&layout.args("kubelet"), b"--new\n", SECRET),
        service(Action::Restart, Service::Containerd),
        Step::write(&missing, b"", SECRET),
        service(Action::Restart, Service::Kubelite),
    ];
    let error = transaction.apply_all(&steps).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    transaction.roll_back().unwrap();
    assert_eq!(tree(layout.data()), before);
    assert_eq!(host.calls(), ["restart daemon-containerd"; 2]);
}

/// As version 0.1 has left it, when it was killed: a file an undo.
#[test]
fn the_journal_of_an_earlier_version_is_undone() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let before = tree(layout.data());
    let data = layout.data().display().to_string();
    let kubelet = std::fs::metadata(layout.args("kubelet")).unwrap();
    let entries = [
        format!(
            r#"{{"undo":"restore-file","path":"{data}/args/kubelet","mode":{},"uid":{},"gid":{},"content":"LS1vbGQK"}}"#,
            kubelet.mode() & 0o7777,
            kubelet.uid(),
            kubelet.gid()
        ),
        format!(r#"{{"undo":"remove-file","path":"{data}/args/added"}}"#),
        r#"{"undo":"restart","service":"kubelite"}"#.to_owned(),
        format!(
            r#"{{"undo":"move-back","from":"{data}/var/kubernetes/backend.backup","to":"{data}/var/cluster-agent/journal/0003.kept"}}"#
        ),
        format!(
            r#"{{"undo":"move-back","from":"{data}/var/kubernetes/backend","to":"{data}/var/kubernetes/backend.backup"}}"#
        ),
        format!(r#"{{"undo":"remove-folder","path":"{data}/var/kubernetes/backend"}}"#),
    ];
    let folder = folder_of(&layout);
    std::fs::create_dir_all(&folder).unwrap();
    for (number, entry) in entries.iter().enumerate() {
        std::fs::write(folder.join(format!("{number:04}.json")), entry).unwrap();
    }
    std::fs::write(folder.join("report"), "to be told").unwrap();
    std::fs::write(folder.join("reserve"), "###").unwrap();
    std::fs::write(layout.args("kubelet"), "--new\n").unwrap();
    std::fs::write(layout.args("added"), "x").unwrap();
    std::fs::rename(layout.backend_backup(), folder.join("0003.kept")).unwrap();
    std::fs::rename(layout.backend(), layout.backend_backup()).unwrap();
    std::fs::create_dir(layout.backend()).unwrap();
    std::fs::write(layout.backend().join("init.yaml"), "y").unwrap();

    assert_eq!(
        recover(&layout, host.as_ref()).unwrap(),
        Some(Ending::TakenBack)
    );
    assert_eq!(tree(layout.data()), before);
    assert_eq!(host.calls(), ["restart daemon-kubelite"]);
    assert_eq!(unreported(&layout).unwrap().expose(), "to be told");
    assert!(!is_open(&layout));
}

#[test]
fn what_is_to_be_told_outlives_the_changes_that_are_undone_and_no_others() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    for is_final in [true, false] {
        let mut transaction = begin(&layout, &host);
        transaction.keep_report(&Secret::new("to be told")).unwrap();
        if is_final {
            let _ = transaction.commit().unwrap();
        } else {
            transaction.roll_back().unwrap();
        }
        assert_eq!(unreported(&layout).is_none(), is_final);
    }
}

#[test]
fn files_in_a_folder_that_moves_are_flushed_at_their_new_place() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let mut transaction = begin(&layout, &host);
    let next = layout.backend_next();
    let steps = [
        Step::MakeFolder(next.clone()),
        Step::write(&next.join("init.yaml"), b"y", SECRET),
        Step::MoveFolder {
            from: next,
            to: layout.backend(),
        },
    ];
    transaction.apply_all(&steps).unwrap();
    let backend = layout.backend();
    let flushed = [
        backend.parent().unwrap().to_owned(),
        backend.clone(),
        backend.join("init.yaml"),
    ];
    assert!(transaction.unflushed.iter().eq(&flushed));
    transaction
        .flush(|path| path.starts_with(&backend))
        .unwrap();
    assert!(transaction.unflushed.iter().eq(&flushed[..1]));
}

#[test]
fn a_service_that_stays_down_is_told_apart_from_files_that_are_not_back() {
    let (_dir, layout) = node();
    let before = tree(layout.data());
    kill(change(&layout, &Arc::default()));
    let host = ScriptedPlatform {
        broken: vec![Service::Kubelite],
        ..ScriptedPlatform::default()
    };
    let error = recover(&layout, &host).unwrap_err();
    assert!(matches!(error, JournalError::NotRestarted(_)), "{error}");
    assert_eq!(tree(layout.data()), before);
    assert!(!is_open(&layout));
}

#[test]
fn what_cannot_be_undone_is_kept_and_named_and_holds_nothing_else_up() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let before = tree(layout.data());
    let journal = change(&layout, &host);
    let calls = host.calls().len();
    let kubelet = layout.args("kubelet");
    std::fs::remove_file(&kubelet).unwrap();
    std::fs::create_dir_all(kubelet.join("x")).unwrap();
    let error = journal.roll_back().unwrap_err();
    assert!(matches!(error, JournalError::NotUndone(_)), "{error}");
    assert!(error.to_string().contains("args/kubelet"), "{error}");
    let mut now = tree(layout.data());
    now.retain(|path, _| !path.starts_with(&kubelet));
    let mut rest = before.clone();
    rest.remove(&kubelet);
    assert_eq!(now, rest);
    assert_eq!(host.calls().len(), calls + 2, "the services restart once");
    // As long as nothing more is undone they are left alone.
    assert!(recover(&layout, host.as_ref()).is_err());
    assert_eq!(host.calls().len(), calls + 2);
    std::fs::remove_dir_all(&kubelet).unwrap();
    assert_eq!(
        recover(&layout, host.as_ref()).unwrap(),
        Some(Ending::TakenBack)
    );
    assert_eq!(tree(layout.data()), before);
    assert_eq!(host.calls().len(), calls + 4);
}

#[test]
fn an_entry_that_cannot_be_read_holds_no_other_up() {
    let (_dir, layout) = node();
    let host = Arc::new(ScriptedPlatform::default());
    let before = tree(layout.data());
    let journal = change(&layout, &host);
    let damaged = folder_of(&layout).join("0099.json");
    std::fs::write(&damaged, "{").unwrap();
    let error = journal.roll_back().unwrap_err();
    assert!(error.to_string().contains("0099.json"), "{error}");
    assert_eq!(tree(layout.data()), before);
}

#[test]
fn keys_and_credentials_are_undone_first_where_no_newer_change_stands_before_them() {
    let entry = |undo| journal::Entry::new(Path::new(""), 0, undo);
    let file = |path: &str| entry(Undo::RemoveFile { path: path.into() });
    let datastore = entry(Undo::LeaveDatastore {
        backend: "/n/backend".into(),
        servers: Vec::new(),
        own: String::new(),
    });
    let newest_first = vec![
        file("/n/args/kubelet"),
        datastore,
        file("/n/backend/cluster.key"),
        file("/n/credentials/client.config"),
        file("/n/certs/ca.crt"),
        file("/n/certs/ca.key"),
    ];
    let ordered: Vec<String> = rollback::secrets_first(newest_first)
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
    let host = Arc::new(ScriptedPlatform::default());
    let _ = change(&layout, &host).commit().unwrap();
    let after = tree(layout.data());
    assert_eq!(recover(&layout, host.as_ref()).unwrap(), None);
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
    let host = Arc::new(ScriptedPlatform::default());
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
fn leave(layout: &Layout, host: &Arc<ScriptedPlatform>) -> (Transaction, CommitPoint) {
    let mut transaction = begin(layout, host);
    let next = layout.backend_next();
    let steps = [
        service(Action::Stop, Service::K8sDqlite),
        Step::write(&layout.args("kubelet"), b"--alone\n", SECRET),
        Step::MakeFolder(next.clone()),
        Step::write(&next.join("init.yaml"), b"alone", SECRET),
    ];
    transaction.apply_all(&steps).unwrap();
    let point = CommitPoint {
        forgotten: false,
        backend: layout.backend(),
        own: "10.99.0.12:19001".into(),
        steps: vec![
            Step::MoveFolder {
                from: next,
                to: layout.backend(),
            },
            service(Action::Start, Service::K8sDqlite),
        ],
    };
    transaction.enter_commit_point(&point).unwrap();
    (transaction, point)
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
        let host = Arc::new(listing(addresses));
        let before = tree(layout.data());
        kill(leave(&layout, &host).0);
        assert_eq!(recover(&layout, host.as_ref()).unwrap(), Some(ending));
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
    let (transaction, point) = leave(&layout, &Arc::default());
    kill(transaction);
    // It cannot be stopped, so its folder cannot be replaced yet.
    recover(&layout, &host).unwrap_err();
    assert!(is_open(&layout));
    // By now there is no answer any more, and the folder has been put in its place just before a crash.
    let silent = ScriptedPlatform::default();
    point.go(&folder_of(&layout), &silent).unwrap();
    assert_eq!(recover(&layout, &silent).unwrap(), Some(Ending::Completed));
    assert_eq!(
        std::fs::read_to_string(layout.backend().join("init.yaml")).unwrap(),
        "alone"
    );
}
