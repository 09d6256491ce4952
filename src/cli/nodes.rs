//! `microk8s nodes`: who is in the cluster, as this node's agent knows it, and whether this node is.

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli::output::{self, Format, Printer, structured};
use crate::model::membership::{Membership, OwnRole};
use crate::wire::local_v1::NodeList;

/// The arguments of `nodes`.
#[derive(Debug, Args)]
#[command(
    after_help = "With --self the exit code is 0 in a cluster and 17 outside one. Neither the agent nor another node is asked."
)]
pub(crate) struct NodesArgs {
    /// Say whether this node is in a cluster, in which one, and as what
    #[arg(long = "self")]
    pub(crate) own: bool,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Prints the list that the agent gave.
pub(crate) fn run(
    printer: &mut dyn Printer,
    list: Result<NodeList, String>,
    format: Format,
) -> ExitStatus {
    match list {
        Ok(list) => {
            let text = match format {
                Format::Text => render(&list),
                other => structured(&list, other),
            };
            output::print(printer, &text, ExitStatus::Success)
        }
        Err(error) => {
            let hint = "start the agent of this node: `systemctl start microk8s-cluster-agent`, or `microk8s agent` on a node without MicroK8s";
            output::error(printer, &error, Some(hint));
            ExitStatus::Failure
        }
    }
}

/// Says why the list may be shorter than it is expected to be.
pub(crate) fn note_what_is_missing(printer: &mut dyn Printer, own: Option<&Membership>) {
    let note = match own {
        Some(own) if !own.member => "this node is not in a cluster",
        Some(own) if own.role == OwnRole::Worker => {
            "a worker knows only itself: `microk8s nodes` on a control plane node lists all nodes"
        }
        _ => return,
    };
    printer.err(&format!("note: {note}"));
}

/// Says whether this node is in a cluster.
pub(crate) fn membership(
    printer: &mut dyn Printer,
    own: &Membership,
    format: Format,
) -> ExitStatus {
    let text = match format {
        Format::Text => format!(
            "role:    {}\ncluster: {}\n",
            own.role,
            own.cluster
                .as_deref()
                .filter(|_| own.member)
                .unwrap_or("none")
        ),
        other => structured(own, other),
    };
    let status = match own.member {
        true => ExitStatus::Success,
        false => ExitStatus::NotInCluster,
    };
    output::print(printer, &text, status)
}

fn render(list: &NodeList) -> String {
    let mut rows = vec![["NAME".to_owned(), "ADDRESS".to_owned(), "ROLE".to_owned()]];
    for node in &list.nodes {
        rows.push([
            // Names come from other machines; one is one line and no more.
            sanitize::for_log(node.name.as_deref().unwrap_or("-"), 253),
            node.address.to_string(),
            node.role.to_string(),
        ]);
    }
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::role::Role;
    use crate::wire::local_v1::NodeEntry;

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let list = NodeList {
            nodes: vec![NodeEntry {
                name: Some("n2\u{1b}[2J\nn3".into()),
                address: "10.99.0.12".parse().unwrap(),
                role: Role::Worker,
            }],
        };
        assert_eq!(
            render(&list).lines().nth(1),
            Some("n2?[2J n3  10.99.0.12  worker")
        );
    }
}
