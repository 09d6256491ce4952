//! The datastore's part in a leave, and who depends on it.

use crate::cluster::kubernetes;
use crate::cluster::leave::error::LeaveError;
use crate::cluster::node::Node;
use crate::model::role::Role;
use crate::store::dqlite::{DatastoreRole, Member};
use crate::store::tokens::Tokens;

/// The datastore's part.
pub(super) struct Forget {
    /// This node, as the datastore lists it.
    pub(crate) own: String,
    /// The first of the other members.
    pub(crate) contacted: String,
    /// There is one other voter, who cannot decide alone.
    pub(crate) needs_own_vote: bool,
}

/// Who has the datastore besides this node.
pub(super) enum Others {
    /// They are asked to forget this node.
    Remain(Forget),
    /// They have forgotten it already.
    HaveForgotten,
    /// There are none: the data goes with this node.
    None,
}

/// The only voter may not leave, or the others lose the data (recording `leave-only-voter`).
pub(super) fn check_voters(node: &Node) -> Result<(), LeaveError> {
    let members = node.datastore_members()?;
    let mut voters = members.iter().filter(|member| is_voter(member));
    let only = match (voters.next(), voters.next()) {
        (Some(only), None) if members.len() > 1 => only,
        _ => return Ok(()),
    };
    match node.own_member() {
        Some(own) if own.address == only.address => Err(LeaveError::OnlyVoter),
        _ => Ok(()),
    }
}

/// The members to ask to forget this node: none when it is alone, or forgotten already. They are
/// asked for anew, as MicroK8s does (recording `leave-controlplane`).
pub(super) fn other_members(node: &Node) -> Result<Others, LeaveError> {
    let members = node.datastore_members()?;
    let own = node.own_member().map(|own| own.address);
    let is_own = |member: &&Member| own.as_ref() == Some(&member.address);
    let other = members.iter().find(|member| !is_own(member));
    Ok(match members.iter().find(is_own).zip(other) {
        Some((own, other)) => Others::Remain(Forget {
            own: own.address.clone(),
            contacted: other.address.clone(),
            needs_own_vote: is_voter(own)
                && members.iter().filter(|member| is_voter(member)).count() == 2,
        }),
        None if members.len() <= 1 => Others::None,
        None => Others::HaveForgotten,
    })
}

fn is_voter(member: &Member) -> bool {
    member.role == DatastoreRole::Voter
}

/// The workers that lose their cluster with its last control plane node, as far as they are known.
pub(super) fn workers(node: &Node, tokens: Option<&Tokens>) -> Vec<String> {
    let admitted = tokens.and_then(|tokens| tokens.admissions().nodes().ok());
    let admitted = admitted.into_iter().flatten();
    let admitted = admitted.filter(|one| one.role == Role::Worker && one.complete);
    let mut workers: Vec<String> = admitted.map(|one| one.node.name).collect();
    // Without an answer of Kubernetes, the recorded workers have to do.
    let listed = kubernetes::nodes(node.platform.as_ref()).unwrap_or_default();
    let own = node.name().unwrap_or_default();
    let others = listed.into_iter().map(|one| one.name);
    workers.extend(others.filter(|name| !name.eq_ignore_ascii_case(&own)));
    workers.sort();
    workers.dedup();
    workers
}
