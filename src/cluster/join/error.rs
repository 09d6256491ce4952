//! Why a join failed, and what is said of it.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::base::{sanitize, time_text};
use crate::client::pinned_tls::OtherCertificate;
use crate::client::remote::RemoteError;
use crate::cluster::identity::IdentityError;
use crate::cluster::node_lock::NodeLockError;
use crate::cluster::transaction::JournalError;
use crate::model::node::InvalidNodeName;
use crate::model::role::Role;
use crate::model::token_record::Refusal;
use crate::pki::PkiError;
use crate::store::layout::ReadError;

/// Why a join failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    /// Another change is under way, or the node's directory is not ours.
    #[error(transparent)]
    NodeLock(#[from] NodeLockError),
    /// A standalone node has no datastore to join with.
    #[error("no datastore runs on this node, so it cannot be a control plane node")]
    NoDatastore,
    /// The machine does not know its name or addresses.
    #[error("cannot tell this machine's name and addresses: {0}")]
    Machine(#[source] io::Error),
    /// Kubernetes takes no node of this name.
    #[error(transparent)]
    Name(#[from] InvalidNodeName),
    /// The node's address was ordered, and is another machine's.
    #[error("{0} is not an address of this machine, so it cannot be the node's")]
    NotOwnAddress(IpAddr),
    /// The node's address was given, and other machines cannot reach it.
    #[error("{0} cannot be reached from other machines, so it cannot be the node's address")]
    UnreachableAddress(IpAddr),
    /// The cluster does not list this node any more.
    #[error("this node was a {0} node of the cluster, which does not list it any more")]
    Removed(Role),
    /// The API server does not know the worker's certificate.
    #[error("the cluster's API server does not accept the certificate of this worker")]
    Rejected,
    /// The API server cannot be asked whether this node is still a member.
    #[error("this node is a worker of the cluster, and the API server does not answer it: {0}")]
    MemberUnanswered(String),
    /// It is not known whether this node is still a member.
    #[error(
        "this node was made a {role} node of the cluster, and {contacted} cannot tell whether it still is one"
    )]
    Unconfirmed {
        /// What it was made.
        role: Role,
        /// The contacted node.
        contacted: IpAddr,
    },
    /// A file of the node is not as it should be.
    #[error("cannot use `{}`: {why}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file or folder of the node that the join would change cannot be changed.
    #[error("cannot write `{}`: {source}", path.display())]
    Unwritable {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The clocks differ by so much that certificates would not be valid.
    #[error(
        "the clocks of the two nodes differ by {}: that of {contacted} shows {}, this node's {}",
        time_text::span((theirs - ours).saturating_abs()),
        time_text::moment(*theirs),
        time_text::moment(*ours)
    )]
    Clock {
        /// The contacted node.
        contacted: IpAddr,
        /// What its clock showed, in unix seconds.
        theirs: i64,
        /// What this node's clock showed then.
        ours: i64,
    },
    /// The contacted node sees this one at an address of another machine.
    #[error("the cluster sees this node at {0}, which is not an address of this machine")]
    Translated(IpAddr),
    /// The node is a member of another cluster than the contacted one's.
    #[error(
        "this node is a {0} node of another cluster, or of one whose authority has changed since; it has to leave that first"
    )]
    OtherCluster(Role),
    /// The contacted node could not be talked to.
    #[error(transparent)]
    Remote(RemoteError),
    /// The contacted node shows another certificate than the connection string says.
    #[error("could not verify the identity of {address}")]
    NotVerified {
        /// Its address.
        address: IpAddr,
        /// Which certificates.
        source: OtherCertificate,
    },
    /// The contacted node said no.
    #[error(
        "the contacted node refused the join: {} (status {status})",
        sanitize::for_log(text.as_deref().unwrap_or("it gave no reason"), 300)
    )]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its text, where it gave one.
        text: Option<String>,
        /// What it says of the token.
        refusal: Option<Refusal>,
        /// After how many seconds it wants to be asked again.
        retry_after: Option<u64>,
        /// As what this node wanted to join.
        role: Role,
    },
    /// The answer cannot be used.
    #[error("the answer of {from} {why}")]
    BadAnswer {
        /// Whose answer.
        from: String,
        /// What is wrong with it.
        why: String,
    },
    /// The contacted node takes a worker for a control plane node.
    #[error("the contacted node admits no workers")]
    NoWorkers,
    /// A certificate was not signed.
    #[error("the {certificate} certificate was not signed")]
    NotSigned {
        /// Which one.
        certificate: &'static str,
        /// The HTTP status; none for the certificate of etcd, as in MicroK8s.
        status: Option<u16>,
        /// The contacted node's text, where it gave one.
        text: Option<String>,
        /// After how many seconds it wants to be asked again.
        retry_after: Option<u64>,
    },
    /// There was no answer to a request for a certificate.
    #[error("the {certificate} certificate was not signed: {source}")]
    SigningUnanswered {
        /// Which one.
        certificate: &'static str,
        /// What came instead of an answer.
        #[source]
        source: RemoteError,
    },
    /// An unknown authentication mode.
    #[error(
        "the API authentication mode of the cluster, `{}`, is not known here",
        sanitize::for_log(.0, 40)
    )]
    UnknownAuthMode(String),
    /// The datastore did not list the node.
    #[error("the datastore did not list this node within {0} seconds")]
    NotListed(u64),
    /// The API server does not answer through the worker's proxy.
    #[error(
        "the API server did not answer through this node's proxy within {seconds} seconds: {why}"
    )]
    NoApiServer {
        /// How long it was waited for.
        seconds: u64,
        /// What came instead of an answer.
        why: String,
    },
    /// The worker's proxy was started, and does not run.
    #[error("this node's proxy to the API servers, `{0}`, does not run")]
    NoProxy(&'static str),
    /// A file of the node.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A key or certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A change.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The join was interrupted by a signal, or its client has gone.
    #[error("the join was interrupted")]
    Interrupted,
    /// A change failed, and so did taking the changes back.
    #[error("{error}; not everything could be undone: {undo}")]
    NotTakenBack {
        /// What failed first.
        error: Box<JoinError>,
        /// What failed then.
        undo: JournalError,
    },
}

impl JoinError {
    /// Whether no connection to a cluster agent came about, so that nothing was sent.
    pub(crate) const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Remote(
                RemoteError::Connect { .. }
                    | RemoteError::NoConnection(..)
                    | RemoteError::NoHandshake(..)
                    | RemoteError::NotTls
                    | RemoteError::Tls(_)
            )
        )
    }
}

impl From<RemoteError> for JoinError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::GivenUp => Self::Interrupted,
            other => Self::Remote(other),
        }
    }
}

impl From<IdentityError> for JoinError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Read(error) => Self::Read(error),
            IdentityError::Pki(error) => Self::Pki(error),
            IdentityError::Machine(error) => Self::Machine(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::join_stage::JoinStage;
    use crate::model::token_record::Reason;

    #[test]
    fn refusals_read_as_microk8s_prints_them() {
        let refused = |text: Option<&str>, status| JoinError::Refused {
            status,
            text: text.map(str::to_owned),
            refusal: None,
            retry_after: None,
            role: Role::Worker,
        };
        for (error, text, exit) in [
            (
                refused(Some("Invalid token"), 500),
                "Connection failed. Invalid token (500).",
                6,
            ),
            (refused(None, 404), "Connection failed. (404).", 6),
            (
                JoinError::Remote(RemoteError::Closed),
                "Please ensure the master node is reachable. Remote end closed connection without response",
                1,
            ),
            (
                JoinError::Remote(RemoteError::NotHttp("hello there".into())),
                "Please ensure the master node is reachable. hello there",
                1,
            ),
            (
                JoinError::NotSigned {
                    certificate: "proxy",
                    status: Some(500),
                    text: Some("x".into()),
                    retry_after: None,
                },
                "Failed to sign proxy certificate (500). x",
                1,
            ),
        ] {
            let failure = error.outcome(JoinStage::Contact);
            assert_eq!(failure.microk8s_text.as_deref(), Some(text));
            assert_eq!((failure.exit, failure.error), (exit, error.to_string()));
        }
    }

    #[test]
    fn a_node_that_wants_to_be_asked_later_is_heard() {
        let refused = |refusal, retry_after| JoinError::Refused {
            status: 503,
            text: None,
            refusal,
            retry_after,
            role: Role::Worker,
        };
        let unknown = Refusal {
            reason: Reason::Unknown,
            node: None,
            seconds_ago: None,
        };
        for (error, hint) in [
            (
                refused(None, Some(10)),
                "has too much to do; try again in 10 s, the token",
            ),
            (refused(Some(unknown), Some(1)), "again in 1 s"),
        ] {
            let failure = error.outcome(JoinStage::Admission);
            assert!(failure.hint.as_ref().unwrap().contains(hint), "{failure:?}");
            assert!(failure.retry_after.is_some());
        }
        let failure = refused(None, None).outcome(JoinStage::Admission);
        assert_eq!(failure.retry_after, None);
    }

    #[test]
    fn time_alone_may_cure_a_token_that_is_not_known_yet_and_a_node_that_is_busy() {
        let refused = |status, text: Option<&str>, reason: Option<Reason>| JoinError::Refused {
            status,
            text: text.map(str::to_owned),
            refusal: reason.map(Refusal::from),
            retry_after: None,
            role: Role::Worker,
        };
        const INVALID: Option<&str> = Some("Invalid token");
        for (error, may_pass) in [
            (refused(500, INVALID, None), true),
            (refused(500, INVALID, Some(Reason::Unknown)), true),
            (refused(500, INVALID, Some(Reason::Expired)), false),
            (refused(500, INVALID, Some(Reason::Used)), false),
            (refused(503, None, None), true),
            (refused(429, None, None), true),
            (refused(404, None, None), false),
            (JoinError::Remote(RemoteError::Closed), true),
            (JoinError::Remote(RemoteError::NotTls), false),
            (JoinError::Remote(RemoteError::GivenUp), false),
            (JoinError::Interrupted, false),
        ] {
            let failure = error.outcome(JoinStage::Contact);
            assert_eq!(failure.may_pass(), may_pass, "{error:?}");
        }
    }

    #[test]
    fn text_of_the_other_side_cannot_steer_a_terminal() {
        let error = JoinError::Refused {
            status: 500,
            text: Some("\u{1b}[2J".into()),
            refusal: None,
            retry_after: None,
            role: Role::Worker,
        };
        assert_eq!(
            error.outcome(JoinStage::Contact).microk8s_text.unwrap(),
            "Connection failed. ?[2J (500)."
        );
    }
}
