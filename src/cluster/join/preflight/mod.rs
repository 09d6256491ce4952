//! What stands in the way of a join, found out without joining: nothing is changed on either node,
//! and the token is as good as before.
//!
//! The checks go in the order in which a join would fail, each for itself: what can still be
//! checked after a fault is checked.

mod clock;
mod contacted;
mod local;
mod version;

use crate::cluster::join::error::JoinError;
use crate::cluster::node::Node;
use crate::model::join_stage::JoinStage;
use crate::wire::preflight_v1::{CheckEvent, CheckOrder, Finding};

pub use clock::warning as clock_warning;

/// Goes through all checks. Each finding is told when it is there, and the end.
pub fn check(node: &Node, order: &CheckOrder, mut tell: impl FnMut(CheckEvent)) {
    let mut found = |finding: Finding| tell(CheckEvent::Finding(finding));
    local::check(node, order, &mut found);
    let member = contacted::check(node, order, &mut found);
    tell(CheckEvent::Done { member });
}

/// What a join would say of this error, met at this stage, and do about it.
fn failed(check: &str, error: &JoinError, stage: JoinStage) -> Finding {
    let failure = error.failure(stage);
    let message = failure.microk8s_text.or(failure.error).unwrap_or_default();
    let finding = Finding::error(check, message, failure.exit);
    match failure.hint {
        Some(hint) => finding.with_remedy(None, hint),
        None => finding,
    }
}
