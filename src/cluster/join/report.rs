//! Tells the contacted node how a join ended, even when the joining process was killed.
//!
//! What that takes is kept in the journal from before the request that may take the token. It goes
//! with the journal of a join that succeeds. Of one that is taken back it outlives the journal, until
//! the contacted node was told, or could not be.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::secret::Secret;
use crate::client::pinned_tls::Identity;
use crate::client::remote::{Peer, RemoteError, Wait};
use crate::cluster::join::source_address;
use crate::cluster::node::Node;
use crate::cluster::node_lock::{self, NodeLockError};
use crate::cluster::transaction::{self, Ending, JournalError};
use crate::model::fingerprint::FingerprintPrefix;
use crate::model::join_id::JoinId;
use crate::model::token::Token;
use crate::wire::cluster_v2::{JoinOutcome, Outcome};
use crate::wire::routes;

/// How long telling may take, connecting included.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);
/// The same where the command that joined is gone, and the next one may wait already.
pub(crate) const SHORT_LIMIT: Duration = Duration::from_millis(500);

/// The node to which a failed join is reported, and the token of that join.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    /// The contacted node.
    pub(crate) endpoint: SocketAddr,
    /// The fingerprint of the certificate that it showed.
    pub(crate) certificate: FingerprintPrefix,
    /// The token of the join.
    pub(crate) token: Token,
    /// How the join is named; nothing in a journal of an earlier version.
    pub(crate) join_id: Option<JoinId>,
}

impl Report {
    /// As it is kept.
    pub(crate) fn text(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }

    /// Reports that the join failed, only to the node that was contacted then.
    fn say_failed(self, node: &Node) -> Result<(), RemoteError> {
        let from = source_address(node, self.endpoint.ip());
        let wait = Wait::within(LIMIT);
        let expected = Identity::of([self.certificate.clone()]);
        let mut peer = Peer::connect(&wait, self.endpoint, from, expected)?;
        self.send(node, &mut peer, Outcome::Failed, &wait);
        Ok(())
    }

    /// Says how the join ended. A node that cannot be told finds out in time; one that knows nothing
    /// of outcomes answers that it does not.
    pub(crate) fn send(self, node: &Node, peer: &mut Peer, outcome: Outcome, wait: &Wait) {
        let Ok(hostname) = node.name() else {
            return;
        };
        let outcome = JoinOutcome {
            token: self.token,
            hostname,
            outcome,
            join_id: self.join_id,
        };
        if let Err(error) = peer.post(wait, routes::V2_JOIN_OUTCOME, &outcome) {
            tracing::warn!(%error, "the contacted node could not be told how the join ended");
        }
    }
}

/// Recovers from an interrupted join or leave on this node, and reports a failed join to the node
/// that it contacted. The caller holds the node lock.
pub(crate) fn recover(node: &Node) -> Result<Option<Ending>, JournalError> {
    let ending = node_lock::recover(node)?;
    reconcile(node);
    Ok(ending)
}

/// [`recover`], the part that needs the other node. One attempt is made.
fn reconcile(node: &Node) {
    let Some(text) = transaction::unreported(&node.layout) else {
        return;
    };
    if let Ok(report) = serde_json::from_str::<Report>(text.expose()) {
        let endpoint = report.endpoint;
        if let Err(error) = report.say_failed(node) {
            tracing::warn!(%error, "{endpoint} could not be told that the interrupted join failed");
        }
    }
    transaction::forget_report(&node.layout);
}

/// Tells the node that an interrupted join contacted, where that is still to be done.
pub(crate) fn settle_when_free(node: &Node) -> Result<(), NodeLockError> {
    if transaction::unreported(&node.layout).is_none() {
        return Ok(());
    }
    let _turn = node_lock::take(node)?;
    reconcile(node);
    Ok(())
}
