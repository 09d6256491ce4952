//! Runs a program that reads streamed input, which is never in memory as a whole.

use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::base::mutex::lock;
use crate::base::{io_error_text, sanitize};
use crate::platform::command::STRAGGLERS;

/// How much of what the program says is kept: the end of it.
const LAST_WORDS: usize = 2 << 10;

/// Why a program did not take what it was fed. The texts are those of MicroK8s's agent, as far as
/// it has any.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    /// It could not be started.
    #[error("fork/exec {program}: {}", io_error_text::of(.source))]
    NotStarted {
        /// Which program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written to, or waited for.
    #[error("{0}")]
    Io(#[source] io::Error),
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

/// A program that is being fed. It is killed, with what it started, when this is dropped.
#[derive(Debug)]
pub(crate) struct Feed {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Option<LastWords>,
    stall_timeout: Duration,
}

impl Feed {
    /// Starts a program that may stand still for `stall_timeout`, and take that long to end after the
    /// last byte.
    pub(super) fn start(
        command: std::process::Command,
        stall_timeout: Duration,
    ) -> Result<Self, FeedError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own, so that what it starts can be ended with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| FeedError::NotStarted { program, source })?;
        Ok(Self {
            stdin: child.stdin.take(),
            said: child.stderr.take().map(LastWords::of),
            child,
            stall_timeout,
        })
    }

    /// Passes on a part of the input; `false` when the program no longer reads. How it ends tells why.
    pub(crate) async fn write(&mut self, mut bytes: &[u8]) -> Result<bool, FeedError> {
        let Some(stdin) = self.stdin.as_mut() else {
            return Ok(false);
        };
        while !bytes.is_empty() {
            match timeout(self.stall_timeout, stdin.write(bytes)).await {
                Ok(Ok(count)) => bytes = &bytes[count..],
                Ok(Err(error)) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
                Ok(Err(error)) => return Err(FeedError::Io(error)),
                Err(_) => return Err(FeedError::Stalled(self.stall_timeout.as_secs())),
            }
        }
        Ok(true)
    }

    /// Ends the input, and waits for the program to take it.
    pub(crate) async fn finish(mut self) -> Result<(), FeedError> {
        drop(self.stdin.take());
        let status = timeout(self.stall_timeout, self.child.wait())
            .await
            .map_err(|_| FeedError::Stalled(self.stall_timeout.as_secs()))?
            .map_err(FeedError::Io)?;
        if status.success() {
            return Ok(());
        }
        let said = match self.said.take() {
            Some(said) => said.text().await,
            None => String::new(),
        };
        Err(FeedError::Failed { status, said })
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // With the pipe still open: at no time does it look like the end of the input. The program has
        // not been waited for while it has a number, so that is still its group's.
        if let Some(group) = self.child.id() {
            let _ = killpg(Pid::from_raw(group.cast_signed()), Signal::SIGKILL);
        }
    }
}

/// The last of what comes out of a pipe.
#[derive(Debug)]
struct LastWords {
    kept: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl LastWords {
    fn of(mut pipe: ChildStderr) -> Self {
        let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
        let sink = kept.clone();
        let reader = tokio::spawn(async move {
            let mut buffer = [0; LAST_WORDS];
            while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
                let mut kept = lock(&sink);
                kept.extend_from_slice(&buffer[..count]);
                let too_many = kept.len().saturating_sub(LAST_WORDS);
                kept.drain(..too_many);
            }
        });
        Self { kept, reader }
    }

    /// On one line. Another program may hold the pipe open for ever, so its end is not waited for
    /// longer than is due to a program that has ended.
    async fn text(self) -> String {
        let _ = timeout(STRAGGLERS, self.reader).await;
        let kept = lock(&self.kept);
        sanitize::for_log(String::from_utf8_lossy(&kept).trim(), LAST_WORDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL_TIMEOUT: Duration = Duration::from_secs(10);

    fn shell(line: &str) -> std::process::Command {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", line]);
        command
    }

    fn block_on<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test)
    }

    /// Feeds these bytes to a program.
    fn feed(
        command: std::process::Command,
        bytes: &[u8],
        stall_timeout: Duration,
    ) -> Result<(), FeedError> {
        block_on(async {
            let mut feed = Feed::start(command, stall_timeout)?;
            feed.write(bytes).await?;
            feed.finish().await
        })
    }

    #[test]
    fn every_byte_arrives() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("got");
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let line = format!("cat > {}", file.display());
        feed(shell(&line), &bytes, STALL_TIMEOUT).unwrap();
        assert!(std::fs::read(file).unwrap() == bytes);
    }

    #[test]
    fn a_program_that_fails_says_how_and_why() {
        let failing = shell("echo no room >&2; exit 3");
        let error = feed(failing, &[0; 1 << 20], STALL_TIMEOUT).unwrap_err();
        assert_eq!(error.to_string(), "exit status 3");
        assert!(matches!(error, FeedError::Failed { said, .. } if said == "no room"));
        let missing = std::process::Command::new("/no/such/program");
        let error = feed(missing, &[], STALL_TIMEOUT).unwrap_err();
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
            let error = feed(shell(line), &vec![0; bytes], limit).unwrap_err();
            assert!(matches!(error, FeedError::Stalled(_)), "{error}");
        }
        assert!(began.elapsed() < STALL_TIMEOUT);
    }

    #[test]
    fn a_program_whose_input_breaks_off_is_ended_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        // Without a descriptor of its own, what is in the background reads from /dev/null.
        let line = format!(
            "exec 3<&0; (cat <&3 > /dev/null; touch {}) & wait",
            done.display()
        );
        block_on(async {
            let mut feed = Feed::start(shell(&line), STALL_TIMEOUT).unwrap();
            assert!(feed.write(b"half").await.unwrap());
            // All of the group hold this pipe.
            let said = feed.said.take().unwrap();
            drop(feed);
            timeout(STALL_TIMEOUT, said.reader).await.unwrap().unwrap();
        });
        assert!(!done.exists());
    }
}
