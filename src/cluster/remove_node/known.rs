//! What is known of the node that is to be removed, and where.
//!
//! An address that a node writes about itself, as the kubelet of any worker may, picks no member of
//! the datastore when another node claims it as well, or when this node admitted the node from
//! another one. What is recorded of admissions counts for more.

use std::net::IpAddr;

use super::error::RemoveError;
use crate::cluster::kubernetes::{self, Listed};
use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::model::node::NodeName;
use crate::model::role::Role;
use crate::platform::CommandError;
use crate::store::admissions::AdmittedNode;
use crate::store::database::StoreError;
use crate::store::dqlite::Member;
use crate::store::tokens::Tokens;

/// Whether Kubernetes has a node of that name.
#[derive(Default)]
pub(super) enum InKubernetes {
    #[default]
    Yes,
    /// It says that it has none.
    No(CommandError),
    /// It could not be asked.
    NotAsked(CommandError),
    /// There is no Kubernetes on a standalone node.
    NoKubernetes,
}

/// The node that is to be removed.
#[derive(Default)]
pub(super) struct Target {
    /// Its name; what was typed where no name is known.
    pub(crate) name: String,
    /// The address that was typed in place of a name.
    typed: Option<IpAddr>,
    /// From where this node admitted it.
    admitted: Vec<IpAddr>,
    /// Every admission of it was that of a worker.
    pub(crate) is_worker: bool,
    /// Nodes of Kubernetes that all claim the address that was typed: which one is meant is not known.
    pub(crate) claimed_by: Vec<String>,
    /// What Kubernetes says of it.
    pub(crate) known: Listed,
    pub(crate) in_kubernetes: InKubernetes,
}

/// What the datastore knows of the node.
pub(super) enum Found {
    Nothing,
    Member {
        /// As the datastore lists it.
        address: String,
        /// The first of the members that stay.
        other: String,
    },
    /// These members may be the node, and nothing that can be relied on says so.
    InDoubt {
        /// As the datastore lists them.
        members: Vec<String>,
        /// Why it is not certain.
        why: String,
    },
}

impl Target {
    /// A node of which only the name is known.
    pub(crate) fn only_named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Looks the node up by what was typed: a name, or an address.
    pub(crate) fn look_up(
        node: &Node,
        tokens: Option<&Tokens>,
        typed: &str,
    ) -> Result<Self, RemoveError> {
        let host = node.platform.as_ref();
        let mut target = Self::only_named(&normalized(typed));
        target.typed = endpoint::read_address(typed);
        let admissions = admissions(tokens)?;
        if let Some(address) = target.typed {
            let mut claimed = kubernetes::names_of(host, address);
            // A node that was admitted from there has the address, whatever others say of themselves.
            let recorded = admissions.iter().find(|one| one.node.address == address);
            if let Some(recorded) = recorded {
                target.name = normalized(&recorded.node.name);
            } else if claimed.len() > 1 {
                target.claimed_by = claimed;
                target.in_kubernetes = InKubernetes::NoKubernetes;
                return Ok(target);
            } else if let Some(name) = claimed.pop() {
                target.name = name;
            }
        }
        match kubernetes::find(host, &target.name) {
            Ok(Some(known)) => target.known = known,
            Ok(None) => target.in_kubernetes = InKubernetes::NoKubernetes,
            Err(error) if is_not_found(&error) => target.in_kubernetes = InKubernetes::No(error),
            Err(error) => target.in_kubernetes = InKubernetes::NotAsked(error),
        }
        let of_name = admissions.iter();
        let of_name = of_name.filter(|one| normalized(&one.node.name) == target.name);
        let of_name: Vec<_> = of_name.collect();
        target.is_worker =
            !of_name.is_empty() && of_name.iter().all(|one| one.role == Role::Worker);
        target.admitted = of_name.iter().map(|one| one.node.address).collect();
        Ok(target)
    }

    /// The member of the datastore at the address is all that is meant.
    pub(crate) fn is_only_an_address(&mut self, typed: &str) {
        let address = self.typed;
        *self = Self {
            typed: address,
            in_kubernetes: InKubernetes::NoKubernetes,
            ..Self::only_named(typed)
        };
    }

    /// Every address that anything says of it.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.typed.into_iter().collect();
        for address in self.admitted.iter().chain(&self.known.addresses) {
            if !all.contains(address) {
                all.push(*address);
            }
        }
        all
    }

    /// Kubernetes does not know it, or cannot say.
    pub(crate) fn is_ghost(&self) -> bool {
        matches!(
            self.in_kubernetes,
            InKubernetes::No(_) | InKubernetes::NotAsked(_)
        )
    }

    /// Why Kubernetes does not say anything of the node.
    pub(crate) fn not_asked(&mut self) -> RemoveError {
        let source = match std::mem::replace(&mut self.in_kubernetes, InKubernetes::NoKubernetes) {
            InKubernetes::NotAsked(error) | InKubernetes::No(error) => error,
            InKubernetes::Yes | InKubernetes::NoKubernetes => {
                CommandError::NotAvailable("there is no Kubernetes on this node")
            }
        };
        RemoveError::NotAsked {
            node: self.name.clone(),
            source,
        }
    }

    /// The node as a member of the datastore; the last one cannot be removed. Where nothing is going to
    /// be done to a member, which is so without `force`, a member that may be the node counts as the node.
    pub(crate) fn find_in_datastore(
        &self,
        node: &Node,
        tokens: Option<&Tokens>,
        force: bool,
    ) -> Result<Found, RemoveError> {
        if !node.platform.has_datastore() || !node.uses_dqlite() {
            return Ok(Found::Nothing);
        }
        let members = node.datastore_members()?;
        let at = |addresses: &[IpAddr]| {
            let is_there = |member: &&Member| addresses.iter().any(|one| member.is_at(*one));
            members.iter().find(is_there)
        };
        if let Some(found) = self.typed.and_then(|address| at(&[address])) {
            return self.member(found, &members);
        }
        let Some(found) = at(&self.admitted).or_else(|| at(&self.known.addresses)) else {
            // Nodes may have been admitted since the node was looked up.
            return Ok(self.unaccounted(node, &admissions(tokens)?, &members));
        };
        if !force {
            return self.member(found, &members);
        }
        match self.doubt(node, &admissions(tokens)?, found)? {
            None => self.member(found, &members),
            Some(why) => Ok(Found::InDoubt {
                members: vec![found.address.clone()],
                why,
            }),
        }
    }

    /// Whether Kubernetes' node of the address that was typed was admitted from another one: the member
    /// of the datastore at that address is another node then.
    pub(crate) fn is_other_than(&self, member: &str) -> bool {
        let address = endpoint::address_of(member).map(endpoint::plain);
        self.typed.is_some()
            && self.typed == address
            && !self.admitted.is_empty()
            && !self
                .admitted
                .iter()
                .any(|one| Some(endpoint::plain(*one)) == address)
    }

    fn member(&self, found: &Member, members: &[Member]) -> Result<Found, RemoveError> {
        let Some(other) = members.iter().find(|other| other.address != found.address) else {
            return Err(RemoveError::LastMember(self.name.clone()));
        };
        Ok(Found::Member {
            address: found.address.clone(),
            other: other.address.clone(),
        })
    }

    /// Why the node may not be the member whose address it claims.
    fn doubt(
        &self,
        node: &Node,
        admissions: &[AdmittedNode],
        claimed: &Member,
    ) -> Result<Option<String>, RemoveError> {
        let address = &claimed.address;
        let is_admitted = self.admitted.iter().any(|one| claimed.is_at(*one));
        if let Some(admitted) = self.admitted.first().filter(|_| !is_admitted) {
            return Ok(Some(format!(
                "{} says in Kubernetes that it is where the datastore lists {address}, and was admitted from {admitted}",
                self.name
            )));
        }
        let is_there = |ip: IpAddr| claimed.is_at(ip);
        let mut others: Vec<String> = Vec::new();
        if node.own_addresses().into_iter().any(is_there) {
            others.push(node.name().unwrap_or_default());
        }
        let admitted = admissions.iter();
        let admitted = admitted.filter(|one| is_there(one.node.address));
        others.extend(admitted.map(|one| one.node.name.clone()));
        let listed = match kubernetes::nodes(node.platform.as_ref()) {
            Ok(listed) => listed,
            // What is recorded has to do.
            Err(_) if is_admitted => Vec::new(),
            Err(source) => {
                return Err(RemoveError::NotAsked {
                    node: self.name.clone(),
                    source,
                });
            }
        };
        let claim = listed
            .into_iter()
            .filter(|one| one.addresses.iter().copied().any(is_there));
        others.extend(claim.map(|one| one.name));
        others.retain(|other| normalized(other) != self.name);
        others.sort();
        others.dedup();
        Ok((!others.is_empty()).then(|| {
            format!(
                "{address} is where {} is as well as {}",
                others.join(" and "),
                self.name
            )
        }))
    }

    /// A control plane node that another node admitted may be in the datastore at an address that
    /// Kubernetes does not know it by.
    fn unaccounted(&self, node: &Node, admissions: &[AdmittedNode], members: &[Member]) -> Found {
        let may_be = self.known.claims_control_plane && self.admitted.is_empty();
        if !matches!(self.in_kubernetes, InKubernetes::Yes) || !may_be {
            return Found::Nothing;
        }
        let mut accounted = node.own_addresses();
        accounted.extend(admissions.iter().map(|one| one.node.address));
        let is_unaccounted = |member: &&Member| !accounted.iter().any(|ip| member.is_at(*ip));
        let mut members: Vec<&Member> = members.iter().filter(is_unaccounted).collect();
        if members.is_empty() {
            return Found::Nothing;
        }
        let listed = kubernetes::nodes(node.platform.as_ref()).unwrap_or_default();
        let others = listed.into_iter().filter(|one| one.name != self.name);
        let of_others: Vec<IpAddr> = others.flat_map(|one| one.addresses).collect();
        members.retain(|member| !of_others.iter().any(|ip| member.is_at(*ip)));
        if members.is_empty() {
            return Found::Nothing;
        }
        Found::InDoubt {
            members: members.iter().map(|one| one.address.clone()).collect(),
            why: format!(
                "{} is a control plane node, and the datastore does not list it at an address that Kubernetes knows",
                self.name
            ),
        }
    }
}

/// A name as Kubernetes has it; what is no name stays.
pub(super) fn normalized(name: &str) -> String {
    NodeName::parse(name).map_or_else(|_| name.to_owned(), |name| name.to_string())
}

/// The nodes that this node admitted, as far as they can be read here.
fn admissions(tokens: Option<&Tokens>) -> Result<Vec<AdmittedNode>, StoreError> {
    tokens.map_or(Ok(Vec::new()), |tokens| tokens.admissions().nodes())
}

/// Whether what was typed is the node that the command runs on: by its name, by the name that its
/// kubelet has, or by an address.
pub(super) fn is_own(node: &Node, typed: &str) -> bool {
    if let Some(address) = endpoint::read_address(typed) {
        return node.own_addresses().contains(&endpoint::plain(address));
    }
    let typed = normalized(typed);
    [node.platform.host_name().ok(), node.overriding_name()]
        .into_iter()
        .flatten()
        .any(|own| normalized(&own) == typed)
}

/// Whether Kubernetes has answered, and has no such thing.
pub(super) fn is_not_found(error: &CommandError) -> bool {
    matches!(error, CommandError::Failed { output, .. } if output.contains("(NotFound)"))
}
