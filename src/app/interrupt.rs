//! Signals that end programs, caught while there is something to take back.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::base::runtime;

/// From now on such a signal does not end the process, but cancels this. The signals stay caught: a second
/// one must not cut the undoing short.
pub(crate) fn catch(interrupted: &CancellationToken) {
    let caught = runtime::block_on(async {
        for kind in [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ] {
            let mut signal = signal(kind)?;
            let interrupted = interrupted.clone();
            tokio::spawn(async move {
                signal.recv().await;
                interrupted.cancel();
            });
        }
        io::Result::Ok(())
    });
    // When they cannot be caught, the journal still has everything that the next command needs.
    drop(caught);
}
