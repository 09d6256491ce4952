//! `microk8s join`: what may be typed, and how it is taken apart.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::base::{sanitize, time_text};
use crate::cli;
use crate::model::node_label::NodeLabel;

/// The arguments of `join`.
#[derive(Debug, Args)]
#[command(
    args_override_self = true,
    override_usage = "microk8s join [OPTIONS] CONNECTION"
)]
pub(crate) struct JoinArgs {
    /// The connection string that `microk8s add-node` printed: address:port/token[/fingerprint]; of several, the first whose node can be reached is used
    #[arg(value_name = "CONNECTION")]
    pub(crate) connection: Vec<String>,

    /// Join as a worker only node
    #[arg(long, overrides_with = "controlplane")]
    pub(crate) worker: bool,

    /// Join running the control plane on HA clusters (the default)
    #[arg(long, overrides_with = "worker")]
    pub(crate) controlplane: bool,

    /// Skip the certificate verification of the node we are joining to
    #[arg(long)]
    pub(crate) skip_verify: bool,

    /// Join as a control plane node even if this node has little memory
    #[arg(long)]
    pub(crate) disable_low_memory_guard: bool,

    /// How long the join may take, as in 90s or 3m, a day at most; a bare number is seconds
    #[arg(long, value_name = "DURATION", default_value = "180", value_parser = seconds)]
    pub(crate) timeout: u64,

    /// Try again for so long, 15m unless given, while time alone may cure what is in the way: the node is not reachable, does not know the token yet, or has too much to do
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "15m",
        conflicts_with = "dry_run",
        value_parser = seconds
    )]
    pub(crate) wait: Option<u64>,

    /// Read the token from FILE (`-`: standard input); CONNECTION is then address:port[/fingerprint], or left out where FILE holds whole connection strings
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,

    /// Label the node; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) node_label: Vec<NodeLabel>,

    /// The address of this machine under which the node registers itself with Kubernetes
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_ip: Option<IpAddr>,

    /// How the progress of the join is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Format,

    /// Check whether the join would work, say how to fix what is in the way, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Show no spinner on a terminal
    #[arg(long)]
    pub(crate) no_progress: bool,
}

/// How a join, a leave or a removal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people, as MicroK8s prints them
    Text,
    /// A JSON object a line for each event
    Json,
}

impl Format {
    /// Takes the option out of arguments that are read word by word, or says what is wrong with it.
    pub(crate) fn take(arguments: &mut Vec<OsString>) -> Result<Self, String> {
        let (mut format, mut rest, mut needs_value) = (Self::Text, Vec::new(), false);
        for argument in std::mem::take(arguments) {
            let text = argument.to_string_lossy();
            let value = match text.strip_prefix("--format") {
                _ if needs_value => &text,
                Some("") => {
                    needs_value = true;
                    continue;
                }
                Some(value) if value.starts_with('=') => &value[1..],
                _ => {
                    rest.push(argument);
                    continue;
                }
            };
            needs_value = false;
            format = Self::from_str(value, false).map_err(|_| {
                let value = sanitize::for_terminal(value);
                format!("Invalid value for '--format': `{value}` is neither text nor json")
            })?;
        }
        *arguments = rest;
        if needs_value {
            return Err("Option '--format' requires an argument.".to_owned());
        }
        Ok(format)
    }
}

/// The longest `--timeout`: a day.
const LONGEST: u64 = 86_400;

/// A duration of a day at most, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    time_text::read_seconds(text)
        .filter(|seconds| *seconds <= LONGEST)
        .ok_or_else(|| "give a duration of at most one day, as in 5, 90s or 3m".to_owned())
}

/// The arguments by their names, or why they are not understood.
pub(crate) type Parsed = Result<JoinArgs, clap::Error>;

/// What has to be known of the arguments before anything is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// It is a dry run.
    pub(crate) is_dry_run: bool,
    /// How it is told.
    pub(crate) format: Format,
    /// No spinner is shown.
    pub(crate) no_progress: bool,
}

impl Manner {
    /// Arguments that are not understood ask for what they seem to ask for: a program that reads
    /// JSON is told what is wrong in JSON.
    fn of(arguments: &[OsString], parsed: &Parsed) -> Self {
        let has = |argument: &str| arguments.iter().any(|other| other == argument);
        let (is_dry_run, format) = match parsed {
            Ok(args) => (args.dry_run, args.format),
            Err(_) => {
                let format = Format::take(&mut arguments.to_vec());
                (has("--dry-run"), format.unwrap_or(Format::Text))
            }
        };
        Self {
            is_dry_run,
            format,
            no_progress: parsed.as_ref().map_or(true, |args| args.no_progress),
        }
    }
}

/// Takes the arguments apart as MicroK8s's command does: an option that it does not know counts as
/// an argument (recording `join-unknown-option`).
pub(crate) fn parse(arguments: &[OsString]) -> (Parsed, Manner) {
    let parsed = cli::read("join", unknown_options_last(arguments.to_vec()));
    let manner = Manner::of(arguments, &parsed);
    (parsed, manner)
}

/// The arguments in an order in which clap takes every one that is no option of `join` for a
/// connection string.
fn unknown_options_last(arguments: Vec<OsString>) -> Vec<OsString> {
    let command = cli::command();
    let join = command.find_subcommand("join");
    let option = |text: &str| -> Option<bool> {
        let long = text.strip_prefix("--")?;
        let name = long.split_once('=').map_or(long, |(name, _)| name);
        let known = join?
            .get_arguments()
            .find(|option| option.get_long() == Some(name))?;
        let takes_next = known.get_action().takes_values() && !known.is_require_equals_set();
        Some(takes_next && !long.contains('='))
    };
    let mut options = Vec::new();
    let mut others = vec![OsString::from("--")];
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            others.extend(rest);
            break;
        }
        match argument.to_str().and_then(option) {
            None => others.push(argument),
            Some(has_value) => {
                options.push(argument);
                options.extend(if has_value { rest.next() } else { None });
            }
        }
    }
    options.extend(others);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: &str = "10.99.0.11:25000/0123456789abcdef0123456789abcdef/e3b0c44298fc";

    #[test]
    fn how_it_is_told_is_known_of_arguments_that_are_not_understood_too() {
        let manner = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
            let manner = parse(&arguments).1;
            (
                manner.is_dry_run,
                manner.format == Format::Json,
                manner.no_progress,
            )
        };
        let silent = "--no-progress";
        let unknown = "--timeout=never";
        for (arguments, expected) in [
            (&[CONNECTION][..], (false, false, false)),
            (&["--format", "json", CONNECTION], (false, true, false)),
            (&["--dry-run", CONNECTION], (true, false, false)),
            (&[CONNECTION, silent], (false, false, true)),
            (
                &[unknown, "--dry-run", "--format", "json"],
                (true, true, true),
            ),
            (&[unknown, "--format=json"], (false, true, true)),
            (&[unknown], (false, false, true)),
        ] {
            assert_eq!(manner(arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds_or_has_a_unit() {
        for (text, expected) in [
            ("180", Some(180)),
            ("3m", Some(180)),
            ("24h", Some(86_400)),
            ("86401", None),
            ("25h", None),
            ("-5s", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }
}
