//! The agent's log: standard error, in the form that its reader wants.

use std::io::{self, Write};
use std::os::fd::AsFd;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::base::{env_vars, sanitize};
use crate::cli::agent::LogFormat;
use crate::cli::output::Printer;
use crate::store::audit;

/// Starts the log. A second start, as on a node that was just made, keeps the first log.
pub(crate) fn start(format: Option<LogFormat>) {
    let wanted = std::env::var(env_vars::MICROK8S_LOG).unwrap_or_default();
    let understood = (!wanted.is_empty()).then(|| read_filter(&wanted));
    let filter = understood
        .clone()
        .flatten()
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    // What happens to tokens is on record, however quiet the log is.
    let filter = filter.with_target(audit::TARGET, LevelFilter::INFO);
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE);
    let is_json = format == Some(LogFormat::Json);
    // The request's id is in the span, and an object of its own in a line of JSON.
    let _ = match (is_the_journal(), is_json) {
        // The journal has the time and the priority of each line.
        (true, false) => log
            .without_time()
            .with_ansi(false)
            .with_target(false)
            .with_writer(Journal)
            .finish()
            .with(filter)
            .try_init(),
        (true, true) => log
            .json()
            .without_time()
            .flatten_event(true)
            .with_span_list(false)
            .with_writer(Journal)
            .finish()
            .with(filter)
            .try_init(),
        (false, false) => log
            .with_ansi(false)
            .with_target(false)
            .with_writer(io::stderr)
            .finish()
            .with(filter)
            .try_init(),
        (false, true) => log
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_writer(io::stderr)
            .finish()
            .with(filter)
            .try_init(),
    };
    if understood.is_some_and(|filter| filter.is_none()) {
        let wanted = sanitize::for_log(&wanted, 80);
        tracing::warn!(
            "{}=`{wanted}` is not understood, so the log is at `info`: give `error`, `warn`, `info`, `debug` or `trace`",
            env_vars::MICROK8S_LOG
        );
    }
}

/// The filter of levels, and of levels of modules. A word that is neither would be taken for the
/// name of a module, and nothing else would be logged; so would one that names spans.
fn read_filter(text: &str) -> Option<Targets> {
    let is_known = |word: &&str| {
        word.parse::<LevelFilter>().is_ok() || (word.contains('=') && !word.contains('['))
    };
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let words: Vec<&str> = words.collect();
    words
        .iter()
        .all(is_known)
        .then(|| words.join(",").parse().ok())
        .flatten()
}

/// Whether standard error is a stream of systemd's journal, as `JOURNAL_STREAM` says by the device
/// and the inode (systemd.exec(5)). A program that inherited the variable and has another standard
/// error is not meant.
fn is_the_journal() -> bool {
    let Ok(named) = std::env::var(env_vars::JOURNAL_STREAM) else {
        return false;
    };
    let own = nix::sys::stat::fstat(io::stderr().as_fd());
    own.is_ok_and(|own| named == format!("{}:{}", own.st_dev, own.st_ino))
}

/// The journal's stream, whose lines begin with their priority (sd-daemon(3)).
#[derive(Debug, Clone, Copy)]
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Prioritised;

    fn make_writer(&'a self) -> Prioritised {
        Prioritised(Level::INFO)
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Prioritised {
        Prioritised(*line.level())
    }
}

/// Writes what happened, one or more lines, with this priority.
#[derive(Debug)]
struct Prioritised(Level);

impl Write for Prioritised {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&prioritised(text, self.0))?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn prioritised(text: &[u8], level: Level) -> Vec<u8> {
    let number = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    };
    let mut lines = Vec::with_capacity(text.len() + 8);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        lines.extend_from_slice(format!("<{number}>").as_bytes());
        lines.extend_from_slice(line);
    }
    lines
}

/// Where the agent says why it does not run: in the journal, that is an error as well.
pub(crate) struct LastWords<'a>(pub &'a mut dyn Printer);

impl Printer for LastWords<'_> {
    fn out(&mut self, text: &str) -> Result<(), crate::cli::output::OutputLost> {
        self.0.out(text)
    }

    fn err(&mut self, line: &str) {
        if !is_the_journal() {
            return self.0.err(line);
        }
        let lines = prioritised(line.as_bytes(), Level::ERROR);
        self.0.err(&String::from_utf8_lossy(&lines));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_levels_and_levels_of_modules() {
        let filter = read_filter("warn, microk8s::agent=debug,").unwrap();
        for (target, level, is_logged) in [
            ("microk8s::agent::https", Level::DEBUG, true),
            ("microk8s::agent", Level::TRACE, false),
            ("microk8s::cluster", Level::WARN, true),
            ("h2", Level::INFO, false),
        ] {
            assert_eq!(filter.would_enable(target, &level), is_logged, "{target}");
        }
        for text in [
            "nonsense",
            "info,nonsense",
            "microk8s=loud",
            "[request]=info",
        ] {
            assert!(read_filter(text).is_none(), "{text}");
        }
    }

    #[test]
    fn each_line_of_an_entry_has_its_priority() {
        assert_eq!(
            prioritised(b"WARN one\n two\n", Level::WARN),
            b"<4>WARN one\n<4> two\n"
        );
        assert_eq!(prioritised(b"x", Level::ERROR), b"<3>x");
    }
}
