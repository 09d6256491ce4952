//! Why a join failed, and what is said of it.

use std::io;
use std::net::IpAddr;

use crate::base::{sanitize, time_text};
use crate::client::remote::RemoteError;
use crate::cluster::identity::IdentityError;
use crate::cluster::join::verdict;
use crate::cluster::journal::JournalError;
use crate::cluster::turn::TurnError;
use crate::model::join_stage::JoinStage;
use crate::model::role::Role;
use crate::model::token_life::{Reason, Refusal};
use crate::pki::PkiError;
use crate::store::layout::ReadError;
use crate::wire::local_v1::JoinFailure;

/// Why a join failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Another change is under way, or the node's directory is not ours.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// A standalone node has no datastore to join with.
    #[error("no datastore runs on this standalone node, so it cannot be a control plane node")]
    NoDatastore,
    /// The machine does not know its name or addresses.
    #[error("cannot tell this machine's name and addresses: {0}")]
    Machine(#[source] io::Error),
    /// The node's address was ordered, and is another machine's.
    #[error("{0} is no address of this machine, so it cannot be the node's")]
    NotOwnAddress(IpAddr),
    /// The node's address was ordered, and leads nobody here.
    #[error("{0} cannot be reached from other machines, so it cannot be the node's address")]
    UnreachableAddress(IpAddr),
    /// The node is a member of another cluster than the contacted one's.
    #[error("this node is a {0} node of another cluster, which it has to leave first")]
    OtherCluster(Role),
    /// The contacted node could not be talked to.
    #[error(transparent)]
    Remote(RemoteError),
    /// The contacted node shows another certificate than the connection string says.
    #[error("Could not verify the identity of {0}")]
    NotVerified(IpAddr),
    /// The contacted node said no.
    #[error("refused with status {status}")]
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
    /// The answer is no JSON, or JSON of another kind.
    #[error("the answer of {from} is not understood: {why}")]
    NotUnderstood {
        /// Whose answer.
        from: String,
        /// What is wrong with it.
        why: String,
    },
    /// The answer lacks something.
    #[error("the answer of {from} has no field `{field}`")]
    MissingField {
        /// Whose answer.
        from: String,
        /// What it lacks.
        field: &'static str,
    },
    /// A field of the answer is of no use.
    #[error("the answer of {from} has a field `{field}` that is of no use: {why}")]
    BadField {
        /// Whose answer.
        from: String,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The contacted node takes a worker for a control plane node.
    #[error("Make sure the cluster you connect to supports joining worker nodes.")]
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
    /// Nobody said whether a certificate is signed.
    #[error("the {certificate} certificate was not signed: {source}")]
    SigningUnanswered {
        /// Which one.
        certificate: &'static str,
        /// What came instead of an answer.
        #[source]
        source: RemoteError,
    },
    /// An authentication mode that nobody here knows.
    #[error("Unknown API auth mode '{0}' received from control plane node.")]
    UnknownAuthMode(String),
    /// The datastore did not list the node.
    #[error("the datastore did not list this node within {seconds} seconds")]
    NotListed {
        /// How long it was waited for.
        seconds: u64,
    },
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
    #[error("this node's proxy to the API servers, `{service}`, does not run")]
    NoProxy {
        /// The proxy's service.
        service: &'static str,
    },
    /// A file of the node.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A key or certificate.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A change.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Whoever asked for the join went away.
    #[error("the join was interrupted")]
    Interrupted,
    /// A change failed, and so did taking the changes back.
    #[error("{error}; not everything could be taken back: {undo}")]
    NotTakenBack {
        /// What failed first.
        error: Box<JoinError>,
        /// What failed then.
        undo: JournalError,
    },
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

impl JoinError {
    /// After how many seconds the contacted node wants to be asked again.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Refused { retry_after, .. } | Self::NotSigned { retry_after, .. } => *retry_after,
            Self::NotTakenBack {
                error,
                undo: JournalError::NotRestarted(_),
            } => error.retry_after(),
            _ => None,
        }
    }

    /// What is told of a join that failed while this stage was under way.
    pub fn failure(&self, running: JoinStage) -> JoinFailure {
        let text = microk8s_text(self).map(|text| sanitize::for_terminal(&text));
        JoinFailure {
            stage: verdict::stage(self, running).name().to_owned(),
            retry: Some(verdict::retry(self)),
            error: text
                .is_none()
                .then(|| sanitize::for_terminal(&self.to_string())),
            microk8s_text: text,
            hint: hint(self, running),
            retry_after: self.retry_after(),
            exit: verdict::exit(self, running).code(),
        }
    }
}

/// The line that MicroK8s prints on standard output for this failure, where it has one
/// (`messages.md`, join).
fn microk8s_text(error: &JoinError) -> Option<String> {
    let reachable =
        |error: &RemoteError| format!("Please ensure the master node is reachable. {error}");
    Some(match error {
        JoinError::Remote(RemoteError::NotTls) => {
            "Peer node verification failed with [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006).".to_owned()
        }
        JoinError::Remote(RemoteError::Tls(text)) => format!("Peer node verification failed with {text}."),
        JoinError::Remote(error @ (RemoteError::Closed | RemoteError::NotHttp(_) | RemoteError::CutOff { .. })) => {
            reachable(error)
        }
        JoinError::NotVerified(address) => format!(
            "Joining cluster failed. Could not verify the identity of {address}. Use '--skip-verify' to skip server certificate check."
        ),
        JoinError::Refused { status, text, .. } => {
            let text = text.as_ref().map_or_else(String::new, |text| format!(" {text}"));
            format!("Connection failed.{text} ({status}).")
        }
        JoinError::NoWorkers => {
            "Joining process failed. Make sure the cluster you connect to supports joining worker nodes.".to_owned()
        }
        JoinError::NotSigned {
            certificate,
            status: Some(status),
            text,
            ..
        } => {
            let text = text.as_ref().map_or_else(String::new, |text| format!(" {text}"));
            format!("Failed to sign {certificate} certificate ({status}).{text}")
        }
        JoinError::NotSigned { status: None, text, .. } => {
            let text = text.as_ref().map_or_else(String::new, |text| format!(" {text}"));
            format!("Failed to sign certificate.{text}")
        }
        JoinError::UnknownAuthMode(_) => format!(
            "Error: {error}\nPlease update this MicroK8s node to the latest version before joining."
        ),
        _ => return None,
    })
}

/// What to do. Hints hold no join command and no phrase that scripts look for in what commands
/// print.
fn hint(error: &JoinError, running: JoinStage) -> Option<String> {
    Some(
        match error {
            JoinError::Turn(error) => return error.hint().map(str::to_owned),
            JoinError::Pki(error) => return error.hint().map(str::to_owned),
            JoinError::NoDatastore => "join as a worker, with --worker",
            JoinError::NotOwnAddress(_) | JoinError::UnreachableAddress(_) => {
                "`ip address` lists the addresses of this machine"
            }
            JoinError::OtherCluster(_) => {
                "leave that cluster with `microk8s leave` first; the token is not used up"
            }
            JoinError::Remote(RemoteError::Connect { .. } | RemoteError::NoAnswer { .. }) => {
                "check the address and the port, that the cluster agent runs there, and that no firewall is in between; the token is not used up"
            }
            JoinError::Remote(RemoteError::NotTls) => "something other than a cluster agent listens at this address and port",
            JoinError::Remote(RemoteError::Closed | RemoteError::NotHttp(_) | RemoteError::CutOff { .. }) => {
                "look into the log of the contacted node's cluster agent"
            }
            JoinError::Remote(RemoteError::OtherCertificate(_)) => {
                "the contacted node changed its certificate meanwhile, or several nodes answer at this address; try again"
            }
            JoinError::NotVerified(_) => {
                "another machine answers at this address, or the node's certificate has changed since the token was issued; issue a new one there and compare the last part"
            }
            JoinError::Refused { refusal: Some(refusal), role, retry_after, .. } => {
                let mut hint = hint_of_token(refusal, *role);
                if let Some(seconds) = retry_after {
                    hint.push_str(&format!("; this address presented too many such tokens, and is listened to again in {}", time_text::seconds(*seconds)));
                }
                return Some(hint);
            }
            JoinError::Refused { retry_after: Some(seconds), .. } => {
                return Some(format!("the contacted node has too much to do; try again in {}, the token is not used up", time_text::seconds(*seconds)));
            }
            JoinError::NotSigned { status: Some(503), retry_after: Some(seconds), .. } => {
                return Some(format!("the contacted node has too much to do; try again in {}, this node can use the token again", time_text::seconds(*seconds)));
            }
            JoinError::NotUnderstood { .. } | JoinError::MissingField { .. } | JoinError::BadField { .. } => {
                "something other than a cluster agent answers there, or one of a version that this program does not understand"
            }
            JoinError::NotSigned { .. } | JoinError::SigningUnanswered { .. } => "look into the log of the contacted node's cluster agent; the token is not used up",
            JoinError::NotListed { .. } => {
                "check that the nodes of the cluster reach each other on the datastore's port, 19001; this node is as it was, and the same command may be tried again"
            }
            JoinError::NoApiServer { .. } => {
                "check that this node reaches the API servers of the cluster, by default on port 16443, and look into the log of its service daemon-apiserver-proxy; this node is as it was"
            }
            JoinError::NoProxy { .. } => {
                "look into the service's log; this node is as it was"
            }
            // What is at fault is what an earlier join or leave left behind.
            JoinError::Journal(undo) if running == JoinStage::Preflight => undo.hint_of_undoing(),
            JoinError::Journal(JournalError::Service(_)) => {
                "look into the service's log; this node is as it was, and the same command may be tried again"
            }
            JoinError::NotTakenBack { undo, .. } => undo.hint_of_undoing(),
            _ => return None,
        }
        .to_owned(),
    )
}

/// Why the token is of no use, as far as the contacted node tells, and the command that helps.
fn hint_of_token(refusal: &Refusal, role: Role) -> String {
    const ISSUE: &str = "issue a new one on the contacted node with `microk8s add-node`";
    let ago = refusal.seconds_ago.map_or_else(String::new, |seconds| {
        format!(" {} ago", time_text::span(seconds))
    });
    let node = refusal
        .node
        .as_deref()
        .map(|node| sanitize::for_log(node, 120));
    let by = node
        .as_ref()
        .map_or_else(String::new, |node| format!(" by {node}"));
    match refusal.reason {
        Reason::Unknown => {
            "the contacted node does not know this token: was it issued on another node, or mistyped? `microk8s token list` shows there which ones it knows".to_owned()
        }
        Reason::Expired => format!("the token expired{ago}; {ISSUE}"),
        Reason::Used => format!("the token was used{by}{ago}; {ISSUE}"),
        Reason::Revoked => format!("the token was revoked{ago}; {ISSUE}"),
        Reason::Void => format!(
            "the token was issued before the contacted node joined or left a cluster, and is void since; {ISSUE}"
        ),
        Reason::WrongRole => match role {
            Role::ControlPlane => format!(
                "the token is for workers only: add `--worker`, or {ISSUE} and its option `--role control-plane`"
            ),
            Role::Worker => format!(
                "the token is for control plane nodes only: leave `--worker` out, or {ISSUE} and its option `--role worker`"
            ),
        },
        Reason::WrongNode => {
            let node = node.unwrap_or_else(|| "another node".to_owned());
            format!("the token is for {node} only; {ISSUE}")
        }
        Reason::InUse => {
            let who = node.unwrap_or_else(|| "another node".to_owned());
            format!("the token was taken by {who}{ago}, whose join is not complete: that node may use it again; for this one {ISSUE}")
        }
        Reason::Other => "look into the log of the contacted node's cluster agent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let failure = error.failure(JoinStage::Contact);
            assert_eq!(failure.microk8s_text.as_deref(), Some(text));
            assert_eq!((failure.exit, failure.error), (exit, None));
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
                "too much to do; try again in 10 seconds, the token",
            ),
            (refused(Some(unknown), Some(1)), "again in 1 second"),
        ] {
            let failure = error.failure(JoinStage::Admission);
            assert!(failure.hint.as_ref().unwrap().contains(hint), "{failure:?}");
            assert!(failure.retry_after.is_some());
        }
        let failure = refused(None, None).failure(JoinStage::Admission);
        assert_eq!((failure.hint, failure.retry_after), (None, None));
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
            error.failure(JoinStage::Contact).microk8s_text.unwrap(),
            "Connection failed. ?[2J (500)."
        );
    }
}
