//! What a joining node asks of the contacted one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::secret::Secret;
use crate::client::clock_reading::ClockReading;
use crate::client::pinned_tls::Identity;
use crate::client::remote::{Peer, RemoteError, Wait};
use crate::client::reply::Reply;
use crate::cluster::first_join::random_text;
use crate::cluster::identity::NodeKey;
use crate::cluster::join::answer::Answer;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::report::Report;
use crate::cluster::join::source_address;
use crate::cluster::node::Node;
use crate::model::endpoint;
use crate::model::fingerprint::Fingerprint;
use crate::model::join_id::JoinId;
use crate::model::join_url::JoinUrl;
use crate::model::role::Role;
use crate::model::token::Token;
use crate::model::token_record::Refusal;
use crate::pki::name::{AltName, Subject};
use crate::store::layout::Lock;
use crate::wire::cluster_v2::RequestedRole;
use crate::wire::error_body::ErrorBody;
use crate::wire::operation::JoinOrder;
use crate::wire::preflight_v1::JoinCheck;
use crate::wire::{cluster_v1, cluster_v2, routes};

/// How long connecting may take when it is only looked whether a join would work.
const LOOK_CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long the answer may take then: the contacted node asks Kubernetes, the datastore and the DNS,
/// and says which of them gave no answer, in less than this.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// How long the answer may take that needs no token, and no work.
const GREETING_LIMIT: Duration = Duration::from_secs(5);

/// How many characters of an error are told; MicroK8s's own have up to 400.
const ERROR_LENGTH: usize = 1000;

/// A certificate that is asked for.
pub(crate) struct Wanted<'a> {
    /// What it is called in messages.
    pub(crate) certificate: &'static str,
    /// Its subject.
    pub(crate) subject: &'a Subject,
    /// Its names.
    pub(crate) names: &'a [AltName],
    /// Its key.
    pub(crate) key: &'a NodeKey,
}

/// The contacted node, verified.
pub(crate) struct Contact {
    peer: Peer,
    endpoint: SocketAddr,
    /// The token that it is asked with.
    pub(crate) token: Token,
    /// How this join is named to an agent of ours: a report of an earlier join must not end it.
    join_id: Option<JoinId>,
    /// How long it is waited for, whatever it answers until then.
    wait: Wait,
    /// The node let this one in and wants to hear how the join ends, or may have done so.
    pub(crate) awaits_outcome: bool,
    /// Who takes the callbacks of this node can check them by a digest.
    pub(crate) takes_digest: bool,
    /// What its last answer told of its clock.
    pub(crate) clock: Option<ClockReading>,
    /// What its first answer told of its clock, and of the address at which it sees this node.
    pub(crate) greeting: (Option<ClockReading>, Option<IpAddr>),
}

impl Contact {
    /// Connects, and makes sure that it is a node of the connection strings before anything is sent.
    /// `connecting` bounds that, and `wait` all that it is asked.
    pub(crate) fn connect(
        node: &Node,
        url: &JoinUrl,
        order: &JoinOrder,
        connecting: &Wait,
        wait: Wait,
    ) -> Result<Self, JoinError> {
        let endpoint = url.endpoint();
        let expected = Identity::of(order.fingerprints());
        let from = source_address(node, endpoint.ip());
        let peer = Peer::connect(connecting, endpoint, from, expected);
        let peer = peer.map_err(|error| match error {
            RemoteError::OtherCertificate { source, .. } => JoinError::NotVerified {
                address: endpoint.ip(),
                source,
            },
            other => other.into(),
        })?;
        Ok(Self {
            peer,
            endpoint,
            token: url.token.clone(),
            join_id: None,
            wait,
            awaits_outcome: false,
            takes_digest: false,
            clock: None,
            greeting: (None, None),
        })
    }

    /// Connects, for a look at what a join would meet.
    pub(crate) fn open(node: &Node, url: &JoinUrl, order: &JoinOrder) -> Result<Self, JoinError> {
        let connecting = Wait::within(LOOK_CONNECT_LIMIT);
        Self::connect(node, url, order, &connecting, Wait::within(Duration::MAX))
    }

    /// Asks for what the node tells without a token. One that gives no answer tells nothing.
    pub(crate) fn greet(&mut self) -> Result<(), JoinError> {
        let wait = self.wait.at_most(GREETING_LIMIT);
        match self.peer.get(&wait, routes::HEALTH) {
            Ok(reply) => {
                self.greeting = (reply.clock, reply.caller.map(endpoint::plain));
                // MicroK8s's agents tell no address, and are sent no field that they do not know.
                if reply.caller.is_some() {
                    self.join_id = JoinId::read(random_text(JoinId::LENGTH).expose());
                }
                Ok(())
            }
            Err(error @ (RemoteError::GivenUp | RemoteError::OtherCertificate { .. })) => {
                Err(error.into())
            }
            // There is no time left for another request.
            Err(error) if self.wait.is_over() => Err(error.into()),
            Err(_) => Ok(()),
        }
    }

    /// The node's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.endpoint.ip()
    }

    /// Says how the join ended, where the other node wants to know: it gives the token back, or
    /// knows that it is used. A node that cannot be told finds out in time.
    pub(crate) fn report(&mut self, node: &Node, outcome: cluster_v2::Outcome, wait: &Wait) {
        if self.awaits_outcome {
            self.report_to_keep()
                .send(node, &mut self.peer, outcome, wait);
        }
    }

    /// What is needed to say that the join failed, should this process not get to it.
    pub(crate) fn report_to_keep(&self) -> Report {
        Report {
            endpoint: self.endpoint,
            certificate: Fingerprint::of(self.peer.certificate()).into(),
            token: self.token.clone(),
            join_id: self.join_id.clone(),
        }
    }

    /// The certificate that the node shows, DER.
    pub(crate) fn certificate(&self) -> &[u8] {
        self.peer.certificate()
    }

    /// Asks to join a cluster on dqlite.
    pub(crate) fn join(
        &mut self,
        node: &Node,
        role: RequestedRole,
    ) -> Result<Answer<cluster_v2::JoinResponse>, JoinError> {
        let request = self.request(node, role)?;
        let answer: Answer<cluster_v2::JoinResponse> =
            self.ask(routes::V2_JOIN, &request, role.role())?;
        self.peer.trust(answer.ca.as_deref());
        Ok(answer)
    }

    fn request(
        &self,
        node: &Node,
        role: RequestedRole,
    ) -> Result<cluster_v2::JoinRequest, JoinError> {
        Ok(cluster_v2::JoinRequest {
            token: self.token.clone(),
            hostname: node.name().map_err(JoinError::Machine)?,
            port: node.agent_bind().port().to_string(),
            worker: role,
            can_handle_x509_auth: true,
            can_handle_custom_etcd: true,
            can_handle_callback_digest: self.takes_digest && role.role() == Role::Worker,
            join_id: self.join_id.clone(),
        })
    }

    /// Asks to join a cluster on etcd.
    pub(crate) fn join_v1(
        &mut self,
        node: &Node,
        callback: &Secret,
    ) -> Result<Answer<cluster_v1::JoinResponse>, JoinError> {
        let request = self.request_v1(node, callback)?;
        let answer: Answer<cluster_v1::JoinResponse> =
            self.ask(routes::V1_JOIN, &request, Role::Worker)?;
        self.peer.trust(answer.ca.as_deref());
        Ok(answer)
    }

    fn request_v1(
        &self,
        node: &Node,
        callback: &Secret,
    ) -> Result<cluster_v1::JoinRequest, JoinError> {
        Ok(cluster_v1::JoinRequest {
            token: self.token.clone(),
            hostname: node.name().map_err(JoinError::Machine)?,
            port: node.agent_bind().port().to_string(),
            callback: callback.clone(),
            can_handle_x509_auth: true,
            join_id: self.join_id.clone(),
        })
    }

    /// Asks what a join would be refused for; nothing is taken for it. `None` when the other agent
    /// does not tell.
    pub(crate) fn preflight(
        &mut self,
        node: &Node,
        role: RequestedRole,
    ) -> Result<Option<Answer<JoinCheck>>, JoinError> {
        let wait = self.wait.at_most(LOOK_LIMIT);
        let reply = if node.layout.has(Lock::HaCluster) {
            let request = self.request(node, role)?;
            self.peer.post(&wait, routes::V2_JOIN_CHECK, &request)?
        } else {
            let request = self.request_v1(node, &random_text(64))?;
            self.peer.post(&wait, routes::V1_JOIN_CHECK, &request)?
        };
        self.clock = reply.clock;
        match reply.status {
            200 => self.read(&reply).map(Some),
            404 => Ok(None),
            _ => Err(refused(&reply, role.role())),
        }
    }

    /// Has a certificate signed, and makes sure that it is what was asked for: for that key,
    /// subject and names, no authority, valid, and signed by the cluster's authority; PEM.
    pub(crate) fn sign(
        &mut self,
        wanted: &Wanted<'_>,
        token: Token,
        request: String,
        authority: &str,
    ) -> Result<String, JoinError> {
        let certificate = wanted.certificate;
        let request = cluster_v1::SignCertRequest { token, request };
        let reply = self
            .peer
            .post(&self.wait, routes::V1_SIGN_CERT, &request)
            .map_err(|source| match source {
                RemoteError::GivenUp => JoinError::Interrupted,
                // Something else answers now.
                RemoteError::NotTls
                | RemoteError::Tls(_)
                | RemoteError::OtherCertificate { .. } => JoinError::Remote(source),
                _ => JoinError::SigningUnanswered {
                    certificate,
                    source,
                },
            })?;
        if reply.status != 200 {
            return Err(JoinError::NotSigned {
                certificate,
                status: (certificate != "etcd").then_some(reply.status),
                text: error_text(&reply),
                retry_after: reply.retry_after,
            });
        }
        let answer: Answer<cluster_v1::SignCertResponse> = self.read(&reply)?;
        let signed = answer.need("certificate", answer.certificate.clone())?;
        answer.check_signed(&signed, wanted, authority)?;
        Ok(signed)
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        path: &str,
        request: &impl Serialize,
        role: Role,
    ) -> Result<Answer<T>, JoinError> {
        // Without an answer, the effect of the request on the contacted node is unknown.
        self.awaits_outcome = true;
        let reply = self.peer.post(&self.wait, path, request)?;
        self.awaits_outcome = reply.takes_outcome;
        self.clock = reply.clock;
        if reply.status != 200 {
            return Err(refused(&reply, role));
        }
        self.read(&reply)
    }

    fn read<T: DeserializeOwned>(&self, reply: &Reply) -> Result<Answer<T>, JoinError> {
        let from = self.endpoint.to_string();
        // The parser's own text would quote the answer, which holds keys.
        serde_json::from_str(reply.body.expose())
            .map(|fields| Answer::new(from.clone(), fields))
            .map_err(|error| {
                let why = match error.is_data() {
                    true => format!("a field has the wrong type, at column {}", error.column()),
                    false => "it is no JSON".to_owned(),
                };
                let why = format!("is not understood: {why}");
                JoinError::BadAnswer { from, why }
            })
    }
}

fn refused(reply: &Reply, role: Role) -> JoinError {
    JoinError::Refused {
        status: reply.status,
        text: error_text(reply),
        refusal: refusal(reply),
        retry_after: reply.retry_after,
        role,
    }
}

/// The text of an error answer; whatever `error` holds, as MicroK8s's client prints it.
fn error_text(reply: &Reply) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(reply.body.expose()).ok()?;
    let mut text = match body.get("error")? {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some((end, _)) = text.char_indices().nth(ERROR_LENGTH) {
        text.truncate(end);
        text.push('…');
    }
    Some(text)
}

fn refusal(reply: &Reply) -> Option<Refusal> {
    let body: ErrorBody = serde_json::from_str(reply.body.expose()).ok()?;
    Some(Refusal {
        reason: body.reason?,
        node: reply.reason_node.clone(),
        seconds_ago: reply.reason_seconds,
    })
}
