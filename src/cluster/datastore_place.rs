//! Where the datastore of a node that is alone listens.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::base::atomic_file::{self, Access};
use crate::base::wait;
use crate::platform::{Action, CommandError, Platform, Service};
use crate::store::dqlite::{self, Member};

/// How long the datastore may take to move.
const LIMIT: Duration = Duration::from_secs(60);
/// How often its file is looked at meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why it did not move.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    /// The file that tells it where to go.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// Which one.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its service.
    #[error(transparent)]
    Service(#[from] CommandError),
    /// It does not come up at its new address.
    #[error("the datastore did not come up at {0} within {limit} seconds", limit = LIMIT.as_secs())]
    NotMoved(String),
}

/// Moves the datastore in this folder to `address`, `address:port`, by restarting it. One that is
/// there, or that has other members, stays.
pub(crate) fn change(host: &dyn Platform, backend: &Path, address: &str) -> Result<(), MoveError> {
    let order = backend.join("update.yaml");
    let is_there = || {
        members(backend).is_some_and(|members| match &members[..] {
            [only] => only.address == address,
            _ => true,
        })
    };
    let tidy = |source| MoveError::Write {
        path: order.clone(),
        source,
    };
    // An earlier order that was not carried out, or not even complete.
    atomic_file::remove_unfinished(&order).map_err(tidy)?;
    atomic_file::remove(&order).map_err(tidy)?;
    if is_there() {
        return Ok(());
    }
    let text = dqlite::address_yaml(address);
    let access = Access::Keep { or: 0o640 };
    atomic_file::write(&order, text.as_bytes(), access).map_err(tidy)?;
    host.service(Action::Restart, Service::K8sDqlite)?;
    // The file may be half written, or away for a moment, while the service starts.
    wait::until(LIMIT, POLL_INTERVAL, || is_there().then_some(()))
        .ok_or_else(|| MoveError::NotMoved(address.to_owned()))
}

fn members(backend: &Path) -> Option<Vec<Member>> {
    let text = std::fs::read_to_string(backend.join("cluster.yaml")).ok()?;
    dqlite::read_cluster(&text).ok()
}
