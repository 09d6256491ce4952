//! What a command prints for people, kept for a program that reads JSON and is told the end in it.

use std::ffi::OsString;

use crate::model::token::MIN_LEN;

/// What was printed, and not yet told.
pub(crate) struct CapturedOutput {
    /// What was typed and may hold a token: what MicroK8s's texts repeat of it is left out, because
    /// what programs read is often kept.
    typed: Vec<String>,
    /// Text that was meant for standard output.
    stdout: String,
    /// The last error that was printed, and what to do about it.
    error: Option<String>,
    hint: Option<String>,
}

impl CapturedOutput {
    /// Nothing was printed yet by the command with these arguments.
    pub(crate) fn new(arguments: &[OsString]) -> Self {
        Self {
            typed: arguments
                .iter()
                .map(|argument| argument.to_string_lossy().into_owned())
                .filter(|argument| argument.chars().count() >= MIN_LEN)
                .collect(),
            stdout: String::new(),
            error: None,
            hint: None,
        }
    }

    /// Text for standard output.
    pub(crate) fn out(&mut self, text: &str) {
        self.stdout.push_str(text);
    }

    /// A line for standard error. One that is a warning is given back.
    pub(crate) fn err<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        if let Some(hint) = line.strip_prefix("hint: ") {
            self.hint = Some(hint.to_owned());
        } else if let Some(warning) = line.strip_prefix("warning: ") {
            return Some(warning);
        } else if !line.is_empty() {
            let error = line
                .strip_prefix("error: ")
                .or_else(|| line.strip_prefix("Error: "))
                .unwrap_or(line);
            self.error = Some(error.to_owned());
        }
        None
    }

    /// What was said on standard output.
    pub(crate) fn take_stdout(&mut self) -> String {
        std::mem::take(&mut self.stdout)
    }

    /// The last error, or all that was said where there was none, and what to do about it.
    pub(crate) fn take(&mut self) -> (String, Option<String>) {
        let stdout = self.take_stdout();
        let message = self
            .typed
            .iter()
            .fold(self.error.take().unwrap_or(stdout), |message, typed| {
                message.replace(typed.as_str(), "CONNECTION")
            });
        (message, self.hint.take())
    }
}
