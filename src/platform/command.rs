//! Running another program to its end, for as long as it may take and no longer.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::time::timeout;

use crate::base::{env_vars, io_error_text, runtime, sanitize};
use crate::platform::feed;

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
        source: io::Error,
    },
    /// It said that it failed.
    #[error("`{command}` failed ({status}){}", said(.output))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
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

impl CommandError {
    /// What another machine is told: how it ended, without the command line and what it printed.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::NotStarted { source, .. } => {
                format!("the program cannot be run: {}", io_error_text::of(source))
            }
            Self::Failed { status, .. } => format!("the program failed ({status})"),
            Self::TimedOut { seconds, .. } => {
                format!("the program did not end within {seconds} seconds")
            }
            Self::NotAvailable(why) => (*why).to_owned(),
        }
    }

    /// The words of MicroK8s's agent for a program that did not do what it was asked to
    /// (recordings `http-configure-restart-fails`, `http-dqlite-remove-fails`).
    pub(crate) fn in_microk8s_words(&self) -> String {
        match self {
            Self::NotStarted { command, source } => {
                let program = command.split(' ').next().unwrap_or_default();
                let why = io_error_text::of(source);
                format!("command [{command}] failed with exit code -1: fork/exec {program}: {why}")
            }
            Self::Failed {
                command, status, ..
            } => format!(
                "command [{command}] failed with exit code {}: {}",
                status.code().unwrap_or(-1),
                feed::in_short(status)
            ),
            Self::TimedOut { command, seconds } => {
                format!("command [{command}] did not end within {seconds} seconds")
            }
            Self::NotAvailable(why) => (*why).to_owned(),
        }
    }
}

fn said(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        text => format!(": {}", sanitize::for_log(text, 300)),
    }
}

/// How often it is looked at whether a program that runs may go on.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long what a program left in its pipes is waited for once it has ended: another program
/// that it started may hold them open for ever.
pub(super) const STRAGGLERS: Duration = Duration::from_secs(1);

/// Runs a program and gives what it prints on standard output.
pub(crate) fn run(
    program: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<String, CommandError> {
    run_with(program, arguments, &[], limit)
}

/// [`run`], in an environment with these variables added.
pub(crate) fn run_with(
    program: &str,
    arguments: &[&str],
    variables: &[(&str, &Path)],
    limit: Duration,
) -> Result<String, CommandError> {
    let command = || {
        std::iter::once(program)
            .chain(arguments.iter().copied())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut prepared = prepare(program);
    prepared.args(arguments).envs(variables.iter().copied());
    let end = Instant::now() + limit;
    let ended = run_unless(prepared, || Instant::now() >= end)
        .map_err(|source| CommandError::NotStarted {
            command: command(),
            source,
        })?
        .ok_or_else(|| CommandError::TimedOut {
            command: command(),
            seconds: limit.as_secs(),
        })?;
    if ended.status.success() {
        return Ok(ended.output);
    }
    Err(CommandError::Failed {
        command: command(),
        status: ended.status,
        output: ended.errors,
    })
}

/// A program that does not take this one's service manager for its own, and that speaks no language
/// but that in which its output is understood.
pub(super) fn prepare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    // snapd looks at the last two alone, and gettext at `LANGUAGE` before all of them.
    for variable in ["LC_ALL", "LC_MESSAGES", "LANG"] {
        command.env(variable, "C.UTF-8");
    }
    command.env_remove("LANGUAGE");
    for variable in env_vars::OF_SERVICE_MANAGER {
        command.env_remove(variable);
    }
    command
}

/// What a program that ran to its end printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
}

/// Runs a program until it ends. Once `over` is true, kills it with all that it started.
pub(super) fn run_unless(
    mut command: Command,
    over: impl Fn() -> bool,
) -> io::Result<Option<Finished>> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts can be ended with it.
        .process_group(0);
    runtime::block_on(async {
        let mut child = tokio::process::Command::from(command).spawn()?;
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let status = {
            // Both pipes are read while the program runs, or it might wait for us for ever.
            let reading =
                async { tokio::join!(read(stdout, &mut output), read(stderr, &mut errors)) };
            tokio::pin!(reading);
            let mut is_read = false;
            let status = loop {
                tokio::select! {
                    ended = timeout(POLL_INTERVAL, child.wait()) => match ended {
                        Ok(status) => break status?,
                        Err(_) if over() => {
                            end_group(&mut child).await;
                            return Ok(None);
                        }
                        Err(_) => {}
                    },
                    _ = &mut reading, if !is_read => is_read = true,
                }
            };
            if !is_read {
                let _ = timeout(STRAGGLERS, reading).await;
            }
            status
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Some(Finished {
            status,
            output: text(&output),
            errors: text(&errors),
        }))
    })?
}

/// Kills a program that leads its process group, and the rest of the group.
async fn end_group(child: &mut Child) {
    // The child has not been waited for, so the number is still its group's.
    if let Some(id) = child.id() {
        let _ = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
    }
    let _ = child.wait().await;
}

/// What comes out of a pipe until it is closed.
async fn read(pipe: Option<impl AsyncRead + Unpin>, bytes: &mut Vec<u8>) {
    /// No program that we run prints more that matters.
    const MOST: u64 = 16 << 20;
    if let Some(pipe) = pipe {
        let _ = pipe.take(MOST).read_to_end(bytes).await;
    }
}

/// Whether a program of this name is on the path.
pub(crate) fn is_on_path(program: &str) -> bool {
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
    use crate::base::wait;

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
        assert_eq!(
            error.in_microk8s_words(),
            "command [sh -c echo why >&2; exit 3] failed with exit code 3: exit status 3"
        );
        let error = run("/no/such/program", &["x"], Duration::ZERO).unwrap_err();
        assert!(matches!(error, CommandError::NotStarted { .. }), "{error}");
        assert_eq!(
            error.in_microk8s_words(),
            "command [/no/such/program x] failed with exit code -1: fork/exec /no/such/program: no such file or directory"
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let error = run("sleep", &["60"], Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    }

    #[test]
    fn a_program_left_behind_that_holds_the_pipe_open_is_not_waited_for() {
        let began = Instant::now();
        let output = run("sh", &["-c", "sleep 20 & echo $!"], Duration::from_secs(15)).unwrap();
        assert!(began.elapsed() < Duration::from_secs(10));
        let left: i32 = output.trim().parse().unwrap();
        nix::sys::signal::kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn what_a_program_started_ends_with_it_when_it_takes_too_long() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = format!("sleep 60 & echo $! > {}; wait", file.path().display());
        let limit = Duration::from_secs(1);
        let error = run("sh", &["-c", &line], limit).unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
        let started = std::fs::read_to_string(file.path()).unwrap();
        // A killed program stays in the process table as a zombie until it is reaped.
        let stat = Path::new("/proc").join(started.trim()).join("stat");
        let gone = || {
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            (text.is_empty() || text.contains(") Z ")).then_some(())
        };
        let found = wait::until(Duration::from_secs(10), POLL_INTERVAL, gone);
        assert!(found.is_some(), "{started} runs on");
    }
}
