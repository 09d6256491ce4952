//! How a join that failed ends: the stage that failed, the exit code, whether to try again, what to do,
//! and MicroK8s's own line where it has one. One match has all of it, a cause an arm; the texts of what
//! to do are named above it.

use std::fmt::Display;

use crate::base::exit_status::ExitStatus;
use crate::base::time_text;
use crate::client::pinned_tls::OtherCertificate;
use crate::client::remote::RemoteError;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::refusal::{self, Cause};
use crate::cluster::node_lock::NodeLockError;
use crate::cluster::transaction::JournalError;
use crate::model::join_stage::{JoinStage, Retry};
use crate::model::role::Role;
use crate::model::token_record::{Reason, Refusal};
use crate::wire::operation::Failure;

const ADD_WORKER: &str = "add `--worker` to join as a worker; the token can still be used";
const ANOTHER_PROGRAM: &str = "something other than a cluster agent answers there, or one of a version that this program does not understand";
const CHANGED_CERTIFICATE: &str = "the contacted node changed its certificate meanwhile, or several nodes answer at this address; try again";
const CHECK_ADDRESS: &str = "check the address and the port, that the cluster agent runs there, and that no firewall is in between; the token can still be used";
const CHECK_API_SERVERS: &str = "check that this node reaches the API servers of the cluster, by default on port 16443, and read the log of its service daemon-apiserver-proxy; this node is as it was";
const CHECK_CONTROL_PLANE: &str = "make sure that the control plane runs, and that this node reaches its API servers, then try again; if the node was removed, run `microk8s leave` on it first; the token can still be used";
const CHECK_DATASTORE: &str = "make sure that the datastore runs and has a majority, or take the connection string of another control plane node; if this node was removed, run `microk8s leave` on it first; the token can still be used";
const CHECK_DATASTORE_PORT: &str = "check that the nodes of the cluster reach each other on the datastore's port, 19001; this node is as it was, and the same command may be tried again";
const CONNECT_DIRECTLY: &str = "the nodes of a control plane have to reach each other without address translation (NAT): connect them to one network";
const FIX_DISK: &str = "fix what the message names, and try again; nothing of this node was changed, and the token can still be used";
const FIX_FILES: &str = "fix what the message names, and try again; this node is as it was";
const FIX_PROGRAM: &str =
    "this program cannot make a connection at all: fix what the message names";
const FOREIGN: &str = "something other than a cluster agent listens at this address and port";
const FOREIGN_OR_BUSY: &str = "something listens there that is not a cluster agent, or that has too much to do; the token can still be used";
const LEAVE_AND_JOIN: &str =
    "run `microk8s leave` on this node, then join again; the token can still be used";
const LEAVE_OTHER: &str =
    "leave that cluster with `microk8s leave` first; the token can still be used";
const LIST_ADDRESSES: &str = "`ip address` lists the addresses of this machine";
const NODE_DIRECTORY: &str =
    "fix what the message names, and try again; nothing of this node was changed";
const NO_ANSWER: &str = "the contacted node was reached, but did not answer: read the log of its cluster agent; this node can use the token again";
const NO_WORKERS: &str = "the contacted node took this one for a control plane node: update MicroK8s there, or leave `--worker` out";
const OWN_SERVICE: &str =
    "read the service's log; this node is as it was, and the same command may be tried again";
const PEERS_LOG: &str =
    "read the log of the contacted node's cluster agent; this node can use the token again";
const PROXYS_LOG: &str = "read the service's log; this node is as it was";
const RENAME: &str = "give the machine another name with `hostnamectl set-hostname NAME`, or the node with `--hostname-override=NAME` in `args/kubelet`; the token can still be used";
const SAME_VERSION: &str = "use the same version of MicroK8s on both nodes";
const SET_CLOCK: &str =
    "set the wrong one of the two clocks: `timedatectl set-ntp true`; the token can still be used";
const TAKEN_BACK: &str = "this node is as it was, and can use the token again";

impl JoinError {
    /// How a join ends that fails with this. `running` is the last stage that began: some errors can
    /// happen in several. The exit code is MicroK8s's where its client ends with a message and a code
    /// (recordings `join-*`), the stage's elsewhere.
    pub(crate) fn outcome(&self, running: JoinStage) -> Failure {
        use JoinStage::{
            Answer, ApiServer, Apply, Certificates, Datastore, Identity, Interrupted, Preflight,
            Undo,
        };
        use Retry::{CureFirst, NoRetry, TryAgain};
        let at = |stage, retry, hint: &str| failed(self, stage, retry, hint);
        match self {
            Self::NodeLock(error) => {
                let retry = match error {
                    NodeLockError::Busy | NodeLockError::Moved(_) => TryAgain,
                    NodeLockError::NoNode { .. } => CureFirst,
                };
                at(Preflight, retry, error.hint().unwrap_or(NODE_DIRECTORY))
            }
            Self::NoDatastore => at(Preflight, NoRetry, ADD_WORKER),
            Self::Name(_) => at(Preflight, CureFirst, RENAME),
            Self::NotOwnAddress(_) | Self::UnreachableAddress(_) => {
                at(Preflight, NoRetry, LIST_ADDRESSES)
            }
            Self::Unwritable { .. } => at(Apply, CureFirst, FIX_DISK),
            Self::Clock { .. } => at(Preflight, CureFirst, SET_CLOCK),
            Self::Translated(_) => at(Preflight, CureFirst, CONNECT_DIRECTLY),
            Self::Removed(_) | Self::Rejected => at(Preflight, CureFirst, LEAVE_AND_JOIN),
            Self::MemberUnanswered(_) => at(ApiServer, CureFirst, CHECK_CONTROL_PLANE),
            Self::Unconfirmed { .. } => at(Preflight, CureFirst, CHECK_DATASTORE),
            Self::Unreadable { .. } => at(Preflight, CureFirst, NODE_DIRECTORY),
            Self::OtherCluster(_) => at(Preflight, CureFirst, LEAVE_OTHER),
            Self::Remote(error) => of_remote(error),
            Self::NotVerified { address, source } => {
                at(Identity, NoRetry, &hint_of_other(source)).microk8s(&format!(
                    "Joining cluster failed. Could not verify the identity of {address}. Use '--skip-verify' to skip server certificate check."
                ))
            }
            Self::Refused { status, text, refusal, retry_after, role } => {
                of_refused(self, *status, text.as_deref(), refusal.as_ref(), *retry_after, *role)
            }
            Self::BadAnswer { .. } => at(Answer, NoRetry, ANOTHER_PROGRAM),
            Self::NoWorkers => at(Answer, NoRetry, NO_WORKERS)
                .exits(ExitStatus::Failure)
                .microk8s("Joining process failed. Make sure the cluster you connect to supports joining worker nodes."),
            Self::UnknownAuthMode(_) => at(Answer, NoRetry, SAME_VERSION)
                .exits(ExitStatus::UnknownAuthMode)
                // The braces are MicroK8s's; the error itself has the mode, for the log.
                .microk8s("Error: Unknown API auth mode '{api_authn_mode}' received from control plane node.\nPlease update this MicroK8s node to the latest version before joining."),
            Self::NotSigned { certificate, status, text, retry_after } => {
                let cause = Cause::of(status.unwrap_or(500), text.as_deref());
                let hint = hint_of_unsigned(cause, *retry_after);
                let failure = Failure {
                    retry_after: *retry_after,
                    ..at(Certificates, cause.advice().0, &hint)
                };
                let text = behind_a_blank(text.as_deref());
                failure.exits(ExitStatus::Failure).microk8s(&match status {
                    Some(status) => format!("Failed to sign {certificate} certificate ({status}).{text}"),
                    None => format!("Failed to sign certificate.{text}"),
                })
            }
            Self::SigningUnanswered { .. } => at(Certificates, TryAgain, PEERS_LOG),
            Self::Machine(_) | Self::Read(_) => {
                at(of_this_node(running), CureFirst, NODE_DIRECTORY)
            }
            Self::Pki(error) => {
                let hint = error.hint().unwrap_or(NODE_DIRECTORY);
                at(of_this_node(running), CureFirst, hint)
            }
            Self::Journal(error) => {
                let (stage, hint) = of_journal(error, running);
                at(stage, CureFirst, hint)
            }
            Self::NotListed(_) => at(Datastore, CureFirst, CHECK_DATASTORE_PORT),
            Self::NoApiServer { .. } => at(ApiServer, CureFirst, CHECK_API_SERVERS),
            Self::NoProxy(_) => at(ApiServer, CureFirst, PROXYS_LOG),
            Self::Interrupted => at(Interrupted, TryAgain, TAKEN_BACK),
            Self::NotTakenBack { undo, .. } => at(Undo, CureFirst, undo.hint_of_undoing()),
        }
    }
}

/// What is told of a join that failed in this stage.
fn failed(error: &dyn Display, stage: JoinStage, retry: Retry, hint: &str) -> Failure {
    Failure {
        retry: Some(retry),
        ..Failure::new(stage, stage.exit(), error).hint(hint)
    }
}

/// The stage in which something of this node is of no use.
fn of_this_node(running: JoinStage) -> JoinStage {
    match running {
        JoinStage::Preflight => JoinStage::Preflight,
        early if early <= JoinStage::Certificates => JoinStage::Certificates,
        _ => JoinStage::Apply,
    }
}

/// The stage in which a journal is of no use, and what to do.
fn of_journal(error: &JournalError, running: JoinStage) -> (JoinStage, &'static str) {
    match error {
        // The only journal that is looked at so early is that of a join or leave before.
        _ if running == JoinStage::Preflight => (JoinStage::Undo, error.hint_of_undoing()),
        JournalError::NotUndone(_) => (JoinStage::Undo, error.hint_of_undoing()),
        JournalError::Service(_) | JournalError::NotRestarted(_) => {
            (JoinStage::Services, OWN_SERVICE)
        }
        JournalError::File { .. } | JournalError::Entry { .. } => (JoinStage::Apply, FIX_FILES),
    }
}

fn of_remote(error: &RemoteError) -> Failure {
    use JoinStage::{Answer, Contact, Identity, Interrupted};
    use Retry::{CureFirst, NoRetry, TryAgain};
    let at = |stage, retry, hint: &str| failed(error, stage, retry, hint);
    let as_in_microk8s = |failure: Failure| {
        let text = format!("Please ensure the master node is reachable. {error}");
        failure.exits(ExitStatus::Failure).microk8s(&text)
    };
    match error {
        RemoteError::Connect { .. } | RemoteError::NoConnection(..) => {
            at(Contact, TryAgain, CHECK_ADDRESS)
        }
        RemoteError::NoHandshake(..) => at(Contact, TryAgain, FOREIGN_OR_BUSY),
        RemoteError::NoAnswer(..) => at(Contact, TryAgain, NO_ANSWER),
        RemoteError::Closed | RemoteError::CutOff { .. } => {
            as_in_microk8s(at(Contact, TryAgain, PEERS_LOG))
        }
        RemoteError::NotHttp(_) => as_in_microk8s(at(Contact, NoRetry, FOREIGN)),
        RemoteError::NotTls => at(Identity, NoRetry, FOREIGN).microk8s(
            "Peer node verification failed with [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006).",
        ),
        RemoteError::Tls(text) => at(Identity, CureFirst, FOREIGN)
            .microk8s(&format!("Peer node verification failed with {text}.")),
        RemoteError::OtherCertificate { .. } => at(Identity, TryAgain, CHANGED_CERTIFICATE),
        RemoteError::TooLarge => at(Answer, NoRetry, ANOTHER_PROGRAM),
        RemoteError::GivenUp => at(Interrupted, TryAgain, TAKEN_BACK),
        RemoteError::SetUp(_) => at(Contact, CureFirst, FIX_PROGRAM),
    }
}

fn hint_of_other(certificate: &OtherCertificate) -> String {
    format!(
        "the certificate there begins with {:.12}, and the connection string says {}: the string was mistyped, or another machine answers at this address, or the node's certificate has changed since; compare the last part with what `microk8s add-node` prints there; the token can still be used",
        certificate.served.to_string(),
        certificate.expected
    )
}

/// The contacted node said no.
fn of_refused(
    error: &JoinError,
    status: u16,
    text: Option<&str>,
    refusal: Option<&Refusal>,
    retry_after: Option<u64>,
    role: Role,
) -> Failure {
    let cause = Cause::of(status, text);
    let error: &dyn Display = match cause {
        // Scripts take MicroK8s's words for success; they stand on standard output alone.
        Cause::AlreadyListed => {
            &"the contacted node refused the join: its datastore lists this address already"
        }
        _ => error,
    };
    let (retry, hint) = of_refusal(cause, refusal, retry_after, role);
    let failure = failed(error, JoinStage::Admission, retry, &hint).microk8s(&format!(
        "Connection failed.{} ({status}).",
        behind_a_blank(text)
    ));
    let failure = match cause {
        Cause::Store => failure.exits(ExitStatus::Unreachable),
        _ => failure,
    };
    Failure {
        retry_after,
        // The agent of MicroK8s gives no reason.
        is_token_unknown: refusal.map_or(cause == Cause::Token, |refusal| {
            refusal.reason == Reason::Unknown
        }),
        ..failure
    }
}

/// What to do where the contacted node said no, in words or with a reason.
fn of_refusal(
    cause: Cause,
    refusal: Option<&Refusal>,
    retry_after: Option<u64>,
    role: Role,
) -> (Retry, String) {
    let wait = retry_after.map(in_words);
    let Some(refusal) = refusal else {
        let (retry, hint) = cause.advice();
        let hint = match wait.filter(|_| cause != Cause::Store) {
            Some(wait) => format!(
                "the contacted node has too much to do; try again in {wait}, the token can still be used"
            ),
            None => hint.to_owned(),
        };
        return (retry, hint);
    };
    let retry = match refusal.reason {
        Reason::Other => Retry::CureFirst,
        _ => Retry::NoRetry,
    };
    let mut hint = refusal::hint_of_token(refusal, role);
    if let Some(wait) = wait {
        hint.push_str(&format!(
            "; this address presented too many such tokens, and is answered again in {wait}"
        ));
    }
    (retry, hint)
}

fn in_words(seconds: u64) -> String {
    time_text::span(i64::try_from(seconds).unwrap_or(i64::MAX))
}

/// What to do where the contacted node admitted this one, and does not sign a certificate.
fn hint_of_unsigned(cause: Cause, retry_after: Option<u64>) -> String {
    match (cause, retry_after) {
        (_, Some(seconds)) => format!(
            "the contacted node has too much to do; try again in {}, this node can use the token again",
            in_words(seconds)
        ),
        (Cause::Token, None) => cause.advice().1.to_owned(),
        _ => PEERS_LOG.to_owned(),
    }
}

fn behind_a_blank(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!(" {text}"))
}
