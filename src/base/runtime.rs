//! The runtime of commands, and of code in the agent that blocks: one a process.

use std::io;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

/// Waits on this thread until the work is done. Tasks that it starts go on afterwards. Not for threads on
/// which a runtime runs: that panics.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> io::Result<T> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            let mut builder = Builder::new_multi_thread();
            let new = builder.worker_threads(1).enable_all().build()?;
            RUNTIME.get_or_init(|| new)
        }
    };
    Ok(runtime.block_on(work))
}
