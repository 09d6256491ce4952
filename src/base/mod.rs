//! Layer 0: what knows nothing of clusters.

pub mod atomic_file;
pub mod cached;
pub mod clock;
pub mod disk;
pub mod env_vars;
pub mod exit_status;
pub mod file_lock;
pub mod io_error_text;
pub mod panics;
pub mod runtime;
pub mod sanitize;
pub mod secret;
pub mod time_text;
pub mod wait;
