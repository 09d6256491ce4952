//! MicroK8s's files of service arguments: one `--key=value` or `--key value` a line.
//!
//! Lines that are not touched stay as they are, comments and empty lines included.

use std::collections::HashMap;

use crate::store::shell_words;

/// The content of an arguments file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgsFile {
    lines: Vec<String>,
    ends_in_newline: bool,
}

impl ArgsFile {
    /// Takes the file's text; there is no text that it refuses.
    pub fn parse(text: &str) -> Self {
        Self {
            lines: text.lines().map(str::to_owned).collect(),
            ends_in_newline: text.is_empty() || text.ends_with('\n'),
        }
    }

    /// The value of an argument, without quotes around it; the last one counts.
    ///
    /// An argument without a value has the empty one.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.lines
            .iter()
            .rev()
            .filter_map(|line| split(line))
            .find(|(found, _)| *found == key)
            .map(|(_, value)| unquote(value))
    }

    /// All values of an argument that may stand several times, without quotes around them.
    pub fn get_all(&self, key: &str) -> Vec<&str> {
        self.lines
            .iter()
            .filter_map(|line| split(line))
            .filter(|(found, _)| *found == key)
            .map(|(_, value)| unquote(value))
            .collect()
    }

    /// Sets an argument where it stands, or at the end.
    pub fn set(&mut self, key: &str, value: &str) {
        let line = format!("{key}={value}");
        let mut places = self.places(key).into_iter();
        match places.next() {
            Some(first) => {
                self.lines[first] = line;
                for later in places.rev() {
                    self.lines.remove(later);
                }
            }
            None => {
                self.lines.push(line);
                self.ends_in_newline = true;
            }
        }
    }

    /// Removes an argument.
    pub fn remove(&mut self, key: &str) {
        for place in self.places(key).into_iter().rev() {
            self.lines.remove(place);
        }
    }

    /// Changes arguments as MicroK8s's agent does: the new ones come last, one that is to be
    /// updated and to go is updated, and empty lines are dropped (recordings
    /// `http-configure-update`, `http-configure-remove`).
    pub fn reconfigure(&mut self, update: &[(String, String)], remove: &[String]) {
        self.lines.retain(|line| !line.trim().is_empty());
        for key in remove {
            if !update.iter().any(|(updated, _)| updated == key) {
                self.remove(key);
            }
        }
        for (key, value) in update {
            self.set(key, value);
        }
        self.ends_in_newline = true;
    }

    fn places(&self, key: &str) -> Vec<usize> {
        (0..self.lines.len())
            .filter(|&place| split(&self.lines[place]).is_some_and(|(found, _)| found == key))
            .collect()
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = self.lines.join("\n");
        if self.ends_in_newline && !self.lines.is_empty() {
            text.push('\n');
        }
        text
    }

    /// The arguments as a program gets them from the shell that starts MicroK8s's services.
    pub fn to_command_line(&self, variables: &HashMap<&str, String>) -> Vec<String> {
        shell_words::split(&self.text(), variables)
    }
}

/// Key and value of a line that is an argument.
fn split(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if !line.starts_with("--") {
        return None;
    }
    let end = line
        .find(|c: char| c == '=' || c.is_whitespace())
        .unwrap_or(line.len());
    let value = line.get(end + 1..).unwrap_or("");
    Some((&line[..end], value.trim()))
}

fn unquote(value: &str) -> &str {
    for quote in ['"', '\''] {
        if value.len() >= 2
            && let Some(inner) = value
                .strip_prefix(quote)
                .and_then(|rest| rest.strip_suffix(quote))
        {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "--bind 0.0.0.0:25000\n--keyfile \"${SNAP_DATA}/certs/server.key\"\n\n# --node-ip=1.2.3.4\n--flag\n--node-labels=\"a=b,c=d\"\n";

    #[test]
    fn both_ways_of_writing_an_argument_are_read() {
        let args = ArgsFile::parse(FILE);
        assert_eq!(args.get("--bind"), Some("0.0.0.0:25000"));
        assert_eq!(args.get("--keyfile"), Some("${SNAP_DATA}/certs/server.key"));
        assert_eq!(args.get("--node-labels"), Some("a=b,c=d"));
        assert_eq!(args.get("--flag"), Some(""));
    }

    #[test]
    fn a_comment_is_no_argument() {
        assert_eq!(ArgsFile::parse(FILE).get("--node-ip"), None);
    }

    #[test]
    fn a_key_that_begins_like_another_is_another() {
        let mut args = ArgsFile::parse("--node-ip-x=1\n");
        assert_eq!(args.get("--node-ip"), None);
        args.set("--node-ip", "2");
        assert_eq!(args.text(), "--node-ip-x=1\n--node-ip=2\n");
    }

    #[test]
    fn setting_keeps_the_place_and_everything_else() {
        let mut args = ArgsFile::parse(FILE);
        args.set("--bind", "[::]:25000");
        args.remove("--flag");
        args.remove("--nothing");
        assert_eq!(
            args.text(),
            FILE.replace("--bind 0.0.0.0:25000", "--bind=[::]:25000")
                .replace("--flag\n", "")
        );
    }

    #[test]
    fn a_service_gets_what_the_shell_would_give_it() {
        let variables = HashMap::from([("SNAP_DATA", "/data dir".to_owned())]);
        assert_eq!(
            ArgsFile::parse(FILE).to_command_line(&variables)[..4],
            [
                "--bind",
                "0.0.0.0:25000",
                "--keyfile",
                "/data dir/certs/server.key"
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives_reading_and_writing(text in "([ -~]{0,20}\n)*") {
            proptest::prop_assert_eq!(ArgsFile::parse(&text).text(), text);
        }

        #[test]
        fn what_is_set_is_read_back(text in "(--[a-z]{1,3}[= ][a-z\"]{0,4}\n|#.{0,5}\n){0,5}", value in "[a-z0-9.,=/-]{0,9}") {
            let mut args = ArgsFile::parse(&text);
            args.set("--ab", &value);
            proptest::prop_assert_eq!(args.get("--ab"), Some(value.as_str()));
        }
    }
}
