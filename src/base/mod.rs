//! Layer 0: what knows nothing of clusters.

pub(crate) mod atomic_file;
pub(crate) mod cached;
pub(crate) mod clock;
pub(crate) mod disk;
pub mod env_vars;
pub mod exit_status;
pub(crate) mod file_lock;
pub(crate) mod io_error_text;
pub(crate) mod missing;
pub(crate) mod mutex;
pub(crate) mod panics;
pub(crate) mod runtime;
pub(crate) mod sanitize;
pub mod secret;
pub(crate) mod sha256;
pub(crate) mod time_text;
pub mod wait;
