//! How a join that failed ends: the stage that failed, the exit code, whether to try again, and what
//! to do. One match has all of it, a cause an arm.

use crate::base::exit_status::ExitStatus;
use crate::base::{sanitize, time_text};
use crate::client::remote::RemoteError;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::refusal::{self, Cause};
use crate::cluster::node_lock::NodeLockError;
use crate::cluster::transaction::JournalError;
use crate::model::join_stage::{JoinStage, Retry};
use crate::model::role::Role;
use crate::model::token_record::{Reason, Refusal};

/// What is told of a join that failed, beside its text.
#[derive(Debug)]
pub struct Outcome {
    /// The stage that failed.
    pub stage: JoinStage,
    /// MicroK8s's exit code where its client ends with a message and a code (`messages.md`, join),
    /// the stage's elsewhere.
    pub exit: ExitStatus,
    /// Whether the same command may succeed when it is run again.
    pub retry: Retry,
    /// What to do. It holds no join command and no phrase that scripts look for in what commands
    /// print.
    pub hint: String,
}

impl Outcome {
    fn new(stage: JoinStage, retry: Retry, hint: impl Into<String>) -> Self {
        Self {
            stage,
            exit: stage.exit(),
            retry,
            hint: hint.into(),
        }
    }

    fn exits(self, exit: ExitStatus) -> Self {
        Self { exit, ..self }
    }
}

const ANOTHER_PROGRAM: &str = "something other than a cluster agent answers there, or one of a version that this program does not understand";
const PEERS_LOG: &str =
    "look into the log of the contacted node's cluster agent; this node can use the token again";
const NODE_DIRECTORY: &str =
    "cure what the message names, and try again; nothing of this node was changed";
const OWN_SERVICE: &str =
    "look into the service's log; this node is as it was, and the same command may be tried again";

/// The verdict on an error. `running` is the last stage that began: some errors can happen in several.
#[expect(
    clippy::too_many_lines,
    reason = "one arm for each cause, to be read as a table"
)]
pub fn of(error: &JoinError, running: JoinStage) -> Outcome {
    use JoinStage::{
        Answer, ApiServer, Certificates, Datastore, Identity, Interrupted, Preflight, Undo,
    };
    use Retry::{CureFirst, NoRetry, TryAgain};
    match error {
        JoinError::NodeLock(error @ (NodeLockError::Busy | NodeLockError::Moved(_))) => Outcome::new(
            Preflight,
            TryAgain,
            error.hint().unwrap_or("wait for it to finish"),
        ),
        JoinError::NodeLock(error @ NodeLockError::NoNode { .. }) => {
            Outcome::new(Preflight, CureFirst, error.hint().unwrap_or(NODE_DIRECTORY))
        }
        JoinError::NoDatastore => {
            Outcome::new(Preflight, NoRetry, "join as a worker, with --worker")
        }
        JoinError::Name(_) => Outcome::new(
            Preflight,
            CureFirst,
            "give the machine another name with `hostnamectl set-hostname NAME`, or the node with `--hostname-override=NAME` in `args/kubelet`; the token is not used up",
        ),
        JoinError::NotOwnAddress(_) | JoinError::UnreachableAddress(_) => Outcome::new(
            Preflight,
            NoRetry,
            "`ip address` lists the addresses of this machine",
        ),
        JoinError::Unwritable { .. } => Outcome::new(
            JoinStage::Apply,
            CureFirst,
            "cure what the message names, and try again; nothing of this node was changed, and the token is not used up",
        ),
        JoinError::Clock { .. } => Outcome::new(
            Preflight,
            CureFirst,
            "set the wrong one of the two clocks: `timedatectl set-ntp true`; the token is not used up",
        ),
        JoinError::Translated(_) => Outcome::new(
            Preflight,
            CureFirst,
            "the nodes of a control plane have to reach each other without address translation (NAT): connect them to one network",
        ),
        JoinError::Removed(_) | JoinError::Rejected => Outcome::new(
            Preflight,
            CureFirst,
            "run `microk8s leave` on this node, then join again; the token is not used up",
        ),
        JoinError::MemberUnanswered { .. } => Outcome::new(
            ApiServer,
            CureFirst,
            "see that the control plane runs, and that this node reaches its API servers, then try again; if the node was removed, run `microk8s leave` on it first; the token is not used up",
        ),
        JoinError::Unconfirmed { .. } => Outcome::new(
            Preflight,
            CureFirst,
            "see that the datastore runs and has a majority, or take the connection string of another control plane node; if this node was removed, run `microk8s leave` on it first; the token is not used up",
        ),
        JoinError::Unreadable { .. } => Outcome::new(Preflight, CureFirst, NODE_DIRECTORY),
        JoinError::OtherCluster(_) => Outcome::new(
            Preflight,
            CureFirst,
            "leave that cluster with `microk8s leave` first; the token is not used up",
        ),
        JoinError::Remote(error) => of_remote(error),
        JoinError::NotVerified(_) => Outcome::new(
            Identity,
            NoRetry,
            "another machine answers at this address, or the node's certificate has changed since the token was issued; issue a new one there and compare the last part",
        ),
        JoinError::Refused {
            status,
            text,
            refusal,
            retry_after,
            role,
        } => of_refusal(
            Cause::of(*status, text.as_deref()),
            refusal.as_ref(),
            *retry_after,
            *role,
        ),
        JoinError::NotUnderstood { .. }
        | JoinError::MissingField { .. }
        | JoinError::BadField { .. } => Outcome::new(Answer, NoRetry, ANOTHER_PROGRAM),
        JoinError::NoWorkers => Outcome::new(
            Answer,
            NoRetry,
            "the contacted node took this one for a control plane node: update MicroK8s there, or leave `--worker` out",
        )
        .exits(ExitStatus::Failure),
        JoinError::UnknownAuthMode(mode) => Outcome::new(
            Answer,
            NoRetry,
            format!(
                "the contacted node's mode is `{}`; use the same version of MicroK8s on both nodes",
                sanitize::for_log(mode, 40)
            ),
        )
        .exits(ExitStatus::UnknownAuthMode),
        JoinError::NotSigned {
            status,
            text,
            retry_after,
            ..
        } => {
            let status = status.unwrap_or(500);
            of_unsigned(Cause::of(status, text.as_deref()), *retry_after)
        }
        JoinError::SigningUnanswered { .. } => Outcome::new(Certificates, TryAgain, PEERS_LOG),
        JoinError::Machine(_) | JoinError::Read(_) => {
            Outcome::new(of_this_node(running), CureFirst, NODE_DIRECTORY)
        }
        JoinError::Pki(error) => {
            let hint = error.hint().unwrap_or(NODE_DIRECTORY);
            Outcome::new(of_this_node(running), CureFirst, hint)
        }
        // The only journal that is looked at so early is that of a join or leave before.
        JoinError::Journal(undo)
            if running == Preflight || matches!(undo, JournalError::NotUndone(_)) =>
        {
            Outcome::new(Undo, CureFirst, undo.hint_of_undoing())
        }
        JoinError::Journal(JournalError::Service(_) | JournalError::NotRestarted(_)) => {
            Outcome::new(JoinStage::Services, CureFirst, OWN_SERVICE)
        }
        JoinError::Journal(
            JournalError::File { .. } | JournalError::Entry { .. } | JournalError::NotUndone(_),
        ) => {
            Outcome::new(
                JoinStage::Apply,
                CureFirst,
                "cure what the message names, and try again; this node is as it was",
            )
        }
        JoinError::NotListed { .. } => Outcome::new(
            Datastore,
            CureFirst,
            "check that the nodes of the cluster reach each other on the datastore's port, 19001; this node is as it was, and the same command may be tried again",
        ),
        JoinError::NoApiServer { .. } => Outcome::new(
            ApiServer,
            CureFirst,
            "check that this node reaches the API servers of the cluster, by default on port 16443, and look into the log of its service daemon-apiserver-proxy; this node is as it was",
        ),
        JoinError::NoProxy { .. } => Outcome::new(
            ApiServer,
            CureFirst,
            "look into the service's log; this node is as it was",
        ),
        JoinError::Interrupted => Outcome::new(
            Interrupted,
            TryAgain,
            "this node is as it was, and can use the token again",
        ),
        JoinError::NotTakenBack { undo, .. } => {
            Outcome::new(Undo, CureFirst, undo.hint_of_undoing())
        }
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

fn of_remote(error: &RemoteError) -> Outcome {
    use JoinStage::{Answer, Contact, Identity, Interrupted};
    use Retry::{CureFirst, NoRetry, TryAgain};
    const FOREIGN: &str = "something other than a cluster agent listens at this address and port";
    match error {
        RemoteError::Connect { .. } | RemoteError::NoConnection { .. } => Outcome::new(
            Contact,
            TryAgain,
            "check the address and the port, that the cluster agent runs there, and that no firewall is in between; the token is not used up",
        ),
        RemoteError::NoHandshake { .. } => Outcome::new(
            Contact,
            TryAgain,
            "something listens there that is not a cluster agent, or that has too much to do; the token is not used up",
        ),
        RemoteError::NoAnswer { .. } => Outcome::new(
            Contact,
            TryAgain,
            "the contacted node was reached: look into the log of its cluster agent; this node can use the token again",
        ),
        RemoteError::Closed | RemoteError::CutOff { .. } => {
            Outcome::new(Contact, TryAgain, PEERS_LOG).exits(ExitStatus::Failure)
        }
        RemoteError::NotHttp(_) => {
            Outcome::new(Contact, NoRetry, FOREIGN).exits(ExitStatus::Failure)
        }
        RemoteError::NotTls => Outcome::new(Identity, NoRetry, FOREIGN),
        RemoteError::Tls(_) => Outcome::new(Identity, CureFirst, FOREIGN),
        RemoteError::OtherCertificate(_) => Outcome::new(
            Identity,
            TryAgain,
            "the contacted node changed its certificate meanwhile, or several nodes answer at this address; try again",
        ),
        RemoteError::TooLarge => Outcome::new(Answer, NoRetry, ANOTHER_PROGRAM),
        RemoteError::GivenUp => Outcome::new(
            Interrupted,
            TryAgain,
            "this node is as it was, and can use the token again",
        ),
        RemoteError::SetUp(_) => Outcome::new(
            Contact,
            CureFirst,
            "this program cannot make a connection at all: cure what the message names",
        ),
    }
}

/// The contacted node said no, in words or with a reason.
fn of_refusal(
    cause: Cause,
    refusal: Option<&Refusal>,
    retry_after: Option<u64>,
    role: Role,
) -> Outcome {
    let (retry, mut hint) = match refusal {
        Some(refusal) => {
            let retry = match refusal.reason {
                Reason::Other => Retry::CureFirst,
                _ => Retry::NoRetry,
            };
            (retry, refusal::hint_of_token(refusal, role))
        }
        None => (cause.retry(), cause.hint().to_owned()),
    };
    if let Some(seconds) = retry_after {
        let seconds = time_text::seconds(seconds);
        hint = match refusal {
            Some(_) => format!(
                "{hint}; this address presented too many such tokens, and is listened to again in {seconds}"
            ),
            None => format!(
                "the contacted node cannot answer that now; try again in {seconds}, the token is not used up"
            ),
        };
    }
    Outcome::new(JoinStage::Admission, retry, hint)
}

/// The contacted node let this one in, and does not sign a certificate.
fn of_unsigned(cause: Cause, retry_after: Option<u64>) -> Outcome {
    let hint = match (cause, retry_after) {
        (_, Some(seconds)) => format!(
            "the contacted node cannot answer that now; try again in {}, this node can use the token again",
            time_text::seconds(seconds)
        ),
        (Cause::Token, None) => cause.hint().to_owned(),
        _ => PEERS_LOG.to_owned(),
    };
    Outcome::new(JoinStage::Certificates, cause.retry(), hint).exits(ExitStatus::Failure)
}
