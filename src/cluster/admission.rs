//! Letting a node in: the accepting side of a join.
//!
//! Everything that can be checked is checked before the token is reserved, in the order of
//! MicroK8s's agent (recording `http-join-check-order`); the token is used when the answer is
//! complete, and given back when anything fails before.

mod answer;
mod checks;
mod error;
mod etcd;
mod members;
mod names;
mod preflight;
mod signing;
mod standing;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::cluster::callback;
use crate::cluster::first_join::{self, Presented};
use crate::cluster::first_join_tracker::FirstJoinTracker;
use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::model::node::JoiningNode;
use crate::model::role::Role;
use crate::model::token_record::{CertificatePurpose, Reason, Release};
use crate::pki::ca;
use crate::pki::name::AltName;
use crate::store::database::StoreError;
use crate::store::dqlite::{DatastoreRole, Member};
use crate::store::tokens::Tokens;
use crate::wire::cluster_v2;

use checks::Asked;

pub(crate) use error::AdmitError;

/// The node as others see it who want to join its cluster.
pub(crate) struct Admission {
    node: Node,
    tokens: Tokens,
    /// What the first join changes on this node, and who relies on it.
    first_join_tracker: FirstJoinTracker,
    asked_members: members::Asked,
    kubernetes: names::Question,
    /// The nodes that are being admitted right now.
    held: Mutex<Vec<JoiningNode>>,
    /// MicroK8s's file of users and their tokens is read and written anew by one join at a time.
    token_files: Mutex<()>,
}

/// The two ends of the connection that a request came over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    /// Who calls.
    pub(crate) remote: IpAddr,
    /// At which of our addresses.
    pub(crate) local: IpAddr,
}

impl Caller {
    /// The ends of a connection, IPv4 as IPv4 also on a dual-stack socket.
    pub(crate) fn new(remote: IpAddr, local: IpAddr) -> Self {
        Self {
            remote: endpoint::plain(remote),
            local: endpoint::plain(local),
        }
    }
}

/// What a node gets that is admitted.
struct Admitted<T> {
    answer: T,
    /// It may have these signed.
    certificates: Vec<CertificatePurpose>,
    /// The answer holds credentials.
    hands_out: bool,
}

impl Admission {
    /// The gate of a node.
    pub(crate) fn new(node: Node, tokens: Tokens) -> Self {
        Self {
            node,
            tokens,
            first_join_tracker: FirstJoinTracker::default(),
            asked_members: members::not_asked(),
            kubernetes: names::not_asked(),
            held: Mutex::default(),
            token_files: Mutex::default(),
        }
    }

    /// The node behind it.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// The tokens that open it.
    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// A node joins a cluster on dqlite, or on an etcd outside.
    pub(crate) fn join(
        &self,
        request: &cluster_v2::JoinRequest,
        caller: Caller,
    ) -> Result<cluster_v2::JoinResponse, AdmitError> {
        let asked = Asked::v2(request, caller);
        self.admit(
            &asked,
            || self.answer(request, caller),
            |answer, _| {
                let mut answer = self.with_callback_token(answer, request)?;
                let mut certificates = Vec::new();
                match asked.claim.role {
                    Role::Worker => {
                        answer.control_plane_nodes = Some(self.control_plane_nodes(caller)?);
                        certificates = vec![CertificatePurpose::Kubelet, CertificatePurpose::Proxy];
                    }
                    Role::ControlPlane if self.node.uses_dqlite() => {
                        answer.voters = Some(voters(&self.members(caller.remote)?.list));
                    }
                    Role::ControlPlane => {}
                }
                Ok(Admitted {
                    answer,
                    certificates,
                    hands_out: false,
                })
            },
        )
    }

    /// Admits a node. All of its answer that needs no change here is read before the token is touched, and
    /// completed when the node is ready.
    fn admit<T>(
        &self,
        asked: &Asked<'_>,
        prepare: impl FnOnce() -> Result<T, AdmitError>,
        complete: impl FnOnce(T, &Presented) -> Result<Admitted<T>, AdmitError>,
    ) -> Result<T, AdmitError> {
        let claim = &asked.claim;
        self.check_token(asked)?;
        let _name = self.hold_name(&claim.node)?;
        self.check(asked)?;
        let answer = prepare()?;
        let reservation = self
            .tokens
            .reserve(asked.token, claim, |node| self.is_member(node))?
            .map_err(AdmitError::InvalidToken)?;
        let presented = Presented::now(&self.tokens, asked.token);
        let asking = self
            .first_join_tracker
            .prepare(&self.node, &asked.needs, &presented)?;
        let admitted = complete(answer, &presented)?;
        reservation
            .commit(&admitted.certificates, admitted.hands_out)?
            .map_err(AdmitError::InvalidToken)?;
        self.first_join_tracker
            .admitted(&self.node, claim.node.clone(), presented.until);
        drop(asking);
        Ok(admitted.answer)
    }

    /// A worker admits no node: it has neither the key of the cluster's authority nor a datastore. It says so
    /// before it looks at a token, which may be one of the cluster's that is known elsewhere.
    fn refuse_as_worker(&self) -> Result<(), AdmitError> {
        if !self.node.is_worker() {
            return Ok(());
        }
        let control_plane = callback::control_plane_of_worker(&self.node).into_iter();
        let control_plane = control_plane.filter(|address| !address.is_loopback());
        Err(AdmitError::Worker(control_plane.take(3).collect()))
    }

    /// Makes sure that the token would admit this node.
    fn check_token(&self, asked: &Asked<'_>) -> Result<(), AdmitError> {
        self.refuse_as_worker()?;
        self.tokens
            .check(asked.token, &asked.claim, |node| self.is_member(node))?
            .map_err(AdmitError::InvalidToken)
    }

    /// Whether the datastore lists a control plane node.
    fn is_member(&self, node: &JoiningNode) -> bool {
        first_join::datastore_members(&self.node)
            .unwrap_or_default()
            .iter()
            .any(|member| member.is_at(node.address))
    }

    /// An admitted node says how its join ended.
    pub(crate) fn report(
        &self,
        request: &cluster_v2::JoinOutcome,
        caller: Caller,
    ) -> Result<Release, AdmitError> {
        self.refuse_as_worker()?;
        let node = joining_node(&request.hostname, caller);
        let has_joined = request.outcome == cluster_v2::Outcome::Joined;
        let release = self
            .tokens
            .report(&request.token, &node, request.join_id.as_ref(), has_joined)?
            .ok_or_else(|| AdmitError::InvalidToken(Reason::Unknown.into()))?;
        if release == Release::Outdated {
            tracing::info!(%node, "what the node says is about an earlier join than its last one");
        } else {
            self.first_join_tracker.has_ended(&node);
        }
        Ok(release)
    }

    /// Settles what the first join changed on this node.
    pub(crate) fn reconcile(&self) {
        self.first_join_tracker.reconcile(&self.node, &self.tokens);
    }

    /// Does what time has done to the tokens.
    pub(crate) fn expire_tokens(&self) -> Result<(), StoreError> {
        self.tokens.expire_tokens(|node| self.is_member(node))
    }

    /// The names and addresses in the certificate of this node's API server.
    fn served_names(&self) -> Arc<Vec<AltName>> {
        let layout = &self.node.layout;
        let parse = |pem: &[u8]| ca::alternative_names(&String::from_utf8_lossy(pem));
        let names = layout.parsed(&layout.cert("server.crt"), parse);
        names.ok().and_then(Result::ok).unwrap_or_default()
    }
}

fn joining_node(hostname: &str, caller: Caller) -> JoiningNode {
    JoiningNode {
        name: hostname.trim().to_lowercase(),
        address: caller.remote,
    }
}

fn voters(members: &[Member]) -> Vec<String> {
    members
        .iter()
        .filter(|member| member.role == DatastoreRole::Voter)
        .map(|member| member.address.clone())
        .collect()
}
