//! How a join that failed ends: the stage that failed, the exit code, whether to try again, what to do,
//! and MicroK8s's own line where it has one. One match has all of it, a cause an arm.

use std::fmt::Display;

use crate::base::exit_status::ExitStatus;
use crate::base::time_text;
use crate::client::remote::RemoteError;
use crate::cluster::join::error::JoinError;
use crate::cluster::join::refusal::{self, Cause};
use crate::cluster::node_lock::NodeLockError;
use crate::cluster::transaction::JournalError;
use crate::model::join_stage::{JoinStage, Retry};
use crate::model::role::Role;
use crate::model::token_record::{Reason, Refusal};
use crate::wire::operation::Failure;

const ANOTHER_PROGRAM: &str = "something other than a cluster agent answers there, or one of a version that this program does not understand";
const PEERS_LOG: &str =
    "read the log of the contacted node's cluster agent; this node can use the token again";
const NODE_DIRECTORY: &str =
    "fix what the message names, and try again; nothing of this node was changed";
const TAKEN_BACK: &str = "this node is as it was, and can use the token again";
const OWN_SERVICE: &str =
    "read the service's log; this node is as it was, and the same command may be tried again";

impl JoinError {
    /// How a join ends that fails with this. `running` is the last stage that began: some errors can
    /// happen in several. The exit code is MicroK8s's where its client ends with a message and a code
    /// (recordings `join-*`), the stage's elsewhere.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each cause, to be read as a table"
    )]
    pub(crate) fn outcome(&self, running: JoinStage) -> Failure {
        use JoinStage::{
            Admission, Answer, ApiServer, Certificates, Datastore, Identity, Interrupted,
            Preflight, Undo,
        };
        use Retry::{CureFirst, NoRetry, TryAgain};
        let at = |stage, retry, hint: &str| failed(self, stage, retry, hint);
        match self {
            Self::NodeLock(error @ (NodeLockError::Busy | NodeLockError::Moved(_))) => at(
                Preflight,
                TryAgain,
                error.hint().unwrap_or("wait for it to finish"),
            ),
            Self::NodeLock(error @ NodeLockError::NoNode { .. }) => {
                at(Preflight, CureFirst, error.hint().unwrap_or(NODE_DIRECTORY))
            }
            Self::NoDatastore => {
                at(Preflight, NoRetry, "add `--worker` to join as a worker; the token can still be used")
            }
            Self::Name(_) => at(
                Preflight,
                CureFirst,
                "give the machine another name with `hostnamectl set-hostname NAME`, or the node with `--hostname-override=NAME` in `args/kubelet`; the token can still be used",
            ),
            Self::NotOwnAddress(_) | Self::UnreachableAddress(_) => at(
                Preflight,
                NoRetry,
                "`ip address` lists the addresses of this machine",
            ),
            Self::Unwritable { .. } => at(
                JoinStage::Apply,
                CureFirst,
                "fix what the message names, and try again; nothing of this node was changed, and the token can still be used",
            ),
            Self::Clock { .. } => at(
                Preflight,
                CureFirst,
                "set the wrong one of the two clocks: `timedatectl set-ntp true`; the token can still be used",
            ),
            Self::Translated(_) => at(
                Preflight,
                CureFirst,
                "the nodes of a control plane have to reach each other without address translation (NAT): connect them to one network",
            ),
            Self::Removed(_) | Self::Rejected => at(
                Preflight,
                CureFirst,
                "run `microk8s leave` on this node, then join again; the token can still be used",
            ),
            Self::MemberUnanswered { .. } => at(
                ApiServer,
                CureFirst,
                "make sure that the control plane runs, and that this node reaches its API servers, then try again; if the node was removed, run `microk8s leave` on it first; the token can still be used",
            ),
            Self::Unconfirmed { .. } => at(
                Preflight,
                CureFirst,
                "make sure that the datastore runs and has a majority, or take the connection string of another control plane node; if this node was removed, run `microk8s leave` on it first; the token can still be used",
            ),
            Self::Unreadable { .. } => at(Preflight, CureFirst, NODE_DIRECTORY),
            Self::OtherCluster(_) => at(
                Preflight,
                CureFirst,
                "leave that cluster with `microk8s leave` first; the token can still be used",
            ),
            Self::Remote(error) => of_remote(error),
            Self::NotVerified { address, source } => at(
                Identity,
                NoRetry,
                &format!(
                    "the certificate there begins with {:.12}, and the connection string says {}: the string was mistyped, or another machine answers at this address, or the node's certificate has changed since; compare the last part with what `microk8s add-node` prints there; the token can still be used",
                    source.served.to_string(),
                    source.expected
                ),
            )
            .microk8s(&format!(
                "Joining cluster failed. Could not verify the identity of {address}. Use '--skip-verify' to skip server certificate check."
            )),
            Self::Refused {
                status,
                text,
                refusal,
                retry_after,
                role,
            } => {
                let cause = Cause::of(*status, text.as_deref());
                let (retry, hint) = of_refusal(cause, refusal.as_ref(), *retry_after, *role);
                let text = behind_a_blank(text.as_deref());
                let error = match cause {
                    // Scripts take MicroK8s's words for success; they stand on standard output alone.
                    Cause::AlreadyListed => {
                        "the contacted node refused the join: its datastore lists this address already".to_owned()
                    }
                    _ => self.to_string(),
                };
                let exit = match cause {
                    Cause::Store => ExitStatus::Unreachable,
                    _ => Admission.exit(),
                };
                Failure {
                    error,
                    retry_after: *retry_after,
                    // The agent of MicroK8s gives no reason.
                    is_token_unknown: refusal.as_ref().map_or(cause == Cause::Token, |refusal| {
                        refusal.reason == Reason::Unknown
                    }),
                    ..at(Admission, retry, &hint).exits(exit)
                }
                .microk8s(&format!("Connection failed.{text} ({status})."))
            }
            Self::NotUnderstood { .. }
            | Self::MissingField { .. }
            | Self::BadField { .. } => at(Answer, NoRetry, ANOTHER_PROGRAM),
            Self::NoWorkers => at(
                Answer,
                NoRetry,
                "the contacted node took this one for a control plane node: update MicroK8s there, or leave `--worker` out",
            )
            .exits(ExitStatus::Failure)
            .microk8s("Joining process failed. Make sure the cluster you connect to supports joining worker nodes."),
            Self::UnknownAuthMode(_) => at(
                Answer,
                NoRetry,
                "use the same version of MicroK8s on both nodes",
            )
            .exits(ExitStatus::UnknownAuthMode)
            // The braces are MicroK8s's; the error itself has the mode, for the log.
            .microk8s("Error: Unknown API auth mode '{api_authn_mode}' received from control plane node.\nPlease update this MicroK8s node to the latest version before joining."),
            Self::NotSigned {
                certificate,
                status,
                text,
                retry_after,
            } => {
                let cause = Cause::of(status.unwrap_or(500), text.as_deref());
                let text = behind_a_blank(text.as_deref());
                Failure {
                    retry_after: *retry_after,
                    ..at(Certificates, cause.retry(), &hint_of_unsigned(cause, *retry_after))
                }
                .exits(ExitStatus::Failure)
                .microk8s(&match status {
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
            // The only journal that is looked at so early is that of a join or leave before.
            Self::Journal(undo)
                if running == Preflight || matches!(undo, JournalError::NotUndone(_)) =>
            {
                at(Undo, CureFirst, undo.hint_of_undoing())
            }
            Self::Journal(JournalError::Service(_) | JournalError::NotRestarted(_)) => {
                at(JoinStage::Services, CureFirst, OWN_SERVICE)
            }
            Self::Journal(
                JournalError::File { .. } | JournalError::Entry { .. } | JournalError::NotUndone(_),
            ) => {
                at(
                    JoinStage::Apply,
                    CureFirst,
                    "fix what the message names, and try again; this node is as it was",
                )
            }
            Self::NotListed { .. } => at(
                Datastore,
                CureFirst,
                "check that the nodes of the cluster reach each other on the datastore's port, 19001; this node is as it was, and the same command may be tried again",
            ),
            Self::NoApiServer { .. } => at(
                ApiServer,
                CureFirst,
                "check that this node reaches the API servers of the cluster, by default on port 16443, and read the log of its service daemon-apiserver-proxy; this node is as it was",
            ),
            Self::NoProxy { .. } => at(
                ApiServer,
                CureFirst,
                "read the service's log; this node is as it was",
            ),
            Self::Interrupted => at(
                Interrupted,
                TryAgain,
                TAKEN_BACK,
            ),
            Self::NotTakenBack { undo, .. } => {
                at(Undo, CureFirst, undo.hint_of_undoing())
            }
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

fn of_remote(error: &RemoteError) -> Failure {
    use JoinStage::{Answer, Contact, Identity, Interrupted};
    use Retry::{CureFirst, NoRetry, TryAgain};
    const FOREIGN: &str = "something other than a cluster agent listens at this address and port";
    let at = |stage, retry, hint: &str| failed(error, stage, retry, hint);
    let reachable = format!("Please ensure the master node is reachable. {error}");
    match error {
        RemoteError::Connect { .. } | RemoteError::NoConnection { .. } => at(
            Contact,
            TryAgain,
            "check the address and the port, that the cluster agent runs there, and that no firewall is in between; the token can still be used",
        ),
        RemoteError::NoHandshake { .. } => at(
            Contact,
            TryAgain,
            "something listens there that is not a cluster agent, or that has too much to do; the token can still be used",
        ),
        RemoteError::NoAnswer { .. } => at(
            Contact,
            TryAgain,
            "the contacted node was reached, but did not answer: read the log of its cluster agent; this node can use the token again",
        ),
        RemoteError::Closed | RemoteError::CutOff { .. } => {
            at(Contact, TryAgain, PEERS_LOG).exits(ExitStatus::Failure).microk8s(&reachable)
        }
        RemoteError::NotHttp(_) => {
            at(Contact, NoRetry, FOREIGN).exits(ExitStatus::Failure).microk8s(&reachable)
        }
        RemoteError::NotTls => at(Identity, NoRetry, FOREIGN).microk8s("Peer node verification failed with [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)."),
        RemoteError::Tls(text) => at(Identity, CureFirst, FOREIGN).microk8s(&format!("Peer node verification failed with {text}.")),
        RemoteError::OtherCertificate { .. } => at(
            Identity,
            TryAgain,
            "the contacted node changed its certificate meanwhile, or several nodes answer at this address; try again",
        ),
        RemoteError::TooLarge => at(Answer, NoRetry, ANOTHER_PROGRAM),
        RemoteError::GivenUp => at(
            Interrupted,
            TryAgain,
            TAKEN_BACK,
        ),
        RemoteError::SetUp(_) => at(
            Contact,
            CureFirst,
            "this program cannot make a connection at all: fix what the message names",
        ),
    }
}

/// The contacted node said no, in words or with a reason.
fn of_refusal(
    cause: Cause,
    refusal: Option<&Refusal>,
    retry_after: Option<u64>,
    role: Role,
) -> (Retry, String) {
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
        let wait = in_words(seconds);
        hint = match refusal {
            Some(_) => format!(
                "{hint}; this address presented too many such tokens, and is answered again in {wait}"
            ),
            None if cause == Cause::Store => hint,
            None => format!(
                "the contacted node has too much to do; try again in {wait}, the token can still be used"
            ),
        };
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
        (Cause::Token, None) => cause.hint().to_owned(),
        _ => PEERS_LOG.to_owned(),
    }
}

fn behind_a_blank(text: Option<&str>) -> String {
    text.map_or_else(String::new, |text| format!(" {text}"))
}
