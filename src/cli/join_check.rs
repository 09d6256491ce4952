//! `join --dry-run`: how the findings are told, in text and in JSON.
//!
//! The form in JSON is described by `docs/join-check.schema.json` and is one of its own: what the
//! agent and the command line tell each other may change without it.

use std::ffi::OsString;
use std::net::IpAddr;

use serde_json::json;

use crate::base::exit_status::ExitStatus;
use crate::cli::captured_output::CapturedOutput;
use crate::cli::join_args::Format;
use crate::cli::output::Printer;
use crate::cli::texts;
use crate::model::join_url::InvalidJoinUrl;
use crate::model::role::Role;
use crate::wire::operation::{End, Event};
use crate::wire::preflight_v1::{Finding, Machine, Severity};

/// As wide as the widest of each column.
const SEVERITY_WIDTH: usize = "unchecked".len();
const CHECK_WIDTH: usize = "high-availability".len();
/// The columns of a terminal.
const LINE_WIDTH: usize = 80;

/// Tells the findings as they come; in text, problems come last. In JSON, what is printed beside them
/// goes to standard error only, and is told in the last line.
pub(crate) struct Findings {
    format: Format,
    captured: CapturedOutput,
    contacted: Option<IpAddr>,
    /// What comes last in text.
    held: Vec<Finding>,
    errors: usize,
    warnings: usize,
    unchecked: usize,
    /// The code with which the join would exit.
    exit: Option<ExitStatus>,
    ended: Option<ExitStatus>,
}

/// What was typed is no connection string.
pub(crate) fn invalid_connection(error: InvalidJoinUrl) -> Event {
    let message = texts::invalid_connection(error);
    let finding = Finding::error("connection-string", message, ExitStatus::Failure.code());
    Event::Finding(finding.with_remedy(Machine::JoiningNode, texts::CONNECTION_HINT))
}

impl Findings {
    /// Nothing was found yet.
    pub(crate) fn new(arguments: &[OsString], format: Format) -> Self {
        Self {
            format,
            captured: CapturedOutput::new(arguments),
            contacted: None,
            held: Vec::new(),
            errors: 0,
            warnings: 0,
            unchecked: 0,
            exit: None,
            ended: None,
        }
    }

    /// Where text for standard output goes, when not there.
    pub(crate) fn captured(&mut self) -> Option<&mut CapturedOutput> {
        (self.format == Format::Json).then_some(&mut self.captured)
    }

    /// Tells a warning among the lines for standard error.
    pub(crate) fn err(&mut self, line: &str, printer: &mut dyn Printer) {
        if self.format == Format::Json
            && let Some(warning) = self.captured.err(line)
        {
            self.finding(Finding::warning("token-file", warning), printer);
        }
    }

    /// Tells one event.
    pub(crate) fn tell(&mut self, event: &Event, printer: &mut dyn Printer) {
        match event {
            Event::Contacting { address, .. } => self.contacted = Some(*address),
            Event::Finding(finding) => self.finding(finding.clone(), printer),
            Event::End(End::Checked { member }) => self.end(*member, printer),
            // None of these belongs to a dry run.
            Event::Stage { .. }
            | Event::Line { .. }
            | Event::Warning { .. }
            | Event::Stderr { .. }
            | Event::Waiting { .. }
            | Event::NotYet
            | Event::NotAnswering
            | Event::WaitingDone
            | Event::End(_) => {}
        }
    }

    fn finding(&mut self, finding: Finding, printer: &mut dyn Printer) {
        match finding.severity {
            Severity::Ok => {}
            Severity::Unchecked => self.unchecked += 1,
            Severity::Warning => self.warnings += 1,
            Severity::Error => {
                self.errors += 1;
                let exit = finding.exit.and_then(ExitStatus::from_repr);
                self.exit.get_or_insert(exit.unwrap_or(ExitStatus::Failure));
            }
        }
        match self.format {
            Format::Json => {
                let line = json!({
                    "kind": "finding",
                    "check": finding.check,
                    "severity": finding.severity,
                    "message": finding.message,
                    "remedy": finding.remedy,
                    "on": finding.on,
                    "exit": finding.exit,
                });
                print(&line.to_string(), printer);
            }
            Format::Text if finding.severity == Severity::Ok => self.text(&finding, printer),
            Format::Text => self.held.push(finding),
        }
    }

    /// Prints what was held, the worst last: the checks that were left out for one reason are one line.
    fn flush(&mut self, printer: &mut dyn Printer) {
        let held = std::mem::take(&mut self.held);
        let (mut left_out, mut problems): (Vec<_>, Vec<_>) = held
            .into_iter()
            .partition(|finding| finding.severity == Severity::Unchecked);
        while let Some(first) = left_out.first().cloned() {
            let (same, others): (Vec<_>, Vec<_>) = left_out
                .into_iter()
                .partition(|finding| finding.message == first.message);
            left_out = others;
            let names: Vec<&str> = same.iter().map(|one| one.check.as_str()).collect();
            let line = match names[..] {
                [_] => first,
                _ => Finding::unchecked(
                    &format!("{} checks", names.len()),
                    format!("{} ({})", first.message, names.join(", ")),
                ),
            };
            self.text(&line, printer);
        }
        problems.sort_by_key(|finding| finding.severity == Severity::Error);
        for finding in &problems {
            self.text(finding, printer);
        }
    }

    /// Prints a finding, and below it how to fix it.
    fn text(&self, finding: &Finding, printer: &mut dyn Printer) {
        let severity = finding.severity.into_str();
        let check = finding.check.replace('\n', " ");
        let first = format!("{severity:SEVERITY_WIDTH$}  {check:CHECK_WIDTH$}  ");
        print_wrapped(&first, &finding.message, printer);
        let Some(remedy) = &finding.remedy else {
            return;
        };
        let place = match (finding.on, self.contacted) {
            (None, _) => String::new(),
            (Some(Machine::JoiningNode), _) => "on this node, ".to_owned(),
            (Some(Machine::ContactedNode), Some(address)) => format!("on {address}, "),
            (Some(Machine::ContactedNode), None) => "on the contacted node, ".to_owned(),
        };
        let first = format!("{:SEVERITY_WIDTH$}  fix: ", "");
        print_wrapped(&first, &format!("{place}{remedy}"), printer);
    }

    /// The exit status of the operation, once it has ended.
    pub(crate) const fn ended(&self) -> Option<ExitStatus> {
        self.ended
    }

    /// Tells that the command is over before the operation has ended.
    pub(crate) fn finish(mut self, status: ExitStatus, printer: &mut dyn Printer) {
        self.flush(printer);
        if self.format == Format::Json {
            let (message, hint) = self.captured.take();
            self.json_end("failed", &message, hint, None, status, printer);
        }
    }

    /// All checks are done; the node is a member already, or is none.
    fn end(&mut self, member: Option<Role>, printer: &mut dyn Printer) {
        self.flush(printer);
        let status = self.exit.unwrap_or(ExitStatus::Success);
        self.ended = Some(status);
        let message = self.summary(member, status);
        let outcome = match member {
            _ if self.errors > 0 => "not-ready",
            Some(_) => "already-member",
            None => "ready",
        };
        match self.format {
            Format::Text => print(&message, printer),
            Format::Json => self.json_end(outcome, &message, None, member, status, printer),
        }
    }

    fn json_end(
        &self,
        outcome: &str,
        message: &str,
        hint: Option<String>,
        role: Option<Role>,
        status: ExitStatus,
        printer: &mut dyn Printer,
    ) {
        let end = json!({
            "kind": "end",
            "outcome": outcome,
            "message": message.trim(),
            "hint": hint,
            "errors": self.errors,
            "warnings": self.warnings,
            "unchecked": self.unchecked,
            "role": role,
            "exit": status.code(),
        });
        print(&end.to_string(), printer);
    }

    fn summary(&self, member: Option<Role>, status: ExitStatus) -> String {
        let counts = counts(self.errors, self.warnings, self.unchecked);
        let outcome = match member {
            _ if self.errors > 0 => {
                format!("the join would fail with exit code {}", status.code())
            }
            Some(_) => "this node is already a member of the cluster".to_owned(),
            None => "no problem was found".to_owned(),
        };
        format!("{counts}: {outcome}")
    }
}

/// Prints a text behind `first`, on a terminal in lines that fit it. What stands between backticks is
/// to be pasted, and stays whole.
fn print_wrapped(first: &str, text: &str, printer: &mut dyn Printer) {
    let mut pieces: Vec<String> = Vec::new();
    let mut is_code = false;
    for word in text.split_whitespace() {
        match pieces.last_mut().filter(|_| is_code) {
            Some(piece) => *piece = format!("{piece} {word}"),
            None => pieces.push(word.to_owned()),
        }
        is_code ^= word.matches('`').count() % 2 == 1;
    }
    let (mut line, mut has_words) = (first.to_owned(), false);
    for piece in pieces {
        let is_too_long = line.chars().count() + piece.chars().count() >= LINE_WIDTH;
        if has_words && is_too_long && printer.has_reader() {
            print(&line, printer);
            line = " ".repeat(first.len());
        } else if has_words {
            line.push(' ');
        }
        line.push_str(&piece);
        has_words = true;
    }
    print(&line, printer);
}

/// How many findings of a kind there are.
pub(crate) fn counts(errors: usize, warnings: usize, unchecked: usize) -> String {
    let count = |number: usize, what: &str| {
        let plural = if number == 1 { "" } else { "s" };
        format!("{number} {what}{plural}")
    };
    let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
    format!("{errors}, {warnings}, {unchecked} not checked")
}

fn print(line: &str, printer: &mut dyn Printer) {
    // The exit status tells the result as well.
    let _ = printer.out(&format!("{line}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    fn told(findings: Vec<Finding>, member: Option<Role>) -> (String, ExitStatus) {
        let mut printer = Kept::default();
        let mut told = Findings::new(&[], Format::Text);
        let contacting = Event::Contacting {
            address: [10, 99, 0, 11].into(),
            from_microk8s: false,
        };
        told.tell(&contacting, &mut printer);
        for finding in findings {
            told.tell(&Event::Finding(finding), &mut printer);
        }
        told.tell(&Event::End(End::Checked { member }), &mut printer);
        (printer.out, told.ended.unwrap())
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
             error      host-name          unknown\n           \
             fix: on 10.99.0.11, add the line `x`\n\
             error      version            old\n           \
             fix: on this node, refresh\n\
             2 errors, 1 warning, 0 not checked: the join would fail with exit code 6\n"
        );
        assert_eq!(status, ExitStatus::Refused);
    }

    #[test]
    fn on_a_terminal_lines_fit_and_a_command_stays_whole() {
        struct Reader(Kept);
        impl Printer for Reader {
            fn out(&mut self, text: &str) -> Result<(), crate::cli::output::OutputLost> {
                self.0.out(text)
            }
            fn err(&mut self, line: &str) {
                self.0.err(line);
            }
            fn has_reader(&self) -> bool {
                true
            }
        }
        let mut reader = Reader(Kept::default());
        let command = "`sudo a-rather-long-command --with its options --and more of them`";
        let text = format!(
            "{} {command} {}",
            "word ".repeat(9).trim(),
            "more ".repeat(12).trim()
        );
        print_wrapped("error  ", &text, &mut reader);
        let lines: Vec<&str> = reader.0.out.lines().collect();
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{lines:#?}"
        );
        assert!(
            lines.iter().any(|line| line.contains(command)),
            "{lines:#?}"
        );
        assert_eq!(lines.len(), 3, "{lines:#?}");
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
