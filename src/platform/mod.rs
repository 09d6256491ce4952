//! Layer 3: the machine: its names, addresses and services, and the programs it runs.
//!
//! Only this module starts processes.

pub(crate) mod command;
pub mod datastore_demo;
pub(crate) mod datastore_shell;
mod feed;
pub(crate) mod network;
pub(crate) mod process;
#[cfg(test)]
pub(crate) mod scripted;
pub(crate) mod snap;
pub(crate) mod standalone;
pub(crate) mod unit;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use strum::IntoStaticStr;

use crate::model::endpoint;

pub(crate) use command::CommandError;
pub(crate) use feed::{Feed, FeedError};

/// A service may take its time to stop and to start.
const SERVICE_LIMIT: Duration = Duration::from_secs(180);
/// What Kubernetes may take for an answer.
const KUBECTL_LIMIT: Duration = Duration::from_secs(60);

/// A machine that can be a node.
pub(crate) trait Platform: Send + Sync {
    /// The machine's name, in lower case.
    fn host_name(&self) -> io::Result<String> {
        network::host_name()
    }

    /// The addresses of the machine's interfaces that are up.
    fn interfaces(&self) -> io::Result<Vec<InterfaceAddress>> {
        network::interfaces()
    }

    /// The interface that the default route goes through.
    fn default_interface(&self) -> Option<String> {
        network::default_interface()
    }

    /// What a host name resolves to here; nothing when it does not.
    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        network::resolve(name)
    }

    /// The version of MicroK8s on this machine, where there is one.
    fn microk8s_version(&self) -> Option<String> {
        None
    }

    /// The group whose members may use MicroK8s.
    fn group(&self) -> Group;

    /// Starts, stops or restarts a service, and waits for it.
    fn service(&self, action: Action, service: Service) -> Result<(), CommandError>;

    /// Restarts the agent, which is this process, under whatever service it runs.
    fn restart_agent(&self) -> Result<(), CommandError> {
        self.service(Action::Restart, Service::ClusterAgent)
    }

    /// Whether a service runs, as the service manager says.
    fn service_state(&self, service: Service) -> ServiceState;

    /// Has Kubernetes apply a manifest.
    fn apply_manifest(&self, path: &Path) -> Result<(), CommandError> {
        let arguments = ["apply", "-f", &path.to_string_lossy()];
        self.kubectl(&arguments).map(drop)
    }

    /// What `kubectl` says to these arguments, or `None` where there is no Kubernetes to ask.
    fn kubectl(&self, arguments: &[&str]) -> Result<Option<String>, CommandError> {
        self.kubectl_within(KUBECTL_LIMIT, arguments)
    }

    /// [`Platform::kubectl`] that takes no longer than this.
    fn kubectl_within(
        &self,
        limit: Duration,
        arguments: &[&str],
    ) -> Result<Option<String>, CommandError>;

    /// Whether a datastore runs here, so that the node can be a control plane node.
    fn has_datastore(&self) -> bool;

    /// Gives these members of the datastore a command, through the shell with the certificate in this
    /// folder.
    fn datastore_shell(
        &self,
        backend: &Path,
        servers: &str,
        command: &str,
    ) -> Result<String, CommandError>;

    /// Has these members of the datastore forget the one at `own`, through the shell with the
    /// certificate in this folder. One that they do not list is no error.
    fn leave_datastore(
        &self,
        backend: &Path,
        servers: &[String],
        own: &str,
    ) -> Result<(), CommandError> {
        if !self.has_datastore() {
            return Ok(());
        }
        let servers = servers.join(",");
        datastore_shell::forget(own, |command| {
            self.datastore_shell(backend, &servers, command)
        })
    }

    /// Has the members of the datastore in this folder forget the one at this address, which they
    /// list.
    fn remove_datastore_member(&self, backend: &Path, address: &str) -> Result<(), CommandError> {
        let servers = datastore_shell::servers_in(backend);
        self.datastore_shell(backend, &servers, &datastore_shell::remove(address))
            .map(drop)
    }

    /// Asks the datastore in this folder, through its shell, for its members; JSON.
    fn datastore_members(&self, backend: &Path) -> Result<String, CommandError> {
        let servers = datastore_shell::servers_in(backend);
        self.datastore_shell(backend, &servers, datastore_shell::LIST)
    }

    /// Whether MicroK8s has this command.
    fn has_microk8s(&self, command: &str) -> bool;

    /// Runs one of MicroK8s's own commands, for as long as that may take.
    fn microk8s(
        &self,
        command: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<(), CommandError>;

    /// Runs a script of MicroK8s's own, for as long as that may take.
    fn run_script(&self, script: &Path, limit: Duration) -> Result<(), CommandError>;

    /// Has the container runtime take an image: an archive, as it comes. The runtime may stand still
    /// for `stall_timeout`.
    fn start_image_import(&self, stall_timeout: Duration) -> Result<Feed, FeedError>;
}

/// An address of an interface, with the length of its network's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceAddress {
    /// The interface's name.
    pub(crate) interface: String,
    /// The address.
    pub(crate) address: IpAddr,
    /// How many bits name the network.
    pub(crate) prefix: u8,
}

/// A group of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its number; `None` when the machine has no such group.
    pub(crate) gid: Option<u32>,
}

/// What is done to a service.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", const_into_str)]
pub enum Action {
    /// It runs from now on.
    Start,
    /// It does not run from now on.
    Stop,
    /// It runs anew.
    Restart,
}

impl Action {
    /// The word for it that `snapctl`, `snap` and `systemctl` share.
    pub(crate) const fn verb(self) -> &'static str {
        self.into_str()
    }
}

/// Whether a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceState {
    /// It runs.
    Active,
    /// It does not.
    Inactive,
    /// The service manager could not answer: it failed, or took too long.
    Unanswered,
    /// The service manager gave an answer that does not say it, or there is none.
    Unknown,
}

/// The services of a MicroK8s node.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, IntoStaticStr,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case", prefix = "daemon-", const_into_str)]
pub(crate) enum Service {
    /// API server, controllers, scheduler, kubelet and kube-proxy in one.
    Kubelite,
    /// The datastore.
    K8sDqlite,
    /// The datastore of a cluster without high availability.
    Etcd,
    /// Re-issues certificates when addresses change.
    ApiserverKicker,
    /// Leads a worker's requests to the API servers.
    ApiserverProxy,
    /// The pod network of a cluster without high availability.
    Flanneld,
    /// The container runtime.
    Containerd,
    /// This agent.
    ClusterAgent,
    /// The kubelet, where it runs by itself.
    Kubelet,
    /// The API server, where it runs by itself.
    Apiserver,
    /// kube-proxy, where it runs by itself.
    Proxy,
    /// The scheduler, where it runs by itself.
    Scheduler,
    /// The controllers, where they run by themselves.
    ControllerManager,
}

impl Service {
    /// The service's name in the snap.
    pub(crate) const fn daemon(self) -> &'static str {
        self.into_str()
    }
}

/// The addresses under which other nodes may reach this machine, in the order in which the
/// kernel lists them: no loopback, no link-local ones, none of the pod network's interfaces
/// (recording `add-node-cni-ip`).
pub(crate) fn reachable_addresses(interfaces: &[InterfaceAddress]) -> Vec<IpAddr> {
    const POD_NETWORK: [&str; 4] = ["vxlan.calico", "flannel.1", "cni0", "ovn0"];
    let mut addresses = Vec::new();
    for entry in interfaces {
        let passed_over = entry.address.is_loopback()
            || entry.address.is_multicast()
            || endpoint::is_link_local(entry.address)
            || POD_NETWORK.contains(&entry.interface.as_str())
            || addresses.contains(&entry.address);
        if !passed_over {
            addresses.push(entry.address);
        }
    }
    addresses
}

/// The address that other nodes should use: the first one of the default route's interface.
pub(crate) fn default_address(
    host: &dyn Platform,
    interfaces: &[InterfaceAddress],
) -> Option<IpAddr> {
    let reachable = reachable_addresses(interfaces);
    let default = host.default_interface();
    interfaces
        .iter()
        .filter(|entry| Some(&entry.interface) == default.as_ref())
        .map(|entry| entry.address)
        .find(|address| reachable.contains(address))
        .or_else(|| reachable.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(interface: &str, address: &str) -> InterfaceAddress {
        InterfaceAddress {
            interface: interface.into(),
            address: address.parse().unwrap(),
            prefix: 24,
        }
    }

    #[test]
    fn unreachable_addresses_are_left_out() {
        let interfaces = [
            entry("lo", "127.0.0.1"),
            entry("eth0", "10.99.0.11"),
            entry("eth0", "169.254.1.1"),
            entry("eth0", "fe80::1"),
            entry("vxlan.calico", "10.1.5.64"),
            entry("eth1", "fd00::1"),
        ];
        let expected: Vec<IpAddr> = vec!["10.99.0.11".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(reachable_addresses(&interfaces), expected);
    }
}
