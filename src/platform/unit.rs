//! Services of systemd: the one that this process is, and those of the Debian package.

use std::process;
use std::time::Duration;

use crate::platform::{Action, SERVICE_LIMIT, command};

/// What systemd may take to say which processes its services have.
const LIMIT: Duration = Duration::from_secs(10);

/// The unit whose main process this is, as systemd itself says; none where systemd did not start
/// this process, or started it as a part of something else. The control group would not do: snapd
/// may have moved the process to another one.
pub(crate) fn own() -> Option<String> {
    let arguments = ["show", "--property=Id,MainPID", "--", "*.service"];
    let units = command::run("systemctl", &arguments, LIMIT).ok()?;
    unit_of(&units, process::id()).map(str::to_owned)
}

/// Has systemd restart this unit. The answer comes before it has done so: the unit is the one that
/// asks.
pub(crate) fn restart(unit: &str) -> Result<(), command::CommandError> {
    let arguments = ["restart", "--no-block", "--", unit];
    command::run("systemctl", &arguments, LIMIT).map(drop)
}

/// Has systemd do something, and waits for it.
pub(crate) fn systemctl(arguments: &[&str]) -> Result<(), command::CommandError> {
    command::run("systemctl", arguments, SERVICE_LIMIT).map(drop)
}

/// Does this to a unit of the Debian package, and waits for it; one that is not installed, or masked,
/// is left alone.
pub(crate) fn control_installed(action: Action, unit: &str) -> Result<(), command::CommandError> {
    match command::run("systemctl", &["is-enabled", "--quiet", "--", unit], LIMIT) {
        Ok(_) => systemctl(&[action.verb(), "--", unit]),
        Err(_) => Ok(()),
    }
}

/// The unit that has this main process, in what `systemctl show` says of several: a line a
/// property, in any order, and an empty line between two units.
fn unit_of(units: &str, main: u32) -> Option<&str> {
    let main = format!("MainPID={main}");
    units
        .split("\n\n")
        .find(|unit| unit.lines().any(|line| line == main))?
        .lines()
        .find_map(|line| line.strip_prefix("Id="))
        .filter(|name| name.ends_with(".service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_one_with_this_main_process() {
        let units =
            "MainPID=0\nId=a.service\n\nMainPID=71\nId=b@x.service\n\nId=c.service\nMainPID=7\n";
        for (main, unit) in [(7, Some("c.service")), (71, Some("b@x.service")), (1, None)] {
            assert_eq!(unit_of(units, main), unit, "{main}");
        }
        assert_eq!(unit_of("", 7), None);
        assert_eq!(unit_of("MainPID=7\n", 7), None);
    }
}
