//! A text as a shell splits it into words, without running anything of it.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

/// The words of a text: blanks and line ends part them, quotes and backslashes keep them together,
/// `#` begins a comment, and `$NAME` and `${NAME}` are replaced by these variables. A variable that is
/// not given is empty. Other syntax of a shell, such as `$(…)`, means nothing.
pub(crate) fn split(text: &str, variables: &HashMap<&str, String>) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, quote) {
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            ('#', None) if word.is_none() => while rest.next_if(|c| *c != '\n').is_some() {},
            ('\\', None) => match rest.next() {
                // The line goes on in the next one; that may be written as on Windows.
                Some('\n') | None => {}
                Some('\r') if rest.peek() == Some(&'\n') => drop(rest.next()),
                Some(c) => word.get_or_insert_default().push(c),
            },
            ('\\', Some('"')) => match rest.next_if(|c| "$`\"\\\n".contains(*c)) {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => word.get_or_insert_default().push('\\'),
            },
            ('$', None | Some('"')) => {
                let value = variable(&mut rest, variables);
                // An empty value is no word of its own, unless there are quotes.
                if !value.is_empty() {
                    word.get_or_insert_default().push_str(&value);
                }
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// What stands for the rest of `$NAME` or `${NAME}`; the `$` itself where no name follows.
fn variable(rest: &mut Peekable<Chars<'_>>, variables: &HashMap<&str, String>) -> String {
    let mut ahead = rest.clone();
    let in_braces = ahead.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = ahead.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if name.is_empty() || (in_braces && ahead.next() != Some('}')) {
        return "$".to_owned();
    }
    *rest = ahead;
    variables
        .get(name.as_str())
        .map_or_else(String::new, Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_that_bash_reads_into_an_array() {
        let variables = HashMap::from([("SNAP_DATA", "/data dir".to_owned())]);
        for (text, words) in [
            (
                "--bind 0.0.0.0:1\r\n--timeout=9\r\n",
                &["--bind", "0.0.0.0:1", "--timeout=9"][..],
            ),
            ("# --a\n  # --b\n--c # --d\n--e#f", &["--c", "--e#f"]),
            (
                "--k \"${SNAP_DATA}/x\" '$SNAP_DATA'",
                &["--k", "/data dir/x", "$SNAP_DATA"],
            ),
            ("--k=\"a\nb\"", &["--k=a\nb"]),
            (
                "a\\ b \\\"c\\\" \"\\\"d\\\\\" 'e\\f'",
                &["a b", "\"c\"", "\"d\\", "e\\f"],
            ),
            ("a \\\n b\\\r\nc", &["a", "bc"]),
            (
                "$NONE \"$NONE\" $ $(id) ${SNAP_DATA",
                &["", "$", "$(id)", "${SNAP_DATA"],
            ),
            ("", &[]),
        ] {
            assert_eq!(split(text, &variables), words, "{text:?}");
        }
    }
}
