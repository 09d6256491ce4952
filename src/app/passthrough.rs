//! Subcommands that are not ours: the snap's own `microk8s` takes over.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::base::env_vars;
use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli::output::{self, Printer};
use crate::cli::{self, texts};
use crate::platform::process;

/// Where snapd puts the snap's command.
const SNAP_COMMAND: &str = "/snap/bin/microk8s";
/// How often one hand-over may lie inside another. A command of the snap may run further
/// commands, and they come here first; so many are a circle.
const MOST_TIMES: u32 = 8;

/// Becomes the snap's command, when there is one.
pub(crate) fn run(name: &str, arguments: &[OsString], printer: &mut dyn Printer) -> ExitStatus {
    if let Some(program) = snaps_own() {
        let times = times_handed_over();
        if times >= MOST_TIMES {
            let text = format!(
                "`{name}` is not known here, and `{}` leads back to this program",
                program.display()
            );
            let hint = "it should be the command that came with MicroK8s's snap";
            return output::fail(printer, text, Some(hint));
        }
        let name = OsString::from(name);
        let error = process::become_program(
            &program,
            std::iter::once(&name).chain(arguments),
            &[(env_vars::MICROK8S_HANDED_OVER, &(times + 1).to_string())],
        );
        let text = format!("cannot run `{}`: {error}", program.display());
        return output::fail(printer, text, None);
    }
    // On a cluster without high availability.
    if name == "leave" {
        let text = format!(
            "`{name}` is done by MicroK8s's own command here, and MicroK8s is not installed"
        );
        return output::fail(printer, text, None);
    }
    if texts::SNAP_COMMANDS.contains(&name) {
        let text = format!("`microk8s {name}` is a command of MicroK8s, which is not installed");
        let hint = "install it with `sudo snap install microk8s --classic`; `microk8s help` lists the commands that need no snap";
        return output::fail(printer, text, Some(hint));
    }
    let status = output::print(
        printer,
        &texts::unknown_subcommand(name),
        ExitStatus::Failure,
    );
    let hint = match cli::similar_command(name, &texts::SNAP_COMMANDS) {
        Some(similar) => format!("did you mean `microk8s {similar}`?"),
        None => "`microk8s help` lists the commands".to_owned(),
    };
    let text = format!("`{name}` is not a command");
    output::error(printer, &sanitize::for_terminal(&text), Some(&hint));
    status
}

fn times_handed_over() -> u32 {
    std::env::var(env_vars::MICROK8S_HANDED_OVER)
        .ok()
        .and_then(|times| times.parse().ok())
        .unwrap_or_default()
}

/// Prints the help of the program, with the commands of the snap where there is one.
pub(crate) fn list_commands(printer: &mut dyn Printer, status: ExitStatus) -> ExitStatus {
    let mut text = cli::command().render_help().to_string();
    if snaps_own().is_some() {
        text += &texts::snap_commands();
    }
    output::print(printer, &text, status)
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
