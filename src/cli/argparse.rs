//! Usage errors, in the words of the Python libraries that MicroK8s's commands use.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What `add-node` says of arguments that it does not understand (recordings
/// `add-node-bad-option`, `-bad-format`, `-ttl-text`), for the line behind `error: `.
pub(crate) fn describe(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(", "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let value = context(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument => format!("unrecognized arguments: {argument}"),
        ErrorKind::InvalidValue if value.is_empty() => {
            format!("argument {}: expected one argument", named(&argument))
        }
        ErrorKind::InvalidValue => {
            let choices = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => valid
                    .iter()
                    .map(|choice| format!("'{choice}'"))
                    .collect::<Vec<_>>()
                    .join(", "),
                _ => String::new(),
            };
            format!(
                "argument {}: invalid choice: '{value}' (choose from {choices})",
                named(&argument)
            )
        }
        ErrorKind::ValueValidation => {
            let why =
                std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
            format!("argument {}: {why}", named(&argument))
        }
        ErrorKind::TooManyValues | ErrorKind::ArgumentConflict => {
            format!("argument {}: given more than once", named(&argument))
        }
        _ => error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    }
}

/// An option as argparse names it: `--token-ttl/-l`.
fn named(argument: &str) -> String {
    match argument.split_whitespace().next().unwrap_or_default() {
        "--token-ttl" => "--token-ttl/-l".to_owned(),
        "--token" => "--token/-t".to_owned(),
        other => other.to_owned(),
    }
}

/// Why a text is not an integer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotInt {
    /// It is something else.
    #[error("it is not a number")]
    Text,
    /// It has too many digits.
    #[error("{0} is too large")]
    TooLarge(String),
}

/// An integer as Python reads it: blanks around it, a sign, underscores between digits.
pub(crate) fn python_int(text: &str) -> Result<i64, NotInt> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    let well_formed = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
    if !well_formed {
        return Err(NotInt::Text);
    }
    trimmed
        .replace('_', "")
        .parse()
        .map_err(|_| NotInt::TooLarge(digits.replace('_', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_python_reads_them() {
        for (text, value) in [
            ("3600", 3600),
            (" -5 ", -5),
            ("+1_000", 1000),
            ("4294967295", 4_294_967_295),
        ] {
            assert_eq!(python_int(text), Ok(value));
        }
        for bad in ["abc", "", "1__0", "_1", "1.5", "0x10", "--5"] {
            assert!(python_int(bad).is_err(), "{bad}");
        }
        assert!(python_int("9223372036854775808").is_err());
    }
}
