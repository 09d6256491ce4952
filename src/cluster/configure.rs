//! Other arguments for the services of this node, and add-ons on or off: what the control plane asks
//! for when an add-on of MicroK8s changes the whole cluster.
//!
//! The services change together or not at all: everything is checked first, the arguments of all of
//! them are written through the journal, then they restart, and where one does not come up the
//! arguments are the old ones again. Add-ons are MicroK8s's own scripts and come last, because they
//! cannot be undone.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::atomic_file::Access;
use crate::cluster::node::Node;
use crate::cluster::node_lock::{self, NodeLockError};
use crate::cluster::transaction::{JournalError, Step, Transaction};
use crate::model::launch_configuration;
use crate::platform::{Action, CommandError, Service};
use crate::store::args_file::ArgsFile;
use crate::store::layout::{Lock, none_if_missing};
use crate::wire::cluster_v1::{ConfigureRequest, ServiceChange, Switch};

/// How MicroK8s begins the names of its services.
const PREFIX: &str = "microk8s.daemon-";
/// The mode of a new file of arguments (recording `http-configure-update`).
const NEW_FILE: u32 = 0o640;

/// Why the node is not configured otherwise; texts that MicroK8s's agent has are its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigureError {
    /// A name that is none of MicroK8s's services.
    #[error("Unknown service {0:?}")]
    UnknownService(String),
    /// A service that has no arguments.
    #[error("Service {0:?} has no arguments")]
    NoArguments(String),
    /// Text that a line of an arguments file cannot hold, or that is no argument.
    #[error("Argument {argument:?} of service {service:?} cannot be set: {why}")]
    Argument {
        /// Whose.
        service: String,
        /// Which one.
        argument: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name that no add-on can have.
    #[error("{0:?} is not the name of an addon")]
    Addon(String),
    /// Arguments cannot be read or written; nothing has changed.
    #[error("Failed to update arguments of service {service:?}: {source}")]
    Update {
        /// Whose.
        service: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A service did not restart; the arguments are the old ones.
    #[error("Failed to restart service {service:?}: {}", .source.in_microk8s_words())]
    Restart {
        /// As it was named in the request.
        service: String,
        /// Why.
        source: CommandError,
    },
    /// An add-on's script failed.
    #[error("Failed to {} addon {addon:?}: {}", .to.verb(), .source.in_microk8s_words())]
    Switch {
        /// Which one.
        addon: String,
        /// What was wanted.
        to: Switch,
        /// Why.
        source: CommandError,
    },
    /// Something else changes the node.
    #[error("The node cannot be configured now: {0}")]
    NodeLock(#[from] NodeLockError),
    /// The change cannot be made final, or an earlier one cannot be undone.
    #[error("The node cannot be configured: {0}")]
    Journal(#[from] JournalError),
    /// A change failed, and not all of it could be undone.
    #[error("{error}; not everything could be undone: {undo}")]
    NotTakenBack {
        /// What failed first.
        error: Box<ConfigureError>,
        /// What is left.
        undo: JournalError,
    },
}

impl Switch {
    const fn verb(self) -> &'static str {
        match self {
            Self::On => "enable",
            Self::Off => "disable",
        }
    }
}

/// What is left to do for the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub(crate) struct Configured {
    /// This agent is to restart, which ends the request as well: it comes when all else is done,
    /// and the answer is sent.
    pub(crate) restarts_agent: bool,
}

/// Configures the node. An add-on may take `limit`.
pub(crate) fn configure(
    node: &Node,
    request: &ConfigureRequest,
    limit: Duration,
) -> Result<Configured, ConfigureError> {
    let services: Vec<Wanted<'_>> = request
        .services
        .iter()
        .map(|change| Wanted::check(node, change))
        .collect::<Result<_, _>>()?;
    for addon in &request.addons {
        launch_configuration::addon(&addon.name)
            .map_err(|_| ConfigureError::Addon(addon.name.clone()))?;
    }
    let (this_agent, others): (Vec<_>, Vec<_>) = once_each(&services)
        .into_iter()
        .partition(|configured| configured.service == Service::ClusterAgent);
    if services.iter().any(Wanted::is_a_change) {
        let _turn = node_lock::lock_and_recover::<ConfigureError>(
            node,
            node_lock::BUSY_LIMIT,
            node_lock::recover,
        )?;
        change_services(node, &new_files(node, &services)?, &others)?;
    }
    // The node lock is free again: an add-on's script may itself have this node configured.
    for addon in &request.addons {
        if let Some(to) = addon.to {
            node.platform
                .microk8s(to.verb(), &[&addon.name], limit)
                .map_err(|source| ConfigureError::Switch {
                    addon: addon.name.clone(),
                    to,
                    source,
                })?;
        }
    }
    Ok(Configured {
        restarts_agent: !this_agent.is_empty(),
    })
}

/// A service that is to change, and that there is.
struct Wanted<'a> {
    change: &'a ServiceChange,
    service: Service,
    arguments: Option<PathBuf>,
}

impl<'a> Wanted<'a> {
    fn check(node: &Node, change: &'a ServiceChange) -> Result<Self, ConfigureError> {
        let name = &change.name;
        let (service, file) = known(name, node.layout.has(Lock::Lite))
            .ok_or_else(|| ConfigureError::UnknownService(name.clone()))?;
        let has_arguments = !change.update.is_empty() || !change.remove.is_empty();
        if has_arguments && file.is_none() {
            return Err(ConfigureError::NoArguments(name.clone()));
        }
        let bad = |argument: &str, why| ConfigureError::Argument {
            service: name.clone(),
            argument: argument.to_owned(),
            why,
        };
        for (key, value) in &change.update {
            if !is_argument(key) {
                return Err(bad(
                    key,
                    "an argument is a word that begins with two dashes",
                ));
            }
            if value.contains(char::is_control) {
                return Err(bad(
                    key,
                    "its value holds a line end or another control character",
                ));
            }
        }
        Ok(Self {
            change,
            service,
            arguments: file
                .filter(|_| has_arguments)
                .map(|file| node.layout.args(file)),
        })
    }

    fn is_a_change(&self) -> bool {
        self.arguments.is_some() || self.change.restart
    }

    fn not_restarted(&self, source: CommandError) -> ConfigureError {
        ConfigureError::Restart {
            service: self.change.name.clone(),
            source,
        }
    }
}

/// The services to restart: each once, however many of its parts change.
fn once_each<'a, 'b>(services: &'b [Wanted<'a>]) -> Vec<&'b Wanted<'a>> {
    let mut restarts: Vec<&Wanted<'_>> = Vec::new();
    for configured in services.iter().filter(|service| service.change.restart) {
        if !restarts
            .iter()
            .any(|other| other.service == configured.service)
        {
            restarts.push(configured);
        }
    }
    restarts
}

fn restart(node: &Node, restarts: &[&Wanted<'_>]) -> Result<(), ConfigureError> {
    restarts.iter().try_for_each(|configured| {
        node.platform
            .service(Action::Restart, configured.service)
            .map_err(|source| configured.not_restarted(source))
    })
}

/// Changes files and restarts services; on an error nothing has changed.
fn change_services(
    node: &Node,
    files: &[NewFile],
    restarts: &[&Wanted<'_>],
) -> Result<(), ConfigureError> {
    if files.is_empty() {
        return restart(node, restarts);
    }
    let mut transaction = Transaction::begin(node)?;
    let Err(error) = apply(&mut transaction, files, restarts) else {
        return Ok(());
    };
    match transaction.roll_back() {
        Ok(_) => Err(error),
        // The arguments are the old ones, and the service is down for another reason.
        Err(again @ JournalError::NotRestarted(_)) => {
            tracing::error!("{again}");
            Err(error)
        }
        Err(undo) => Err(ConfigureError::NotTakenBack {
            error: Box::new(error),
            undo,
        }),
    }
}

fn apply(
    transaction: &mut Transaction,
    files: &[NewFile],
    restarts: &[&Wanted<'_>],
) -> Result<(), ConfigureError> {
    let written = files
        .iter()
        .map(|file| Step::write(&file.path, &file.content, Access::Keep { or: NEW_FILE }));
    let restarted = restarts
        .iter()
        .map(|configured| Step::restart(configured.service));
    let steps: Vec<Step> = written.chain(restarted).collect();
    let mut running = 0;
    let done = transaction.apply(&steps, |number| {
        running = number;
        Ok(())
    });
    done.map_err(|error| match (files.get(running), error) {
        (Some(file), error) => not_updated(&file.service, error),
        (None, JournalError::Service(source)) => {
            restarts[running - files.len()].not_restarted(source)
        }
        (None, other) => other.into(),
    })?;
    // What the disk says of it is in the log.
    let _ = transaction.commit()?;
    Ok(())
}

fn not_updated(service: &str, error: impl Error + Send + Sync + 'static) -> ConfigureError {
    ConfigureError::Update {
        service: service.to_owned(),
        source: Box::new(error),
    }
}

/// A file of arguments that reads otherwise from now on.
struct NewFile {
    path: PathBuf,
    service: String,
    before: Option<Vec<u8>>,
    content: Vec<u8>,
}

/// The files that change; several changes may concern the same one.
fn new_files(node: &Node, services: &[Wanted<'_>]) -> Result<Vec<NewFile>, ConfigureError> {
    let mut files: Vec<NewFile> = Vec::new();
    for configured in services {
        let Some(path) = &configured.arguments else {
            continue;
        };
        let place = match files.iter().position(|file| file.path == *path) {
            Some(place) => place,
            None => {
                let service = configured.change.name.clone();
                let before = none_if_missing(node.layout.read_bytes(path))
                    .map_err(|error| not_updated(&service, error))?;
                files.push(NewFile {
                    path: path.clone(),
                    service,
                    content: before.clone().unwrap_or_default(),
                    before,
                });
                files.len() - 1
            }
        };
        let mut arguments = ArgsFile::parse(&files[place].content);
        arguments.reconfigure(&configured.change.update, &configured.change.remove);
        files[place].content = arguments.bytes();
    }
    files.retain(|file| file.before.as_ref() != Some(&file.content));
    Ok(files)
}

/// The services that can be configured, by the names that MicroK8s's programs have for them, with
/// their files below `args`. With the lock `lite.lock` Kubernetes runs in one service (recording
/// `http-configure-restart`).
pub(super) fn known(name: &str, is_lite: bool) -> Option<(Service, Option<&'static str>)> {
    let of_kubernetes = |service, file| {
        Some((
            if is_lite { Service::Kubelite } else { service },
            Some(file),
        ))
    };
    match name.strip_prefix(PREFIX).unwrap_or(name) {
        "kubelet" => of_kubernetes(Service::Kubelet, "kubelet"),
        "kube-apiserver" | "apiserver" => of_kubernetes(Service::Apiserver, "kube-apiserver"),
        "kube-proxy" | "proxy" => of_kubernetes(Service::Proxy, "kube-proxy"),
        "kube-scheduler" | "scheduler" => of_kubernetes(Service::Scheduler, "kube-scheduler"),
        "kube-controller-manager" | "controller-manager" => {
            of_kubernetes(Service::ControllerManager, "kube-controller-manager")
        }
        "kubelite" => Some((Service::Kubelite, Some("kubelite"))),
        "k8s-dqlite" => Some((Service::K8sDqlite, Some("k8s-dqlite"))),
        "etcd" => Some((Service::Etcd, Some("etcd"))),
        "flanneld" => Some((Service::Flanneld, Some("flanneld"))),
        "containerd" => Some((Service::Containerd, Some("containerd"))),
        "apiserver-proxy" => Some((Service::ApiserverProxy, Some("apiserver-proxy"))),
        "apiserver-kicker" => Some((Service::ApiserverKicker, None)),
        "cluster-agent" => Some((Service::ClusterAgent, Some("cluster-agent"))),
        _ => None,
    }
}

fn is_argument(key: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || c.is_control() || c == '=';
    key.strip_prefix("--")
        .is_some_and(|name| !name.is_empty() && !name.contains(strange))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::platform::scripted::ScriptedPlatform;
    use crate::store::layout::Layout;

    #[test]
    fn services_are_known_by_the_names_of_the_recordings_and_no_path_is_one() {
        for (name, is_lite, service, file) in [
            ("kubelet", true, Service::Kubelite, Some("kubelet")),
            ("kubelet", false, Service::Kubelet, Some("kubelet")),
            ("kube-proxy", false, Service::Proxy, Some("kube-proxy")),
            ("apiserver", true, Service::Kubelite, Some("kube-apiserver")),
            (
                "microk8s.daemon-containerd",
                true,
                Service::Containerd,
                Some("containerd"),
            ),
            ("etcd", true, Service::Etcd, Some("etcd")),
            ("apiserver-kicker", true, Service::ApiserverKicker, None),
        ] {
            assert_eq!(known(name, is_lite), Some((service, file)), "{name}");
        }
        for name in [
            "",
            "testservice",
            "../credentials/newfile",
            "/etc/passwd",
            "kubelet/",
            "./kubelet",
            "kubelet\0",
            " kubelet",
            "Kubelet",
            "cni-network/cni.yaml",
            "microk8s.daemon-",
            "microk8s.daemon-../x",
            "microk8s.daemon-microk8s.daemon-etcd",
        ] {
            assert_eq!(known(name, true), None, "{name:?}");
        }
    }

    #[test]
    fn this_agent_is_not_restarted_before_the_answer() {
        let root = tempfile::tempdir().unwrap();
        let host = Arc::new(ScriptedPlatform::default());
        let layout = Layout::new(root.path(), root.path(), root.path());
        let node = Node::new(layout, host.clone());
        let body = br#"{
            "service": [
                {"name": "cluster-agent", "restart": true},
                {"name": "etcd", "restart": true},
                {"name": "containerd", "restart": false},
                {"name": "microk8s.daemon-etcd", "restart": true}
            ],
            "addon": [{"name": "dns", "enable": true}, {"name": "gpu", "disable": true}]
        }"#;
        let request = ConfigureRequest::read(body).unwrap();
        let configured = configure(&node, &request, Duration::ZERO).unwrap();
        assert!(configured.restarts_agent);
        assert_eq!(
            host.calls(),
            [
                "restart daemon-etcd",
                "microk8s enable dns",
                "microk8s disable gpu",
            ],
            "the restart of the agent is left to who sends the answer"
        );
    }

    #[test]
    fn addons_are_names_and_no_paths_or_options() {
        let check = launch_configuration::addon;
        for name in [
            "dns",
            "nosuch",
            "community/istio",
            "dns:1.1.1.1,8.8.8.8",
            "a-b.c_d",
        ] {
            check(name).unwrap();
        }
        for name in [
            "", "-h", "--help", "../x", "a/../b", "a/b/c", "/a", "a/", "a b", "a\nb", "dns:a\nb",
            "é",
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn an_argument_is_one_word_with_dashes() {
        for key in ["--one", "--node-labels", "--v"] {
            assert!(is_argument(key), "{key}");
        }
        for key in [
            "", "--", "one", "-v", "--a=b", "--a b", "--a\n--b", "# note",
        ] {
            assert!(!is_argument(key), "{key}");
        }
    }
}
