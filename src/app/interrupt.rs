//! Signals that end programs, caught while there is something to take back.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use tokio::signal::unix::{SignalKind, signal};

use crate::app;

/// From now on such a signal does not end the process, but is noted in `interrupted`.
pub fn catch(interrupted: &Arc<AtomicBool>) {
    let interrupted = interrupted.clone();
    let (installed, wait) = mpsc::channel();
    std::thread::spawn(move || app::block_on(catch_signals(installed, interrupted)));
    // Nothing is changed before the signals are caught; when they cannot be, the journal still has
    // everything that the next command needs.
    let _ = wait.recv();
}

/// Waits for a signal that ends programs, and says so in `interrupted`. The signals stay caught:
/// a second one must not cut the undoing short.
async fn catch_signals(
    installed: mpsc::Sender<()>,
    interrupted: Arc<AtomicBool>,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut quit = signal(SignalKind::quit())?;
    // The receiver may be gone already.
    let _ = installed.send(());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hang_up.recv() => {}
        _ = quit.recv() => {}
    }
    interrupted.store(true, Ordering::SeqCst);
    std::future::pending().await
}
