//! Whether the clocks of the two nodes agree.
//!
//! A certificate is valid from some moment on, and it is the clock of whoever reads it that says
//! whether that moment has come. Our own agents date what they sign a little back; MicroK8s's does
//! not.

use std::net::IpAddr;

use crate::base::exit_status::ExitStatus;
use crate::base::time_text;
use crate::model::role::Role;
use crate::pki::ca::CLOCK_TOLERANCE;
use crate::wire::preflight_v1::Finding;

const CHECK: &str = "clock";

/// A difference that nothing suffers from. Clocks that are kept by NTP differ by less than a second,
/// and an answer tells the time to two.
const NEGLIGIBLE: i64 = 5;

/// Who is contacted, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Contacted {
    pub address: IpAddr,
    /// It dates back what it signs.
    pub dates_back: bool,
}

/// What a difference means for a node that joins in this role. A positive one is a contacted clock
/// that is ahead.
pub fn judge(ahead: Option<i64>, role: Role, contacted: Contacted) -> Finding {
    let Some(ahead) = ahead else {
        let message = format!("{} does not tell the time", contacted.address);
        return Finding::unchecked(CHECK, message);
    };
    let Some(message) = warning(ahead, contacted.address) else {
        return Finding::ok(CHECK, "the clocks of the two nodes agree");
    };
    let tolerance = i64::try_from(CLOCK_TOLERANCE.as_secs()).unwrap_or(i64::MAX);
    let theirs_are_early = ahead > if contacted.dates_back { tolerance } else { 0 };
    // A control plane node signs its certificates itself, by its own clock.
    let own_are_early = role == Role::ControlPlane && -ahead > tolerance;
    let finding = if theirs_are_early {
        let text = format!("{message}: what is signed there is not valid here yet");
        Finding::error(CHECK, text, ExitStatus::NotReady.code())
    } else if own_are_early {
        let text = format!("{message}: what is signed here is not valid there yet");
        Finding::error(CHECK, text, ExitStatus::NotReady.code())
    } else {
        Finding::warning(CHECK, message)
    };
    finding.with_remedy(
        None,
        "set the wrong one of the two clocks: `timedatectl set-ntp true`",
    )
}

/// A difference that is worth a word.
pub fn warning(ahead: i64, contacted: IpAddr) -> Option<String> {
    if ahead.saturating_abs() < NEGLIGIBLE {
        return None;
    }
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let by = time_text::span(ahead.saturating_abs());
    Some(format!(
        "the clock of {contacted} is {by} {way} this node's"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::preflight_v1::Severity;

    #[test]
    fn a_difference_is_an_error_when_certificates_would_not_be_valid_yet() {
        use Severity::{Error, Ok, Unchecked, Warning};
        for (ahead, role, dates_back, severity) in [
            (None, Role::Worker, true, Unchecked),
            (Some(4), Role::Worker, false, Ok),
            (Some(-4), Role::ControlPlane, true, Ok),
            (Some(60), Role::Worker, true, Warning),
            (Some(60), Role::Worker, false, Error),
            (Some(301), Role::Worker, true, Error),
            (Some(301), Role::ControlPlane, true, Error),
            (Some(-301), Role::ControlPlane, true, Error),
            (Some(-301), Role::Worker, true, Warning),
            (Some(-60), Role::ControlPlane, false, Warning),
        ] {
            let contacted = Contacted {
                address: [10, 99, 0, 11].into(),
                dates_back,
            };
            let found = judge(ahead, role, contacted);
            assert_eq!(found.severity, severity, "{ahead:?} {role} {found:?}");
        }
    }

    #[test]
    fn it_is_said_by_how_much_and_which_way() {
        let address = [10, 99, 0, 11].into();
        assert_eq!(
            warning(7300, address).unwrap(),
            "the clock of 10.99.0.11 is 2 hours ahead of this node's"
        );
        assert_eq!(
            warning(-12, address).unwrap(),
            "the clock of 10.99.0.11 is 12 seconds behind this node's"
        );
        assert_eq!(warning(0, address), None);
    }
}
