//! Files that need not be there.

use std::io;

/// What came of reading a file: `None` where it is not there.
pub(crate) fn none_if_missing<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
