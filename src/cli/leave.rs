//! `microk8s leave`: what may be typed, and how a leave is told. Lines are MicroK8s's
//! (`messages.md`, leave).

use std::ffi::OsString;

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli;
use crate::cli::output::{self, Printer};
use crate::wire::leave_v1::{LeaveEvent, LeaveOrder};

/// The help text (recording `leave-help`).
pub const HELP: &str = "\
Usage: microk8s leave [OPTIONS]

  The node will depart from the cluster it is in.

Options:
  -h, --help  Show this message and exit.
";

/// The arguments of `leave`.
#[derive(Debug, Args)]
#[command(
    override_help = HELP,
    after_help = "With --dry-run the command says what it would do, one step a line, and changes nothing."
)]
pub struct LeaveArgs {
    /// Say what would be done, and change nothing
    #[arg(long, hide = true)]
    pub dry_run: bool,
}

/// What was typed.
#[derive(Debug)]
pub enum Typed {
    /// A leave.
    Leave(LeaveOrder),
    /// The help text was asked for.
    Help,
    /// Something that is not understood; it was said already.
    Wrong(ExitStatus),
}

/// Reads the arguments as MicroK8s's command does (recording `leave-extra-argument`).
pub fn read(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Typed {
    let typed: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match cli::read::<LeaveArgs>("leave", arguments) {
        Ok(args) => Typed::Leave(LeaveOrder {
            dry_run: args.dry_run,
        }),
        Err(error) if error.kind() == clap::error::ErrorKind::DisplayHelp => Typed::Help,
        Err(_) => Typed::Wrong(usage_error(printer, &typed)),
    }
}

fn usage_error(printer: &mut dyn Printer, typed: &[String]) -> ExitStatus {
    let wrong: Vec<&str> = typed
        .iter()
        .map(String::as_str)
        .filter(|argument| *argument != "--dry-run")
        .collect();
    let text = match wrong.iter().find(|argument| argument.starts_with('-')) {
        Some(option) => format!("No such option: {option}"),
        None => {
            let plural = if wrong.len() == 1 { "" } else { "s" };
            let list = wrong.join(" ");
            format!("Got unexpected extra argument{plural} ({list})")
        }
    };
    printer.err("Usage: microk8s leave [OPTIONS]");
    printer.err("Try 'microk8s leave -h' for help.");
    printer.err("");
    printer.err(&format!("Error: {text}"));
    ExitStatus::Usage
}

/// Tells a leave as MicroK8s does.
pub struct Narrator<'a> {
    printer: &'a mut dyn Printer,
    status: ExitStatus,
}

impl<'a> Narrator<'a> {
    /// Nothing was told yet; a leave that ends without a word failed.
    pub fn new(printer: &'a mut dyn Printer) -> Self {
        Self {
            printer,
            status: ExitStatus::Failure,
        }
    }

    /// Tells one event.
    pub fn tell(&mut self, event: &LeaveEvent) {
        let text = match event {
            LeaveEvent::Configuring => "Configuring services.\n".to_owned(),
            LeaveEvent::Certificates => "Generating new cluster certificates.\n".to_owned(),
            LeaveEvent::Waiting => "Waiting for node to start. ".to_owned(),
            LeaveEvent::NotUp => ". ".to_owned(),
            LeaveEvent::WaitingDone => " \n".to_owned(),
            LeaveEvent::Said { text } => {
                self.printer.err(text);
                return;
            }
            LeaveEvent::Warning { message } => {
                let message = sanitize::for_terminal(message);
                self.printer.err(&format!("warning: {message}"));
                return;
            }
            LeaveEvent::Would { role, steps } => {
                self.status = ExitStatus::Success;
                let steps: String = steps.iter().map(|step| format!("- {step}\n")).collect();
                format!(
                    "This node is a {role} node of the cluster. To leave it, this would be done:\n{steps}Nothing was changed.\n"
                )
            }
            LeaveEvent::Left { .. } => {
                self.status = ExitStatus::Success;
                return;
            }
            LeaveEvent::Failed(failure) => {
                self.status = output::failure(self.printer, failure);
                return;
            }
        };
        // The leave continues when its output is closed.
        let _ = self.printer.out(&text);
    }

    /// How the leave ended.
    pub fn status(&self) -> ExitStatus {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    fn typed(arguments: &[&str]) -> (Typed, String) {
        let mut printer = Kept::default();
        let typed = read(arguments.iter().map(Into::into).collect(), &mut printer);
        (typed, printer.err)
    }

    #[test]
    fn what_leave_does_not_take_is_named() {
        for (arguments, error) in [
            (&["now"] as &[&str], "Got unexpected extra argument (now)"),
            (
                &["--dry-run", "a", "b"],
                "Got unexpected extra arguments (a b)",
            ),
            (&["--nope"], "No such option: --nope"),
        ] {
            let (typed, err) = typed(arguments);
            assert!(matches!(typed, Typed::Wrong(ExitStatus::Usage)));
            assert!(err.ends_with(&format!("\n\nError: {error}\n")), "{err}");
        }
        assert!(matches!(typed(&["-h"]).0, Typed::Help));
        assert!(matches!(
            typed(&["--dry-run"]).0,
            Typed::Leave(LeaveOrder { dry_run: true })
        ));
    }
}
