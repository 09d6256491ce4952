//! A secret that is typed on a terminal, which does not show it.

use std::io;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The terminal shows what is typed again when this is dropped.
struct Restored(Termios);

impl Drop for Restored {
    fn drop(&mut self) {
        // Where the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}

/// Reads a line that the terminal of standard input does not show. A signal that ends the process
/// comes when the terminal shows again what is typed.
pub(crate) fn read_line(limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let ends: SigSet = [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ]
    .into_iter()
    .collect();
    ends.thread_block()?;
    let line = read_hidden(&ends, limit);
    ends.thread_unblock()?;
    line
}

fn read_hidden(ends: &SigSet, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let stdin = io::stdin();
    let signals = SignalFd::with_flags(ends, SfdFlags::SFD_CLOEXEC)?;
    let shown = tcgetattr(&stdin)?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    let _restored = Restored(shown);
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden)?;
    let mut line = Zeroizing::new(Vec::with_capacity(limit));
    let mut bytes = Zeroizing::new([0; 256]);
    while line.len() < limit {
        let mut ready = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE)?;
        if ready[1].any() == Some(true) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let number = nix::unistd::read(&stdin, bytes.as_mut())?;
        let room = limit - line.len();
        line.extend_from_slice(&bytes[..number.min(room)]);
        if number == 0 || bytes[..number].contains(&b'\n') {
            break;
        }
    }
    Ok(line)
}
