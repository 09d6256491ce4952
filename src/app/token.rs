//! `microk8s token`, from what was typed to the exit status.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;

use crate::app::{self, Ended};
use crate::base::exit_status::ExitStatus;
use crate::cli::output::{self, Printer};
use crate::cli::token::{self, TokenArgs, TokenCommand};
use crate::cli::token_file;
use crate::client::local::{LocalAgent, LocalError};
use crate::model::token::TokenDigest;
use crate::wire::local_v1::{PruneRequest, TokenEntry, TokenSelection};

pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let args: TokenArgs = app::read_arguments("token", arguments, printer)?;
    let command = &args.command;
    let node = app::find_node_or_say(printer)?;
    app::check_permission(&node, printer)?;
    let selection = selection(command, printer)?;
    let done = app::ask_agent(&node, printer, async |agent, printer| {
        act(&agent, command, &selection, printer).await
    })?;
    match done {
        Some(done) => done.map_err(|error| {
            let hint = "`microk8s token list` shows the tokens of this node";
            output::fail(printer, error, Some(hint))
        }),
        None => {
            let hint = "start it: `systemctl start microk8s-cluster-agent`, or `microk8s agent` on a node without MicroK8s; tokens that MicroK8s's own agent knows are lines in `credentials/cluster-tokens.txt`";
            Err(output::fail(printer, app::no_agent(&node), Some(hint)))
        }
    }
}

async fn act(
    agent: &LocalAgent,
    command: &TokenCommand,
    selection: &TokenSelection,
    printer: &mut dyn Printer,
) -> Result<ExitStatus, LocalError> {
    let format = command.format();
    Ok(match command {
        TokenCommand::List { .. } => {
            let mut list = token::List::new(format);
            let take = |token| list.token(printer, token);
            let end = agent.find_tokens(selection, take).await?;
            list.end(printer, &end)
        }
        TokenCommand::Show { .. } => {
            let mut tokens = Vec::new();
            let take = |token| {
                tokens.push(token);
                ControlFlow::Continue(())
            };
            let end = agent.find_tokens(selection, take).await?;
            token::show(printer, &tokens, &end, format)
        }
        TokenCommand::Revoke { .. } => {
            let mut ids = Vec::new();
            let take = |token: TokenEntry| {
                ids.push(token.id);
                ControlFlow::Continue(())
            };
            let end = agent.revoke_tokens(selection, take).await?;
            token::revoked(printer, &ids, &end, format)
        }
        TokenCommand::Prune { unused_for, .. } => {
            let unused_seconds = *unused_for;
            let pruned = agent.prune_tokens(PruneRequest { unused_seconds }).await?;
            token::pruned(printer, &pruned, format)
        }
    })
}

/// Which tokens are meant; why what was given names none is printed.
fn selection(
    command: &TokenCommand,
    printer: &mut dyn Printer,
) -> Result<TokenSelection, ExitStatus> {
    const DIGITS: usize = TokenDigest::ID_DIGITS;
    let ids = match command {
        TokenCommand::List { .. } | TokenCommand::Prune { .. } => return Ok(TokenSelection::All),
        TokenCommand::Revoke { all: true, .. } => return Ok(TokenSelection::All),
        TokenCommand::Show { id, .. } => std::slice::from_ref(id),
        TokenCommand::Revoke { ids, .. } => ids,
    };
    match ids {
        [only] if only == "-" => {
            let token = token_file::read_token(Path::new("-"), printer)?;
            Ok(TokenSelection::Token(token))
        }
        ids if ids.iter().any(|id| id == "-") => {
            let text = "`-` stands for one token on standard input, and can be given alone only";
            Err(output::fail(printer, text, Some("give ids, or `-` alone")))
        }
        // It may be a token, and is not shown.
        ids if ids.iter().any(|id| id.len() > DIGITS) => {
            let text =
                format!("this is not the id of a token: an id has {DIGITS} hexadecimal digits");
            let hint = "`microk8s token list` shows the ids; `-` in place of an id reads the token itself from standard input";
            Err(output::fail(printer, text, Some(hint)))
        }
        ids => Ok(TokenSelection::Ids(ids.to_vec())),
    }
}
