//! A machine without MicroK8s: there are no services to control and no Kubernetes to ask, unless
//! a demonstration datastore runs beside the agent. On the node of the Debian package the proxy to
//! the API servers is a service, too.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::platform::command::CommandError;
use crate::platform::datastore_demo::{self, DatastoreDemo};
use crate::platform::{
    Action, Feed, FeedError, Group, Platform, Service, ServiceState, network, unit,
};

/// A machine without MicroK8s. Several standalone nodes may share one.
#[derive(Debug)]
pub(crate) struct StandalonePlatform {
    /// The name of the node, where it does not go by that of the machine.
    pub(crate) name: Option<String>,
    /// What runs beside the agent, where anything does.
    pub(crate) datastore: Option<DatastoreDemo>,
    /// Whether the units of the Debian package are those of this node.
    pub(crate) has_units: bool,
}

/// The unit of `microk8s apiserver-proxy`.
const PROXY_UNIT: &str = "microk8s-apiserver-proxy.service";

impl Platform for StandalonePlatform {
    fn host_name(&self) -> io::Result<String> {
        match &self.name {
            Some(name) => Ok(name.to_lowercase()),
            None => network::host_name(),
        }
    }

    fn group(&self) -> Group {
        network::group("microk8s")
    }

    fn service(&self, action: Action, service: Service) -> Result<(), CommandError> {
        match (&self.datastore, service) {
            (Some(datastore), Service::K8sDqlite) => datastore.control(action),
            (_, Service::ApiserverProxy) if self.has_units => {
                unit::control_installed(action, PROXY_UNIT)
            }
            _ => Ok(()),
        }
    }

    fn service_state(&self, _service: Service) -> ServiceState {
        ServiceState::Unknown
    }

    fn kubectl_within(&self, _: Duration, _: &[&str]) -> Result<Option<String>, CommandError> {
        Ok(None)
    }

    fn has_datastore(&self) -> bool {
        self.datastore.is_some()
    }

    fn datastore_shell(
        &self,
        _backend: &Path,
        servers: &str,
        command: &str,
    ) -> Result<String, CommandError> {
        match self.datastore {
            Some(_) => datastore_demo::shell(servers, command),
            None => Err(CommandError::NotAvailable(
                "no datastore runs on this node, so it cannot be a control plane node",
            )),
        }
    }

    fn has_microk8s(&self, _: &str) -> bool {
        false
    }

    fn microk8s(&self, _: &str, _: &[&str], _: Duration) -> Result<(), CommandError> {
        Err(CommandError::NotAvailable(
            "a node without MicroK8s has no add-ons",
        ))
    }

    fn run_script(&self, _: &Path, _: Duration) -> Result<(), CommandError> {
        Err(CommandError::NotAvailable(
            "a node without MicroK8s has no scripts of MicroK8s",
        ))
    }

    fn start_image_import(&self, _: Duration) -> Result<Feed, FeedError> {
        Err(FeedError::NotAvailable(
            "a node without MicroK8s has no container runtime",
        ))
    }
}
