//! Removing a node from the cluster: from Kubernetes, from the datastore, and from what this node
//! keeps of it.
//!
//! What fails most easily comes first: the datastore, then Kubernetes, then the files of this
//! node, which change together or not at all. Each part is looked at for itself, so a removal that
//! stopped half way goes on where it stopped when the command is run again, and a node that only
//! one of them still knows can be removed as well.

mod error;
mod front_proxy;
mod known;

use std::net::IpAddr;
use std::time::Duration;

use crate::base::atomic_file::Access;
use crate::base::secret::Secret;
use crate::cluster::forget;
use crate::cluster::join;
use crate::cluster::leave::tell_what_it_said;
use crate::cluster::node::{Node, Privacy};
use crate::cluster::node_lock;
use crate::cluster::operation::Progress;
use crate::cluster::transaction::{Step, Transaction};
use crate::model::endpoint;
use crate::model::join_stage::JoinStage;
use crate::store::known_users;
use crate::store::layout::{Lock, ReadError, none_if_missing};
use crate::store::token_files::CALLBACK_TOKENS;
use crate::store::tokens::Tokens;
use crate::wire::operation::{End, Event, RemoveOrder};

pub(crate) use error::RemoveError;
use known::{Found, InKubernetes, Target};

/// How long the datastore is asked to forget the node.
const ASK_LIMIT: Duration = Duration::from_secs(15);

/// Removes a node; says how that ended. `tokens` are those of this node's agent.
pub(super) fn remove_node(
    node: &Node,
    tokens: Option<&Tokens>,
    order: &RemoveOrder,
    progress: &mut dyn Progress,
) -> End {
    attempt(node, tokens, order, progress).unwrap_or_else(|error| {
        if let RemoveError::NotForgotten { source, .. } = &error {
            tell_what_it_said(source, progress);
        }
        End::Failed(error.outcome())
    })
}

fn deletion() -> Event {
    Event::stage(JoinStage::ApiServer, "deleting the node in Kubernetes")
}

fn attempt(
    node: &Node,
    tokens: Option<&Tokens>,
    order: &RemoveOrder,
    progress: &mut dyn Progress,
) -> Result<End, RemoveError> {
    let _turn = node_lock::lock_and_recover::<RemoveError>(
        node,
        node_lock::COMMAND_LIMIT,
        join::recover_in_turn,
    )?;
    if node.is_worker() {
        return Err(RemoveError::OnWorker);
    }
    let removal = Removal {
        node,
        tokens,
        order,
    };
    if known::is_own(node, &order.node) {
        return Err(RemoveError::ThisNode(
            node.platform
                .host_name()
                .unwrap_or_else(|_| order.node.clone()),
        ));
    }
    if node.layout.has(Lock::HaCluster) {
        removal.remove_everywhere(progress)
    } else {
        removal.without_datastore(progress)
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
    fn remove_everywhere(&self, progress: &mut dyn Progress) -> Result<End, RemoveError> {
        let mut target = Target::look_up(self.node, self.tokens, &self.order.node)?;
        let typed = || self.order.node.clone();
        match &target.in_kubernetes {
            InKubernetes::Yes => {
                if target.known.addresses.is_empty() && !self.order.force {
                    return Err(RemoveError::NoAddress(typed()));
                }
            }
            InKubernetes::No(_) if self.order.if_present && !self.order.force => {}
            InKubernetes::No(error) => {
                tell_what_it_said(error, progress);
                if !self.order.force {
                    return Err(RemoveError::NotInKubernetes(typed()));
                }
                progress.tell(Event::line(format!(
                    "Node {0} does not exist in Kubernetes.\nAttempting to remove {0} from dqlite.",
                    self.order.node
                )));
            }
            InKubernetes::NotAsked(_) if self.order.force => {}
            InKubernetes::NotAsked(_) => return Err(target.not_asked()),
            InKubernetes::NoKubernetes => {}
        }
        if !target.claimed_by.is_empty() && !self.order.force {
            return Err(RemoveError::ClaimedAddress {
                address: typed(),
                nodes: target.claimed_by.join(" and "),
            });
        }
        let is_in_datastore = self.remove_from_datastore(&mut target, progress)?;
        let is_in_kubernetes = matches!(target.in_kubernetes, InKubernetes::Yes);
        if is_in_kubernetes {
            progress.tell(deletion());
            self.delete(&target.name)?;
        }
        if !target.is_worker
            && (is_in_kubernetes || is_in_datastore)
            && let Err(error) = front_proxy::distrust_others(self.node)
        {
            progress.tell(Event::warning(format!(
                "servers behind the API servers may still trust the front proxy of {}: {error}; run the command again with --force when the API server answers",
                target.name
            )));
        }
        let known_here = self.forget_here(&target, progress)?;
        if matches!(target.in_kubernetes, InKubernetes::NotAsked(_)) {
            return Err(target.not_asked());
        }
        self.check_finalizers(&target)?;
        if known_here && !is_in_kubernetes && !is_in_datastore && !self.order.force {
            progress.tell(Event::warning(format!(
                "{0} is removed here, and Kubernetes does not know it: if it still runs and has not left, run `microk8s leave` on it",
                target.name
            )));
        }
        if !is_in_kubernetes && !is_in_datastore && !known_here {
            if !self.order.force {
                return self.absent(typed());
            }
            progress.tell(Event::warning(format!(
                "node {} is not known here: neither to Kubernetes, nor to the datastore, nor to this node; nothing was removed",
                self.order.node
            )));
        }
        Ok(End::Removed)
    }

    /// The node is not there.
    fn absent(&self, name: String) -> Result<End, RemoveError> {
        match self.order.if_present {
            true => Ok(End::Absent {
                text: format!("Node {name} is not in the cluster. Nothing was changed."),
            }),
            false => Err(RemoveError::Unknown(name)),
        }
    }

    /// Has the datastore forget the node, where it is certain which member that is; says whether it was
    /// one.
    fn remove_from_datastore(
        &self,
        target: &mut Target,
        progress: &mut dyn Progress,
    ) -> Result<bool, RemoveError> {
        match target.find_in_datastore(self.node, self.tokens, self.order.force)? {
            Found::Nothing => Ok(false),
            Found::Member { .. } if !self.order.force => {
                Err(RemoveError::Registered(self.order.node.clone()))
            }
            Found::Member { address, other } => {
                if target.is_ghost() {
                    progress.tell(Event::line("Removing node entry found in dqlite."));
                }
                progress.tell(Event::stage(
                    JoinStage::Datastore,
                    "asking the datastore to forget the node",
                ));
                let (host, backend) = (self.node.platform.as_ref(), self.node.layout.backend());
                forget::ask(host, &backend, &address, ASK_LIMIT, &|| false).map_err(|source| {
                    RemoveError::NotForgotten {
                        contacted: other,
                        source,
                    }
                })?;
                if target.is_other_than(&address) {
                    progress.tell(Event::warning(format!(
                        "{} says in Kubernetes that it has this address, and was admitted from another one: it stays; remove it by its name where that is wanted",
                        target.name
                    )));
                    target.is_only_an_address(&self.order.node);
                }
                if !target.claimed_by.is_empty() {
                    progress.tell(Event::warning(format!(
                        "{} all say in Kubernetes that they have this address, so none of them is deleted there; remove them by name",
                        target.claimed_by.join(" and ")
                    )));
                }
                Ok(true)
            }
            Found::InDoubt { members, why } if self.order.force => {
                progress.tell(Event::warning(format!(
                    "{why}: no member of the datastore is removed; {}",
                    how_to_name(&members)
                )));
                Ok(false)
            }
            Found::InDoubt { members, why } => Err(RemoveError::InDoubt {
                why,
                hint: how_to_name(&members),
            }),
        }
    }

    /// Kubernetes keeps a node until those who asked for that are done with it.
    fn check_finalizers(&self, target: &Target) -> Result<(), RemoveError> {
        let finalizers = &target.known.finalizers;
        if finalizers.is_empty() || !matches!(target.in_kubernetes, InKubernetes::Yes) {
            return Ok(());
        }
        match self.node.platform.kubectl(&["get", "no", &target.name]) {
            Ok(_) => Err(RemoveError::Finalizers {
                node: target.name.clone(),
                finalizers: finalizers.join(", "),
            }),
            Err(_) => Ok(()),
        }
    }

    /// On a cluster on etcd only Kubernetes knows the nodes (recording `remove-node-not-ha`).
    fn without_datastore(&self, progress: &mut dyn Progress) -> Result<End, RemoveError> {
        let name = &known::normalized(&self.order.node);
        match self.node.platform.kubectl(&["get", "no", name]) {
            Ok(_) => {}
            Err(error) if known::is_not_found(&error) => {
                if !self.order.if_present {
                    tell_what_it_said(&error, progress);
                }
                return self.absent(name.clone());
            }
            Err(source) => {
                return Err(RemoveError::NotAsked {
                    node: name.clone(),
                    source,
                });
            }
        }
        progress.tell(deletion());
        self.delete_now(name)?;
        self.forget_here(&Target::only_named(name), progress)?;
        Ok(End::Removed)
    }

    /// It may have gone since it was looked up, which is no failure.
    fn delete(&self, name: &str) -> Result<(), RemoveError> {
        match self.node.platform.kubectl(&["get", "no", name]) {
            Err(error) if known::is_not_found(&error) => Ok(()),
            _ => self.delete_now(name),
        }
    }

    fn delete_now(&self, name: &str) -> Result<(), RemoveError> {
        // What Kubernetes waits for may take for ever.
        match self
            .node
            .platform
            .kubectl(&["delete", "no", name, "--wait=false"])
        {
            Err(source) if !known::is_not_found(&source) => Err(RemoveError::NotDeleted {
                node: name.to_owned(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// What this node keeps of the other one goes; says whether there was something.
    fn forget_here(
        &self,
        target: &Target,
        progress: &mut dyn Progress,
    ) -> Result<bool, RemoveError> {
        progress.tell(Event::stage(
            JoinStage::Apply,
            "removing what this node keeps of it",
        ));
        let layout = &self.node.layout;
        let read = |name: &str| -> Result<Option<Secret>, ReadError> {
            let text = none_if_missing(layout.read(&layout.credential(name)))?;
            Ok(text.map(Secret::new))
        };
        let callbacks = read(CALLBACK_TOKENS)?.unwrap_or_default();
        let left = without_callback(callbacks.expose(), target);
        let mut known = left != callbacks;
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
            let mut transaction = Transaction::begin(self.node)?;
            let steps: Vec<Step> = changes
                .iter()
                .map(|(name, text, access)| {
                    Step::write(&layout.credential(name), text.expose().as_bytes(), *access)
                })
                .collect();
            let written = transaction.apply_all(&steps);
            match written.and_then(|()| transaction.commit()) {
                Ok(committed) => {
                    if let Some(message) = committed.warning("forgotten the other") {
                        progress.tell(Event::warning(message));
                    }
                }
                Err(error) => {
                    transaction.roll_back()?;
                    return Err(error.into());
                }
            }
        }
        if let Some(tokens) = self.tokens {
            known |= tokens.forget(&target.name)?;
            for address in target.addresses() {
                known |= tokens.forget(&address.to_string())?;
            }
        }
        Ok(known)
    }
}

/// By what an operator names a member of the datastore.
fn how_to_name(members: &[String]) -> String {
    let addresses = members.iter().filter_map(|member| endpoint::split(member));
    let commands: Vec<String> = addresses
        .map(|(address, _)| format!("`microk8s remove-node {address} --force`"))
        .collect();
    format!(
        "if the node is gone and is that member, {} removes it",
        commands.join(" or ")
    )
}

/// The file of callback tokens, `host:port token` a line, without those of this node: by its exact
/// name or address.
fn without_callback(text: &str, target: &Target) -> Secret {
    let addresses = target.addresses();
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
        known::normalized(host) == target.name
            || address.is_some_and(|address| addresses.contains(&address))
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
        let mut target = Target::only_named("node1");
        target.known.addresses = vec!["10.99.0.12".parse().unwrap()];
        let text = "node1:25000 a\nnode10:25000 b\n10.99.0.12:25000 c\n10.99.0.120:25000 d\nnode1.example:25000 e\nx\n";
        assert_eq!(
            without_callback(text, &target).expose(),
            "node10:25000 b\n10.99.0.120:25000 d\nnode1.example:25000 e\nx\n"
        );
    }
}
