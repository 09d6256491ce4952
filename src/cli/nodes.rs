//! `microk8s nodes`: who is in the cluster, as this node's agent knows it.

use clap::Args;

use crate::base::exit_status::ExitStatus;
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
            node.name.clone().unwrap_or_else(|| "-".to_owned()),
            node.address.to_string(),
            node.role.to_string(),
        ]);
    }
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or_default()
    };
    let (names, addresses) = (width(0), width(1));
    rows.iter()
        .map(|[name, address, role]| format!("{name:names$}  {address:addresses$}  {role}\n"))
        .collect()
}
