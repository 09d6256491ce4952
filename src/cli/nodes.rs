//! `microk8s nodes`: who is in the cluster, as this node's agent knows it.

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli::output::{self, Printer};
use crate::wire::local_v1::NodeList;

/// The arguments of `nodes`: none.
#[derive(Debug, Args)]
pub struct NodesArgs {}

/// Prints the list that the agent gave.
pub fn run(printer: &mut dyn Printer, list: Result<NodeList, String>) -> ExitStatus {
    match list {
        Ok(list) => output::print(printer, &render(&list), ExitStatus::Success),
        Err(error) => {
            let hint =
                "start the agent of this node with `microk8s agent`, or look why it does not run";
            output::error(printer, &error, Some(hint));
            ExitStatus::Failure
        }
    }
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
