//! `join --format json`: a join as lines of JSON, for programs.
//!
//! The form is described by `docs/join-events.schema.json` and is one of its own: what the agent
//! and the command line tell each other may change without it.

use std::ffi::OsString;
use std::time::Instant;

use serde::Serialize;

use crate::base::exit_status::ExitStatus;
use crate::cli::captured_output::Overheard;
use crate::cli::join_text::Teller;
use crate::cli::output::{self, OutputLost, Printer};
use crate::model::join_stage::{JoinStage, Retry};
use crate::model::role::Role;
use crate::wire::local_v1::JoinEvent;
use crate::wire::operation::Failure;

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    kind: Kind,
    stage: &'a str,
    message: &'a str,
    seconds: f64,
    outcome: Option<Outcome>,
    role: Option<Role>,
    hint: Option<&'a str>,
    retry: Option<Retry>,
    retry_after: Option<u64>,
    exit: Option<u8>,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Progress,
    Warning,
    End,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Joined,
    AlreadyMember,
    Failed,
}

/// How a join ended.
#[derive(Default)]
struct End<'a> {
    message: &'a str,
    role: Option<Role>,
    hint: Option<&'a str>,
    retry: Option<Retry>,
    retry_after: Option<u64>,
}

/// Tells a join as lines of JSON on standard output, where nothing else is printed. Standard error
/// is as without it.
pub struct Lines<'a> {
    printer: &'a mut dyn Printer,
    began: Instant,
    stage: String,
    captured_output: Overheard,
    ended: Option<ExitStatus>,
}

impl<'a> Lines<'a> {
    /// The clock begins to run.
    pub fn new(arguments: &[OsString], printer: &'a mut dyn Printer) -> Self {
        Self {
            printer,
            began: Instant::now(),
            stage: JoinStage::Preflight.name().to_owned(),
            captured_output: Overheard::new(arguments),
            ended: None,
        }
    }

    /// The command is over: there is a last line in any case, and its exit code is the command's.
    pub fn finish(mut self, status: ExitStatus) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let (message, hint) = self.captured_output.take();
        let end = End {
            message: &message,
            hint: hint.as_deref(),
            ..End::default()
        };
        self.end(Outcome::Failed, status, &end);
        status
    }

    fn line(&mut self, kind: Kind, message: &str) {
        let stage = self.stage.clone();
        self.write(&Line {
            kind,
            stage: &stage,
            message: message.trim(),
            seconds: self.seconds(),
            outcome: None,
            role: None,
            hint: None,
            retry: None,
            retry_after: None,
            exit: None,
        });
    }

    fn end(&mut self, outcome: Outcome, status: ExitStatus, end: &End<'_>) {
        self.ended = Some(status);
        let stage = self.stage.clone();
        self.write(&Line {
            kind: Kind::End,
            stage: &stage,
            message: end.message.trim(),
            seconds: self.seconds(),
            outcome: Some(outcome),
            role: end.role,
            hint: end.hint,
            retry: end.retry,
            retry_after: end.retry_after,
            exit: Some(status.code()),
        });
    }

    fn write(&mut self, line: &Line<'_>) {
        let text = serde_json::to_string(line).unwrap_or_default();
        // The join continues when its output is closed.
        let _ = self.printer.out(&format!("{text}\n"));
    }

    /// Since the command began, to the millisecond.
    fn seconds(&self) -> f64 {
        (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
    }

    fn failed(&mut self, failure: &Failure) {
        output::explain(self.printer, failure);
        self.stage.clone_from(&failure.stage);
        let end = End {
            message: failure.message().unwrap_or("the join failed"),
            hint: failure.hint.as_deref(),
            retry: failure.retry,
            retry_after: failure.retry_after,
            role: None,
        };
        self.end(Outcome::Failed, failure.status(), &end);
    }
}

impl Printer for Lines<'_> {
    fn out(&mut self, text: &str) -> Result<(), OutputLost> {
        self.captured_output.out(text);
        Ok(())
    }

    fn err(&mut self, line: &str) {
        if let Some(warning) = self.captured_output.err(line) {
            self.line(Kind::Warning, warning);
        }
        self.printer.err(line);
    }
}

impl Teller for Lines<'_> {
    fn tell(&mut self, event: &JoinEvent) {
        // What was said before the join began stopped nothing.
        let said = self.captured_output.take_said();
        if !said.is_empty() {
            self.line(Kind::Warning, &said);
        }
        if let Some(stage) = event.begins() {
            self.stage = stage.name().to_owned();
        }
        match event {
            JoinEvent::Contacting { address, .. } => {
                self.line(Kind::Progress, &format!("Contacting cluster at {address}"));
            }
            JoinEvent::Stage { stage } => self.line(Kind::Progress, stage.doing()),
            JoinEvent::Warning {
                message,
                from_microk8s: true,
            } => self.line(Kind::Warning, message),
            JoinEvent::Warning { message, .. } => self.err(&format!("warning: {message}")),
            JoinEvent::Waiting => {
                self.line(
                    Kind::Progress,
                    "Waiting for this node to finish joining the cluster",
                );
            }
            JoinEvent::NotListed => {
                self.line(Kind::Progress, "The datastore does not list this node yet");
            }
            JoinEvent::NotAnswering => {
                self.line(Kind::Progress, "The datastore could not be asked yet");
            }
            JoinEvent::WaitingDone => self.line(Kind::Progress, "The waiting is over"),
            JoinEvent::Joined { role, .. } => {
                self.stage = "done".to_owned();
                let end = End {
                    message: "Successfully joined the cluster.",
                    role: Some(*role),
                    ..End::default()
                };
                self.end(Outcome::Joined, ExitStatus::Success, &end);
            }
            JoinEvent::AlreadyMember { role } => {
                self.stage = "done".to_owned();
                let end = End {
                    message: "This node is already a member of the cluster.",
                    role: Some(*role),
                    ..End::default()
                };
                self.end(Outcome::AlreadyMember, ExitStatus::Success, &end);
            }
            JoinEvent::Failed(failure) => self.failed(failure),
        }
    }

    fn status(&self) -> ExitStatus {
        self.ended.unwrap_or(ExitStatus::Failure)
    }
}
