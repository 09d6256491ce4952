//! `microk8s remove-node`: what may be typed, and how a removal is told. Lines are MicroK8s's
//! (`messages.md`, remove-node).

use std::ffi::OsString;

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli::output::{self, Printer};
use crate::model::endpoint;
use crate::wire::leave_v1::{RemoveEvent, RemoveOrder};

/// The help text (recording `remove-node-help`).
pub const HELP: &str = "\
Usage: microk8s remove-node [OPTIONS] NODE

  Remove a node from the cluster

Options:
  --force  Force the node removal operation. (default: false)
  --help   Show this message and exit.
";

const NO_NODE: &str = "Please provide the node you want to remove.\n";
const WRONG_SECOND: &str = "Please provide the node and the optional --force flag.\n";

/// The arguments of `remove-node`, as completions and manual pages show them. They are read by
/// [`read`], because MicroK8s counts them before it reads them.
#[derive(Debug, Args)]
#[command(override_help = HELP)]
pub struct RemoveNodeArgs {
    /// The node's name or address
    #[arg(value_name = "NODE")]
    pub node: String,

    /// Remove a node that will not come back from the datastore as well, or one that Kubernetes
    /// does not know
    #[arg(long)]
    pub force: bool,
}

/// What was typed.
#[derive(Debug)]
pub enum Typed {
    /// A removal.
    Remove(RemoveOrder),
    /// The help text was asked for.
    Help,
    /// Something that is not understood; it was said already.
    Wrong(ExitStatus),
}

/// Reads the arguments in MicroK8s's order: how many there are, what the second one is, and only
/// then what they say (recordings `remove-node-*`). On a cluster without high availability the
/// flag may stand anywhere.
pub fn read(arguments: Vec<OsString>, is_ha: bool, printer: &mut dyn Printer) -> Typed {
    let words: Vec<String> = arguments
        .into_iter()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let mut say = |text| Typed::Wrong(output::print(printer, text, ExitStatus::Failure));
    match &words[..] {
        [] => return say(NO_NODE),
        [_, second] if is_ha && second != "--force" => return say(WRONG_SECOND),
        _ => {}
    }
    if words.iter().any(|word| word == "--help") {
        return Typed::Help;
    }
    let force = words.iter().any(|word| word == "--force");
    let mut others = words.iter().filter(|word| *word != "--force");
    let Some(node) = others.next() else {
        return Typed::Wrong(usage_error(printer, "Missing argument 'NODE'."));
    };
    let extra: Vec<&str> = others.map(String::as_str).collect();
    let text = match &extra[..] {
        // What looks like an option would be one to kubectl.
        _ if node.starts_with('-') => format!("No such option: {node}"),
        [] if is_node(node) => {
            return Typed::Remove(RemoveOrder {
                node: node.clone(),
                force,
            });
        }
        [] => format!("Invalid value for 'NODE': `{node}` is neither a node's name nor an address"),
        [one] => format!("Got unexpected extra argument ({one})"),
        more => format!("Got unexpected extra arguments ({})", more.join(" ")),
    };
    Typed::Wrong(usage_error(printer, &sanitize::for_terminal(&text)))
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
    printer.err("Usage: microk8s remove-node [OPTIONS] NODE");
    printer.err("Try 'microk8s remove-node --help' for help.");
    printer.err("");
    printer.err(&format!("Error: {text}"));
    ExitStatus::Usage
}

/// Tells a removal as MicroK8s does.
pub struct Narrator<'a> {
    printer: &'a mut dyn Printer,
    status: ExitStatus,
}

impl<'a> Narrator<'a> {
    /// Nothing was told yet; a removal that ends without a word failed.
    pub fn new(printer: &'a mut dyn Printer) -> Self {
        Self {
            printer,
            status: ExitStatus::Failure,
        }
    }

    /// Tells one event.
    pub fn tell(&mut self, event: &RemoveEvent) {
        let text = match event {
            RemoveEvent::NotInKubernetes { node } => format!(
                "Node {node} does not exist in Kubernetes.\nAttempting to remove {node} from dqlite.\n"
            ),
            RemoveEvent::InDatastore => "Removing node entry found in dqlite.\n".to_owned(),
            RemoveEvent::Said { text } => {
                self.printer.err(text);
                return;
            }
            RemoveEvent::Warning { message } => {
                let message = sanitize::for_terminal(message);
                self.printer.err(&format!("warning: {message}"));
                return;
            }
            RemoveEvent::Removed => {
                self.status = ExitStatus::Success;
                return;
            }
            RemoveEvent::Failed(failure) => {
                self.status = output::failure(self.printer, failure);
                return;
            }
        };
        // The removal continues when its output is closed.
        let _ = self.printer.out(&text);
    }

    /// How the removal ended.
    pub fn status(&self) -> ExitStatus {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::Kept;

    fn typed(arguments: &[&str], is_ha: bool) -> (Typed, Kept) {
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
                matches!(typed, Typed::Wrong(ExitStatus::Usage)),
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
            let fine = matches!(typed(arguments, is_ha).0, Typed::Remove(_));
            assert_eq!(fine, is_fine, "{arguments:?}");
        }
    }
}
