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
use crate::store::dqlite::{self, Member};
use crate::store::layout::Lock;
use crate::wire::preflight_v1::Standing;

/// How long an API server may take to say whether it knows this node.
const API_LIMIT: Duration = Duration::from_secs(5);

/// How long after its join a kubelet may take to register its node.
const REGISTRATION_LIMIT: Duration = Duration::from_secs(60);
/// How often the API server is asked meanwhile.
const REGISTRATION_PAUSE: Duration = Duration::from_secs(1);

/// A node's place in a cluster, by its own marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Membership {
    role: Role,
}

/// What an API server says of this node.
enum Known {
    Member,
    NotMember,
    /// It does not take the certificate.
    Rejected,
    Unanswered(String),
}

impl Membership {
    /// The node's place; `None` when it is alone. A member has MicroK8s's marks of one, and the
    /// datastore of a control plane node lists another node as well.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        if !node.layout.is_in_cluster() {
            return None;
        }
        if node.layout.has(Lock::Clustered) {
            return Some(Self { role: Role::Worker });
        }
        let members = first_join::datastore_members(node).map_or(0, |members| members.len());
        (members >= 2).then_some(Self {
            role: Role::ControlPlane,
        })
    }

    /// What the node is in its cluster.
    pub(crate) fn role(self) -> Role {
        self.role
    }

    /// Whether the node that shows this certificate, DER, is in the same cluster: the cluster's
    /// authority signed it, whose certificate a member has.
    pub(crate) fn is_with(self, node: &Node, certificate: &[u8]) -> bool {
        let authority = match self.role {
            Role::Worker => "ca.remote.crt",
            Role::ControlPlane => "ca.crt",
        };
        node.layout
            .read(&node.layout.cert(authority))
            .is_ok_and(|authority| ca::is_signed_by(certificate, &authority))
    }

    /// Makes sure that the contacted node is in the node's cluster, and that the cluster counts this
    /// node among its members; says what of a member's settings leads nowhere any more. The token
    /// is not used.
    pub(crate) fn confirm(
        self,
        node: &Node,
        contact: &mut Contact,
        wait: &Wait,
    ) -> Result<Option<Stale>, JoinError> {
        if !self.is_with(node, contact.certificate()) {
            return Err(JoinError::OtherCluster(self.role));
        }
        match self.role {
            Role::ControlPlane => self.confirm_control_plane(node, contact).map(|()| None),
            Role::Worker => self.confirm_worker(node, contact, wait),
        }
    }

    fn confirm_control_plane(self, node: &Node, contact: &mut Contact) -> Result<(), JoinError> {
        let layout = &node.layout;
        let own = layout
            .read(&layout.backend().join("info.yaml"))
            .ok()
            .and_then(|info| dqlite::read_info(&info).ok())
            .and_then(|info| info.ip());
        let listed = node
            .platform
            .datastore_members(&layout.backend())
            .ok()
            .and_then(|answer| dqlite::read_shell_answer(&answer).ok());
        if let (Some(own), Some(listed)) = (own, listed) {
            let is_listed = listed.iter().any(|member: &Member| member.is_at(own));
            return if is_listed {
                Ok(())
            } else {
                Err(JoinError::Removed(self.role))
            };
        }
        match self.standing(node, contact).0 {
            Standing::Member => Ok(()),
            Standing::NotMember => Err(JoinError::Removed(self.role)),
            Standing::Unknown => Err(JoinError::Unconfirmed {
                role: self.role,
                contacted: contact.address(),
            }),
        }
    }

    fn confirm_worker(
        self,
        node: &Node,
        contact: &mut Contact,
        wait: &Wait,
    ) -> Result<Option<Stale>, JoinError> {
        // What listens on a standalone node is not its API server.
        let asks = !node.is_standalone() && node.layout.has(Lock::HaCluster);
        let mut why = String::new();
        if asks {
            let (host, port) = proxy::own_server(node)?;
            match known_once_registered(node, &host, port, wait) {
                Known::Member => return Ok(None),
                Known::NotMember => return Err(JoinError::Removed(self.role)),
                Known::Rejected => return Err(JoinError::Rejected),
                Known::Unanswered(text) => why = text,
            }
        }
        let (standing, port) = self.standing(node, contact);
        let port = port.unwrap_or_else(|| endpoints::api_port(node));
        if asks && endpoints::is_other(node, contact.address(), port) {
            match known_at(node, &contact.address().to_string(), port) {
                Known::Member => return Ok(endpoints::stale(node, contact.address(), port)),
                Known::NotMember => return Err(JoinError::Removed(self.role)),
                Known::Rejected => return Err(JoinError::Rejected),
                Known::Unanswered(_) => {}
            }
        }
        match standing {
            Standing::Member => Ok(endpoints::stale(node, contact.address(), port)),
            Standing::NotMember => Err(JoinError::Removed(self.role)),
            Standing::Unknown if asks => Err(JoinError::MemberUnanswered { why }),
            Standing::Unknown => Err(JoinError::Unconfirmed {
                role: self.role,
                contacted: contact.address(),
            }),
        }
    }

    /// What the contacted node says, and the port of its API server. One that does not tell, or does
    /// not take the token, says nothing.
    fn standing(self, node: &Node, contact: &mut Contact) -> (Standing, Option<u16>) {
        match contact.preflight(node, requested_role(self.role, true)) {
            Ok(Some(answer)) => (
                answer.standing,
                answer.apiport.as_ref().and_then(|port| port.parse().ok()),
            ),
            Ok(None) | Err(_) => (Standing::Unknown, None),
        }
    }
}

/// [`known_at`], where a node that has joined just now may not be registered yet.
fn known_once_registered(node: &Node, host: &str, port: u16, wait: &Wait) -> Known {
    loop {
        let known = known_at(node, host, port);
        let is_new = std::fs::metadata(node.layout.lock(Lock::Clustered))
            .and_then(|mark| mark.modified())
            .is_ok_and(|joined| joined.elapsed().is_ok_and(|age| age < REGISTRATION_LIMIT));
        if !matches!(known, Known::NotMember) || !is_new || !wait.pause(REGISTRATION_PAUSE) {
            return known;
        }
    }
}

/// What the API server at this address says of this node.
fn known_at(node: &Node, host: &str, port: u16) -> Known {
    let asked = || -> Result<u16, String> {
        let name = node.name().map_err(|error| error.to_string())?;
        let server = proxy::api_server(node, host, port).map_err(|error| error.to_string())?;
        server
            .ask_for(&format!("/api/v1/nodes/{name}"), API_LIMIT)
            .map_err(|error| error.to_string())
    };
    match asked() {
        Ok(200) => Known::Member,
        Ok(401) => Known::Rejected,
        Ok(404) => Known::NotMember,
        Ok(status) => Known::Unanswered(format!("it answered with status {status}")),
        Err(why) => Known::Unanswered(why),
    }
}
