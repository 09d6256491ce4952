//! `microk8s completions`, and what its scripts ask for.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::time::Duration;

use crate::app::{self, Ended};
use crate::base::exit_status::ExitStatus;
use crate::base::runtime;
use crate::cli::completions::{self, Candidates, CompletionsArgs, Source};
use crate::cli::output::{self, Printer};
use crate::client::local::{self, LocalError, Probe};
use crate::wire::local_v1::{TokenEntry, TokenSelection};

/// How long a TAB waits for the agent.
const AGENT_ANSWERS: Duration = Duration::from_secs(1);

/// Prints the script of a shell.
pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let args: CompletionsArgs = app::read_arguments("completions", arguments, printer)?;
    let script = args.shell.script();
    Ok(output::print(printer, script, ExitStatus::Success))
}

/// Prints what can stand in the place of the last word. Nothing is said of what goes wrong: the
/// answer is for a shell, in the middle of a line that is being typed.
pub(crate) fn complete(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let words: Vec<String> = arguments
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let text = match completions::candidates(&words) {
        Candidates::Files => ":files\n".to_owned(),
        Candidates::Directories => ":directories\n".to_owned(),
        Candidates::Listed(listed) => completions::lines(&listed, &[]),
        Candidates::OfAgent(source) => {
            let found = runtime::block_on(async {
                tokio::time::timeout(AGENT_ANSWERS, ask_agent(source)).await
            });
            match found {
                Ok(Ok(found)) => completions::lines(&found, &words),
                _ => String::new(),
            }
        }
    };
    output::print(printer, &text, ExitStatus::Success)
}

async fn ask_agent(source: Source) -> Vec<(String, String)> {
    let asked = async {
        let Ok(node) = app::find_node() else {
            return Ok(Vec::new());
        };
        let Probe::Ready(agent) = local::probe(&node.layout.socket(None)).await? else {
            return Ok(Vec::new());
        };
        Ok::<_, LocalError>(match source {
            Source::Nodes => completions::of_nodes(&agent.nodes().await?),
            Source::Tokens | Source::ValidTokens => {
                let mut found = Vec::new();
                let take = |token: TokenEntry| {
                    found.extend(completions::of_token(&token, source));
                    ControlFlow::Continue(())
                };
                agent.find_tokens(&TokenSelection::All, take).await?;
                found
            }
        })
    };
    asked.await.unwrap_or_default()
}
