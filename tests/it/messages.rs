//! What is said of wrong input: each command fails, says what was wrong, and changes nothing. `docs/messages.md` is generated from what they print.

use crate::generated;
use crate::lab::{Host, Lab};

/// The commands by what is wrong with them. `TOKEN`, `USED`, `EXPIRED`, … stand for tokens in these
/// states, `PRINT` for the fingerprint of n1.
const WRONG: [(&str, &[&str]); 8] = [
    (
        "A command that does not exist",
        &[
            "jion 10.99.0.11:25000/TOKEN",
            "add-nodes",
            "list",
            "--bogus",
            "token",
            "token sow",
            "help token sow",
            "kubectl get nodes",
        ],
    ),
    (
        "An option or value that does not exist",
        &[
            "join 10.99.0.11:25000/TOKEN --wroker",
            "join 10.99.0.11:25000/TOKEN --format xml",
            "join 10.99.0.11:25000/TOKEN --timeout soon",
            "join 10.99.0.11:25000/TOKEN --wait=soon",
            "join 10.99.0.11:25000/TOKEN another",
            "join 10.99.0.11:25000/TOKEN --token-file",
            "join",
            "join --wroker",
            "leave now",
            "leave --format xml",
            "remove-node",
            "remove-node n9 n8",
            "remove-node -A",
            "remove-node n9/status",
            "remove-node n9 --format xml",
            "nodes n1",
            "nodes --slef",
            "nodes --format xml",
            "token list n1",
            "token prune --unused-for week",
            "completions csh",
            "completions",
            "agent --nope",
            "agent --timeout soon",
            "agent --log-format xml",
            "agent --bind localhost",
            "agent --max-connections 1",
            "dev-cluster --workers 100",
            "dev-cluster --workers many",
        ],
    ),
    (
        "A connection string that is not one",
        &[
            "join 10.99.0.11",
            "join 10.99.0.11:25000",
            "join 10.99.0.11/TOKEN",
            "join https://10.99.0.11:25000/TOKEN",
            "join n1:25000/TOKEN",
            "join 10.99.0.11:99999/TOKEN",
            "join 10.99.0.11:port/TOKEN",
            "join '10.99.0.11:25000/<token>'",
            "join 10.99.0.11:25000/abc",
            "join 10.99.0.11:25000/TOKEN/abc",
            "join fd00::11:25000/TOKEN",
        ],
    ),
    (
        "A node that cannot be contacted",
        &[
            "join 10.99.0.11:25999/TOKEN/PRINT",
            "join 10.99.0.11:25000/TOKEN/000000000000",
        ],
    ),
    (
        "A token that cannot be used",
        &[
            "join 10.99.0.11:25000/0123456789abcdef0123456789abcdef/PRINT",
            "join 10.99.0.11:25000/WORKER/PRINT",
            "join 10.99.0.11:25000/NAMED/PRINT --worker",
            "join 10.99.0.11:25000/REVOKED/PRINT --worker",
            "join 10.99.0.11:25000/PRINT --token-file /nonexistent",
            "join 10.99.0.11:25000/PRINT --token-file /dev/null",
        ],
    ),
    (
        "Options of a join",
        &[
            "join 10.99.0.11:25000/TOKEN/PRINT --worker --node-label rack",
            "join 10.99.0.11:25000/TOKEN/PRINT --worker --node-ip 10.99.0.99",
        ],
    ),
    (
        "`add-node` and `token`",
        &[
            "add-node --token short",
            "add-node --token-ttl 0",
            "add-node --uses 0",
            "add-node --role master",
            "add-node --format xml",
            "token show 0123456789ab",
            "token revoke 0123456789ab",
            "token show 0123456789abcdef0123456789abcdef",
            "token show x",
            "token show - < /dev/null",
            "token revoke",
            "token revoke --all 0123",
            "token revoke - -",
            "add-node --token-ttl soon",
            "add-node --token-ttl",
            "add-node --uses many",
            "add-node --node 'a b'",
            "add-node --description ''",
            "add-node --tokn x",
            "add-node n3",
            "add-node --token-file /nonexistent",
            "add-node --token 'with a blank in it, as no token has'",
        ],
    ),
    (
        "`leave` and `remove-node`",
        &[
            "leave",
            "remove-node n9",
            "remove-node n2",
            "remove-node 10.99.0.99",
        ],
    ),
];

/// A token of n1 that was issued with these options.
fn token(n1: &Host, options: &str) -> String {
    let line = format!("microk8s add-node --format token {options}");
    n1.shell(&line).ok().trim().to_owned()
}

/// The text with `a moment ago` in place of what depends on the time of the run.
fn without_ages(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    while let Some(end) = words
        .iter()
        .position(|word| word.trim_end_matches(';') == "ago")
        && words[end - 2] != "a"
    {
        words.splice(end - 2..end, ["a", "moment"]);
    }
    words.join(" ")
}

#[test]
fn wrong_input_is_told_what_was_wrong_and_changes_nothing() {
    let Some(lab) = Lab::new(&["n1", "n2"]) else {
        return;
    };
    let (n1, n2) = (lab.host("n1"), lab.host("n2"));
    let _agents = [n1.agent(), n2.agent()];
    let line = n1.join_line();
    let mut parts = line.rsplit('/').map(str::to_owned);
    let values = [
        ("PRINT", parts.next().unwrap(), "<fingerprint>"),
        ("TOKEN", parts.next().unwrap(), "<token>"),
        ("WORKER", token(n1, "--role worker"), "<token>"),
        ("NAMED", token(n1, "--node n7"), "<token>"),
        ("REVOKED", token(n1, "--description old"), "<token>"),
    ];
    let revoked = format!("printf %s {} | microk8s token revoke -", values[4].1);
    n1.shell(&revoked).ok();

    let (mut text, mut wrong) = (String::new(), Vec::new());
    for (what, commands) in WRONG {
        text += &format!("## {what}\n\n");
        for command in commands {
            let mut typed = format!("microk8s {command}");
            for (name, value, _) in &values {
                typed = typed.replace(name, value);
            }
            let before = n2.snapshot();
            let output = n2.shell(&typed);
            if before != n2.snapshot() {
                wrong.push(format!("`{command}` changed the node"));
            }
            let is_told = |text: &str| text.chars().any(char::is_alphabetic);
            let says_why = is_told(&output.stdout) || is_told(&output.stderr);
            if output.code.is_none_or(|code| code == 0 || code > 125) || !says_why {
                wrong.push(format!("`{command}`: {output:?}"));
            }
            let has = |start: &str| output.stderr.lines().any(|line| line.starts_with(start));
            let is_error = has("error: ") || has("Error: ") || has("microk8s add-node: error: ");
            if !is_error || !(has("hint: ") || has("Try 'microk8s ")) {
                wrong.push(format!(
                    "`{command}`: no `error:` or no `hint:`: {output:?}"
                ));
            }
            let mut words = command.split(' ');
            if let Some(word) =
                words.find(|word| output.stderr.contains(&format!("did you mean `{word}`")))
            {
                wrong.push(format!("`{command}`: `{word}` was typed, and is suggested"));
            }
            let streams = [("stdout", &output.stdout), ("stderr", &output.stderr)];
            let mut shown: Vec<String> = vec![format!("$ {typed}")];
            for (stream, printed) in streams {
                shown.extend(printed.lines().map(|line| format!("{stream}: {line}")));
            }
            shown.push(format!("exit code {}", output.code.unwrap()));
            let mut shown = shown.join("\n");
            for (_, value, name) in &values {
                shown = shown.replace(value.as_str(), name);
            }
            let shown = without_ages(&shown);
            text += &format!("```text\n{shown}\n```\n\n");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    generated::holds("docs/messages.md", "messages", &text);
}
