//! Running another program to its end, for as long as it may take and no longer.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::base::{sanitize, wait};

/// Why a program did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("cannot run `{command}`: {source}")]
    NotStarted {
        /// The command line.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It said that it failed.
    #[error("`{command}` failed ({status}){}", said(.output))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed on standard error.
        output: String,
    },
    /// It took too long and was ended.
    #[error("`{command}` did not end within {seconds} seconds")]
    TimedOut {
        /// The command line.
        command: String,
        /// How long it was given.
        seconds: u64,
    },
    /// There is nothing on this machine to do it with.
    #[error("{0}")]
    NotAvailable(&'static str),
}

fn said(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        text => format!(": {}", sanitize::for_log(text, 300)),
    }
}

/// How often a program that runs is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// Runs a program and gives what it prints on standard output.
pub fn run(program: &str, arguments: &[&str], limit: Duration) -> Result<String, CommandError> {
    let command = || {
        std::iter::once(program)
            .chain(arguments.iter().copied())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CommandError::NotStarted {
            command: command(),
            source,
        })?;
    // Both pipes are read while the program runs, or it might wait for us for ever.
    let output = reader(child.stdout.take());
    let errors = reader(child.stderr.take());
    let Some(status) = wait_for(&mut child, limit) else {
        return Err(CommandError::TimedOut {
            command: command(),
            seconds: limit.as_secs(),
        });
    };
    if status.success() {
        return Ok(collect(output));
    }
    Err(CommandError::Failed {
        command: command(),
        status: status.to_string(),
        output: collect(errors),
    })
}

/// Waits for a child; one that takes longer than `limit` is killed.
fn wait_for(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let ended = wait::until(limit, GLANCE, || child.try_wait().transpose());
    if let Some(Ok(status)) = ended {
        return Some(status);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    /// No program that we run prints more that matters.
    const MOST: u64 = 16 << 20;
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(MOST).read_to_end(&mut bytes);
        }
        bytes
    })
}

fn collect(reader: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

/// Whether a program of this name is on the path.
pub fn is_on_path(program: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| {
            std::fs::metadata(folder.join(program))
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_failure_are_reported() {
        assert_eq!(
            run("sh", &["-c", "echo one"], Duration::from_secs(10)).unwrap(),
            "one\n"
        );
        let error = run(
            "sh",
            &["-c", "echo why >&2; exit 3"],
            Duration::from_secs(10),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo why >&2; exit 3` failed (exit status: 3): why"
        );
        assert!(matches!(
            run("/no/such/program", &[], Duration::ZERO),
            Err(CommandError::NotStarted { .. })
        ));
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let error = run("sleep", &["60"], Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    }
}
