//! The members of the datastore, as far as admitting a node goes by them.

use std::net::IpAddr;
use std::time::Duration;

use crate::base::cached::Cached;
use crate::cluster::admission::{Admission, AdmitError};
use crate::cluster::first_join;
use crate::store::dqlite::Member;

/// For how long an answer of the datastore is believed: joins that come together ask it once.
const KNOWN_FOR: Duration = Duration::from_secs(2);
/// How many joins may wait for it.
const MAY_WAIT: usize = 8;

/// What the datastore said last, or why it said nothing.
pub(super) type Asked = Cached<Result<Vec<Member>, String>>;

/// The members of the datastore.
pub(super) struct Members {
    pub(crate) list: Vec<Member>,
    /// It is not just its file that lists the node that asks.
    pub(crate) is_confirmed: bool,
}

/// Nothing is known yet.
pub(super) fn not_asked() -> Asked {
    Cached::new(KNOWN_FOR, MAY_WAIT)
}

impl Admission {
    /// The members, for a node at this address. The file is at hand, and up to half a minute older than
    /// what the members know: where it lists the node, which may have left, the datastore is asked.
    pub(super) fn members(&self, address: IpAddr) -> Result<Members, AdmitError> {
        let by_file = first_join::datastore_members(&self.node)?;
        let is_listed = by_file.iter().any(|member| member.is_at(address));
        let answer = match is_listed && self.node.runs_datastore() {
            true => self.asked_members.get(|| {
                let listed = self.node.datastore_members();
                listed.map_err(|error| error.to_string())
            }),
            false => None,
        };
        let (list, is_confirmed) = match answer {
            Some(Ok(list)) => (list, true),
            Some(Err(error)) => {
                tracing::warn!(%address, %error, "the datastore cannot be asked whether it lists a joining node");
                (by_file, false)
            }
            None => (by_file, false),
        };
        Ok(Members { list, is_confirmed })
    }
}
