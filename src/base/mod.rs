//! Floor 0: what knows nothing of clusters.

pub mod atomic_file;
pub mod clock;
pub mod disk;
pub mod env_vars;
pub mod exit_status;
pub mod file_lock;
pub mod os_words;
pub mod panics;
pub mod remembered;
pub mod sanitize;
pub mod secret;
pub mod time_text;
pub mod wait;
