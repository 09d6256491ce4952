//! A machine with MicroK8s's snap: services through snapd, Kubernetes and the datastore through
//! the snap's own programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::env_vars;
use crate::platform::command::{self, CommandError};
use crate::platform::feed::{Feed, FeedError};
use crate::platform::{
    Action, Group, Platform, SERVICE_LIMIT, Service, ServiceState, datastore_shell, network, unit,
};

/// What the service manager may take to tell a service's state.
const STATE_LIMIT: Duration = Duration::from_secs(10);
/// A machine with MicroK8s's snap, or one laid out like it.
#[derive(Debug)]
pub(crate) struct SnapPlatform {
    snap: PathBuf,
    data: PathBuf,
    common: PathBuf,
}

impl SnapPlatform {
    /// The machine whose snap has its programs and its data in these folders: `$SNAP`,
    /// `$SNAP_DATA` and `$SNAP_COMMON`.
    pub(crate) fn new(
        snap: impl Into<PathBuf>,
        data: impl Into<PathBuf>,
        common: impl Into<PathBuf>,
    ) -> Self {
        Self {
            snap: snap.into(),
            data: data.into(),
            common: common.into(),
        }
    }

    /// What the snap says of itself under this key, in the file that snapd itself reads.
    fn says(&self, key: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.snap.join("meta/snap.yaml")).ok()?;
        let (_, value) = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == key)?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    }

    /// Whether the snap is confined strictly; its group has another name then.
    fn is_strict(&self) -> bool {
        self.says("confinement").is_some_and(|how| how == "strict")
    }

    /// Runs one of the snap's programs. They find their files by the snap's variables, which
    /// are not set when this program itself runs outside the snap.
    fn run_own(
        &self,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<String, CommandError> {
        let program = self.snap.join(program);
        command::run_with(
            &program.to_string_lossy(),
            arguments,
            &self.variables(),
            limit,
        )
    }

    fn variables(&self) -> [(&'static str, &Path); 3] {
        [
            (env_vars::SNAP, &self.snap),
            (env_vars::SNAP_DATA, &self.data),
            (env_vars::SNAP_COMMON, &self.common),
        ]
    }
}

/// Has snapd do something with a service, as only its own command can: `stop --disable`.
pub(crate) fn snap(verb: &[&str], service: Service) -> Result<(), CommandError> {
    let name = Manager::Snap.name_of(service);
    command::run("snap", &[verb, &[&name]].concat(), SERVICE_LIMIT).map(drop)
}

impl Platform for SnapPlatform {
    fn microk8s_version(&self) -> Option<String> {
        self.says("version").filter(|version| !version.is_empty())
    }

    fn group(&self) -> Group {
        network::group(if self.is_strict() {
            "snap_microk8s"
        } else {
            "microk8s"
        })
    }

    fn service(&self, action: Action, service: Service) -> Result<(), CommandError> {
        let manager = Manager::find()?;
        let name = manager.name_of(service);
        command::run(manager.program(), &[action.verb(), &name], SERVICE_LIMIT).map(drop)
    }

    /// The agent of this program has a unit of its own where the snap's agent is turned off; that
    /// of the snap must not start beside it.
    fn restart_agent(&self) -> Result<(), CommandError> {
        const AGENT: Service = Service::ClusterAgent;
        match unit::own() {
            Some(unit) if unit != Manager::Systemctl.name_of(AGENT) => unit::restart(&unit),
            None if self.service_state(AGENT) == ServiceState::Inactive => {
                Err(CommandError::NotAvailable(
                    "the agent was not started as a service, so nothing restarts it",
                ))
            }
            _ => self.service(Action::Restart, AGENT),
        }
    }

    fn service_state(&self, service: Service) -> ServiceState {
        let Ok(manager) = Manager::find() else {
            return ServiceState::Unknown;
        };
        let name = manager.name_of(service);
        let arguments: &[&str] = match manager {
            Manager::Snapctl | Manager::Snap => &["services", &name],
            Manager::Systemctl => &["show", "--property", "ActiveState", "--value", &name],
        };
        match command::run(manager.program(), arguments, STATE_LIMIT) {
            Ok(answer) => manager.read_state(&answer, &name),
            Err(_) => ServiceState::Unanswered,
        }
    }

    fn kubectl_within(
        &self,
        limit: Duration,
        arguments: &[&str],
    ) -> Result<Option<String>, CommandError> {
        self.run_own(&wrapper("kubectl"), arguments, limit)
            .map(Some)
    }

    fn has_datastore(&self) -> bool {
        true
    }

    /// Recording `join-controlplane-ok`.
    fn datastore_shell(
        &self,
        backend: &Path,
        servers: &str,
        command: &str,
    ) -> Result<String, CommandError> {
        let file = |name: &str| backend.join(name).to_string_lossy().into_owned();
        let (certificate, key) = (file("cluster.crt"), file("cluster.key"));
        self.run_own(
            "bin/dqlite",
            &[
                "-s",
                servers,
                "-c",
                &certificate,
                "-k",
                &key,
                "-f",
                "json",
                "k8s",
                command,
            ],
            datastore_shell::LIMIT,
        )
    }

    fn has_microk8s(&self, command: &str) -> bool {
        self.snap.join(wrapper(command)).is_file()
    }

    /// Recording `http-configure-addon`.
    fn microk8s(
        &self,
        command: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<(), CommandError> {
        self.run_own(&wrapper(command), arguments, limit).map(drop)
    }

    fn run_script(&self, script: &Path, limit: Duration) -> Result<(), CommandError> {
        command::run_with(&script.to_string_lossy(), &[], &self.variables(), limit).map(drop)
    }

    /// The call is MicroK8s's (read in its sources; recording `http-image-import` has its failure).
    fn start_image_import(&self, stall_timeout: Duration) -> Result<Feed, FeedError> {
        let mut command = command::prepare(self.snap.join("bin/ctr"));
        command
            .args(["--namespace", "k8s.io", "--address"])
            .arg(self.common.join("run/containerd.sock"))
            .args(["image", "import", "--platform", platform(), "-"])
            .envs(self.variables());
        Feed::start(command, stall_timeout)
    }
}

/// The snap's program for a command of MicroK8s.
fn wrapper(command: &str) -> String {
    format!("microk8s-{command}.wrapper")
}

/// What container images call this machine's processor.
fn platform() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// What controls the services: `snapctl` inside the snap, as for MicroK8s's own tools; outside,
/// where snapd refuses it, `snap`, or systemd where there is no snapd either.
#[derive(Debug, Clone, Copy)]
enum Manager {
    Snapctl,
    Snap,
    Systemctl,
}

impl Manager {
    fn find() -> Result<Self, CommandError> {
        if env_vars::path(env_vars::SNAP).is_some() && command::is_on_path("snapctl") {
            Ok(Self::Snapctl)
        } else if command::is_on_path("snap") {
            Ok(Self::Snap)
        } else if command::is_on_path("systemctl") {
            Ok(Self::Systemctl)
        } else {
            Err(CommandError::NotAvailable(
                "cannot control services: neither snapctl, snap nor systemctl is on the path",
            ))
        }
    }

    const fn program(self) -> &'static str {
        match self {
            Self::Snapctl => "snapctl",
            Self::Snap => "snap",
            Self::Systemctl => "systemctl",
        }
    }

    fn name_of(self, service: Service) -> String {
        let in_snap = format!("microk8s.{}", service.daemon());
        match self {
            Self::Snapctl | Self::Snap => in_snap,
            Self::Systemctl => format!("snap.{in_snap}.service"),
        }
    }

    /// snapd prints a table, with the state in the third column; systemd the state alone.
    fn read_state(self, answer: &str, name: &str) -> ServiceState {
        let state = match self {
            Self::Snapctl | Self::Snap => answer
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>())
                .find(|words| words.first() == Some(&name))
                .and_then(|words| words.get(2).copied()),
            Self::Systemctl => Some(answer.trim()),
        };
        match state {
            // One that is coming up is waited for like one that has.
            Some("active" | "activating" | "reloading") => ServiceState::Active,
            Some("inactive" | "failed" | "deactivating") => ServiceState::Inactive,
            _ => ServiceState::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_service_manager_tells_whether_a_service_runs_in_words_of_its_own() {
        use ServiceState::{Active, Inactive, Unknown};
        let table = |state: &str| {
            format!(
                "Service                          Startup  Current   Notes\nmicrok8s.daemon-etcd             enabled  inactive  -\nmicrok8s.daemon-apiserver-proxy  enabled  {state}  -\n"
            )
        };
        let snap = |answer: &str| {
            Manager::Snap.read_state(answer, &Manager::Snap.name_of(Service::ApiserverProxy))
        };
        assert_eq!(snap(&table("active")), Active);
        assert_eq!(snap(&table("inactive")), Inactive);
        assert_eq!(snap("microk8s.daemon-apiserver-proxy\n"), Unknown);
        assert_eq!(snap(""), Unknown);
        let unit = Manager::Systemctl.name_of(Service::ApiserverProxy);
        assert_eq!(unit, "snap.microk8s.daemon-apiserver-proxy.service");
        for (answer, state) in [
            ("active\n", Active),
            ("failed\n", Inactive),
            ("inactive\n", Inactive),
            ("", Unknown),
        ] {
            assert_eq!(Manager::Systemctl.read_state(answer, &unit), state);
        }
    }

    #[test]
    fn the_snaps_programs_learn_where_the_snap_is() {
        let folder = tempfile::tempdir().unwrap();
        let snap = folder.path();
        fs::create_dir(snap.join("bin")).unwrap();
        for program in ["microk8s-kubectl.wrapper", "bin/dqlite"] {
            let script = "#!/bin/sh\necho \"$SNAP $SNAP_DATA $SNAP_COMMON\"\n";
            fs::write(snap.join(program), script).unwrap();
            fs::set_permissions(snap.join(program), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let host = SnapPlatform::new(snap, "/data", "/common");
        let expected = format!("{} /data /common\n", snap.display());
        assert_eq!(host.kubectl(&[]).unwrap(), Some(expected.clone()));
        assert_eq!(host.datastore_members(Path::new("/b")).unwrap(), expected);
    }
}
