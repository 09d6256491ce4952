//! `microk8s leave`: what may be typed.

use std::ffi::OsString;

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::cli;
use crate::cli::join_args::Format;
use crate::cli::output::Printer;
use crate::wire::operation::Operation;

/// The arguments of `leave`.
#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// List what would be done, one step a line, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How the progress of the leave is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Format,

    /// End with 0 where this node is not in a cluster
    #[arg(long)]
    pub(crate) if_present: bool,
}

/// Reads the arguments, without `--format`, as MicroK8s's command does (recording `leave-extra-argument`),
/// or prints what is wrong and returns the exit status.
pub(crate) fn read(
    arguments: Vec<OsString>,
    printer: &mut dyn Printer,
) -> Result<Operation, ExitStatus> {
    let typed: Vec<String> = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    match cli::read::<LeaveArgs>("leave", arguments) {
        Ok(args) => Ok(Operation::Leave {
            dry_run: args.dry_run,
        }),
        Err(_) => Err(usage_error(printer, &typed)),
    }
}

fn usage_error(printer: &mut dyn Printer, typed: &[String]) -> ExitStatus {
    let wrong: Vec<&str> = typed
        .iter()
        .map(String::as_str)
        .filter(|argument| !["--dry-run", cli::IF_PRESENT].contains(argument))
        .collect();
    let text = match wrong.iter().find(|argument| argument.starts_with('-')) {
        Some(option) => format!("No such option: {option}"),
        None => cli::extra_arguments(&wrong),
    };
    cli::usage_error(printer, "leave", "[OPTIONS]", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    fn typed(arguments: &[&str]) -> (Result<Operation, ExitStatus>, String) {
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
            (
                &["--dry-rum"],
                "No such option: --dry-rum\nhint: did you mean `--dry-run`?",
            ),
        ] {
            let (typed, err) = typed(arguments);
            assert!(matches!(typed, Err(ExitStatus::Usage)));
            assert!(err.ends_with(&format!("\n\nError: {error}\n")), "{err}");
        }
        assert!(matches!(
            typed(&["--dry-run"]).0,
            Ok(Operation::Leave { dry_run: true })
        ));
    }
}
