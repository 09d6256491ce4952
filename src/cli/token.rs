//! `microk8s token`: what may be typed, and how tokens are shown. A token is named by its id, or
//! given on standard input; it is never shown.

use std::collections::HashSet;
use std::ops::ControlFlow;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::base::exit_status::ExitStatus;
use crate::base::{sanitize, time_text};
use crate::cli::output::{self, Format, OutputLost, Printer, StructuredList, structured};
use crate::model::token_record::State;
use crate::wire::local_v1::{Pruned, TokenEntry, TokenListEnd};

/// The arguments of `token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

/// What can be done about tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List the tokens of this node
    List {
        /// How to print the list
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Show everything that is known about a token
    Show {
        /// The token's id, as `token list` shows it, or the beginning of it; `-` reads what
        /// `add-node` printed from standard input
        #[arg(value_name = "ID")]
        id: String,

        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Revoke tokens, so that no node can join with them any more
    Revoke {
        /// Ids of tokens, as `token list` shows them, or beginnings of them; `-` reads what
        /// `add-node` printed from standard input
        #[arg(
            value_name = "ID",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        ids: Vec<String>,

        /// Revoke every token of this node that can still be used
        #[arg(long)]
        all: bool,

        /// How to print what was done
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Remove the tokens that are used up, expired or revoked
    Prune {
        /// Remove also the tokens that no node has joined with for this long, as in 12h or 7d
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        unused_for: Option<u64>,

        /// How to print what was done
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

fn duration(text: &str) -> Result<u64, String> {
    time_text::read_seconds(text).ok_or_else(|| "give a duration, as in 90s, 12h or 7d".to_owned())
}

impl TokenCommand {
    /// How to print the answer.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::List { format }
            | Self::Show { format, .. }
            | Self::Revoke { format, .. }
            | Self::Prune { format, .. } => *format,
        }
    }
}

/// Prints the list of tokens: the table when all are known, so that its columns fit, and for programs
/// each token as it comes.
#[derive(Debug)]
pub(crate) struct List {
    text: Option<Vec<TokenEntry>>,
    structured: StructuredList,
    printed: Result<(), OutputLost>,
}

impl List {
    /// A list to be printed in this format.
    pub(crate) fn new(format: Format) -> Self {
        Self {
            text: (format == Format::Text).then(Vec::new),
            structured: StructuredList::new(format),
            printed: Ok(()),
        }
    }

    /// The next token. Breaks off when nothing reads the list any more.
    pub(crate) fn token(
        &mut self,
        printer: &mut dyn Printer,
        token: TokenEntry,
    ) -> ControlFlow<()> {
        match &mut self.text {
            Some(tokens) => tokens.push(token),
            None => {
                let text = self.structured.item(&Shown::new(&token));
                self.printed = printer.out(&text);
            }
        }
        match self.printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// All tokens were given.
    pub(crate) fn end(self, printer: &mut dyn Printer, end: &TokenListEnd) -> ExitStatus {
        if let Err(lost) = self.printed {
            return output::report_lost(printer, &lost);
        }
        warn(printer, end);
        let text = match self.text {
            Some(tokens) if tokens.is_empty() => "There are no tokens.\n".to_owned(),
            Some(tokens) => table(tokens, end.now),
            None => self.structured.end(),
        };
        output::print(printer, &text, ExitStatus::Success)
    }
}

fn warn(printer: &mut dyn Printer, end: &TokenListEnd) {
    for notice in &end.notices {
        printer.err(&format!("warning: {notice}"));
    }
}

/// Prints one token.
pub(crate) fn show(
    printer: &mut dyn Printer,
    tokens: &[TokenEntry],
    end: &TokenListEnd,
    format: Format,
) -> ExitStatus {
    let text = match (format, tokens.first()) {
        (Format::Text, Some(token)) => details(token, end.now),
        (other, Some(token)) => structured(&Shown::new(token), other),
        (_, None) => String::new(),
    };
    output::print(printer, &text, ExitStatus::Success)
}

/// Says which tokens were revoked, by their ids.
pub(crate) fn revoked(
    printer: &mut dyn Printer,
    ids: &[String],
    end: &TokenListEnd,
    format: Format,
) -> ExitStatus {
    warn(printer, end);
    let text = match format {
        Format::Text if ids.is_empty() => "Nothing was revoked.\n".to_owned(),
        Format::Text => ids
            .iter()
            .map(|id| format!("Revoked token {id}.\n"))
            .chain((ids.len() > 1).then(|| format!("Revoked {} tokens.\n", ids.len())))
            .collect(),
        other => structured(&serde_json::json!({ "revoked": ids }), other),
    };
    output::print(printer, &text, ExitStatus::Success)
}

/// Says how many tokens were removed.
pub(crate) fn pruned(printer: &mut dyn Printer, pruned: &Pruned, format: Format) -> ExitStatus {
    let text = match format {
        Format::Text => match pruned.pruned {
            1 => "Removed 1 token.\n".to_owned(),
            number => format!("Removed {number} tokens.\n"),
        },
        other => structured(pruned, other),
    };
    output::print(printer, &text, ExitStatus::Success)
}

/// A token in JSON and YAML: times in RFC 3339, because programs read them.
#[derive(Serialize)]
struct Shown<'a> {
    id: &'a str,
    state: State,
    role: String,
    uses_left: Option<u32>,
    expires: Option<String>,
    node: Option<&'a str>,
    issued: Option<String>,
    issued_by_uid: Option<u32>,
    issued_on: Option<&'a str>,
    file: Option<&'a str>,
    admissions: u64,
    last_used: Option<String>,
    last_used_by: Option<&'a str>,
    last_used_from: Option<String>,
    last_used_as: Option<String>,
    revoked: Option<String>,
    revoked_by_uid: Option<u32>,
    void_since: Option<String>,
    void_because: Option<&'a str>,
    description: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn new(token: &'a TokenEntry) -> Self {
        let last = token.last_use.as_ref();
        Self {
            id: &token.id,
            state: token.state,
            role: token.role.to_string(),
            uses_left: token.uses_left,
            expires: token.expires.map(time_text::moment),
            node: token.node.as_deref(),
            issued: token.issued_at.map(time_text::moment),
            issued_by_uid: token.issued_by,
            issued_on: token.issued_on.as_deref(),
            file: token.file.as_deref(),
            admissions: token.admissions,
            last_used: last.map(|last| time_text::moment(last.at)),
            last_used_by: last.map(|last| last.node.as_str()),
            last_used_from: last.map(|last| last.address.to_string()),
            last_used_as: last.map(|last| last.role.to_string()),
            revoked: token.revoked_at.map(time_text::moment),
            revoked_by_uid: token.revoked_by,
            void_since: token.void_since.map(time_text::moment),
            void_because: token.void_because.as_deref(),
            description: token.description.as_deref(),
        }
    }
}

fn table(mut tokens: Vec<TokenEntry>, now: i64) -> String {
    tokens.sort_by(|a, b| (b.issued_at, &a.id).cmp(&(a.issued_at, &b.id)));
    let header = [
        "ID",
        "STATE",
        "ROLE",
        "USES LEFT",
        "EXPIRES",
        "NODE",
        "ISSUED",
        "USED BY",
        "DESCRIPTION",
    ];
    let mut rows = vec![header.map(str::to_owned)];
    let issuers: HashSet<_> = tokens.iter().flat_map(|token| &token.issued_on).collect();
    let on = |token: &TokenEntry| on(token).filter(|_| issuers.len() > 1).unwrap_or_default();
    for token in &tokens {
        rows.push([
            token.id.clone(),
            token.state.into_str().to_owned(),
            token.role.to_string(),
            uses(token),
            token
                .expires
                .map_or_else(|| "never".to_owned(), |end| relative(end, now)),
            token.node.clone().unwrap_or_else(dash),
            token
                .issued_at
                .map_or_else(dash, |at| relative(at, now) + &on(token)),
            // Names come from other machines; one is one line and no more.
            token
                .last_use
                .as_ref()
                .map_or_else(dash, |last| sanitize::for_log(&last.node, 63)),
            token
                .description
                .as_deref()
                .map_or_else(dash, sanitize::for_terminal),
        ]);
    }
    output::table(&rows)
}

/// The node that issued it.
fn on(token: &TokenEntry) -> Option<String> {
    let node = token.issued_on.as_deref()?;
    Some(format!(" on {}", sanitize::for_log(node, 63)))
}

fn details(token: &TokenEntry, now: i64) -> String {
    let at = |at: i64| format!("{} ({})", time_text::moment(at), relative(at, now));
    let by = |uid: Option<u32>| uid.map_or_else(String::new, |uid| format!(", by uid {uid}"));
    let issued = match (token.issued_at, &token.file) {
        (Some(moment), _) if token.issued_by.is_some() => {
            at(moment) + &by(token.issued_by) + &on(token).unwrap_or_default()
        }
        (Some(moment), _) => format!("{}, by a line in MicroK8s's token file", at(moment)),
        (None, Some(file)) => format!("by a line in {file}"),
        (None, None) => dash(),
    };
    let used = token.last_use.as_ref().map_or_else(
        || "never".to_owned(),
        |last| {
            let node = sanitize::for_log(&last.node, 253);
            let (address, role) = (last.address, last.role);
            format!("{}, by {node} ({address}) as {role}", at(last.at))
        },
    );
    let mut rows = vec![
        ("id", token.id.clone()),
        ("state", token.state.into_str().to_owned()),
        ("role", token.role.to_string()),
        (
            "node",
            token.node.clone().unwrap_or_else(|| "any".to_owned()),
        ),
        ("uses left", uses(token)),
        (
            "expires",
            token.expires.map_or_else(|| "never".to_owned(), at),
        ),
        ("issued", issued),
        ("admitted", token.admissions.to_string()),
        ("last used", used),
    ];
    if let Some(moment) = token.revoked_at {
        rows.push(("revoked", at(moment) + &by(token.revoked_by)));
    }
    if let (Some(moment), Some(why)) = (token.void_since, &token.void_because) {
        rows.push(("void", format!("{}: {why}", at(moment))));
    }
    if let (Some(file), Some(_)) = (&token.file, token.issued_at) {
        rows.push(("also in", file.clone()));
    }
    if let Some(description) = &token.description {
        rows.push(("description", sanitize::for_terminal(description)));
    }
    rows.iter()
        .map(|(name, value)| format!("{:13}{value}\n", format!("{name}:")))
        .collect()
}

fn uses(token: &TokenEntry) -> String {
    token
        .uses_left
        .map_or_else(|| "unlimited".to_owned(), |left| left.to_string())
}

fn relative(at: i64, now: i64) -> String {
    if at > now {
        format!("in {}", time_text::span(at - now))
    } else {
        format!("{} ago", time_text::span(now - at))
    }
}

fn dash() -> String {
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use crate::cli::output::tests::Kept;
    use crate::model::role::Role;
    use crate::model::token_terms::RoleLimit;
    use crate::wire::local_v1::TokenUse;

    const NOW: i64 = 1_764_000_000;

    fn token() -> TokenEntry {
        TokenEntry {
            id: "0123456789ab".into(),
            state: State::Reserved,
            role: RoleLimit::Worker,
            uses_left: Some(0),
            expires: Some(NOW + 7200),
            node: None,
            issued_at: Some(NOW - 120),
            issued_by: Some(0),
            issued_on: Some("n1".to_owned()),
            file: None,
            admissions: 1,
            last_use: Some(TokenUse {
                node: "n2\u{1b}[2J".into(),
                address: [10, 99, 0, 12].into(),
                role: Role::Worker,
                at: NOW - 60,
            }),
            revoked_at: None,
            revoked_by: None,
            void_since: None,
            void_because: None,
            description: Some("for the rack".into()),
        }
    }

    /// What is printed of these tokens.
    fn printed(tokens: &[TokenEntry], format: Format) -> String {
        let mut printer = Kept::default();
        let mut list = List::new(format);
        for token in tokens {
            assert!(list.token(&mut printer, token.clone()).is_continue());
        }
        let end = TokenListEnd {
            now: NOW,
            notices: Vec::new(),
        };
        assert_eq!(list.end(&mut printer, &end), ExitStatus::Success);
        printer.out
    }

    #[test]
    fn a_list_is_a_table_for_people_with_the_last_issued_token_first() {
        let older = TokenEntry {
            issued_at: Some(NOW - 3600),
            ..token()
        };
        assert_eq!(
            printed(&[older, token()], Format::Text),
            "ID            STATE     ROLE    USES LEFT  EXPIRES  NODE  ISSUED     USED BY  DESCRIPTION\n\
             0123456789ab  reserved  worker  0          in 2 h   -     2 min ago  n2?[2J   for the rack\n\
             0123456789ab  reserved  worker  0          in 2 h   -     1 h ago    n2?[2J   for the rack\n"
        );
    }

    #[test]
    fn details_are_lines_with_a_name() {
        assert_eq!(
            details(&token(), NOW),
            "id:          0123456789ab\n\
             state:       reserved\n\
             role:        worker\n\
             node:        any\n\
             uses left:   0\n\
             expires:     2025-11-24T18:00:00Z (in 2 h)\n\
             issued:      2025-11-24T15:58:00Z (2 min ago), by uid 0 on n1\n\
             admitted:    1\n\
             last used:   2025-11-24T15:59:00Z (1 min ago), by n2?[2J (10.99.0.12) as worker\n\
             description: for the rack\n"
        );
    }

    #[test]
    fn a_list_that_is_printed_a_token_at_a_time_has_the_text_of_the_whole_one() {
        for count in 0..4 {
            let tokens = vec![token(); count];
            let shown: Vec<Shown<'_>> = tokens.iter().map(Shown::new).collect();
            for format in [Format::Json, Format::Yaml] {
                assert_eq!(printed(&tokens, format), structured(&shown, format));
            }
        }
    }

    #[test]
    fn json_and_yaml_say_the_same() {
        let json: serde_json::Value =
            serde_json::from_str(&printed(&[token()], Format::Json)).unwrap();
        let yaml: serde_json::Value =
            serde_saphyr::from_str(&printed(&[token()], Format::Yaml)).unwrap();
        assert_eq!(json, yaml);
        assert_eq!(json[0]["expires"], "2025-11-24T18:00:00Z");
        assert_eq!(json[0]["state"], "reserved");
    }

    #[test]
    fn either_ids_or_all_are_revoked() {
        let read = |words: &[&str]| cli::read::<TokenArgs>("token", words.iter().map(Into::into));
        for bad in [
            &["revoke"][..],
            &["revoke", "--all", "abcd"],
            &[],
            &["lost"],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        for fine in [
            &["revoke", "--all"][..],
            &["revoke", "abcd", "ef01"],
            &["revoke", "-"],
        ] {
            assert!(read(fine).is_ok(), "{fine:?}");
        }
    }
}
