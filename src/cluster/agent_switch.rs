//! Which agent serves a node of MicroK8s's snap: that of the snap, or this program's as a unit of
//! systemd.
//!
//! A switch is a list of steps, each with its inverse. When one fails, or the new agent does not
//! serve within its time, the steps so far are undone, and the agent of before serves again. Tokens
//! are not moved: both agents read the same token files, and what this program keeps beside them
//! stays where it is.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::base::atomic_file::{self, Access};
use crate::base::file_lock::{FileLock, FileLockError};
use crate::base::missing::none_if_missing;
use crate::base::wait;
use crate::cluster::node::Node;
use crate::platform::{CommandError, Service, ServiceState, network, snap, unit};
use crate::store::layout::Kind;

/// Where systemd looks for units of the machine. A switch holds the lock on it.
const UNIT_FOLDER: &str = "/etc/systemd/system";
/// The unit that a switch writes. One of the Debian package, of the same name, gives way to it.
const UNIT_FILE: &str = "/etc/systemd/system/microk8s-cluster-agent.service";
const UNIT: &str = "microk8s-cluster-agent.service";
const TEXT: &str = include_str!("../../packaging/snap/microk8s-cluster-agent.service");
/// The program, as `TEXT` has it.
const PROGRAM: &str = "/usr/local/bin/microk8s";

/// How long no node may have been connected before the agent that serves is stopped: a join makes
/// keys between two of its requests.
const QUIET: Duration = Duration::from_secs(3);
/// How long that is waited for.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// How long the snap's agent may take to serve.
const START_LIMIT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The agent that is to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    Snaps,
    Own,
}

/// Why the other agent does not serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SwitchError {
    #[error("only root may choose the agent of this node")]
    NotRoot,
    #[error("there is no node of MicroK8s's snap in `{}`", .0.display())]
    NoSnap(PathBuf),
    #[error("systemd does not run on this machine")]
    NoSystemd,
    #[error("another command is choosing the agent of this node")]
    Busy,
    #[error("`{}` cannot be the program of a service: {why}", path.display())]
    Program { path: PathBuf, why: &'static str },
    #[error("`{UNIT_FILE}` is not a unit of this program")]
    ForeignUnit,
    #[error("cannot use `{}`: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{0}; the agent that served before serves again")]
    Undone(StepError),
    #[error("{failed}; undoing it failed, too: {then}")]
    NotUndone { failed: StepError, then: StepError },
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("cannot write `{UNIT_FILE}`: {0}")]
    Unit(#[from] io::Error),
    #[error("the agent of the snap does not listen on port {0}")]
    Silent(u16),
    #[error("the switch was interrupted")]
    Interrupted,
}

/// A step of a switch.
#[derive(Debug)]
pub(crate) enum Step {
    /// This text is the unit; none is there for `None`.
    Unit(Option<String>),
    Quiet,
    StopSnaps,
    StartSnaps,
    StartOwn,
    StopOwn,
}

impl Step {
    /// What it does, in a line.
    pub(crate) fn describe(&self) -> String {
        let snaps = Service::ClusterAgent.daemon();
        match self {
            Self::Unit(Some(_)) => format!("write {UNIT_FILE}"),
            Self::Unit(None) => format!("remove {UNIT_FILE}"),
            Self::Quiet => format!(
                "wait until no other node is connected ({} seconds at most)",
                QUIET_LIMIT.as_secs()
            ),
            Self::StopSnaps => format!("stop and disable microk8s.{snaps}"),
            Self::StartSnaps => format!("enable and start microk8s.{snaps}"),
            Self::StartOwn => format!("enable and start {UNIT}"),
            Self::StopOwn => format!("stop and disable {UNIT}"),
        }
    }

    fn inverse(&self, unit_before: Option<&String>) -> Option<Self> {
        match self {
            Self::Unit(_) => Some(Self::Unit(unit_before.cloned())),
            Self::Quiet => None,
            Self::StopSnaps => Some(Self::StartSnaps),
            Self::StartSnaps => Some(Self::StopSnaps),
            Self::StartOwn => Some(Self::StopOwn),
            Self::StopOwn => Some(Self::StartOwn),
        }
    }

    fn run(&self, node: &Node, interrupted: &CancellationToken) -> Result<(), StepError> {
        let port = node.agent_bind().port();
        match self {
            Self::Unit(text) => {
                let path = Path::new(UNIT_FILE);
                match text {
                    Some(text) => atomic_file::write(path, text.as_bytes(), Access::mode(0o644))?,
                    None => atomic_file::remove(path)?,
                }
                unit::systemctl(&["daemon-reload"])?;
            }
            Self::Quiet => await_quiet(port, interrupted),
            Self::StopSnaps => snap::snap(&["stop", "--disable"], Service::ClusterAgent)?,
            Self::StartSnaps => {
                snap::snap(&["start", "--enable"], Service::ClusterAgent)?;
                let serves = || network::connections_at(port).listens.then_some(());
                wait::until(START_LIMIT, POLL_INTERVAL, serves).ok_or(StepError::Silent(port))?;
            }
            // systemd waits until the agent says that it serves.
            Self::StartOwn => unit::systemctl(&["enable", "--now", UNIT])?,
            Self::StopOwn => unit::systemctl(&["disable", "--now", UNIT])?,
        }
        Ok(())
    }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> SwitchError {
    let path = path.to_owned();
    move |source| SwitchError::File { path, source }
}

/// The steps of a switch, after all that can be checked before. Empty where the agent serves already.
pub(crate) struct Switch {
    node: Node,
    pub(crate) steps: Vec<Step>,
    unit_before: Option<String>,
    _lock: FileLock,
}

impl Switch {
    /// Checks the machine; changes nothing.
    pub(crate) fn new(node: &Node, to: Agent) -> Result<Self, SwitchError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(SwitchError::NotRoot);
        }
        if node.layout.kind() != Kind::Snap || !node.layout.exists() {
            return Err(SwitchError::NoSnap(node.layout.data().to_owned()));
        }
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(SwitchError::NoSystemd);
        }
        let lock = FileLock::try_take_folder(Path::new(UNIT_FOLDER));
        let lock = lock.map_err(|error| match error {
            FileLockError::Held => SwitchError::Busy,
            FileLockError::Io(error) => file_error(Path::new(UNIT_FOLDER))(error),
        })?;
        let unit_before = none_if_missing(fs::read_to_string(UNIT_FILE))
            .map_err(file_error(Path::new(UNIT_FILE)))?;
        let is_foreign = |text: &String| !text.contains("microk8s agent");
        if unit_before.as_ref().is_some_and(is_foreign) {
            return Err(SwitchError::ForeignUnit);
        }
        let snaps_runs = node.platform.service_state(Service::ClusterAgent) == ServiceState::Active;
        let own_runs = unit::systemctl(&["is-active", "--quiet", UNIT]).is_ok();
        let steps = match to {
            Agent::Own => {
                let text = TEXT.replace(PROGRAM, &program()?.to_string_lossy());
                let serves_alone = own_runs && !snaps_runs;
                if serves_alone && unit_before.as_ref() == Some(&text) {
                    Vec::new()
                } else {
                    // A unit that was written by hand runs with the new text from now on.
                    let stop = match serves_alone {
                        true => Step::StopOwn,
                        false => Step::StopSnaps,
                    };
                    vec![Step::Quiet, stop, Step::Unit(Some(text)), Step::StartOwn]
                }
            }
            Agent::Snaps => match (&unit_before, snaps_runs) {
                (None, true) => Vec::new(),
                (None, false) => vec![Step::StartSnaps],
                (Some(_), _) => vec![
                    Step::Quiet,
                    Step::StopOwn,
                    Step::StartSnaps,
                    Step::Unit(None),
                ],
            },
        };
        Ok(Self {
            node: node.clone(),
            steps,
            unit_before,
            _lock: lock,
        })
    }

    /// Takes the steps, telling each before it is taken.
    pub(crate) fn run(
        &self,
        interrupted: &CancellationToken,
        tell: &mut dyn FnMut(String),
    ) -> Result<(), SwitchError> {
        for (at, step) in self.steps.iter().enumerate() {
            tell(step.describe());
            let done = step.run(&self.node, interrupted);
            let done = match interrupted.is_cancelled() {
                true => done.and(Err(StepError::Interrupted)),
                false => done,
            };
            if let Err(failed) = done {
                return Err(match self.undo(at, tell) {
                    Ok(()) => SwitchError::Undone(failed),
                    Err(then) => SwitchError::NotUndone { failed, then },
                });
            }
        }
        Ok(())
    }

    /// Undoes the steps up to this one, which may have been taken in part. The first failure is
    /// given when all were tried.
    fn undo(&self, last: usize, tell: &mut dyn FnMut(String)) -> Result<(), StepError> {
        let mut outcome = Ok(());
        for step in self.steps[..=last].iter().rev() {
            if let Some(inverse) = step.inverse(self.unit_before.as_ref()) {
                tell(inverse.describe());
                outcome = outcome.and(inverse.run(&self.node, &CancellationToken::new()));
            }
        }
        outcome
    }
}

/// This program, which root is going to run as a service: no other user may be able to change it.
fn program() -> Result<PathBuf, SwitchError> {
    let path = std::env::current_exe().map_err(file_error(Path::new("/proc/self/exe")))?;
    for part in path.ancestors() {
        let found = fs::metadata(part).map_err(file_error(part))?;
        if found.uid() != 0 || (found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0) {
            let why = "users other than root can change it, or a folder above it";
            return Err(SwitchError::Program { path, why });
        }
    }
    match path.to_str() {
        Some(text) if !text.contains([' ', '\'', '"', '%', '$', '\\']) => Ok(path),
        _ => {
            let why = "its path has characters that mean something to systemd or a shell";
            Err(SwitchError::Program { path, why })
        }
    }
}

/// Waits until no join is under way, as far as that can be seen, so that the agents are not switched
/// between two of its requests. Connections that stay open are not waited for any longer.
fn await_quiet(port: u16, interrupted: &CancellationToken) {
    let end = wait::end_of(QUIET_LIMIT);
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < QUIET && Instant::now() < end {
        if network::connections_at(port).are_open {
            quiet_since = Instant::now();
        }
        if wait::pause_unless(POLL_INTERVAL, interrupted) {
            return;
        }
    }
}
