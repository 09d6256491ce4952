//! How an operation is told: to people as MicroK8s does, with a spinner on a terminal, or to programs
//! as lines of JSON.

use std::ffi::OsString;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli::join_args::{Format, Manner};
use crate::cli::join_check::Findings;
use crate::cli::json_events::Lines;
use crate::cli::output::{self, OutputLost, Printer};
use crate::cli::spinner::Spinner;
use crate::wire::operation::{End, Event, Failure};

/// What a worker's operator should know (recording `join-worker-ok`).
const WORKER_USAGE: &str = "
The node has joined the cluster and will appear in the nodes list in a few seconds.

This worker node gets automatically configured with the API server endpoints.
If the API servers are behind a loadbalancer please set the '--refresh-interval' to '0s' in:
    /var/snap/microk8s/current/args/apiserver-proxy
and replace the API server endpoints with the one provided by the loadbalancer in:
    /var/snap/microk8s/current/args/traefik/provider.yaml

";

/// Tells an operation, and prints what comes before it.
pub(crate) struct Renderer<'a> {
    printer: &'a mut dyn Printer,
    form: Form,
    spinner: Spinner,
    /// Of a join that is tried again.
    attempts: Option<Attempts>,
}

/// What a join that is tried again has told.
#[derive(Default)]
struct Attempts {
    /// What is not told twice.
    told: Vec<Event>,
    /// Why the last attempt failed.
    failure: Option<Failure>,
}

impl Attempts {
    /// Whether the event is not told, or not yet.
    fn holds_back(&mut self, event: &Event) -> bool {
        match event {
            Event::End(End::Failed(failure)) if failure.may_pass() => {
                self.failure = Some(failure.clone());
                true
            }
            Event::Contacting { .. } | Event::Warning { .. } => {
                let was_told = self.told.contains(event);
                self.told.push(event.clone());
                was_told
            }
            _ => false,
        }
    }
}

enum Form {
    /// MicroK8s's texts, and how the operation ended.
    Text(Option<ExitStatus>),
    /// Lines of JSON.
    Lines(Lines),
    /// The findings of a dry run of a join, as text or as lines of JSON.
    Findings(Findings),
}

impl<'a> Renderer<'a> {
    /// Tells a leave or a removal.
    pub(crate) fn new(format: Format, printer: &'a mut dyn Printer) -> Self {
        let manner = Manner {
            is_dry_run: false,
            format,
            no_progress: true,
        };
        Self::of_join(&[], manner, printer)
    }

    /// Tells a join with these arguments in this manner.
    pub(crate) fn of_join(
        arguments: &[OsString],
        manner: Manner,
        printer: &'a mut dyn Printer,
    ) -> Self {
        let form = match manner.format {
            format if manner.is_dry_run => Form::Findings(Findings::new(arguments, format)),
            Format::Json => Form::Lines(Lines::new(arguments)),
            Format::Text => Form::Text(None),
        };
        let has_spinner = !manner.is_dry_run && !manner.no_progress && output::can_redraw();
        Self {
            printer,
            form,
            spinner: Spinner::new(has_spinner),
            attempts: None,
        }
    }

    /// From now on a failure that may pass is not told, and nothing is said twice.
    pub(crate) fn hold_back(&mut self) {
        self.attempts = Some(Attempts::default());
    }

    /// Why the attempt failed that ended last, where that was not told.
    pub(crate) fn take_held(&mut self) -> Option<Failure> {
        self.attempts.as_mut()?.failure.take()
    }

    /// Tells why the last attempt failed.
    pub(crate) fn tell_last(&mut self, failure: Failure) {
        self.attempts = None;
        self.tell(&Event::End(End::Failed(failure)));
    }

    /// Tells one event. An operation goes on although nothing reads its output.
    pub(crate) fn tell(&mut self, event: &Event) {
        if let Some(attempts) = &mut self.attempts
            && attempts.holds_back(event)
        {
            return;
        }
        let has_dots = self.has_reader();
        let Self {
            printer,
            form,
            spinner,
            ..
        } = self;
        spinner.around(event, has_dots, || match form {
            Form::Text(status) => print_text(event, *printer, status),
            Form::Lines(lines) => lines.tell(event, *printer),
            Form::Findings(findings) => findings.tell(event, *printer),
        });
        if let Event::End(end) = event {
            if matches!(end, End::Left { .. }) {
                printer.err("This node has left the cluster.");
            }
            if let Some(hint) = end.hint() {
                printer.err(&format!("hint: {hint}"));
            }
        }
    }

    /// The command is over, with this status where the operation did not come to its end. Says what the
    /// exit status is. In JSON there is a last line in any case.
    pub(crate) fn finish(self, status: Result<(), ExitStatus>) -> ExitStatus {
        let ended = match &self.form {
            Form::Text(ended) => status.err().or(*ended),
            Form::Lines(lines) => lines.ended(),
            Form::Findings(findings) => findings.ended(),
        };
        ended.unwrap_or_else(|| {
            let status = status.err().unwrap_or(ExitStatus::Failure);
            match self.form {
                Form::Text(_) => {}
                Form::Lines(lines) => lines.finish(status, self.printer),
                Form::Findings(findings) => findings.finish(status, self.printer),
            }
            status
        })
    }
}

impl Printer for Renderer<'_> {
    fn out(&mut self, text: &str) -> Result<(), OutputLost> {
        let captured = match &mut self.form {
            Form::Text(_) => None,
            Form::Lines(lines) => Some(lines.captured()),
            Form::Findings(findings) => findings.captured(),
        };
        match captured {
            None => self.spinner.aside(|| self.printer.out(text)),
            Some(captured) => {
                captured.out(text);
                Ok(())
            }
        }
    }

    fn err(&mut self, line: &str) {
        let Self {
            printer,
            form,
            spinner,
            ..
        } = self;
        spinner.aside(|| {
            match form {
                Form::Text(_) => {}
                Form::Lines(lines) => lines.err(line, *printer),
                Form::Findings(findings) => findings.err(line, *printer),
            }
            printer.err(line);
        });
    }

    fn has_reader(&self) -> bool {
        matches!(self.form, Form::Text(_)) && self.printer.has_reader()
    }
}

/// Prints what MicroK8s prints of an event, and warnings.
fn print_text(event: &Event, printer: &mut dyn Printer, status: &mut Option<ExitStatus>) {
    let text = match event {
        Event::Contacting {
            address,
            from_microk8s: true,
        } => format!("Contacting cluster at {address}\n"),
        Event::Line { text }
        | Event::Warning {
            message: text,
            from_microk8s: true,
        } => format!("{text}\n"),
        Event::Warning { message, .. } => {
            let message = sanitize::for_terminal(message);
            return printer.err(&format!("warning: {message}"));
        }
        Event::Stderr { text } => return printer.err(text),
        Event::Waiting { message, .. } => format!("{message}. "),
        Event::NotYet => ". ".to_owned(),
        Event::NotAnswering => ".. ".to_owned(),
        Event::WaitingDone => " \n".to_owned(),
        Event::Contacting { .. } | Event::Stage { .. } | Event::Finding(_) => return,
        Event::End(End::Failed(failure)) => {
            *status = Some(output::failure(printer, failure));
            return;
        }
        Event::End(end) => {
            *status = Some(ExitStatus::Success);
            last_text(end)
        }
    };
    let _ = printer.out(&text);
}

/// What is printed at the end of an operation that did not fail.
fn last_text(end: &End) -> String {
    match end {
        End::Joined { has_api_proxy, .. } => {
            let usage = if *has_api_proxy { WORKER_USAGE } else { "" };
            format!("{usage}Successfully joined the cluster.\n")
        }
        End::AlreadyMember { .. } => "This node is already a member of the cluster.\n".to_owned(),
        End::Planned { role, steps, .. } => {
            let steps: String = steps.iter().map(|step| format!("- {step}\n")).collect();
            format!(
                "This node is a {role} node of the cluster. To leave it, this would be done:\n{steps}Nothing was changed.\n"
            )
        }
        End::Absent { text } => format!("{text}\n"),
        End::Launched => "The launch configuration is applied.\n".to_owned(),
        End::Left { .. } | End::Removed | End::Checked { .. } | End::Failed(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;
    use crate::model::join_stage::JoinStage;
    use crate::model::role::Role;

    #[test]
    fn a_join_is_told_as_recorded() {
        let mut printer = Kept::default();
        let mut renderer = Renderer::new(Format::Text, &mut printer);
        for event in [
            Event::Contacting {
                address: "10.99.0.11".parse().unwrap(),
                from_microk8s: true,
            },
            Event::Waiting {
                stage: JoinStage::Datastore,
                message: "Waiting for this node to finish joining the cluster".to_owned(),
            },
            Event::NotYet,
            Event::NotAnswering,
            Event::WaitingDone,
            Event::End(End::Joined {
                role: Role::ControlPlane,
                has_api_proxy: false,
            }),
        ] {
            renderer.tell(&event);
        }
        assert_eq!(renderer.finish(Ok(())), ExitStatus::Success);
        assert_eq!(
            printer.out,
            "Contacting cluster at 10.99.0.11\nWaiting for this node to finish joining the cluster. . ..  \nSuccessfully joined the cluster.\n"
        );
    }

    #[test]
    fn no_control_character_of_a_warning_is_printed() {
        for format in [Format::Text, Format::Json] {
            let manner = Manner {
                is_dry_run: false,
                format,
                no_progress: true,
            };
            let mut printer = Kept::default();
            let mut renderer = Renderer::of_join(&[], manner, &mut printer);
            renderer.tell(&Event::warning("a\u{1b}[31mb\u{202e}"));
            renderer.finish(Ok(()));
            assert_eq!(printer.err, "warning: a?[31mb?\n");
            let told = printer.out.contains(r#""message":"a?[31mb?""#);
            assert_eq!(told, format == Format::Json, "{}", printer.out);
        }
    }

    #[test]
    fn an_operation_without_an_end_has_failed() {
        let mut printer = Kept::default();
        let renderer = Renderer::new(Format::Text, &mut printer);
        assert_eq!(renderer.finish(Ok(())), ExitStatus::Failure);
    }
}
