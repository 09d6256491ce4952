//! The list of API servers: read from MicroK8s's file, and kept up to date with Kubernetes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval};

use crate::agent::apiserver_proxy::Settings;
use crate::agent::apiserver_proxy::backends::Backends;
use crate::agent::log_limit::LastProblem;
use crate::base::atomic_file::{self, Access};
use crate::client::kubernetes::{Call, Kubernetes, KubernetesError};
use crate::model::endpoint;
use crate::store::traefik;

/// How often it is checked whether another program has changed the file.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Which API servers serve: they say so themselves.
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";
/// The same where Kubernetes has no slices, or the kubelet may not read them.
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
/// Keeps the list up to date.
pub(super) struct List {
    backends: Arc<Backends>,
    settings: Settings,
    /// The file's text when the list was read from it.
    text: String,
    /// What the log said last of a list that is of no use.
    logged_problem: LastProblem,
}

impl List {
    /// The list in the file.
    pub(super) fn read(settings: &Settings, backends: Arc<Backends>) -> Result<Self, String> {
        let text = fs::read_to_string(&settings.provider).map_err(|error| error.to_string())?;
        backends.replace(&servers(&text)?);
        Ok(Self {
            backends,
            settings: settings.clone(),
            text,
            logged_problem: LastProblem::default(),
        })
    }

    /// Takes over what other programs write into the file, such as a join. One that is of no use
    /// changes nothing.
    pub(super) async fn follow_file(self: Arc<Self>) {
        let mut seen = Ok(self.text.clone());
        let mut ticks = interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let text =
                fs::read_to_string(&self.settings.provider).map_err(|error| error.to_string());
            if text == seen {
                continue;
            }
            match text.as_deref().map_err(Clone::clone).and_then(servers) {
                Ok(addresses) => self.backends.replace(&addresses),
                Err(why) => {
                    let path = self.settings.provider.display();
                    tracing::warn!("`{path}`: {why}; the API servers stay as they are");
                }
            }
            seen = text;
        }
    }

    /// Asks Kubernetes, and writes what has changed into the file.
    pub(super) fn refresh(&self) {
        let before = fs::read_to_string(&self.settings.provider).ok();
        match ask(&self.settings.kubeconfig) {
            Ok(addresses) => {
                self.log_problem(None);
                self.take_over(before, &addresses);
            }
            Err(why) => self.log_problem(Some(&why)),
        }
    }

    /// Takes over the list of Kubernetes. A file that changed since Kubernetes was asked belongs to
    /// the program that changed it, perhaps to a join of another cluster.
    fn take_over(&self, before: Option<String>, addresses: &[String]) {
        let path = &self.settings.provider;
        let Some(text) = before.filter(|text| fs::read_to_string(path).ok().as_ref() == Some(text))
        else {
            return;
        };
        if servers(&text).is_ok_and(|listed| listed == addresses) {
            return;
        }
        // What another program has left empty is filled again.
        let new = traefik::with_servers(&text, addresses)
            .or_else(|_| traefik::with_servers(&self.text, addresses));
        let written = new.and_then(|text| {
            atomic_file::write(path, text.as_bytes(), Access::Keep { or: 0o660 })
                .map_err(|error| error.to_string())
        });
        if let Err(why) = written {
            tracing::warn!(
                "cannot write the API servers to `{}`: {why}",
                path.display()
            );
        }
        self.backends.replace(addresses);
    }

    /// Logs a problem once, and that it is over.
    fn log_problem(&self, problem: Option<&str>) {
        if self.logged_problem.changes(problem) {
            match problem {
                Some(why) => tracing::warn!("the list of API servers is not refreshed: {why}"),
                None => tracing::info!("the list of API servers is refreshed again"),
            }
        }
    }
}

/// The API servers in the file, sorted; not none.
fn servers(text: &str) -> Result<Vec<String>, String> {
    let mut servers = traefik::servers(text)?;
    servers.sort();
    servers.dedup();
    match servers.is_empty() {
        true => Err("it lists no API server".to_owned()),
        false => Ok(servers),
    }
}

/// The API servers that Kubernetes lists, sorted. The kubeconfig leads to this proxy, and so to one
/// that answers.
fn ask(kubeconfig: &Path) -> Result<Vec<String>, String> {
    let kubernetes = Kubernetes::new(kubeconfig.to_owned());
    let mut problem = String::new();
    for (path, read) in [
        (SLICES, read_slices as fn(&Value) -> _),
        (ENDPOINTS, read_endpoints),
    ] {
        let call = Call {
            method: Method::GET,
            path,
            body: Bytes::new(),
        };
        let mut addresses: Vec<String> = match kubernetes.ask(&call) {
            Ok(list) => read(&list),
            Err(error @ KubernetesError::Refused { .. }) => {
                problem = error.to_string();
                continue;
            }
            Err(error) => return Err(error.to_string()),
        };
        addresses.sort();
        addresses.dedup();
        if !addresses.is_empty() {
            return Ok(addresses);
        }
        "Kubernetes lists no API server".clone_into(&mut problem);
    }
    Err(problem)
}

fn read_slices(list: &Value) -> Vec<String> {
    let slices = items(&list["items"]);
    let of_slice = |slice: &'_ Value| {
        let port = port_of(slice);
        let ready = items(&slice["endpoints"]).filter(|one| one["conditions"]["ready"] != false);
        let addresses = ready.flat_map(|one| items(&one["addresses"]));
        addresses
            .filter_map(|address| join(address, port))
            .collect::<Vec<_>>()
    };
    slices.flat_map(of_slice).collect()
}

fn read_endpoints(endpoints: &Value) -> Vec<String> {
    let of_subset = |subset: &'_ Value| {
        let port = port_of(subset);
        let addresses = items(&subset["addresses"]);
        addresses
            .filter_map(|one| join(&one["ip"], port))
            .collect::<Vec<_>>()
    };
    items(&endpoints["subsets"]).flat_map(of_subset).collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// The port of those that do not say is that of MicroK8s.
fn port_of(object: &Value) -> u64 {
    let mut ports = items(&object["ports"]);
    let https = ports.find(|port| port["name"] == "https");
    let port = https.and_then(|port| port["port"].as_u64());
    port.unwrap_or(endpoint::API_SERVER_PORT.into())
}

/// An address that is none of IP is left out.
fn join(address: &Value, port: u64) -> Option<String> {
    let address = endpoint::read_address(address.as_str()?)?;
    Some(endpoint::join(address, port.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_addresses_of_all_slices_are_read_with_their_port() {
        let list = r#"{"items": [
            {"addressType": "IPv4", "ports": [{"name": "x", "port": 1}, {"name": "https", "port": 6443}],
             "endpoints": [{"addresses": ["10.99.0.12"], "conditions": {"ready": true}},
                           {"addresses": ["10.99.0.11"]},
                           {"addresses": ["10.99.0.13"], "conditions": {"ready": false}}]},
            {"addressType": "IPv6", "ports": null, "endpoints": [{"addresses": ["fd00::b"]}]},
            {"addressType": "FQDN", "endpoints": [{"addresses": ["n1.example"]}]},
            {"endpoints": null}
        ]}"#;
        let read = read_slices(&serde_json::from_str(list).unwrap());
        assert_eq!(
            read,
            ["10.99.0.12:6443", "10.99.0.11:6443", "[fd00::b]:16443"]
        );
        for other in ["{}", "[]", r#"{"items": [1, {"endpoints": [{}]}]}"#] {
            assert!(read_slices(&serde_json::from_str(other).unwrap()).is_empty());
        }
    }

    #[test]
    fn the_addresses_of_all_subsets_are_read_with_their_port() {
        let endpoints = r#"{"subsets": [
            {"addresses": [{"ip": "10.99.0.11"}, {"hostname": "x"}], "ports": [{"name": "https", "port": 16443}],
             "notReadyAddresses": [{"ip": "10.99.0.14"}]},
            {"addresses": [{"ip": "fd00::b"}], "ports": [{"name": "https", "port": 70000}]}
        ]}"#;
        let read = read_endpoints(&serde_json::from_str(endpoints).unwrap());
        assert_eq!(read, ["10.99.0.11:16443"]);
    }

    #[test]
    fn a_file_without_api_servers_is_no_list() {
        assert!(servers("").is_err());
        assert!(servers("tcp: {}").is_err());
        assert!(servers("tcp: [").is_err());
    }
}
