//! Whether the clocks of the two nodes agree.
//!
//! A certificate is valid from some moment on, and until another; it is the clock of its reader that
//! says whether the moment has come. Our own agents date what they sign a little back; MicroK8s's
//! does not, but a difference as small as that is over before the node is in use.

use std::net::IpAddr;

use crate::base::time_text;
use crate::client::clock_reading::ClockReading;
use crate::cluster::join::error::JoinError;
use crate::model::role::Role;
use crate::pki::ca::CLOCK_TOLERANCE;
use crate::wire::preflight_v1::Finding;

use super::Checked;

pub(super) const CHECK: &str = "clock";

/// A difference in seconds that is not worth a word. Clocks that are kept by NTP differ by less than
/// a second, and an answer tells the time to two.
const NEGLIGIBLE: i64 = 5;

/// By how many seconds a worker's clock may be ahead. It signs nothing, but a clock that is far ahead
/// takes the cluster's certificates for expired.
const WORKER_AHEAD: i64 = 24 * 60 * 60;

/// What a difference means for a node that joins in this role.
pub(in crate::cluster) fn judge(
    clock: Option<ClockReading>,
    role: Role,
    contacted: IpAddr,
) -> Checked {
    let Some(clock) = clock else {
        let message = format!("{contacted} does not tell the time");
        return Ok(Finding::unchecked(CHECK, message));
    };
    let ahead = clock.seconds_ahead();
    if ahead.saturating_abs() < NEGLIGIBLE {
        return Ok(Finding::ok(CHECK, "the clocks of the two nodes agree"));
    }
    if is_too_much(ahead, role) {
        return Err(JoinError::Clock {
            contacted,
            theirs: clock.theirs,
            ours: clock.received,
        });
    }
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let by = time_text::span(ahead.saturating_abs());
    let message = format!("the clock of {contacted} is {by} {way} this node's");
    let remedy = "set the wrong one of the two clocks: `timedatectl set-ntp true`";
    Ok(Finding::warning(CHECK, message).with_remedy(None, remedy))
}

/// Whether certificates would not be valid. `ahead` is by how many seconds the contacted clock is
/// ahead.
fn is_too_much(ahead: i64, role: Role) -> bool {
    let tolerance = i64::try_from(CLOCK_TOLERANCE.as_secs()).unwrap_or(i64::MAX);
    let behind = match role {
        // A control plane node signs its certificates itself, by its own clock.
        Role::ControlPlane => tolerance,
        Role::Worker => WORKER_AHEAD,
    };
    ahead > tolerance || ahead < -behind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_too_much_when_certificates_would_not_be_valid() {
        for (ahead, worker, control_plane) in [
            (4, false, false),
            (-4, false, false),
            (60, false, false),
            (300, false, false),
            (301, true, true),
            (-300, false, false),
            (-301, false, true),
            (-7200, false, true),
            (-86_401, true, true),
            (1_700_000_000, true, true),
            (-1_700_000_000, true, true),
        ] {
            assert_eq!(is_too_much(ahead, Role::Worker), worker, "{ahead}");
            assert_eq!(
                is_too_much(ahead, Role::ControlPlane),
                control_plane,
                "{ahead}"
            );
        }
    }

    #[test]
    fn a_node_that_does_not_tell_the_time_leaves_the_check_open() {
        let found = judge(None, Role::Worker, [10, 99, 0, 11].into()).unwrap();
        assert_eq!(
            found.severity,
            crate::wire::preflight_v1::Severity::Unchecked
        );
    }
}
