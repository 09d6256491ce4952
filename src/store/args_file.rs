//! MicroK8s's files of service arguments: one `--key=value` or `--key value` a line; and those of
//! environment variables, `KEY=value`.
//!
//! A value in quotes may go on over several lines, as it may for the shell that starts MicroK8s's services. What
//! is not touched stays as it is, to the byte: comments, empty lines, line ends of either kind, and
//! what is no text at all.

use std::collections::HashMap;

use crate::store::shell_words;

/// The content of an arguments file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgsFile {
    /// With their line ends; together they are the file.
    lines: Vec<Vec<u8>>,
}

impl ArgsFile {
    /// Takes the file's content; there is none that it refuses.
    pub fn parse(content: impl AsRef<[u8]>) -> Self {
        let mut rest = content.as_ref();
        let mut lines = Vec::new();
        while !rest.is_empty() {
            let (line, others) = rest.split_at(length_of_line(rest));
            lines.push(line.to_vec());
            rest = others;
        }
        Self { lines }
    }

    /// The value of an argument, without quotes around it; the last one counts. A value that is no
    /// text is none.
    ///
    /// An argument without a value has the empty one.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.values(key).next_back()
    }

    /// All values of an argument that may stand several times, without quotes around them.
    pub fn get_all(&self, key: &str) -> Vec<&str> {
        self.values(key).collect()
    }

    fn values(&self, key: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.lines
            .iter()
            .filter_map(|line| split(line))
            .filter(move |(found, _)| *found == key.as_bytes())
            .filter_map(|(_, value)| std::str::from_utf8(unquote(value)).ok())
    }

    /// Sets an argument where it stands, or at the end.
    pub fn set(&mut self, key: &str, value: &str) {
        let mut line = format!("{key}={value}").into_bytes();
        let mut places = self.places(key).into_iter();
        match places.next() {
            Some(first) => {
                line.extend_from_slice(line_end(&self.lines[first]));
                self.lines[first] = line;
                for later in places.rev() {
                    self.lines.remove(later);
                }
            }
            None => {
                let end = self.usual_line_end();
                self.end_last_line();
                // A backslash at its end would make the new line the rest of the last one.
                if let Some(last) = self.lines.last_mut()
                    && length_of_line(&[last, b"--".as_slice()].concat()) > last.len()
                {
                    last.extend_from_slice(end);
                }
                line.extend_from_slice(end);
                self.lines.push(line);
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
    pub(crate) fn reconfigure(&mut self, update: &[(String, String)], remove: &[String]) {
        self.lines.retain(|line| !line.trim_ascii().is_empty());
        for key in remove {
            if !update.iter().any(|(updated, _)| updated == key) {
                self.remove(key);
            }
        }
        for (key, value) in update {
            self.set(key, value);
        }
        self.end_last_line();
    }

    fn places(&self, key: &str) -> Vec<usize> {
        let is_key = |line: &Vec<u8>| split(line).is_some_and(|(found, _)| found == key.as_bytes());
        (0..self.lines.len())
            .filter(|&place| is_key(&self.lines[place]))
            .collect()
    }

    /// How the lines of this file end.
    fn usual_line_end(&self) -> &'static [u8] {
        match self.lines.first() {
            Some(first) if line_end(first) == b"\r\n" => b"\r\n",
            _ => b"\n",
        }
    }

    fn end_last_line(&mut self) {
        let end = self.usual_line_end();
        if let Some(last) = self
            .lines
            .last_mut()
            .filter(|last| line_end(last).is_empty())
        {
            last.extend_from_slice(end);
        }
    }

    /// The file's content.
    pub fn bytes(&self) -> Vec<u8> {
        self.lines.concat()
    }

    /// The arguments as a program gets them from the shell that starts MicroK8s's services, with these
    /// variables.
    pub fn to_command_line(&self, variables: &HashMap<&str, String>) -> Vec<String> {
        shell_words::split(&String::from_utf8_lossy(&self.bytes()), variables)
    }
}

/// How long the first line is: up to the end of a line at which no quote is open. A quote that is never
/// closed opens nothing.
fn length_of_line(content: &[u8]) -> usize {
    let first = content.iter().position(|byte| *byte == b'\n');
    let first = first.map_or(content.len(), |end| end + 1);
    if !content[..first].trim_ascii_start().starts_with(b"--") {
        return first;
    }
    let mut quote = None;
    let mut in_comment = false;
    let mut before = b' ';
    let mut bytes = content.iter().copied().enumerate();
    while let Some((place, byte)) = bytes.next() {
        match (byte, quote) {
            (b'\n', None) => return place + 1,
            _ if in_comment => {}
            // The next line begins with a new word.
            (b'\\', None)
                if before.is_ascii_whitespace() && after_end(&content[place + 1..]) > 0 =>
            {
                return place + 1 + after_end(&content[place + 1..]);
            }
            (b'\\', None | Some(b'"')) => drop(bytes.next()),
            (b'"' | b'\'', None) => quote = Some(byte),
            (byte, Some(open)) if byte == open => quote = None,
            (b'#', None) if before.is_ascii_whitespace() => in_comment = true,
            _ => {}
        }
        before = byte;
    }
    if quote.is_none() {
        content.len()
    } else {
        first
    }
}

/// How long the end of a line is with which this begins.
fn after_end(content: &[u8]) -> usize {
    match content {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        _ => 0,
    }
}

fn line_end(line: &[u8]) -> &[u8] {
    let length = match line {
        [.., b'\r', b'\n'] => 2,
        [.., b'\n'] => 1,
        _ => 0,
    };
    &line[line.len() - length..]
}

/// Key and value of a line that is an argument or a variable.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return None;
    }
    let end = line
        .iter()
        .position(|byte| *byte == b'=' || byte.is_ascii_whitespace())
        .unwrap_or(line.len());
    let value = line.get(end + 1..).unwrap_or_default().trim_ascii();
    let value = match value {
        [b'\\'] => &[],
        [rest @ .., blank, b'\\'] if blank.is_ascii_whitespace() => rest.trim_ascii_end(),
        value => value,
    };
    Some((&line[..end], without_comment(value)))
}

/// A value without the comment behind it.
fn without_comment(value: &[u8]) -> &[u8] {
    let mut quote = None;
    let mut before = b' ';
    for (place, byte) in value.iter().copied().enumerate() {
        match (byte, quote) {
            (b'"' | b'\'', None) => quote = Some(byte),
            (byte, Some(open)) if byte == open => quote = None,
            (b'#', None) if before.is_ascii_whitespace() => {
                return value[..place].trim_ascii_end();
            }
            _ => {}
        }
        before = byte;
    }
    value
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] | [b'\'', inner @ .., b'\''] => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(args.bytes(), b"--node-ip-x=1\n--node-ip=2\n");
    }

    #[test]
    fn setting_keeps_the_place_and_everything_else() {
        let mut args = ArgsFile::parse(FILE);
        args.set("--bind", "[::]:25000");
        args.remove("--flag");
        args.remove("--nothing");
        assert_eq!(
            String::from_utf8(args.bytes()).unwrap(),
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

    #[test]
    fn a_comment_behind_a_value_is_none_of_it_and_a_hash_in_a_word_is() {
        let args = ArgsFile::parse("--a=1 # it's one\n--b=x#y\n--c=\"1 # 2\"\n");
        assert_eq!(args.get("--a"), Some("1"));
        assert_eq!(args.get("--b"), Some("x#y"));
        assert_eq!(args.get("--c"), Some("1 # 2"));
    }

    #[test]
    fn a_value_in_quotes_over_several_lines_is_one_and_a_quote_that_is_never_closed_opens_none() {
        let mut args = ArgsFile::parse("--a='1\n--b=2\n'\n--b=3\n--c=it's\n--d=4\n");
        assert_eq!(args.get("--b"), Some("3"));
        assert_eq!(args.get("--d"), Some("4"));
        args.set("--b", "5");
        args.remove("--a");
        assert_eq!(args.bytes(), b"--b=5\n--c=it's\n--d=4\n");
    }

    #[test]
    fn an_argument_ends_at_a_backslash_behind_which_the_next_line_is_a_new_one() {
        let mut args = ArgsFile::parse("--a=1 \\\n--b=2 \\\r\n  --flag \\\n--c=x\\\n--d\n");
        for (key, value) in [
            ("--a", "1"),
            ("--b", "2"),
            ("--flag", ""),
            ("--c", "x\\\n--d"),
        ] {
            assert_eq!(args.get(key), Some(value), "{key}");
        }
        args.set("--a", "3");
        args.remove("--flag");
        let rest = "--b=2 \\\r\n--c=x\\\n--d\n";
        assert_eq!(args.bytes(), format!("--a=3\n{rest}").into_bytes());
        for last in ["--a=1 \\", "--a=1 \\\n", "--a=\\", "--a=\\\n"] {
            let mut args = ArgsFile::parse(last);
            args.set("--k", "v");
            assert_eq!(
                ArgsFile::parse(args.bytes()).get("--k"),
                Some("v"),
                "{last}"
            );
            let words = args.to_command_line(&HashMap::new());
            assert_eq!(words.last().map(String::as_str), Some("--k=v"), "{last}");
        }
    }

    #[test]
    fn a_new_argument_is_a_line_of_its_own_that_ends_as_the_others_do() {
        for (before, after) in [
            ("", "--k=v\n"),
            ("--a", "--a\n--k=v\n"),
            ("--a\r\n--b\r\n", "--a\r\n--b\r\n--k=v\r\n"),
            ("--a\r\n--b", "--a\r\n--b\r\n--k=v\r\n"),
            ("--k x\r\n--b", "--k=v\r\n--b"),
            ("--b\n  --k", "--b\n--k=v"),
        ] {
            let mut args = ArgsFile::parse(before);
            args.set("--k", "v");
            assert_eq!(
                String::from_utf8(args.bytes()).unwrap(),
                after,
                "{before:?}"
            );
        }
    }

    /// Pieces of a file that are each for themselves, whatever stands around them.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let line_end = prop_oneof!["\n", "\r\n"];
        let argument = prop_oneof![
            "--[a-y]{1,3}[= ][a-z0-9,=/-]{0,6}",
            "--[a-y]{1,3}=\"[a-z \n#'=-]{0,9}\"",
            "--[a-y]{1,3}='[a-z \n#\"=-]{0,9}--zz=1\n'",
            "[ \t]{0,2}--[a-y]{1,3}",
            "--[a-y]{1,3} --zz",
            "--[a-y]{1,3}=1 # [a-z' -]{0,5}",
            "[ \t]{0,2}#[ -~]{0,9}",
            "[ \t]{0,3}",
            "--zz-?[a-z]{1,2}=[a-z]{0,3}",
        ];
        let text = (argument, line_end.clone()).prop_map(|(text, end)| (text + &end).into_bytes());
        let bytes = (
            prop::collection::vec(prop_oneof![Just(0), 0x80_u8..], 0..6),
            line_end,
        )
            .prop_map(|(bytes, end)| [b"--x=", &bytes[..], end.as_bytes()].concat());
        prop_oneof![4 => text, 1 => bytes]
    }

    proptest! {
        #[test]
        fn any_content_survives_reading_and_writing(content in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(ArgsFile::parse(&content).bytes(), content);
        }

        #[test]
        fn setting_and_removing_change_the_line_of_the_argument_and_no_other_byte(
            before in prop::collection::vec(piece(), 0..6),
            own in prop_oneof!["--zz", "--zz=[a-z]{0,3}", "--zz [a-z]{1,3}", "--zz='[a-z\n]{0,5}'"],
            line_end in prop_oneof!["", "\n", "\r\n"],
            after in prop::collection::vec(piece(), 0..6),
            value in "[a-z0-9.,=/-]{0,9}",
        ) {
            let (before, after) = (before.concat(), after.concat());
            let line_end = if line_end.is_empty() && !after.is_empty() { "\n" } else { &line_end };
            let own = format!("{own}{line_end}").into_bytes();
            let content = [&before[..], &own[..], &after[..]].concat();
            let mut set = ArgsFile::parse(&content);
            set.set("--zz", &value);
            let line = format!("--zz={value}{line_end}").into_bytes();
            prop_assert_eq!(set.bytes(), [&before[..], &line[..], &after[..]].concat());
            let read = ArgsFile::parse(set.bytes());
            prop_assert_eq!(read.get("--zz"), Some(value.as_str()));
            let mut removed = ArgsFile::parse(&content);
            removed.remove("--zz");
            prop_assert_eq!(removed.bytes(), [&before[..], &after[..]].concat());
        }

        #[test]
        fn a_new_argument_leaves_whatever_is_there(content in prop::collection::vec(any::<u8>(), 0..99)) {
            let mut args = ArgsFile::parse(&content);
            prop_assume!(args.places("--zz").is_empty());
            args.set("--zz", "1");
            prop_assert!(args.bytes().starts_with(&content));
            let mut without = args.clone();
            without.remove("--zz");
            prop_assert!(without.bytes().starts_with(&content));
        }

        #[test]
        fn what_is_set_is_read_back(text in "(--[a-y]{1,3}[= ][a-z\"]{0,4}\n|#.{0,5}\n){0,5}", value in "[a-z0-9.,=/-]{0,9}") {
            let mut args = ArgsFile::parse(&text);
            args.set("--ab", &value);
            prop_assert_eq!(args.get("--ab"), Some(value.as_str()));
        }
    }
}
