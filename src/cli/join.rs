//! `microk8s join`: what may be typed, and how a join is told. Lines are MicroK8s's
//! (`messages.md`, join).

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::error::ErrorKind;
use jiff::SignedDuration;

use crate::base::exit_status::ExitStatus;
use crate::base::secret::Secret;
use crate::cli::output::{self, OutputLost, Printer};
use crate::cli::{self, texts, token_file};
use crate::model::join_url::{InvalidJoinUrl, JoinUrl};
use crate::model::node_label::NodeLabel;
use crate::model::role::Role;
use crate::model::token::MIN_LEN;
use crate::wire::local_v1::{JoinEvent, JoinOrder};
use crate::wire::preflight_v1::CheckOrder;

/// The help text (recording `join-help`).
pub const HELP: &str = "\
Usage: microk8s join [OPTIONS] CONNECTION

  Join the node to a cluster

  CONNECTION: the cluster connection endpoint in format
  <master>:<port>/<token>

Options:
  --worker                    Join as a worker only node.
  --controlplane              Join running the control plane on HA clusters.
                              (default)
  --skip-verify               Skip the certificate verification of the node we
                              are joining to. (default: false)
  --disable-low-memory-guard  Disable the low memory guard. (default: false)
  -h, --help                  Show this message and exit.
";

/// The options that MicroK8s does not have; see [`output::print_help`].
const FURTHER_HELP: &str = "
Options beyond those of MicroK8s:
  --timeout DURATION          How long the datastore may take to list the
                              node, or the API server to answer a worker:
                              seconds, or with a unit, 90s or 3m.
                              (default: 180)
  --token-file FILE           Read the token from FILE, or from standard input
                              where it is `-`, so that it is not in the process
                              list. CONNECTION is then given without it, as
                              <master>:<port>[/<fingerprint>], or not at all
                              where FILE holds a whole connection string.
  --node-label KEY=VALUE      Label the node; may be given several times.
  --node-ip ADDRESS           The address of this machine under which the
                              node registers itself with Kubernetes.
  --dry-run                   Look what stands in the way of the join, say how
                              to cure it, and change nothing.
  --no-progress               Show no spinner on a terminal.
  --format FORMAT             text, or json: one object a line. (default: text)
";

/// Prints the help text.
pub fn help(printer: &mut dyn Printer) -> ExitStatus {
    output::print_help(printer, HELP, FURTHER_HELP)
}

/// The arguments of `join`.
#[derive(Debug, Args)]
#[command(override_help = HELP, args_override_self = true)]
pub struct JoinArgs {
    /// The connection string that `microk8s add-node` printed: address:port/token[/fingerprint]
    #[arg(value_name = "CONNECTION")]
    pub connection: Vec<String>,

    /// Join as a worker only node
    #[arg(long, overrides_with = "controlplane")]
    pub worker: bool,

    /// Join running the control plane on HA clusters (the default)
    #[arg(long, overrides_with = "worker")]
    pub controlplane: bool,

    /// Skip the certificate verification of the node we are joining to
    #[arg(long)]
    pub skip_verify: bool,

    /// Join although this node has little memory
    #[arg(long)]
    pub disable_low_memory_guard: bool,

    /// How long the datastore may take to list the node, or the API server to answer a worker: seconds, or with a unit as in 90s or 3m
    #[arg(long, value_name = "DURATION", default_value = "180", value_parser = seconds)]
    pub timeout: u64,

    /// Read the token from FILE (`-`: standard input); CONNECTION is then address:port[/fingerprint], or left out where FILE holds a whole connection string
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,

    /// Label the node; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub node_label: Vec<NodeLabel>,

    /// The address of this machine under which the node registers itself with Kubernetes
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,

    /// How the join is told: `json` is an object a line
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub format: Format,

    /// Look what stands in the way of the join, say how to cure it, and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Show no spinner on a terminal
    #[arg(long)]
    pub no_progress: bool,
}

/// How a join is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// As MicroK8s tells it.
    Text,
    /// A line of JSON for each event.
    Json,
}

/// The longest `--timeout`: a day.
const LONGEST: u64 = 86_400;

/// Reads a duration: seconds, or a number with a unit. Less than a second counts as one.
fn seconds(text: &str) -> Result<u64, String> {
    let seconds = if text.chars().all(|c| c.is_ascii_digit()) {
        text.parse().ok()
    } else {
        let duration: Option<SignedDuration> = text.parse().ok();
        duration
            .and_then(|duration| Duration::try_from(duration).ok())
            .map(|duration| duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
    };
    seconds
        .filter(|seconds| *seconds <= LONGEST)
        .ok_or_else(|| "it is no duration of a day at most, as in 5, 90s or 3m".to_owned())
}

/// What was typed, as far as it can be judged without looking at the node.
#[derive(Debug)]
pub enum Typed {
    /// A join.
    Join {
        /// What to do.
        order: JoinOrder,
        /// What was typed to say whom to contact: the connection string, or what stood in its place.
        connection: String,
    },
    /// A look at what stands in the way of a join.
    Check {
        /// What to look at.
        order: CheckOrder,
        /// Why the connection string was not understood.
        invalid: Option<InvalidJoinUrl>,
    },
    /// The help text was asked for.
    Help,
    /// Something that is not understood; it was said already.
    Wrong(ExitStatus),
}

/// The arguments by their names, or why they are not understood.
pub type Parsed = Result<JoinArgs, clap::Error>;

/// What has to be known of the arguments before anything is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// It is a look at what stands in the way of a join, and no join.
    pub is_look: bool,
    /// How it is told.
    pub format: Format,
    /// No spinner is shown.
    pub no_progress: bool,
}

impl Manner {
    /// Arguments that are not understood ask for what they seem to ask for: a program that reads
    /// JSON is told what is wrong in JSON.
    fn of(arguments: &[OsString], parsed: &Parsed) -> Self {
        let has = |argument: &str| arguments.iter().any(|other| other == argument);
        let (is_look, format) = match parsed {
            Ok(args) => (args.dry_run, args.format),
            Err(error) if error.kind() == ErrorKind::DisplayHelp => (false, Format::Text),
            Err(_) => {
                let mut pairs = arguments.windows(2);
                let is_json = pairs.any(|pair| pair == ["--format", "json"]);
                let format = match is_json || has("--format=json") {
                    true => Format::Json,
                    false => Format::Text,
                };
                (has("--dry-run"), format)
            }
        };
        Self {
            is_look,
            format,
            no_progress: parsed.as_ref().map_or(true, |args| args.no_progress),
        }
    }
}

/// Takes the arguments apart as MicroK8s's command does: an option that it does not know counts as
/// an argument (recording `join-unknown-option`).
pub fn parse(arguments: &[OsString]) -> (Parsed, Manner) {
    let parsed = cli::read("join", unknown_options_last(arguments.to_vec()));
    let manner = Manner::of(arguments, &parsed);
    (parsed, manner)
}

/// Says what the arguments mean. A second connection string is an error (recording
/// `join-two-arguments`).
pub fn read(parsed: Parsed, printer: &mut dyn Printer) -> Typed {
    let args = match parsed {
        Ok(args) => args,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => return Typed::Help,
        Err(error) => {
            let text = error.to_string();
            let first = text
                .lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            return Typed::Wrong(usage_error(printer, first));
        }
    };
    if let Some(key) = labelled_twice(&args.node_label) {
        let text = format!("Label '{key}' is given twice, with two values.");
        return Typed::Wrong(usage_error(printer, &text));
    }
    let typed = match &args.connection[..] {
        [] if args.token_file.is_some() => None,
        [] => return Typed::Wrong(usage_error(printer, "Missing argument 'CONNECTION'.")),
        [only] => Some(only.as_str()),
        [_, one] => {
            return Typed::Wrong(usage_error(
                printer,
                &format!("Got unexpected extra argument ({one})"),
            ));
        }
        [_, more @ ..] => {
            let text = format!("Got unexpected extra arguments ({})", more.join(" "));
            return Typed::Wrong(usage_error(printer, &text));
        }
    };
    let parsed = match &args.token_file {
        None => JoinUrl::parse(typed.unwrap_or_default()),
        Some(path) => match url_from_file(path, typed, printer) {
            Ok(parsed) => parsed,
            Err(status) => return Typed::Wrong(status),
        },
    };
    let connection = match &args.token_file {
        None => typed.unwrap_or_default().to_owned(),
        Some(path) => {
            let option = format!("--token-file {}", token_file::quoted(path));
            typed.map_or(option.clone(), |typed| format!("{typed} {option}"))
        }
    };
    let role = if args.worker {
        Role::Worker
    } else {
        Role::ControlPlane
    };
    match parsed {
        Err(InvalidJoinUrl::SecondToken) => Typed::Wrong(usage_error(
            printer,
            "The token is given twice: with '--token-file', CONNECTION is <master>:<port>[/<fingerprint>].",
        )),
        parsed if args.dry_run => Typed::Check {
            invalid: parsed.as_ref().err().copied(),
            order: CheckOrder {
                url: parsed.ok(),
                role,
                role_was_named: args.worker || args.controlplane,
                skip_verify: args.skip_verify,
                disable_low_memory_guard: args.disable_low_memory_guard,
                node_ip: args.node_ip,
            },
        },
        Ok(url) => Typed::Join {
            order: JoinOrder {
                url,
                role,
                role_was_named: args.worker || args.controlplane,
                skip_verify: args.skip_verify,
                disable_low_memory_guard: args.disable_low_memory_guard,
                timeout_seconds: args.timeout,
                labels: args.node_label,
                node_ip: args.node_ip,
            },
            connection,
        },
        Err(error) => {
            let text = format!("{}\n", texts::invalid_connection(error));
            Typed::Wrong(output::print(printer, &text, ExitStatus::Failure))
        }
    }
}

/// The key of a label that is to have two values.
fn labelled_twice(labels: &[NodeLabel]) -> Option<&str> {
    labels
        .iter()
        .find(|one| {
            labels
                .iter()
                .any(|other| other.key() == one.key() && other != *one)
        })
        .map(NodeLabel::key)
}

/// The connection string, put together from a file and from what was typed. Whatever else is wrong
/// than the string itself is printed.
fn url_from_file(
    path: &Path,
    typed: Option<&str>,
    printer: &mut dyn Printer,
) -> Result<Result<JoinUrl, InvalidJoinUrl>, ExitStatus> {
    // What would be refused whatever the file holds is refused before standard input is waited for.
    let placeholder = Secret::new("0".repeat(MIN_LEN));
    if let Some(Err(error)) = typed.map(|typed| JoinUrl::parse_with_token(typed, &placeholder)) {
        return Ok(Err(error));
    }
    let file = token_file::read(path).map_err(|error| {
        output::error(printer, &error.to_string(), None);
        ExitStatus::Failure
    })?;
    if file.is_public {
        printer.err(&format!(
            "warning: everybody on this machine can read the token file `{}`",
            path.display()
        ));
    }
    let is_whole = file.text.expose().contains('/');
    match typed {
        None if is_whole => Ok(JoinUrl::parse(file.text.expose())),
        None => Err(usage_error(
            printer,
            "Missing argument 'CONNECTION': the token file holds a token, and no address.",
        )),
        Some(_) if is_whole => Err(usage_error(
            printer,
            "The token file holds a whole connection string, so 'CONNECTION' is given twice.",
        )),
        Some(typed) => Ok(JoinUrl::parse_with_token(typed, &file.text)),
    }
}

/// The arguments in an order in which clap takes every one that is no option of `join` for a
/// connection string.
fn unknown_options_last(arguments: Vec<OsString>) -> Vec<OsString> {
    let command = cli::command();
    let join = command.find_subcommand("join");
    let option = |text: &str| -> Option<bool> {
        if ["-h", "--help"].contains(&text) {
            return Some(false);
        }
        let long = text.strip_prefix("--")?;
        let name = long.split_once('=').map_or(long, |(name, _)| name);
        let known = join?
            .get_opts()
            .find(|option| option.get_long() == Some(name))?;
        Some(known.get_action().takes_values() && !long.contains('='))
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

fn usage_error(printer: &mut dyn Printer, text: &str) -> ExitStatus {
    printer.err("Usage: microk8s join [OPTIONS] CONNECTION");
    printer.err("Try 'microk8s join -h' for help.");
    printer.err("");
    printer.err(&format!("Error: {text}"));
    ExitStatus::Usage
}

/// Says that the node has too little memory for a control plane.
pub fn refuse_for_memory(printer: &mut dyn Printer, connection: &str) -> ExitStatus {
    output::print(
        printer,
        &texts::low_memory_guard(connection),
        ExitStatus::Failure,
    )
}

/// What a worker's operator should know (recording `join-worker-ok`).
const WORKER_USAGE: &str = "
The node has joined the cluster and will appear in the nodes list in a few seconds.

This worker node gets automatically configured with the API server endpoints.
If the API servers are behind a loadbalancer please set the '--refresh-interval' to '0s' in:
    /var/snap/microk8s/current/args/apiserver-proxy
and replace the API server endpoints with the one provided by the loadbalancer in:
    /var/snap/microk8s/current/args/traefik/provider.yaml

";

/// Who tells a join, and prints what comes before it.
pub trait Teller: Printer {
    /// Tells one event.
    fn tell(&mut self, event: &JoinEvent);

    /// How the join ended; one that ends without a word failed.
    fn status(&self) -> ExitStatus;
}

/// Tells a join on a terminal, or to whoever reads, as MicroK8s does.
pub struct Narrator<'a> {
    printer: &'a mut dyn Printer,
    status: ExitStatus,
}

impl<'a> Narrator<'a> {
    /// Nothing was told yet; a join that ends without a word failed.
    pub fn new(printer: &'a mut dyn Printer) -> Self {
        Self {
            printer,
            status: ExitStatus::Failure,
        }
    }
}

impl Printer for Narrator<'_> {
    fn out(&mut self, text: &str) -> Result<(), OutputLost> {
        self.printer.out(text)
    }

    fn err(&mut self, line: &str) {
        self.printer.err(line);
    }

    fn has_reader(&self) -> bool {
        self.printer.has_reader()
    }
}

impl Teller for Narrator<'_> {
    fn tell(&mut self, event: &JoinEvent) {
        let text = match event {
            JoinEvent::Contacting { address } => format!("Contacting cluster at {address}\n"),
            JoinEvent::Warning {
                message,
                from_microk8s: true,
            } => format!("{message}\n"),
            JoinEvent::Warning { message, .. } => {
                self.printer.err(&format!("warning: {message}"));
                return;
            }
            // MicroK8s says nothing of it.
            JoinEvent::Stage { .. } => return,
            JoinEvent::Waiting => {
                "Waiting for this node to finish joining the cluster. ".to_owned()
            }
            JoinEvent::NotListed => ". ".to_owned(),
            JoinEvent::NotAnswering => ".. ".to_owned(),
            JoinEvent::WaitingDone => " \n".to_owned(),
            JoinEvent::Joined { has_api_proxy, .. } => {
                self.status = ExitStatus::Success;
                let usage = if *has_api_proxy { WORKER_USAGE } else { "" };
                format!("{usage}Successfully joined the cluster.\n")
            }
            JoinEvent::AlreadyMember { .. } => {
                self.status = ExitStatus::Success;
                "This node is already a member of the cluster.\n".to_owned()
            }
            JoinEvent::Failed(failure) => {
                self.status = output::failure(self.printer, failure);
                return;
            }
        };
        // A join goes on although nobody reads what it says.
        let _ = self.printer.out(&text);
    }

    fn status(&self) -> ExitStatus {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    const CONNECTION: &str = "10.99.0.11:25000/0123456789abcdef0123456789abcdef/e3b0c44298fc";

    fn typed(arguments: &[&str]) -> (Typed, Kept) {
        let mut printer = Kept::default();
        let (parsed, _) = parse(&arguments.iter().map(Into::into).collect::<Vec<_>>());
        let typed = read(parsed, &mut printer);
        (typed, printer)
    }

    fn role(arguments: &[&str]) -> Role {
        match typed(arguments).0 {
            Typed::Join { order, .. } => order.role,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn how_it_is_told_is_known_of_arguments_that_are_not_understood_too() {
        let manner = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
            let manner = parse(&arguments).1;
            (
                manner.is_look,
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
            (&["-h", "--dry-run", "--format=json"], (false, false, true)),
        ] {
            assert_eq!(manner(arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn flags_stand_anywhere_and_the_last_role_counts() {
        assert_eq!(role(&[CONNECTION]), Role::ControlPlane);
        assert_eq!(role(&["--worker", CONNECTION]), Role::Worker);
        assert_eq!(
            role(&[CONNECTION, "--skip-verify", "--worker", "--worker"]),
            Role::Worker
        );
        assert_eq!(
            role(&[CONNECTION, "--worker", "--controlplane"]),
            Role::ControlPlane
        );
        assert_eq!(
            role(&["--controlplane", CONNECTION, "--worker"]),
            Role::Worker
        );
    }

    #[test]
    fn unknown_options_count_as_arguments() {
        for (arguments, error) in [
            (&[][..], "Missing argument 'CONNECTION'."),
            (
                &["--nope", CONNECTION],
                &format!("Got unexpected extra argument ({CONNECTION})"),
            ),
            (
                &[CONNECTION, "--nope"],
                "Got unexpected extra argument (--nope)",
            ),
            (
                &[CONNECTION, "extra"],
                "Got unexpected extra argument (extra)",
            ),
            (
                &[CONNECTION, "--work"],
                "Got unexpected extra argument (--work)",
            ),
            (
                &[CONNECTION, "a", "b"],
                "Got unexpected extra arguments (a b)",
            ),
        ] {
            let (typed, printer) = typed(arguments);
            assert!(
                matches!(typed, Typed::Wrong(ExitStatus::Usage)),
                "{arguments:?}: {typed:?}"
            );
            assert_eq!(
                printer.err,
                format!(
                    "Usage: microk8s join [OPTIONS] CONNECTION\nTry 'microk8s join -h' for help.\n\nError: {error}\n"
                )
            );
        }
        assert!(matches!(typed(&["--nope", "-h"]).0, Typed::Help));
        assert!(matches!(typed(&["--help"]).0, Typed::Help));
    }

    #[test]
    fn a_timeout_is_a_number_of_seconds_or_has_a_unit() {
        for (text, expected) in [
            ("180", Some(180)),
            ("0", Some(0)),
            ("5s", Some(5)),
            ("3m", Some(180)),
            ("1m30s", Some(90)),
            ("250ms", Some(1)),
            ("24h", Some(86_400)),
            ("86401", None),
            ("25h", None),
            ("99999999999999999999", None),
            ("", None),
            ("-5s", None),
            ("5 parsecs", None),
        ] {
            assert_eq!(seconds(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn every_option_is_in_the_help_text() {
        let command = cli::command();
        let join = command.find_subcommand("join").unwrap();
        for option in join.get_opts().filter(|option| !option.is_hide_set()) {
            let long = format!("--{}", option.get_long().unwrap());
            assert!((HELP.to_owned() + FURTHER_HELP).contains(&long), "{long}");
        }
    }

    #[test]
    fn a_join_is_told_as_recorded() {
        let mut printer = Kept::default();
        let mut narrator = Narrator::new(&mut printer);
        for event in [
            JoinEvent::Contacting {
                address: "10.99.0.11".parse().unwrap(),
            },
            JoinEvent::Waiting,
            JoinEvent::NotListed,
            JoinEvent::NotAnswering,
            JoinEvent::WaitingDone,
            JoinEvent::Joined {
                role: Role::ControlPlane,
                has_api_proxy: false,
            },
        ] {
            narrator.tell(&event);
        }
        assert_eq!(narrator.status(), ExitStatus::Success);
        assert_eq!(
            printer.out,
            "Contacting cluster at 10.99.0.11\nWaiting for this node to finish joining the cluster. . ..  \nSuccessfully joined the cluster.\n"
        );
    }
}
