//! What a failed join is called: the stage that failed, the exit code, and whether to try again.

use crate::base::exit_status::ExitStatus;
use crate::client::remote::RemoteError;
use crate::cluster::join::error::JoinError;
use crate::cluster::journal::JournalError;
use crate::cluster::turn::TurnError;
use crate::model::join_stage::{JoinStage, Retry};
use crate::model::token_life::Reason;

/// The stage that failed. `running` is the last one that began: some errors can happen in several.
pub fn stage(error: &JoinError, running: JoinStage) -> JoinStage {
    match error {
        JoinError::Turn(_)
        | JoinError::NoDatastore
        | JoinError::NotOwnAddress(_)
        | JoinError::UnreachableAddress(_)
        | JoinError::OtherCluster(_) => JoinStage::Preflight,
        JoinError::NotVerified(_)
        | JoinError::Remote(
            RemoteError::NotTls | RemoteError::Tls(_) | RemoteError::OtherCertificate(_),
        ) => JoinStage::Identity,
        JoinError::Remote(RemoteError::TooLarge) => JoinStage::Answer,
        JoinError::Remote(_) => JoinStage::Contact,
        JoinError::Refused { .. } => JoinStage::Admission,
        JoinError::NotUnderstood { .. }
        | JoinError::MissingField { .. }
        | JoinError::BadField { .. }
        | JoinError::NoWorkers
        | JoinError::UnknownAuthMode(_) => JoinStage::Answer,
        JoinError::NotSigned { .. } | JoinError::SigningUnanswered { .. } => {
            JoinStage::Certificates
        }
        JoinError::Machine(_) | JoinError::Read(_) | JoinError::Pki(_) => match running {
            JoinStage::Preflight => JoinStage::Preflight,
            early if early <= JoinStage::Certificates => JoinStage::Certificates,
            _ => JoinStage::Apply,
        },
        // The only journal that is looked at so early is that of a join or leave before.
        JoinError::Journal(_) if running == JoinStage::Preflight => JoinStage::Undo,
        JoinError::Journal(JournalError::Service(_) | JournalError::NotRestarted(_)) => {
            JoinStage::Services
        }
        JoinError::Journal(JournalError::File { .. } | JournalError::Entry { .. }) => {
            JoinStage::Apply
        }
        JoinError::NotListed { .. } => JoinStage::Datastore,
        JoinError::NoApiServer { .. } | JoinError::NoProxy { .. } => JoinStage::ApiServer,
        JoinError::Interrupted => JoinStage::Interrupted,
        // The files are the old ones; what is wrong is what made the join fail.
        JoinError::NotTakenBack {
            error,
            undo: JournalError::NotRestarted(_),
        } => stage(error, running),
        JoinError::NotTakenBack { .. } => JoinStage::Undo,
    }
}

/// The exit code: MicroK8s's own where its client ends with a message and a code (`messages.md`,
/// join), the stage's elsewhere.
pub fn exit(error: &JoinError, running: JoinStage) -> ExitStatus {
    match error {
        JoinError::Remote(
            RemoteError::Closed | RemoteError::NotHttp(_) | RemoteError::CutOff { .. },
        )
        | JoinError::NoWorkers
        | JoinError::NotSigned { .. } => ExitStatus::Failure,
        JoinError::UnknownAuthMode(_) => ExitStatus::UnknownAuthMode,
        JoinError::NotTakenBack {
            error,
            undo: JournalError::NotRestarted(_),
        } => exit(error, running),
        other => stage(other, running).exit(),
    }
}

/// Whether the same command may succeed when it is run again.
pub fn retry(error: &JoinError) -> Retry {
    match error {
        JoinError::Turn(TurnError::Busy)
        | JoinError::SigningUnanswered { .. }
        | JoinError::Interrupted => Retry::TryAgain,
        JoinError::Remote(error) => of_remote(error),
        JoinError::Refused {
            status, refusal, ..
        } => match refusal.as_ref().map(|refusal| refusal.reason) {
            Some(Reason::Other) => Retry::CureFirst,
            Some(_) => Retry::NoRetry,
            None => of_status(*status),
        },
        JoinError::NotSigned { status, .. } => of_status(status.unwrap_or(500)),
        JoinError::NoDatastore
        | JoinError::NotOwnAddress(_)
        | JoinError::UnreachableAddress(_)
        | JoinError::OtherCluster(_)
        | JoinError::NotVerified(_)
        | JoinError::NotUnderstood { .. }
        | JoinError::MissingField { .. }
        | JoinError::BadField { .. }
        | JoinError::NoWorkers
        | JoinError::UnknownAuthMode(_) => Retry::NoRetry,
        JoinError::Turn(TurnError::NoNode { .. })
        | JoinError::Machine(_)
        | JoinError::Read(_)
        | JoinError::Pki(_)
        | JoinError::Journal(_)
        | JoinError::NotListed { .. }
        | JoinError::NoApiServer { .. }
        | JoinError::NoProxy { .. }
        | JoinError::NotTakenBack { .. } => Retry::CureFirst,
    }
}

fn of_remote(error: &RemoteError) -> Retry {
    match error {
        RemoteError::Connect { .. }
        | RemoteError::NoAnswer { .. }
        | RemoteError::Closed
        | RemoteError::CutOff { .. }
        | RemoteError::GivenUp
        | RemoteError::OtherCertificate(_) => Retry::TryAgain,
        RemoteError::Tls(_) | RemoteError::SetUp(_) => Retry::CureFirst,
        RemoteError::NotTls | RemoteError::NotHttp(_) | RemoteError::TooLarge => Retry::NoRetry,
    }
}

/// What an agent means by a status without a reason: 429 and 503 come of too many requests, other
/// errors of the server of something that is wrong there.
fn of_status(status: u16) -> Retry {
    match status {
        429 | 503 => Retry::TryAgain,
        500.. => Retry::CureFirst,
        _ => Retry::NoRetry,
    }
}
