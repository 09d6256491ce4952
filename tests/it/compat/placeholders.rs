//! Values that differ from run to run, and the placeholders that stand for them in the recordings.

use crate::lab::{Host, Lab, Output, pem};

/// The words of one run. Longer ones are replaced first, so that the whole fingerprint is not
/// taken for its start.
#[derive(Clone, Debug, Default)]
pub struct Placeholders {
    values: Vec<(String, String)>,
    /// Unix times between which the command ran.
    span: (u64, u64),
}

impl Placeholders {
    /// What is known of a lab before a command runs: fingerprints and directories.
    pub fn of(lab: &Lab) -> Self {
        let mut placeholders = Self::default();
        placeholders.fingerprint(lab.host("n1"));
        for host in lab.hosts() {
            for (directory, name) in [
                (host.capi(), "/capi"),
                (host.snap_common(), "$SNAP_COMMON"),
                (host.snap_data(), "$SNAP_DATA"),
                (host.snap(), "$SNAP"),
            ] {
                placeholders.set(name, directory.to_str().unwrap());
            }
        }
        placeholders
    }

    fn fingerprint(&mut self, host: &Host) {
        let whole = pem::fingerprint(&host.fresh("certs/server.crt"));
        self.set("<FINGERPRINT_SHA256>", &whole);
        self.set("<FINGERPRINT>", &whole[..12]);
    }

    /// From now on this value is that placeholder.
    pub fn set(&mut self, placeholder: &str, value: &str) {
        self.values.push((value.to_owned(), placeholder.to_owned()));
        self.values
            .sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    }

    /// Whether a placeholder has a value.
    pub fn knows(&self, placeholder: &str) -> bool {
        self.values.iter().any(|(_, name)| name == placeholder)
    }

    /// The value of a placeholder.
    pub fn value(&self, placeholder: &str) -> &str {
        let known = self.values.iter().find(|(_, name)| name == placeholder);
        &known
            .unwrap_or_else(|| panic!("no value for {placeholder}"))
            .0
    }

    /// The command ran between these times; what expires relative to them is shown so.
    pub fn ran(&mut self, output: &Output) {
        self.span = (output.began, output.ended);
    }

    /// A recorded text with the values of this run.
    pub fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, placeholder) in &self.values {
            if placeholder.starts_with('<') {
                text = text.replace(placeholder, value);
            }
        }
        text
    }

    /// A text of this run with placeholders, as a recording would have it.
    pub fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (value, placeholder) in &self.values {
            text = text.replace(value, placeholder);
        }
        self.hide_expiry(&text)
    }

    /// `token|<unix time>` becomes `token|<NOW+3600>` for the times to live that are recorded.
    fn hide_expiry(&self, text: &str) -> String {
        let lines = text.split_inclusive('\n').map(|line| {
            let Some((token, rest)) = line.split_once('|') else {
                return line.to_owned();
            };
            let Ok(time) = rest.trim_end().parse::<u64>() else {
                return line.to_owned();
            };
            for offset in [3600, 60, 0, -5_i64] {
                let (from, to) = self.span;
                let expected =
                    from.saturating_add_signed(offset)..=to.saturating_add_signed(offset);
                if expected.contains(&time) {
                    return format!("{token}|<NOW{offset:+}>\n");
                }
            }
            line.to_owned()
        });
        lines.collect()
    }
}

/// The words of a text that look like a token of our own making: 32 hexadecimal digits.
pub fn tokens_in(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = text
        .split(|letter: char| !letter.is_ascii_hexdigit())
        .filter(|word| word.len() == 32)
        .collect();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placeholders() -> Placeholders {
        let mut placeholders = Placeholders {
            span: (1_000_000_000, 1_000_000_002),
            ..Default::default()
        };
        placeholders.set("<FINGERPRINT>", "abcdefabcdef");
        placeholders.set("<FINGERPRINT_SHA256>", &"abcdef".repeat(10));
        placeholders.set("<TOKEN>", "0123");
        placeholders.set("$SNAP_DATA", "/tmp/x/data");
        placeholders
    }

    #[test]
    fn what_was_filled_in_is_hidden_again() {
        let text = "join 10.99.0.11:25000/<TOKEN>/<FINGERPRINT> or /<FINGERPRINT_SHA256>";
        let filled = placeholders().fill(text);
        assert!(filled.contains("/0123/abcdefabcdef or /abcdefabcdefabcdef"));
        assert_eq!(placeholders().hide(&filled), text);
    }

    #[test]
    fn directories_are_hidden_but_never_filled_in() {
        assert_eq!(placeholders().hide("/tmp/x/data/args"), "$SNAP_DATA/args");
        assert_eq!(placeholders().fill("$SNAP_DATA/args"), "$SNAP_DATA/args");
    }

    #[test]
    fn an_expiry_is_told_relative_to_the_time_of_the_command() {
        let hide = |text| placeholders().hide(text);
        assert_eq!(
            hide("0123|1000003601\nother\n"),
            "<TOKEN>|<NOW+3600>\nother\n"
        );
        assert_eq!(hide("0123|999999996\n"), "<TOKEN>|<NOW-5>\n");
        assert_eq!(hide("0123|1000000001\n"), "<TOKEN>|<NOW+0>\n");
        assert_eq!(hide("0123|1700000000\n"), "<TOKEN>|1700000000\n");
    }

    #[test]
    fn tokens_are_found_in_every_output_form() {
        let token = "0123456789abcdef0123456789abcdef";
        let line = format!("microk8s join 10.99.0.11:25000/{token}/abcdefabcdef\n");
        assert_eq!(tokens_in(&line.repeat(2)), [token]);
        assert_eq!(tokens_in(&format!("{token}\n")), [token]);
        assert!(tokens_in("nothing here but abcdefabcdef").is_empty());
    }
}
