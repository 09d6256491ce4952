//! Whether a node that is to join is in a cluster already, and in which one.
//!
//! The node's own marks say that it was made a member once. Whether it still is one only its cluster
//! can say: the datastore, the API server, or the contacted node.

use std::time::Duration;

use crate::client::remote::Wait;
use crate::cluster::first_join;
use crate::cluster::join::endpoints::{self, Stale};
use crate::cluster::join::error::JoinError;
use crate::cluster::join::peer::Contact;
use crate::cluster::join::{proxy, requested_role};
use crate::cluster::node::Node;
use crate::model::role::Role;
use crate::pki::ca;
use crate::store::layout::Lock;
use crate::wire::preflight_v1::Standing;

/// How long an API server may take to say whether it knows this node.
const API_LIMIT: Duration = Duration::from_secs(5);

/// How long after its join a kubelet may take to register its node.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(60);
/// How often the API server is asked meanwhile.
const REGISTRATION_PAUSE: Duration = Duration::from_secs(1);

/// What an API server says of this node: that it is a member, or why it is none; otherwise, why it said
/// nothing.
type Known = Result<Result<(), JoinError>, String>;

/// What the node is in a cluster, by its own marks; `None` when it is alone. A member has MicroK8s's
/// marks of one, and the datastore of a control plane node lists another node as well.
pub(crate) fn role_of(node: &Node) -> Option<Role> {
    if !node.layout.is_in_cluster() {
        return None;
    }
    if node.layout.has(Lock::Clustered) {
        return Some(Role::Worker);
    }
    let members = first_join::datastore_members(node).map_or(0, |members| members.len());
    (members >= 2).then_some(Role::ControlPlane)
}

/// Makes sure that the contacted node is in the cluster of this node, which has this role there, and
/// that the cluster counts this node among its members; says what of a member's settings leads nowhere
/// any more. The token is not used.
pub(crate) fn confirm(
    node: &Node,
    role: Role,
    contact: &mut Contact,
    wait: &Wait,
) -> Result<Option<Stale>, JoinError> {
    let authority = match role {
        Role::Worker => "ca.remote.crt",
        Role::ControlPlane => "ca.crt",
    };
    let authority = node.layout.read(&node.layout.cert(authority));
    if !authority.is_ok_and(|authority| ca::is_signed_by(contact.certificate(), &authority)) {
        return Err(JoinError::OtherCluster(role));
    }
    match role {
        Role::ControlPlane => confirm_control_plane(node, contact).map(|()| None),
        Role::Worker => confirm_worker(node, contact, wait),
    }
}

fn confirm_control_plane(node: &Node, contact: &mut Contact) -> Result<(), JoinError> {
    const ROLE: Role = Role::ControlPlane;
    let own = node.own_member().and_then(|own| own.ip());
    let standing = match (own, node.datastore_members()) {
        (Some(own), Ok(listed)) if listed.iter().any(|member| member.is_at(own)) => {
            Standing::Member
        }
        (Some(_), Ok(_)) => Standing::NotMember,
        _ => standing(node, ROLE, contact).0,
    };
    match standing {
        Standing::Member => Ok(()),
        Standing::NotMember => Err(JoinError::Removed(ROLE)),
        Standing::Unknown => Err(unconfirmed(ROLE, contact)),
    }
}

fn confirm_worker(
    node: &Node,
    contact: &mut Contact,
    wait: &Wait,
) -> Result<Option<Stale>, JoinError> {
    const ROLE: Role = Role::Worker;
    // What listens on a standalone node is not its API server.
    let asks = !node.is_standalone() && node.layout.has(Lock::HaCluster);
    let mut why = String::new();
    if asks {
        let (host, port) = proxy::own_server(node)?;
        match known_once_registered(node, &host, port, wait) {
            Ok(known) => return known.map(|()| None),
            Err(text) => why = text,
        }
    }
    let (standing, port) = standing(node, ROLE, contact);
    let port = port.unwrap_or_else(|| endpoints::api_port(node));
    let contacted = contact.address();
    let stale = || endpoints::stale(node, contacted, port);
    if asks
        && endpoints::is_other(node, contacted, port)
        && let Ok(known) = known_at(node, &contacted.to_string(), port)
    {
        return known.map(|()| stale());
    }
    match standing {
        Standing::Member => Ok(stale()),
        Standing::NotMember => Err(JoinError::Removed(ROLE)),
        Standing::Unknown if asks => Err(JoinError::MemberUnanswered(why)),
        Standing::Unknown => Err(unconfirmed(ROLE, contact)),
    }
}

fn unconfirmed(role: Role, contact: &Contact) -> JoinError {
    let contacted = contact.address();
    JoinError::Unconfirmed { role, contacted }
}

/// What the contacted node says, and the port of its API server. One that does not tell, or does
/// not take the token, says nothing.
fn standing(node: &Node, role: Role, contact: &mut Contact) -> (Standing, Option<u16>) {
    match contact.preflight(node, requested_role(role, true)) {
        Ok(Some(answer)) => (
            answer.standing,
            answer.apiport.as_ref().and_then(|port| port.parse().ok()),
        ),
        Ok(None) | Err(_) => (Standing::Unknown, None),
    }
}

/// [`known_at`], where a node that has joined just now may not be registered yet.
fn known_once_registered(node: &Node, host: &str, port: u16, wait: &Wait) -> Known {
    loop {
        let known = known_at(node, host, port);
        let is_new = std::fs::metadata(node.layout.lock(Lock::Clustered))
            .and_then(|mark| mark.modified())
            .is_ok_and(|joined| joined.elapsed().is_ok_and(|age| age < REGISTRATION_LIMIT));
        if !matches!(known, Ok(Err(JoinError::Removed(_))))
            || !is_new
            || !wait.pause(REGISTRATION_PAUSE)
        {
            return known;
        }
    }
}

/// What the API server at this address says of this worker.
fn known_at(node: &Node, host: &str, port: u16) -> Known {
    let name = node.name().map_err(|error| error.to_string())?;
    let server = proxy::api_server(node, host, port).map_err(|error| error.to_string())?;
    let status = server
        .and_then(|server| server.ask_for(&format!("/api/v1/nodes/{name}"), API_LIMIT))
        .map_err(|error| error.to_string())?;
    match status {
        200 => Ok(Ok(())),
        401 => Ok(Err(JoinError::Rejected)),
        404 => Ok(Err(JoinError::Removed(Role::Worker))),
        _ => Err(format!("it answered with status {status}")),
    }
}
