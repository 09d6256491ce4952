//! Removing a node from the cluster: from Kubernetes, from the datastore, and from what this node
//! keeps of it.
//!
//! What fails most easily comes first: the datastore, then Kubernetes, then the files of this
//! node, which change together or not at all. Each part is looked at for itself, so a removal that
//! stopped half way goes on where it stopped when the command is run again, and a node that only
//! one of them still knows can be removed as well.

mod error;
mod known;

use std::net::IpAddr;
use std::time::Duration;

use crate::base::atomic_file::Access;
use crate::base::secret::Secret;
use crate::cluster::forget;
use crate::cluster::join;
use crate::cluster::journal::Journal;
use crate::cluster::leave::said;
use crate::cluster::node::{Node, Privacy};
use crate::cluster::turn;
use crate::host::CommandError;
use crate::store::known_users;
use crate::store::layout::Lock;
use crate::store::token_files::CALLBACK_TOKENS;
use crate::store::tokens::Tokens;
use crate::wire::departure_v1::{RemoveEvent, RemoveOrder};
use crate::wire::local_v1::JoinFailure;

pub use error::RemoveError;
use known::{InKubernetes, Target};

/// How long the datastore is asked to forget the node.
const ASK_LIMIT: Duration = Duration::from_secs(15);

/// Who wants to know how a removal goes.
pub type Audience<'a> = dyn FnMut(RemoveEvent) + 'a;

/// Removes a node. The last event that the audience is told says how it ended. `tokens` are those
/// of this node's agent.
pub fn remove_node(
    node: &Node,
    tokens: Option<&Tokens>,
    order: &RemoveOrder,
    audience: &mut Audience<'_>,
) {
    let ended = match attempt(node, tokens, order, audience) {
        Ok(()) => RemoveEvent::Removed,
        Err(error) => {
            if let RemoveError::NotForgotten { source, .. } = &error {
                tell_what_it_said(source, audience);
            }
            RemoveEvent::Failed(JoinFailure::from(&error))
        }
    };
    audience(ended);
}

fn tell_what_it_said(error: &CommandError, audience: &mut Audience<'_>) {
    if let Some(text) = said(error) {
        audience(RemoveEvent::Said { text });
    }
}

fn attempt(
    node: &Node,
    tokens: Option<&Tokens>,
    order: &RemoveOrder,
    audience: &mut Audience<'_>,
) -> Result<(), RemoveError> {
    let _turn = turn::take_tidied_soon::<RemoveError>(node, join::recover_in_turn)?;
    if node.layout.has(Lock::Clustered) {
        return Err(RemoveError::OnWorker);
    }
    let removal = Removal {
        node,
        tokens,
        order,
    };
    if node.layout.has(Lock::HaCluster) {
        removal.remove_everywhere(audience)
    } else {
        removal.without_datastore(audience)
    }
}

/// One removal.
struct Removal<'a> {
    node: &'a Node,
    tokens: Option<&'a Tokens>,
    order: &'a RemoveOrder,
}

impl Removal<'_> {
    /// Calls are made in the order of recording `remove-node-in-dqlite-force`.
    fn remove_everywhere(&self, audience: &mut Audience<'_>) -> Result<(), RemoveError> {
        let mut target = Target::look_up(self.node, self.tokens, &self.order.node)?;
        let typed = || self.order.node.clone();
        match &target.in_kubernetes {
            InKubernetes::Yes => {
                if target.addresses.is_empty() && !self.order.force {
                    return Err(RemoveError::NoAddress(typed()));
                }
            }
            InKubernetes::No(error) => {
                tell_what_it_said(error, audience);
                if !self.order.force {
                    return Err(RemoveError::NotInKubernetes(typed()));
                }
                audience(RemoveEvent::NotInKubernetes { node: typed() });
            }
            InKubernetes::NotAsked(_) if self.order.force => {}
            InKubernetes::NotAsked(_) => return Err(target.not_asked()),
            InKubernetes::NoKubernetes => {}
        }
        let in_datastore = target.find_in_datastore(self.node)?;
        if let Some(found) = &in_datastore {
            if !self.order.force {
                return Err(RemoveError::Registered(typed()));
            }
            if target.is_ghost() {
                audience(RemoveEvent::InDatastore);
            }
            self.forget(found)?;
        }
        if matches!(target.in_kubernetes, InKubernetes::Yes) {
            self.delete(&target.name)?;
        }
        let known_here = self.forget_here(&target)?;
        if matches!(target.in_kubernetes, InKubernetes::NotAsked(_)) {
            return Err(target.not_asked());
        }
        let was_known = matches!(target.in_kubernetes, InKubernetes::Yes)
            || in_datastore.is_some()
            || known_here;
        if !was_known {
            if !self.order.force {
                return Err(RemoveError::Unknown(typed()));
            }
            audience(RemoveEvent::Warning {
                message: format!(
                    "node {} is not known here: neither to Kubernetes, nor to the datastore, nor to this node; nothing was removed",
                    self.order.node
                ),
            });
        }
        Ok(())
    }

    /// On a cluster on etcd only Kubernetes knows the nodes (recording `remove-node-not-ha`).
    fn without_datastore(&self, audience: &mut Audience<'_>) -> Result<(), RemoveError> {
        let name = &self.order.node;
        match self.node.host.kubectl(&["get", "no", name]) {
            Ok(_) => {}
            Err(error) if known::is_not_found(&error) => {
                tell_what_it_said(&error, audience);
                return Err(RemoveError::Unknown(name.clone()));
            }
            Err(source) => {
                return Err(RemoveError::NotAsked {
                    node: name.clone(),
                    source,
                });
            }
        }
        self.delete_now(name)?;
        self.forget_here(&Target::only_named(name)).map(drop)
    }

    fn forget(&self, found: &known::InDatastore) -> Result<(), RemoveError> {
        let (host, backend) = (self.node.host.as_ref(), self.node.layout.backend());
        forget::ask(host, &backend, &found.address, ASK_LIMIT, &|| false).map_err(|source| {
            RemoveError::NotForgotten {
                contacted: found.other.clone(),
                source,
            }
        })
    }

    /// It may have gone since it was looked up, which is no failure.
    fn delete(&self, name: &str) -> Result<(), RemoveError> {
        match self.node.host.kubectl(&["get", "no", name]) {
            Err(error) if known::is_not_found(&error) => Ok(()),
            _ => self.delete_now(name),
        }
    }

    fn delete_now(&self, name: &str) -> Result<(), RemoveError> {
        match self.node.host.kubectl(&["delete", "no", name]) {
            Err(source) if !known::is_not_found(&source) => Err(RemoveError::NotDeleted {
                node: name.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// What this node keeps of the other one goes; says whether there was something.
    fn forget_here(&self, target: &Target) -> Result<bool, RemoveError> {
        let layout = &self.node.layout;
        let read = |name: &str| match layout.read(&layout.credential(name)) {
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        };
        let callbacks = read(CALLBACK_TOKENS)?;
        let left = without_callback(callbacks.as_ref().map_or("", Secret::expose), target);
        let mut known = callbacks
            .as_ref()
            .is_some_and(|old| old.expose() != left.expose());
        let mut changes = Vec::new();
        // MicroK8s writes this file whenever a node goes (recording `remove-node-no-callback-file`).
        if known || !target.is_ghost() {
            let access = self.node.access(Privacy::Group);
            changes.push((CALLBACK_TOKENS, left, access));
        }
        let arguments = self.node.arguments("kube-apiserver")?;
        if arguments.get("--token-auth-file").is_some()
            && let Some(users) = read(known_users::FILE)?
        {
            let left = Secret::new(known_users::without_kubelet(users.expose(), &target.name));
            if left != users {
                known = true;
                let access = Access::Keep { or: 0o600 };
                changes.push((known_users::FILE, left, access));
            }
        }
        if !changes.is_empty() {
            let mut journal = Journal::begin(layout)?;
            let written = changes.iter().try_for_each(|(name, text, access)| {
                journal.write(&layout.credential(name), text.expose().as_bytes(), *access)
            });
            if let Err(error) = written.and_then(|()| journal.commit()) {
                journal.roll_back(self.node.host.as_ref())?;
                return Err(error.into());
            }
        }
        if let Some(tokens) = self.tokens {
            known |= tokens.forget(&target.name)?;
            for address in &target.addresses {
                known |= tokens.forget(&address.to_string())?;
            }
        }
        Ok(known)
    }
}

/// The file of callback tokens, `host:port token` a line, without those of this node: by its exact
/// name or address.
fn without_callback(text: &str, target: &Target) -> Secret {
    let is_targets = |line: &str| {
        let Some((host, _port)) = line
            .split_whitespace()
            .next()
            .and_then(|endpoint| endpoint.rsplit_once(':'))
        else {
            return false;
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = host.parse().ok();
        host == target.name || address.is_some_and(|address| target.addresses.contains(&address))
    };
    Secret::new(
        text.split_inclusive('\n')
            .filter(|line| !is_targets(line))
            .collect::<String>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_whose_name_begins_like_the_removed_ones_keeps_its_tokens() {
        let target = Target {
            addresses: vec!["10.99.0.12".parse().unwrap()],
            ..Target::only_named("node1")
        };
        let text = "node1:25000 a\nnode10:25000 b\n10.99.0.12:25000 c\n10.99.0.120:25000 d\nnode1.example:25000 e\nx\n";
        assert_eq!(
            without_callback(text, &target).expose(),
            "node10:25000 b\n10.99.0.120:25000 d\nnode1.example:25000 e\nx\n"
        );
    }
}
