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
/// What seemed to fail may have been done, so the list counts as well.
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
    insist(limit, PAUSE, || {
        let done = host.remove_datastore_member(backend, address);
        match &done {
            Err(error) if !may_pass(error) => done,
            Err(_) if lists(host, backend, address) == Some(false) => Ok(()),
            Err(_) if is_over() => Err(CommandError::NotAvailable("interrupted")),
            _ => done,
        }
    })
}

/// Asks the datastore more than once, for at most `limit`: while its members find a new leader, or
/// settle who has a vote, they refuse any other change.
pub(super) fn insist(
    limit: Duration,
    pause: Duration,
    mut ask: impl FnMut() -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    let mut last = Ok(());
    wait::until(limit, pause, || {
        last = ask();
        (!last.as_ref().is_err_and(may_pass)).then_some(())
    });
    last
}

/// A program that is not there will not come.
fn may_pass(error: &CommandError) -> bool {
    matches!(
        error,
        CommandError::Failed { .. } | CommandError::TimedOut { .. }
    )
}

/// Whether the datastore lists a member at this address; nothing when it does not answer.
pub(crate) fn lists(host: &dyn Platform, backend: &Path, address: &str) -> Option<bool> {
    let answer = host.datastore_members(backend).ok()?;
    let members = dqlite::read_shell_answer(&answer).ok()?;
    Some(members.iter().any(|member| member.address == address))
}
