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

/// Says what the arguments mean, or prints what is wrong and returns the exit status. Beside a
/// connection string only others may stand (recording `join-two-arguments`).
pub(crate) fn read(parsed: Parsed, printer: &mut dyn Printer) -> Result<Typed, ExitStatus> {
    let args = match parsed {
        Ok(args) => args,
        Err(error) => {
            let (text, _) = cli::explain_usage(&error);
            return Err(usage_error(printer, &text));
        }
    };
    if let Some(key) = labelled_twice(&args.node_label) {
        let text = format!("Label '{key}' is given twice, with two values.");
        return Err(usage_error(printer, &text));
    }
    let (typed, is_for_worker) = pasted(&args.connection);
    if typed.is_empty() && args.token_file.is_none() {
        return Err(usage_error(printer, "Missing argument 'CONNECTION'."));
    }
    let mut connection = typed.join(" ");
    if let Some(path) = &args.token_file {
        connection += &format!(" --token-file {}", token_file::quoted(path));
    }
    let mut names_worker = args.worker || is_for_worker;
    let words = || typed.iter().map(String::as_str);
    let read = match &args.token_file {
        None => read_each(words(), JoinUrl::parse),
        Some(path) => {
            // What would be refused whatever the file holds is refused before standard input is
            // waited for.
            let placeholder = Secret::new("0".repeat(MIN_LEN));
            let read = read_each(words(), |one| JoinUrl::parse_with_token(one, &placeholder));
            match read {
                Ok(_) => {
                    let (read, is_for_worker) = urls_from_file(path, &typed, printer)?;
                    names_worker |= is_for_worker && !args.controlplane;
                    read
                }
                refused => refused,
            }
        }
    };
    let (urls, invalid) = match read {
        Ok(urls) => (urls, None),
        Err((one, _)) if typed.len() > 1 && !is_like_a_connection(one.expose()) => {
            return Err(usage_error(printer, &cli::extra_arguments(&typed[1..])));
        }
        Err((_, InvalidJoinUrl::SecondToken)) => {
            let text = "The token is given twice: with '--token-file', CONNECTION is <master>:<port>[/<fingerprint>].";
            return Err(usage_error(printer, text));
        }
        Err((one, error)) if !args.dry_run => {
            let text = format!("{}\n", texts::invalid_connection(error));
            let (why, hint) = connection_error::explain(error, one.expose());
            return Err(output::refuse(printer, &text, &why, Some(&hint)));
        }
        Err((_, error)) => (Vec::new(), Some(error)),
    };
    if urls.iter().any(|url| url.token != urls[0].token) {
        let text = "The connection strings hold different tokens: give those of one token, as 'microk8s add-node --all' prints them.";
        return Err(usage_error(printer, text));
    }
    let role = if names_worker {
        Role::Worker
    } else {
        Role::ControlPlane
    };
    let order = JoinOrder {
        urls,
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

/// Connection strings, each once, or the first text that is none and why.
type Urls = Result<Vec<JoinUrl>, (Secret, InvalidJoinUrl)>;

fn read_each<'a>(
    texts: impl Iterator<Item = &'a str>,
    read: impl Fn(&str) -> Result<JoinUrl, InvalidJoinUrl>,
) -> Urls {
    let mut urls = Vec::new();
    for text in texts {
        let url = read(text).map_err(|error| (Secret::new(text), error))?;
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    Ok(urls)
}

/// The connection strings, put together from a file and from what was typed, and whether the file
/// holds the command for a worker. Whatever else is wrong than a string itself is printed.
fn urls_from_file(
    path: &Path,
    typed: &[String],
    printer: &mut dyn Printer,
) -> Result<(Urls, bool), ExitStatus> {
    let file = token_file::read(path, printer)?;
    let urls = match (typed, &file.urls[..]) {
        ([], []) => {
            return Err(usage_error(
                printer,
                "Missing argument 'CONNECTION': the token file holds a token, and no address.",
            ));
        }
        ([], urls) => read_each(urls.iter().map(Secret::expose), JoinUrl::parse),
        (_, []) => read_each(typed.iter().map(String::as_str), |one| {
            match one.contains('/') {
                true => JoinUrl::parse_with_token(one, &file.token),
                false => JoinUrl::of_parts(one, file.token.expose(), file.fingerprint.as_deref()),
            }
        }),
        _ => {
            return Err(usage_error(
                printer,
                "The token file holds a whole connection string, so 'CONNECTION' is given twice.",
            ));
        }
    };
    Ok((urls, file.is_for_worker))
}

/// Whether a text was meant as a connection string.
fn is_like_a_connection(text: &str) -> bool {
    text.contains(':') && !text.starts_with('-')
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
    fn several_connection_strings_are_tried_in_their_order_and_each_once() {
        let other = CONNECTION.replace("10.99.0.11", "10.99.0.12");
        let addresses = |arguments: &[&str]| -> Vec<String> {
            let urls = typed(arguments).0.unwrap().order.urls;
            urls.iter().map(|url| url.address.to_string()).collect()
        };
        let both = ["10.99.0.12", "10.99.0.11"];
        assert_eq!(addresses(&[&other, CONNECTION, "--worker"]), both);
        assert_eq!(
            addresses(&["microk8s", "join", &other, CONNECTION, &other]),
            both
        );
        let line = format!("microk8s join {other} {CONNECTION} --worker");
        assert_eq!(addresses(&[&line]), both);
        assert_eq!(role(&[&line]), Role::Worker);
    }

    #[test]
    fn connection_strings_with_different_tokens_or_faults_are_refused() {
        let other_token = CONNECTION.replace("0123", "ffff");
        let (refused, printer) = typed(&[CONNECTION, &other_token]);
        assert!(matches!(refused, Err(ExitStatus::Usage)), "{refused:?}");
        assert!(
            printer.err.contains("hold different tokens"),
            "{}",
            printer.err
        );
        assert!(!printer.err.contains("ffff"), "{}", printer.err);

        let bad_port = CONNECTION.replace("25000", "99999");
        let (refused, printer) = typed(&[CONNECTION, &bad_port]);
        assert!(refused.is_err());
        assert!(
            printer.err.contains("`99999` is not a port"),
            "{}",
            printer.err
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
