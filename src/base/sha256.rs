//! SHA-256, and how bytes are written as digits.

use aws_lc_rs::digest::{SHA256, digest};

/// The SHA-256 of these bytes.
pub(crate) fn of(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    sum
}

/// Bytes as hexadecimal digits.
pub(crate) fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
