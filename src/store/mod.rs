//! Layer 3: what is stored on disk.

pub(crate) mod admissions;
pub mod args_file;
pub(crate) mod audit;
pub(crate) mod callback_tokens;
pub(crate) mod database;
pub(crate) mod dqlite;
pub(crate) mod file_cache;
pub(crate) mod known_users;
pub mod layout;
pub(crate) mod revision;
pub(crate) mod shell_words;
pub(crate) mod token_file;
pub mod token_files;
pub(crate) mod token_store;
pub(crate) mod tokens;
pub(crate) mod traefik;
