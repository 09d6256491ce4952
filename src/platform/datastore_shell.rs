//! The commands of dqlite's shell that a node needs, whichever way the shell is run.

use std::path::Path;
use std::time::Duration;

use crate::platform::command::CommandError;

/// Lists the members.
pub(crate) const LIST: &str = ".cluster";
/// What the shell may take: MicroK8s gives it as long.
pub(crate) const LIMIT: Duration = Duration::from_secs(4);

/// Removes the member at this address.
pub(crate) fn remove(address: &str) -> String {
    format!(".remove {address}")
}

/// The members that the file in this folder lists.
pub(super) fn servers_in(backend: &Path) -> String {
    format!("file://{}", backend.join("cluster.yaml").display())
}

/// Has the datastore forget a member; one that it does not list is no error.
pub(super) fn forget(
    own: &str,
    shell: impl Fn(&str) -> Result<String, CommandError>,
) -> Result<(), CommandError> {
    if lists(&shell(LIST)?, own) {
        shell(&remove(own))?;
    }
    Ok(())
}

/// Whether a member at this address is in what the shell prints as JSON.
fn lists(answer: &str, own: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(answer)
        .ok()
        .and_then(|list| {
            Some(
                list.as_array()?
                    .iter()
                    .any(|member| member["Address"] == own),
            )
        })
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_member_is_forgotten_and_a_stranger_is_not_asked_for() {
        let calls = RefCell::new(Vec::new());
        let shell = |command: &str| {
            calls.borrow_mut().push(command.to_owned());
            Ok(r#"[{"ID": 1, "Address": "10.99.0.120:19001", "Role": 0}]"#.to_owned())
        };
        forget("10.99.0.12:19001", shell).unwrap();
        forget("10.99.0.120:19001", shell).unwrap();
        assert_eq!(
            calls.into_inner(),
            [LIST, LIST, ".remove 10.99.0.120:19001"]
        );
    }
}
