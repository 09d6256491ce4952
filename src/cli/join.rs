//! `microk8s join`: what the arguments mean.

use std::path::Path;

use crate::base::exit_status::ExitStatus;
use crate::base::secret::Secret;
use crate::cli::join_args::Parsed;
use crate::cli::output::{self, Printer};
use crate::cli::{self, connection_error, texts, token_file};
use crate::model::join_url::{InvalidJoinUrl, JoinUrl, without_wrapping};
use crate::model::node_label::NodeLabel;
use crate::model::role::Role;
use crate::model::token::MIN_LEN;
use crate::wire::operation::JoinOrder;

/// What was typed, as far as it can be judged without looking at the node.
#[derive(Debug)]
pub(crate) struct Typed {
    /// What to do.
    pub(crate) order: JoinOrder,
    /// What was typed to say whom to contact: the connection string, or what stood in its place.
    pub(crate) connection: String,
    /// For how many seconds the join is tried again.
    pub(crate) wait: Option<u64>,
    /// Why the connection string of a dry run was not understood.
    pub(crate) invalid: Option<InvalidJoinUrl>,
}

/// Says what the arguments mean, or prints what is wrong and returns the exit status. A second
/// connection string is an error (recording `join-two-arguments`).
pub(crate) fn read(parsed: Parsed, printer: &mut dyn Printer) -> Result<Typed, ExitStatus> {
    let args = match parsed {
        Ok(args) => args,
        Err(error) => {
            let text = error.to_string();
            let first = text
                .lines()
                .next()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            return Err(usage_error(printer, first));
        }
    };
    if let Some(key) = labelled_twice(&args.node_label) {
        let text = format!("Label '{key}' is given twice, with two values.");
        return Err(usage_error(printer, &text));
    }
    let (connection, mut is_worker) = pasted(&args.connection);
    let typed = match &connection[..] {
        [] if args.token_file.is_some() => None,
        [] => return Err(usage_error(printer, "Missing argument 'CONNECTION'.")),
        [only] => Some(only.as_str()),
        [_, more @ ..] => return Err(usage_error(printer, &cli::extra_arguments(more))),
    };
    let parsed = match &args.token_file {
        None => JoinUrl::parse(typed.unwrap_or_default()),
        Some(path) => {
            let (parsed, is_for_worker) = url_from_file(path, typed, printer)?;
            is_worker |= is_for_worker && !args.controlplane;
            parsed
        }
    };
    let connection = match &args.token_file {
        None => typed.unwrap_or_default().to_owned(),
        Some(path) => {
            let option = format!("--token-file {}", token_file::quoted(path));
            typed.map_or(option.clone(), |typed| format!("{typed} {option}"))
        }
    };
    let names_worker = args.worker || is_worker;
    let role = if names_worker {
        Role::Worker
    } else {
        Role::ControlPlane
    };
    let (url, invalid) = match parsed {
        Err(InvalidJoinUrl::SecondToken) => {
            let text = "The token is given twice: with '--token-file', CONNECTION is <master>:<port>[/<fingerprint>].";
            return Err(usage_error(printer, text));
        }
        Err(error) if !args.dry_run => {
            let text = format!("{}\n", texts::invalid_connection(error));
            let (why, hint) = connection_error::explain(error, typed.unwrap_or_default());
            return Err(output::refuse(printer, &text, &why, Some(&hint)));
        }
        Err(error) => (None, Some(error)),
        Ok(url) => (Some(url), None),
    };
    let order = JoinOrder {
        url,
        dry_run: args.dry_run,
        role,
        role_was_named: names_worker || args.controlplane,
        skip_verify: args.skip_verify,
        disable_low_memory_guard: args.disable_low_memory_guard,
        timeout_seconds: args.timeout,
        labels: args.node_label,
        node_ip: args.node_ip,
    };
    Ok(Typed {
        order,
        connection,
        wait: args.wait,
        invalid,
    })
}

/// The connection string out of what was typed for it: `add-node` prints a whole command, which is
/// pasted as it stands, and with what the terminal or an editor put around it. Says besides
/// whether the command is that for a worker.
fn pasted(typed: &[String]) -> (Vec<String>, bool) {
    let clean: Vec<&str> = typed.iter().map(|one| without_wrapping(one)).collect();
    let words: Vec<&str> = clean
        .iter()
        .flat_map(|one| one.split_whitespace())
        .map(without_wrapping)
        .collect();
    let command = match words[..] {
        ["sudo", ref rest @ ..] => rest,
        ref all => all,
    };
    let rest = match command {
        [program, "join", rest @ ..] if program.rsplit('/').next() == Some("microk8s") => rest,
        [program, rest @ ..] if program.rsplit('/').next() == Some("microk8s.join") => rest,
        _ => return (clean.into_iter().map(str::to_owned).collect(), false),
    };
    let (flags, connection): (Vec<&str>, Vec<&str>) =
        rest.iter().partition(|word| **word == "--worker");
    (
        connection.into_iter().map(str::to_owned).collect(),
        !flags.is_empty(),
    )
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

/// The connection string, put together from a file and from what was typed, and whether the file
/// holds the command for a worker. Whatever else is wrong than the string itself is printed.
fn url_from_file(
    path: &Path,
    typed: Option<&str>,
    printer: &mut dyn Printer,
) -> Result<(Result<JoinUrl, InvalidJoinUrl>, bool), ExitStatus> {
    // What would be refused whatever the file holds is refused before standard input is waited for.
    let placeholder = Secret::new("0".repeat(MIN_LEN));
    if let Some(Err(error)) = typed.map(|typed| JoinUrl::parse_with_token(typed, &placeholder)) {
        return Ok((Err(error), false));
    }
    let file = token_file::read(path, printer).map_err(|error| {
        output::error(printer, &error.to_string(), Some(error.hint()));
        ExitStatus::Failure
    })?;
    let fingerprint = file.fingerprint.as_deref();
    let url = match (typed, &file.node) {
        (None, Some(node)) => JoinUrl::of_parts(node, file.token.expose(), fingerprint),
        (None, None) => {
            return Err(usage_error(
                printer,
                "Missing argument 'CONNECTION': the token file holds a token, and no address.",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(usage_error(
                printer,
                "The token file holds a whole connection string, so 'CONNECTION' is given twice.",
            ));
        }
        (Some(typed), None) if typed.contains('/') => JoinUrl::parse_with_token(typed, &file.token),
        (Some(typed), None) => JoinUrl::of_parts(typed, file.token.expose(), fingerprint),
    };
    Ok((url, file.is_for_worker))
}

fn usage_error(printer: &mut dyn Printer, text: &str) -> ExitStatus {
    cli::usage_error(printer, "join", "[OPTIONS] CONNECTION", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::join_args;
    use crate::cli::output::tests::Kept;

    const CONNECTION: &str = "10.99.0.11:25000/0123456789abcdef0123456789abcdef/e3b0c44298fc";

    fn typed(arguments: &[&str]) -> (Result<Typed, ExitStatus>, Kept) {
        let mut printer = Kept::default();
        let (parsed, _) = join_args::parse(&arguments.iter().map(Into::into).collect::<Vec<_>>());
        let typed = read(parsed, &mut printer);
        (typed, printer)
    }

    fn role(arguments: &[&str]) -> Role {
        typed(arguments).0.unwrap().order.role
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
    fn a_command_is_understood_as_it_was_pasted() {
        for arguments in [
            &["microk8s", "join", CONNECTION][..],
            &["sudo", "microk8s", "join", CONNECTION],
            &["/snap/bin/microk8s", "join", CONNECTION],
            &[&format!("microk8s join {CONNECTION}\r\n")],
            &[&format!("sudo microk8s.join '{CONNECTION}'")[..]],
            &[&format!("\u{feff}{CONNECTION}\r")],
        ] {
            let (typed, printer) = typed(arguments);
            match typed {
                Ok(typed) => assert_eq!(typed.order.role, Role::ControlPlane),
                Err(status) => panic!("{arguments:?}: {status:?} {}", printer.err),
            }
        }
        let worker = format!("microk8s join {CONNECTION} --worker");
        assert_eq!(role(&[&worker]), Role::Worker);
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
                "Got unexpected extra argument (--nope)\nhint: did you mean `--node-ip`?",
            ),
            (
                &[CONNECTION, "extra"],
                "Got unexpected extra argument (extra)",
            ),
            (
                &[CONNECTION, "--work"],
                "Got unexpected extra argument (--work)\nhint: did you mean `--worker`?",
            ),
            (
                &[CONNECTION, "a", "b"],
                "Got unexpected extra arguments (a b)",
            ),
        ] {
            let (typed, printer) = typed(arguments);
            assert!(
                matches!(typed, Err(ExitStatus::Usage)),
                "{arguments:?}: {typed:?}"
            );
            assert_eq!(
                printer.err,
                format!(
                    "Usage: microk8s join [OPTIONS] CONNECTION\nTry 'microk8s join -h' for help.\n\nError: {error}\n"
                )
            );
        }
    }
}
