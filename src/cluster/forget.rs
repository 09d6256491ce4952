//! Having the datastore forget one of its members.

use std::path::Path;
use std::time::Duration;

use crate::base::wait;
use crate::platform::{CommandError, Platform};
use crate::store::dqlite;

/// How long the pause is between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Asks the datastore in this folder to forget the member at `address`, for at most `limit`, or
/// until `is_over`.
///
/// It is asked more than once: while its members find a new leader, or settle who has a vote, they
/// refuse any other change. What seemed to fail may have been done, so the list counts as well.
///
/// # Errors
///
/// What the datastore said last.
pub(crate) fn ask(
    host: &dyn Platform,
    backend: &Path,
    address: &str,
    limit: Duration,
    is_over: &dyn Fn() -> bool,
) -> Result<(), CommandError> {
    let mut last = CommandError::NotAvailable("the datastore was not asked");
    let asked = wait::until(limit, PAUSE, || {
        match host.remove_datastore_member(backend, address) {
            Ok(()) => return Some(Ok(())),
            Err(error @ (CommandError::Failed { .. } | CommandError::TimedOut { .. })) => {
                last = error;
            }
            // A program that is not there will not come.
            Err(error) => return Some(Err(error)),
        }
        (lists(host, backend, address) == Some(false))
            .then_some(Ok(()))
            .or_else(|| is_over().then_some(Err(CommandError::NotAvailable("interrupted"))))
    });
    asked.unwrap_or(Err(last))
}

/// Whether the datastore lists a member at this address; nothing when it does not answer.
pub(crate) fn lists(host: &dyn Platform, backend: &Path, address: &str) -> Option<bool> {
    let answer = host.datastore_members(backend).ok()?;
    let members = dqlite::read_shell_answer(&answer).ok()?;
    Some(members.iter().any(|member| member.address == address))
}
