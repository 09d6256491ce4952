//! Subcommands that the snap's own command does: it takes over, and cannot lead in a circle.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use assert_cmd::Command;
use assert_cmd::assert::Assert;

use crate::lab::program::program;

/// Runs `microk8s status --wait` where the snap's own command is this script.
fn handed_over_to(script: &str) -> Assert {
    let snap = tempfile::tempdir().unwrap();
    let wrapper = snap.path().join("microk8s.wrapper");
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    Command::new(program())
        .args(["status", "--wait"])
        .env("SNAP", snap.path())
        .env("MICROK8S", program())
        .env_remove("MICROK8S_HANDED_OVER")
        .assert()
}

#[test]
fn the_snaps_command_takes_over_with_all_arguments() {
    handed_over_to("#!/bin/sh\necho \"$@\"\n")
        .success()
        .stdout("status --wait\n");
}

#[test]
fn a_command_of_the_snap_may_run_another_one() {
    let script =
        "#!/bin/sh\nif test \"$1\" = status; then \"$MICROK8S\" inspect; else echo \"$1\"; fi\n";
    handed_over_to(script).success().stdout("inspect\n");
}

#[test]
fn a_command_that_leads_back_here_is_refused_and_does_not_run_for_ever() {
    for way in ["exec ", ""] {
        let assert = handed_over_to(&format!("#!/bin/sh\n{way}\"$MICROK8S\" \"$@\"\n")).code(1);
        let errors = String::from_utf8_lossy(&assert.get_output().stderr);
        assert!(
            errors.starts_with("error: `status` is not known here, and `")
                && errors.contains("microk8s.wrapper` leads back to this program\nhint: "),
            "{errors}"
        );
    }
}
