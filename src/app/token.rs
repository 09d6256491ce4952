//! `microk8s token`, from what was typed to the exit status.

use std::ffi::OsString;
use std::io::Read;

use crate::app::{self, Agent};
use crate::base::exit_status::ExitStatus;
use crate::base::secret::Secret;
use crate::cli;
use crate::cli::output::{self, Printer};
use crate::cli::token::{self, TokenArgs, TokenCommand};
use crate::client::local::{LocalAgent, LocalError};
use crate::model::token::Token;
use crate::wire::local_v1::TokenSelection;

/// The most that is read from standard input: more than any token has.
const INPUT_LIMIT: u64 = 4096;

pub fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let args: TokenArgs = match cli::read("token", arguments) {
        Ok(args) => args,
        Err(error) => return app::refuse_arguments(&error, printer),
    };
    match try_run(&args.command, printer) {
        Ok(status) | Err(status) => status,
    }
}

fn try_run(command: &TokenCommand, printer: &mut dyn Printer) -> Result<ExitStatus, ExitStatus> {
    let node = app::find_node_or_say(printer)?;
    app::check_permission(&node, printer)?;
    let selection = selection(command).map_err(|error| token::fail(printer, &error))?;
    let done = app::block_on(async {
        match app::find_agent(&node, printer).await? {
            Agent::Ready(agent) => Ok(act(&agent, command, &selection, printer).await),
            Agent::NotRunning => {
                let hint = "start it with `microk8s agent`; tokens that MicroK8s's own agent knows are lines in `credentials/cluster-tokens.txt`";
                output::error(printer, "no agent runs on this node", Some(hint));
                Err(ExitStatus::Failure)
            }
        }
    });
    match done {
        Ok(Ok(Ok(status))) => Ok(status),
        Ok(Ok(Err(error))) => Err(token::fail(printer, &error.to_string())),
        Ok(Err(status)) => Err(status),
        Err(error) => Err(token::fail(printer, &error.to_string())),
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
            let list = agent.find_tokens(selection).await?;
            token::list(printer, &list, format)
        }
        TokenCommand::Show { .. } => {
            let list = agent.find_tokens(selection).await?;
            token::show(printer, &list, format)
        }
        TokenCommand::Revoke { .. } => {
            let list = agent.revoke_tokens(selection).await?;
            token::revoked(printer, &list, format)
        }
        TokenCommand::Prune { .. } => {
            let pruned = agent.prune_tokens().await?;
            token::pruned(printer, &pruned, format)
        }
    })
}

/// Which tokens are meant.
fn selection(command: &TokenCommand) -> Result<TokenSelection, String> {
    let ids = match command {
        TokenCommand::List { .. } | TokenCommand::Prune { .. } => return Ok(TokenSelection::All),
        TokenCommand::Revoke { all: true, .. } => return Ok(TokenSelection::All),
        TokenCommand::Show { id, .. } => std::slice::from_ref(id),
        TokenCommand::Revoke { ids, .. } => ids,
    };
    match ids {
        [only] if only == "-" => read_token().map(TokenSelection::Token),
        ids if ids.iter().any(|id| id == "-") => Err(
            "`-` stands for one token on standard input, and can be given alone only".to_owned(),
        ),
        ids => Ok(TokenSelection::Ids(ids.to_vec())),
    }
}

/// A token from standard input.
fn read_token() -> Result<Token, String> {
    let mut text = zeroize::Zeroizing::new(String::new());
    std::io::stdin()
        .lock()
        .take(INPUT_LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read a token from standard input: {error}"))?;
    let text = Secret::new(text.trim());
    if text.is_empty() {
        return Err("standard input holds no token".to_owned());
    }
    Ok(Token::presented(text.expose()))
}
