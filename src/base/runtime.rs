//! The runtime of commands, and of code in the agent that blocks: one a process.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

/// Waits on this thread until the work is done. Tasks that it starts go on afterwards. Not for threads on
/// which a runtime runs: that panics.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            let new = build(Builder::new_multi_thread().worker_threads(1))?;
            RUNTIME.get_or_init(|| new)
        }
    };
    Ok(runtime.block_on(work))
}

/// A runtime with timers, sockets and signals. Where too few files may be opened for that, this is an
/// error: the library would panic.
pub(crate) fn build(builder: &mut Builder) -> io::Result<Runtime> {
    /// More than it takes, in pairs.
    const FILES: usize = 6;
    let room: io::Result<Vec<_>> = (0..FILES).map(|_| UnixStream::pair()).collect();
    drop(room?);
    builder.enable_all().build()
}
