//! The service of systemd that this process is.

use std::fs;
use std::process;
use std::time::Duration;

use crate::host::command;

/// What systemd may take to say which process a service has.
const LIMIT: Duration = Duration::from_secs(10);

/// The unit whose main process this is, as systemd itself says; none where systemd did not start
/// this process, or started it as a part of something else.
pub fn own() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let unit = unit_of(&groups)?;
    let arguments = ["show", "--property", "MainPID", "--value", "--", unit];
    let main = command::run("systemctl", &arguments, LIMIT).ok()?;
    (main.trim() == process::id().to_string()).then(|| unit.to_owned())
}

/// Has systemd restart this unit. The answer comes before it has done so: the unit is the one that
/// asks.
pub fn restart(unit: &str) -> Result<(), command::CommandError> {
    let arguments = ["restart", "--no-block", "--", unit];
    command::run("systemctl", &arguments, LIMIT).map(drop)
}

/// The service in what `/proc/<pid>/cgroup` says (`cgroups(7)`): a line a hierarchy, of which
/// systemd's own is called `name=systemd`, or is the one without a name. A user's services are
/// another systemd's.
fn unit_of(groups: &str) -> Option<&str> {
    let path_of = |names: &str| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (named, path) = rest.split_once(':')?;
            (named == names).then_some(path)
        })
    };
    let is_service = |part: &str| {
        part.ends_with(".service")
            && part
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || b":_.\\@-".contains(&c))
    };
    let path = path_of("name=systemd").or_else(|| path_of(""))?;
    let unit = path.rsplit('/').find(|part| is_service(part))?;
    (!path.split('/').any(|part| part.starts_with("user@"))).then_some(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_the_last_one_on_the_way() {
        for (groups, unit) in [
            ("0::/system.slice/a.service\n", Some("a.service")),
            ("0::/system.slice/a@x.service/sub\n", Some("a@x.service")),
            (
                "2:cpu:/system.slice/b.service\n1:name=systemd:/system.slice/a.service\n0::/\n",
                Some("a.service"),
            ),
            ("2:cpu:/system.slice/b.service\n", None),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n",
                None,
            ),
            ("0::/system.slice/docker-0a.scope\n", None),
            ("0::/system.slice/a b.service\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(groups), unit, "{groups}");
        }
    }
}
