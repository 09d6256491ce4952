//! Text from another machine, made harmless before it reaches a terminal or a log.

/// Replaces control characters, and characters that turn the direction of text, by `?`.
///
/// Line feeds and tabs stay: MicroK8s's own error texts hold line feeds.
pub(crate) fn for_terminal(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() || turns_text(c) => '?',
            c => c,
        })
        .collect()
}

/// [`for_terminal`], on one line and cut after `limit` characters; for logs.
pub(crate) fn for_log(text: &str, limit: usize) -> String {
    let mut line: String = for_terminal(text)
        .chars()
        .take(limit)
        .map(|c| if c == '\n' || c == '\t' { ' ' } else { c })
        .collect();
    if text.chars().count() > limit {
        line.push('…');
    }
    line
}

/// Unicode's explicit directional controls, with which text can pretend to be other text.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_pass() {
        assert_eq!(for_terminal("a\u{1b}[31mb\r\nc\u{202e}d"), "a?[31mb?\nc?d");
    }

    #[test]
    fn a_log_line_stays_one_line() {
        assert_eq!(for_log("one\ntwo three", 8), "one two …");
    }
}
