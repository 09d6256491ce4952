//! The exit codes of the program, each with its meaning.
//!
//! Codes up to 7 are MicroK8s's own and keep their meaning. Those from 8 on are those of a join: one
//! for each stage that can fail without a code of MicroK8s's. `docs/exit-codes.md` is held against
//! this file by a test.

use strum::{FromRepr, VariantArray};

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromRepr, VariantArray)]
#[repr(u8)]
pub enum ExitStatus {
    /// The command did what it was asked to.
    Success = 0,
    /// The command failed, or refused to run; nothing more specific fits.
    Failure = 1,
    /// The command line could not be understood; also [`Self::NOT_REMOVED`].
    Usage = 2,
    /// The node is the only voter of the datastore, so it cannot leave.
    OnlyVoter = 3,
    /// The contacted node is not the one that the fingerprint names, or speaks no TLS.
    PeerNotVerified = 4,
    /// The contacted node refused the join.
    Refused = 6,
    /// The contacted node asks for an authentication mode that this program does not know.
    UnknownAuthMode = 7,
    /// The datastore did not list the node in time.
    NotListed = 8,
    /// This node is in no state to join; nothing was sent.
    NotReady = 9,
    /// The contacted node cannot be reached, or does not answer.
    Unreachable = 10,
    /// The contacted node's answer is of no use.
    BadAnswer = 11,
    /// The node's certificates were not signed, or could not be made.
    NoCertificates = 12,
    /// A file of the node could not be changed.
    NotApplied = 13,
    /// A service of the node did not start, stop or restart.
    ServiceFailed = 14,
    /// The API server does not answer through the worker's proxy.
    NoApiServer = 15,
    /// A join, leave or removal failed, and not everything that it changed could be undone.
    NotTakenBack = 16,
    /// `nodes --self`: this node is not in a cluster.
    NotInCluster = 17,
    /// The join was interrupted while there was something to take back. Shells show the same code
    /// for a program that Ctrl-C ended.
    Interrupted = 130,
}

impl ExitStatus {
    /// The datastore did not remove a member. MicroK8s's `leave` and `remove-node` have the code
    /// of a wrong command line for it (recording `leave-dqlite-remove-fails`).
    pub(crate) const NOT_REMOVED: Self = Self::Usage;

    /// The code that the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
