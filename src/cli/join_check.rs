//! `join --dry-run`: how the findings are told, in text and in JSON.
//!
//! The form in JSON is described by `docs/join-check.schema.json` and is one of its own: what the
//! agent and the command line tell each other may change without it.

use std::ffi::OsString;
use std::net::IpAddr;

use serde::Serialize;

use crate::base::exit_status::ExitStatus;
use crate::cli::captured_output::Overheard;
use crate::cli::join_args::Format;
use crate::cli::output::{OutputLost, Printer};
use crate::cli::texts;
use crate::model::join_url::InvalidJoinUrl;
use crate::model::role::Role;
use crate::wire::preflight_v1::{CheckEvent, Finding, Machine, Severity};

/// As wide as the widest of each column.
const SEVERITY_WIDTH: usize = "unchecked".len();
const CHECK_WIDTH: usize = "high-availability".len();

/// A line of JSON for a finding.
#[derive(Debug, Serialize)]
struct FindingLine<'a> {
    kind: &'static str,
    check: &'a str,
    severity: Severity,
    message: &'a str,
    remedy: Option<&'a str>,
    on: Option<Machine>,
    exit: Option<u8>,
}

/// The last line of JSON.
#[derive(Debug, Serialize)]
struct EndLine<'a> {
    kind: &'static str,
    outcome: Outcome,
    message: &'a str,
    hint: Option<&'a str>,
    errors: usize,
    warnings: usize,
    unchecked: usize,
    role: Option<Role>,
    exit: u8,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Ready,
    NotReady,
    AlreadyMember,
    Failed,
}

/// Tells the findings as they come. In JSON, what is printed beside them goes to standard error only,
/// and is told in the last line.
pub struct Report<'a> {
    printer: &'a mut dyn Printer,
    format: Format,
    captured_output: Overheard,
    contacted: Option<IpAddr>,
    /// Checks in a row that were left out for one reason, which are one line of text.
    left_out: Vec<Finding>,
    errors: usize,
    warnings: usize,
    unchecked: usize,
    /// The code with which the join would exit.
    exit: Option<ExitStatus>,
    member: Option<Role>,
}

impl<'a> Report<'a> {
    /// Nothing was found yet.
    pub fn new(arguments: &[OsString], format: Format, printer: &'a mut dyn Printer) -> Self {
        Self {
            printer,
            format,
            captured_output: Overheard::new(arguments),
            contacted: None,
            left_out: Vec::new(),
            errors: 0,
            warnings: 0,
            unchecked: 0,
            exit: None,
            member: None,
        }
    }

    /// Whom the join would contact.
    pub fn contacts(&mut self, address: IpAddr) {
        self.contacted = Some(address);
    }

    /// What was typed is no connection string.
    pub fn tell_invalid(&mut self, error: InvalidJoinUrl) {
        let message = texts::invalid_connection(error);
        let finding = Finding::error("connection-string", message, ExitStatus::Failure.code());
        let remedy = "take the string that `microk8s add-node` prints on a node of the cluster";
        self.finding(finding.with_remedy(Machine::JoiningNode, remedy));
    }

    /// Tells one event.
    pub fn tell(&mut self, event: CheckEvent) {
        match event {
            CheckEvent::Finding(finding) => self.finding(finding),
            CheckEvent::Done { member } => self.member = member,
        }
    }

    fn finding(&mut self, finding: Finding) {
        match finding.severity {
            Severity::Ok => {}
            Severity::Unchecked => self.unchecked += 1,
            Severity::Warning => self.warnings += 1,
            Severity::Error => {
                self.errors += 1;
                let exit = finding.exit.and_then(ExitStatus::from_code);
                self.exit.get_or_insert(exit.unwrap_or(ExitStatus::Failure));
            }
        }
        match self.format {
            Format::Json => self.json(&FindingLine {
                kind: "finding",
                check: &finding.check,
                severity: finding.severity,
                message: &finding.message,
                remedy: finding.remedy.as_deref(),
                on: finding.on,
                exit: finding.exit,
            }),
            Format::Text => {
                let is_as_before = self
                    .left_out
                    .first()
                    .is_some_and(|first| first.message == finding.message);
                if !is_as_before {
                    self.flush();
                }
                match finding.severity {
                    Severity::Unchecked => self.left_out.push(finding),
                    Severity::Ok | Severity::Warning | Severity::Error => self.text(&finding),
                }
            }
        }
    }

    /// Prints the checks that were left out, one line for all that have one reason.
    fn flush(&mut self) {
        let left_out = std::mem::take(&mut self.left_out);
        match &left_out[..] {
            [] => {}
            [only] => self.text(only),
            [first, ..] => {
                let names: Vec<&str> = left_out.iter().map(|one| one.check.as_str()).collect();
                let message = format!("{} ({})", first.message, names.join(", "));
                let check = format!("{} checks", names.len());
                self.text(&Finding::unchecked(&check, message));
            }
        }
    }

    fn text(&mut self, finding: &Finding) {
        let severity = finding.severity.word();
        let (check, message) = (&finding.check, &finding.message);
        let remedy = finding.remedy.as_ref().map_or_else(String::new, |remedy| {
            let place = match (finding.on, self.contacted) {
                (None, _) => String::new(),
                (Some(Machine::JoiningNode), _) => "on this node, ".to_owned(),
                (Some(Machine::ContactedNode), Some(address)) => format!("on {address}, "),
                (Some(Machine::ContactedNode), None) => "on the contacted node, ".to_owned(),
            };
            format!("; fix: {place}{remedy}")
        });
        let line = format!("{severity:SEVERITY_WIDTH$}  {check:CHECK_WIDTH$}  {message}{remedy}");
        self.print(&format!("{}\n", line.replace('\n', " ")));
    }

    fn json(&mut self, line: &impl Serialize) {
        let text = serde_json::to_string(line).unwrap_or_default();
        self.print(&format!("{text}\n"));
    }

    fn print(&mut self, text: &str) {
        // The exit status tells the result as well.
        let _ = self.printer.out(text);
    }

    /// The command is over, with this status where it did not get to the end of the checks. Says what
    /// the exit status is.
    pub fn finish(mut self, failed: Option<ExitStatus>) -> ExitStatus {
        self.flush();
        let status = failed.unwrap_or(self.exit.unwrap_or(ExitStatus::Success));
        let (message, hint) = match failed {
            Some(_) => self.captured_output.take(),
            None => (self.verdict(status), None),
        };
        match self.format {
            Format::Text if failed.is_some() => {}
            Format::Text => self.print(&format!("{message}\n")),
            Format::Json => {
                let outcome = match (failed, self.member) {
                    (Some(_), _) => Outcome::Failed,
                    (None, _) if self.errors > 0 => Outcome::NotReady,
                    (None, Some(_)) => Outcome::AlreadyMember,
                    (None, None) => Outcome::Ready,
                };
                self.json(&EndLine {
                    kind: "end",
                    outcome,
                    message: message.trim(),
                    hint: hint.as_deref(),
                    errors: self.errors,
                    warnings: self.warnings,
                    unchecked: self.unchecked,
                    role: self.member,
                    exit: status.code(),
                });
            }
        }
        status
    }

    fn verdict(&self, status: ExitStatus) -> String {
        let count = |number: usize, what: &str| {
            let plural = if number == 1 { "" } else { "s" };
            format!("{number} {what}{plural}")
        };
        let counts = format!(
            "{}, {}, {} not checked",
            count(self.errors, "error"),
            count(self.warnings, "warning"),
            self.unchecked
        );
        let verdict = match self.member {
            _ if self.errors > 0 => {
                format!("the join would fail with exit code {}", status.code())
            }
            Some(_) => "this node is already a member of the cluster".to_owned(),
            None => "nothing that was found stands in the way of the join".to_owned(),
        };
        format!("{counts}: {verdict}")
    }
}

impl Printer for Report<'_> {
    fn out(&mut self, text: &str) -> Result<(), OutputLost> {
        match self.format {
            Format::Text => self.printer.out(text),
            Format::Json => {
                self.captured_output.out(text);
                Ok(())
            }
        }
    }

    fn err(&mut self, line: &str) {
        if self.format == Format::Json
            && let Some(warning) = self.captured_output.err(line)
        {
            self.finding(Finding::warning("token-file", warning));
        }
        self.printer.err(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    fn told(findings: Vec<Finding>, member: Option<Role>) -> (String, ExitStatus) {
        let mut printer = Kept::default();
        let mut report = Report::new(&[], Format::Text, &mut printer);
        report.contacts([10, 99, 0, 11].into());
        for finding in findings {
            report.tell(CheckEvent::Finding(finding));
        }
        report.tell(CheckEvent::Done { member });
        let status = report.finish(None);
        (printer.out, status)
    }

    #[test]
    fn findings_stand_in_columns_with_what_to_do_and_where() {
        let (text, status) = told(
            vec![
                Finding::ok("high-availability", "fine"),
                Finding::warning("clock", "late"),
                Finding::error("host-name", "unknown", 6)
                    .with_remedy(Machine::ContactedNode, "add the line `x`"),
                Finding::error("version", "old", 1).with_remedy(Machine::JoiningNode, "refresh"),
            ],
            None,
        );
        assert_eq!(
            text,
            "ok         high-availability  fine\n\
             warning    clock              late\n\
             error      host-name          unknown; fix: on 10.99.0.11, add the line `x`\n\
             error      version            old; fix: on this node, refresh\n\
             2 errors, 1 warning, 0 not checked: the join would fail with exit code 6\n"
        );
        assert_eq!(status, ExitStatus::Refused);
    }

    #[test]
    fn what_was_left_out_for_one_reason_is_one_line() {
        let (text, status) = told(
            vec![
                Finding::unchecked("token", "it is silent"),
                Finding::unchecked("clock", "it is silent"),
                Finding::unchecked("datastore", "it moves"),
            ],
            Some(Role::Worker),
        );
        assert_eq!(
            text,
            "unchecked  2 checks           it is silent (token, clock)\n\
             unchecked  datastore          it moves\n\
             0 errors, 0 warnings, 3 not checked: this node is already a member of the cluster\n"
        );
        assert_eq!(status, ExitStatus::Success);
    }
}
