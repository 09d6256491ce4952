//! Runs a program that reads streamed input, which is never in memory as a whole.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::base::{io_error_text, sanitize, wait};
use crate::platform::command::{self, POLL_INTERVAL, STRAGGLERS};

/// How much is held in memory on the way.
const BUFFER: usize = 64 << 10;
/// How much of what the program says is kept: the end of it.
const LAST_WORDS: usize = 2 << 10;

/// Why a program did not take what it was fed. The texts are those of MicroK8s's agent, as far as
/// it has any.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// It could not be started.
    #[error("fork/exec {program}: {}", io_error_text::of(.source))]
    NotStarted {
        /// Which program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What it was to be fed did not come to its end; the program was killed.
    #[error("{0}")]
    Input(#[source] io::Error),
    /// It said that it failed.
    #[error("{}", in_short(.status))]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The last of what it printed.
        said: String,
    },
    /// It took nothing more, or did not end, and was killed.
    #[error("no progress within {0} seconds")]
    Stalled(u64),
    /// There is nothing on this machine to feed.
    #[error("{0}")]
    NotAvailable(&'static str),
}

/// As Go writes it, in which MicroK8s's agent is written.
pub(super) fn in_short(status: &ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Runs a program with `input` on its standard input. It may stand still for `stall_timeout`, and take
/// that long to end after the last byte.
pub fn feed(
    mut command: Command,
    input: &mut dyn Read,
    stall_timeout: Duration,
) -> Result<(), FeedError> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // A group of its own, so that what it starts can be ended with it.
        .process_group(0)
        .spawn()
        .map_err(|source| FeedError::NotStarted {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
    let fed = Fed::new(&child);
    let said = child.stderr.take().map(LastWords::of);
    let mut pipe = child
        .stdin
        .take()
        .map(|pipe| File::from(OwnedFd::from(pipe)));
    let passed_on = pipe
        .as_mut()
        .map_or(Ok(()), |pipe| pass_on(pipe, input, stall_timeout));
    let ended = passed_on.and_then(|()| {
        fed.is_over();
        drop(pipe.take());
        end_of(&mut child, stall_timeout)
    });
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            // With the pipe still open: at no time does it look like the end of the input.
            fed.kill();
            command::end_group(&mut child);
            drop(pipe);
            return Err(error);
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(FeedError::Failed {
        status,
        said: said.map_or_else(String::new, |said| said.text()),
    })
}

/// The programs that are being fed, by their process groups; `None` when no more is fed.
static FED: Mutex<Option<BTreeSet<i32>>> = Mutex::new(Some(BTreeSet::new()));

/// Kills the programs that are being fed, and those that would be from now on. For a process that
/// ends while it feeds them: the closed pipe would look like the end of the input.
pub fn kill_all() {
    let mut fed = FED.lock().unwrap_or_else(PoisonError::into_inner);
    for group in fed.take().into_iter().flatten() {
        kill_group(group);
    }
}

fn kill_group(group: i32) {
    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
}

/// A program that has not had all of its input, and is not waited for yet: its number is its own.
struct Fed(i32);

impl Fed {
    fn new(child: &Child) -> Self {
        let group = child.id().cast_signed();
        match FED.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(fed) => _ = fed.insert(group),
            None => kill_group(group),
        }
        Self(group)
    }

    /// The program may be waited for from now on.
    fn is_over(&self) {
        let mut fed = FED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fed) = fed.as_mut() {
            fed.remove(&self.0);
        }
    }

    fn kill(&self) {
        kill_group(self.0);
        self.is_over();
    }
}

/// Passes on all of the input. A program that reads no more is not fed any longer: how it ends
/// tells why.
fn pass_on(
    pipe: &mut File,
    input: &mut dyn Read,
    stall_timeout: Duration,
) -> Result<(), FeedError> {
    fcntl(&*pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|error| FeedError::Input(error.into()))?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(FeedError::Input(error)),
        };
        if !write_all(pipe, &buffer[..count], stall_timeout)? {
            return Ok(());
        }
    }
}

/// Writes all of it; false when the program no longer reads.
fn write_all(
    pipe: &mut File,
    mut bytes: &[u8],
    stall_timeout: Duration,
) -> Result<bool, FeedError> {
    while !bytes.is_empty() {
        match pipe.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_for_room(pipe, stall_timeout)?;
            }
            Err(error) => return Err(FeedError::Input(error)),
        }
    }
    Ok(true)
}

fn wait_for_room(pipe: &File, stall_timeout: Duration) -> Result<(), FeedError> {
    let mut pipes = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
    let limit = PollTimeout::try_from(stall_timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut pipes, limit) {
        Ok(0) => Err(FeedError::Stalled(stall_timeout.as_secs())),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(FeedError::Input(error.into())),
    }
}

fn end_of(child: &mut Child, stall_timeout: Duration) -> Result<ExitStatus, FeedError> {
    wait::until(stall_timeout, POLL_INTERVAL, || {
        child.try_wait().transpose()
    })
    .unwrap_or_else(|| Err(io::Error::from(ErrorKind::TimedOut)))
    .map_err(|error| match error.kind() {
        ErrorKind::TimedOut => FeedError::Stalled(stall_timeout.as_secs()),
        _ => FeedError::Input(error),
    })
}

/// The last of what comes out of a pipe.
struct LastWords {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl LastWords {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sink = Arc::clone(&kept);
        let reader = thread::spawn(move || {
            let mut buffer = [0; LAST_WORDS];
            loop {
                match pipe.read(&mut buffer) {
                    Ok(count) if count > 0 => {
                        let mut kept = sink.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.extend_from_slice(&buffer[..count]);
                        let too_many = kept.len().saturating_sub(LAST_WORDS);
                        kept.drain(..too_many);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => return,
                }
            }
        });
        Self { kept, reader }
    }

    /// On one line. Another program may hold the pipe open for ever, so its end is not waited for
    /// longer than is due to a program that has ended.
    fn text(&self) -> String {
        wait::until(STRAGGLERS, POLL_INTERVAL, || {
            self.reader.is_finished().then_some(())
        });
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        sanitize::for_log(String::from_utf8_lossy(&kept).trim(), LAST_WORDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", line]);
        command
    }

    const STALL_TIMEOUT: Duration = Duration::from_secs(10);

    #[test]
    fn every_byte_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("got");
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let line = format!("cat > {}", file.display());
        feed(shell(&line), &mut bytes.as_slice(), STALL_TIMEOUT).unwrap();
        assert!(std::fs::read(file).unwrap() == bytes);
    }

    #[test]
    fn a_program_that_fails_says_how_and_why() {
        let error = feed(
            shell("echo no room >&2; exit 3"),
            &mut io::repeat(0).take(1 << 20),
            STALL_TIMEOUT,
        )
        .unwrap_err();
        assert_eq!(error.to_string(), "exit status 3");
        assert!(matches!(error, FeedError::Failed { said, .. } if said == "no room"));
        let missing = Command::new("/no/such/program");
        let error = feed(missing, &mut io::empty(), STALL_TIMEOUT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "fork/exec /no/such/program: no such file or directory"
        );
    }

    #[test]
    fn a_program_that_takes_nothing_is_ended() {
        let limit = Duration::from_millis(50);
        let began = std::time::Instant::now();
        for (line, bytes) in [("sleep 60", 1 << 20), ("cat > /dev/null; sleep 60", 10)] {
            let error = feed(shell(line), &mut io::repeat(0).take(bytes), limit).unwrap_err();
            assert!(matches!(error, FeedError::Stalled(_)), "{error}");
        }
        assert!(began.elapsed() < STALL_TIMEOUT);
    }

    #[test]
    fn a_program_whose_input_breaks_off_is_ended_and_has_not_succeeded() {
        struct BreaksOff;
        impl Read for BreaksOff {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let line = format!("cat > /dev/null; touch {}", done.display());
        let error = feed(shell(&line), &mut BreaksOff, STALL_TIMEOUT).unwrap_err();
        assert!(matches!(error, FeedError::Input(_)), "{error}");
        assert!(!done.exists());
    }
}
