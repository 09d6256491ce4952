//! Layer 3: what is stored on disk.

pub mod admissions;
pub mod args_file;
pub mod audit;
pub mod callback_tokens;
pub mod database;
pub mod dqlite;
pub mod known_users;
pub mod layout;
pub mod revision;
pub mod shell_words;
pub mod token_file;
pub mod token_files;
pub mod token_store;
pub mod tokens;
