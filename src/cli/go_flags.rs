//! Flags as Go's programs take them: `-flag`, `--flag`, `--flag=value`, `--flag value`; a flag that is
//! on or off has its value behind `=` alone, and of a flag that is given again the last one counts.
//!
//! MicroK8s's agent is such a program, and its arguments reach this one.

use std::ffi::OsString;

use clap::Command;

/// What becomes of flags that this program does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// They are left out, and told.
    LeftOut,
    /// They stay, and the command line is wrong.
    Wrong,
}

/// Arguments as clap reads them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Each flag once, as `--flag=value`.
    pub(crate) words: Vec<OsString>,
    /// A line for each that was left out, without its value.
    pub(crate) left_out: Vec<String>,
}

/// A flag of the program, by what it takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    Value,
    Boolean,
    /// `true` for none, in clap's eyes.
    Nothing,
}

/// Turns the arguments of a command into those that clap understands.
pub(crate) fn read(
    command: &Command,
    arguments: impl IntoIterator<Item = OsString>,
    unknown: Unknown,
) -> Arguments {
    let mut found: Vec<(String, Option<OsString>)> = Vec::new();
    let mut rest_is_wrong = Vec::new();
    let mut left_out = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        let Some((name, value)) = split(&argument) else {
            match unknown {
                Unknown::LeftOut => left_out.push(LEFT_OUT_WORD.to_owned()),
                Unknown::Wrong => rest_is_wrong.push(argument),
            }
            continue;
        };
        let Some(takes) = takes(command, &name) else {
            if unknown == Unknown::Wrong {
                rest_is_wrong.push(argument);
                continue;
            }
            // What follows and is no flag is taken for its value.
            if value.is_none() {
                arguments.next_if(|next| split(next).is_none());
            }
            left_out.push(format!(
                "`--{name}` is not an option of this program; it is left out"
            ));
            continue;
        };
        let value = value.map(OsString::from);
        let value = match takes {
            Takes::Value => value.or_else(|| arguments.next()),
            Takes::Boolean | Takes::Nothing => {
                let next = || arguments.next_if(|next| next == "true" || next == "false");
                let value = value.or_else(next).unwrap_or_else(|| "true".into());
                Some(boolean(value))
            }
        };
        found.retain(|(earlier, _)| *earlier != name);
        match (takes, value) {
            (Takes::Nothing, Some(value)) if value == "false" => {}
            (Takes::Nothing, Some(value)) if value == "true" => found.push((name, None)),
            (_, value) => found.push((name, value)),
        }
    }
    let mut words: Vec<OsString> = found
        .into_iter()
        .map(|(name, value)| {
            let mut word = OsString::from(format!("--{name}"));
            if let Some(value) = value {
                word.push("=");
                word.push(value);
            }
            word
        })
        .collect();
    words.extend(rest_is_wrong);
    Arguments { words, left_out }
}

const LEFT_OUT_WORD: &str = "a word that belongs to no option is left out";

/// Name and value of a flag.
fn split(argument: &OsString) -> Option<(String, Option<String>)> {
    let text = argument.to_str()?;
    let flag = text.strip_prefix('-')?;
    let flag = flag.strip_prefix('-').unwrap_or(flag);
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (flag, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic());
    is_name.then(|| (name.to_owned(), value))
}

fn takes(command: &Command, name: &str) -> Option<Takes> {
    if ["h", "help"].contains(&name) {
        return None;
    }
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_long() == Some(name))?;
    let count = argument.get_num_args().unwrap_or_default();
    Some(match (count.takes_values(), count.min_values()) {
        (false, _) => Takes::Nothing,
        (true, 0) => Takes::Boolean,
        (true, _) => Takes::Value,
    })
}

/// The spellings that Go takes for true and false.
fn boolean(value: OsString) -> OsString {
    match value.to_str() {
        Some("1" | "t" | "T" | "TRUE" | "true" | "True") => "true".into(),
        Some("0" | "f" | "F" | "FALSE" | "false" | "False") => "false".into(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn read_line(line: &str, unknown: Unknown) -> (String, usize) {
        let command = cli::subcommand("agent");
        let words = line.split(' ').map(OsString::from);
        let read = read(&command, words, unknown);
        let words: Vec<_> = read
            .words
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        (words.join(" "), read.left_out.len())
    }

    #[test]
    fn every_spelling_of_a_flag_is_understood_and_the_last_one_counts() {
        for (line, read) in [
            ("-bind :1", "--bind=:1"),
            ("--bind :1", "--bind=:1"),
            ("-bind=:1", "--bind=:1"),
            ("--bind=:1 -bind :2", "--bind=:2"),
            ("--bind=:1 --timeout 9 --bind=:1", "--timeout=9 --bind=:1"),
            ("-enable-metrics", "--enable-metrics=true"),
            ("--enable-metrics=F", "--enable-metrics=false"),
            (
                "-enable-metrics -enable-metrics=0",
                "--enable-metrics=false",
            ),
            (
                "--enable-metrics true --timeout 9",
                "--enable-metrics=true --timeout=9",
            ),
            ("--datastore-demo=false", ""),
            ("--datastore-demo", "--datastore-demo"),
            ("--keyfile=a=b", "--keyfile=a=b"),
            ("--keyfile -x", "--keyfile=-x"),
            ("--timeout", "--timeout"),
            (
                "-launch-configurations-enable=f -launch-configurations-interval 30s",
                "--launch-configurations-enable=false --launch-configurations-interval=30s",
            ),
        ] {
            for unknown in [Unknown::LeftOut, Unknown::Wrong] {
                assert_eq!(read_line(line, unknown), (read.to_owned(), 0), "{line}");
            }
        }
    }

    #[test]
    fn flags_that_are_not_known_are_left_out_where_that_is_wanted() {
        let line = "--new-in-1.40 x -other --bind :1";
        assert_eq!(
            read_line(line, Unknown::LeftOut),
            ("--bind=:1".to_owned(), 2)
        );
        assert_eq!(
            read_line(line, Unknown::Wrong),
            ("--bind=:1 --new-in-1.40 x -other".to_owned(), 0)
        );
        assert_eq!(
            read_line("stray --bind :1", Unknown::LeftOut),
            ("--bind=:1".to_owned(), 1)
        );
        assert_eq!(
            read_line("--help", Unknown::Wrong),
            ("--help".to_owned(), 0)
        );
    }
}
