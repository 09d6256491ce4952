//! Standard output and standard error. Nothing else in the library writes to them, but the
//! agent's log and the spinner of a join.
//!
//! A reader that goes away early is no error: `add-node | head -1` is a success.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::base::exit_status::ExitStatus;
use crate::wire::operation::Failure;

/// Where a command prints.
pub(crate) trait Printer {
    /// Text for standard output, as it is.
    fn out(&mut self, text: &str) -> Result<(), OutputLost>;

    /// A line for standard error.
    fn err(&mut self, line: &str);

    /// Whether a person reads standard output as it is printed.
    fn has_reader(&self) -> bool {
        false
    }
}

/// Standard output takes no more.
#[derive(Debug)]
pub(crate) struct OutputLost(io::Error);

impl OutputLost {
    /// A reader that went away got what it wanted; anything else lost the answer.
    pub(crate) fn status(&self) -> ExitStatus {
        if self.0.kind() == io::ErrorKind::BrokenPipe {
            ExitStatus::Success
        } else {
            ExitStatus::Failure
        }
    }
}

/// The process's own streams.
#[derive(Debug, Default)]
pub(crate) struct Streams;

impl Printer for Streams {
    fn out(&mut self, text: &str) -> Result<(), OutputLost> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(OutputLost)
    }

    fn has_reader(&self) -> bool {
        io::stdout().is_terminal()
    }

    fn err(&mut self, line: &str) {
        // There is nowhere left to complain about standard error.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

/// Whether standard error is a terminal on which a line can be drawn again.
pub(crate) fn can_redraw() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    io::stderr().is_terminal() && !is_dumb
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// An answer for programs.
pub(crate) fn structured(value: &impl Serialize, format: Format) -> String {
    match format {
        Format::Text | Format::Json => {
            let text = serde_json::to_string_pretty(value).unwrap_or_default();
            format!("{text}\n")
        }
        Format::Yaml => serde_saphyr::to_string(value).unwrap_or_default(),
    }
}

/// The text of a list for programs, as [`structured`] gives it, an item at a time.
#[derive(Debug)]
pub(crate) struct StructuredList {
    format: Format,
    is_empty: bool,
}

impl StructuredList {
    /// A list to be printed in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            is_empty: true,
        }
    }

    /// The text up to the end of the next item.
    pub(crate) fn item(&mut self, value: &impl Serialize) -> String {
        let text = structured(&[value], self.format);
        let is_first = std::mem::take(&mut self.is_empty);
        let Some(end) = self.json_end() else {
            return text;
        };
        let item = text.strip_suffix(end).unwrap_or(&text);
        item.replacen('[', if is_first { "[" } else { "," }, 1)
    }

    /// The text after the last item.
    pub(crate) fn end(&self) -> String {
        if self.is_empty {
            return structured(&[(); 0], self.format);
        }
        self.json_end().unwrap_or_default().to_owned()
    }

    fn json_end(&self) -> Option<&'static str> {
        (self.format != Format::Yaml).then_some("\n]\n")
    }
}

/// Prints an error and what to do about it.
pub(crate) fn error(printer: &mut dyn Printer, text: &str, hint: Option<&str>) {
    printer.err(&format!("error: {text}"));
    if let Some(hint) = hint {
        printer.err(&format!("hint: {hint}"));
    }
}

/// Prints why a command failed, and what to do about it.
pub(crate) fn fail(printer: &mut dyn Printer, why: impl Display, hint: Option<&str>) -> ExitStatus {
    error(printer, &why.to_string(), hint);
    ExitStatus::Failure
}

/// Rows in columns of equal width, without blanks at the ends of lines.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    rows.iter()
        .map(|row| {
            let line: String = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            format!("{}\n", line.trim_end())
        })
        .collect()
}

/// Prints why something failed: MicroK8s's own line on standard output, where it has one. Says what
/// the exit status is.
pub(crate) fn failure(printer: &mut dyn Printer, failure: &Failure) -> ExitStatus {
    if let Some(text) = &failure.microk8s_text {
        // The exit status tells it as well.
        let _ = printer.out(&format!("{text}\n"));
    }
    explain(printer, failure);
    failure.status()
}

/// Says on standard error why something failed, in which stage, and what to do.
pub(crate) fn explain(printer: &mut dyn Printer, failure: &Failure) {
    printer.err(&format!("error: {}", failure.error));
    if let Some(retry) = failure.retry {
        let (stage, advice) = (failure.stage.into_str(), retry.advice());
        printer.err(&format!("failed stage: {stage}; {advice}"));
    }
    if let Some(hint) = &failure.hint {
        printer.err(&format!("hint: {hint}"));
    }
}

/// Prints MicroK8s's text for something that is refused, and on standard error why, and what to do.
pub(crate) fn refuse(
    printer: &mut dyn Printer,
    text: &str,
    why: &str,
    hint: Option<&str>,
) -> ExitStatus {
    let status = print(printer, text, ExitStatus::Failure);
    error(printer, why, hint);
    status
}

/// Prints, and says how that ended.
pub(crate) fn print(printer: &mut dyn Printer, text: &str, status: ExitStatus) -> ExitStatus {
    match printer.out(text) {
        Ok(()) => status,
        Err(lost) => report_lost(printer, &lost),
    }
}

/// Says why standard output takes no more, and what the exit status is.
pub(crate) fn report_lost(printer: &mut dyn Printer, lost: &OutputLost) -> ExitStatus {
    if lost.status() != ExitStatus::Success {
        let text = format!("cannot write to standard output: {}", lost.0);
        error(printer, &text, None);
    }
    lost.status()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A printer that keeps what is printed.
    #[derive(Debug, Default)]
    pub(crate) struct Kept {
        pub(crate) out: String,
        pub(crate) err: String,
    }

    impl Printer for Kept {
        fn out(&mut self, text: &str) -> Result<(), OutputLost> {
            self.out.push_str(text);
            Ok(())
        }

        fn err(&mut self, line: &str) {
            self.err.push_str(line);
            self.err.push('\n');
        }
    }
}
