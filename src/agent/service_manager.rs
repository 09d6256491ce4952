//! What the service manager is told: that the agent serves, that it still does, and that it stops
//! (the protocol of systemd's `sd_notify(3)`).
//!
//! The crate for it, `sd-notify`, knows no abstract sockets (`@…`) and takes the variables out of
//! the environment only where that is not safe, so the few lines that the protocol takes are here.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::base::env_vars;

/// How long a message may take; only a service manager that hangs takes any time.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// How much time is asked for at once before the agent serves; it is asked for four times as often.
const MORE_TIME: Duration = Duration::from_secs(20);

/// The service manager, where one started this program and wants to hear of it.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    /// After how long without a sign of life it takes the program for dead.
    stall_timeout: Option<Duration>,
}

/// The signals that tell a program to stop.
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on they do not end the process.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one, which is the value.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// By which the loop that accepts connections shows that it goes around.
pub(crate) type Ping = oneshot::Sender<()>;

impl ServiceManager {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        let socket = match find() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be told anything");
                None
            }
        };
        Self {
            stall_timeout: socket.as_ref().and_then(|_| stall_timeout()),
            socket,
        }
    }

    /// What comes before requests are answered may take its time: a service that has to start again
    /// has minutes. It gets more of it until the answer is dropped.
    pub(crate) fn starting(&self, status: &str) -> Option<Starting> {
        let socket = self.socket.clone()?;
        let first = format!("{}\nSTATUS={status}", more_time());
        let (over, is_over) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let mut message = first;
            loop {
                send(&socket, &message);
                message = more_time();
                if is_over.recv_timeout(MORE_TIME / 4) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Some(Starting {
            over: Some(over),
            thread: Some(thread),
        })
    }

    /// Requests are answered from now on.
    pub(crate) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// No new requests are taken any more.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping: what is under way is allowed to finish");
    }

    /// The agent starts again as the same process.
    pub(crate) fn moving(&self, to: &Path) {
        self.tell(&format!("STATUS=starting again in {}", to.display()));
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            send(socket, message);
        }
    }

    /// Sends `WATCHDOG=1` at half the watchdog interval, as long as the answer is yes within that
    /// time. Ends at once where no sign of life is expected.
    pub(crate) async fn give_signs_of_life<F>(self: Arc<Self>, answers: impl Fn() -> F)
    where
        F: Future<Output = bool>,
    {
        let Some(stall_timeout) = self.stall_timeout else {
            return;
        };
        let pause = (stall_timeout / 2).max(Duration::from_millis(1));
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if timeout(pause, answers()).await == Ok(true) {
                self.tell("WATCHDOG=1");
            } else {
                tracing::error!(
                    "this program does not answer itself; the service manager gets no sign of life"
                );
            }
        }
    }
}

/// The start of the agent goes on, and the service manager knows, until this is dropped.
#[derive(Debug)]
pub(crate) struct Starting {
    over: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        drop(self.over.take());
        // Nothing is sent after what comes next.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn more_time() -> String {
    format!("EXTEND_TIMEOUT_USEC={}", MORE_TIME.as_micros())
}

fn send(socket: &(UnixDatagram, SocketAddr), message: &str) {
    let (socket, address) = socket;
    if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
        tracing::warn!(%error, "the service manager cannot be told: {message}");
    }
}

/// Whether the loop that accepts connections goes around.
pub(crate) async fn goes_around(pings: mpsc::Sender<Ping>) -> bool {
    let (ping, pong) = oneshot::channel();
    // One that was told to stop accepts nothing any more, and is well.
    pings.send(ping).await.is_err() || pong.await.is_ok() || pings.is_closed()
}

fn find() -> io::Result<Option<Arc<(UnixDatagram, SocketAddr)>>> {
    let Some(name) = std::env::var_os(env_vars::NOTIFY_SOCKET).filter(|name| !name.is_empty())
    else {
        return Ok(None);
    };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_LIMIT))?;
    Ok(Some(Arc::new((socket, address))))
}

/// The time that the service manager gives, when it gives it to this process.
fn stall_timeout() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let is_ours = match std::env::var_os(env_vars::WATCHDOG_PID) {
        None => true,
        Some(_) => number(env_vars::WATCHDOG_PID) == Some(process::id().into()),
    };
    number(env_vars::WATCHDOG_USEC)
        .filter(|time| *time > 0 && is_ours)
        .map(Duration::from_micros)
}
