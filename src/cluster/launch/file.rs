//! Files with launch configurations.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;

use zeroize::Zeroizing;

use crate::base::secret::Secret;
use crate::model::launch_configuration::MAX_BYTES;
use crate::wire::operation::{LaunchOrder, Operation};

/// The bit of a file's mode that lets every user read it.
const READ_BY_ALL: u32 = 0o004;

/// What is in a file, and who may read it.
pub(crate) struct LaunchFile {
    /// Its bytes; one more than is allowed of a file that is too long.
    pub(crate) content: Zeroizing<Vec<u8>>,
    /// Whether every user of the machine can read it.
    pub(crate) is_read_by_all: bool,
}

impl LaunchFile {
    /// Reads a file.
    pub(crate) fn read(file: File) -> io::Result<Self> {
        let found = file.metadata()?;
        Ok(Self {
            // The mode of a pipe says nothing about who has what runs through it.
            is_read_by_all: found.is_file() && found.permissions().mode() & READ_BY_ALL != 0,
            content: read(file)?,
        })
    }

    /// Has its content applied, which was [parsed] before and so is text.
    ///
    /// [parsed]: crate::model::launch_configuration::LaunchConfiguration::parse
    pub(crate) fn operation(&self, pre_init: bool) -> Operation {
        Operation::Launch(LaunchOrder {
            configuration: Secret::new(String::from_utf8_lossy(&self.content)),
            pre_init,
        })
    }
}

/// Reads a configuration, and no more than one byte beyond what one may have.
pub(crate) fn read(source: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    source
        .take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut content)?;
    Ok(content)
}
