//! Examples of each command, for its help and its manual page.

/// For each command a line with its full name in brackets; then its examples, a command line each,
/// and below it what that does.
const EXAMPLES: &str = include_str!("../../assets/examples.txt");

/// The examples of a command, which is named in full, `microk8s token list`: each command line with
/// what it does.
pub fn of(command: &str) -> Vec<(&'static str, &'static str)> {
    let heading = format!("[{command}]\n");
    let mut commands = EXAMPLES.split("\n\n");
    let own = commands.find_map(|lines| lines.strip_prefix(&heading));
    let lines: Vec<&str> = own.unwrap_or_default().lines().collect();
    let (pairs, _) = lines.as_chunks();
    pairs
        .iter()
        .map(|[line, does]| (*line, does.trim_start()))
        .collect()
}

/// Adds the examples to the help of a command and of its subcommands; `above` is the name of the
/// command to which this one belongs.
pub(crate) fn add_to(command: clap::Command, above: &str) -> clap::Command {
    let name = format!("{above} {}", command.get_name());
    let examples = of(name.trim_start());
    let after = command.get_after_help().map(|after| format!("\n\n{after}"));
    let after = after.unwrap_or_default();
    let command = match examples[..] {
        [] => command,
        _ => command.after_long_help(text(&examples) + &after),
    };
    command.mut_subcommands(|sub| add_to(sub, name.trim_start()))
}

fn text(examples: &[(&str, &str)]) -> String {
    let lines: String = examples
        .iter()
        .map(|(line, does)| format!("\n  {line}\n      {does}"))
        .collect();
    format!("Examples:{lines}")
}
