//! `join`, `leave` and `remove-node` with `--format json`: lines of JSON, for programs.
//!
//! The form is described by `docs/join-events.schema.json` and its like, and is one of its own: what
//! the agent and the command line tell each other may change without it.

use std::ffi::OsString;
use std::time::Instant;

use serde::Serialize;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli::captured_output::CapturedOutput;
use crate::cli::output::{self, Printer};
use crate::model::join_stage::{JoinStage, Retry};
use crate::model::role::Role;
use crate::wire::operation::{End, Event, Failure};

/// One line.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    kind: &'static str,
    stage: &'a str,
    message: &'a str,
    seconds: f64,
    outcome: Option<&'static str>,
    role: Option<Role>,
    hint: Option<&'a str>,
    retry: Option<Retry>,
    retry_after: Option<u64>,
    exit: Option<u8>,
}

const PROGRESS: &str = "progress";
const WARNING: &str = "warning";
const FAILED: &str = "failed";

/// Tells an operation as lines of JSON on standard output, where nothing else is printed. Standard error
/// is as without it.
pub(crate) struct Lines {
    began: Instant,
    stage: &'static str,
    captured: CapturedOutput,
    ended: Option<ExitStatus>,
}

impl Lines {
    /// The clock begins to run.
    pub(crate) fn new(arguments: &[OsString]) -> Self {
        Self {
            began: Instant::now(),
            stage: JoinStage::Preflight.into_str(),
            captured: CapturedOutput::new(arguments),
            ended: None,
        }
    }

    /// Where text for standard output goes.
    pub(crate) fn captured(&mut self) -> &mut CapturedOutput {
        &mut self.captured
    }

    /// Tells a warning among the lines for standard error.
    pub(crate) fn err(&mut self, line: &str, printer: &mut dyn Printer) {
        if let Some(warning) = self.captured.err(line) {
            self.line(WARNING, warning, printer);
        }
    }

    /// The exit status of the operation, once it has ended.
    pub(crate) const fn ended(&self) -> Option<ExitStatus> {
        self.ended
    }

    /// Tells that the command is over before the operation has ended.
    pub(crate) fn finish(mut self, status: ExitStatus, printer: &mut dyn Printer) {
        let (message, hint) = self.captured.take();
        let end = Line {
            hint: hint.as_deref(),
            ..self.end(FAILED, &message, status)
        };
        write(&end, printer);
    }

    /// Tells one event.
    pub(crate) fn tell(&mut self, event: &Event, printer: &mut dyn Printer) {
        // What was printed before the operation began stopped nothing.
        let printed = self.captured.take_stdout();
        if !printed.is_empty() {
            self.line(WARNING, &printed, printer);
        }
        if let Some(stage) = event.begins() {
            self.stage = stage.into_str();
        }
        let message = match event {
            Event::Contacting { address, .. } => &format!("Contacting cluster at {address}"),
            Event::Stage { doing: message, .. } => message,
            Event::Warning {
                message,
                from_microk8s: true,
            } => return self.line(WARNING, message, printer),
            Event::Warning { message, .. } => {
                let message = sanitize::for_terminal(message);
                self.line(WARNING, &message, printer);
                return printer.err(&format!("warning: {message}"));
            }
            Event::Line { text: message } | Event::Waiting { message, .. } => message,
            Event::NotYet if self.stage == JoinStage::Datastore.into_str() => {
                "The datastore does not list this node yet"
            }
            Event::NotYet => "Still waiting",
            Event::NotAnswering => "The datastore could not be asked yet",
            Event::WaitingDone => "The waiting is over",
            Event::Stderr { text } => return printer.err(text),
            Event::Finding(_) => return,
            Event::End(end) => return self.last(end, printer),
        };
        self.line(PROGRESS, message, printer);
    }

    fn last(&mut self, end: &End, printer: &mut dyn Printer) {
        let message = match end {
            End::Joined { .. } => "Successfully joined the cluster.",
            End::AlreadyMember { .. } => "This node is already a member of the cluster.",
            End::Left { .. } => "This node has left the cluster.",
            End::Planned { steps, .. } => {
                for step in steps {
                    self.line("step", step, printer);
                }
                "Nothing was changed."
            }
            End::Removed => "The node was removed.",
            End::Absent { text } => text,
            End::Failed(failure) => return self.failed(failure, printer),
            // A dry run of a join has a form of its own, and a launch configuration has none.
            End::Checked { .. } | End::Launched => return,
        };
        self.stage = "done";
        self.ended = Some(ExitStatus::Success);
        let hint = end.hint();
        let end = Line {
            role: end.role(),
            hint: hint.as_deref(),
            ..self.end(end.into_str(), message, ExitStatus::Success)
        };
        write(&end, printer);
    }

    fn failed(&mut self, failure: &Failure, printer: &mut dyn Printer) {
        output::explain(printer, failure);
        self.stage = failure.stage.into_str();
        self.ended = Some(failure.status());
        let end = Line {
            hint: failure.hint.as_deref(),
            retry: failure.retry,
            retry_after: failure.retry_after,
            ..self.end(FAILED, failure.message(), failure.status())
        };
        write(&end, printer);
    }

    fn line(&self, kind: &'static str, message: &str, printer: &mut dyn Printer) {
        write(&self.line_of(kind, message), printer);
    }

    fn end<'a>(&'a self, outcome: &'static str, message: &'a str, status: ExitStatus) -> Line<'a> {
        Line {
            outcome: Some(outcome),
            exit: Some(status.code()),
            ..self.line_of("end", message)
        }
    }

    fn line_of<'a>(&'a self, kind: &'static str, message: &'a str) -> Line<'a> {
        Line {
            kind,
            stage: self.stage,
            message: message.trim(),
            // Since the command began, to the millisecond.
            seconds: (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            ..Line::default()
        }
    }
}

fn write(line: &Line<'_>, printer: &mut dyn Printer) {
    let text = serde_json::to_string(line).unwrap_or_default();
    // An operation goes on although nothing reads its output.
    let _ = printer.out(&format!("{text}\n"));
}
