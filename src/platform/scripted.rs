//! A machine that exists in memory only: it writes down what it is asked to do; for tests.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use crate::platform::command::CommandError;
use crate::platform::{
    Action, Feed, FeedError, Group, InterfaceAddress, Platform, Service, ServiceState,
    datastore_shell,
};

/// A machine in memory.
#[derive(Debug, Default)]
pub(crate) struct ScriptedPlatform {
    /// Its name.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) interfaces: Vec<InterfaceAddress>,
    /// What names resolve to.
    pub(crate) names: HashMap<String, Vec<IpAddr>>,
    /// Services that cannot be controlled.
    pub(crate) broken: Vec<Service>,
    /// What the datastore's shell answers; nothing makes it fail.
    pub(crate) members: Option<String>,
    /// What was asked for.
    pub(crate) calls: Mutex<Vec<String>>,
}

impl ScriptedPlatform {
    fn call(&self, text: String) {
        self.calls.lock().unwrap().push(text);
    }

    /// What was asked for so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl Platform for ScriptedPlatform {
    fn host_name(&self) -> io::Result<String> {
        Ok(self.name.clone())
    }

    fn interfaces(&self) -> io::Result<Vec<InterfaceAddress>> {
        Ok(self.interfaces.clone())
    }

    fn default_interface(&self) -> Option<String> {
        self.interfaces.first().map(|entry| entry.interface.clone())
    }

    fn resolve(&self, name: &str) -> Vec<IpAddr> {
        self.names.get(name).cloned().unwrap_or_default()
    }

    fn group(&self) -> Group {
        Group {
            name: "microk8s",
            gid: None,
        }
    }

    fn service(&self, action: Action, service: Service) -> Result<(), CommandError> {
        self.call(format!("{} {}", action.verb(), service.daemon()));
        if self.broken.contains(&service) {
            return Err(CommandError::NotAvailable("broken"));
        }
        Ok(())
    }

    fn service_state(&self, service: Service) -> ServiceState {
        if self.broken.contains(&service) {
            ServiceState::Inactive
        } else {
            ServiceState::Active
        }
    }

    fn apply_manifest(&self, _path: &Path) -> Result<(), CommandError> {
        self.call("apply".into());
        Ok(())
    }

    fn kubectl_within(
        &self,
        _: Duration,
        arguments: &[&str],
    ) -> Result<Option<String>, CommandError> {
        self.call(format!("kubectl {}", arguments.join(" ")));
        Ok(None)
    }

    fn has_datastore(&self) -> bool {
        true
    }

    fn leave_datastore(
        &self,
        _backend: &Path,
        _servers: &[String],
        own: &str,
    ) -> Result<(), CommandError> {
        self.call(format!("leave {own}"));
        Ok(())
    }

    fn datastore_shell(&self, _: &Path, _: &str, command: &str) -> Result<String, CommandError> {
        if command != datastore_shell::LIST {
            self.call(command.trim_start_matches('.').to_owned());
            return Ok(String::new());
        }
        self.call("members".into());
        self.members
            .clone()
            .ok_or(CommandError::NotAvailable("no shell"))
    }

    fn has_microk8s(&self, _: &str) -> bool {
        true
    }

    fn microk8s(&self, command: &str, arguments: &[&str], _: Duration) -> Result<(), CommandError> {
        self.call(format!("microk8s {command} {}", arguments.join(" ")));
        Ok(())
    }

    fn run_script(&self, script: &Path, _: Duration) -> Result<(), CommandError> {
        self.call(format!("run {}", script.display()));
        Ok(())
    }

    fn start_image_import(&self, _: Duration) -> Result<Feed, FeedError> {
        Err(FeedError::NotAvailable("no container runtime"))
    }
}
