//! A machine with MicroK8s's snap: services through snapd, Kubernetes and the datastore through
//! the snap's own programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::base::env_vars;
use crate::host::command::{self, CommandError};
use crate::host::{Action, Group, Host, Service, datastore_shell, network};

/// A service may take its time to stop and to start.
const SERVICE_LIMIT: Duration = Duration::from_secs(180);
/// What Kubernetes may take for an answer.
const KUBECTL_LIMIT: Duration = Duration::from_secs(60);
/// A machine with MicroK8s's snap, or one laid out like it.
#[derive(Debug)]
pub struct SnapHost {
    snap: PathBuf,
}

impl SnapHost {
    /// The machine whose snap's programs are in this folder.
    pub fn new(snap: impl Into<PathBuf>) -> Self {
        Self { snap: snap.into() }
    }

    /// Whether the snap is confined strictly; its group has another name then.
    fn is_strict(&self) -> bool {
        std::fs::read_to_string(self.snap.join("meta/snap.yaml")).is_ok_and(|text| {
            text.lines()
                .any(|line| line.trim() == "confinement: strict")
        })
    }

    /// A command to the datastore, through its shell (recording `join-controlplane-ok`).
    fn shell(&self, backend: &Path, servers: &str, command: &str) -> Result<String, CommandError> {
        let file = |name: &str| backend.join(name).to_string_lossy().into_owned();
        let (certificate, key) = (file("cluster.crt"), file("cluster.key"));
        command::run(
            &self.snap.join("bin/dqlite").to_string_lossy(),
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

    fn kubectl(&self, arguments: &[&str]) -> Result<String, CommandError> {
        let wrapper = self.snap.join("microk8s-kubectl.wrapper");
        command::run(&wrapper.to_string_lossy(), arguments, KUBECTL_LIMIT)
    }
}

impl Host for SnapHost {
    fn group(&self) -> Group {
        network::group(if self.is_strict() {
            "snap_microk8s"
        } else {
            "microk8s"
        })
    }

    /// Through `snapctl` inside the snap, as MicroK8s's own tools do; outside, where snapd
    /// refuses it, through `snap`, or systemd where there is no snapd either.
    fn service(&self, action: Action, service: Service) -> Result<(), CommandError> {
        let in_snap = format!("microk8s.{}", service.daemon());
        let unit = format!("snap.{in_snap}.service");
        let (program, name) =
            if env_vars::path(env_vars::SNAP).is_some() && command::is_on_path("snapctl") {
                ("snapctl", &in_snap)
            } else if command::is_on_path("snap") {
                ("snap", &in_snap)
            } else if command::is_on_path("systemctl") {
                ("systemctl", &unit)
            } else {
                return Err(CommandError::NotAvailable(
                    "cannot control services: neither snapctl, snap nor systemctl is on the path",
                ));
            };
        command::run(program, &[action.verb(), name], SERVICE_LIMIT).map(drop)
    }

    fn apply_manifest(&self, path: &Path) -> Result<(), CommandError> {
        self.kubectl(&["apply", "-f", &path.to_string_lossy()])
            .map(drop)
    }

    fn control_plane_nodes(&self) -> Result<Option<String>, CommandError> {
        const LABEL: &str = "node.kubernetes.io/microk8s-controlplane=microk8s-controlplane";
        self.kubectl(&["get", "no", "-o", "json", "-l", LABEL])
            .map(Some)
    }

    fn has_datastore(&self) -> bool {
        true
    }

    fn leave_datastore(
        &self,
        backend: &Path,
        servers: &[String],
        own: &str,
    ) -> Result<(), CommandError> {
        let servers = servers.join(",");
        datastore_shell::forget(own, |command| self.shell(backend, &servers, command))
    }

    fn datastore_members(&self, backend: &Path) -> Result<String, CommandError> {
        let servers = format!("file://{}", backend.join("cluster.yaml").display());
        self.shell(backend, &servers, datastore_shell::LIST)
    }
}
