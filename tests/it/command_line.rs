//! What the program says of a command line that it does not understand, and where there is no node.

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use snapbox::{assert_data_eq, str};

use crate::lab::program::program;

/// Runs the program on a machine where it has no node.
fn run(line: &str) -> Assert {
    let mut command = Command::new(program());
    command.args(line.split_whitespace()).env_clear();
    command.env("HOME", "/nonexistent").assert()
}

fn stderr(assert: &Assert) -> String {
    String::from_utf8(assert.get_output().stderr.clone()).unwrap()
}

#[test]
fn a_command_line_that_is_not_understood_gets_the_usage_and_code_2() {
    let extra = run("nodes extra").code(2).stdout("");
    assert_data_eq!(
        stderr(&extra),
        str![[r#"
error: unexpected argument 'extra' found
hint: the same command with `--help` shows what it takes

"#]]
    );
    let option = run("agent --nonsense").code(2).stdout("");
    assert_data_eq!(
        stderr(&option),
        str![[r#"
error: unexpected argument '--nonsense' found
hint: the same command with `--help` shows what it takes

"#]]
    );
}

#[test]
fn where_there_is_no_node_each_command_says_where_it_looked_and_what_makes_one() {
    let join = "join 10.0.0.1:25000/0123456789abcdef0123456789abcdef";
    for line in ["add-node", join, "leave", "remove-node n2", "token list"] {
        let assert = run(line).code(1).stdout("");
        assert_data_eq!(
            stderr(&assert),
            str![[r#"
error: there is no node in /nonexistent/.local/share/microk8s/current
hint: `microk8s agent` makes one; MICROK8S_NODE_DIR names one that is elsewhere

"#]]
        );
    }
}
