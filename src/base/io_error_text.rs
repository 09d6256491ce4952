//! The operating system's own words for an error.

use std::io;

/// What the system calls an error, as in `no such file or directory`: in lower case, without the
/// number that Rust puts behind it. MicroK8s's agent passes these words on (recordings
/// `http-image-import`, `http-dqlite-remove-no-token-file`).
pub(crate) fn of(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match error.raw_os_error() {
        Some(_) => text
            .rsplit_once(" (os error")
            .map_or(&*text, |(text, _)| text),
        None => &text,
    };
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_the_system_says_it() {
        let missing = std::fs::read("/no/such/file").unwrap_err();
        assert_eq!(of(&missing), "no such file or directory");
        assert_eq!(of(&io::Error::other("Cut off")), "cut off");
        assert_eq!(of(&io::Error::other("")), "");
    }
}
