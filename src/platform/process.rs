//! Programs that run beside this one, and the handing over to another program.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};

use crate::base::wait;
use crate::platform::command::{self, Finished};

/// A program that runs beside this one. It is asked to end, then ended, when this is dropped.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: Child,
    grace: Duration,
}

impl ChildProcess {
    /// Starts a program that gets this long to end once it is asked to.
    pub(crate) fn start(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        grace: Duration,
        errors: impl Into<Stdio>,
    ) -> io::Result<Self> {
        let child = command::prepare(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            // Ctrl-C in a terminal is for the program that owns this one, which ends it in order.
            .process_group(0)
            .spawn()?;
        Ok(Self { child, grace })
    }

    /// Starts a program like [`Self::start`]; each line that it prints on standard error goes to
    /// `on_line`.
    pub(crate) fn start_logged(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        grace: Duration,
        on_line: impl Fn(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let mut started = Self::start(program, arguments, grace, Stdio::piped())?;
        if let Some(errors) = started.child.stderr.take() {
            thread::spawn(move || {
                BufReader::new(errors)
                    .split(b'\n')
                    .map_while(Result::ok)
                    .for_each(|line| on_line(&String::from_utf8_lossy(&line)));
            });
        }
        Ok(started)
    }

    /// How the program ended, when it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the program to end, and ends it when it does not.
    pub(crate) fn stop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let (grace, pause) = (self.grace, Duration::from_millis(10));
        wait::until(grace, pause, || self.ended());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Has this process end by SIGTERM when its parent ends, also when that one is killed.
pub(crate) fn end_with_parent(parent: i32) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    // The signal does not come for a parent that had ended before.
    if getppid() == Pid::from_raw(parent) {
        Ok(())
    } else {
        Err(io::Error::other("the process that started it is gone"))
    }
}

/// Runs a program until it ends, with these variables added to its environment; `None` when `over`
/// became true first and the program was killed.
pub(crate) fn run_to_end(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    variables: &[(&str, &Path)],
    over: impl Fn() -> bool,
) -> io::Result<Option<Finished>> {
    let mut command = command::prepare(program);
    command.args(arguments).envs(variables.iter().copied());
    command::run_unless(command, over)
}

/// Becomes another program, in an environment with these variables added; returns only when
/// that fails.
pub(crate) fn become_program(
    program: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    variables: &[(impl AsRef<OsStr>, impl AsRef<OsStr>)],
) -> io::Error {
    Command::new(program)
        .args(arguments)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .exec()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_line_that_is_no_text_is_not_the_last_one_that_is_read() {
        let (sender, lines) = mpsc::channel();
        let script = r"printf 'a\377b\nnext\n' >&2";
        let _companion =
            ChildProcess::start_logged("sh", ["-c", script], Duration::ZERO, move |line| {
                let _ = sender.send(line.to_owned());
            })
            .unwrap();
        assert_eq!(lines.iter().collect::<Vec<_>>(), ["a\u{fffd}b", "next"]);
    }
}
