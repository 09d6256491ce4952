//! `microk8s add-node`: what may be typed, and what is said of it.

use std::path::PathBuf;

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::base::time_text;
use crate::cli::issued_token::{Format, render};
use crate::cli::output::{self, Printer};
use crate::cli::{self, argparse, token_file};
use crate::model::fingerprint::FingerprintPrefix;
use crate::model::node::NodeName;
use crate::model::token::{InvalidToken, Token};
use crate::model::token_record::{Added, GrantedTerms};
use crate::model::token_terms::{Description, InvalidUses, Lifetime, RoleLimit, Terms, Uses};
use crate::wire::local_v1::{AddTokenRequest, IssuedToken};

/// How it is used, above an error.
const USAGE: &str = "\
usage: microk8s add-node [-h] [--token-ttl TOKEN_TTL] [--token TOKEN]
                         [--format {pretty,short,token,token-check,json,yaml}]";

/// The arguments of `add-node`.
#[derive(Debug, Args)]
#[command(infer_long_args = true, args_override_self = true)]
pub(crate) struct AddNodeArgs {
    /// How long the token is valid for any number of nodes, as in 90s, 15m, 1h or 2d; a bare number
    /// is seconds; -1 makes a token for one node [default: -1]
    #[arg(short = 'l', long, value_name = "TOKEN_TTL", allow_hyphen_values = true, value_parser = lifetime)]
    pub(crate) token_ttl: Option<Lifetime>,

    /// The token to add, of 32 characters or more; without it a new one is made
    #[arg(short = 't', long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,

    /// How to print the token
    // As short as MicroK8s lets it be written.
    #[arg(long, alias = "f", value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,

    /// How many nodes may join with the token [default: 1, or any number with --token-ttl]
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = uses)]
    pub(crate) uses: Option<Uses>,

    /// The role in which nodes may join with the token [default: any]
    #[arg(long, value_enum)]
    pub(crate) role: Option<RoleLimit>,

    /// The host name of the only node that may use the token [default: any node]
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub(crate) node: Option<NodeName>,

    /// A line to remember the token by, which `microk8s token list` shows
    #[arg(long, value_name = "TEXT", value_parser = description)]
    pub(crate) description: Option<Description>,

    /// Print all 64 digits of the fingerprint instead of the first 12
    #[arg(long)]
    pub(crate) full_fingerprint: bool,

    /// Read the token to add from FILE (`-`: standard input), so that it is not in the process list
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(crate) token_file: Option<PathBuf>,

    /// Print one connection string for each control plane node of the cluster, each with the fingerprint of the certificate that this node serves
    #[arg(long)]
    pub(crate) all: bool,

    /// With --format json or yaml, print also the id, role, expires, uses and node of the token
    // MicroK8s's two fields alone are printed without it: programs refuse any other.
    #[arg(long)]
    pub(crate) details: bool,
}

/// Seconds as MicroK8s reads them, or a duration with a unit.
fn lifetime(text: &str) -> Result<Lifetime, String> {
    let seconds = match argparse::python_int(text) {
        Err(argparse::NotInt::Text) => time_text::read_seconds(text)
            .and_then(|seconds| i64::try_from(seconds).ok())
            .ok_or_else(|| {
                format!("`{text}` is neither a number of seconds nor a duration as in 90s, 15m, 1h or 2d")
            })?,
        number => number.map_err(|error| error.to_string())?,
    };
    Lifetime::from_ttl(seconds).map_err(|error| error.to_string())
}

fn uses(text: &str) -> Result<Uses, String> {
    let number = argparse::python_int(text).map_err(|error| error.to_string())?;
    u32::try_from(number)
        .map_err(|_| InvalidUses)
        .and_then(Uses::try_from)
        .map_err(|error| error.to_string())
}

fn node_name(text: &str) -> Result<NodeName, String> {
    NodeName::parse(text).map_err(|error| error.to_string())
}

fn description(text: &str) -> Result<Description, String> {
    Description::parse(text).map_err(|error| error.to_string())
}

/// Prints why the arguments are not understood.
pub(crate) fn usage_error(printer: &mut dyn Printer, text: &str) -> ExitStatus {
    printer.err(USAGE);
    printer.err(&format!("microk8s add-node: error: {text}"));
    if !cli::hint_at_option(printer, "add-node", text) {
        printer.err("hint: `microk8s add-node --help` shows what it takes");
    }
    ExitStatus::Usage
}

/// What is asked for. A token that is typed is read here, before anything else begins: a thread would
/// take the signal that ends the typing.
pub(crate) fn request(
    args: &AddNodeArgs,
    printer: &mut dyn Printer,
) -> Result<AddTokenRequest, ExitStatus> {
    if args.details && !matches!(args.format, Format::Json | Format::Yaml) {
        let text = "argument --details: only with --format json or yaml";
        return Err(usage_error(printer, text));
    }
    if args.all && matches!(args.format, Format::Token | Format::TokenCheck) {
        let text = "argument --all: not with --format token or token-check";
        return Err(usage_error(printer, text));
    }
    Ok(AddTokenRequest {
        token: given_token(args, printer)?,
        terms: Terms {
            lifetime: args.token_ttl,
            uses: args.uses,
            role: args.role,
            node: args.node.clone(),
            description: args.description.clone(),
        },
        all: args.all,
    })
}

/// Prints a token that was issued.
pub(crate) fn print(
    args: &AddNodeArgs,
    mut issued: IssuedToken,
    printer: &mut dyn Printer,
) -> ExitStatus {
    for notice in &issued.notices {
        printer.err(&format!("warning: {notice}"));
    }
    let changed = |added: &&Added| added.was_over || !added.has_same_terms;
    if let Some(added) = issued.added_again.as_ref().filter(changed) {
        let id = issued.token.digest().to_string();
        printer.err(&format!("note: {}", renewal(&id, added)));
    }
    if !args.full_fingerprint {
        let others = issued.others.iter_mut().flatten();
        let fingerprints = others.map(|(_, fingerprint)| fingerprint);
        for fingerprint in fingerprints.chain([&mut issued.fingerprint]) {
            fingerprint.truncate(FingerprintPrefix::MIN_LEN);
        }
    }
    let text = render(&issued, args.format, args.details);
    output::print(printer, &text, ExitStatus::Success)
}

/// The token to add, from the command line or from a file; what is wrong with it is printed.
fn given_token(args: &AddNodeArgs, printer: &mut dyn Printer) -> Result<Option<Token>, ExitStatus> {
    let (token, place) = match (&args.token, &args.token_file) {
        (Some(_), Some(_)) => {
            let text = "argument --token-file: not allowed with argument --token/-t";
            return Err(usage_error(printer, text));
        }
        (None, None) => return Ok(None),
        (Some(token), None) => (Token::preset(token), "argument --token/-t"),
        (None, Some(path)) => {
            let token = token_file::read_token(path, printer)?;
            (Token::preset(token.expose()), "argument --token-file")
        }
    };
    token.map(Some).map_err(|error| match error {
        InvalidToken::TooShort => {
            let hint = "leave the token out, and `microk8s add-node` makes one";
            let why = "the token is too short";
            output::refuse(printer, &format!("{error}\n"), why, Some(hint))
        }
        error => usage_error(printer, &format!("{place}: {error}")),
    })
}

/// What adding a token again came to.
fn renewal(id: &str, added: &Added) -> String {
    let uses = |grant: &GrantedTerms| {
        grant
            .uses
            .map_or_else(|| "any number".to_owned(), |uses| uses.to_string())
    };
    let end = |grant: &GrantedTerms| {
        grant
            .until
            .map_or_else(|| "never".to_owned(), time_text::moment)
    };
    let node = |grant: &GrantedTerms| {
        grant
            .node
            .as_ref()
            .map_or_else(|| "any".to_owned(), ToString::to_string)
    };
    let (before, after) = (&added.before, &added.after);
    let terms = [
        ("nodes", uses(before), uses(after)),
        ("expires", end(before), end(after)),
        ("role", before.role.to_string(), after.role.to_string()),
        ("node", node(before), node(after)),
    ]
    .map(|(name, before, after)| match before == after {
        true => format!("{name} {after}"),
        false => format!("{name} {after} (before: {before})"),
    })
    .join(", ");
    let what = match added.was_over {
        true => "had ended, and is valid again",
        false => "was known already, and has new terms",
    };
    format!("token {id} {what}: {terms}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    fn parse(arguments: &[&str]) -> Result<AddNodeArgs, clap::Error> {
        cli::read("add-node", arguments.iter().map(Into::into))
    }

    #[test]
    fn options_are_taken_in_all_the_ways_that_scripts_write_them() {
        for arguments in [
            &["-l", "3600", "-t", "x", "--format", "json"][..],
            &["--format=json", "--token=x", "--token-ttl=3600"],
            &["-l3600", "-tx", "--fo", "json"],
            &["-l3600", "-tx", "--f", "json"],
            &["--token-t", "3600", "--token", "x", "--format", "json"],
            &["-l", "1", "-l", "3600", "-t", "x", "--format", "json"],
        ] {
            let args = parse(arguments).unwrap();
            assert_eq!(
                args.token_ttl,
                Some(Lifetime::Seconds(3600)),
                "{arguments:?}"
            );
            assert_eq!(
                (args.token.as_deref(), args.format),
                (Some("x"), Format::Json)
            );
        }
        assert_eq!(
            parse(&["--token-ttl", "-1"]).unwrap().token_ttl,
            Some(Lifetime::OneUse)
        );
    }

    #[test]
    fn a_time_to_live_is_a_number_of_seconds_or_has_a_unit() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("15m", 900),
            ("1h", 3600),
            ("1h30m", 5400),
            ("2d", 172_800),
        ] {
            let args = parse(&["--token-ttl", text]).unwrap();
            assert_eq!(args.token_ttl, Some(Lifetime::Seconds(seconds)), "{text}");
        }
        for bad in [
            "0s",
            "-5m",
            "1 month",
            "200y",
            "1h!",
            "99999999999999999999",
        ] {
            assert!(parse(&["--token-ttl", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_read_as_argparse_writes_them() {
        for (arguments, text) in [
            (&["--nope"][..], "unrecognized arguments: --nope"),
            (
                &["--token-ttl", "abc"],
                "argument --token-ttl/-l: `abc` is neither a number of seconds nor a duration as in 90s, 15m, 1h or 2d",
            ),
            (
                &["--token-ttl"],
                "argument --token-ttl/-l: expected one argument",
            ),
            (
                &["--format", "xml"],
                "argument --format: invalid choice: 'xml' (choose from 'pretty', 'short', 'token', 'token-check', 'json', 'yaml')",
            ),
            (&["extra"], "unrecognized arguments: extra"),
        ] {
            assert_eq!(argparse::describe(&parse(arguments).unwrap_err()), text);
        }
        let dead = argparse::describe(&parse(&["--token-ttl", "0"]).unwrap_err());
        assert!(dead.contains("could never be used"), "{dead}");
    }

    #[test]
    fn a_token_that_no_join_string_can_carry_is_refused_and_nothing_is_issued() {
        for (token, status, out) in [
            (
                "0123456789abcdef0123456789abcde",
                ExitStatus::Failure,
                "Invalid token size.  It must be 32 characters long.\n",
            ),
            (
                "",
                ExitStatus::Failure,
                "Invalid token size.  It must be 32 characters long.\n",
            ),
            ("0123456789abcdef0123456789abcdef/", ExitStatus::Usage, ""),
        ] {
            let mut printer = Kept::default();
            let args = parse(&["--token", token]).unwrap();
            let refused = request(&args, &mut printer).err();
            assert_eq!((refused, printer.out.as_str()), (Some(status), out));
        }
    }
}
