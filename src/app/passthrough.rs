//! Subcommands that are not ours: the snap's own `microk8s` takes over.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::base::env_vars;
use crate::base::exit_status::ExitStatus;
use crate::cli::output::{self, Printer};
use crate::cli::{self, texts};
use crate::platform::process;

/// Where snapd puts the snap's command.
const SNAP_COMMAND: &str = "/snap/bin/microk8s";
/// How often one hand-over may lie inside another. A command of the snap may run further
/// commands, and they come here first; so many are a circle.
const MOST_TIMES: u32 = 8;

/// Becomes the snap's command, when there is one.
pub fn run(name: &str, arguments: &[OsString], printer: &mut dyn Printer) -> ExitStatus {
    if let Some(program) = snaps_own() {
        let times = times_handed_over();
        if times >= MOST_TIMES {
            let text = format!(
                "`{name}` is not known here, and `{}` leads back to this program",
                program.display()
            );
            let hint = "it should be the command that came with MicroK8s's snap";
            output::error(printer, &text, Some(hint));
            return ExitStatus::Failure;
        }
        let name = OsString::from(name);
        let error = process::become_program(
            &program,
            std::iter::once(&name).chain(arguments),
            &[(env_vars::MICROK8S_HANDED_OVER, &(times + 1).to_string())],
        );
        output::error(
            printer,
            &format!("cannot run `{}`: {error}", program.display()),
            None,
        );
        return ExitStatus::Failure;
    }
    // On a cluster without high availability.
    if name == "leave" {
        let text = format!(
            "`{name}` is done by MicroK8s's own command here, and MicroK8s is not installed"
        );
        output::error(printer, &text, None);
        return ExitStatus::Failure;
    }
    let text = texts::unknown_subcommand(name) + &texts::subcommands(&known());
    output::print(printer, &text, ExitStatus::Failure)
}

fn times_handed_over() -> u32 {
    std::env::var(env_vars::MICROK8S_HANDED_OVER)
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or_default()
}

/// Lists the subcommands, as MicroK8s does when it is given none.
pub fn list_subcommands(printer: &mut dyn Printer, status: ExitStatus) -> ExitStatus {
    output::print(printer, &texts::subcommands(&known()), status)
}

/// The snap's own `microk8s`: inside the snap its wrapper, outside what snapd put on the path;
/// never this program itself.
fn snaps_own() -> Option<PathBuf> {
    let wrapper = env_vars::path(env_vars::SNAP).map(|snap| snap.join("microk8s.wrapper"));
    wrapper
        .into_iter()
        .chain([PathBuf::from(SNAP_COMMAND)])
        .find(|program| program.is_file() && !is_this_program(program))
}

fn is_this_program(other: &Path) -> bool {
    let this = std::env::current_exe().and_then(std::fs::metadata);
    match (this, std::fs::metadata(other)) {
        (Ok(this), Ok(other)) => (this.dev(), this.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Our subcommands, and those that the snap has a wrapper for.
fn known() -> Vec<String> {
    let command = cli::command();
    let mut names: Vec<String> = command
        .get_subcommands()
        .map(|own| own.get_name().to_owned())
        .collect();
    let snap = env_vars::path(env_vars::SNAP);
    for entry in snap
        .and_then(|snap| std::fs::read_dir(snap).ok())
        .into_iter()
        .flatten()
        .flatten()
    {
        let file = entry.file_name();
        let name = file
            .to_str()
            .and_then(|file| file.strip_prefix("microk8s-")?.strip_suffix(".wrapper"));
        names.extend(name.map(str::to_owned));
    }
    names.sort();
    names.dedup();
    names
}
