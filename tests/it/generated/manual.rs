//! The manual pages, from the command line's definition, its examples and `docs/exit-codes.md`.

use microk8s::cli::examples;

/// A command by the words behind the program's name.
type Named = (Vec<String>, clap::Command);

/// When the version was made.
const DATE: &str = "2026-11-27";

/// The program's own page, and the commands that are about a node.
const NODE: &[&str] = &[
    "",
    "add-node",
    "join",
    "leave",
    "remove-node",
    "nodes",
    "init",
    "token",
    "agent",
    "apiserver-proxy",
];

/// Those commands that use the socket of the agent.
const NODE_COMMANDS: &[&str] = NODE.split_at(NODE.len() - 1).0.split_at(1).1;

/// What a command reads or writes, by the beginning of its name; paths are of a node of the snap.
const FILES: [(&str, &[&str], &str); 14] = [
    (
        "$SNAP_DATA/certs, $SNAP_DATA/credentials",
        &["join", "leave"],
        "Certificates, keys and kubeconfigs of the node, which joining and leaving replace.",
    ),
    (
        "$SNAP_DATA/var/cluster-agent/journal",
        &["join", "leave", "init", "agent"],
        "How to undo, or to complete, the join or other change that is running or was interrupted.",
    ),
    (
        "$SNAP_DATA/var/kubernetes/backend",
        &["join", "leave", "remove-node"],
        "The datastore's files.",
    ),
    (
        "$SNAP_DATA/args",
        &["init"],
        "Arguments and variables of the services, and other files that these read.",
    ),
    (
        "$SNAP_COMMON/etc/launcher",
        &["init", "agent"],
        "Launch configurations that the agent applies by itself.",
    ),
    (
        "$SNAP_DATA/args/cluster-agent",
        &["agent"],
        "Options of the agent, where none of those that say how to serve is given.",
    ),
    (
        "$SNAP_DATA/args/apiserver-proxy",
        &["apiserver-proxy"],
        "Options; those that are typed count before them.",
    ),
    (
        "$SNAP_DATA/args/traefik",
        &["apiserver-proxy"],
        "The configuration, traefik.yaml or traefik-template.yaml, and the list of API servers, provider.yaml.",
    ),
    (
        "$SNAP_DATA/credentials/kubelet.config",
        &["apiserver-proxy"],
        "With what Kubernetes is asked for the list of API servers.",
    ),
    (
        "$SNAP_DATA/credentials/cluster-tokens.txt",
        &["add-node", "token", "agent"],
        "Tokens that MicroK8s's own agent, other programs or people add.",
    ),
    (
        "$SNAP_DATA/var/cluster-agent/tokens.redb",
        &["token", "agent"],
        "The tokens that this node's agent issued; the file holds hashes of them.",
    ),
    (
        "$SNAP_DATA/var/lock",
        &["add-node", "join", "leave", "remove-node", "nodes"],
        "Empty files that say what kind of node this is.",
    ),
    (
        "$SNAP_COMMON/run/cluster-agent.sock",
        NODE_COMMANDS,
        "The socket of the agent.",
    ),
    (
        "~/.local/share/microk8s/current",
        NODE,
        "In place of $SNAP_DATA: the directory of a standalone node, where MicroK8s is not installed.",
    ),
];

/// What a command reads from its environment.
const ENVIRONMENT: [(&str, &[&str], &str); 5] = [
    (
        "SNAP_DATA, SNAP_COMMON, SNAP",
        NODE,
        "The directories of the snap, as snapd sets them.",
    ),
    (
        "MICROK8S_NODE_DIR",
        NODE,
        "The directory of a standalone node.",
    ),
    ("MICROK8S_SOCKET", NODE_COMMANDS, "The socket of the agent."),
    (
        "MICROK8S_LOG",
        &["agent", "apiserver-proxy", "dev-cluster"],
        "How much is logged: error, warn, info (the default), debug or trace.",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM",
        &["agent", "apiserver-proxy"],
        "Set by systemd: whom to tell that this program serves, how often to tell that it lives, and where the journal is.",
    ),
];

/// The exit codes of a command beside 0, 1 and 2.
const EXIT_CODES: [(&str, &[u8]); 7] = [
    ("join", &[4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 130]),
    ("leave", &[3, 9, 13, 14, 16, 130]),
    ("remove-node", &[9, 16]),
    ("nodes", &[17]),
    ("init", &[4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 130]),
    ("agent install", &[14, 16, 130]),
    ("agent uninstall", &[14, 16, 130]),
];

/// A command's page, with the name of its file.
pub fn page(
    name: &[String],
    command: &clap::Command,
    all: &[Named],
    exit_codes: &str,
) -> (String, String) {
    let title = title(name);
    let page = clap_mangen::Man::new(command.clone())
        .title(title.clone())
        .section("8")
        .date(DATE)
        .source(concat!("microk8s ", env!("CARGO_PKG_VERSION")))
        .manual("Cluster membership");
    let mut text = Vec::new();
    page.render_title(&mut text).unwrap();
    page.render_name_section(&mut text).unwrap();
    page.render_synopsis_section(&mut text).unwrap();
    page.render_description_section(&mut text).unwrap();
    page.render_options_section(&mut text).unwrap();
    let mut text = String::from_utf8(text)
        .unwrap()
        .replace(".br\n\n.br\n", ".sp\n")
        .replace(" \n", "\n");
    let first = name.first().map_or("", String::as_str);
    let subs = all
        .iter()
        .filter(|(other, _)| other.len() == name.len() + 1 && other.starts_with(name));
    section(
        &mut text,
        "COMMANDS",
        subs.map(|(sub, command)| {
            let about = command.get_about().unwrap().to_string();
            (format!("microk8s {}", sub.join(" ")), about)
        }),
    );
    let typed = [&["microk8s".to_owned()], name].concat().join(" ");
    let shown = examples::of(&typed);
    section(
        &mut text,
        "EXAMPLES",
        shown
            .iter()
            .map(|(line, does)| ((*line).to_owned(), (*does).to_owned())),
    );
    for (heading, table) in [("FILES", &FILES[..]), ("ENVIRONMENT", &ENVIRONMENT[..])] {
        let rows = table
            .iter()
            .filter(|(_, commands, _)| commands.contains(&first));
        section(
            &mut text,
            heading,
            rows.map(|(name, _, what)| ((*name).to_owned(), (*what).to_owned())),
        );
    }
    let words = name.join(" ");
    let further = EXIT_CODES
        .iter()
        .find(|(name, _)| [first, &words].contains(name));
    let further = further.map_or(&[][..], |(_, codes)| *codes);
    section(
        &mut text,
        "EXIT STATUS",
        [0, 1, 2]
            .iter()
            .chain(further)
            .map(|code| (code.to_string(), meaning(*code, first, exit_codes))),
    );
    let others = all.iter().map(|(other, _)| other).filter(|other| {
        let is_near = other.is_empty()
            || other.first() == name.first()
            || (name.is_empty() && other.len() == 1);
        is_near && *other != name
            || (other.len() == 1
                && RELATED.iter().any(|pair| {
                    pair.contains(&first) && pair.contains(&other[0].as_str()) && other[0] != first
                }))
    });
    let others: Vec<String> = others
        .map(|other| format!("\\fB{}\\fR(8)", roff(&self::title(other))))
        .collect();
    text += &format!(".SH \"SEE ALSO\"\n{}\n", others.join(",\n"));
    (format!("{title}.8"), text)
}

/// Commands of which one leads to the other.
const RELATED: [[&str; 2]; 7] = [
    ["add-node", "join"],
    ["add-node", "token"],
    ["join", "leave"],
    ["leave", "remove-node"],
    ["agent", "nodes"],
    ["agent", "apiserver-proxy"],
    ["agent", "init"],
];

fn title(name: &[String]) -> String {
    let words: Vec<&str> = std::iter::once("microk8s")
        .chain(name.iter().map(String::as_str))
        .collect();
    words.join("-")
}

fn section(page: &mut String, heading: &str, rows: impl Iterator<Item = (String, String)>) {
    let rows: String = rows
        .map(|(name, what)| format!(".TP\n\\fB{}\\fR\n{}\n", roff(&name), roff(&what)))
        .collect();
    if !rows.is_empty() {
        *page += &format!(".SH \"{heading}\"\n{rows}");
    }
}

/// A text as roff has it.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

/// What an exit code of a command means: 0, 1 and 2 depend on the command, the document has the others.
fn meaning(code: u8, command: &str, document: &str) -> String {
    let text = match (code, command) {
        (0, "join") => "The node is a member of the cluster.",
        (0, "leave") => "The node is in no cluster any more.",
        (0, "remove-node") => "The node is gone, or it was unknown and --force was given.",
        (0, "nodes") => "Done; with --self, the node is in a cluster.",
        (0, _) => "Done.",
        (1, _) => "The command failed, or refused to run. Standard error says why.",
        (2, "leave" | "remove-node") => {
            "The command line was not understood, or the datastore did not remove the node."
        }
        (2, _) => "The command line was not understood.",
        _ => {
            let (_, text) = document.split_once(&format!("\n### {code}\n")).unwrap();
            text.split("\n#").next().unwrap()
        }
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
