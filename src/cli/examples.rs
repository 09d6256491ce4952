//! Examples of each command, for its help and its manual page.

/// A command line, and what it does.
pub(crate) type Example = (&'static str, &'static str);

/// The examples of each command.
const EXAMPLES: [(&str, &[Example]); 18] = [
    (
        "microk8s",
        &[
            (
                "microk8s add-node",
                "On a node of the cluster: print how another node joins it.",
            ),
            (
                "microk8s join ADDRESS:PORT/TOKEN/FINGERPRINT",
                "On the other node: join, with the string that `add-node` printed.",
            ),
        ],
    ),
    (
        "microk8s add-node",
        &[
            ("microk8s add-node", "A token for one node."),
            (
                "microk8s add-node --token-ttl 2h --uses 3",
                "A token for three nodes, valid for two hours.",
            ),
            (
                "microk8s add-node --node n4 --description \"rack 2\"",
                "A token that only the node n4 can use.",
            ),
            (
                "microk8s add-node --format json | jq -r '.urls[0]'",
                "The connection string alone, for a script.",
            ),
            (
                "microk8s add-node --all",
                "Connection strings of all control plane nodes, for a join when one of them is down.",
            ),
        ],
    ),
    (
        "microk8s join",
        &[
            (
                "microk8s join 10.1.2.3:25000/TOKEN/FINGERPRINT",
                "Join as a control plane node.",
            ),
            (
                "microk8s join 10.1.2.3:25000/TOKEN/FINGERPRINT --worker",
                "Join as a worker.",
            ),
            (
                "microk8s join 10.1.2.3:25000/TOKEN/FINGERPRINT --dry-run",
                "Check whether the join would work; change nothing.",
            ),
            (
                "microk8s join 10.1.2.3:25000/TOKEN/FINGERPRINT 10.1.2.4:25000/TOKEN/FINGERPRINT",
                "Join through the second node when the first one cannot be reached.",
            ),
            (
                "microk8s join --token-file /run/join-string",
                "Keep the token out of the process list and the shell's history.",
            ),
        ],
    ),
    (
        "microk8s leave",
        &[
            (
                "microk8s leave --dry-run",
                "List what would be done; change nothing.",
            ),
            ("microk8s leave", "Leave the cluster."),
        ],
    ),
    (
        "microk8s remove-node",
        &[
            (
                "microk8s remove-node n3",
                "On another node: remove n3 after it has left the cluster.",
            ),
            (
                "microk8s remove-node 10.1.2.4 --force",
                "Remove a node that is gone and cannot leave.",
            ),
        ],
    ),
    (
        "microk8s nodes",
        &[
            (
                "microk8s nodes",
                "List the nodes with their addresses and roles.",
            ),
            (
                "microk8s nodes --self || microk8s join --token-file FILE",
                "In a script: join only where this node is not in a cluster.",
            ),
            (
                "microk8s nodes --check",
                "Check that each node is listed, reachable and ready, and say what to fix.",
            ),
        ],
    ),
    (
        "microk8s init",
        &[
            (
                "microk8s init --config-file node.yaml",
                "Apply a launch configuration; nothing is changed where a part of it fails.",
            ),
            (
                "printf 'version: 0.1.0\\nextraSANs: [k8s.example.com]\\n' | microk8s init -c -",
                "The same from standard input.",
            ),
        ],
    ),
    (
        "microk8s token",
        &[
            ("microk8s token list", "List the tokens."),
            ("microk8s token revoke ID", "Revoke a token by its id."),
        ],
    ),
    (
        "microk8s token list",
        &[
            ("microk8s token list", "List the tokens in a table."),
            (
                "microk8s token list --format json",
                "List them for a script.",
            ),
        ],
    ),
    (
        "microk8s token show",
        &[
            (
                "microk8s token show 0123",
                "Show the token whose id begins with 0123.",
            ),
            (
                "microk8s token show -",
                "Type the token itself; it is not shown.",
            ),
        ],
    ),
    (
        "microk8s token revoke",
        &[
            ("microk8s token revoke 0123456789ab", "Revoke one token."),
            (
                "microk8s token revoke --all",
                "Revoke all tokens of this node.",
            ),
        ],
    ),
    (
        "microk8s token prune",
        &[
            (
                "microk8s token prune",
                "Remove the tokens that no node can use any more.",
            ),
            (
                "microk8s token prune --unused-for 7d",
                "Remove also those that no node has used for a week.",
            ),
        ],
    ),
    (
        "microk8s agent",
        &[
            (
                "microk8s agent",
                "Serve this node, as its configuration says.",
            ),
            (
                "microk8s agent --node-dir ./n1 --bind 127.0.0.1:25000",
                "Serve a node without MicroK8s for a test; the directory is made if needed.",
            ),
            (
                "MICROK8S_LOG=debug microk8s agent --log-format json",
                "Log more, as one JSON object a line.",
            ),
        ],
    ),
    (
        "microk8s agent install",
        &[
            (
                "microk8s agent install --dry-run",
                "List what would be done; change nothing.",
            ),
            (
                "microk8s agent install",
                "Have this program serve the node from now on.",
            ),
        ],
    ),
    (
        "microk8s agent uninstall",
        &[(
            "microk8s agent uninstall",
            "Have the snap's agent serve the node again.",
        )],
    ),
    (
        "microk8s apiserver-proxy",
        &[
            (
                "microk8s apiserver-proxy",
                "Lead a worker to its API servers, as its configuration says.",
            ),
            (
                "microk8s apiserver-proxy --refresh-interval 0",
                "Keep to the list in the file; Kubernetes is not asked for it.",
            ),
        ],
    ),
    (
        "microk8s dev-cluster",
        &[
            (
                "microk8s dev-cluster",
                "A cluster of three nodes on this machine, and a fourth to try things with, until Ctrl-C.",
            ),
            (
                "microk8s dev-cluster --control-planes 3 --workers 1",
                "A cluster with a datastore of three members.",
            ),
        ],
    ),
    (
        "microk8s completions",
        &[
            (
                "microk8s completions bash > /etc/bash_completion.d/microk8s",
                "For every user of bash.",
            ),
            (
                "microk8s completions zsh > /usr/local/share/zsh/site-functions/_microk8s",
                "For every user of zsh.",
            ),
            (
                "microk8s completions fish > ~/.config/fish/completions/microk8s.fish",
                "For one user of fish.",
            ),
        ],
    ),
];

/// The examples of a command, which is named in full: `microk8s token list`.
pub fn of(command: &str) -> &'static [Example] {
    EXAMPLES
        .iter()
        .find(|(name, _)| *name == command)
        .map_or(&[], |(_, examples)| examples)
}

/// Adds the examples to the help of a command and of its subcommands; `above` is the name of the
/// command to which this one belongs.
pub(crate) fn add_to(command: clap::Command, above: &str) -> clap::Command {
    let name = format!("{above} {}", command.get_name());
    let examples = of(name.trim_start());
    let after = command.get_after_help().map(|after| format!("\n\n{after}"));
    let after = after.unwrap_or_default();
    let command = match examples {
        [] => command,
        examples => command.after_long_help(text(examples) + &after),
    };
    command.mut_subcommands(|sub| add_to(sub, name.trim_start()))
}

fn text(examples: &[Example]) -> String {
    let lines: String = examples
        .iter()
        .map(|(line, does)| format!("\n  {line}\n      {does}"))
        .collect();
    format!("Examples:{lines}")
}
