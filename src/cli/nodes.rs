//! `microk8s nodes`: who is in the cluster, as this node's agent knows it, and whether this node is.

use clap::Args;

use crate::base::exit_status::ExitStatus;
use crate::base::sanitize;
use crate::cli::join_check;
use crate::cli::output::{self, Format, Printer, structured};
use crate::model::membership::{Membership, OwnRole};
use crate::wire::local_v1::{ClusterHealth, NodeList};
use crate::wire::preflight_v1::Severity;

/// The arguments of `nodes`.
#[derive(Debug, Args)]
#[command(
    after_help = "With --self the exit code is 0 in a cluster and 17 outside one. Neither the agent nor another node is asked. With --check it is 1 when something is wrong."
)]
pub(crate) struct NodesArgs {
    /// Say whether this node is in a cluster, in which one, and as what
    #[arg(long = "self")]
    pub(crate) own: bool,

    /// Check each node from here: who lists it, whether it can be reached, its certificate and clock
    #[arg(long, conflicts_with = "own")]
    pub(crate) check: bool,

    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// Prints the list that the agent gave.
pub(crate) fn list(printer: &mut dyn Printer, list: &NodeList, format: Format) -> ExitStatus {
    let text = match format {
        Format::Text => render(list),
        other => structured(list, other),
    };
    output::print(printer, &text, ExitStatus::Success)
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

/// The checks that have a column of their own.
const COLUMNS: [&str; 7] = [
    "agent",
    "certificate",
    "clock",
    "api-server",
    "datastore",
    "ready",
    "listed",
];

/// Prints what was found of each node.
pub(crate) fn health(
    printer: &mut dyn Printer,
    health: &ClusterHealth,
    format: Format,
) -> ExitStatus {
    let text = match format {
        Format::Text => render_health(health),
        other => structured(health, other),
    };
    let status = match health.ok {
        true => ExitStatus::Success,
        false => ExitStatus::Failure,
    };
    output::print(printer, &text, status)
}

/// A row for each node, and a line for each finding that is not as it should be.
fn render_health(health: &ClusterHealth) -> String {
    let row = |first: [String; 3], cells: [String; COLUMNS.len()]| {
        let mut row = [const { String::new() }; 3 + COLUMNS.len()];
        row[..3].clone_from_slice(&first);
        row[3..].clone_from_slice(&cells);
        row
    };
    let heads = ["NAME", "ADDRESS", "ROLE"].map(str::to_owned);
    let mut rows = vec![row(heads, COLUMNS.map(str::to_uppercase))];
    let (mut lines, mut remedies) = (Vec::new(), Vec::new());
    for node in &health.nodes {
        let name = node.name.as_deref();
        let name = name.map(|name| sanitize::for_log(name, 253));
        let address = node.address.map(|address| address.to_string());
        let cell = |column: &'static str| match node.checks.iter().find(|one| one.check == column) {
            None => "-".to_owned(),
            Some(found) => match (found.severity, node.certificate_days) {
                (Severity::Ok, Some(days)) if column == "certificate" => format!("{days}d"),
                (Severity::Unchecked, _) => "?".to_owned(),
                (severity, _) => severity.into_str().to_owned(),
            },
        };
        let [name, address] = [name, address].map(|one| one.unwrap_or_else(|| "-".to_owned()));
        let shown = if name == "-" { &address } else { &name }.clone();
        rows.push(row(
            [name, address, node.role.to_string()],
            COLUMNS.map(cell),
        ));
        let mut findings = node
            .checks
            .iter()
            .filter(|one| one.severity != Severity::Ok)
            .peekable();
        while let Some(first) = findings.next() {
            let mut checks = first.check.clone();
            while let Some(next) = findings.next_if(|next| next.message == first.message) {
                checks = format!("{checks}, {}", next.check);
            }
            lines.push([
                format!("{:9}", first.severity.into_str()),
                shown.clone(),
                checks,
                sanitize::for_log(&first.message, 1000),
            ]);
            remedies.push(first.remedy.as_ref());
        }
    }
    let count = |severity| {
        let checks = health.nodes.iter().flat_map(|node| &node.checks);
        checks.filter(|one| one.severity == severity).count()
    };
    let counts = join_check::counts(
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Unchecked),
    );
    let mut text = output::table(&rows) + "\n";
    for (line, remedy) in output::table(&lines).lines().zip(remedies) {
        text += &format!("{line}\n");
        if let Some(remedy) = remedy {
            text += &format!("           fix: {remedy}\n");
        }
    }
    text + &counts + "\n"
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
