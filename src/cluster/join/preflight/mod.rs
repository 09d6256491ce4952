//! What stands in the way of a join, found out without joining: nothing is changed on either node,
//! and the token is as good as before.
//!
//! Each check is described once, and knows nothing of who asks: a join ends at the first that fails,
//! and a dry run goes through all of them, in the same order, each for itself. What can still be
//! checked after a fault is checked.

mod clock;
mod contacted;
mod greeted;
mod local;
mod version;

use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::Contact;
use crate::cluster::node::Node;
use crate::cluster::operation::Progress;
use crate::model::join_stage::JoinStage;
use crate::wire::operation::{End, Event, JoinOrder};
use crate::wire::preflight_v1::{Finding, Severity};

pub(in crate::cluster) use clock::judge as judge_clock;
pub(super) use greeted::own_address;

/// What a check found that a join can go on with, or why it fails.
pub(super) type Checked = Result<Finding, JoinError>;

/// Goes through all checks. Each finding is told when it is there. Without a connection string only
/// this node is checked.
pub(in crate::cluster) fn check(
    node: &Node,
    order: &JoinOrder,
    progress: &mut dyn Progress,
) -> End {
    if let Some(url) = order.urls.first() {
        progress.tell(Event::Contacting {
            address: url.address,
            from_microk8s: false,
        });
    }
    let mut found = |finding: Finding| progress.tell(Event::Finding(finding));
    local::check(node, order, &mut found);
    let member = contacted::check(node, order, &mut found);
    End::Checked { member }
}

/// Makes sure that a join passes the checks of this node alone, before anything is sent.
pub(super) fn require_local(node: &Node, order: &JoinOrder) -> Result<(), JoinError> {
    let mut checks = local::CHECKS.iter();
    checks.try_for_each(|(_, check)| check(node, order).map(drop))
}

/// The one of these checks that has to come before the lock of the node can be taken.
pub(super) fn require_disk(node: &Node, order: &JoinOrder) -> Result<(), JoinError> {
    local::check_disk(node, order).map(drop)
}

/// Makes sure that a join passes the checks that need no more than the contacted node's first answer.
pub(super) fn require_greeted(
    node: &Node,
    order: &JoinOrder,
    contact: &Contact,
    progress: &mut dyn Progress,
) -> Result<(), JoinError> {
    greeted::check(node, order, contact)
        .into_iter()
        .try_for_each(|(_, checked)| warn(checked, progress))
}

/// Tells a warning of a check that a join passes.
pub(super) fn warn(checked: Checked, progress: &mut dyn Progress) -> Result<(), JoinError> {
    let finding = checked?;
    if finding.severity == Severity::Warning {
        progress.tell(Event::warning(finding.message));
    }
    Ok(())
}

/// What a dry run says of a check.
fn told(check: &str, checked: Checked, stage: JoinStage) -> Finding {
    checked.unwrap_or_else(|error| failed(check, &error, stage))
}

/// What a join would say of this error, met at this stage, and do about it.
fn failed(check: &str, error: &JoinError, stage: JoinStage) -> Finding {
    let failure = error.outcome(stage);
    let finding = Finding::error(check, failure.message(), failure.exit);
    match failure.hint {
        Some(hint) => finding.with_remedy(None, hint),
        None => finding,
    }
}
