//! A machine without MicroK8s: there are no services to control and no Kubernetes to ask, unless
//! a demonstration datastore runs beside the agent. On the node of the Debian package the proxy to
//! the API servers is a service, too.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::platform::command::CommandError;
use crate::platform::datastore_demo::DatastoreDemo;
use crate::platform::{
    Action, Feed, FeedError, Group, Platform, Service, ServiceState, network, unit,
};

/// A machine without MicroK8s.
#[derive(Debug, Default)]
pub(crate) struct StandalonePlatform {
    name: Option<String>,
    datastore: Option<DatastoreDemo>,
    has_units: bool,
}

impl StandalonePlatform {
    /// A machine that goes by its own name, or by this one: several standalone nodes may share
    /// a machine. On one of them at most, `has_units`, the units of the Debian package run.
    pub(crate) fn new(
        name: Option<String>,
        datastore: Option<DatastoreDemo>,
        has_units: bool,
    ) -> Self {
        Self {
            name,
            datastore,
            has_units,
        }
    }
}

/// The unit of `microk8s apiserver-proxy`.
const PROXY_UNIT: &str = "microk8s-apiserver-proxy.service";

const NO_DATASTORE: CommandError = CommandError::NotAvailable(
    "no datastore runs on this node, so it cannot be a control plane node",
);

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

    fn apply_manifest(&self, _path: &Path) -> Result<(), CommandError> {
        Ok(())
    }

    fn kubectl_within(&self, _: Duration, _: &[&str]) -> Result<Option<String>, CommandError> {
        Ok(None)
    }

    fn has_datastore(&self) -> bool {
        self.datastore.is_some()
    }

    fn leave_datastore(
        &self,
        _backend: &Path,
        servers: &[String],
        own: &str,
    ) -> Result<(), CommandError> {
        match self.datastore {
            Some(_) => DatastoreDemo::forget(servers, own),
            None => Ok(()),
        }
    }

    fn remove_datastore_member(&self, backend: &Path, address: &str) -> Result<(), CommandError> {
        match self.datastore {
            Some(_) => DatastoreDemo::remove(backend, address),
            None => Err(NO_DATASTORE),
        }
    }

    fn datastore_members(&self, backend: &Path) -> Result<String, CommandError> {
        match self.datastore {
            Some(_) => DatastoreDemo::members(backend),
            None => Err(NO_DATASTORE),
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
