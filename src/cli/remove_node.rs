//! `microk8s remove-node`: what may be typed.

use std::ffi::OsString;

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli;
use crate::cli::join_args::Format;
use crate::cli::output::{self, Printer};
use crate::model::endpoint;
use crate::wire::operation::RemoveOrder;

const NO_NODE: &str = "Please provide the node you want to remove.\n";
const WRONG_SECOND: &str = "Please provide the node and the optional --force flag.\n";

/// The arguments of `remove-node`, as completions and manual pages show them. They are read by
/// [`read`], because MicroK8s counts them before it reads them.
#[derive(Debug, Args)]
pub(crate) struct RemoveNodeArgs {
    /// The name or an address of the node
    #[arg(value_name = "NODE")]
    pub(crate) node: String,

    /// Remove a node that is gone, even if only Kubernetes, the datastore or this node still lists
    /// it
    #[arg(long)]
    pub(crate) force: bool,

    /// How the progress of the removal is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) format: Format,

    /// End with 0 where the node is not in the cluster
    #[arg(long)]
    pub(crate) if_present: bool,
}

/// Reads the arguments, without `--format`, in MicroK8s's order: how many there are, what the second
/// one is, and only then what they say (recordings `remove-node-*`). On a cluster without high availability the
/// flag may stand anywhere. An `Err` is the exit status, after what is wrong was printed.
pub(crate) fn read(
    arguments: Vec<OsString>,
    is_ha: bool,
    printer: &mut dyn Printer,
) -> Result<RemoveOrder, ExitStatus> {
    let mut words: Vec<String> = arguments
        .into_iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let typed = words.len();
    words.retain(|word| word != cli::IF_PRESENT);
    let if_present = words.len() < typed;
    let mut refuse = |text, why| {
        let hint = Some("type `microk8s remove-node NODE` or `microk8s remove-node NODE --force`");
        Err(output::refuse(printer, text, why, hint))
    };
    match &words[..] {
        [] => return refuse(NO_NODE, "no node is named"),
        [_, second] if is_ha && second != "--force" => {
            return refuse(WRONG_SECOND, "only `--force` can come after the node");
        }
        _ => {}
    }
    let force = words.iter().any(|word| word == "--force");
    let mut others = words.iter().filter(|word| *word != "--force");
    let Some(node) = others.next() else {
        return Err(usage_error(printer, "Missing argument 'NODE'."));
    };
    let extra: Vec<&str> = others.map(String::as_str).collect();
    let text = match &extra[..] {
        // What looks like an option would be one to kubectl.
        _ if node.starts_with('-') => format!("No such option: {node}"),
        [] if is_node(node) => {
            return Ok(RemoveOrder {
                node: node.clone(),
                force,
                if_present,
            });
        }
        [] => format!("Invalid value for 'NODE': `{node}` is neither a node's name nor an address"),
        more => cli::extra_arguments(more),
    };
    Err(usage_error(printer, &sanitize::for_terminal(&text)))
}

/// Nodes may be known by names under which none would be admitted any more.
fn is_node(text: &str) -> bool {
    let is_name = |text: &str| {
        (1..=253).contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    endpoint::read_address(text).is_some() || is_name(text)
}

fn usage_error(printer: &mut dyn Printer, text: &str) -> ExitStatus {
    cli::usage_error(printer, "remove-node", "[OPTIONS] NODE", text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    fn typed(arguments: &[&str], is_ha: bool) -> (Result<RemoveOrder, ExitStatus>, Kept) {
        let mut printer = Kept::default();
        let typed = read(
            arguments.iter().map(Into::into).collect(),
            is_ha,
            &mut printer,
        );
        (typed, printer)
    }

    #[test]
    fn what_is_no_node_never_reaches_kubectl() {
        for arguments in [
            &["--kubeconfig=/tmp/x"] as &[&str],
            &["-A"],
            &["n2/status"],
            &["--force"],
            &["n2", "--force", "-A"],
        ] {
            let (typed, printer) = typed(arguments, true);
            assert!(
                matches!(typed, Err(ExitStatus::Usage)),
                "{arguments:?}: {typed:?}"
            );
            assert!(printer.err.starts_with("Usage: "), "{}", printer.err);
        }
    }

    #[test]
    fn the_flag_stands_behind_the_node_where_microk8s_wants_it_there() {
        for (arguments, is_ha, is_fine) in [
            (&["n2", "--force"] as &[&str], true, true),
            (&["--force", "n2"], true, false),
            (&["--force", "n2"], false, true),
            (&["fd00::2"], true, true),
        ] {
            let fine = typed(arguments, is_ha).0.is_ok();
            assert_eq!(fine, is_fine, "{arguments:?}");
        }
    }
}
